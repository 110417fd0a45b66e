//! The loss of the attention layer on actual sequences, and its gradient.
//!
//! Let `Y = X W` be the projected tokens of a sequence, and `S = scale W W^T`. The logits are
//! `h_ab = (scale/D)(y_a.y_b - |W|^2 delta_ab)`, plus those of the frozen weights if there are any. For the
//! residual `r = sigma(h) - y`, the loss is `D^{-1}|r X|_F^2 = tr(r G r^T)` with `G = X X^T/D`. Let `A` be
//! its symmetrised derivative with respect to `h`. The gradient is then
//! `dL/dW = (2 scale/D) sum_mu (X^T A Y - tr(A) W)`.

use std::sync::Arc;

use nalgebra::DMatrix;

use super::minimise::Objective;
use super::sequences::{Chunk, Corpus, Factor};
use crate::activation::{Activation, Evaluated};
use crate::model::Model;

/// The activation on flat matrices.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    pub(super) tokens: usize,
    activation: Arc<dyn Activation>,
    inverse_temperature: f64,
}

impl Layer {
    pub(super) fn new(model: &Model) -> Self {
        Self {
            tokens: model.tokens(),
            activation: model.shared_activation(),
            inverse_temperature: model.inverse_temperature(),
        }
    }

    /// `sigma(h)` of every matrix.
    pub(super) fn attention(&self, logits: &[f64]) -> Vec<f64> {
        let scaled: Vec<f64> = logits.iter().map(|h| self.inverse_temperature * h).collect();
        let mut attention = vec![0.0; logits.len()];
        self.activation.attention(self.tokens, &scaled, &mut attention);
        attention
    }

    /// Returns the sum of the losses of some sequences at the logits `h`, and replaces `h` by the symmetric
    /// derivatives `A`.
    pub(super) fn adjoint(&self, h: &mut [f64], labels: &[f64], grams: &[f64]) -> f64 {
        let t = self.tokens;
        let loss = self.scaled_slopes(h, labels, grams);
        for h in h.chunks_exact_mut(t * t) {
            for a in 0..t {
                for b in a..t {
                    let both = 0.5 * self.inverse_temperature * (h[t * a + b] + h[t * b + a]);
                    (h[t * a + b], h[t * b + a]) = (both, both);
                }
            }
        }
        loss
    }

    /// Returns the sum of the losses of some sequences at the logits `h`, and replaces `h` by the derivatives in its entries.
    pub(super) fn slopes(&self, h: &mut [f64], labels: &[f64], grams: &[f64]) -> f64 {
        let loss = self.scaled_slopes(h, labels, grams);
        h.iter_mut().for_each(|h| *h *= self.inverse_temperature);
        loss
    }

    /// Like [`Layer::slopes`], with the derivatives in the logits times the inverse temperature.
    fn scaled_slopes(&self, h: &mut [f64], labels: &[f64], grams: &[f64]) -> f64 {
        let t = self.tokens;
        let square = t * t;
        h.iter_mut().for_each(|h| *h *= self.inverse_temperature);
        let mut attention = vec![0.0; h.len()];
        self.activation.attention(t, h, &mut attention);
        let residual: Vec<f64> = attention.iter().zip(labels).map(|(p, y)| p - y).collect();
        let mut pulled = vec![0.0; h.len()];
        let mut loss = 0.0;
        let matrices = residual.chunks_exact(square).zip(grams.chunks_exact(square));
        for ((residual, gram), pulled) in matrices.zip(pulled.chunks_exact_mut(square)) {
            for (residual, pulled) in residual.chunks_exact(t).zip(pulled.chunks_exact_mut(t)) {
                for (b, pulled) in pulled.iter_mut().enumerate() {
                    let column = gram.iter().skip(b).step_by(t);
                    *pulled = 2.0 * residual.iter().zip(column).map(|(r, g)| r * g).sum::<f64>();
                    loss += 0.5 * *pulled * residual[b];
                }
            }
        }
        let mut image = vec![0.0; h.len()];
        let at = Evaluated { tokens: t, logits: h, attention: &attention };
        self.activation.adjoint(&at, &pulled, &mut image);
        h.copy_from_slice(&image);
        loss
    }

