//! Sequences with the logits of their labels, and of the frozen weights.

use rand_pcg::Pcg64;

use super::instance::Instance;
use super::layer::Layer;
use super::logits::{lowest_scores, scaled, sum};
use super::measurement::lowest;
use super::minimise::{Objective, Stopping, minimise};
use super::sequences::{Corpus, NetworkWeights, SymmetricWeights, symmetric_noise};
use crate::attention::Attention;
use crate::frozen::{Frozen, TrueLogits};
use crate::lora::{self, Selection};
use crate::model::{Model, Specialisation};

/// Sequences with their logits: one flat `T x T` matrix per sequence and kind.
pub(super) struct Batch {
    pub(super) sequences: Corpus,
    /// The logits `h(S*)`, and the same with noise.
    pub(super) clean: Vec<f64>,
    pub(super) noisy: Vec<f64>,
    /// The logits `h(S-hat)`, before recalibration.
    pub(super) frozen: Vec<f64>,
}

/// The origin of the logits.
pub(super) enum Source<'a> {
    /// The logits of actual weights.
    Weights {
        teacher: &'a NetworkWeights,
        student: &'a SymmetricWeights,
        /// The sequences and labels that the student was trained on, if it was trained.
        data: Option<&'a Labelled>,
    },
    /// Logits drawn from their law in the limit.
    Law(Frozen),
}

/// The logits `h(S*)` of sequences, and the same with noise.
pub(super) fn labelled(
    rng: &mut Pcg64,
    sequences: &Corpus,
    teacher: &NetworkWeights,
    delta: f64,
) -> [Vec<f64>; 2] {
    let clean = sequences.logits(teacher);
    let noise = symmetric_noise(rng, sequences.tokens, sequences.count(), delta);
    let noisy = sum(&noise, &clean);
    [clean, noisy]
}

impl Source<'_> {
    /// Draws new sequences.
    pub(super) fn fresh(&self, rng: &mut Pcg64, instance: &Instance<'_>, count: usize) -> Batch {
        let sequences = Corpus::sample(rng, instance.shape, count);
        let frozen = match self {
            Self::Weights { student, .. } => student.logits(&sequences),
            Self::Law(law) => symmetric_noise(rng, instance.shape.tokens, count, 2.0 * law.q()),
        };
        self.label(rng, instance.model, sequences, frozen)
    }

    /// Returns the `count` sequences of lowest score, out of `pool` new ones.
    pub(super) fn selected(
        &self,
        rng: &mut Pcg64,
        instance: &Instance<'_>,
        selection: Selection,
        [count, pool]: [usize; 2],
    ) -> Batch {
        let (sequences, frozen) = match self {
            Self::Weights { student, .. } => {
                let sequences = Corpus::sample(rng, instance.shape, pool);
                let frozen = student.logits(&sequences);
                (Some(sequences), frozen)
            }
            Self::Law(law) => (None, symmetric_noise(rng, instance.shape.tokens, pool, 2.0 * law.q())),
        };
        let (kept, frozen) = lowest_scores(selection, instance.shape.tokens, &frozen, count);
        let sequences = match sequences {
            Some(sequences) => sequences.select(&kept),
            // The scores do not depend on the sequences, so that any sequences can be attached.
            None => Corpus::sample(rng, instance.shape, count),
        };
        self.label(rng, instance.model, sequences, frozen)
    }

    fn label(&self, rng: &mut Pcg64, model: &Model, sequences: Corpus, frozen: Vec<f64>) -> Batch {
        let [clean, noisy] = match self {
            Self::Weights { teacher, .. } => labelled(rng, &sequences, teacher, model.delta()),
            Self::Law(law) => {
                let TrueLogits { slope, unknown, .. } = law.true_logits();
                let count = sequences.count();
                let residual = symmetric_noise(rng, model.tokens(), count, 2.0 * unknown);
                let clean = sum(&residual, &scaled(&frozen, slope));
                let noisy = sum(&symmetric_noise(rng, model.tokens(), count, model.delta()), &clean);
                [clean, noisy]
            }
        };
        Batch { sequences, clean, noisy, frozen }
    }

    /// Returns the first sequences of the pre-training, with the noise that they had there.
    pub(super) fn reused(&self, rng: &mut Pcg64, instance: &Instance<'_>, count: usize) -> Batch {
        if let Self::Weights { student, data: Some(data), .. } = self {
            let sequences = data.sequences.select(&(0..count).collect::<Vec<_>>());
            let frozen = student.logits(&sequences);
            let end = count * sequences.square();
            return Batch {
                sequences,
                clean: data.clean[..end].to_vec(),
                noisy: data.noisy[..end].to_vec(),
                frozen,
            };
        }
        let mut batch = self.fresh(rng, instance, count);
        if let Self::Law(law) = self {
            batch.frozen = memorised(instance.model, &batch.frozen, &batch.noisy, law.v().unwrap_or(0.0));
        }
        batch
    }
}

