//! Softmax by rows, without and with a one added to its denominator.

use super::rows;
use super::traits::{Activation, Evaluated, Unseen};

/// Row-wise softmax, `sigma(h)_ab = exp(h_ab) / sum_c exp(h_ac)`.
///
/// [`Model::softmax`](crate::Model::softmax) has faster kernels for it. A model that is made from this type
/// uses the general channel, with the same answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Softmax;

/// Row-wise softmax with a one added to the denominator, `sigma(h)_ab = exp(h_ab) / (1 + sum_c exp(h_ac))`.
///
/// A token can attend to nothing at all, as to an attention sink whose logit is 0. The activation is
/// invertible, and sees all `T(T+1)/2` coordinates of the logits.
/// Source of the proposal: E. Miller, *Attention is off by one* (2023).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SoftmaxOne;

impl Activation for Softmax {
    fn name(&self) -> &str {
        "softmax"
    }

    fn attention(&self, tokens: usize, logits: &[f64], attention: &mut [f64]) {
        rows::normalised_exponentials(tokens, logits, 0.0, attention);
    }

    fn derivative(&self, at: &Evaluated<'_>, direction: &[f64], image: &mut [f64]) {
        rows::covariance(at, direction, image);
    }

    fn adjoint(&self, at: &Evaluated<'_>, weights: &[f64], image: &mut [f64]) {
        rows::covariance(at, weights, image);
    }

    fn second_derivative(
        &self,
        at: &Evaluated<'_>,
        weights: &[f64],
        direction: &[f64],
        image: &mut [f64],
    ) -> bool {
        rows::second(at, weights, direction, image);
        true
    }

    fn unseen(&self) -> Unseen {
        Unseen::RowShifts
    }

    fn is_invertible(&self) -> bool {
        true
    }
}

impl Activation for SoftmaxOne {
    fn name(&self) -> &str {
        "softmax_one"
    }

    fn attention(&self, tokens: usize, logits: &[f64], attention: &mut [f64]) {
        rows::normalised_exponentials(tokens, logits, 1.0, attention);
    }

    fn derivative(&self, at: &Evaluated<'_>, direction: &[f64], image: &mut [f64]) {
        rows::covariance(at, direction, image);
    }

    fn adjoint(&self, at: &Evaluated<'_>, weights: &[f64], image: &mut [f64]) {
        rows::covariance(at, weights, image);
    }

    fn second_derivative(
        &self,
        at: &Evaluated<'_>,
        weights: &[f64],
        direction: &[f64],
        image: &mut [f64],
    ) -> bool {
        rows::second(at, weights, direction, image);
        true
    }

    fn is_invertible(&self) -> bool {
        true
    }
}
