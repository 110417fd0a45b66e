//! Pre-training of one instance, and its measurement.

use nalgebra::DMatrix;

use super::batch::{Labelled, labelled};
use super::direct::DirectTask;
use super::instance::Instance;
use super::laboratory::Laboratory;
use super::layer::{Layer, Task};
use super::measurement::Pretrained;
use super::random::{self, Purpose};
use super::sequences::{Corpus, NetworkWeights, SymmetricWeights, TEST_BATCH};
use super::trained::{Losses, Trained, measured, train};
use super::truth::Truth;
use crate::error::Error;
use crate::pretrain::{Parametrisation, Training};

/// The results of pre-training that fine-tuning needs.
pub(super) struct TrainedLayer {
    pub(super) teacher: NetworkWeights,
    pub(super) student: SymmetricWeights,
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
    let lambda = training.ridge();
    let mut starts = streams.stream(Purpose::PretrainingStart);
    let random = || random::gaussian(&mut starts, dimension, width);
    let Student { weights: student, eigenvalues, loss, trained } = match training.parametrisation() {
        Parametrisation::Factorised => {
            let scale = 1.0 / (width as f64).sqrt();
            let sequences = &sequences;
            let task = Task { layer, sequences, labels: &labels, frozen: None, lambda, scale, width };
            factorised(&task, random, laboratory, &truth)?
        }
        Parametrisation::Direct => {
            let task = DirectTask { layer, sequences: &sequences, labels: &labels, lambda };
            direct(&task, random, laboratory, &truth)?
        }
    };
    let train = loss / count as f64;
    let s = student.matrix();
    let [test, test_clean] = test_errors(instance, &teacher, &student);
    let trace = s.trace() / (d * d.sqrt());
    let measured = measured(&s, &truth, trace, eigenvalues, Losses { train, test, test_clean }, trained);
    Ok(TrainedLayer { teacher, student, data: Labelled { sequences, clean, noisy }, measured })
}

/// A trained student.
struct Student {
    weights: SymmetricWeights,
    /// The eigenvalues of `S/sqrt(D)`, in increasing order.
    eigenvalues: Vec<f64>,
    /// The loss of all sequences, without the ridge.
    loss: f64,
    trained: Trained,
}

/// Trains a factor, from random ones.
fn factorised(
    task: &Task<'_>,
    mut random: impl FnMut() -> DMatrix<f64>,
    laboratory: &Laboratory,
    truth: &DMatrix<f64>,
) -> Result<Student, Error> {
    let start = || random().as_slice().to_vec();
    let trained =
        train(task, start, laboratory, truth, |w| NetworkWeights::attention(task.matrix(w)).matrix())?;
    let w = task.matrix(&trained.minimum.w);
    let loss = task.loss(&w);
    let weights = NetworkWeights::attention(w);
    // A product `W W^T` has no negative eigenvalues, except by rounding.
    let eigenvalues = spectrum(&weights.matrix()).into_iter().map(|x| x.max(0.0)).collect();
    Ok(Student { weights: weights.into(), eigenvalues, loss, trained })
}

/// Trains the weights themselves, from random symmetric ones.
fn direct(
    task: &DirectTask<'_>,
    mut random: impl FnMut() -> DMatrix<f64>,
    laboratory: &Laboratory,
    truth: &DMatrix<f64>,
) -> Result<Student, Error> {
    let start = || symmetric(&random()).as_slice().to_vec();
    let trained = train(task, start, laboratory, truth, |s| task.matrix(s))?;
    let s = symmetric(&task.matrix(&trained.minimum.w));
    let loss = task.loss(&s);
    Ok(Student { eigenvalues: spectrum(&s), weights: SymmetricWeights::of_matrix(&s), loss, trained })
}

fn symmetric(s: &DMatrix<f64>) -> DMatrix<f64> {
    (s + s.transpose()) * 0.5
}

/// The eigenvalues of `S/sqrt(D)`, in increasing order.
fn spectrum(s: &DMatrix<f64>) -> Vec<f64> {
    // The search for the eigenvalues of a matrix with a NaN would never end.
    if !s.iter().all(|x| x.is_finite()) {
        return vec![f64::NAN; s.nrows()];
    }
    let scale = 1.0 / (s.nrows() as f64).sqrt();
    let mut eigenvalues: Vec<f64> = s.symmetric_eigenvalues().iter().map(|x| scale * x).collect();
    eigenvalues.sort_by(f64::total_cmp);
    eigenvalues
}

/// The losses per new sequence, with and without noise in the label.
fn test_errors(instance: &Instance<'_>, teacher: &NetworkWeights, student: &SymmetricWeights) -> [f64; 2] {
    let Instance { model, laboratory, streams, shape } = *instance;
    let rng = &mut streams.stream(Purpose::PretrainingTest);
    let layer = Layer::new(model);
    let mut sums = [0.0; 2];
    for first in (0..laboratory.test_sequences).step_by(TEST_BATCH) {
        let sequences = Corpus::sample(rng, shape, TEST_BATCH.min(laboratory.test_sequences - first));
        let [clean, noisy] = labelled(rng, &sequences, teacher, model.delta());
        let logits = student.logits(&sequences);
        for (sum, label) in sums.iter_mut().zip([noisy, clean]) {
            *sum += layer.loss(&sequences, &logits, &layer.attention(&label));
        }
    }
    sums.map(|sum| sum / laboratory.test_sequences as f64)
}
