//! Softmax attention, sample by sample and for any number of tokens. The code is written for the tests, and
//! uses nothing of the library but numbers. It uses plain random draws, matrices of dynamic size, and
//! steepest descent.

#![allow(dead_code, reason = "every test binary compiles its own copy and uses a part of it")]

use nalgebra::{DMatrix, DVector};
use rand::{RngExt, SeedableRng};
use rand_distr::StandardNormal;
use rand_pcg::Pcg64;

/// Number of independent batches of samples, whose scatter gives the error of the mean.
pub const BATCHES: u64 = 16;

pub struct Draws(Pcg64);

impl Draws {
    pub fn new(seed: u64) -> Self {
        Self(Pcg64::seed_from_u64(seed))
    }

    pub fn vector(&mut self, tokens: usize) -> DVector<f64> {
        DVector::from_fn(tokens, |_, _| self.0.sample::<f64, _>(StandardNormal))
    }

    /// A symmetric matrix with independent standard normal coordinates in an orthonormal basis: variance 1 on the diagonal, 1/2 off it.
    pub fn symmetric(&mut self, tokens: usize) -> DMatrix<f64> {
        let half = DMatrix::from_fn(tokens, tokens, |_, _| self.0.sample::<f64, _>(StandardNormal));
        (&half + half.transpose()) / 2.0
    }
}

/// Row-wise softmax.
pub fn attention(logits: &DMatrix<f64>) -> DMatrix<f64> {
    let mut weights = logits.map(f64::exp);
    for mut row in weights.row_iter_mut() {
        let sum = row.sum();
        row /= sum;
    }
    weights
}

/// `|sigma(a) - label|_F^2` and its gradient with respect to the entries of `a`.
pub fn loss(logits: &DMatrix<f64>, label: &DMatrix<f64>) -> (f64, DMatrix<f64>) {
    let weights = attention(logits);
    let difference = &weights - label;
    let mut gradient = weights.component_mul(&difference);
    for (mut row, weights) in gradient.row_iter_mut().zip(weights.row_iter()) {
        let mean = row.sum();
        row -= mean * weights;
    }
    (difference.norm_squared(), 2.0 * gradient)
}

/// The local minimum that steepest descent reaches from `start`, and its value. `curvature` is the curvature
/// of the quadratic part.
pub fn minimise(
    start: DVector<f64>,
    curvature: f64,
    value_and_gradient: impl Fn(&DVector<f64>) -> (f64, DVector<f64>),
) -> (f64, DVector<f64>) {
    let mut x = start;
    let (mut value, mut gradient) = value_and_gradient(&x);
    let mut step = 1.0 / curvature;
    for _ in 0..10_000 {
        // The value can still decrease by half the square of the gradient over the curvature, which is far
        // less than the scatter of the samples.
        if gradient.norm() <= 1e-6 * curvature {
            return (value, x);
        }
        let next = &x - step * &gradient;
        let (next_value, next_gradient) = value_and_gradient(&next);
        if next_value <= value - 0.5 * step * gradient.norm_squared() {
            (x, value, gradient) = (next, next_value, next_gradient);
            step *= 1.5;
        } else {
            step *= 0.5;
        }
    }
    panic!("no minimum: the gradient is {gradient}");
}

/// Divergences of `g` by integration by parts: `E[g.x] = A E[div g]` for Gaussian fields `x` with covariance
/// `A` per coordinate.
pub fn divergences(products: [f64; 2], [a, b, d]: [f64; 3]) -> [f64; 2] {
    let determinant = a * d - b * b;
    [(d * products[0] - b * products[1]) / determinant, (a * products[1] - b * products[0]) / determinant]
}

/// Asserts that the means over independent batches agree with `expected`, each with its own error, within
/// four standard errors.
pub fn assert_agree<const N: usize>(names: [&str; N], batches: &[[f64; N]], expected: [(f64, f64); N]) {
    let count = batches.len() as f64;
    for (i, name) in names.iter().enumerate() {
        let mean = batches.iter().map(|batch| batch[i]).sum::<f64>() / count;
        let variance =
            batches.iter().map(|batch| (batch[i] - mean).powi(2)).sum::<f64>() / (count - 1.0) / count;
        let (value, own) = expected[i];
        let error = variance.sqrt().hypot(own);
        assert!(error < 0.1 * value.abs(), "{name}: {value} +- {error} is no test");
        assert!((mean - value).abs() <= 4.0 * error, "{name}: {mean}, expected {value} +- {error}");
    }
}
