//! Pre-training of one instance, and its measurement.

use nalgebra::DMatrix;

use super::batch::{Labelled, labelled};
use super::instance::Instance;
use super::layer::{Layer, Task};
use super::measurement::Pretrained;
use super::random::{self, Purpose};
use super::sequences::{Corpus, NetworkWeights, TEST_BATCH};
use super::trained::{Losses, measured, train};
use super::truth::Truth;
use crate::error::Error;
use crate::pretrain::Training;

/// The results of pre-training that fine-tuning needs.
pub(super) struct TrainedLayer {
    pub(super) teacher: NetworkWeights,
    pub(super) student: NetworkWeights,
    pub(super) data: Labelled,
    pub(super) measured: Pretrained,
}

/// Draws a teacher and data, trains, and measures.
pub(super) fn run(
    instance: &Instance<'_>,
    truth: &Truth,
    training: &Training,
    [count, width]: [usize; 2],
) -> Result<TrainedLayer, Error> {
    let Instance { model, laboratory, streams, shape } = *instance;
    let dimension = shape.dimension;
    let d = dimension as f64;
    let layer = Layer::new(model);
    let teacher = truth.draw(dimension, &mut streams.stream(Purpose::Teacher))?;
    let truth = teacher.matrix();

    let mut rng = streams.stream(Purpose::Pretraining);
    let sequences = Corpus::sample(&mut rng, shape, count);
    let [clean, noisy] = labelled(&mut rng, &sequences, &teacher, model.delta());
    let labels = layer.attention(&noisy);
    let task = Task {
        layer,
        sequences: &sequences,
        labels: &labels,
        frozen: None,
        lambda: training.ridge(),
        scale: 1.0 / (width as f64).sqrt(),
        width,
    };
    let mut starts = streams.stream(Purpose::PretrainingStart);
    let start = || random::gaussian(&mut starts, dimension, width).as_slice().to_vec();
    let trained =
        train(&task, start, laboratory, &truth, |w| NetworkWeights::attention(task.matrix(w)).matrix())?;
    let w = task.matrix(&trained.minimum.w);
    let train = task.loss(&w) / count as f64;
    let student = NetworkWeights::attention(w);
    let s = student.matrix();
    let eigenvalues = spectrum(&s);
    let [test, test_clean] = test_errors(instance, [&teacher, &student]);
    let trace = s.trace() / (d * d.sqrt());
    let measured = measured(&s, &truth, trace, eigenvalues, Losses { train, test, test_clean }, trained);
    Ok(TrainedLayer { teacher, student, data: Labelled { sequences, clean, noisy }, measured })
}

/// The eigenvalues of `S/sqrt(D)`, in increasing order. A product `W W^T` has no negative eigenvalues, except
/// by rounding.
fn spectrum(s: &DMatrix<f64>) -> Vec<f64> {
    // The search for the eigenvalues of a matrix with a NaN would never end.
    if !s.iter().all(|x| x.is_finite()) {
        return vec![f64::NAN; s.nrows()];
    }
    let scale = 1.0 / (s.nrows() as f64).sqrt();
    let mut eigenvalues: Vec<f64> = s.symmetric_eigenvalues().iter().map(|x| (scale * x).max(0.0)).collect();
    eigenvalues.sort_by(f64::total_cmp);
    eigenvalues
}

/// The losses per new sequence, with and without noise in the label.
fn test_errors(instance: &Instance<'_>, [teacher, student]: [&NetworkWeights; 2]) -> [f64; 2] {
    let Instance { model, laboratory, streams, shape } = *instance;
    let rng = &mut streams.stream(Purpose::PretrainingTest);
    let layer = Layer::new(model);
    let mut sums = [0.0; 2];
    for first in (0..laboratory.test_sequences).step_by(TEST_BATCH) {
        let sequences = Corpus::sample(rng, shape, TEST_BATCH.min(laboratory.test_sequences - first));
        let [clean, noisy] = labelled(rng, &sequences, teacher, model.delta());
        let logits = sequences.logits(student);
        for (sum, label) in sums.iter_mut().zip([noisy, clean]) {
            *sum += layer.loss(&sequences, &logits, &layer.attention(&label));
        }
    }
    sums.map(|sum| sum / laboratory.test_sequences as f64)
}
