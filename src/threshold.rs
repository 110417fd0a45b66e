//! Thresholds: a critical value, its standard error, and the status of the solve for it.

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
    /// The standard error of the value, from independent scrambles. It is `None` if the value is exact to
    /// quadrature, and if there is no estimate, as with a single scramble.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub std_error: Option<f64>,
    /// The status of the solve at the threshold; [`Status::NonFinite`] if the value leaves the range of
    /// double precision.
    pub status: Status,
}

impl Threshold {
    /// A threshold given by a formula, with the standard error of the value.
    pub(crate) fn new(value: f64, std_error: Option<f64>) -> Self {
        let status = if value.is_finite() { Status::Converged } else { Status::NonFinite };
        Self { value, std_error, status }
    }

    /// A threshold that is exact to quadrature.
    pub(crate) fn exact(value: f64) -> Self {
        Self::new(value, None)
    }
}
