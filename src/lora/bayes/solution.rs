//! The result of Bayes-optimal fine-tuning.

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::nullable::number;
use crate::status::Status;
use crate::std_error::StdError;

/// Order parameters of the Bayes-optimal estimator.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct FinetuningBayesOrder {
    /// `q = |E[w* | data]|^2/D`: the overlap of two draws of the posterior, and of one draw with the truth.
    #[serde(deserialize_with = "number")]
    pub q: f64,
    /// `qhat = alpha' G`, its conjugate, in units of `1/q0`. Infinite (`null` in JSON) at perfect recovery.
    #[serde(deserialize_with = "number")]
    pub q_hat: f64,
}

/// Least errors per sequence, in the units of the loss.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct FinetuningBayesErrors {
    /// `E'_BO` of the best prediction of noisy labels of new sequences.
    #[serde(deserialize_with = "number")]
    pub test: f64,
    /// Error of the best prediction of noiseless labels.
    #[serde(deserialize_with = "number")]
    pub test_clean: f64,
    /// Error without any fine-tuning data, on noisy labels: the best use of the frozen weights alone.
    #[serde(deserialize_with = "number")]
    pub frozen: f64,
}

/// One stable fixed point.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct BayesBranch {
    /// The overlap.
    #[serde(deserialize_with = "number")]
    pub q: f64,
    /// `o_w = sqrt(q/q0)`.
    #[serde(deserialize_with = "number")]
    pub alignment: f64,
    /// Least errors.
    pub errors: FinetuningBayesErrors,
    /// `Phi`. The fixed point with the larger `Phi` is the more likely one. Infinite (`null` in JSON) at
    /// perfect recovery.
    #[serde(deserialize_with = "number")]
    pub free_energy: f64,
}

/// The two branches. They are the same where there is one stable fixed point.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct BayesBranches {
    /// The fixed point that message passing reaches without initial information: the one of smallest stable
    /// overlap.
    pub algorithmic: BayesBranch,
    /// The fixed point of largest free energy.
    pub information_theoretic: BayesBranch,
}

/// The Bayes-optimal fine-tuning stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct FinetuningBayesSolution {
    /// Order parameters of the algorithmic branch.
    pub order: FinetuningBayesOrder,
    /// Errors of the algorithmic branch.
    pub errors: FinetuningBayesErrors,
    /// Alignment `o_w = sqrt(q/q0)` of the algorithmic branch.
    #[serde(deserialize_with = "number")]
    pub alignment: f64,
    /// Both branches.
    pub branches: BayesBranches,
    /// The threshold `alpha'_c` of weak recovery, above which the algorithmic branch has a positive overlap.
    #[serde(deserialize_with = "number")]
    pub alpha_c: f64,
    /// How the solve ended.
    pub status: Status,
    /// `|ln alpha'(q) - ln alpha'|` of the algorithmic branch.
    #[serde(deserialize_with = "number")]
    pub residual: f64,
    /// Evaluations of `G` that the table of the curve took.
    pub iterations: usize,
    /// Standard errors of the algorithmic branch, from independent scrambles.
    pub std_error: StdError,
}

impl FinetuningBayesSolution {
    /// Returns the solution if the solve converged.
    ///
    /// # Errors
    /// [`Error::NotConverged`] unless the status is converged.
    pub fn into_converged(self) -> Result<Self, Error> {
        let point = format!("q = {}", self.order.q);
        Error::unless_converged("lora", self.status, self.residual, self.iterations, point)?;
        Ok(self)
    }
}
