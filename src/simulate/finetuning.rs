//! Fine-tuning of one instance, and its measurement.

use nalgebra::DMatrix;

use super::batch::{Batch, Source, finetuning_batch};
use super::instance::Instance;
use super::layer::{Layer, Task};
use super::logits::{scaled, sum};
use super::measurement::{Finetuned, TrainingStart};
use super::principal::{PrincipalOverlaps, Truths, orthogonalise};
use super::random::{self, Purpose};
use super::sequences::{Corpus, NetworkWeights, TEST_BATCH};
use super::trained::train_from;
use crate::lora::Training;

/// Number of power iterations for the spectral start.
pub(super) const POWER_ITERATIONS: usize = 60;

/// Share of `q0` of the columns in excess of the truth, in the informed start.
pub(super) const EXCESS: f64 = 0.1;

/// The weights `w w^T`.
fn perturbation(w: &DMatrix<f64>) -> NetworkWeights {
    NetworkWeights { factor: w.clone(), scale: 1.0 }
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
    let truth = Truths::new(training);
    // w*^T w* = D q0 holds exactly, because a scatter of the norms has no counterpart in the theory.
    let star = random::normalised(&mut streams.stream(Purpose::Perturbation), dimension, truth.rank());
    let star = truth.scaled(star);

    let mut rng = streams.stream(Purpose::Finetuning);
    let batch = finetuning_batch(source, &mut rng, instance, training.sequences(), counts);
    let Batch { sequences, noisy, frozen, .. } = batch;
    let labels = layer.attention(&sum(&noisy, &sequences.logits(&perturbation(&star))));
    let frozen = scaled(&frozen, training.beta());
    let task = Task {
        layer,
        sequences: &sequences,
        labels: &labels,
        frozen: Some(&frozen),
        lambda: training.ridge(),
        scale: 1.0,
        width: training.rank(),
    };

    let mut rng = streams.stream(Purpose::FinetuningStart);
    let width = training.rank();
    let informed = informed_start(&star, random::normalised(&mut rng.clone(), dimension, width), training);
    let mut starts = vec![(TrainingStart::Informed, informed)];
    let norms: Vec<f64> = (0..width).map(|k| (d * truth.variance_of_start(k)).sqrt()).collect();
    starts.push((
        TrainingStart::Spectral,
        spectral_start(&task, random::gaussian(&mut rng, dimension, width), &norms),
    ));
    for _ in 0..laboratory.random_starts {
        let random = random::normalised(&mut rng, dimension, width);
        starts.push((TrainingStart::Random, random * truth.largest().sqrt()));
    }
    let overlaps = PrincipalOverlaps { star: &star, q0: training.q0() };
    let starts = starts.into_iter().map(|(start, from)| (start, from.as_slice().to_vec()));
    let alignment = |w: &[f64]| overlaps.alignment(&task.matrix(w));
    let (runs, best) = train_from(starts, &task, laboratory.stopping(), d, alignment);
    // There are always at least two starts.
    let (w, objective) = best.map_or_else(
        || (DMatrix::zeros(dimension, width), f64::NAN),
        |(minimum, run)| (task.matrix(&minimum.w), run.objective),
    );
    let [test, test_clean, without, forgetting] = test_errors(instance, training, source, [&star, &w]);
    Finetuned {
        q: overlaps.q(&w),
        m: overlaps.m(&w),
        objective,
        test,
        test_clean,
        train: task.loss(&w) / sequences.count() as f64,
        frozen: without,
        forgetting,
        alignment: overlaps.alignment(&w),
        cosines: if training.is_rank_one() { Vec::new() } else { overlaps.cosines(&w) },
        runs,
    }
}

/// The true columns in the first columns, and a random part of `random` in those beyond.
fn informed_start(star: &DMatrix<f64>, random: DMatrix<f64>, training: &Training) -> DMatrix<f64> {
    let mut start = random * (EXCESS * training.q0()).sqrt();
    for k in 0..start.ncols().min(star.ncols()) {
        start.set_column(k, &star.column(k));
    }
    start
}

/// The directions in which the loss at `w = 0` decreases most, by power iteration. They have the given norms.
fn spectral_start(task: &Task<'_>, random: DMatrix<f64>, norms: &[f64]) -> DMatrix<f64> {
    // The image of a random vector gives the root mean square of the eigenvalues. Twice that is the edge of a
    // semicircle.
    let shift = 2.0 * task.curvature(&random).norm() / random.norm();
    let mut w = random;
    for _ in 0..POWER_ITERATIONS {
        let mut next = task.curvature(&w) + &w * shift;
        if !orthogonalise(&mut next, norms) {
            break;
        }
        w = next;
    }
    w
}

