//! Integrals over the law of `y = snr s* + Z` from nothing but its Stieltjes transform on the real axis.
//!
//! With `rho = Im G/pi` and `snr E[s* | y] = y - 2 Re G(y)` at `y - i0`, every integral that a solver needs is one
//! over the support. On every interval `y = mid + half cos(theta)`, so that the square roots at the edges are smooth in
//! `theta`.

use std::f64::consts::PI;

use super::adaptive::{self, PanelBudget};
use super::integrals::{Denoised, LawMoments, Posterior, meaningful};

/// Largest number of intervals of a support: a list of [`super::Discrete::MAX_EIGENVALUES`] has at most as many.
const MAX_INTERVALS: usize = 10_000;
/// Strength of the signal, `snr` times the standard deviation of `s*`, below which the posterior mean is linear in
/// `y` to more digits than the difference `y - 2 Re G` has.
const LINEAR: f64 = 1e-5;
/// Ratio of the risk to the signal above which the definition of the risk, a difference, has enough digits.
const RISK_WITHOUT_CANCELLATION: f64 = 1e-2;

/// The law at one `snr`.
pub(super) struct RealAxis<'a> {
    snr: f64,
    moments: LawMoments,
    support: Vec<[f64; 2]>,
    stieltjes: &'a dyn Fn(f64) -> [f64; 2],
}

/// A point of the support.
#[derive(Clone, Copy)]
pub(super) struct LinePoint {
    pub(super) x: f64,
    /// `Re G`.
    pub(super) real_g: f64,
    /// `rho`.
    pub(super) density: f64,
}

impl<'a> RealAxis<'a> {
    pub(super) fn new(
        snr: f64,
        moments: LawMoments,
        support: Vec<[f64; 2]>,
        stieltjes: &'a dyn Fn(f64) -> [f64; 2],
    ) -> Self {
        Self { snr: meaningful(snr), moments, support, stieltjes }
    }

    pub(super) fn support(&self) -> &[[f64; 2]] {
        &self.support
    }

    /// The two ends of the support, if its intervals are finite and in increasing order.
    pub(super) fn ends(&self) -> Option<[f64; 2]> {
        let ends = [self.support.first()?[0], self.support.last()?[1]];
        let finite = self.support.iter().flatten().all(|x| x.is_finite());
        let inside = self.support.iter().all(|[low, high]| low <= high);
        let ordered = self.support.windows(2).all(|pair| pair[0][1] <= pair[1][0]);
        (finite && inside && ordered && self.support.len() <= MAX_INTERVALS).then_some(ends)
    }

    /// The integrals of the soft threshold at `r`.
    pub(super) fn denoise(&self, r: f64) -> Denoised {
        let Self { snr, moments, .. } = self;
        let Some([low, high]) = self.ends().filter(|_| !(snr.is_nan() || r.is_nan())) else {
            return Denoised::undefined();
        };
        if r >= high {
            return Denoised::above_the_support(*snr, moments);
        }
        if r <= low {
            return Denoised::below_the_support(*snr, moments, r);
        }
        let above = self.above(r, high);
        Denoised {
            risk: self.risk(&above).unwrap_or_else(|| self.stein(r, 1.0, f64::NEG_INFINITY, &above)),
            ..above
        }
    }

    /// The integrals of `f(y) = sign(y) (|y| - r)_+` for a symmetric law. A negative threshold is one of 0.
    pub(super) fn denoise_both_sides(&self, r: f64) -> Denoised {
        let r = if r < 0.0 { 0.0 } else { r };
        let Self { snr, moments, .. } = self;
        let Some([_, high]) = self.ends().filter(|_| !(snr.is_nan() || r.is_nan())) else {
            return Denoised::undefined();
        };
        if r >= high {
            return Denoised::above_the_support(*snr, moments);
        }
        let above = self.above(r, high).doubled();
        Denoised { risk: self.risk(&above).unwrap_or_else(|| self.stein(r, 2.0, 0.0, &above)), ..above }
    }

    /// The integrals over the part of the support above `r`. The risk is left out.
    fn above(&self, r: f64, high: f64) -> Denoised {
        let [rank, trace, norm, overlap, response] = self.integrate([r, high], |point| {
            let f = point.x - r;
            let LinePoint { real_g, .. } = *point;
            [1.0, f, f * f, f * (self.moments.mean + self.excess_mean(point)), 2.0 * f * real_g]
        });
        Denoised { norm, overlap, response, trace, rank_fraction: rank.clamp(0.0, 1.0), risk: 0.0 }
    }

