//! The averages by quasi-Monte-Carlo over the frozen logits, the label's noise, `chi*` and `omega`.

use super::controls::{CONTROLS, SteinControls, TERMS};
use super::fields::{Logits, LogitsBlock, PretrainingSolve, pretraining_solve, training_logits};
use super::prox::{Problems, accumulate};
use crate::channel::{self, FollowedPoints, MANY_SAMPLES, SoftmaxRow, TriedStarts, softmax_row};
use crate::descent::LaneVector;
use crate::divergence::Divergence;
use crate::error::Error;
use crate::fields::{FieldColumns, JointLaw, Sequences};
use crate::lanes::{self, LANES};
use crate::losses::control_variates::ControlVariates;
use crate::losses::vector::channel::FinetuningLosses;
use crate::losses::vector::moments::{COUNT, Moments, VectorOverlaps, term};
use crate::losses::vector::zero_weights::{
    Curvature, CurvatureList, Curvatures, ZeroWeights, ZeroWeightsByLevel,
};
use crate::options::Options;
use crate::parallel;
use crate::state_evolution::{OutputChannel, Pass, Samples, Tuning};

/// Number of samples per unit of parallel work.
const CHUNK: usize = 512;

/// Relative size of a Newton step after which the error of a proximal point is below rounding. It is quadratic in the
/// step.
const EXACT: f64 = 1e-8;
/// Relative size of a Newton step after which that error is 10^-6, far below the noise of an average, if the tolerance of the
/// iteration is matched to that noise.
const BELOW_NOISE: f64 = 1e-3;
/// That size in the first step on the finest level, whose error is 10^-4. The steps that follow correct it. The noise that is measured there is
/// right to a hundredth of a standard error.
const FIRST_STEP: f64 = 1e-2;

/// Distance from the last search from all starts beyond which a step makes another one, where second minima are looked for in steps.
const FAR: f64 = 0.05;
/// Largest number of steps on a level beyond the cheapest that try all starts because the point has moved far. It bounds the time where an
/// iteration wanders.
const SEARCHES: usize = 4;

/// How many samples have several minima, judged on a cheap level, where all starts of all samples are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SecondMinima {
    /// None of many samples. On the finest level the minimum downhill from `omega` is taken: fewer than one sample in
    /// 10^3 have a second minimum, and a fraction of these a lower one.
    Unseen,
    /// Some. The steps of the iteration take the minimum downhill from `omega`, and the fresh evaluation at the end
    /// tries all starts.
    Rare,
    /// So many that the first step tries all starts, too, as do the first few that have led far from the last one that did, and all
    /// evaluations that are more than a step. The other steps follow both minima of contested samples. If the number of nodes or the
    /// tolerance is given, all steps try all starts.
    Frequent,
    /// So many that the verdict is nearly always `unreliable`, and that a pass over all nodes takes up to a hundred times as long as
    /// where there are none. If the number of nodes and the tolerance were left to the library, the search then ends on the second
    /// level, of which half the nodes are used. This is decided before that level is climbed.
    Prevalent,
}

impl SecondMinima {
    /// Share of samples from which on second minima are frequent.
    const FREQUENT: f64 = 2e-3;
    /// Share of samples from which on they are prevalent, for two tokens, for three, and for more. In surveys, the verdict was then
    /// `unreliable`, but for 4 of 480 solves at three tokens with little noise and nearly exact frozen weights, where it was `marginal`. With
    /// more tokens, samples with second minima are more common.
    const PREVALENT: [f64; 3] = [0.035, 0.025, 0.15];

    /// The judgement from the number of samples that had several minima in the last search, of all samples, and of those that still have them.
    fn judged([contested, samples]: [usize; 2], left: usize, tokens: usize) -> Self {
        let share = contested as f64 / samples as f64;
        if share > Self::PREVALENT[tokens.clamp(2, 4) - 2] {
            Self::Prevalent
        } else if share > Self::FREQUENT {
            Self::Frequent
        } else if left == 0 && samples >= MANY_SAMPLES {
            Self::Unseen
        } else {
            Self::Rare
        }
    }
}

/// Number of samples whose sums are one observation in the fit of the controls, where there are enough. The sums of more samples tell better what
/// quasi-Monte-Carlo leaves of the noise, and those of fewer are more observations: with 16 or 64, the variance of `q` is a fifth larger at two tokens.
const GROUP: usize = 32;
/// Number of observations per control, all scrambles together, from which on an observation may be the sum of more than one block.
const OBSERVATIONS: usize = 32;
/// Number of parts of the scrambles. The coefficients for the scrambles of a part are fitted to those of the other, so that they hardly
/// depend on the nodes that they correct.
const PARTS: usize = 2;

