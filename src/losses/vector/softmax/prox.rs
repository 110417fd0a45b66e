//! All terms that are averaged over the proximal points of softmax fine-tuning, for a block of samples.

use super::fields::Logits;
use crate::channel::{FollowedPoints, Hints, VectorProx, softmax_row};
use crate::descent::{LaneVector, cholesky, solve};
use crate::lanes::{LANES, Lane};
use crate::losses::vector::moments::{COUNT, VectorOverlaps, term};

/// A block of samples.
pub(super) struct LogitsBlock<const T: usize> {
    /// Recalibrated frozen logits `z`.
    pub(super) frozen: Logits<T>,
    /// Logits `B` of the label, the perturbation included.
    pub(super) label: Logits<T>,
    /// `chi*`.
    pub(super) star: LaneVector<T>,
    /// The part of `omega` that is independent of `chi*`, in units of its standard deviation.
    pub(super) free: LaneVector<T>,
}

/// Adds the terms of [`Moments`](crate::losses::vector::moments::Moments) for every sample of a block to `sums`, in the
/// order of [`Moments::from_sums`](crate::losses::vector::moments::Moments::from_sums). The search for the proximal
/// points begins at those of the last evaluation, `known`, and replaces them.
#[inline(always)]
pub(super) fn accumulate<const T: usize>(
    coupling: f64,
    point: &VectorOverlaps,
    block: &LogitsBlock<T>,
    known: &mut FollowedPoints<T>,
    sums: &mut [Lane; COUNT],
) {
    let VectorOverlaps { m, v, .. } = *point;
    let deviation = point.deviation();
    let stiffness = 1.0 / v;
    let mut omega = [[0.0; LANES]; T];
    for i in 0..T {
        for l in 0..LANES {
            omega[i][l] = m * block.star[i][l] + deviation * block.free[i][l];
        }
    }
    let y = std::array::from_fn(|a| softmax_row(&block.label[a]));
    let prox = VectorProx { frozen: &block.frozen, y, omega, q: point.q(), coupling, stiffness };
    let (chi, best) = prox.minimum(&Hints { label: &block.label, star: &block.star }, known);

    let (factor, _) = cholesky(&best.hessian, &[0.0; LANES]);
    let (mut trace, mut square) = ([0.0; LANES], [0.0; LANES]);
    for j in 0..T {
        let mut unit = [[0.0; LANES]; T];
        unit[j] = [1.0; LANES];
        let column = solve(&factor, &unit);
        for i in 0..T {
            for l in 0..LANES {
                // This is an entry of (I + v H)^{-1} - I, of which only the trace and the norm are needed.
                let own = if i == j { 1.0 } else { 0.0 };
                let entry = column[i][l] * stiffness - own;
                trace[l] += own * entry;
                square[l] += entry * entry;
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
