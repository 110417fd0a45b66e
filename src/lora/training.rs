//! How the perturbation is trained: the amount of data, the ridge, the recalibration, and the sequences.

use serde::{Deserialize, Serialize};

use super::variances::{self, Variances, VariancesFields};
use crate::attention::Attention;
use crate::check;
use crate::error::Error;
use crate::fields::{FieldParameters, Score, Selection, Sequences, SequencesFields};
use crate::memory::Workload;

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
    rank: usize,
    q0: Variances,
    beta: f64,
    sequences: Sequences,
}

/// How the perturbation is trained: the amount of data, the ridge, the recalibration, and the sequences.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename = "Training")]
#[cfg_attr(feature = "schema", schemars(rename = "Finetuning"))]
pub(crate) struct LoraFields {
    /// Number of sequences trained on (after selection), over `D`; > 0.
    alpha: f64,
    /// Ridge; >= 0. Empirical risk minimisation needs it, and the Bayes-optimal estimator refuses it.
    #[serde(default)]
    lambda: Option<f64>,
    /// Number of columns of the learned weights; 1 to 8.
    #[serde(default = "single")]
    rank: usize,
    /// Variance of the entries of the true perturbation, or a list with one variance for each of its columns; > 0.
    #[serde(default)]
    q0: VariancesFields,
    /// Recalibration of the frozen weights, a factor on them; >= 0.
    #[serde(default = "one")]
    beta: f64,
    /// The sequences trained on.
    #[serde(default)]
    sequences: SequencesFields,
}

fn one() -> f64 {
    1.0
}

fn single() -> usize {
    1
}

impl TryFrom<LoraFields> for Finetuning {
    type Error = Error;

    fn try_from(fields: LoraFields) -> Result<Self, Error> {
        let LoraFields { alpha, lambda, rank, q0, beta, sequences } = fields;
        let mut training = Self::without_ridge(alpha)?;
        if let Some(lambda) = lambda {
            training = training.with_lambda(lambda)?;
        }
        let training = Self { q0: q0.try_into()?, ..training.with_rank(rank)? };
        Ok(training.recalibrated(beta)?.on(sequences.try_into()?))
    }
}

impl Finetuning {
    /// Range of `q0`. The squares of numbers in this range stay far inside the range of double precision.
    pub const VARIANCES: [f64; 2] = variances::RANGE;

    /// Largest number of columns of the learned and of the true perturbation.
    pub const MAX_RANK: usize = variances::MAX_COLUMNS;

    /// Largest number of columns of each of the two factors of cross-attention.
    pub const MAX_RANK_OF_FACTORS: usize = 4;

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
        Ok(Self { alpha, lambda: None, rank: 1, q0: Variances::ONE, beta: 1.0, sequences: Sequences::Fresh })
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

    /// The same training for a true perturbation of one column, whose entries have variance `q0`.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] unless `q0` is in [`Finetuning::VARIANCES`].
    pub fn with_variance(self, q0: f64) -> Result<Self, Error> {
        self.with_variances(&[q0])
    }

    /// The same training for a true perturbation `w* w*^T` of several columns, or `b* a*^T` in cross-attention, where both factors have these
    /// variances: the entries of column `k` of `w*` have
    /// variance `q0[k]`, and different columns are orthogonal. No generality is lost, because `w* O` gives the same
    /// perturbation for every orthogonal `O`.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] unless there are 1 to [`Finetuning::MAX_RANK`] variances, all of them in
    /// [`Finetuning::VARIANCES`].
    pub fn with_variances(self, q0: &[f64]) -> Result<Self, Error> {
        Ok(Self { q0: Variances::new(q0)?, ..self })
    }

    /// The same training of weights `w` with `rank` columns, which perturb the attention matrix by `w w^T`; in cross-attention, of
    /// two factors with `rank` columns each, 4 at most, which perturb it by `b a^T`.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] unless `rank` is between 1 and [`Finetuning::MAX_RANK`].
    pub fn with_rank(self, rank: usize) -> Result<Self, Error> {
        check::integer("lora.rank", rank, 1, Self::MAX_RANK)?;
        Ok(Self { rank, ..self })
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

    /// Ridge `lambda'` on `|w|^2`, or on `|b|^2 + |a|^2` in cross-attention; >= 0. Empirical risk minimisation requires it, and the Bayes-optimal
    /// estimator refuses it.
    #[must_use]
    pub fn lambda(&self) -> Option<f64> {
        self.lambda
    }

    /// Number of columns of the learned weights; 1 to [`Finetuning::MAX_RANK`].
    #[must_use]
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Variances of the entries of the columns of the true perturbation, in the order in which they were given; each in
    /// [`Finetuning::VARIANCES`].
    #[must_use]
    pub fn variances(&self) -> &[f64] {
        self.q0.as_slice()
    }

    /// `|q0|_F`, the root of the sum of squares of [`Finetuning::variances`]. For a truth of one column, it is the variance `q0` of
    /// the entries.
    #[must_use]
    pub fn q0(&self) -> f64 {
        self.q0.norm()
    }

    /// Whether both the learned and the true perturbation have a single column.
    pub(crate) fn is_rank_one(&self) -> bool {
        self.rank == 1 && self.variances().len() == 1
    }

    /// Refuses perturbations of several columns, for what is defined or solved for a single one only.
    pub(crate) fn require_rank_one(&self, purpose: &'static str) -> Result<(), Error> {
        if self.rank != 1 {
            return Err(Error::Conflict { field: "lora.rank", with: purpose });
        }
        if self.variances().len() != 1 {
            return Err(Error::Conflict { field: "lora.q0", with: purpose });
        }
        Ok(())
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

    /// What the fields of the training depend on.
    pub(super) fn fields(&self) -> FieldParameters {
        FieldParameters { sequences: self.sequences, beta: self.beta, q0: self.unit() }
    }

    /// Checks that the training is one for the given attention.
    pub(crate) fn check_attention(&self, attention: Attention) -> Result<(), Error> {
        if attention == Attention::Tied {
            return Ok(());
        }
        if self.rank > Self::MAX_RANK_OF_FACTORS {
            let allowed = format!("at most {}, for two factors", Self::MAX_RANK_OF_FACTORS);
            return Err(Error::invalid("lora.rank", self.rank, allowed));
        }
        match self.sequences {
            Sequences::Active(selection) if selection.score() != Score::Frobenius => {
                let (given, allowed) = (selection.score().to_string(), "frobenius, for cross-attention");
                Err(Error::invalid("lora.sequences.active.score", given, allowed))
            }
            _ => Ok(()),
        }
    }

    /// The kind of averages of this training, for the memory budget.
    pub(crate) fn workload(&self, attention: Attention) -> Workload {
        let selected = matches!(self.sequences, Sequences::Active(_));
        let (learned, truth) = (self.rank, self.variances().len());
        match attention {
            Attention::Tied if self.is_rank_one() => {
                Workload::Finetuning { selected, reused: self.sequences == Sequences::Reused }
            }
            Attention::Tied => Workload::FinetuningColumns { selected, learned, truth },
            // The columns of both factors.
            Attention::Cross => {
                Workload::FinetuningColumns { selected, learned: 2 * learned, truth: 2 * truth }
            }
        }
    }

    /// The largest variance of a true column, which is the unit of the solvers.
    pub(super) fn unit(&self) -> f64 {
        self.q0.largest()
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