    /// The sum of the losses of all sequences with given logits.
    pub(super) fn loss(&self, sequences: &Corpus, logits: &[f64], labels: &[f64]) -> f64 {
        let square = sequences.square();
        let of_chunk = |chunk: Chunk<'_>| {
            let first = square * chunk.first;
            let own = first..first + chunk.gram.len();
            self.adjoint(&mut logits[own.clone()].to_vec(), &labels[own], chunk.gram)
        };
        sequences.chunks(of_chunk).iter().sum()
    }
}

/// A training task, whose objective is `sum_mu loss + lambda |W|^2`.
pub(super) struct Task<'a> {
    pub(super) layer: Layer,
    pub(super) sequences: &'a Corpus,
    /// The labels, `sigma` of their logits.
    pub(super) labels: &'a [f64],
    /// The logits of the frozen weights.
    pub(super) frozen: Option<&'a [f64]>,
    pub(super) lambda: f64,
    /// The scale in `S = scale W W^T`.
    pub(super) scale: f64,
    pub(super) width: usize,
}

impl Task<'_> {
    /// The matrix `W`, from its columns one after the other.
    pub(super) fn matrix(&self, w: &[f64]) -> DMatrix<f64> {
        DMatrix::from_column_slice(self.sequences.dimension(), self.width, w)
    }

    /// The loss without the ridge.
    pub(super) fn loss(&self, w: &DMatrix<f64>) -> f64 {
        self.adjoints(w, w).0
    }

    /// The negative curvature of the loss at `W = 0`, for a single column, times a vector.
    pub(super) fn curvature(&self, direction: &DMatrix<f64>) -> DMatrix<f64> {
        // The logits are those of the frozen weights alone, and the projections are those of the direction.
        let zero = DMatrix::zeros(direction.nrows(), direction.ncols());
        let (_, trace, pulled) = self.adjoints(&zero, direction);
        direction * trace - pulled
    }

    /// The loss at `w`, and `sum tr A` and `sum X^T A X v` there.
    fn adjoints(&self, w: &DMatrix<f64>, v: &DMatrix<f64>) -> (f64, f64, DMatrix<f64>) {
        let t = self.layer.tokens;
        let square = t * t;
        let norm2 = w.norm_squared();
        let same = std::ptr::eq(w, v);
        let (at, along) = (Factor::new(w), Factor::new(v));
        let of_chunk = |chunk: Chunk<'_>| {
            let y = chunk.project(&at);
            let mut h = chunk.logits(t, &y, norm2, self.scale);
            let offset = square * chunk.first;
            if let Some(frozen) = self.frozen {
                h.iter_mut().zip(&frozen[offset..]).for_each(|(h, z)| *h += z);
            }
            let labels = &self.labels[offset..offset + h.len()];
            let loss = self.layer.adjoint(&mut h, labels, chunk.gram);
            let mut trace = 0.0;
            let y = if same { y } else { chunk.project(&along) };
            let mut z = DMatrix::zeros(y.nrows(), y.ncols());
            for (mu, h) in h.chunks_exact(square).enumerate() {
                for a in 0..t {
                    trace += h[t * a + a];
                    let mut sum = z.column_mut(t * mu + a);
                    for b in 0..t {
                        sum.axpy(h[t * a + b], &y.column(t * mu + b), 1.0);
                    }
                }
            }
            (loss, trace, chunk.pull(&z))
        };
        let mut total = (0.0, 0.0, DMatrix::zeros(v.nrows(), v.ncols()));
        for (loss, trace, pulled) in self.sequences.chunks(of_chunk) {
            total.0 += loss;
            total.1 += trace;
            total.2 += pulled;
        }
        total
    }
}

