//! The shifts of the frozen logits on sequences of the pre-training.
//!
//! There the frozen logits are the proximal point of pre-training, `h = z_1 - 2V (I + eps W'') grad (I + eps W'')` for the symmetric gradient
//! of `tr[(sigma(h) - sigma(t)) (I + eps W) (sigma(h) - sigma(t))^T]`, where `W''` is the first order of the response matrix, as `W` is that of the
//! Gram matrix. To first order,
//!
//! ```text
//! (I + 2V Hess) dh = dz_1 - 2V (d_t grad [dt] + d_G grad [W] + W'' grad + grad W'').
//! ```

use super::products::{add_product, inner};
use crate::activation::{Activation, Evaluated};
use crate::channel::general::{CoordinateBasis, LocalExpansion, attention, inverse};
use crate::losses::batch::matrices;

/// A batch of sequences of the pre-training.
pub(super) struct PretrainedBatch<'a> {
    pub(super) activation: &'a dyn Activation,
    pub(super) basis: &'a CoordinateBasis,
    /// The trained logits and their derivatives, in coordinates.
    pub(super) points: &'a LocalExpansion,
    /// The label's logits.
    pub(super) label: &'a [f64],
    /// `V`, times the square of the inverse temperature.
    pub(super) response: f64,
}

/// What shifts the trained logits, per `eps`.
pub(super) struct PretrainedShifts<'a> {
    /// Of `z_1`.
    pub(super) field: &'a [f64],
    /// Of the label's logits.
    pub(super) label: &'a [f64],
    /// `W`.
    pub(super) gram: &'a [f64],
    /// `W''`.
    pub(super) response: &'a [f64],
}

impl PretrainedBatch<'_> {
    /// The shifts of the trained logits, per `eps`.
    pub(super) fn shift(&self, shifts: &PretrainedShifts<'_>) -> Vec<f64> {
        let tokens = self.basis.tokens();
        let square = tokens * tokens;
        let logits = matrices(self.basis, tokens, &self.points.x, 1.0);
        let [trained, target] =
            [&logits, self.label].map(|logits| attention(self.activation, tokens, logits));
        let residual: Vec<f64> = trained.iter().zip(&target).map(|(s, y)| s - y).collect();
        let at_label = Evaluated { tokens, logits: self.label, attention: &target };
        let mut weights = vec![0.0; logits.len()];
        self.activation.derivative(&at_label, shifts.label, &mut weights);
        weights.iter_mut().for_each(|x| *x *= -2.0);
        for (s, weights) in weights.chunks_exact_mut(square).enumerate() {
            let own = s * square..(s + 1) * square;
            add_product(tokens, 2.0, &residual[own.clone()], &shifts.gram[own], weights);
        }
        let at = Evaluated { tokens, logits: &logits, attention: &trained };
        let mut force = vec![0.0; logits.len()];
        self.activation.adjoint(&at, &weights, &mut force);
        let n = self.basis.dimension();
        let mut shift = Vec::with_capacity(self.points.x.len());
        for (s, force) in force.chunks_exact_mut(square).enumerate() {
            let own = s * square..(s + 1) * square;
            let slope = &self.points.slope[own.clone()];
            let gradient: Vec<f64> =
                (0..square).map(|k| 0.5 * (slope[k] + slope[k % tokens * tokens + k / tokens])).collect();
            let response = &shifts.response[own.clone()];
            add_product(tokens, 1.0, response, &gradient, force);
            add_product(tokens, 1.0, &gradient, response, force);
            for (force, field) in force.iter_mut().zip(&shifts.field[own]) {
                *force -= field / (2.0 * self.response);
            }
            let along: Vec<f64> = self.basis.matrices().map(|unit| -inner(unit, force)).collect();
            // A point that is no minimum makes the averages NaN.
            let hessian = &self.points.hessian[s * n * n..(s + 1) * n * n];
            match inverse(hessian, n) {
                Some(inverse) => shift.extend(inverse.chunks_exact(n).map(|row| inner(row, &along))),
                None => shift.extend(vec![f64::NAN; n]),
            }
        }
        matrices(self.basis, tokens, &shift, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activation::{Linear, Unseen};
    use crate::attention::Attention;
    use crate::channel::general::{LastPoints, Prox};
    use approx::assert_relative_eq;

    /// For linear attention, `h = z_1 + p (t - z_1)` with `c = 4V/T^2` and `p = c/(1+c)`, and the first order is known in closed form:
    /// `dh = dz_1 + p (dt - dz_1) - (p/2) {W + 2 W'', (z_1 - t)/(1+c)}`.
    #[test]
    fn linear_attention_in_closed_form() {
        for tokens in [1, 2, 3] {
            let basis = CoordinateBasis::new(tokens, Attention::Tied, Unseen::Nothing);
            let count = basis.dimension();
            let numbers = |k: usize| -> Vec<f64> { (0..count).map(|i| ((3 * i + k) as f64).sin()).collect() };
            let matrix = |k: usize| matrices(&basis, tokens, &numbers(k), 1.0);
            let (omega, target, v) = (numbers(0), numbers(1), 1.7);
            let label = attention(&Linear, tokens, &matrix(1));
            let stiffness = vec![0.5 / v; count];
            let prox = Prox {
                activation: &Linear,
                map: &basis,
                label: &label,
                omega: &omega,
                stiffness: &stiffness,
            };
            let points = prox.minima(&mut LastPoints::default(), |samples| prox.between(samples, &target));
            let (field, of_label, gram, response) = (matrix(2), matrix(3), matrix(4), matrix(5));
            let batch = PretrainedBatch {
                activation: &Linear,
                basis: &basis,
                points: &points,
                label: &matrix(1),
                response: v,
            };
            let shift = batch.shift(&PretrainedShifts {
                field: &field,
                label: &of_label,
                gram: &gram,
                response: &response,
            });
            let c = 4.0 * v / (tokens * tokens) as f64;
            let p = c / (1.0 + c);
            let rest: Vec<f64> =
                matrix(0).iter().zip(matrix(1)).map(|(omega, t)| (omega - t) / (1.0 + c)).collect();
            let metric: Vec<f64> = gram.iter().zip(&response).map(|(w, r)| w + 2.0 * r).collect();
            let mut expected: Vec<f64> = field.iter().zip(&of_label).map(|(z, t)| z + p * (t - z)).collect();
            add_product(tokens, -0.5 * p, &metric, &rest, &mut expected);
            add_product(tokens, -0.5 * p, &rest, &metric, &mut expected);
            for (x, y) in shift.iter().zip(expected) {
                assert_relative_eq!(*x, y, epsilon = 1e-9);
            }
        }
    }
}
