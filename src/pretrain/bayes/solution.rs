//! The result of Bayes-optimal pre-training.

use serde::{Deserialize, Serialize};

use crate::attention::Attention;
use crate::error::{Error, Number};
use crate::frozen::Frozen;
use crate::nullable::number;
use crate::status::Status;
use crate::std_error::StdError;

/// Order parameters of the Bayes-optimal estimator.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct PretrainingBayesOrder {
    /// `Q_BO = D^{-2} |E[S* | data]|_F^2`: the overlap of two draws of the posterior, and of one draw with
    /// the truth.
    #[serde(deserialize_with = "number")]
    pub q: f64,
    /// The conjugate of `Q_BO`: the inverse variance of the noise through which `s*` is seen. Infinite
    /// (`null` in JSON) at perfect recovery.
    #[serde(deserialize_with = "number")]
    pub q_hat: f64,
}

/// Least errors per sequence, in the units of the loss.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct PretrainingBayesErrors {
    /// Error of the best prediction of noisy labels of new sequences.
    #[serde(deserialize_with = "number")]
    pub test: f64,
    /// Error of the best prediction of noiseless labels.
    #[serde(deserialize_with = "number")]
    pub test_clean: f64,
}

/// The Bayes-optimal pre-training stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct PretrainingBayesSolution {
    /// The attention of the layer.
    #[serde(default, skip_serializing_if = "Attention::is_tied")]
    pub attention: Attention,
    /// Order parameters.
    pub order: PretrainingBayesOrder,
    /// `Q0 = D^{-2} |S*|_F^2`, of the teacher.
    #[serde(deserialize_with = "number")]
    pub q0: f64,
    /// Least test errors.
    pub errors: PretrainingBayesErrors,
    /// `sqrt(Q_BO/Q0)`, the cosine between `E[S* | data]` and `S*`.
    #[serde(deserialize_with = "number")]
    pub alignment: f64,
    /// The threshold of perfect recovery (see
    /// [`alpha_perfect_recovery`](crate::pretrain::alpha_perfect_recovery)); `None` if the labels are noisy.
    pub alpha_c: Option<f64>,
    /// How the solve ended.
    pub status: Status,
    /// Logarithm of the ratio of the two sides of the equation.
    #[serde(deserialize_with = "number")]
    pub residual: f64,
    /// Number of evaluations of the spectral integral.
    pub iterations: usize,
    /// Standard errors of the errors where these are sampled: not for linear attention, nor for softmax with two or three
    /// tokens whose logits are not very large. The order parameters are exact to quadrature.
    pub std_error: StdError,
}

impl PretrainingBayesSolution {
    /// The law of the logits of `E[S* | data]`, which fine-tuning takes as frozen: `Q = M = Q_BO`.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] if the solve left the finite numbers.
    pub fn freeze(&self) -> Result<Frozen, Error> {
        Ok(Frozen::new(self.q0, self.order.q, self.order.q)?.with_attention(self.attention))
    }

    /// Returns the solution if the solve converged.
    ///
    /// # Errors
    /// [`Error::NotConverged`] unless the status is converged.
    pub fn into_converged(self) -> Result<Self, Error> {
        let point = format!("Q = {}", Number(self.order.q));
        Error::unless_converged("pretrain", self.status, self.residual, self.iterations, point)?;
        Ok(self)
    }
}