/// The terms whose noise the controls take away. The pointwise derivatives of proximal points are not among them: near a
/// jump they are so large that a few samples would decide the fit.
const CONTROLLED: [usize; 9] = [
    term::GRADIENT2,
    term::CENTRING,
    term::GRADIENT_FREE,
    term::GRADIENT_STAR,
    term::FREE2,
    term::FREE_STAR,
    term::STAR2,
    term::LOSS,
    term::STABILITY,
];

/// The coefficients of the controls, for the scrambles of each part, which take turns.
type Coefficients = [ControlVariates<{ CONTROLLED.len() }, CONTROLS>; PARTS];

/// The noise of the averages on the finest level.
struct Noise {
    /// Where it was measured. It vanishes on average wherever it is measured, and hardly changes over the last steps of an iteration, so that one
    /// measurement serves all evaluations nearby, unless a tolerance is given: the averages are then as smooth as they are without controls.
    point: VectorOverlaps,
    /// These are fitted in the first measurement, and stay.
    coefficients: Coefficients,
    /// The noise of the terms that have controls, for every scramble.
    terms: Vec<[f64; CONTROLLED.len()]>,
}

impl Noise {
    /// Largest distance between points that are taken to have the same noise.
    const NEARBY: f64 = 3e-2;
}

/// Whether two points differ by at most `distance`: their overlaps relative to the deviation of `omega` given `chi*`, and the logarithms of
/// their other coordinates.
fn are_near(one: &VectorOverlaps, other: &VectorOverlaps, distance: f64) -> bool {
    let changes = [(one.m - other.m) / one.deviation(), (one.s2 / other.s2).ln(), (one.v / other.v).ln()];
    changes.into_iter().all(|change| change.abs() <= distance)
}

/// The controls of the averages on the finest level.
struct Controls {
    stein: SteinControls,
    /// It is unknown before the first evaluation.
    noise: Option<Noise>,
}

impl Controls {
    /// The controls with the noise at a point, from the sums of terms and controls over groups of samples, for each scramble, and from the
    /// means. There are none if the coefficients cannot be fitted.
    fn measured(
        self,
        point: &VectorOverlaps,
        groups: &[Vec<[f64; TERMS]>],
        means: &[[f64; TERMS]],
    ) -> Option<Self> {
        let coefficients = match self.noise {
            Some(noise) => noise.coefficients,
            None => fitted(groups)?,
        };
        let of_scramble = |(scramble, means): (usize, _)| {
            let (_, controls) = observation(means);
            coefficients[scramble % PARTS].noise(&controls)
        };
        let terms = means.iter().enumerate().map(of_scramble).collect();
        Some(Self { noise: Some(Noise { point: *point, coefficients, terms }), ..self })
    }
}

/// The coefficients of the controls from the sums over groups of samples, for each scramble.
fn fitted(groups: &[Vec<[f64; TERMS]>]) -> Option<Coefficients> {
    let fit = |part: usize| {
        let others = groups.iter().enumerate().filter(|(scramble, _)| scramble % PARTS != part);
        let groups: Vec<_> = others.flat_map(|(_, groups)| groups).map(observation).collect();
        ControlVariates::fitted(&groups)
    };
    Some([fit(0)?, fit(1)?])
}

/// Quasi-Monte-Carlo averages over several scrambles, in units with `q0 = 1`. The proximal points of a block
/// are remembered from one evaluation to the next.
pub(super) struct SoftmaxVectorNodes<const T: usize> {
    law: JointLaw,
    coupling: f64,
    samples: Samples<LogitsBlock<T>, FollowedPoints<T>>,
    /// The mean height of the objective in the last evaluation.
    height: f64,
    controls: Option<Controls>,
    zero_weights: ZeroWeightsByLevel,
    /// Relative size of a Newton step after which a descent ends.
    close: f64,
    /// Whether the noise measured at one point serves nearby.
    keeps_noise: bool,
    second_minima: SecondMinima,
    /// Whether the number of nodes and the tolerance are left to the library, so that the search may save time where second minima make every
    /// solution unreliable.
    frugal: bool,
    /// Whether the next evaluation is the first one on the finest level.
    first_step: bool,
    /// Where starts were tried last on this level, or its first point.
    searched: Option<VectorOverlaps>,
    /// The number of samples that had several minima there, and of all samples.
    contested: [usize; 2],
    /// The number of steps on this level that have tried starts.
    searches: usize,
}

/// `chi*` and the free part of `omega` of the block that begins with node `first`.
#[inline(always)]
fn weights<const T: usize>(columns: &FieldColumns, first: usize) -> [LaneVector<T>; 2] {
    let mut weights = [[[0.0; LANES]; T]; 2];
    for i in 0..T {
        weights[0][i] = lanes::load(&columns.star[i], first);
        weights[1][i] = lanes::load(&columns.free[i], first);
    }
    weights
}

