//! The proximal operator of the linear fine-tuning loss, and all terms that are averaged over it, for a block
//! of samples.
//!
//! For one sample, with `a = 4/T^2` and `B = chi* chi*^T + (q - q0) I + N`, the global minimiser of
//! `T^{-2} |chi chi^T - B|_F^2 + |chi - omega|^2/(2v)` is, in the eigenbasis of `B` (eigenvalues
//! `b_1 >= ... >= b_T`),
//!
//! ```text
//! chi_i = (omega_i/v)/(tau - a b_i),
//! sum_i (omega_i/v)^2/(tau - a b_i)^2 = (tau - 1/v)/a,    tau > max(a b_1, 1/v),
//! ```
//!
//! where the secular equation (the second line) has one root `tau`. The eigenbasis does not depend on the
//! order parameters, so that a sample is stored in its eigenbasis once and for all.
//!
//! Samples are processed in blocks of `LANES`, one array per coordinate. The loops over a block compile to
//! vector instructions.

use std::f64::consts::PI;

use crate::channel::secular_roots;
use crate::lanes::{self, LANES, Lane};
use crate::losses::vector::moments::{COUNT, Moments, VectorOverlaps, term};

/// A block of samples, in the eigenbasis of the label and in units of `q0`.
pub(super) struct EigenbasisBlock<const T: usize> {
    /// Weights in the averages.
    pub(super) weight: Lane,
    /// Eigenvalues of `chi* chi*^T - I + N`, decreasing.
    pub(super) b: [Lane; T],
    /// Components of `chi*`.
    pub(super) star: [Lane; T],
    /// Components of the part of `omega` that is independent of `chi*`, in units of its standard deviation.
    pub(super) free: [Lane; T],
}

/// Number of sums over samples: the weighted terms of [`Moments`], and the weights.
pub(super) const SUMS: usize = COUNT + 1;

/// The averages, from their weighted sums and the sum of the weights.
pub(super) fn normalised(sums: [f64; SUMS]) -> Moments {
    Moments::from_sums(std::array::from_fn(|term| sums[term] / sums[COUNT]))
}

/// Adds the weighted terms of [`Moments`] for every sample of a block to `sums`, in the
/// order of [`Moments::from_sums`], and then the weights. The terms of complete passes are added only
/// if `FULL`. On entry, `t` is a start for the excess of the secular root (0 if there is none); on return, it
/// is the excess.
#[inline(always)]
pub(super) fn accumulate<const T: usize, const FULL: bool>(
    point: &VectorOverlaps,
    block: &EigenbasisBlock<T>,
    t: &mut Lane,
    sums: &mut [Lane; SUMS],
) {
    let VectorOverlaps { m, v, .. } = *point;
    let (q, deviation) = (point.q(), point.deviation());
    let a = 4.0 / (T * T) as f64;
    let stiffness = 1.0 / v;
    let zero = [0.0; LANES];

    let mut omega = [zero; T];
    let mut b = [zero; T];
    let mut weights = [zero; T];
    let mut omega2 = zero;
    for i in 0..T {
        for l in 0..LANES {
            b[i][l] = block.b[i][l] + q;
            omega[i][l] = m * block.star[i][l] + deviation * block.free[i][l];
            let pull = omega[i][l] * stiffness;
            weights[i][l] = (pull * pull).max(f64::MIN_POSITIVE);
            omega2[l] += omega[i][l] * omega[i][l];
        }
    }
    let mut offset = zero;
    let mut gaps = [zero; T];
    for l in 0..LANES {
        let pole = (a * b[0][l]).max(stiffness);
        offset[l] = pole - stiffness;
        for i in 0..T {
            gaps[i][l] = pole - a * b[i][l];
        }
        if !(t[l] > 0.0 && t[l] < f64::INFINITY) {
            // The guess has chi close to omega, where tau = a |omega|^2 + 1/v.
            let scale = a * omega2[l];
            t[l] = (scale - offset[l]).max(0.05 * scale).max(f64::MIN_POSITIVE);
        }
    }
    secular_roots(&weights, &gaps, &offset, a, t);

    // The Hessian is H = tau I - a B + 2a chi chi^T. By the Sherman-Morrison formula, H^{-1} = X - 2a y y^T /
    // denominator, with X = diag(1/(tau - a b_i)) and y = X chi.
    let [mut norm, mut trace_b, mut trace_x, mut y2, mut chi_y, mut y_star, mut chi_star] = [zero; 7];
    let [mut first_chi, mut first_y] = [zero; 2];
    let [mut star2, mut misfit, mut trace_x2, mut y_x_y, mut star_x_star] = [zero; 5];
    for i in 0..T {
        for l in 0..LANES {
            let x = 1.0 / (t[l] + gaps[i][l]);
            let chi = omega[i][l] * stiffness * x;
            let y = chi * x;
            let g = (chi - omega[i][l]) * stiffness;
            let (star, free) = (block.star[i][l], block.free[i][l]);
            let (square, before) = (chi * chi, norm[l]);
            if i == 0 {
                (first_chi[l], first_y[l]) = (chi, y);
            }
            norm[l] += square;
            trace_b[l] += b[i][l];
            trace_x[l] += x;
            y2[l] += y * y;
            chi_y[l] += chi * y;
            y_star[l] += y * star;
            chi_star[l] += chi * star;
            star2[l] += star * star;
            let (g_weight, free_weight) = (block.weight[l] * g, block.weight[l] * free);
            sums[term::GRADIENT2][l] += g_weight * g;
            sums[term::GRADIENT_FREE][l] += g_weight * free;
            sums[term::GRADIENT_STAR][l] += g_weight * star;
            sums[term::FREE2][l] += free_weight * free;
            sums[term::FREE_STAR][l] += free_weight * star;
            if FULL {
                // These are the diagonal and the off-diagonal part of |chi chi^T - B|^2, without cancellation
                // where the fit is good.
                misfit[l] += (b[i][l] - square).powi(2) + 2.0 * square * before;
                trace_x2[l] += x * x;
                y_x_y[l] += y * y * x;
                star_x_star[l] += star * star * x;
            }
        }
    }
    // A proximal point jumps only beyond this onset.
    let onset = stiffness / a;
    let jumps = b[0].iter().fold(false, |any, b| any | (*b > onset));
    let mut y_spread = zero;
    // The rule of one token is split at the jump, and needs no average over the signs.
    if T > 1 && jumps {
        let unlikely = other_sign(point, &omega[0], &block.star[0]);
        for l in 0..LANES {
            let lost = if b[0][l] > onset { 2.0 * unlikely[l] } else { 0.0 };
            let (star, weight) = (block.star[0][l], block.weight[l]);
            let g = (first_chi[l] - omega[0][l]) * stiffness;
            let shift = m * star * lost / deviation;
            let flip = omega[0][l] * lost / deviation;
            sums[term::GRADIENT_FREE][l] += weight * g * shift;
            sums[term::GRADIENT_STAR][l] -= weight * g * star * lost;
            sums[term::FREE2][l] += weight * 2.0 * shift * omega[0][l] / deviation;
            sums[term::FREE_STAR][l] -= weight * flip * star;
            chi_star[l] -= first_chi[l] * star * lost;
            y_star[l] -= first_y[l] * star * lost;
            y_spread[l] = (first_y[l] * star).powi(2) * lost * (2.0 - lost);
        }
    }
    let per_t2 = 1.0 / (T * T) as f64;
    for l in 0..LANES {
        let weight = block.weight[l];
        let over = 1.0 / (1.0 + 2.0 * a * chi_y[l]);
        let ratio = 2.0 * a * over;
        let trace_inverse = trace_x[l] - ratio * y2[l];
        sums[term::DIVERGENCE_OMEGA][l] += weight * (trace_inverse * stiffness - T as f64) * stiffness;
        sums[term::DIVERGENCE_STAR][l] +=
            weight * a * (chi_star[l] * trace_inverse + y_star[l] * over) * stiffness;
        sums[term::CENTRING][l] += weight * -2.0 * per_t2 * (norm[l] - trace_b[l]);
        sums[term::STAR2][l] += weight * star2[l];
        sums[COUNT][l] += weight;
        if FULL {
            sums[term::LOSS][l] += weight * per_t2 * misfit[l];
            let trace_inverse2 = trace_x2[l] - 2.0 * ratio * y_x_y[l] + (ratio * y2[l]).powi(2);
            let response2 =
                trace_inverse2 * stiffness * stiffness - 2.0 * trace_inverse * stiffness + T as f64;
            sums[term::REPLICON][l] += weight * response2.max(0.0);
            let star_inverse_star = star_x_star[l] - ratio * (y_star[l] * y_star[l] + y_spread[l]);
            sums[term::STABILITY][l] += weight * (star_inverse_star * stiffness - star2[l]) * stiffness;
        }
    }
    if jumps {
        add_jumps::<T, FULL>(point, block, &b, &omega, sums);
    }
}

