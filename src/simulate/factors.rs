//! Fine-tuning of one instance with two factors (cross-attention), and its measurement.

use nalgebra::DMatrix;
use rand_pcg::Pcg64;

use super::batch::memorised;
use super::cross::TrainedPair;
use super::finetuning::{EXCESS, POWER_ITERATIONS, TestLogits};
use super::instance::Instance;
use super::layer::Layer;
use super::logits::{lowest_scores, scaled, sum};
use super::measurement::{Finetuned, TrainingStart};
use super::pairs::{PairTask, Pairs, noisy};
use super::principal::{FactorOverlaps, Truths, orthogonalise};
use super::random::{self, Purpose};
use super::sequences::{FactorPair, TEST_BATCH};
use super::trained::train_from;
use crate::frozen::{Frozen, TrueLogits};
use crate::lora::{Selection, Sequences, Training};

/// The origin of the logits.
pub(super) enum PairSource<'a> {
    /// The logits of actual weights.
    Weights(&'a TrainedPair),
    /// Logits drawn from their law in the limit.
    Law(Frozen),
}

/// Pairs of sequences with their logits: one flat `T x T` matrix per pair and kind.
struct PairBatch {
    pairs: Pairs,
    /// The logits `h(S*)`, and the same with noise.
    clean: Vec<f64>,
    noisy: Vec<f64>,
    /// The logits `h(S-hat)`, before recalibration.
    frozen: Vec<f64>,
}

impl PairSource<'_> {
    /// Draws new pairs.
    fn fresh(&self, rng: &mut Pcg64, instance: &Instance<'_>, count: usize) -> PairBatch {
        let pairs = Pairs::sample(rng, instance, count);
        let frozen = self.frozen(rng, instance, &pairs);
        self.label(rng, instance, pairs, frozen)
    }

    fn frozen(&self, rng: &mut Pcg64, instance: &Instance<'_>, pairs: &Pairs) -> Vec<f64> {
        match self {
            Self::Weights(trained) => pairs.logits(&trained.student),
            Self::Law(law) => {
                let zero = vec![0.0; pairs.count() * instance.shape.tokens * instance.shape.tokens];
                noisy(rng, &zero, law.q())
            }
        }
    }

    fn label(&self, rng: &mut Pcg64, instance: &Instance<'_>, pairs: Pairs, frozen: Vec<f64>) -> PairBatch {
        let delta = instance.model.delta();
        let [clean, noisy] = match self {
            Self::Weights(trained) => pairs.labelled(rng, &trained.teacher, delta),
            Self::Law(law) => {
                let TrueLogits { slope, unknown, .. } = law.true_logits();
                let clean = noisy(rng, &scaled(&frozen, slope), unknown);
                let noisy = noisy(rng, &clean, delta);
                [clean, noisy]
            }
        };
        PairBatch { pairs, clean, noisy, frozen }
    }

    /// Returns the `count` pairs of lowest score, out of `pool` new ones.
    fn selected(
        &self,
        rng: &mut Pcg64,
        instance: &Instance<'_>,
        selection: Selection,
        [count, pool]: [usize; 2],
    ) -> PairBatch {
        let pairs = Pairs::sample(rng, instance, pool);
        let frozen = self.frozen(rng, instance, &pairs);
        let (kept, frozen) = lowest_scores(selection, instance.shape.tokens, &frozen, count);
        self.label(rng, instance, pairs.select(&kept), frozen)
    }

    /// Returns the first pairs of the pre-training, with the noise that they had there.
    fn reused(&self, rng: &mut Pcg64, instance: &Instance<'_>, count: usize) -> PairBatch {
        match self {
            Self::Weights(TrainedPair { student, data, .. }) => {
                let pairs = data.pairs.select(&(0..count).collect::<Vec<_>>());
                let end = count * instance.shape.tokens * instance.shape.tokens;
                let frozen = pairs.logits(student);
                PairBatch {
                    pairs,
                    clean: data.clean[..end].to_vec(),
                    noisy: data.noisy[..end].to_vec(),
                    frozen,
                }
            }
            Self::Law(law) => {
                let mut batch = self.fresh(rng, instance, count);
                let v = law.v().unwrap_or(0.0);
                batch.frozen = memorised(instance.model, &batch.frozen, &batch.noisy, v);
                batch
            }
        }
    }
}

/// The weights `b a^T`.
fn perturbation([left, right]: &[DMatrix<f64>; 2]) -> FactorPair {
    FactorPair { left: left.clone(), right: right.clone(), scale: 1.0 }
}

/// The columns of both factors, one after the other.
fn flat([left, right]: &[DMatrix<f64>; 2]) -> Vec<f64> {
    [left.as_slice(), right.as_slice()].concat()
}