/// Labelled sequences of the pre-training.
pub(super) struct Labelled {
    pub(super) sequences: Corpus,
    pub(super) clean: Vec<f64>,
    pub(super) noisy: Vec<f64>,
}

/// The proximal point to which pre-training with the response `v` moves logits `omega` on sequences that it
/// was trained on.
pub(super) fn memorised(model: &Model, omega: &[f64], label: &[f64], v: f64) -> Vec<f64> {
    let variance = model.attention().logit_variance();
    match model.specialisation() {
        Specialisation::Linear => {
            let pull = 2.0 * variance * v / (model.tokens() * model.tokens()) as f64;
            omega.iter().zip(label).map(|(omega, label)| (omega + pull * label) / (1.0 + pull)).collect()
        }
        Specialisation::Softmax | Specialisation::General => {
            let layer = Layer::new(model);
            let square = model.tokens() * model.tokens();
            let identity: Vec<f64> =
                (0..square).map(|i| if i % (model.tokens() + 1) == 0 { 1.0 } else { 0.0 }).collect();
            let labels = layer.attention(label);
            let samples =
                omega.chunks_exact(square).zip(label.chunks_exact(square)).zip(labels.chunks_exact(square));
            samples
                .flat_map(|((omega, label), y)| {
                    let attention = model.attention();
                    Memory { layer: &layer, attention, identity: &identity, omega, y, v }
                        .proximal_point(label)
                })
                .collect()
        }
    }
}

/// The proximal problem `min_h |sigma(h) - y|_F^2 + |h - omega|_F^2/(2 c v)` of one sequence, with `c = 2` for tied and `c = 1` for
/// cross-attention.
struct Memory<'a> {
    layer: &'a Layer,
    attention: Attention,
    identity: &'a [f64],
    omega: &'a [f64],
    y: &'a [f64],
    v: f64,
}

impl Memory<'_> {
    /// The lowest of the minima found downhill from `omega`, from the logits of the label, and from the
    /// midpoint of the two.
    fn proximal_point(&self, label: &[f64]) -> Vec<f64> {
        if self.v <= 0.0 {
            return self.omega.to_vec();
        }
        let stopping = Stopping { gradient_tolerance: 1e-9, max_iterations: 1000 };
        let from = |share: f64| {
            let pairs = self.omega.iter().zip(label);
            let start: Vec<f64> = pairs.map(|(omega, label)| omega + share * (label - omega)).collect();
            minimise(self, &start, stopping)
        };
        let best = lowest([0.0, 0.5, 1.0].map(from).into_iter(), |minimum| minimum.objective);
        best.map_or_else(|| self.omega.to_vec(), |minimum| minimum.w)
    }
}

impl Objective for Memory<'_> {
    fn evaluate(&self, h: &[f64]) -> (f64, Vec<f64>) {
        let mut gradient = h.to_vec();
        let mut value = match self.attention {
            Attention::Tied => self.layer.adjoint(&mut gradient, self.y, self.identity),
            Attention::Cross => self.layer.slopes(&mut gradient, self.y, self.identity),
        };
        let scale = self.attention.logit_variance() * self.v;
        for ((gradient, h), omega) in gradient.iter_mut().zip(h).zip(self.omega) {
            *gradient += (h - omega) / scale;
            value += (h - omega) * (h - omega) / (2.0 * scale);
        }
        (value, gradient)
    }
}