/// The logits of new sequences.
pub(super) struct TestLogits {
    /// The labels' logits without the true perturbation, without noise and with it.
    pub(super) clean: Vec<f64>,
    pub(super) noisy: Vec<f64>,
    /// The logits of the recalibrated frozen weights.
    pub(super) frozen: Vec<f64>,
    /// The logits of the true and of the learned perturbation.
    pub(super) truth: Vec<f64>,
    pub(super) learned: Vec<f64>,
}

impl TestLogits {
    /// The sums of the losses: with noisy labels, with clean labels, with noisy labels and no learned perturbation, and with the noisy
    /// labels of pre-training. `sequences` are those that the attention averages.
    pub(super) fn losses(self, layer: &Layer, sequences: &Corpus) -> [f64; 4] {
        let Self { clean, noisy, frozen, truth, learned } = self;
        let before = layer.attention(&noisy);
        let [clean, noisy] = [clean, noisy].map(|logits| layer.attention(&sum(&logits, &truth)));
        let tuned = sum(&frozen, &learned);
        [(&tuned, &noisy), (&tuned, &clean), (&frozen, &noisy), (&tuned, &before)]
            .map(|(logits, labels)| layer.loss(sequences, logits, labels))
    }
}

/// The losses per new sequence, those of [`TestLogits::losses`].
fn test_errors(
    instance: &Instance<'_>,
    training: &Training,
    source: &Source<'_>,
    [star, w]: [&DMatrix<f64>; 2],
) -> [f64; 4] {
    let count = instance.laboratory.test_sequences;
    let layer = Layer::new(instance.model);
    let mut rng = instance.streams.stream(Purpose::FinetuningTest);
    let mut sums = [0.0; 4];
    for first in (0..count).step_by(TEST_BATCH) {
        let Batch { sequences, clean, noisy, frozen } =
            source.fresh(&mut rng, instance, TEST_BATCH.min(count - first));
        let [truth, learned] = [star, w].map(|columns| sequences.logits(&perturbation(columns)));
        let frozen = scaled(&frozen, training.beta());
        let losses = TestLogits { clean, noisy, frozen, truth, learned }.losses(&layer, &sequences);
        sums.iter_mut().zip(losses).for_each(|(sum, loss)| *sum += loss);
    }
    sums.map(|sum| sum / count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Model;
    use crate::observables::linear_error_at;
    use crate::simulate::laboratory::Laboratory;
    use crate::simulate::random::Streams;
    use crate::simulate::sequences::Shape;
    use crate::simulate::statistics::Estimate;

    /// The test error of linear attention has a closed form at every dimension, with and without a perturbation, for weights of either sign.
    #[test]
    fn linear_test_errors_have_their_closed_form_at_every_dimension() {
        const BATCHES: usize = 64;
        let training = Training::fresh(3.0, 0.5).unwrap().recalibrated(0.7).unwrap();
        let laboratory = Laboratory { test_sequences: 4096 / BATCHES, ..Laboratory::default() };
        for (tokens, dimension) in [(1, 6), (1, 30), (2, 5), (2, 12), (2, 60), (3, 8), (3, 25), (4, 10)] {
            let model = Model::linear(tokens, 0.5).unwrap();
            let shape = Shape { dimension, tokens };
            let rng = &mut Streams { seed: 7, dimension, instance: 0 }.stream(Purpose::Teacher);
            let matrix = |weights: &NetworkWeights| weights.matrix();
            let [teacher, student] =
                [2, 3].map(|width| NetworkWeights::attention(random::gaussian(rng, dimension, width)));
            let [star, w] = [0, 1].map(|_| random::gaussian(rng, dimension, 1));
            let frozen = matrix(&teacher) - matrix(&student) * training.beta();
            let source = Source::Weights { teacher: &teacher, student: &student.into(), data: None };
            let errors: Vec<[f64; 4]> = (0..BATCHES)
                .map(|instance| {
                    let streams = Streams { seed: 7, dimension, instance };
                    let one = Instance { model: &model, laboratory: &laboratory, streams, shape };
                    test_errors(&one, &training, &source, [&star, &w])
                })
                .collect();
            let tuned = &frozen + matrix(&perturbation(&star)) - matrix(&perturbation(&w));
            let untuned = &frozen + matrix(&perturbation(&star));
            let forgotten = &frozen - matrix(&perturbation(&w));
            let size = (dimension * dimension) as f64;
            for (k, delta, difference) in
                [(0, 0.5, &tuned), (1, 0.0, &tuned), (2, 0.5, &untuned), (3, 0.5, &forgotten)]
            {
                let found = Estimate::of(&errors.iter().map(|error| error[k]).collect::<Vec<_>>());
                let exact = linear_error_at(tokens, dimension, delta, difference.norm_squared() / size);
                let z = (found.mean - exact) / found.std_error;
                assert!(z.abs() < 3.0, "T = {tokens}, D = {dimension}, error {k}: {found:?}, {exact}");
            }
        }
    }
}
