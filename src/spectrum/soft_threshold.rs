//! The soft threshold `f(y) = (y - r)_+` of `y = snr s* + Z`, by contour integrals.
//!
//! The law of `y` is parametrised by a variable `w` of the upper half-plane. The following functions of `w`
//! are meromorphic: `z(w)`, the Stieltjes transform `G(w)` of `y` at `z(w)`, and `H(w)`, for which `-Im H/pi`
//! is the density of `y` times `E[s* | y]`. Let `p(w) = z(w) - r`, which vanishes at the threshold. After one
//! integration by parts, every integral of the soft threshold over the density is the imaginary part of a
//! contour integral from `w(r)` to the right of the support,
//!
//! ```text
//! int f^2 rho = Im int p^3 dG / (3 pi),    int f rho = Im int p^2 dG / (2 pi),    ...
//! ```
//!
//! along any path in the upper half-plane. No resolution is needed at the edges, at a cusp or in a gap of the
//! support.

use nalgebra::Complex;
use std::f64::consts::PI;

use super::contour::{Lanes, imaginary_integrals};
use super::integrals::{Denoised, LawMoments};

/// The functions that make up the integrands, at the nodes of one panel.
pub(super) struct Terms {
    pub(super) z: Lanes,
    /// `G`.
    pub(super) g: Lanes,
    /// `-dG/dw`.
    pub(super) g_slope: Lanes,
    /// `-dH/dw`.
    pub(super) h_slope: Lanes,
}

/// A meromorphic parametrisation of the law of `y = snr s* + Z`, with real poles.
pub(super) trait Parametrised {
    /// Ratio of the risk to the signal above which the definition of the risk, a difference, has enough
    /// digits.
    const RISK_WITHOUT_CANCELLATION: f64;

    fn snr(&self) -> f64;

    /// The moments of the teacher.
    fn moments(&self) -> LawMoments;

    /// Two real points, to the left and to the right of the preimage of the support, with no pole beyond
    /// them. They are the ends of the paths for the threshold `r`.
    fn ends(&self, r: f64) -> [f64; 2];

    /// Square of the distance to the nearest pole.
    fn clearance(&self, w: Complex<f64>) -> f64;

    fn terms(&self, w: &Lanes) -> Terms;
}

/// Position of the threshold relative to the support.
pub(super) enum Position {
    BelowTheSupport,
    /// The threshold is in the convex hull of the support. The paths to the two ends start at `w(r)`. In a
    /// gap, where the integrands are real, the paths may start anywhere in the gap.
    Inside {
        left: Complex<f64>,
        right: Complex<f64>,
    },
    AboveTheSupport,
}

/// The integrals of the soft threshold at `r`.
pub(super) fn denoise<L: Parametrised>(law: &L, r: f64, threshold: &Position) -> Denoised {
    let snr = law.snr();
    let moments = law.moments();
    let signal = snr * snr * moments.second;
    match *threshold {
        Position::AboveTheSupport => Denoised::above_the_support(snr, &moments),
        Position::BelowTheSupport => Denoised::below_the_support(snr, &moments, r),
        Position::Inside { left, right } => {
            let mut result = above(law, r, right);
            // The definition of the risk, which cancels at large signals.
            let direct = signal - 2.0 * snr * result.overlap + result.norm;
            let keeps_its_digits = direct > L::RISK_WITHOUT_CANCELLATION * signal;
            result.risk = if keeps_its_digits { direct } else { risk(law, r, left, &result) };
            result
        }
    }
}

/// The middle of a symmetric law.
pub(super) struct Centre {
    /// `w(0)`.
    pub(super) w: Complex<f64>,
    /// `rho(0)`.
    pub(super) density: f64,
}

/// The integrals of `f(y) = sign(y) (|y| - r)_+` for a symmetric law, at `r >= 0`.
pub(super) fn denoise_both_sides<L: Parametrised>(
    law: &L,
    r: f64,
    threshold: &Position,
    centre: impl FnOnce() -> Centre,
) -> Denoised {
    let snr = law.snr();
    let moments = law.moments();
    let signal = snr * snr * moments.second;
    match *threshold {
        Position::AboveTheSupport => Denoised::above_the_support(snr, &moments),
        // The middle of the support of a symmetric law is at 0, so that only an invalid threshold is below it.
        Position::BelowTheSupport => Denoised::undefined(),
        Position::Inside { left, right } => {
            let mut result = above(law, r, right).doubled();
            let direct = signal - 2.0 * snr * result.overlap + result.norm;
            let keeps_its_digits = direct > L::RISK_WITHOUT_CANCELLATION * signal;
            result.risk = if keeps_its_digits {
                direct
            } else {
                // Stein's form of the risk, as in `risk`.
                let inside = 2.0 * second_moment_inside(law, r, &centre(), left);
                inside + r * r * result.rank_fraction - 1.0 + 2.0 * result.response
            };
            result
        }
    }
}

/// `int_0^r x^2 rho`, along a path from `w(0)` to `w(r)`. Integrated by parts, it is `(r^3 rho(0) + Im int (z^3 - r^3) dG/pi)/3`.
fn second_moment_inside(law: &impl Parametrised, r: f64, centre: &Centre, end: Complex<f64>) -> f64 {
    let cube = r * r * r;
    let [moment] = imaginary_integrals(
        centre.w,
        end,
        |w| law.clearance(w),
        |w| {
            let Terms { z, g_slope, .. } = law.terms(w);
            [z.squared().times(&z).minus(cube).times(&g_slope)]
        },
    );
    (cube * centre.density - moment / PI) / 3.0
}

/// The integrals over the part of the support above `r`. The risk is left out.
fn above(law: &impl Parametrised, r: f64, start: Complex<f64>) -> Denoised {
    let [_, end] = law.ends(r);
    let [rank, trace, norm, response, overlap] = imaginary_integrals(
        start,
        Complex::new(end, 0.0),
        |w| law.clearance(w),
        |w| {
            let Terms { z, g, g_slope, h_slope } = law.terms(w);
            let p = z.minus(r);
            let first = p.times(&g_slope);
            let second = p.times(&first);
            [first, second, p.times(&second), second.times(&g), p.squared().times(&h_slope)]
        },
    );
    Denoised {
        norm: -norm / (3.0 * PI),
        overlap: -overlap / (2.0 * PI),
        response: -response / PI,
        trace: -trace / (2.0 * PI),
        rank_fraction: (-rank / PI).clamp(0.0, 1.0),
        risk: 0.0,
    }
}

/// `int (f - x)^2 rho - 1 + 2 D`, Stein's form of the risk. It does not cancel however large the signal is,
/// since `f - x` is `-r` above the threshold, and `-x` below it, where only noise is left.
fn risk(law: &impl Parametrised, r: f64, end: Complex<f64>, above: &Denoised) -> f64 {
    let [start, _] = law.ends(r);
    let [first, second] = imaginary_integrals(
        Complex::new(start, 0.0),
        end,
        |w| law.clearance(w),
        |w| {
            let Terms { z, g_slope, .. } = law.terms(w);
            let p = z.minus(r);
            let square = p.squared().times(&g_slope);
            [square, p.times(&square)]
        },
    );
    // The moments int (x - r)^k rho below the threshold, for k = 0, 1, 2.
    let below = [1.0 - above.rank_fraction, -first / (2.0 * PI), -second / (3.0 * PI)];
    let residual = below[2] + 2.0 * r * below[1] + r * r * (below[0] + above.rank_fraction);
    residual - 1.0 + 2.0 * above.response
}
