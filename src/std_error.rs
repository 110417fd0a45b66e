//! Standard errors of a solution.

use serde::{Deserialize, Serialize};

/// Standard errors, under the names of the quantities that they belong to. A field is absent if the value is
/// exact to quadrature, and if there is no estimate: with a single scramble, or for a solve that has not
/// converged (see its status).
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
#[non_exhaustive]
pub struct StdError {
    /// The standard error of `order.q`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub q: Option<f64>,
    /// The standard error of `order.m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub m: Option<f64>,
    /// The standard error of `order.v`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub v: Option<f64>,
    /// The standard error of `order.q_hat`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub q_hat: Option<f64>,
    /// The standard error of `order.m_hat`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub m_hat: Option<f64>,
    /// The standard error of `order.v_hat`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub v_hat: Option<f64>,
    /// The standard error of `order.eta`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta: Option<f64>,
    /// The standard error of `trace`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace: Option<f64>,
    /// The standard error of `rank_fraction`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank_fraction: Option<f64>,
    /// The standard error of `objective`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub objective: Option<f64>,
    /// The standard error of `errors.test`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test: Option<f64>,
    /// The standard error of `errors.test_clean`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test_clean: Option<f64>,
    /// The standard error of `errors.train`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train: Option<f64>,
    /// The standard error of `errors.frozen`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frozen: Option<f64>,
    /// The standard error of `errors.forgetting`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forgetting: Option<f64>,
    /// The standard error of `alignment`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alignment: Option<f64>,
    /// The standard error of `validity.jump`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jump: Option<f64>,
    /// The standard error of `validity.contested`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contested: Option<f64>,
    /// The standard error of `validity.replicon`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicon: Option<f64>,
    /// The standard error of `alpha_c`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha_c: Option<f64>,
}

/// Numbers of one replicate, under the names by which their standard errors are reported. Numbers that a
/// stage does not have are `None`.
pub(crate) type Named = StdError;

impl StdError {
    /// The standard errors of numbers of which every replicate has its own value. A standard error is absent
    /// with fewer than two replicates, if it is not finite, and if all replicates agree to the last bit. Such
    /// a number is exact, or no variation was seen.
    pub(crate) fn over(replicates: &[Named]) -> Self {
        Self::each(|number| {
            let values = replicates.iter().map(|named| number(named).unwrap_or(f64::NAN));
            standard_error(values).filter(|error| *error > 0.0)
        })
    }

    /// Whether all numbers are finite, except for the gauges of validity, which may be undefined.
    pub(crate) fn has_numbers(&self) -> bool {
        let without_gauges = Self { jump: None, contested: None, replicon: None, ..*self };
        let mut finite = true;
        Self::each(|number| {
            finite &= number(&without_gauges).is_none_or(f64::is_finite);
            None
        });
        finite
    }

    /// One value for each of the names, given the way to read the number of that name.
    fn each(mut of: impl FnMut(fn(&Self) -> Option<f64>) -> Option<f64>) -> Self {
        Self {
            q: of(|named| named.q),
            m: of(|named| named.m),
            v: of(|named| named.v),
            q_hat: of(|named| named.q_hat),
            m_hat: of(|named| named.m_hat),
            v_hat: of(|named| named.v_hat),
            eta: of(|named| named.eta),
            trace: of(|named| named.trace),
            rank_fraction: of(|named| named.rank_fraction),
            objective: of(|named| named.objective),
            test: of(|named| named.test),
            test_clean: of(|named| named.test_clean),
            train: of(|named| named.train),
            frozen: of(|named| named.frozen),
            forgetting: of(|named| named.forgetting),
            alignment: of(|named| named.alignment),
            jump: of(|named| named.jump),
            contested: of(|named| named.contested),
            replicon: of(|named| named.replicon),
            alpha_c: of(|named| named.alpha_c),
        }
    }
}

/// The standard deviation of the mean; `None` if it is not finite.
pub(crate) fn standard_error(values: impl ExactSizeIterator<Item = f64> + Clone) -> Option<f64> {
    let count = values.len() as f64;
    // Relative to the first, values that are all the same have no error to the last bit.
    let first = values.clone().next()?;
    let values = values.map(|x| x - first);
    let mean = values.clone().sum::<f64>() / count;
    let variance = values.map(|x| (x - mean) * (x - mean)).sum::<f64>() / (count - 1.0);
    Some((variance / count).sqrt()).filter(|error| error.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_vary_has_no_error() {
        let replicate = |q: f64| Named { q: Some(q), m: Some(0.0), v: Some(f64::NAN), ..Named::default() };
        let errors = StdError::over(&[replicate(1.0), replicate(3.0)]);
        assert_eq!(errors, StdError { q: Some(1.0), ..StdError::default() });
        assert_eq!(StdError::over(&[replicate(1.0)]), StdError::default());
        assert_eq!(StdError::over(&[]), StdError::default());
        // A mean of equal numbers may be another number.
        assert_eq!(standard_error([0.1; 3].into_iter()), Some(0.0));
        assert_eq!(standard_error([].into_iter()), None);
    }

    #[test]
    fn gauges_may_be_undefined() {
        let named = Named { q: Some(1.0), replicon: Some(f64::NAN), ..Named::default() };
        assert!(named.has_numbers());
        assert!(!Named { alpha_c: Some(f64::INFINITY), ..named }.has_numbers());
    }
}
