//! Sigmoid attention.

use super::rows;
use super::traits::{Activation, Evaluated};

/// The logistic function of every logit, `sigma(h)_ab = 1/(1 + exp(-(h_ab + bias)))`.
///
/// The default bias is `-ln T`, with which the rows of the attention sum to about one at small logits.
/// Source: J. Ramapuram et al., *Theory, Analysis, and Best Practices for Sigmoid Self-Attention*,
/// arXiv:2409.04431.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Sigmoid {
    bias: Option<f64>,
}

impl Sigmoid {
    /// The sigmoid with the given bias, which is added to every logit. A bias that is not finite gives
    /// attention without meaning, and solves with the status `non_finite`.
    #[must_use]
    pub fn with_bias(bias: f64) -> Self {
        Self { bias: Some(bias) }
    }

    /// The bias at `tokens` tokens.
    #[must_use]
    pub fn bias(&self, tokens: usize) -> f64 {
        self.bias.unwrap_or_else(|| -(tokens as f64).ln())
    }
}

impl Activation for Sigmoid {
    fn name(&self) -> &str {
        "sigmoid"
    }

    fn attention(&self, tokens: usize, logits: &[f64], attention: &mut [f64]) {
        let bias = self.bias(tokens);
        for (a, h) in attention.iter_mut().zip(logits) {
            *a = -(h + bias).abs();
        }
        rows::exponentials(attention);
        for (a, h) in attention.iter_mut().zip(logits) {
            let total = 1.0 + *a;
            *a = if h + bias >= 0.0 { 1.0 / total } else { *a / total };
        }
    }

    fn derivative(&self, at: &Evaluated<'_>, direction: &[f64], image: &mut [f64]) {
        for ((image, p), d) in image.iter_mut().zip(at.attention).zip(direction) {
            *image = p * (1.0 - p) * d;
        }
    }

    fn adjoint(&self, at: &Evaluated<'_>, weights: &[f64], image: &mut [f64]) {
        self.derivative(at, weights, image);
    }

    fn second_derivative(
        &self,
        at: &Evaluated<'_>,
        weights: &[f64],
        direction: &[f64],
        image: &mut [f64],
    ) -> bool {
        let pairs = at.attention.iter().zip(weights).zip(direction);
        for (image, ((p, w), d)) in image.iter_mut().zip(pairs) {
            *image = p * (1.0 - p) * (1.0 - 2.0 * p) * w * d;
        }
        true
    }

    fn is_invertible(&self) -> bool {
        true
    }
}