impl Objective for Task<'_> {
    fn evaluate(&self, w: &[f64]) -> (f64, Vec<f64>) {
        let w = self.matrix(w);
        let (loss, trace, mut pulled) = self.adjoints(&w, &w);
        let factor = 2.0 * self.scale / self.sequences.dimension() as f64;
        pulled *= factor;
        pulled += &w * (2.0 * self.lambda - factor * trace);
        (loss + self.lambda * w.norm_squared(), pulled.data.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::random::{Purpose, Streams, gaussian};
    use crate::simulate::sequences::{NetworkWeights, Shape, symmetric_noise};

    /// A task on `count` sequences, with frozen logits, whose label logits are of the order of one.
    fn with_task(model: &Model, width: usize, check: impl FnOnce(&Task<'_>, &DMatrix<f64>)) {
        let (dimension, count) = (8, 40);
        let rng = &mut Streams { seed: 1, dimension, instance: 0 }.stream(Purpose::Pretraining);
        let sequences = Corpus::sample(rng, Shape { dimension, tokens: model.tokens() }, count);
        let layer = Layer::new(model);
        let labels =
            layer.attention(&sequences.logits(&NetworkWeights::attention(gaussian(rng, dimension, 3))));
        let frozen = symmetric_noise(rng, model.tokens(), count, 1.0);
        let scale = 1.0 / (width as f64).sqrt();
        let frozen = Some(&frozen[..]);
        let task = Task { layer, sequences: &sequences, labels: &labels, frozen, lambda: 0.1, scale, width };
        check(&task, &gaussian(rng, dimension, width));
    }

    fn models() -> [Model; 4] {
        let cold = Model::softmax(2, 0.5).unwrap().with_inverse_temperature(1.7).unwrap();
        [
            Model::linear(1, 0.5).unwrap(),
            Model::linear(3, 0.5).unwrap(),
            Model::softmax(3, 0.5).unwrap(),
            cold,
        ]
    }

    #[test]
    fn the_gradient_is_the_derivative_of_the_objective() {
        for model in models() {
            for width in [1, 4, 9] {
                with_task(&model, width, |task, w| {
                    let (_, gradient) = task.evaluate(w.as_slice());
                    let size = gradient.iter().map(|x| x * x).sum::<f64>().sqrt();
                    for i in 0..w.len() {
                        let [up, down] = [1e-5, -1e-5].map(|step| {
                            let mut moved = w.clone();
                            moved[i] += step;
                            task.evaluate(moved.as_slice()).0
                        });
                        let slope = (up - down) / 2e-5;
                        assert!((slope - gradient[i]).abs() < 1e-8 * size, "{model:?}, width {width}, {i}");
                    }
                });
            }
        }
    }

    #[test]
    fn the_loss_is_that_of_the_outputs() {
        // The reference is D^{-1} |(sigma(h) - y) X|_F^2, without the Gram matrix and without projections.
        let model = Model::softmax(3, 0.5).unwrap();
        with_task(&model, 2, |task, w| {
            let s = NetworkWeights::attention(w.clone()).matrix();
            let d = s.nrows() as f64;
            let mut expected = 0.0;
            for mu in 0..task.sequences.count() {
                let x = task.sequences.matrix(mu);
                let mut h = (&x * &s * x.transpose() - DMatrix::identity(3, 3) * s.trace()) / d;
                let frozen = task.frozen.map_or(&[][..], |frozen| &frozen[9 * mu..9 * (mu + 1)]);
                h += DMatrix::from_row_slice(3, 3, frozen);
                let mut p = h.map(f64::exp);
                for mut row in p.row_iter_mut() {
                    let total = row.sum();
                    row /= total;
                }
                let y = DMatrix::from_row_slice(3, 3, &task.labels[9 * mu..9 * (mu + 1)]);
                expected += ((p - y) * x).norm_squared() / d;
            }
            approx::assert_relative_eq!(task.loss(w), expected, max_relative = 1e-12);
        });
    }

    #[test]
    fn the_curvature_is_that_of_the_loss_at_zero() {
        for model in models() {
            with_task(&model, 1, |task, w| {
                let loss = |step: f64| task.loss(&(w * step));
                let second = (loss(1e-3) - 2.0 * loss(0.0) + loss(-1e-3)) / 1e-6;
                let factor = 2.0 / task.sequences.dimension() as f64;
                let predicted = -factor * task.curvature(w).dot(w);
                approx::assert_relative_eq!(predicted, second, max_relative = 1e-4, epsilon = 1e-3);
            });
        }
    }
}
