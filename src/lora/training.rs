//! How the perturbation is trained: the amount of data, the ridge, the recalibration, and the sequences.

use serde::{Deserialize, Serialize};

use super::selection::Selection;
use crate::check;
use crate::error::{Error, Number};
use crate::frozen::Frozen;
use crate::memory::Averages;

/// Which sequences fine-tuning is trained on. The test law is always that of new sequences.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Sequences {
    /// New ones.
    #[default]
    Fresh,
    /// A subset of the pre-training sequences, with the same label noise.
    Reused,
    /// Selected among new ones by a score of the frozen logits.
    Active(Selection),
}

impl Sequences {
    /// Checks that the response of the frozen weights is there if fine-tuning on these sequences needs it.
    pub(crate) fn check_response(&self, frozen: &Frozen) -> Result<(), Error> {
        match (self, frozen.v) {
            (Self::Reused, None) => Err(Error::MissingField {
                field: "frozen.v",
                reason: "reused sequences need the response of the pre-training (0 if it did not see them)",
            }),
            _ => Ok(()),
        }
    }

    /// The averages of fine-tuning on these sequences, as the budget of memory counts them.
    pub(crate) fn averages(&self) -> Averages {
        Averages::Finetuning { selected: matches!(self, Self::Active(_)) }
    }
}

/// How the perturbation is trained.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Training {
    /// Number of sequences trained on (after selection), over `D`; > 0.
    pub alpha: f64,
    /// Ridge `lambda'` on `|w|^2`; >= 0.
    pub lambda: f64,
    /// Variance `q0` of the entries of the true perturbation; in [`Training::VARIANCES`].
    #[serde(default = "one")]
    pub q0: f64,
    /// Recalibration of the frozen weights, `S-hat -> beta S-hat`; >= 0.
    #[serde(default = "one")]
    pub beta: f64,
    /// The sequences trained on.
    #[serde(default)]
    pub sequences: Sequences,
}

fn one() -> f64 {
    1.0
}

impl Training {
    /// Range of `q0`: what can be squared without a thought of the range of double precision.
    pub const VARIANCES: [f64; 2] = [1e-100, 1e100];

    /// `alpha D` fresh sequences and ridge `lambda`, with `q0 = 1` and no recalibration.
    #[must_use]
    pub fn new(alpha: f64, lambda: f64) -> Self {
        Self { alpha, lambda, q0: 1.0, beta: 1.0, sequences: Sequences::Fresh }
    }

    /// Checks every field.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] names the first field that is out of range.
    pub fn validate(&self) -> Result<(), Error> {
        check::positive("lora.alpha", self.alpha)?;
        check::non_negative("lora.lambda", self.lambda)?;
        check_variance(self.q0)?;
        check::non_negative("lora.beta", self.beta)?;
        match self.sequences {
            Sequences::Active(Selection { fraction, .. }) if !(fraction > 0.0 && fraction <= 1.0) => {
                Err(Error::invalid("lora.sequences.active.fraction", fraction, "in (0, 1]"))
            }
            _ => Ok(()),
        }
    }
}

/// Checks the variance `lora.q0` of the true perturbation.
pub(super) fn check_variance(q0: f64) -> Result<(), Error> {
    let [low, high] = Training::VARIANCES;
    if (low..=high).contains(&q0) {
        Ok(())
    } else {
        Err(Error::invalid("lora.q0", q0, format!("between {} and {}", Number(low), Number(high))))
    }
}
