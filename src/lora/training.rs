//! How the perturbation is trained: the amount of data, the ridge, the recalibration, and the sequences.

use serde::{Deserialize, Serialize};

use super::selection::{Selection, SelectionFields};
use crate::check;
use crate::error::{Error, Number};
use crate::frozen::Frozen;
use crate::memory::Workload;

/// The sequences that fine-tuning is trained on. The test law is always that of new sequences.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Sequences {
    /// New sequences.
    #[default]
    Fresh,
    /// A subset of the pre-training sequences, with the same label noise.
    Reused,
    /// Sequences selected among new ones by a score of the frozen logits.
    Active(Selection),
}

impl Sequences {
    /// Checks that the response of the frozen weights is known if fine-tuning on these sequences needs it.
    pub(crate) fn check_response(&self, frozen: &Frozen) -> Result<(), Error> {
        match (self, frozen.v()) {
            (Self::Reused, None) => Err(Error::MissingField {
                field: "frozen.v",
                reason: "reused sequences need the response of the pre-training (0 if it did not see them)",
            }),
            _ => Ok(()),
        }
    }

    /// The kind of averages of fine-tuning on these sequences, for the memory budget.
    pub(crate) fn workload(&self) -> Workload {
        Workload::Finetuning { selected: matches!(self, Self::Active(_)) }
    }
}

/// The serialised form of the sequences.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case", rename = "Sequences")]
enum SequencesFields {
    #[default]
    Fresh,
    Reused,
    Active(SelectionFields),
}

impl TryFrom<SequencesFields> for Sequences {
    type Error = Error;

    fn try_from(fields: SequencesFields) -> Result<Self, Error> {
        Ok(match fields {
            SequencesFields::Fresh => Self::Fresh,
            SequencesFields::Reused => Self::Reused,
            SequencesFields::Active(selection) => Self::Active(selection.try_into()?),
        })
    }
}

/// How the perturbation is trained. Every value of this type is valid.
///
/// ```
/// use lora_asymptotics::lora::{Score, Selection, Training};
///
/// let fresh = Training::fresh(3.0, 0.2)?;
/// let reused = fresh.reused().recalibrated(0.9)?;
/// let active = fresh.active(Selection::new(0.1, Score::Frobenius)?);
/// # assert!(reused != fresh && active != fresh && Training::fresh(0.0, 0.2).is_err());
/// # Ok::<(), lora_asymptotics::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "LoraFields")]
pub struct Finetuning {
    alpha: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    lambda: Option<f64>,
    q0: f64,
    beta: f64,
    sequences: Sequences,
}

/// The serialised form of a training.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, rename = "Training")]
pub(crate) struct LoraFields {
    alpha: f64,
    #[serde(default)]
    lambda: Option<f64>,
    #[serde(default = "one")]
    q0: f64,
    #[serde(default = "one")]
    beta: f64,
    #[serde(default)]
    sequences: SequencesFields,
}

fn one() -> f64 {
    1.0
}

impl TryFrom<LoraFields> for Finetuning {
    type Error = Error;

    fn try_from(fields: LoraFields) -> Result<Self, Error> {
        let LoraFields { alpha, lambda, q0, beta, sequences } = fields;
        let mut training = Self::without_ridge(alpha)?;
        if let Some(lambda) = lambda {
            training = training.with_lambda(lambda)?;
        }
        Ok(training.with_variance(q0)?.recalibrated(beta)?.on(sequences.try_into()?))
    }
}

impl Finetuning {
    /// Range of `q0`. The squares of numbers in this range stay far inside the range of double precision.
    pub const VARIANCES: [f64; 2] = [1e-100, 1e100];

    /// `alpha D` fresh sequences and ridge `lambda`, with `q0 = 1` and no recalibration.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] unless `alpha` is finite and > 0, and `lambda` finite and >= 0.
    pub fn fresh(alpha: f64, lambda: f64) -> Result<Self, Error> {
        Self::without_ridge(alpha)?.with_lambda(lambda)
    }