impl<const T: usize> SoftmaxVectorNodes<T> {
    /// The nodes for the given law of the logits. `coupling` is the inverse temperature times `q0`.
    pub(super) fn new<const K: usize>(
        law: &JointLaw,
        coupling: f64,
        options: &Options,
        tuning: &Tuning,
    ) -> Result<Self, Error> {
        let columns =
            |index, columns: &mut FieldColumns| columns.write_equivalent_tokens(T, law, options, index);
        Self::of_columns::<K>(law, coupling, options, tuning, columns)
    }

    /// The nodes that are made from the columns that `columns` writes for every scramble.
    fn of_columns<const K: usize>(
        law: &JointLaw,
        coupling: f64,
        options: &Options,
        tuning: &Tuning,
        columns: impl Fn(usize, &mut FieldColumns) -> Result<(), Error>,
    ) -> Result<Self, Error> {
        let solve = if law.sequences == Sequences::Reused {
            let mut few = FieldColumns::default();
            columns(0, &mut few)?;
            let sampled = options.follows_noise();
            pretraining_solve::<T, K>(law, &few.logits(), few.nodes(), sampled)
        } else {
            PretrainingSolve::NONE
        };
        let block = |columns: &FieldColumns, first| {
            lanes::wide(
                #[inline(always)]
                || {
                    let [star, free] = weights(columns, first);
                    let (frozen, mut label) = training_logits::<T, K>(law, &columns.logits(), first, solve);
                    perturb(&mut label, &star, 1.0, coupling);
                    let mut y = label;
                    for a in 0..T {
                        y[a] = softmax_row(&label[a]);
                    }
                    LogitsBlock { frozen, label, y, star, free }
                },
            )
        };
        let samples = Samples::new(options, tuning, LANES, FollowedPoints::NOTHING, columns, block)?;
        let close = if options.follows_noise() { BELOW_NOISE } else { EXACT };
        Ok(Self {
            law: *law,
            coupling,
            samples,
            height: 0.0,
            controls: None,
            zero_weights: ZeroWeightsByLevel::default(),
            close,
            keeps_noise: options.follows_noise(),
            second_minima: SecondMinima::Rare,
            frugal: options.has_automatic_nodes() && options.follows_noise(),
            first_step: false,
            searched: None,
            contested: [0, 1],
            searches: 0,
        })
    }
}

impl<const T: usize> SoftmaxVectorNodes<T> {
    /// Number of nodes of each scramble that an evaluation on a level uses.
    fn evaluated_nodes(&self, level: usize) -> usize {
        let nodes = self.samples.nodes(level);
        let cut_short = level > 0 && level + 1 < self.samples.levels();
        if cut_short && self.second_minima == SecondMinima::Prevalent {
            (nodes / 2).next_multiple_of(LANES)
        } else {
            nodes
        }
    }

    /// Number of samples of an observation for a number of nodes of each scramble.
    fn group(&self, nodes: usize) -> usize {
        let most = nodes * self.samples.scrambles().len() / (OBSERVATIONS * CONTROLS);
        most.checked_ilog2().map_or(LANES, |log2| 1 << log2).clamp(LANES, GROUP)
    }

    /// The sums of terms and controls over every `samples` consecutive samples of the first `nodes` nodes, for each scramble.
    fn sums(
        &mut self,
        nodes: usize,
        samples: usize,
        problems: Problems<'_>,
        starts: TriedStarts,
    ) -> Vec<Vec<[f64; TERMS]>> {
        self.samples.sums_of_groups(
            nodes,
            samples,
            #[inline(always)]
            |blocks, known, sums| {
                lanes::widest(
                    #[inline(always)]
                    || accumulate(problems, blocks, known, starts, sums),
                )
            },
        )
    }
}

/// The terms that have controls, and the controls.
fn observation(sums: &[f64; TERMS]) -> ([f64; CONTROLLED.len()], [f64; CONTROLS]) {
    (CONTROLLED.map(|k| sums[k]), std::array::from_fn(|j| sums[COUNT + j]))
}

