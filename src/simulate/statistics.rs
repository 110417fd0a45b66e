//! Means, standard errors, and their extrapolation in the dimension.

use nalgebra::{DMatrix, DVector};
use serde::{Deserialize, Serialize};

use crate::nullable::number;

/// A mean over instances.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Estimate {
    /// The mean.
    #[serde(deserialize_with = "number")]
    pub mean: f64,
    /// The standard error of the mean; NaN (`null` in JSON) for a single instance.
    #[serde(deserialize_with = "number")]
    pub std_error: f64,
}

impl Estimate {
    /// A mean with its standard error, measured elsewhere.
    #[must_use]
    pub fn new(mean: f64, std_error: f64) -> Self {
        Self { mean, std_error }
    }

    /// The mean and the standard error of independent values.
    #[must_use]
    pub fn of(values: &[f64]) -> Self {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let variance = values.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / (count - 1.0);
        Self { mean, std_error: (variance / count).sqrt() }
    }
}

/// Extrapolates to `D = infinity`. The form `a_0 + a_1 D^{-p} + a_2 D^{-2p} + ...`, with powers up to
/// `order`, is fitted to estimates at several dimensions `D` by least squares, weighted by their standard
/// errors. The result is `a_0`, with the standard error of the fit, which is right if the form is.
///
/// The result is NaN if the number of dimensions is not above `order`, if `order` is above 32, or if a
/// standard error is not positive.
#[must_use]
pub fn extrapolate(points: &[(usize, Estimate)], power: f64, order: usize) -> Estimate {
    const MAX_ORDER: usize = 32;
    if order > MAX_ORDER {
        return NOWHERE;
    }
    let powers: Vec<f64> = (1..=order).map(|k| power * k as f64).collect();
    extrapolate_powers(points, &powers)
}

const NOWHERE: Estimate = Estimate { mean: f64::NAN, std_error: f64::NAN };

/// Extrapolates to `D = infinity` like [`extrapolate`], with the form `a_0 + sum_k a_k D^{-p_k}` for the given powers `p_k > 0`.
pub(super) fn extrapolate_powers(points: &[(usize, Estimate)], powers: &[f64]) -> Estimate {
    let positive = points.iter().all(|(_, estimate)| estimate.std_error > 0.0);
    if points.len() <= powers.len() || !positive {
        return NOWHERE;
    }
    // Dimensions are in units of the smallest one, to keep the system well conditioned.
    let unit = points.iter().map(|(dimension, _)| *dimension).min().unwrap_or(1) as f64;
    let design = DMatrix::from_fn(points.len(), powers.len() + 1, |row, column| {
        let (dimension, estimate) = points[row];
        let power = if column == 0 { 0.0 } else { powers[column - 1] };
        (dimension as f64 / unit).powf(-power) / estimate.std_error
    });
    let measured =
        DVector::from_iterator(points.len(), points.iter().map(|(_, point)| point.mean / point.std_error));
    let normal = design.tr_mul(&design);
    let Some(covariance) = normal.try_inverse() else { return NOWHERE };
    let coefficients = &covariance * design.tr_mul(&measured);
    Estimate { mean: coefficients[0], std_error: covariance[(0, 0)].sqrt() }
}

/// Extrapolates to `D = infinity` like [`extrapolate_powers`], where the coefficient of `D^{-1/2}` is known up to its own error.
pub(super) fn extrapolate_with(
    points: &[(usize, Estimate)],
    coefficient: &Estimate,
    powers: &[f64],
) -> Estimate {
    let of = |value: &dyn Fn(usize, &Estimate) -> f64| -> Vec<(usize, Estimate)> {
        let at = |(d, point): &(usize, Estimate)| (*d, Estimate { mean: value(*d, point), ..*point });
        points.iter().map(at).collect()
    };
    let root = |dimension: usize| (dimension as f64).powf(-0.5);
    let rest = of(&|dimension, point| point.mean - coefficient.mean * root(dimension));
    let limit = extrapolate_powers(&rest, powers);
    // The limit is linear in the coefficient.
    let slope = extrapolate_powers(&of(&|dimension, _| root(dimension)), powers).mean;
    Estimate { std_error: limit.std_error.hypot(slope * coefficient.std_error), ..limit }
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_relative_eq;

    #[test]
    fn mean_and_standard_error() {
        let estimate = Estimate::of(&[1.0, 2.0, 4.0, 5.0]);
        assert_relative_eq!(estimate.mean, 3.0);
        assert_relative_eq!(estimate.std_error, (10.0_f64 / 3.0 / 4.0).sqrt());
        assert!(Estimate::of(&[1.0]).std_error.is_nan() && Estimate::of(&[]).mean.is_nan());
    }

    #[test]
    fn polynomials_are_extrapolated_exactly() {
        for (power, order) in [(1.0, 0), (1.0, 1), (0.5, 1), (1.0, 2)] {
            let exact = |dimension: usize| {
                (0..=order).map(|k| (1.0 + k as f64) * (dimension as f64).powf(-power * k as f64)).sum()
            };
            let points: Vec<(usize, Estimate)> = [40, 60, 80, 120]
                .iter()
                .map(|d| (*d, Estimate { mean: exact(*d), std_error: 1e-3 * *d as f64 }))
                .collect();
            assert_relative_eq!(extrapolate(&points, power, order).mean, 1.0, max_relative = 1e-10);
        }
    }

    #[test]
    fn a_known_coefficient_is_not_fitted() {
        let point = |d: usize, std_error: f64| {
            let x = d as f64;
            (d, Estimate { mean: 1.0 + 3.0 / x.sqrt() - 20.0 / x, std_error })
        };
        let points = [point(40, 0.1), point(80, 0.2)];
        let known = Estimate { mean: 3.0, std_error: 0.0 };
        let limit = extrapolate_with(&points, &known, &[1.0]);
        assert_relative_eq!(limit.mean, 1.0, max_relative = 1e-12);
        // The extrapolation is 2 x(80) - x(40).
        assert_relative_eq!(limit.std_error, (0.16_f64 + 0.01).sqrt(), max_relative = 1e-12);
        let uncertain = extrapolate_with(&points, &Estimate { std_error: 0.5, ..known }, &[1.0]);
        let slope = 2.0 / 80.0_f64.sqrt() - 1.0 / 40.0_f64.sqrt();
        assert_relative_eq!(
            uncertain.std_error,
            (0.17_f64 + 0.25 * slope * slope).sqrt(),
            max_relative = 1e-12
        );
    }

    #[test]
    fn the_error_of_two_sizes_is_that_of_their_difference() {
        let point = |d: usize, std_error: f64| (d, Estimate { mean: 1.0, std_error });
        // The extrapolation is 2 x(80) - x(40).
        let limit = extrapolate(&[point(40, 0.3), point(80, 0.2)], 1.0, 1);
        assert_relative_eq!(limit.std_error, (0.16_f64 + 0.09).sqrt(), max_relative = 1e-12);
        assert!(extrapolate(&[point(40, 0.3)], 1.0, 1).mean.is_nan());
        assert!(extrapolate(&[point(40, 0.0), point(80, 0.2)], 1.0, 1).mean.is_nan());
    }
}
