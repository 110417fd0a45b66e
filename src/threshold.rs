//! Thresholds: a number, how well it is known, and how the solve for it ended.

use serde::{Deserialize, Serialize};

use crate::nullable::number;
use crate::status::Status;

/// A critical value of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Threshold {
    /// The critical value.
    #[serde(deserialize_with = "number")]
    pub value: f64,
    /// Its standard error, from independent scrambles. `None` where the value is exact to quadrature, and where there is no estimate, as with
    /// a single scramble.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub std_error: Option<f64>,
    /// How the solve at the threshold ended; [`Status::NonFinite`] if the value leaves the range of double precision.
    pub status: Status,
}

impl Threshold {
    /// A threshold that is the value of a formula, with the standard error of that value.
    pub(crate) fn new(value: f64, std_error: Option<f64>) -> Self {
        let status = if value.is_finite() { Status::Converged } else { Status::NonFinite };
        Self { value, std_error, status }
    }

    /// A threshold that is exact to quadrature.
    pub(crate) fn exact(value: f64) -> Self {
        Self::new(value, None)
    }
}
