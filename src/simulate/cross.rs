//! Pre-training of one instance with cross-attention: two factors, and queries and keys from independent sequences.
//!
//! Let `Y_q = X_q U` and `Y_k = X_k V` be the projected tokens of a pair of sequences, and `S = scale U V^T`. The logits are
//! `h = (scale/D) Y_q Y_k^T`. With `A` the derivative with respect to `h` of the loss `D^{-1}|(sigma(h) - y) X_k|_F^2`, the gradient is
//! `dL/dU = (scale/D) sum_mu X_q^T A Y_k` and `dL/dV = (scale/D) sum_mu X_k^T A^T Y_q`.

use nalgebra::{DMatrix, DVectorView};
use rand_pcg::Pcg64;

use super::instance::Instance;
use super::layer::Layer;
use super::measurement::Pretrained;
use super::minimise::Objective;
use super::random::{self, Purpose};
use super::sequences::{Chunk, Corpus, Factor, FactorPair, TEST_BATCH};
use super::trained::{Losses, measured, train};
use super::truth::Truth;
use crate::error::Error;
use crate::pretrain::Training;

/// Pairs of sequences.
struct Pairs {
    queries: Corpus,
    keys: Corpus,
}

/// The logits of a chunk of pairs, and the projected tokens of which they are products.
struct PairLogits {
    h: Vec<f64>,
    queries: DMatrix<f64>,
    keys: DMatrix<f64>,
}

impl Pairs {
    fn sample(rng: &mut Pcg64, instance: &Instance<'_>, count: usize) -> Self {
        let queries = Corpus::sample(rng, instance.shape, count);
        Self { queries, keys: Corpus::sample(rng, instance.shape, count) }
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
    fn logits(&self, weights: &FactorPair) -> Vec<f64> {
        self.chunks([&weights.left, &weights.right], weights.scale, |logits, _| logits.h).concat()
    }

    /// The logits of the teacher, and the same with independent noise on every entry.
    fn labelled(&self, rng: &mut Pcg64, teacher: &FactorPair, delta: f64) -> [Vec<f64>; 2] {
        let clean = self.logits(teacher);
        let noisy = clean.iter().map(|h| h + delta.sqrt() * random::normal(rng)).collect();
        [clean, noisy]
    }
}

/// A training task, whose objective is `sum_mu loss + lambda (|U|^2 + |V|^2)`. The parameters are the columns of `U`, then those of `V`.
struct PairTask<'a> {
    layer: Layer,
    pairs: &'a Pairs,
    /// The labels, `sigma` of their logits.
    labels: &'a [f64],
    lambda: f64,
    scale: f64,
    width: usize,
}

impl PairTask<'_> {
    /// The factors `U` and `V`.
    fn factors(&self, w: &[f64]) -> [DMatrix<f64>; 2] {
        let dimension = self.pairs.keys.dimension();
        let (left, right) = w.split_at(w.len() / 2);
        [left, right].map(|columns| DMatrix::from_column_slice(dimension, self.width, columns))
    }

    fn weights(&self, w: &[f64]) -> FactorPair {
        let [left, right] = self.factors(w);
        FactorPair { left, right, scale: self.scale }
    }

    /// The loss without the ridge, and `sum_mu X_q^T A Y_k` and `sum_mu X_k^T A^T Y_q`.
    fn adjoints(&self, [left, right]: [&DMatrix<f64>; 2]) -> (f64, [DMatrix<f64>; 2]) {
        let t = self.layer.tokens;
        let of_chunk = |logits: PairLogits, [other, own]: [&Chunk<'_>; 2]| {
            let PairLogits { mut h, queries, keys } = logits;
            let offset = t * t * own.first;
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
        let (loss, gradients) = self.adjoints([&left, &right]);
        let factor = self.scale / self.pairs.keys.dimension() as f64;
        let slopes = gradients.iter().flat_map(|gradient| gradient.iter());
        let gradient = slopes.zip(w).map(|(slope, w)| factor * slope + 2.0 * self.lambda * w).collect();
        (loss + self.lambda * w.iter().map(|w| w * w).sum::<f64>(), gradient)
    }
}

/// Draws a teacher and data, trains, and measures.
pub(super) fn run(
    instance: &Instance<'_>,
    truth: &Truth,
    training: &Training,
    [count, width]: [usize; 2],
) -> Result<Pretrained, Error> {
    let Instance { model, laboratory, streams, shape } = *instance;
    let layer = Layer::new(model);
    let teacher = truth.draw_pair(shape.dimension, &mut streams.stream(Purpose::Teacher))?;
    let truth = teacher.matrix();
    let mut rng = streams.stream(Purpose::Pretraining);
    let pairs = Pairs::sample(&mut rng, instance, count);
    let [_, noisy] = pairs.labelled(&mut rng, &teacher, model.delta());
    let labels = layer.attention(&noisy);
    let scale = 1.0 / (width as f64).sqrt();
    let task = PairTask { layer, pairs: &pairs, labels: &labels, lambda: training.ridge(), scale, width };
    let mut starts = streams.stream(Purpose::PretrainingStart);
    let start = || random::gaussian(&mut starts, shape.dimension, 2 * width).as_slice().to_vec();
    let trained = train(&task, start, laboratory, &truth, |w| task.weights(w).matrix())?;
    let student = task.weights(&trained.minimum.w);
    let train = task.adjoints([&student.left, &student.right]).0 / count as f64;
    let s = student.matrix();
    let singular_values = singular_values(&s);
    let trace = singular_values.iter().sum::<f64>() / shape.dimension as f64;
    let [test, test_clean] = test_errors(instance, [&teacher, &student]);
    Ok(measured(&s, &truth, trace, singular_values, Losses { train, test, test_clean }, trained))
}

/// The singular values of `S/sqrt(D)`, in increasing order.
fn singular_values(s: &DMatrix<f64>) -> Vec<f64> {
    // The search for the singular values of a matrix with a NaN would never end.
    if !s.iter().all(|x| x.is_finite()) {
        return vec![f64::NAN; s.nrows()];
    }
    let scale = 1.0 / (s.nrows() as f64).sqrt();
    let mut values: Vec<f64> = s.singular_values().iter().map(|x| scale * x).collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The losses per new pair of sequences, with and without noise in the label.
fn test_errors(instance: &Instance<'_>, [teacher, student]: [&FactorPair; 2]) -> [f64; 2] {
    let Instance { model, laboratory, streams, .. } = *instance;
    let rng = &mut streams.stream(Purpose::PretrainingTest);
    let layer = Layer::new(model);
    let mut sums = [0.0; 2];
    for first in (0..laboratory.test_sequences).step_by(TEST_BATCH) {
        let pairs = Pairs::sample(rng, instance, TEST_BATCH.min(laboratory.test_sequences - first));
        let [clean, noisy] = pairs.labelled(rng, teacher, model.delta());
        let logits = pairs.logits(student);
        for (sum, label) in sums.iter_mut().zip([noisy, clean]) {
            *sum += layer.loss(&pairs.keys, &logits, &layer.attention(&label));
        }
    }
    sums.map(|sum| sum / laboratory.test_sequences as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::Attention;
    use crate::model::Model;
    use crate::simulate::Laboratory;
    use crate::simulate::random::Streams;
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
        let task = PairTask { layer, pairs: &pairs, labels: &labels, lambda: 0.1, scale: 0.5, width };
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
                let mut p = (&queries * &s * keys.transpose() / d).map(f64::exp);
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
}