/// The curvatures of the loss of every sample at `w = 0`.
fn at_zero<const T: usize>(blocks: &[LogitsBlock<T>], coupling: f64) -> Curvatures {
    let parts: Vec<([Curvature; T], [f64; 2])> = parallel::map(blocks.len() * LANES, CHUNK, &|node| {
        let (block, l) = (&blocks[node / LANES], node % LANES);
        let rows: [SoftmaxRow<T, 1>; T] = std::array::from_fn(|a| {
            SoftmaxRow::new(&block.frozen[a].map(|lane| [lane[l]]), &block.y[a].map(|lane| [lane[l]]))
        });
        let curvature = |a: usize, b: usize| 2.0 * coupling * (rows[a].slope[b][0] + rows[b].slope[a][0]);
        let matrix = std::array::from_fn(|a| std::array::from_fn(|b| curvature(a, b)));
        let (values, star) = channel::eigenbasis::<T>(matrix, block.star.map(|component| component[l]));
        let spectrum = std::array::from_fn(|i| Curvature { value: values[i], star2: star[i] * star[i] });
        let loss = rows.iter().map(|row| row.loss[0]).sum();
        let centring = -0.5 * values.iter().sum::<f64>();
        (spectrum, [loss, centring])
    });
    let count = parts.len() as f64;
    let mean = |k: usize| parts.iter().map(|(_, terms)| terms[k]).sum::<f64>() / count;
    let (loss, centring) = (mean(0), mean(1));
    let curvatures = parts.into_iter().flat_map(|(spectrum, _)| spectrum).collect();
    Curvatures { curvatures: CurvatureList::Single(curvatures), loss, centring, count, dropped: 0.0 }
}

/// Adds `coupling (chi chi^T - q I)` to logits.
#[inline(always)]
pub(super) fn perturb<const T: usize>(logits: &mut Logits<T>, chi: &LaneVector<T>, q: f64, coupling: f64) {
    for a in 0..T {
        for b in 0..T {
            for l in 0..LANES {
                let own = if a == b { q } else { 0.0 };
                logits[a][b][l] += coupling * (chi[a][l] * chi[b][l] - own);
            }
        }
    }
}

impl<const T: usize> FinetuningLosses for SoftmaxVectorNodes<T> {
    fn smooth_divergence(&self) -> Divergence {
        // The jumps are not known in closed form.
        Divergence::IntegrationByParts
    }

    fn zero_weights(&mut self, level: usize) -> Option<&ZeroWeights> {
        let Self { zero_weights, samples, coupling, .. } = self;
        Some(
            zero_weights
                .at(level, || samples.blocks(level).map(|blocks| at_zero(blocks, *coupling)).collect()),
        )
    }
}

impl<const T: usize> OutputChannel for SoftmaxVectorNodes<T> {
    type Point = VectorOverlaps;
    type Averages = Moments;

    fn levels(&self) -> usize {
        self.samples.levels()
    }

    fn levels_to_climb(&self) -> usize {
        let all = self.levels();
        if self.second_minima == SecondMinima::Prevalent { all.min(2) } else { all }
    }

    fn resolution(&self) -> f64 {
        // Between two evaluations, a few nodes in a thousand may change from one minimum to another.
        1e-3
    }

    fn is_rough(&self) -> bool {
        self.frugal && self.second_minima == SecondMinima::Frequent
    }

    fn averages(&mut self, level: usize, pass: Pass, point: &VectorOverlaps) -> Vec<Moments> {
        let first = self.searched.is_none();
        let far = self.searched.is_none_or(|searched| !are_near(&searched, point, FAR));
        let wanders = level > 0 && self.searches >= SEARCHES;
        let due = !self.frugal || pass != Pass::Step || (far && !wanders);
        let expected = match self.second_minima {
            SecondMinima::Unseen => false,
            SecondMinima::Rare => pass == Pass::Fresh,
            SecondMinima::Frequent | SecondMinima::Prevalent => due,
        };
        let doubted = expected || level == 0 && due;
        if doubted {
            self.searches += usize::from(pass == Pass::Step);
            self.samples.remember(FollowedPoints::doubt);
        }
        // The steps of an approach only have to lead to the neighbourhood of a fixed point.
        let starts = if level == 0 && pass == Pass::Step && self.frugal {
            TriedStarts::Bent
        } else if level + 1 < self.levels() || doubted {
            TriedStarts::All
        } else {
            TriedStarts::Known
        };
        let close =
            if pass == Pass::Step && self.first_step { self.close.max(FIRST_STEP) } else { self.close };
        self.first_step = false;
        let finest = level + 1 == self.levels_to_climb();
        let controls = self.controls.as_ref().filter(|_| finest);
        let kept = |controls: &Controls| {
            controls.noise.as_ref().is_some_and(|noise| are_near(&noise.point, point, Noise::NEARBY))
        };
        let unknown = controls.filter(|controls| !(self.keeps_noise && kept(controls)));
        let stein = unknown.map(|controls| controls.stein);
        let problems = Problems { coupling: self.coupling, close, point, controls: stein };
        let nodes = self.evaluated_nodes(level);
        let samples = if stein.is_some() { self.group(nodes) } else { lanes::CHUNK };
        let sums = self.sums(nodes, samples, problems, starts);
        if first || doubted {
            self.searched = Some(*point);
            let contested = self.samples.memories(nodes).map(FollowedPoints::contested).sum();
            self.contested = [contested, nodes * self.samples.scrambles().len()];
        }
        let means: Vec<[f64; TERMS]> =
            self.samples.divided(nodes, sums.iter().map(|sums| lanes::total(sums)).collect());
        let mut terms: Vec<[f64; COUNT]> =
            means.iter().map(|means| std::array::from_fn(|k| means[k])).collect();
        if stein.is_some() {
            self.controls = self.controls.take().and_then(|controls| controls.measured(point, &sums, &means));
        }
        let noise = self.controls.as_ref().filter(|_| finest).and_then(|controls| controls.noise.as_ref());
        for (terms, noise) in terms.iter_mut().zip(noise.iter().flat_map(|noise| &noise.terms)) {
            for (k, noise) in CONTROLLED.into_iter().zip(noise) {
                terms[k] -= noise;
            }
        }
        let moments: Vec<Moments> = terms.into_iter().map(Moments::from_sums).collect();
        let pull = 0.5 * point.v;
        self.height = moments.iter().map(|m| m[term::LOSS] + pull * m[term::GRADIENT2]).sum::<f64>()
            / moments.len() as f64;
        moments
    }