/// Draws or takes the sequences of fine-tuning, in the way that the scenario asks for.
pub(super) fn finetuning_batch(
    source: &Source<'_>,
    rng: &mut Pcg64,
    instance: &Instance<'_>,
    sequences: lora::Sequences,
    [count, pool]: [usize; 2],
) -> Batch {
    match sequences {
        lora::Sequences::Fresh => source.fresh(rng, instance, count),
        lora::Sequences::Reused => source.reused(rng, instance, count),
        lora::Sequences::Active(selection) => source.selected(rng, instance, selection, [count, pool]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::Laboratory;
    use crate::simulate::random::{Purpose, Streams};
    use crate::simulate::sequences::{Shape, score_of};

    fn second_moment(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() / a.len() as f64
    }

    fn with_instance(model: &Model, check: impl FnOnce(&Instance<'_>, &mut Pcg64)) {
        let laboratory = Laboratory::default();
        let streams = Streams { seed: 3, dimension: 4, instance: 0 };
        let shape = Shape { dimension: 4, tokens: model.tokens() };
        check(
            &Instance { model, laboratory: &laboratory, streams, shape },
            &mut streams.stream(Purpose::Finetuning),
        );
    }

    #[test]
    fn synthetic_logits_have_the_overlaps_asked_for() {
        let law = Frozen::new(2.0, 1.2, 1.1).unwrap();
        with_instance(&Model::linear(3, 0.5).unwrap(), |instance, rng| {
            let Batch { clean, noisy, frozen, .. } = Source::Law(law).fresh(rng, instance, 20_000);
            // The unit is the variance of an entry of the T x T matrix: 2 Q on the diagonal and Q off it, so
            // Q (T + 1)/T on average.
            let unit = 4.0 / 3.0;
            for (moment, expected) in [
                (second_moment(&frozen, &frozen), law.q()),
                (second_moment(&clean, &frozen), law.m()),
                (second_moment(&clean, &clean), law.q0()),
                (second_moment(&noisy, &noisy), law.q0() + 0.25),
                (second_moment(&noisy, &clean), law.q0()),
            ] {
                // The mean is over 120,000 independent coordinates.
                assert!((moment / unit - expected).abs() < 0.03 * expected, "{moment}, {expected}");
            }
        });
    }

    #[test]
    fn selection_keeps_the_smallest_scores() {
        let law = Frozen::new(2.0, 1.2, 1.1).unwrap();
        let model = Model::softmax(2, 0.5).unwrap();
        for kind in [lora::Score::Frobenius, lora::Score::Centred] {
            with_instance(&model, |instance, rng| {
                let selection = Selection::new(0.25, kind).unwrap();
                let kept = Source::Law(law).selected(rng, instance, selection, [1000, 4000]);
                let all = Source::Law(law).fresh(rng, instance, 4000);
                let scores = |batch: &Batch| -> Vec<f64> {
                    let mut scores: Vec<f64> =
                        batch.frozen.chunks_exact(4).map(|z| score_of(kind, 2, z)).collect();
                    scores.sort_by(f64::total_cmp);
                    scores
                };
                let (kept, all) = (scores(&kept), scores(&all));
                assert_eq!(kept.len(), 1000);
                // The largest score that is kept is at the quartile of all scores.
                assert!((kept[999] / all[999] - 1.0).abs() < 0.1, "{} {}", kept[999], all[999]);
            });
        }
    }

    #[test]
    fn memorised_logits_are_proximal_points() {
        let v = 3.0;
        for model in [
            Model::linear(2, 0.5).unwrap(),
            Model::softmax(3, 0.5).unwrap().with_inverse_temperature(1.4).unwrap(),
            Model::softmax(2, 0.5).unwrap().with_attention(Attention::Cross).unwrap(),
        ] {
            let layer = Layer::new(&model);
            with_instance(&model, |instance, rng| {
                let batch = Source::Law(Frozen::new(2.0, 1.2, 1.1).unwrap().with_response(v).unwrap())
                    .fresh(rng, instance, 30);
                let square = model.tokens() * model.tokens();
                let points = memorised(&model, &batch.frozen, &batch.noisy, v);
                let labels = layer.attention(&batch.noisy);
                let identity: Vec<f64> =
                    (0..square).map(|i| if i % (model.tokens() + 1) == 0 { 1.0 } else { 0.0 }).collect();
                for mu in 0..30 {
                    let at = square * mu..square * (mu + 1);
                    let omega = &batch.frozen[at.clone()];
                    let problem = Memory {
                        layer: &layer,
                        attention: model.attention(),
                        identity: &identity,
                        omega,
                        y: &labels[at.clone()],
                        v,
                    };
                    let (value, gradient) = problem.evaluate(&points[at.clone()]);
                    assert!(gradient.iter().all(|slope| slope.abs() < 1e-7), "{gradient:?}");
                    assert!(
                        value <= problem.evaluate(omega).0 && value <= problem.evaluate(&batch.noisy[at]).0
                    );
                }
            });
        }
    }
}
