//! All terms that are averaged over the proximal points of softmax fine-tuning, for a block of samples.

use super::controls::{SteinControls, TERMS};
use super::fields::LogitsBlock;
use crate::channel::{FollowedPoints, Hints, TriedStarts, VectorMinimum, VectorProx, minima};
use crate::descent::{cholesky, inverse};
use crate::lanes::{LANES, Lane};
use crate::losses::vector::moments::{VectorOverlaps, term};

/// What the proximal problems of all samples have in common.
#[derive(Clone, Copy)]
pub(super) struct Problems<'a> {
    /// The inverse temperature times `q0`.
    pub(super) coupling: f64,
    /// Relative size of a Newton step after which a descent ends.
    pub(super) close: f64,
    pub(super) point: &'a VectorOverlaps,
    /// The controls that are added up beside the terms, if any.
    pub(super) controls: Option<SteinControls>,
}

impl<const T: usize> LogitsBlock<T> {
    /// The proximal problem of a block.
    #[inline(always)]
    fn prox(&self, problems: Problems<'_>) -> VectorProx<'_, T> {
        let Problems { coupling, close, point, .. } = problems;
        let VectorOverlaps { m, v, .. } = *point;
        let deviation = point.deviation();
        let mut omega = [[0.0; LANES]; T];
        for i in 0..T {
            for l in 0..LANES {
                omega[i][l] = m * self.star[i][l] + deviation * self.free[i][l];
            }
        }
        let Self { frozen, y, .. } = self;
        let centring = coupling * point.q();
        VectorProx { frozen, centring, y, omega, coupling, stiffness: 1.0 / v, close }
    }
}

/// Adds the terms of [`Moments`](crate::losses::vector::moments::Moments) for every sample of some blocks to `sums`, in
/// the order of [`Moments::from_sums`](crate::losses::vector::moments::Moments::from_sums), and behind them the controls. The search for the proximal
/// points begins at those of the last evaluation, `known`, and replaces them (see [`minima`]).
#[inline(always)]
pub(super) fn accumulate<const T: usize>(
    problems: Problems<'_>,
    blocks: &[LogitsBlock<T>],
    known: &mut [FollowedPoints<T>],
    starts: TriedStarts,
    sums: &mut [Lane; TERMS],
) {
    minima(
        blocks,
        known,
        starts,
        #[inline(always)]
        |block| block.prox(problems),
        #[inline(always)]
        |block| Hints {
            frozen: &block.frozen,
            label: &block.label,
            star: &block.star,
            q: problems.point.q(),
        },
        #[inline(always)]
        |block, minimum| {
            add(problems.point, block, minimum, sums);
            if let Some(controls) = problems.controls {
                controls.add(problems.point, block, minimum, sums);
            }
        },
    );
}

/// Adds the terms of the samples of one block.
#[inline(always)]
fn add<const T: usize>(
    point: &VectorOverlaps,
    block: &LogitsBlock<T>,
    minimum: &VectorMinimum<'_, T>,
    sums: &mut [Lane; TERMS],
) {
    let VectorMinimum { prox, chi, local: best } = *minimum;
    let (deviation, stiffness) = (point.deviation(), prox.stiffness);
    let (factor, _) = cholesky(&best.hessian, &[0.0; LANES]);
    let (mut trace, mut square) = ([0.0; LANES], [0.0; LANES]);
    let inverse = inverse(&factor);
    for i in 0..T {
        for j in 0..=i {
            // An entry of the lower triangle stands for itself and its transpose.
            let (own, times) = if i == j { (1.0, 1.0) } else { (0.0, 2.0) };
            for l in 0..LANES {
                // This is an entry of (I + v H)^{-1} - I, of which only the trace and the norm are needed.
                let entry = inverse[i][j][l] * stiffness - own;
                trace[l] += own * entry;
                square[l] += times * entry * entry;
            }
        }
    }
    let [mut g_free, mut g_star, mut free_star] = [[0.0; LANES]; 3];
    for i in 0..T {
        for l in 0..LANES {
            let g = (chi[i][l] - prox.omega[i][l]) * stiffness;
            let (star, free) = (block.star[i][l], block.free[i][l]);
            g_free[l] += g * free;
            g_star[l] += g * star;
            free_star[l] += free * star;
            sums[term::GRADIENT2][l] += g * g;
            sums[term::FREE2][l] += free * free;
            sums[term::STAR2][l] += star * star;
        }
    }
    for l in 0..LANES {
        sums[term::DIVERGENCE_OMEGA][l] += trace[l] * stiffness;
        sums[term::CENTRING][l] += best.extra[1][l];
        sums[term::GRADIENT_FREE][l] += g_free[l];
        sums[term::GRADIENT_STAR][l] += g_star[l];
        sums[term::FREE_STAR][l] += free_star[l];
        sums[term::LOSS][l] += best.extra[0][l];
        sums[term::REPLICON][l] += square[l];
        // The stability is taken by parts, so that the jumps are included. It is used at m = 0 only, where
        // omega does not depend on chi*.
        sums[term::STABILITY][l] += g_star[l] * free_star[l] / deviation;
    }
}
