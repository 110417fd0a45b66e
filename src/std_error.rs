//! Standard errors of a solution.

use serde::{Deserialize, Serialize};

/// Standard errors, under the names of what they qualify. A field is absent where the value is exact to quadrature, and
/// where there is no estimate: with a single scramble, or for a solve that has not converged (see its status).
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct StdError {
    /// Of `order.q`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub q: Option<f64>,
    /// Of `order.m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub m: Option<f64>,
    /// Of `order.v`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub v: Option<f64>,
    /// Of `order.q_hat`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub q_hat: Option<f64>,
    /// Of `order.m_hat`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub m_hat: Option<f64>,
    /// Of `order.v_hat`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub v_hat: Option<f64>,
    /// Of `order.eta`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta: Option<f64>,
    /// Of `trace`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace: Option<f64>,
    /// Of `rank_fraction`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank_fraction: Option<f64>,
    /// Of `objective`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub objective: Option<f64>,
    /// Of `errors.test`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test: Option<f64>,
    /// Of `errors.test_clean`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test_clean: Option<f64>,
    /// Of `errors.train`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train: Option<f64>,
    /// Of `errors.frozen`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frozen: Option<f64>,
    /// Of `alignment`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alignment: Option<f64>,
    /// Of `validity.jump`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jump: Option<f64>,
    /// Of `validity.contested`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contested: Option<f64>,
    /// Of `validity.replicon`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicon: Option<f64>,
    /// Of `alpha_c`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha_c: Option<f64>,
}

/// Standard deviation of the mean; `None` if it is not finite.
pub(crate) fn standard_error(values: impl ExactSizeIterator<Item = f64> + Clone) -> Option<f64> {
    let count = values.len() as f64;
    let mean = values.clone().sum::<f64>() / count;
    let variance = values.map(|x| (x - mean) * (x - mean)).sum::<f64>() / (count - 1.0);
    Some((variance / count).sqrt()).filter(|error| error.is_finite())
}
