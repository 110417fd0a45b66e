//! Cross-attention at finite size: queries and keys from independent sequences, and weights with two factors.
//!
//! Let `Y_q = X_q U` and `Y_k = X_k V` be the projected tokens of a pair of sequences, and `S = scale U V^T`. The logits are
//! `h = (scale/D) Y_q Y_k^T`, plus those of the frozen weights if there are any. With `A` the derivative with respect to `h` of the loss
//! `D^{-1}|(sigma(h) - y) X_k|_F^2`, the gradient is
//! `dL/dU = (scale/D) sum_mu X_q^T A Y_k` and `dL/dV = (scale/D) sum_mu X_k^T A^T Y_q`.

use nalgebra::{DMatrix, DVectorView};
use rand_pcg::Pcg64;

use super::instance::Instance;
use super::layer::Layer;
use super::minimise::Objective;
use super::random;
use super::sequences::{Chunk, Corpus, Factor, FactorPair};

/// Pairs of sequences.
#[derive(Clone)]
pub(super) struct Pairs {
    pub(super) queries: Corpus,
    pub(super) keys: Corpus,
}

/// The logits of a chunk of pairs, and the projected tokens of which they are products.
pub(super) struct PairLogits {
    h: Vec<f64>,
    queries: DMatrix<f64>,
    keys: DMatrix<f64>,
}

impl Pairs {
    pub(super) fn sample(rng: &mut Pcg64, instance: &Instance<'_>, count: usize) -> Self {
        let queries = Corpus::sample(rng, instance.shape, count);
        Self { queries, keys: Corpus::sample(rng, instance.shape, count) }
    }

    pub(super) fn count(&self) -> usize {
        self.keys.count()
    }

    /// The pairs with the given numbers.
    pub(super) fn select(&self, numbers: &[usize]) -> Self {
        Self { queries: self.queries.select(numbers), keys: self.keys.select(numbers) }
    }

    /// Applies `f` to the logits of every chunk, with the chunks of queries and keys, and returns the results in order.
    fn chunks<R: Send>(
        &self,
        [left, right]: [&DMatrix<f64>; 2],
        scale: f64,
        f: impl Fn(PairLogits, [&Chunk<'_>; 2]) -> R + Sync,
    ) -> Vec<R> {
        let tokens = self.keys.tokens;
        let (left, right) = (Factor::new(left), Factor::new(right));
        let scale = scale / self.keys.dimension() as f64;
        self.keys.chunks(|own| {
            let other = self.queries.chunk(own.first, own.x.ncols() / tokens);
            let (queries, keys) = (other.project(&left), own.project(&right));
            let mut h = Vec::with_capacity(own.gram.len());
            for first in (0..own.x.ncols()).step_by(tokens) {
                for a in first..first + tokens {
                    h.extend((first..first + tokens).map(|b| scale * queries.column(a).dot(&keys.column(b))));
                }
            }
            f(PairLogits { h, queries, keys }, [&other, &own])
        })
    }

    /// The logits of the weights.
    pub(super) fn logits(&self, weights: &FactorPair) -> Vec<f64> {
        self.chunks([&weights.left, &weights.right], weights.scale, |logits, _| logits.h).concat()
    }

    /// The logits of the teacher, and the same with independent noise on every entry.
    pub(super) fn labelled(&self, rng: &mut Pcg64, teacher: &FactorPair, delta: f64) -> [Vec<f64>; 2] {
        let clean = self.logits(teacher);
        let noisy = noisy(rng, &clean, delta);
        [clean, noisy]
    }
}

/// Logits with independent noise of the given variance on every entry.
pub(super) fn noisy(rng: &mut Pcg64, logits: &[f64], variance: f64) -> Vec<f64> {
    logits.iter().map(|h| h + variance.sqrt() * random::normal(rng)).collect()
}

/// A training task, whose objective is `sum_mu loss + lambda (|U|^2 + |V|^2)`. The parameters are the columns of `U`, then those of `V`.
pub(super) struct PairTask<'a> {
    pub(super) layer: Layer,
    pub(super) pairs: &'a Pairs,
    /// The labels, `sigma` of their logits.
    pub(super) labels: &'a [f64],
    /// The logits of the frozen weights.
    pub(super) frozen: Option<&'a [f64]>,
    pub(super) lambda: f64,
    pub(super) scale: f64,
    pub(super) width: usize,
}

impl PairTask<'_> {
    /// The factors `U` and `V`.
    pub(super) fn factors(&self, w: &[f64]) -> [DMatrix<f64>; 2] {
        let dimension = self.pairs.keys.dimension();
        let (left, right) = w.split_at(w.len() / 2);
        [left, right].map(|columns| DMatrix::from_column_slice(dimension, self.width, columns))
    }

