//! What an activation must tell of itself.

use std::fmt;

/// A batch of logits at which an activation was evaluated.
///
/// A batch is a list of `T x T` matrices one after the other, each with its rows one after the other. An
/// activation that acts on rows can go through `logits.chunks_exact(tokens)`, and one that acts on entries
/// can go through all numbers.
#[derive(Debug, Clone, Copy)]
pub struct Evaluated<'a> {
    /// Number of tokens `T`.
    pub tokens: usize,
    /// The logits `h` of every matrix, multiplied by the inverse temperature.
    pub logits: &'a [f64],
    /// The attention `sigma(h)` of every matrix, as [`Activation::attention`] computed it.
    pub attention: &'a [f64],
}

/// The directions of the logits along which an activation is constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Unseen {
    /// The activation depends on every logit.
    #[default]
    Nothing,
    /// A number that is added to all logits of a row changes nothing, as for softmax. In the space of
    /// symmetric logits, the activation is then constant along `u = 11^T/T`, which leaves the averages.
    RowShifts,
}

/// The behaviour of an activation when all logits change their sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Parity {
    /// `sigma(-h)` is not related to `sigma(h)`.
    #[default]
    Neither,
    /// `sigma(-h) = sigma(h)`. The gradient of the loss then vanishes at `h = 0`, so that zero weights are
    /// a stationary point at any ridge, and do not prove a collapse.
    Even,
    /// `sigma(-h) = -sigma(h)`.
    Odd,
}

/// An attention non-linearity `sigma`, and its derivatives.
///
/// All matrices are `T x T`, and come in batches (see [`Evaluated`]). The result for a matrix must not depend
/// on the other matrices of the batch. The function should be smooth; a kink is treated as if the sample
/// points missed it. The loss is `sum_ab (sigma(h)_ab - y_ab)^2` for a label `y = sigma(t)`.
pub trait Activation: fmt::Debug + Send + Sync {
    /// The name of the activation, for messages and figures.
    fn name(&self) -> &str;

    /// Writes `sigma(h)` of every matrix of `logits` to `attention`, which has the same length.
    fn attention(&self, tokens: usize, logits: &[f64], attention: &mut [f64]);

    /// Writes the derivative of `sigma` along `direction` to `image`, for every matrix:
    /// `image_ab = sum_cd (d sigma_ab / d h_cd) direction_cd`.
    fn derivative(&self, at: &Evaluated<'_>, direction: &[f64], image: &mut [f64]);

    /// Writes the gradient of `sum_ab weights_ab sigma_ab(h)` to `image`, for every matrix:
    /// `image_cd = sum_ab weights_ab (d sigma_ab / d h_cd)`. By default, it is computed by one call of
    /// [`Activation::derivative`] for each of the `T^2` unit matrices. An activation that knows better should
    /// say so, because every step of every search needs this gradient.
    fn adjoint(&self, at: &Evaluated<'_>, weights: &[f64], image: &mut [f64]) {
        let square = at.tokens * at.tokens;
        let mut unit = vec![0.0; at.logits.len()];
        let mut along = vec![0.0; at.logits.len()];
        for entry in 0..square {
            unit.iter_mut().skip(entry).step_by(square).for_each(|x| *x = 1.0);
            self.derivative(at, &unit, &mut along);
            unit.iter_mut().skip(entry).step_by(square).for_each(|x| *x = 0.0);
            let matrices = along.chunks_exact(square).zip(weights.chunks_exact(square));
            for ((along, weights), image) in matrices.zip(image.chunks_exact_mut(square)) {
                image[entry] = along.iter().zip(weights).map(|(x, y)| x * y).sum();
            }
        }
    }

    /// Writes the derivative of [`Activation::adjoint`] along `direction` to `image`, for every matrix, and
    /// returns true: `image_cd = sum_ab,ef weights_ab (d^2 sigma_ab / d h_cd d h_ef) direction_ef`.
    ///
    /// By default, nothing is written and the result is false. Proximal points are then found by Gauss-Newton
    /// steps, and the second derivative at the end by finite differences.
    fn second_derivative(
        &self,
        _at: &Evaluated<'_>,
        _weights: &[f64],
        _direction: &[f64],
        _image: &mut [f64],
    ) -> bool {
        false
    }

    /// The directions along which the activation is constant.
    fn unseen(&self) -> Unseen {
        Unseen::Nothing
    }

    /// The behaviour under a change of the sign of all logits.
    fn parity(&self) -> Parity {
        Parity::Neither
    }

    /// Whether `sigma(h)` determines the part of `h` that the activation sees. The Bayes-optimal bounds are
    /// those of a Gaussian channel, and exist for invertible activations only, as does the interpolation
    /// threshold.
    fn is_invertible(&self) -> bool {
        false
    }

    /// Whether the first derivative of the loss is bounded over all logits. If it is not, fine-tuned weights
    /// vanish at no ridge, and there is no threshold of collapse.
    fn is_bounded(&self) -> bool {
        true
    }

    /// Whether an inverse temperature `b` can multiply the logits, `sigma(b h)`. It is meaningless if
    /// `sigma(b h) = b sigma(h)`.
    fn has_inverse_temperature(&self) -> bool {
        true
    }
}
