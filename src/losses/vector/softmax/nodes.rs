//! The averages by quasi-Monte-Carlo over the frozen logits, the label's noise, `chi*` and `omega`.

use super::fields::{Logits, training_logits};
use super::prox::{LogitsBlock, Problems, accumulate};
use crate::channel::{self, FollowedPoints, SoftmaxRow, softmax_row};
use crate::descent::LaneVector;
use crate::divergence::Divergence;
use crate::error::Error;
use crate::fields::{FieldColumns, JointLaw};
use crate::lanes::LANES;
use crate::losses::vector::channel::FinetuningLosses;
use crate::losses::vector::moments::{Moments, VectorOverlaps};
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
/// Relative size of a Newton step after which that error is 10^-8, far below the noise of an average, if the tolerance of the
/// iteration is matched to that noise.
const BELOW_NOISE: f64 = 1e-4;
/// That size in the first step on the finest level, whose error is 10^-4. The steps that follow correct it.
const FIRST_STEP: f64 = 1e-2;

/// How many samples have several minima, judged on a cheap level, where all starts of all samples are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SecondMinima {
    /// None of many samples. On the finest level the minimum downhill from `omega` is taken: fewer than one sample in
    /// 10^3 have a second minimum, and a fraction of these a lower one.
    Unseen,
    /// Some. The steps of the iteration take the minimum downhill from `omega`, and the fresh evaluation at the end
    /// tries all starts.
    Rare,
    /// So many that the steps try all starts, too.
    Frequent,
}

impl SecondMinima {
    /// Smallest number of samples that tell that second minima are rare.
    const MANY: usize = 1 << 13;
    /// Share of samples from which on second minima are frequent.
    const FREQUENT: f64 = 2e-3;

    fn judged(contested: usize, samples: usize) -> Self {
        if contested as f64 > Self::FREQUENT * samples as f64 {
            Self::Frequent
        } else if contested == 0 && samples >= Self::MANY {
            Self::Unseen
        } else {
            Self::Rare
        }
    }
}

/// Quasi-Monte-Carlo averages over several scrambles, in units with `q0 = 1`. The proximal points of a block
/// are remembered from one evaluation to the next.
pub(super) struct SoftmaxVectorNodes<const T: usize> {
    coupling: f64,
    samples: Samples<LogitsBlock<T>, FollowedPoints<T>>,
    zero_weights: ZeroWeightsByLevel,
    /// Relative size of a Newton step after which a descent ends.
    close: f64,
    second_minima: SecondMinima,
    /// Whether the next evaluation is the first one on the finest level.
    first_step: bool,
}

/// `chi*` and the free part of `omega` of the block that begins with node `first`.
pub(super) fn weights<const T: usize>(columns: &FieldColumns, first: usize) -> [LaneVector<T>; 2] {
    [&columns.star, &columns.free]
        .map(|columns| std::array::from_fn(|i| std::array::from_fn(|l| columns[i][first + l])))
}

impl<const T: usize> SoftmaxVectorNodes<T> {
    /// The nodes for the given law of the logits. `coupling` is the inverse temperature times `q0`.
    pub(super) fn new<const K: usize>(
        law: &JointLaw,
        coupling: f64,
        options: &Options,
        tuning: &Tuning,
    ) -> Result<Self, Error> {
        let columns = |index| FieldColumns::new(T, law, options, index, false);
        let block = |columns: &FieldColumns, first| {
            let [star, free] = weights(columns, first);
            let (frozen, mut label) = training_logits::<T, K>(law, &columns.logits(), first);
            perturb(&mut label, &star, 1.0, coupling);
            let y = std::array::from_fn(|a| softmax_row(&label[a]));
            LogitsBlock { frozen, label, y, star, free }
        };
        let samples = Samples::new(options, tuning, LANES, FollowedPoints::NOTHING, columns, block)?;
        let close = if options.tolerance().is_some() { EXACT } else { BELOW_NOISE };
        Ok(Self {
            coupling,
            samples,
            zero_weights: ZeroWeightsByLevel::default(),
            close,
            second_minima: SecondMinima::Rare,
            first_step: false,
        })
    }
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

    fn resolution(&self) -> f64 {
        // Between two evaluations, a few nodes in a thousand may change from one minimum to another.
        1e-3
    }

    fn averages(&mut self, level: usize, pass: Pass, point: &VectorOverlaps) -> Vec<Moments> {
        // An approach moves far in each step, and its nodes are few.
        let doubted = match self.second_minima {
            SecondMinima::Unseen => false,
            SecondMinima::Rare => pass == Pass::Fresh,
            SecondMinima::Frequent => true,
        };
        if level == 0 || doubted {
            self.samples.remember(FollowedPoints::doubt);
        }
        let everywhere = level == 0 || level + 1 < self.levels() || doubted;
        let close =
            if pass == Pass::Step && self.first_step { self.close.max(FIRST_STEP) } else { self.close };
        self.first_step = false;
        let problems = Problems { coupling: self.coupling, close, point };
        let means = self.samples.means_of_groups(
            level,
            #[inline(always)]
            |blocks, known, sums| accumulate(problems, blocks, known, everywhere, sums),
        );
        means.into_iter().map(Moments::from_sums).collect()
    }

    /// The next evaluation of a cheap level tries all starts of every proximal point. What is found there decides on
    /// the finest level.
    fn prepare(&mut self, level: usize, _point: &VectorOverlaps) {
        self.samples.remember(FollowedPoints::doubt);
        self.first_step = level > 0 && level + 1 == self.levels();
        self.second_minima = SecondMinima::Rare;
        if let Some(below) = level.checked_sub(1) {
            let (mut contested, mut all) = (0, 0);
            for memory in self.samples.memories(below) {
                contested += memory.contested();
                all += LANES;
            }
            self.second_minima = SecondMinima::judged(contested, all);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes::Lane;
    use crate::memory::Workload;
    use crate::model::Model;

    #[test]
    fn memory_is_foreseen() {
        let curvatures = LANES * size_of::<[Curvature; 8]>();
        let kept = size_of::<LogitsBlock<8>>() + size_of::<FollowedPoints<8>>() + curvatures;
        let foreseen =
            Workload::Finetuning { selected: false }.numbers(&Model::softmax(8, 0.5).unwrap()).kept;
        // One flag per block counts as one number per node.
        assert_eq!(kept.div_ceil(size_of::<Lane>()), foreseen);
    }
}