    pub(super) fn weights(&self, w: &[f64]) -> FactorPair {
        let [left, right] = self.factors(w);
        FactorPair { left, right, scale: self.scale }
    }

    /// The loss without the ridge.
    pub(super) fn loss(&self, [left, right]: [&DMatrix<f64>; 2]) -> f64 {
        self.adjoints([left, right], None).0
    }

    /// Minus `sum_mu X_q^T A X_k v` and minus `sum_mu X_k^T A^T X_q u` at zero weights, for the columns `u` and `v` of the directions: the
    /// images of `v` and `u` under the matrix whose singular vectors are the directions in which the loss decreases most.
    pub(super) fn descents(&self, [left, right]: [&DMatrix<f64>; 2]) -> [DMatrix<f64>; 2] {
        let zero = DMatrix::zeros(left.nrows(), left.ncols());
        self.adjoints([&zero, &zero], Some([left, right])).1.map(|image| -image)
    }

    /// The loss without the ridge, and `sum_mu X_q^T A Y_k` and `sum_mu X_k^T A^T Y_q`, with the projections on `directions` in place
    /// of those on the factors if there are any.
    fn adjoints(
        &self,
        [left, right]: [&DMatrix<f64>; 2],
        directions: Option<[&DMatrix<f64>; 2]>,
    ) -> (f64, [DMatrix<f64>; 2]) {
        let t = self.layer.tokens;
        let directions = directions.map(|factors| factors.map(Factor::new));
        let of_chunk = |logits: PairLogits, [other, own]: [&Chunk<'_>; 2]| {
            let PairLogits { mut h, mut queries, mut keys } = logits;
            let offset = t * t * own.first;
            if let Some(frozen) = self.frozen {
                h.iter_mut().zip(&frozen[offset..]).for_each(|(h, z)| *h += z);
            }
            if let Some([left, right]) = &directions {
                (queries, keys) = (other.project(left), own.project(right));
            }
            let labels = &self.labels[offset..offset + h.len()];
            let loss = self.layer.slopes(&mut h, labels, own.gram);
            let mut pulled =
                [DMatrix::zeros(self.width, queries.ncols()), DMatrix::zeros(self.width, keys.ncols())];
            for (mu, slopes) in h.chunks_exact(t * t).enumerate() {
                for a in 0..t {
                    for b in 0..t {
                        let slope = slopes[t * a + b];
                        let (query, key): (DVectorView<'_, f64>, _) =
                            (queries.column(t * mu + a), keys.column(t * mu + b));
                        pulled[0].column_mut(t * mu + a).axpy(slope, &key, 1.0);
                        pulled[1].column_mut(t * mu + b).axpy(slope, &query, 1.0);
                    }
                }
            }
            (loss, [other.pull(&pulled[0]), own.pull(&pulled[1])])
        };
        let zero = || DMatrix::zeros(left.nrows(), left.ncols());
        let mut total = (0.0, [zero(), zero()]);
        for (loss, [of_queries, of_keys]) in self.pairs.chunks([left, right], self.scale, of_chunk) {
            total.0 += loss;
            total.1[0] += of_queries;
            total.1[1] += of_keys;
        }
        total
    }
}

impl Objective for PairTask<'_> {
    fn evaluate(&self, w: &[f64]) -> (f64, Vec<f64>) {
        let [left, right] = self.factors(w);
        let (loss, gradients) = self.adjoints([&left, &right], None);
        let factor = self.scale / self.pairs.keys.dimension() as f64;
        let slopes = gradients.iter().flat_map(|gradient| gradient.iter());
        let gradient = slopes.zip(w).map(|(slope, w)| factor * slope + 2.0 * self.lambda * w).collect();
        (loss + self.lambda * w.iter().map(|w| w * w).sum::<f64>(), gradient)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::Attention;
    use crate::model::Model;
    use crate::simulate::Laboratory;
    use crate::simulate::random::{Purpose, Streams};
    use crate::simulate::sequences::Shape;

    fn with_task(model: &Model, check: impl FnOnce(&PairTask<'_>, &[f64])) {
        let (dimension, count, width) = (7, 40, 4);
        let laboratory = Laboratory::default();
        let streams = Streams { seed: 1, dimension, instance: 0 };
        let shape = Shape { dimension, tokens: model.tokens() };
        let instance = Instance { model, laboratory: &laboratory, streams, shape };
        let rng = &mut streams.stream(Purpose::Pretraining);
        let pairs = Pairs::sample(rng, &instance, count);
        let teacher = FactorPair::attention([0, 1].map(|_| random::gaussian(rng, dimension, 3)));
        let layer = Layer::new(model);
        let labels = layer.attention(&pairs.labelled(rng, &teacher, 0.5)[1]);
        let frozen: Vec<f64> = (0..labels.len()).map(|_| random::normal(rng)).collect();
        let (labels, frozen) = (&labels[..], Some(&frozen[..]));
        let task = PairTask { layer, pairs: &pairs, labels, frozen, lambda: 0.1, scale: 0.5, width };
        check(&task, random::gaussian(rng, dimension, 2 * width).as_slice());
    }

    fn models() -> [Model; 3] {
        let cold = Model::softmax(2, 0.5).unwrap().with_inverse_temperature(1.7).unwrap();
        [Model::linear(1, 0.5).unwrap(), Model::softmax(3, 0.5).unwrap(), cold]
            .map(|model| model.with_attention(Attention::Cross).unwrap())
    }

    #[test]
    fn the_gradient_is_the_derivative_of_the_objective() {
        for model in models() {
            with_task(&model, |task, w| {
                let (_, gradient) = task.evaluate(w);
                let size = gradient.iter().map(|x| x * x).sum::<f64>().sqrt();
                for i in 0..w.len() {
                    let [up, down] = [1e-5, -1e-5].map(|step| {
                        let mut moved = w.to_vec();
                        moved[i] += step;
                        task.evaluate(&moved).0
                    });
                    assert!(((up - down) / 2e-5 - gradient[i]).abs() < 1e-8 * size, "{model:?}, {i}");
                }
            });
        }
    }

    #[test]
    fn the_loss_is_that_of_the_outputs() {
        // The reference is D^{-1} |(sigma(h) - y) X_k|_F^2 of whole matrices.
        with_task(&models()[1], |task, w| {
            let s = task.weights(w).matrix();
            let d = s.nrows() as f64;
            let mut expected = task.lambda * w.iter().map(|x| x * x).sum::<f64>();
            for mu in 0..task.pairs.keys.count() {
                let [queries, keys] = [&task.pairs.queries, &task.pairs.keys].map(|corpus| corpus.matrix(mu));
                let frozen = task.frozen.map_or(&[][..], |frozen| &frozen[9 * mu..9 * (mu + 1)]);
                let frozen = DMatrix::from_row_slice(3, 3, frozen);
                let mut p = (&queries * &s * keys.transpose() / d + frozen).map(f64::exp);
                for mut row in p.row_iter_mut() {
                    let total = row.sum();
                    row /= total;
                }
                let y = DMatrix::from_row_slice(3, 3, &task.labels[9 * mu..9 * (mu + 1)]);
                expected += ((p - y) * keys).norm_squared() / d;
            }
            approx::assert_relative_eq!(task.evaluate(w).0, expected, max_relative = 1e-12);
        });
    }

    #[test]
    fn descents_are_the_mixed_derivatives_at_zero() {
        for model in models() {
            with_task(&model, |task, w| {
                let [left, right] = task.factors(w);
                // The loss is even in the two factors together, so that its mixed derivative is of second order in both.
                let small = 1e-4;
                let right = &right * small;
                let mixed = {
                    let at = |sign: f64| task.loss([&(&left * (sign * small)), &right]);
                    (at(1.0) - at(-1.0)) / (2.0 * small * small)
                };
                let images = task.descents([&left, &(&right / small)]);
                let factor = task.scale / task.pairs.keys.dimension() as f64;
                let predicted = -factor * images[0].dot(&left);
                approx::assert_relative_eq!(predicted, mixed, max_relative = 1e-4, epsilon = 1e-4);
                let other = -factor * images[1].dot(&(&right / small));
                approx::assert_relative_eq!(predicted, other, max_relative = 1e-10);
            });
        }
    }
}