    /// The risk by its definition, where this difference has enough digits.
    fn risk(&self, denoised: &Denoised) -> Option<f64> {
        let signal = self.snr * self.snr * self.moments.second;
        let direct = signal - 2.0 * self.snr * denoised.overlap + denoised.norm;
        (direct > RISK_WITHOUT_CANCELLATION * signal).then_some(direct)
    }

    /// `int (f - x)^2 rho - 1 + 2 D`, Stein's form of the risk. It does not cancel however large the signal is,
    /// since `f - x` is `-r` above the threshold, and `-x` below it, where only noise is left. The part without weights is `sides` times
    /// that between `from` and the threshold.
    fn stein(&self, r: f64, sides: f64, from: f64, above: &Denoised) -> f64 {
        let [below] = self.integrate([from, r], |point| [point.x * point.x]);
        sides * below + r * r * above.rank_fraction - 1.0 + 2.0 * above.response
    }

    /// The integrals of the posterior mean.
    pub(super) fn posterior(&self) -> Posterior {
        let everywhere = [f64::NEG_INFINITY, f64::INFINITY];
        let variance = self.moments.variance;
        // The variance sets the scale of the error. At a weak signal the gain is far smaller, and has few digits.
        let [with_variance, response2] = match self.ends() {
            Some(_) => self.integrate(everywhere, |point| {
                let excess = self.excess_mean(point);
                [variance + excess * excess, point.real_g * point.real_g]
            }),
            None => [f64::NAN; 2],
        };
        let gain = with_variance - variance;
        if gain.is_nan() || response2.is_nan() {
            return Posterior { overlap: f64::NAN, risk: f64::NAN };
        }
        Posterior::new(self.snr, &self.moments, gain.max(0.0), response2)
    }

    /// `E[s* | y] - tr s*`.
    fn excess_mean(&self, point: &LinePoint) -> f64 {
        let Self { snr, moments, .. } = self;
        let centred = point.x - snr * moments.mean;
        let signal = snr * snr * moments.variance;
        if signal < LINEAR * LINEAR {
            return snr * moments.variance * centred / (1.0 + signal);
        }
        (centred - 2.0 * point.real_g) / snr
    }

    /// Integrals of `f` times the density over the part of the support in a range. Their errors are relative
    /// to the integrals of the absolute values.
    pub(super) fn integrate<const N: usize>(
        &self,
        [from, to]: [f64; 2],
        f: impl Fn(&LinePoint) -> [f64; N],
    ) -> [f64; N] {
        let mut total = [0.0; N];
        let mut budget = PanelBudget::default();
        for [low, high] in &self.support {
            let (low, high) = (low.max(from), high.min(to));
            let (middle, half) = (0.5 * (low + high), 0.5 * (high - low));
            if half <= 0.0 {
                continue;
            }
            let part = adaptive::integrate_relative([0.0, PI], &mut budget, |theta| {
                let x = middle + half * theta.cos();
                let [real_g, imaginary_g] = (self.stieltjes)(x);
                let density = imaginary_g / PI;
                let weight = density * half * theta.sin();
                f(&LinePoint { x, real_g, density }).map(|value| value * weight)
            });
            for (sum, value) in total.iter_mut().zip(part) {
                *sum += value;
            }
        }
        total
    }

    /// The principal value of `int rho(y) dy/(x - y)`.
    pub(super) fn principal_value(&self, x: f64) -> f64 {
        let density = |y: f64| (self.stieltjes)(y)[1] / PI;
        let mut budget = PanelBudget::default();
        // The integral of (rho(y) - here)/(x - y) between two points.
        let mut integral = |from: f64, to: f64, here: f64| {
            let (middle, half) = (0.5 * (from + to), 0.5 * (to - from));
            let [sum] = adaptive::integrate_relative([0.0, PI], &mut budget, |theta| {
                let y = middle + half * theta.cos();
                let distance = x - y;
                let quotient = if distance.abs() > 0.0 { (density(y) - here) / distance } else { 0.0 };
                [quotient * half * theta.sin()]
            });
            sum
        };
        let of_interval = |&[low, high]: &[f64; 2]| {
            if !(low < x && x < high) {
                return integral(low, high, 0.0);
            }
            let here = density(x);
            integral(low, x, here) + integral(x, high, here) + here * ((x - low) / (high - x)).ln()
        };
        self.support.iter().map(of_interval).sum()
    }
}
