//! Checks of single numbers, shared by every validated input.

use crate::error::Error;

pub(crate) fn finite(field: &'static str, value: f64) -> Result<(), Error> {
    if value.is_finite() { Ok(()) } else { Err(Error::invalid(field, value, "finite")) }
}

pub(crate) fn positive(field: &'static str, value: f64) -> Result<(), Error> {
    if value.is_finite() && value > 0.0 {
        Ok(())
    } else {
        Err(Error::invalid(field, value, "finite and > 0"))
    }
}

pub(crate) fn non_negative(field: &'static str, value: f64) -> Result<(), Error> {
    if value.is_finite() && value >= 0.0 {
        Ok(())
    } else {
        Err(Error::invalid(field, value, "finite and >= 0"))
    }
}

pub(crate) fn integer(field: &'static str, value: usize, low: usize, high: usize) -> Result<(), Error> {
    if (low..=high).contains(&value) {
        Ok(())
    } else {
        Err(Error::invalid(field, value, format!("between {low} and {high}")))
    }
}

/// Returns the ridge, which the estimator needs.
pub(crate) fn ridge(field: &'static str, lambda: Option<f64>) -> Result<f64, Error> {
    lambda.ok_or(Error::MissingField { field, reason: "empirical risk minimisation needs a ridge" })
}
