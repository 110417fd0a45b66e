//! One token: the averages by a product rule over `(chi*, N, omega)`, whose integrands are smooth enough for
//! an accuracy of 1e-7.
//!
//! The proximal point jumps at `omega = 0` if `b > 1/(a v)`. The rules for `omega` and for `N` are split
//! there, and the splits move with the order parameters, so that every point without smoothness is an end of
//! a rule.

use super::prox::{EigenbasisBlock, SUMS, accumulate, normalised};
use crate::divergence::Divergence;
use crate::fields::{LabelNoise, ScalarLaw};
use crate::lanes::LANES;
use crate::losses::vector::channel::FinetuningLosses;
use crate::losses::vector::moments::{Moments, VectorOverlaps};
use crate::parallel;
use crate::quadrature::{normal_density, split_rule, unit_rule};
use crate::state_evolution::{OutputChannel, Pass};

/// Numbers of nodes at every level: for `chi*`, and on each side of the split for `N` and for `omega`. Twice
/// the last number is a multiple of the block size.
const LEVELS: [[usize; 3]; 3] = [[24, 12, 12], [40, 20, 20], [80, 40, 36]];
/// Distance at which the Gaussians are cut, in standard deviations.
const REACH: f64 = 8.5;

/// The fixed part of the rule at one level: nodes and weights on `[0, 1]` for `N` and `omega`.
struct RuleLevel {
    star: Vec<(f64, f64)>,
    noise: Vec<(f64, f64)>,
    omega: Vec<(f64, f64)>,
}

/// Averages for `T = 1`.
pub(super) struct ProductRule {
    levels: Vec<RuleLevel>,
    law: Option<ScalarLaw>,
}

impl ProductRule {
    pub(super) fn new(noise: &LabelNoise) -> Self {
        let level = |[star, noise, omega]: [usize; 3]| RuleLevel {
            // The average is over chi* >= 0, by symmetry.
            star: unit_rule(star)
                .into_iter()
                .map(|(x, w)| (REACH * x, 2.0 * REACH * w * normal_density(REACH * x)))
                .collect(),
            noise: unit_rule(noise),
            omega: unit_rule(omega),
        };
        Self { levels: LEVELS.into_iter().map(level).collect(), law: noise.scalar() }
    }
}

impl RuleLevel {
    /// The weighted sums at one `chi*`.
    fn sums<const FULL: bool>(
        &self,
        law: Option<&ScalarLaw>,
        star: f64,
        point: &VectorOverlaps,
    ) -> [f64; SUMS] {
        let omega =
            split_rule(&self.omega, -point.m * star / point.deviation(), Vec::new(), REACH, normal_density);
        // This is b without N; here a = 4/T^2 = 4.
        let base = star * star - 1.0;
        let onset = 0.25 / point.v - point.q() - base;
        let noise = law.map_or_else(
            || vec![(0.0, 1.0)],
            |law| split_rule(&self.noise, onset, law.breaks(), law.half_width, |x| law.density(x)),
        );
        let mut sums = [[0.0; LANES]; SUMS];
        for (label, label_weight) in noise {
            let b = base + label;
            for nodes in omega.chunks_exact(LANES) {
                let free = std::array::from_fn(|l| nodes[l].0);
                let weight = std::array::from_fn(|l| label_weight * nodes[l].1);
                let block = EigenbasisBlock { weight, b: [[b; LANES]], star: [[star; LANES]], free: [free] };
                accumulate::<1, FULL>(point, &block, &mut [0.0; LANES], &mut sums);
            }
        }
        sums.map(|lane| lane.iter().sum())
    }

    fn moments<const FULL: bool>(&self, law: Option<&ScalarLaw>, point: &VectorOverlaps) -> Moments {
        let rows = parallel::map(self.star.len(), 1, &|row| self.sums::<FULL>(law, self.star[row].0, point));
        let mut sums = [0.0; SUMS];
        for (row, (_, weight)) in rows.iter().zip(&self.star) {
            for (sum, x) in sums.iter_mut().zip(row) {
                *sum += weight * x;
            }
        }
        normalised(sums)
    }
}

impl FinetuningLosses for ProductRule {
    fn smooth_divergence(&self) -> Divergence {
        // The Jacobian is singular at the onset of the jump, but g itself is not. A rule without noise can
        // therefore only integrate by parts.
        Divergence::IntegrationByParts
    }
}

impl OutputChannel for ProductRule {
    type Point = VectorOverlaps;
    type Averages = Moments;

    fn levels(&self) -> usize {
        self.levels.len()
    }

    /// The averages of a single replicate. The rule moves with the order parameters, so that the averages do
    /// not jump.
    fn averages(&mut self, level: usize, pass: Pass, point: &VectorOverlaps) -> Vec<Moments> {
        let (level, law) = (&self.levels[level], self.law.as_ref());
        let moments = match pass {
            Pass::Step => level.moments::<false>(law, point),
            Pass::Complete | Pass::Fresh => level.moments::<true>(law, point),
        };
        vec![moments]
    }
}