    /// The next evaluation of a cheap level tries all starts of every proximal point. What is found there decides on
    /// the finest level, which has controls.
    fn prepare(&mut self, level: usize, _point: &VectorOverlaps) {
        self.samples.remember(FollowedPoints::doubt);
        (self.searched, self.searches) = (None, 0);
        self.second_minima = SecondMinima::Rare;
        if let Some(below) = level.checked_sub(1) {
            let nodes = self.samples.nodes(below);
            let left = self.samples.memories(nodes).map(FollowedPoints::contested).sum();
            self.second_minima = SecondMinima::judged(self.contested, left, T);
            // A search that has gone beyond the second level does not turn back.
            if self.second_minima == SecondMinima::Prevalent && (level > 1 || !self.frugal) {
                self.second_minima = SecondMinima::Frequent;
            }
        }
        self.first_step = level > 0 && level + 1 == self.levels_to_climb();
        self.controls = self
            .first_step
            .then(|| Controls { stein: SteinControls::new(&self.law, self.height), noise: None });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::{FieldParameters, Score, Selection};
    use crate::frozen::Frozen;
    use crate::lanes::Lane;
    use crate::losses::vector::general;
    use crate::memory::Workload;
    use crate::model::Model;

    #[test]
    fn memory_is_foreseen() {
        let curvatures = LANES * size_of::<[Curvature; 8]>();
        let kept = size_of::<LogitsBlock<8>>() + size_of::<FollowedPoints<8>>() + curvatures;
        let foreseen = Workload::Finetuning { selected: false, reused: false }
            .numbers(&Model::softmax(8, 0.5).unwrap())
            .kept;
        // One flag per block counts as one number per node.
        assert_eq!(kept.div_ceil(size_of::<Lane>()), foreseen);
    }

    const POINT: VectorOverlaps = VectorOverlaps { m: 0.72, s2: 0.13, v: 0.35 };
    /// Here, one sample in ten has several minima.
    const WITH_JUMPS: VectorOverlaps = VectorOverlaps { m: 0.3, s2: 1.93, v: 1.7 };

    fn options(log2_nodes: usize, scrambles: usize) -> Options {
        Options::default().with_log2_nodes(log2_nodes).unwrap().with_scrambles(scrambles).unwrap()
    }

    fn nodes<const T: usize, const K: usize>(
        parameters: &FieldParameters,
        coupling: f64,
        options: &Options,
    ) -> SoftmaxVectorNodes<T> {
        let model = Model::softmax(T, 0.5).unwrap().with_inverse_temperature(coupling).unwrap();
        let frozen = Frozen::new(2.0, 1.2, 1.1).unwrap().with_response(0.8).unwrap();
        let law = JointLaw::new(&model, &frozen, parameters);
        SoftmaxVectorNodes::new::<K>(&law, coupling, options, &Tuning::default()).unwrap()
    }

    /// Near a solution for 2, 3 or 4 tokens, where a sample with several minima is rare. The two kernels end their descents at
    /// different distances from a minimum, below 1e-8.
    fn check_against_the_general_channel<const T: usize, const K: usize>(sequences: Sequences, beta: f64) {
        let [m, s2, v] = [[0.72, 0.127, 0.35], [0.78, 0.067, 0.23], [0.82, 0.042, 0.17]][T - 2];
        let point = VectorOverlaps { m, s2, v };
        let (coupling, options) = (1.3, options(8, 2));
        let parameters = FieldParameters { sequences, beta, q0: 1.0 };
        let SoftmaxVectorNodes::<T> { law, .. } = nodes::<T, K>(&parameters, coupling, &options);
        let model = Model::softmax(T, 0.5).unwrap();
        let tuning = Tuning::default();
        let columns = |index, columns: &mut FieldColumns| columns.write([T; 2], &law, &options, index, false);
        let mut special =
            SoftmaxVectorNodes::<T>::of_columns::<K>(&law, coupling, &options, &tuning, columns).unwrap();
        special.close = EXACT;
        let mut general = general::losses(&model, &law, coupling, &options, &tuning).unwrap();
        let level = special.levels() - 1;
        let special = special.averages(level, Pass::Fresh, &point);
        let general = general.averages(level, Pass::Fresh, &point);
        for (special, general) in special.iter().zip(&general) {
            for (k, (special, general)) in special.all().into_iter().zip(general.all()).enumerate() {
                let tolerance = 1e-7 * special.abs().max(1e-2);
                assert!(
                    (special - general).abs() <= tolerance,
                    "term {k}: {special} and {general}, {T} tokens"
                );
            }
        }
    }

    #[test]
    fn averages_are_those_of_the_general_channel_on_the_same_nodes() {
        let selection = Selection::new(0.3, Score::Frobenius).unwrap();
        check_against_the_general_channel::<2, 3>(Sequences::Fresh, 0.7);
        check_against_the_general_channel::<2, 3>(Sequences::Reused, 1.0);
        check_against_the_general_channel::<2, 3>(Sequences::Active(selection), 1.0);
        check_against_the_general_channel::<3, 6>(Sequences::Fresh, 1.0);
        check_against_the_general_channel::<3, 6>(Sequences::Reused, 1.0);
        check_against_the_general_channel::<4, 10>(Sequences::Fresh, 1.0);
    }

    /// Mean and standard error of every control.
    fn controls<const T: usize, const K: usize>(
        parameters: &FieldParameters,
        coupling: f64,
        point: &VectorOverlaps,
    ) -> Vec<[f64; 2]> {
        const SCRAMBLES: usize = 32;
        let mut nodes = nodes::<T, K>(parameters, coupling, &options(9, SCRAMBLES));
        let stein = SteinControls::new(&nodes.law, 0.7 * T as f64);
        let problems = Problems { coupling, close: EXACT, point, controls: Some(stein) };
        let level = nodes.levels() - 1;
        let sums: Vec<_> = nodes
            .sums(nodes.samples.nodes(level), lanes::CHUNK, problems, TriedStarts::All)
            .iter()
            .map(|sums| lanes::total(sums))
            .collect();
        let mean = |j: usize| sums.iter().map(|sums| sums[j]).sum::<f64>() / SCRAMBLES as f64;
        let squares = |j: usize, mean: f64| sums.iter().map(|sums| (sums[j] - mean).powi(2)).sum::<f64>();
        (COUNT..TERMS)
            .map(|j| {
                let mean = mean(j);
                [mean, (squares(j, mean) / (SCRAMBLES * (SCRAMBLES - 1)) as f64).sqrt()]
            })
            .collect()
    }

    /// Checks that the controls vanish on average, whether the proximal points jump or not, and that `used` of them are used.
    fn check_controls<const T: usize, const K: usize>(
        sequences: Sequences,
        beta: f64,
        coupling: f64,
        used: usize,
    ) {
        let parameters = FieldParameters { sequences, beta, q0: 1.0 };
        for point in [POINT, WITH_JUMPS] {
            let controls = controls::<T, K>(&parameters, coupling, &point);
            for (j, [mean, error]) in controls.iter().enumerate() {
                assert!(
                    mean.abs() <= 4.0 * error,
                    "control {j}: {mean} +- {error}, {sequences:?}, {T} tokens"
                );
            }
            assert_eq!(controls.iter().filter(|[_, error]| *error > 0.0).count(), used, "{sequences:?}");
        }
    }

    #[test]
    fn controls_vanish_on_average() {
        check_controls::<2, 3>(Sequences::Fresh, 1.0, 1.0, 22);
        check_controls::<2, 3>(Sequences::Fresh, 0.6, 1.7, 22);
        check_controls::<3, 6>(Sequences::Fresh, 1.3, 1.0, 22);
    }

    #[test]
    fn controls_of_fields_that_are_not_gaussian_are_left_out() {
        let selection = Selection::new(0.2, Score::Frobenius).unwrap();
        check_controls::<2, 3>(Sequences::Active(selection), 1.0, 1.0, 17);
        check_controls::<2, 3>(Sequences::Reused, 0.8, 1.0, 12);
        // Here z is zero, as are the controls with a factor z.
        check_controls::<2, 3>(Sequences::Fresh, 0.0, 1.0, 8);
    }

    #[test]
    fn controls_take_away_most_of_the_noise() {
        const SCRAMBLES: usize = 32;
        let parameters = FieldParameters { sequences: Sequences::Fresh, beta: 1.0, q0: 1.0 };
        let mut nodes = nodes::<2, 3>(&parameters, 1.0, &options(11, SCRAMBLES));
        let finest = nodes.levels() - 1;
        let variances = |nodes: &mut SoftmaxVectorNodes<2>| -> [f64; 2] {
            let all = nodes.averages(finest, Pass::Complete, &POINT);
            [term::GRADIENT_STAR, term::GRADIENT_FREE].map(|term| {
                let mean = all.iter().map(|m| m[term]).sum::<f64>() / SCRAMBLES as f64;
                all.iter().map(|m| (m[term] - mean).powi(2)).sum::<f64>()
            })
        };
        let without = variances(&mut nodes);
        nodes.prepare(finest, &POINT);
        let with = variances(&mut nodes);
        assert!(with[0] < 0.6 * without[0] && with[1] < 0.4 * without[1], "{without:?} and {with:?}");
    }

    #[test]
    fn the_search_ends_early_where_second_minima_are_prevalent_unless_nodes_or_a_tolerance_are_given() {
        let parameters = FieldParameters { sequences: Sequences::Fresh, beta: 1.0, q0: 1.0 };
        // Here, four samples in ten have several minima.
        let prevalent = VectorOverlaps { m: 0.2, s2: 1.4, v: 5.0 };
        let automatic = Options::default();
        for (options, point, levels) in [
            (automatic, POINT, 3),
            (automatic, prevalent, 2),
            (automatic.with_log2_nodes(13).unwrap(), prevalent, 3),
            (automatic.with_tolerance(1e-6).unwrap(), prevalent, 3),
        ] {
            let mut nodes = nodes::<2, 3>(&parameters, 1.0, &options);
            nodes.prepare(0, &point);
            nodes.averages(0, Pass::Step, &point);
            nodes.prepare(1, &point);
            assert_eq!(nodes.levels_to_climb(), levels, "{options:?}, {point:?}, {:?}", nodes.second_minima);
            // It is decided on the second level only.
            nodes.averages(1, Pass::Step, &prevalent);
            nodes.prepare(2, &prevalent);
            assert_eq!(nodes.levels_to_climb(), 3);
        }
    }

    #[test]
    fn steps_follow_the_second_minima_of_contested_samples() {
        let parameters = FieldParameters { sequences: Sequences::Fresh, beta: 1.0, q0: 1.0 };
        let moved =
            VectorOverlaps { m: 1.1 * WITH_JUMPS.m, s2: 0.96 * WITH_JUMPS.s2, v: 0.96 * WITH_JUMPS.v };
        // The mean height of the objective at the moved point, after a step elsewhere.
        let height = |second_minima, pass| {
            let mut nodes = nodes::<2, 3>(&parameters, 1.0, &options(10, 4));
            let finest = nodes.levels() - 1;
            (nodes.second_minima, nodes.frugal) = (second_minima, true);
            nodes.averages(finest, Pass::Step, &WITH_JUMPS);
            nodes.averages(finest, pass, &moved);
            (nodes.height, nodes.searched, nodes.contested)
        };
        let (lowest, ..) = height(SecondMinima::Frequent, Pass::Fresh);
        let (followed, searched, [contested, _]) = height(SecondMinima::Frequent, Pass::Step);
        let (downhill, ..) = height(SecondMinima::Unseen, Pass::Step);
        assert_eq!(searched, Some(WITH_JUMPS), "the step nearby has tried no start");
        assert!((200..1000).contains(&contested), "{contested} of 4096 samples have several minima");
        assert!(downhill > lowest + 1e-4, "{downhill}, {lowest}");
        assert!((followed - lowest).abs() < 0.05 * (downhill - lowest), "{followed}, {lowest}, {downhill}");
    }

    #[test]
    fn few_steps_that_lead_far_try_starts_and_every_complete_evaluation_does() {
        let parameters = FieldParameters { sequences: Sequences::Fresh, beta: 1.0, q0: 1.0 };
        let mut nodes = nodes::<2, 3>(&parameters, 1.0, &options(10, 4));
        let finest = nodes.levels() - 1;
        nodes.prepare(finest, &WITH_JUMPS);
        (nodes.second_minima, nodes.frugal) = (SecondMinima::Frequent, true);
        let point = |k: usize| VectorOverlaps { v: WITH_JUMPS.v * (1.0 - 0.1 * k as f64), ..WITH_JUMPS };
        for k in 0..SEARCHES + 3 {
            nodes.averages(finest, Pass::Step, &point(k));
        }
        assert_eq!(nodes.searched, Some(point(SEARCHES - 1)));
        for pass in [Pass::Complete, Pass::Fresh] {
            for place in [POINT, WITH_JUMPS] {
                nodes.averages(finest, pass, &place);
                assert_eq!(nodes.searched, Some(place));
            }
        }
    }

    #[test]
    fn half_the_nodes_of_the_second_level_are_used_where_second_minima_are_prevalent() {
        let parameters = FieldParameters { sequences: Sequences::Fresh, beta: 1.0, q0: 1.0 };
        let mut nodes = nodes::<2, 3>(&parameters, 1.0, &options(11, 8));
        let mut means = Vec::new();
        for (second_minima, divisor) in [(SecondMinima::Frequent, 1), (SecondMinima::Prevalent, 2)] {
            nodes.prepare(1, &WITH_JUMPS);
            nodes.second_minima = second_minima;
            let averages = nodes.averages(1, Pass::Complete, &WITH_JUMPS);
            assert_eq!(nodes.contested[1], 8 * nodes.samples.nodes(1) / divisor);
            means.push(averages.iter().map(|m| m[term::GRADIENT2]).sum::<f64>());
        }
        // Means over other nodes differ by their noise.
        let change = (means[0] / means[1] - 1.0).abs();
        assert!(change > 0.0 && change < 0.05, "{means:?}");
    }

    #[test]
    fn noise_is_kept_nearby_and_forgotten_elsewhere() {
        let parameters = FieldParameters { sequences: Sequences::Fresh, beta: 1.0, q0: 1.0 };
        let measured = |nodes: &SoftmaxVectorNodes<2>| -> Option<VectorOverlaps> {
            nodes.controls.as_ref().and_then(|controls| controls.noise.as_ref()).map(|noise| noise.point)
        };
        let near = VectorOverlaps { v: 1.001 * POINT.v, ..POINT };
        let far = VectorOverlaps { m: 1.05 * POINT.m, ..POINT };
        let without_overlap = VectorOverlaps { m: 0.0, ..far };
        let automatic = options(10, 16);
        for (options, keeps) in [(automatic, true), (automatic.with_tolerance(1e-6).unwrap(), false)] {
            let mut nodes = nodes::<2, 3>(&parameters, 1.0, &options);
            let finest = nodes.levels() - 1;
            nodes.prepare(finest, &POINT);
            for (point, place) in [
                (POINT, POINT),
                (near, if keeps { POINT } else { near }),
                (far, far),
                (without_overlap, without_overlap),
            ] {
                nodes.averages(finest, Pass::Step, &point);
                assert_eq!(measured(&nodes), Some(place), "{point:?}, kept: {keeps}");
            }
            nodes.prepare(finest, &POINT);
            assert_eq!(measured(&nodes), None);
        }
    }

    #[test]
    fn coefficients_for_a_part_are_fitted_to_the_other() {
        let loss = CONTROLLED.iter().position(|k| *k == term::LOSS).unwrap();
        // The noise of the loss for both parts, after a change of the loss of one group of the first scramble.
        let noise = |change: f64| -> [f64; PARTS] {
            let number = |i: usize| (1.7 * i as f64 + 0.3).sin();
            let scramble = |s: usize| -> Vec<[f64; TERMS]> {
                (0..400).map(|g| std::array::from_fn(|k| number((400 * s + g) * 101 + k * k))).collect()
            };
            let mut groups: Vec<_> = (0..PARTS).map(scramble).collect();
            groups[0][7][term::LOSS] += change;
            fitted(&groups).unwrap().map(|fit| fit.noise(&std::array::from_fn(|j| 1.0 + j as f64))[loss])
        };
        let ([own, other], [own_before, other_before]) = (noise(1.0), noise(0.0));
        assert!((own - own_before).abs() < 1e-12, "{own} and {own_before}");
        assert!((other - other_before).abs() > 1e-6, "{other} and {other_before}");
    }

    #[test]
    fn too_few_nodes_have_no_controls() {
        let parameters = FieldParameters { sequences: Sequences::Fresh, beta: 1.0, q0: 1.0 };
        for (scrambles, enough) in [(1, false), (5, false), (6, true)] {
            let mut nodes = nodes::<2, 3>(&parameters, 1.0, &options(9, scrambles));
            let finest = nodes.levels() - 1;
            nodes.prepare(finest, &POINT);
            nodes.averages(finest, Pass::Step, &POINT);
            assert_eq!(nodes.controls.is_some_and(|controls| controls.noise.is_some()), enough);
        }
    }
}