    /// A training on `alpha D` fresh sequences without a ridge, for results that do not depend on it: the
    /// Bayes-optimal estimator, and the threshold of collapse.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] unless `alpha` is finite and > 0.
    pub fn without_ridge(alpha: f64) -> Result<Self, Error> {
        check::positive("lora.alpha", alpha)?;
        Ok(Self { alpha, lambda: None, q0: 1.0, beta: 1.0, sequences: Sequences::Fresh })
    }

    /// The same training on another number of sequences.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] unless `alpha` is finite and > 0.
    pub fn with_alpha(self, alpha: f64) -> Result<Self, Error> {
        check::positive("lora.alpha", alpha)?;
        Ok(Self { alpha, ..self })
    }

    /// The same training with another ridge.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] unless `lambda` is finite and >= 0.
    pub fn with_lambda(self, lambda: f64) -> Result<Self, Error> {
        check::non_negative("lora.lambda", lambda)?;
        Ok(Self { lambda: Some(lambda), ..self })
    }

    /// The same training for true perturbations whose entries have variance `q0`.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] unless `q0` is in [`Finetuning::VARIANCES`].
    pub fn with_variance(self, q0: f64) -> Result<Self, Error> {
        check_variance(q0)?;
        Ok(Self { q0, ..self })
    }

    /// The same training on top of frozen weights `beta S-hat`.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] unless `beta` is finite and >= 0.
    pub fn recalibrated(self, beta: f64) -> Result<Self, Error> {
        check::non_negative("lora.beta", beta)?;
        Ok(Self { beta, ..self })
    }

    /// The same training on sequences of the pre-training.
    #[must_use]
    pub fn reused(self) -> Self {
        self.on(Sequences::Reused)
    }

    /// The same training on actively selected sequences.
    #[must_use]
    pub fn active(self, selection: Selection) -> Self {
        self.on(Sequences::Active(selection))
    }

    /// The same training on other sequences.
    #[must_use]
    pub fn on(self, sequences: Sequences) -> Self {
        Self { sequences, ..self }
    }

    /// Number of sequences trained on (after selection), over `D`; > 0.
    #[must_use]
    pub fn alpha(&self) -> f64 {
        self.alpha
    }

    /// Ridge `lambda'` on `|w|^2`; >= 0. Empirical risk minimisation requires it, and the Bayes-optimal
    /// estimator refuses it.
    #[must_use]
    pub fn lambda(&self) -> Option<f64> {
        self.lambda
    }

    /// Variance `q0` of the entries of the true perturbation; in [`Finetuning::VARIANCES`].
    #[must_use]
    pub fn q0(&self) -> f64 {
        self.q0
    }

    /// Recalibration of the frozen weights, `S-hat -> beta S-hat`; >= 0.
    #[must_use]
    pub fn beta(&self) -> f64 {
        self.beta
    }

    /// The sequences trained on.
    #[must_use]
    pub fn sequences(&self) -> Sequences {
        self.sequences
    }

    /// The ridge, for a solver that needs one. A missing ridge is an error.
    pub(crate) fn require_ridge(&self) -> Result<f64, Error> {
        check::ridge("lora.lambda", self.lambda)
    }

    /// The ridge, for a solver that has required one already, or whose answer does not depend on it.
    pub(crate) fn ridge(&self) -> f64 {
        self.lambda.unwrap_or(0.0)
    }
}

/// Checks the variance `lora.q0` of the true perturbation.
pub(super) fn check_variance(q0: f64) -> Result<(), Error> {
    let [low, high] = Finetuning::VARIANCES;
    if (low..=high).contains(&q0) {
        Ok(())
    } else {
        Err(Error::invalid("lora.q0", q0, format!("between {} and {}", Number(low), Number(high))))
    }
}
