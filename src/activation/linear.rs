//! Linear attention.

use super::traits::{Activation, Evaluated, Parity};

/// `sigma(h) = h / T`.
///
/// [`Model::linear`](crate::Model::linear) has closed forms for pre-training and faster kernels for
/// fine-tuning. A model that is made from this type uses the general channel, with the same answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Linear;

impl Activation for Linear {
    fn name(&self) -> &str {
        "linear"
    }

    fn attention(&self, tokens: usize, logits: &[f64], attention: &mut [f64]) {
        let scale = 1.0 / tokens as f64;
        for (a, h) in attention.iter_mut().zip(logits) {
            *a = scale * h;
        }
    }

    fn derivative(&self, at: &Evaluated<'_>, direction: &[f64], image: &mut [f64]) {
        self.attention(at.tokens, direction, image);
    }

    fn adjoint(&self, at: &Evaluated<'_>, weights: &[f64], image: &mut [f64]) {
        self.attention(at.tokens, weights, image);
    }

    fn second_derivative(
        &self,
        _at: &Evaluated<'_>,
        _weights: &[f64],
        _direction: &[f64],
        image: &mut [f64],
    ) -> bool {
        image.fill(0.0);
        true
    }

    fn parity(&self) -> Parity {
        Parity::Odd
    }

    fn is_invertible(&self) -> bool {
        true
    }

    fn is_bounded(&self) -> bool {
        false
    }

    fn has_inverse_temperature(&self) -> bool {
        false
    }
}
