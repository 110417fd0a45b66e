//! Activations that the library does not have.
//!
//! - [`HardThreshold`] gives its value and its first derivative, and nothing else: proximal points are found by Gauss-Newton
//!   steps, and second derivatives by finite differences.
//! - [`ExactHardThreshold`] is the same function with its adjoint and its second derivative.
//! - [`Cosine`] is odd and invertible, and mixes the logits of a row.
//! - [`Square`] is even.

use lora_asymptotics::activation::{Activation, Evaluated, Parity};

/// A smoothed hard threshold, `sigma(h)_ab = h_ab s((h_ab - threshold)/width)/T` with the logistic function `s`: logits above
/// the threshold pass, logits below it are cut off. The function has a minimum where the cut begins, so that it is not
/// invertible, and it is not bounded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HardThreshold {
    /// The logit at which half is let through.
    pub threshold: f64,
    /// The width of the transition.
    pub width: f64,
}

impl HardThreshold {
    /// `[s, s', s'']` at a logit, where the derivatives are with respect to the logit.
    fn gate(&self, h: f64) -> [f64; 3] {
        let s = 1.0 / (1.0 + ((self.threshold - h) / self.width).exp());
        let first = s * (1.0 - s) / self.width;
        [s, first, first * (1.0 - 2.0 * s) / self.width]
    }

    /// The first two derivatives of `h s(h)`.
    fn derivatives(&self, h: f64) -> [f64; 2] {
        let [s, first, second] = self.gate(h);
        [s + h * first, 2.0 * first + h * second]
    }
}

impl Activation for HardThreshold {
    fn name(&self) -> &str {
        "hard_threshold"
    }

    fn attention(&self, tokens: usize, logits: &[f64], attention: &mut [f64]) {
        for (a, h) in attention.iter_mut().zip(logits) {
            *a = h * self.gate(*h)[0] / tokens as f64;
        }
    }

    fn derivative(&self, at: &Evaluated<'_>, direction: &[f64], image: &mut [f64]) {
        for ((i, h), d) in image.iter_mut().zip(at.logits).zip(direction) {
            *i = self.derivatives(*h)[0] * d / at.tokens as f64;
        }
    }

    fn is_bounded(&self) -> bool {
        false
    }
}

/// A [`HardThreshold`] that knows its adjoint and its second derivative.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExactHardThreshold(pub HardThreshold);

impl Activation for ExactHardThreshold {
    fn name(&self) -> &str {
        "exact_hard_threshold"
    }

    fn attention(&self, tokens: usize, logits: &[f64], attention: &mut [f64]) {
        self.0.attention(tokens, logits, attention);
    }

    fn derivative(&self, at: &Evaluated<'_>, direction: &[f64], image: &mut [f64]) {
        self.0.derivative(at, direction, image);
    }

    /// Every entry of the attention depends on its own logit alone.
    fn adjoint(&self, at: &Evaluated<'_>, weights: &[f64], image: &mut [f64]) {
        self.0.derivative(at, weights, image);
    }

    fn second_derivative(
        &self,
        at: &Evaluated<'_>,
        weights: &[f64],
        direction: &[f64],
        image: &mut [f64],
    ) -> bool {
        for (((i, h), w), d) in image.iter_mut().zip(at.logits).zip(weights).zip(direction) {
            *i = self.0.derivatives(*h)[1] * w * d / at.tokens as f64;
        }
        true
    }

    fn is_bounded(&self) -> bool {
        self.0.is_bounded()
    }
}

/// Every row of the logits over a smoothed norm, `sigma(h)_ab = h_ab/sqrt(1 + sum_c h_ac^2)`. At large logits the rows are unit
/// vectors, the cosines of `h` with the axes. The norm of a row of the attention determines that of the logits, so that the
/// function is invertible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cosine;

impl Activation for Cosine {
    fn name(&self) -> &str {
        "cosine"
    }

    fn attention(&self, tokens: usize, logits: &[f64], attention: &mut [f64]) {
        for (a, h) in attention.chunks_exact_mut(tokens).zip(logits.chunks_exact(tokens)) {
            let norm = (1.0 + h.iter().map(|h| h * h).sum::<f64>()).sqrt();
            a.iter_mut().zip(h).for_each(|(a, h)| *a = h / norm);
        }
    }

    /// `(d - a (a.d))/sqrt(1 + |h|^2)` for every row, where `a` is the row of the attention, and `1 - |a|^2 = 1/(1 + |h|^2)`.
    fn derivative(&self, at: &Evaluated<'_>, direction: &[f64], image: &mut [f64]) {
        let rows = at.attention.chunks_exact(at.tokens).zip(at.logits.chunks_exact(at.tokens));
        let images = image.chunks_exact_mut(at.tokens).zip(direction.chunks_exact(at.tokens));
        for ((a, h), (image, d)) in rows.zip(images) {
            let norm = (1.0 + h.iter().map(|h| h * h).sum::<f64>()).sqrt();
            let along: f64 = a.iter().zip(d).map(|(a, d)| a * d).sum();
            for ((image, a), d) in image.iter_mut().zip(a).zip(d) {
                *image = (d - a * along) / norm;
            }
        }
    }

    fn parity(&self) -> Parity {
        Parity::Odd
    }

    fn is_invertible(&self) -> bool {
        true
    }
}

/// `sigma(h)_ab = h_ab^2/T`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Square;

impl Activation for Square {
    fn name(&self) -> &str {
        "square"
    }

    fn attention(&self, tokens: usize, logits: &[f64], attention: &mut [f64]) {
        for (a, h) in attention.iter_mut().zip(logits) {
            *a = h * h / tokens as f64;
        }
    }

    fn derivative(&self, at: &Evaluated<'_>, direction: &[f64], image: &mut [f64]) {
        for ((i, h), d) in image.iter_mut().zip(at.logits).zip(direction) {
            *i = 2.0 * h * d / at.tokens as f64;
        }
    }

    fn parity(&self) -> Parity {
        Parity::Even
    }

    fn is_bounded(&self) -> bool {
        false
    }
}
