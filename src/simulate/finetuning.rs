//! Fine-tuning of one instance, and its measurement.

use nalgebra::DMatrix;

use super::batch::{Batch, Source, finetuning_batch};
use super::instance::Instance;
use super::layer::{Layer, Task};
use super::measurement::{Finetuned, TrainingRun, TrainingStart, lowest};
use super::minimise::{Minimum, minimise};
use super::random::{self, Purpose};
use super::sequences::{NetworkWeights, TEST_BATCH};
use crate::lora::Training;
use crate::observables;

/// Number of power iterations for the spectral start.
const POWER_ITERATIONS: usize = 60;

/// Rank-one weights `w w^T`.
fn rank_one(w: &DMatrix<f64>) -> NetworkWeights {
    NetworkWeights { factor: w.clone(), scale: 1.0 }
}

fn sum(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

fn scaled(a: &[f64], factor: f64) -> Vec<f64> {
    a.iter().map(|a| factor * a).collect()
}

/// Draws a perturbation and data, trains from all starts, and measures at the minimum of lowest objective.
pub(super) fn run(
    instance: &Instance<'_>,
    training: &Training,
    source: &Source<'_>,
    counts: [usize; 2],
) -> Finetuned {
    let Instance { model, laboratory, streams, shape } = *instance;
    let dimension = shape.dimension;
    let d = dimension as f64;
    let layer = Layer::new(model);
    // |w*|^2 = D q0 holds exactly, because a scatter of the norm has no counterpart in the theory.
    let star = random::normalised(&mut streams.stream(Purpose::Perturbation), dimension, 1);
    let star = star * training.q0().sqrt();

    let mut rng = streams.stream(Purpose::Finetuning);
    let batch = finetuning_batch(source, &mut rng, instance, training.sequences(), counts);
    let Batch { sequences, noisy, frozen, .. } = batch;
    let labels = layer.attention(&sum(&noisy, &sequences.logits(&rank_one(&star))));
    let frozen = scaled(&frozen, training.beta());
    let task = Task {
        layer,
        sequences: &sequences,
        labels: &labels,
        frozen: Some(&frozen),
        lambda: training.ridge(),
        scale: 1.0,
        width: 1,
    };

    let mut rng = streams.stream(Purpose::FinetuningStart);
    let norm = (d * training.q0()).sqrt();
    let mut starts = vec![(TrainingStart::Informed, star.clone())];
    starts.push((
        TrainingStart::Spectral,
        spectral_start(&task, random::gaussian(&mut rng, dimension, 1), norm),
    ));
    for _ in 0..laboratory.random_starts {
        starts
            .push((TrainingStart::Random, random::normalised(&mut rng, dimension, 1) * training.q0().sqrt()));
    }
    let overlap = |w: &DMatrix<f64>| w.dot(&star).abs() / d;
    let norm2 = |w: &DMatrix<f64>| w.norm_squared() / d;
    let alignment = |w: &DMatrix<f64>| observables::alignment(overlap(w), norm2(w), training.q0());
    let trained: Vec<(Minimum, TrainingRun)> = starts
        .into_iter()
        .map(|(start, from)| {
            let minimum = minimise(&task, from.as_slice(), laboratory.stopping());
            let run = TrainingRun::new(start, &minimum, d, alignment(&task.matrix(&minimum.w)));
            (minimum, run)
        })
        .collect();
    let runs = trained.iter().map(|(_, run)| *run).collect();
    let best = lowest(trained.into_iter(), |(minimum, _)| minimum.objective);
    // There are always at least two starts.
    let (w, objective) =
        best.map_or((star.clone(), f64::NAN), |(minimum, run)| (task.matrix(&minimum.w), run.objective));
    let [test, test_clean, without] = test_errors(instance, training, source, [&star, &w]);
    Finetuned {
        q: norm2(&w),
        m: overlap(&w),
        objective,
        test,
        test_clean,
        train: task.loss(&w) / sequences.count() as f64,
        frozen: without,
        alignment: alignment(&w),
        runs,
    }
}

/// The direction in which the loss at `w = 0` decreases most, by power iteration.
fn spectral_start(task: &Task<'_>, random: DMatrix<f64>, norm: f64) -> DMatrix<f64> {
    // The image of a random vector gives the root mean square of the eigenvalues. Twice that is the edge of a
    // semicircle.
    let shift = 2.0 * task.curvature(&random).norm() / random.norm();
    let mut w = random;
    for _ in 0..POWER_ITERATIONS {
        w = task.curvature(&w) + &w * shift;
        let length = w.norm();
        if !(length > 0.0 && length.is_finite()) {
            break;
        }
        w *= norm / length;
    }
    w
}

/// The losses per new sequence: with noisy labels, with clean labels, and with noisy labels at `w = 0`.
fn test_errors(
    instance: &Instance<'_>,
    training: &Training,
    source: &Source<'_>,
    [star, w]: [&DMatrix<f64>; 2],
) -> [f64; 3] {
    let count = instance.laboratory.test_sequences;
    let layer = Layer::new(instance.model);
    let mut rng = instance.streams.stream(Purpose::FinetuningTest);
    let mut sums = [0.0; 3];
    for first in (0..count).step_by(TEST_BATCH) {
        let Batch { sequences, clean, noisy, frozen } =
            source.fresh(&mut rng, instance, TEST_BATCH.min(count - first));
        let truth = sequences.logits(&rank_one(star));
        let [clean, noisy] = [clean, noisy].map(|logits| layer.attention(&sum(&logits, &truth)));
        let frozen = scaled(&frozen, training.beta());
        let learned = sum(&frozen, &sequences.logits(&rank_one(w)));
        for (sum, (logits, labels)) in
            sums.iter_mut().zip([(&learned, &noisy), (&learned, &clean), (&frozen, &noisy)])
        {
            *sum += layer.loss(&sequences, logits, labels);
        }
    }
    sums.map(|sum| sum / count as f64)
}