/// The probability that `omega_1` has the other sign, given its absolute value and `chi*`.
///
/// The secular root depends on the squares of `omega` alone, so that the proximal point of the other sign is known, too:
/// `chi_1` and `g_1` change their signs. The average over both signs has no jump at `omega_1 = 0`. Where jumps
/// are frequent, it makes the standard errors 1.5 to 3 times smaller. It is taken for the samples that can jump
/// only, because for the others it makes the errors somewhat larger.
#[inline(always)]
fn other_sign(point: &VectorOverlaps, omega: &Lane, star: &Lane) -> Lane {
    let mut logit = [0.0; LANES];
    for l in 0..LANES {
        logit[l] = (2.0 * point.m * star[l] * omega[l] / point.s2).min(700.0);
    }
    let mut probability = lanes::exp(&logit);
    for odds in &mut probability {
        *odds = 1.0 / (1.0 + *odds);
    }
    probability
}

/// Adds the jumps. The proximal point jumps where `omega_1 = 0`, if `b_1` is large enough, because the two
/// minima `+-chi_1` exchange. The distributional divergences have a surface term there: the height of the
/// jump times the density of `omega_1` at 0.
#[inline(always)]
fn add_jumps<const T: usize, const FULL: bool>(
    point: &VectorOverlaps,
    block: &EigenbasisBlock<T>,
    b: &[Lane; T],
    omega: &[Lane; T],
    sums: &mut [Lane; SUMS],
) {
    let stiffness = 1.0 / point.v;
    let a = 4.0 / (T * T) as f64;
    let onset = stiffness / a;
    for l in 0..LANES {
        if b[0][l] <= onset {
            continue;
        }
        let mut height2 = b[0][l] - onset;
        let mut tilt = 0.0;
        for i in 1..T {
            let gap = b[0][l] - b[i][l];
            height2 -= (omega[i][l] * onset / gap).powi(2);
            tilt += omega[i][l] * block.star[i][l] / gap;
        }
        if height2 > 0.0 {
            let deviation = point.deviation();
            let centre = point.m * block.star[0][l] / deviation;
            let density = (-0.5 * centre * centre).exp() / ((2.0 * PI).sqrt() * deviation);
            let jump = block.weight[l] * 2.0 * height2.sqrt() * stiffness * density;
            sums[term::JUMP_OMEGA][l] += jump;
            sums[term::JUMP_STAR][l] += jump * tilt;
            if FULL {
                sums[term::STABILITY][l] += jump * block.star[0][l].powi(2);
            }
        }
    }
}