/// Draws a perturbation and data, trains from all starts, and measures at the minimum of lowest objective.
pub(super) fn run(
    instance: &Instance<'_>,
    training: &Training,
    source: &PairSource<'_>,
    counts: [usize; 2],
) -> Finetuned {
    let Instance { model, laboratory, streams, shape } = *instance;
    let layer = Layer::new(model);
    let truth = Truths::new(training);
    // The norms of the factors hold exactly, because their scatter has no counterpart in the theory.
    let mut rng = streams.stream(Purpose::Perturbation);
    let star = [0, 1].map(|_| truth.scaled(random::normalised(&mut rng, shape.dimension, truth.rank())));

    let mut rng = streams.stream(Purpose::Finetuning);
    let batch = match training.sequences() {
        Sequences::Fresh => source.fresh(&mut rng, instance, counts[0]),
        Sequences::Reused => source.reused(&mut rng, instance, counts[0]),
        Sequences::Active(selection) => source.selected(&mut rng, instance, selection, counts),
    };
    let PairBatch { pairs, noisy, frozen, .. } = batch;
    let labels = layer.attention(&sum(&noisy, &pairs.logits(&perturbation(&star))));
    let frozen = scaled(&frozen, training.beta());
    let (lambda, width) = (training.ridge(), training.rank());
    let task =
        PairTask { layer, pairs: &pairs, labels: &labels, frozen: Some(&frozen), lambda, scale: 1.0, width };

    let overlaps = FactorOverlaps { star: &star };
    let starts = starts(instance, &task, &truth, &star).into_iter().map(|(start, from)| (start, flat(&from)));
    let alignment = |w: &[f64]| overlaps.alignment(&task.factors(w));
    let (runs, best) = train_from(starts, &task, laboratory.stopping(), shape.dimension as f64, alignment);
    // There are always at least two starts.
    let (factors, objective) = best.map_or_else(
        || ([0, 1].map(|_| DMatrix::zeros(shape.dimension, width)), f64::NAN),
        |(minimum, run)| (task.factors(&minimum.w), run.objective),
    );
    let [test, test_clean, without, forgetting] = test_errors(instance, training, source, [&star, &factors]);
    let [left, right] = &factors;
    Finetuned {
        q: overlaps.q(&factors),
        m: overlaps.m(&factors),
        objective,
        test,
        test_clean,
        train: task.loss([left, right]) / pairs.count() as f64,
        frozen: without,
        forgetting,
        alignment: overlaps.alignment(&factors),
        cosines: overlaps.cosines(&factors),
        runs,
    }
}

/// The starts at the truth, along the directions in which the loss at zero weights decreases most, and at random factors.
fn starts(
    instance: &Instance<'_>,
    task: &PairTask<'_>,
    truth: &Truths,
    star: &[DMatrix<f64>; 2],
) -> Vec<(TrainingStart, [DMatrix<f64>; 2])> {
    let (dimension, width) = (instance.shape.dimension, task.width);
    let mut rng = instance.streams.stream(Purpose::FinetuningStart);
    let mut normalised = || [0, 1].map(|_| random::normalised(&mut rng, dimension, width));
    let mut informed = normalised().map(|random| random * (EXCESS * truth.largest()).sqrt());
    for (informed, star) in informed.iter_mut().zip(star) {
        for k in 0..width.min(star.ncols()) {
            informed.set_column(k, &star.column(k));
        }
    }
    let norms: Vec<f64> =
        (0..width).map(|k| (dimension as f64 * truth.variance_of_start(k)).sqrt()).collect();
    let mut all = vec![(TrainingStart::Informed, informed)];
    all.push((TrainingStart::Spectral, spectral_start(task, normalised(), &norms)));
    for _ in 0..instance.laboratory.random_starts {
        all.push((TrainingStart::Random, normalised().map(|random| random * truth.largest().sqrt())));
    }
    all
}

/// The pairs of directions in which the loss at zero weights decreases most, by power iteration for singular vectors. They have the given norms.
fn spectral_start(task: &PairTask<'_>, random: [DMatrix<f64>; 2], norms: &[f64]) -> [DMatrix<f64>; 2] {
    let [mut left, mut right] = random;
    for _ in 0..POWER_ITERATIONS {
        let [mut of_right, _] = task.descents([&left, &right]);
        if !orthogonalise(&mut of_right, norms) {
            break;
        }
        let [_, mut of_left] = task.descents([&of_right, &right]);
        if !orthogonalise(&mut of_left, norms) {
            break;
        }
        (left, right) = (of_right, of_left);
    }
    [left, right]
}

/// The losses per new pair of sequences, those of [`TestLogits::losses`].
fn test_errors(
    instance: &Instance<'_>,
    training: &Training,
    source: &PairSource<'_>,
    [star, learned]: [&[DMatrix<f64>; 2]; 2],
) -> [f64; 4] {
    let count = instance.laboratory.test_sequences;
    let layer = Layer::new(instance.model);
    let mut rng = instance.streams.stream(Purpose::FinetuningTest);
    let mut sums = [0.0; 4];
    for first in (0..count).step_by(TEST_BATCH) {
        let PairBatch { pairs, clean, noisy, frozen } =
            source.fresh(&mut rng, instance, TEST_BATCH.min(count - first));
        let [truth, learned] = [star, learned].map(|factors| pairs.logits(&perturbation(factors)));
        let frozen = scaled(&frozen, training.beta());
        let losses = TestLogits { clean, noisy, frozen, truth, learned }.losses(&layer, &pairs.keys);
        sums.iter_mut().zip(losses).for_each(|(sum, loss)| *sum += loss);
    }
    sums.map(|sum| sum / count as f64)
}
