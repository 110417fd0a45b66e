//! Pre-training of one instance with cross-attention.

use nalgebra::DMatrix;

use super::instance::Instance;
use super::layer::Layer;
use super::measurement::Pretrained;
use super::pairs::{PairTask, Pairs};
use super::random::{self, Purpose};
use super::sequences::{FactorPair, TEST_BATCH};
use super::trained::{Losses, measured, train};
use super::truth::Truth;
use crate::error::Error;
use crate::pretrain::Training;

/// Pairs of sequences with the logits of their labels.
pub(super) struct LabelledPairs {
    pub(super) pairs: Pairs,
    pub(super) clean: Vec<f64>,
    pub(super) noisy: Vec<f64>,
}

/// A trained layer, with what fine-tuning needs of it.
pub(super) struct TrainedPair {
    pub(super) measured: Pretrained,
    pub(super) teacher: FactorPair,
    pub(super) student: FactorPair,
    pub(super) data: LabelledPairs,
}

/// Draws a teacher and data, trains, and measures.
pub(super) fn run(
    instance: &Instance<'_>,
    truth: &Truth,
    training: &Training,
    [count, width]: [usize; 2],
) -> Result<TrainedPair, Error> {
    let Instance { model, laboratory, streams, shape } = *instance;
    let layer = Layer::new(model);
    let teacher = truth.draw_pair(shape.dimension, &mut streams.stream(Purpose::Teacher))?;
    let truth = teacher.matrix();
    let mut rng = streams.stream(Purpose::Pretraining);
    let pairs = Pairs::sample(&mut rng, instance, count);
    let [clean, noisy] = pairs.labelled(&mut rng, &teacher, model.delta());
    let labels = layer.attention(&noisy);
    let scale = 1.0 / (width as f64).sqrt();
    let lambda = training.ridge();
    let task = PairTask { layer, pairs: &pairs, labels: &labels, frozen: None, lambda, scale, width };
    let mut starts = streams.stream(Purpose::PretrainingStart);
    let start = || random::gaussian(&mut starts, shape.dimension, 2 * width).as_slice().to_vec();
    let trained = train(&task, start, laboratory, &truth, |w| task.weights(w).matrix())?;
    let student = task.weights(&trained.minimum.w);
    let train = task.loss([&student.left, &student.right]) / count as f64;
    let s = student.matrix();
    let singular_values = singular_values(&s);
    let trace = singular_values.iter().sum::<f64>() / shape.dimension as f64;
    let [test, test_clean] = test_errors(instance, [&teacher, &student]);
    let measured = measured(&s, &truth, trace, singular_values, Losses { train, test, test_clean }, trained);
    Ok(TrainedPair { measured, teacher, student, data: LabelledPairs { pairs, clean, noisy } })
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
