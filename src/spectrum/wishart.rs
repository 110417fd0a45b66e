//! The Wishart teacher: `s*` is `sqrt(kappa0)` times a Marchenko-Pastur law.
//!
//! In units of the noise, with `G` the Stieltjes transform of the law of `y = snr s* + Z` and `w = 1/G`,
//!
//! ```text
//! z(w) = w + 1/w + snr sqrt(kappa0) w/(w - a),    a = snr/sqrt(kappa0)
//! ```
//!
//! The map `z` is *rational in `w`*, and so are `G = 1/w` and `H = sqrt(kappa0)/(w - a)`, from which the
//! integrals of the soft threshold are made (see [`super::soft_threshold`]). The only equation to solve is a
//! cubic one.

use super::contour::Lanes;
use super::integrals::{Denoised, LawMoments, Posterior, meaningful};
use super::law::{TeacherSpectrum, moments};
use super::soft_threshold::{self, Parametrised, Position, Terms};
use crate::error::Error;
use crate::lanes::{self, LANES, Lane, wide};
use nalgebra::Complex;
use std::f64::consts::PI;

/// The law of `s* = S*/sqrt(D)` for `S* = P0^{-1/2} W* W*^T` with `W*` of shape `D x kappa0 D`: mean `sqrt(kappa0)`,
/// second moment `Q0 = 1 + kappa0`, and an atom of weight `1 - kappa0` at zero if `kappa0 < 1`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wishart {
    kappa0: f64,
    mean: f64,
}

impl Wishart {
    /// Range of `kappa0`. The eigenvalues of a narrower teacher grow like `kappa0^{-1/2}` on a fraction
    /// `kappa0` of the directions. For a `kappa0` below the range, double precision does not give eleven
    /// digits.
    pub const WIDTHS: [f64; 2] = [1e-5, 1e6];

    /// The teacher of width `kappa0`.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] if `kappa0` is not in [`Wishart::WIDTHS`].
    pub fn new(kappa0: f64) -> Result<Self, Error> {
        let [narrowest, widest] = Self::WIDTHS;
        if !(kappa0 >= narrowest && kappa0 <= widest) {
            let allowed = format!("> 0, and between {narrowest:e} and {widest:e} to be resolved");
            return Err(Error::invalid("model.teacher.wishart.kappa0", kappa0, allowed));
        }
        Ok(Self { kappa0, mean: kappa0.sqrt() })
    }

    /// Weight of the atom of `s*` at zero.
    #[must_use]
    pub fn atom_at_zero(&self) -> f64 {
        (1.0 - self.kappa0).max(0.0)
    }

    fn uniformised(&self, snr: f64) -> Uniformised {
        Uniformised::new(self, meaningful(snr))
    }
}

impl TeacherSpectrum for Wishart {
    fn mean(&self) -> f64 {
        self.mean
    }

    fn second_moment(&self) -> f64 {
        1.0 + self.kappa0
    }

    fn variance(&self) -> f64 {
        1.0
    }

    fn orbit_dimension(&self) -> f64 {
        if self.kappa0 < 1.0 { self.kappa0 * (2.0 - self.kappa0) } else { 1.0 }
    }

    fn support(&self, snr: f64) -> Vec<[f64; 2]> {
        let map = self.uniformised(snr);
        let (low, high) = (map.z(map.left), map.z(map.right));
        match map.gap {
            Some([from, to]) => vec![[low, map.z(from)], [map.z(to), high]],
            None => vec![[low, high]],
        }
    }

    fn top_edge(&self, snr: f64) -> f64 {
        let map = self.uniformised(snr);
        map.z(map.right)
    }

    fn stieltjes(&self, snr: f64, x: f64) -> [f64; 2] {
        let w = self.uniformised(snr).preimage(x);
        // G(x - i0) is the complex conjugate of G(x + i0), and w is the preimage of x + i0.
        let g = w.inv().conj();
        [g.re, g.im]
    }

    fn denoise(&self, snr: f64, r: f64) -> Denoised {
        let map = self.uniformised(snr);
        soft_threshold::denoise(&map, r, &map.threshold(r))
    }

    fn posterior(&self, snr: f64) -> Posterior {
        let map = self.uniformised(snr);
        let [gain, response2] = map.posterior_integrals(FEWEST_NODES);
        Posterior::new(map.snr, &map.moments, gain, response2)
    }
}

/// Number of nodes of the coarsest rule for the integrals of the posterior mean.
const FEWEST_NODES: usize = 16;

/// The rational parametrisation of the law at one `snr`.
struct Uniformised {
    snr: f64,
    moments: LawMoments,
    /// The finite pole of `z` besides 0, `snr/sqrt(kappa0)`.
    a: f64,
    /// `snr sqrt(kappa0)`: the mean of `snr s*`.
    shift: f64,
    /// The critical points of `z` whose images are the outer edges of the support: `left < 0 <= a < right`.
    left: f64,
    right: f64,
    /// The critical points between 0 and `a`, whose images are the edges of the gap, if the support has one.
    gap: Option<[f64; 2]>,
}

/// Points of the support.
struct WishartOnCurve {
    /// `E[s* | y] - tr s*`.
    excess_mean: Lane,
    /// `Re G`.
    real_g: Lane,
    /// `rho dx/d(Re w)`.
    density: Lane,
}

impl Uniformised {
    fn new(teacher: &Wishart, snr: f64) -> Self {
        let a = snr / teacher.mean;
        let mut map = Self {
            snr,
            moments: moments(teacher),
            a,
            shift: snr * teacher.mean,
            left: 0.0,
            right: 0.0,
            gap: None,
        };
        // z' is concave on each of the three real intervals between and outside its poles, and negative at
        // the starting points below. Newton's method therefore converges monotonically.
        map.right = map.critical_point((a + snr).max(1.0));
        map.left = map.critical_point((a - snr).min(-1.0));
        // On (0, a), z' has its maximum at a/(1 + snr^{2/3}), where it is positive iff a^{2/3} > 1 + snr^{2/3}.
        if a.cbrt().powi(2) > 1.0 + snr.cbrt().powi(2) {
            let gap = [map.critical_point(1.0), map.critical_point(a - snr)];
            // Rounding may close a gap that has just opened.
            map.gap = Some(gap).filter(|[from, to]| from < to && map.z(*from) < map.z(*to));
        }
        map
    }

    /// The position of the threshold `r`.
    fn threshold(&self, r: f64) -> Position {
        if r >= self.z(self.right) {
            return Position::AboveTheSupport;
        }
        if r <= self.z(self.left) {
            return Position::BelowTheSupport;
        }
        let [left, right] = match self.gap {
            // The paths start where each of them stays close to its own interval.
            Some([from, to]) if r >= self.z(from) && r <= self.z(to) => {
                [-self.left, 2.0 * self.a - self.right].map(|w| Complex::new(w.clamp(from, to), 0.0))
            }
            _ => [self.preimage(r); 2],
        };
        Position::Inside { left, right }
    }

    fn z(&self, w: f64) -> f64 {
        w + 1.0 / w + self.shift * (w / (w - self.a))
    }

    /// The zero of `z'(w) = 1 - w^{-2} - (snr/(w - a))^2` that Newton's method reaches monotonically from
    /// `w`.
    fn critical_point(&self, mut w: f64) -> f64 {
        for _ in 0..100 {
            let (i, s) = (1.0 / w, 1.0 / (w - self.a));
            let t = self.snr * s;
            let slope = 1.0 - i * i - t * t;
            let curvature = 2.0 * (i * i * i + t * t * s);
            let step = slope / curvature;
            if step.is_nan() || step.abs() <= 1e-16 * w.abs() {
                break;
            }
            w -= step;
        }
        w
    }

    /// `int (E[s* | y] - tr s*)^2 rho` and `int (Re G)^2 rho`.
    ///
    /// In the angle that maps each interval of `Re w` onto half a circle, the integrands are smooth and even,
    /// and the midpoint rule converges geometrically. The rule is refined until it has converged.
    fn posterior_integrals(&self, fewest: usize) -> [f64; 2] {
        const MOST: usize = 1 << 14;
        let outer = [self.left, self.right];
        let intervals = match self.gap {
            Some([from, to]) => [Some([outer[0], from]), Some([to, outer[1]])],
            None => [Some(outer), None],
        };
        let mut total = [0.0; 2];
        for interval in intervals.into_iter().flatten() {
            let mut count = fewest;
            // Two rules are shifted against each other by half a node. Their mean is the rule with twice the
            // nodes.
            let mut coarse = self.rule(interval, count, 0.0);
            let mut last_change = f64::INFINITY;
            loop {
                let between = self.rule(interval, count, 0.5);
                let fine = [0, 1].map(|i| 0.5 * (coarse[i] + between[i]));
                let change = fine.iter().zip(&coarse).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                count *= 2;
                coarse = fine;
                // The change is the error of the rule before, and the error falls by at least the same factor
                // again. A small change is required as well, since two rules may both miss a narrow feature.
                let error = change * (change / last_change).min(1.0);
                if (change <= 1e-11 && error <= 1e-14) || change <= 1e-14 || count >= MOST {
                    break;
                }
                last_change = change;
            }
            for (t, x) in total.iter_mut().zip(coarse) {
                *t += x;
            }
        }
        total
    }

    /// The rule for both integrals over an interval of `Re w` with `count` nodes, a multiple of [`LANES`], at `(k + offset)/count` of the half circle.
    fn rule(&self, [from, to]: [f64; 2], count: usize, offset: f64) -> [f64; 2] {
        let (middle, half) = (0.5 * (from + to), 0.5 * (to - from));
        let step = PI / count as f64;
        let mut sums = [[0.0; LANES]; 2];
        wide(
            #[inline(always)]
            || {
                for first in (0..count).step_by(LANES) {
                    let (mut angle, mut xi) = ([0.0; LANES], [0.0; LANES]);
                    for l in 0..LANES {
                        angle[l] = step * ((first + l) as f64 + offset);
                    }
                    let [sine, cosine] = lanes::sin_cos(&angle);
                    for l in 0..LANES {
                        xi[l] = middle + half * cosine[l];
                    }
                    let WishartOnCurve { excess_mean, real_g, density } = self.on_the_curve(&xi);
                    for l in 0..LANES {
                        let weight = density[l] * half * sine[l] * step;
                        sums[0][l] += weight * excess_mean[l] * excess_mean[l];
                        sums[1][l] += weight * real_g[l] * real_g[l];
                    }
                }
            },
        );
        sums.map(|lane| lane.iter().sum())
    }

    /// The points of the curve `Im z = 0` above `xi`.
    ///
    /// With `w = xi + i eta` and `R = |w|^2`, the equation `Im z = 0` is
    /// `(1 - 1/R)(R - 2 a xi + a^2) = snr^2`, a quadratic equation in `R` with one root above 1. The point is
    /// therefore explicit in `xi`.
    #[inline(always)]
    fn on_the_curve(&self, xi: &Lane) -> WishartOnCurve {
        let Self { snr, a, .. } = *self;
        let snr2 = snr * snr;
        let zero = [0.0; LANES];
        let mut points = WishartOnCurve { excess_mean: zero, real_g: zero, density: zero };
        for l in 0..LANES {
            let xi = xi[l];
            let product = a * (2.0 * xi - a);
            let linear = 1.0 + product + snr2;
            // The root of linear^2 - 4 product.
            let difference = product - 1.0 + snr2;
            let root = (difference * difference + 4.0 * snr2).sqrt();
            // The larger root of the quadratic equation, in the form without cancellation.
            let other = 2.0 * product / (linear - root);
            let r = if linear >= 0.0 { 0.5 * (linear + root) } else { other };
            let r_minus_1 = if linear >= 0.0 { 0.5 * (difference + root) } else { other - 1.0 };
            let eta2 = r - xi * xi;
            // |w - a|^2 = snr^2 R/(R - 1).
            let distance2 = r - product;
            let r_slope = 2.0 * a * r_minus_1 / root;
            let distance2_slope = r_slope - 2.0 * a;
            let (per_r, per_distance2) = (1.0 / r, 1.0 / distance2);
            // x = xi + xi/R + snr sqrt(kappa0) + snr^2 (xi - a)/|w - a|^2
            let x_slope = 1.0
                + (1.0 - xi * per_r * r_slope) * per_r
                + snr2 * per_distance2 * (1.0 - (xi - a) * per_distance2 * distance2_slope);
            let inside = eta2 > 0.0;
            let eta = (if inside { eta2 } else { 0.0 }).sqrt();
            points.excess_mean[l] = if inside { snr * (2.0 * xi - a) * per_distance2 } else { 0.0 };
            points.real_g[l] = if inside { xi * per_r } else { 0.0 };
            points.density[l] = if inside { eta * per_r / PI * x_slope } else { 0.0 };
        }
        points
    }

    /// The point `w` of the closed upper half-plane with `z(w) = x` that is `1/G(x + i0)`.
    fn preimage(&self, x: f64) -> Complex<f64> {
        if self.a <= 0.0 {
            return semicircle_preimage(x);
        }
        // w^3 + c2 w^2 + c1 w - a = 0
        let c2 = self.shift - self.a - x;
        let c1 = self.a * x + 1.0;
        if x >= self.z(self.right) {
            return Complex::new(self.real_preimage(x, self.right.max(x - self.shift)), 0.0);
        }
        if x <= self.z(self.left) {
            return Complex::new(self.real_preimage(x, self.left.min(x - self.shift)), 0.0);
        }
        if let Some([from, to]) = self.gap
            && x >= self.z(from)
            && x <= self.z(to)
        {
            return Complex::new(self.bisect_gap(x, from, to), 0.0);
        }
        // In the bulk there is one real root, between 0 and a. The complex pair follows from the
        // coefficients.
        let real = positive_root(c2, c1, self.a);
        let re = -0.5 * (c2 + real);
        let im = (self.a / real - re * re).max(0.0).sqrt();
        Complex::new(re, im)
    }

    /// The real solution of `z(w) = x` beyond an outer edge. There, `z` is monotone and convex (concave on
    /// the left), and `start` is beyond the solution, so that Newton's method is monotone.
    fn real_preimage(&self, x: f64, start: f64) -> f64 {
        let mut w = start;
        for _ in 0..200 {
            let (i, s) = (1.0 / w, self.snr / (w - self.a));
            let step = (self.z(w) - x) / (1.0 - i * i - s * s);
            if !step.is_finite() || step.abs() <= 1e-16 * w.abs() {
                break;
            }
            w -= step;
        }
        w
    }

    /// The solution of `z(w) = x` in the gap, where `z` increases from `from` to `to`.
    fn bisect_gap(&self, x: f64, mut from: f64, mut to: f64) -> f64 {
        for _ in 0..80 {
            let middle = 0.5 * (from + to);
            if self.z(middle) < x {
                from = middle;
            } else {
                to = middle;
            }
        }
        0.5 * (from + to)
    }
}

impl Parametrised for Uniformised {
    const RISK_WITHOUT_CANCELLATION: f64 = 1e-3;

    fn snr(&self) -> f64 {
        self.snr
    }

    fn moments(&self) -> LawMoments {
        self.moments
    }

    fn ends(&self, _: f64) -> [f64; 2] {
        [self.left, self.right]
    }

    fn clearance(&self, w: Complex<f64>) -> f64 {
        w.norm_sqr().min((w - self.a).norm_sqr())
    }

    fn terms(&self, w: &Lanes) -> Terms {
        let g = w.reciprocal();
        let shifted = w.minus(self.a).reciprocal();
        Terms {
            z: w.plus(1.0, &g).plus(self.shift, &w.times(&shifted)),
            g,
            g_slope: g.squared(),
            h_slope: shifted.squared().scaled(self.moments.mean),
        }
    }
}

fn semicircle_preimage(x: f64) -> Complex<f64> {
    let half = 0.5 * x;
    let discriminant = half * half - 1.0;
    if discriminant <= 0.0 {
        Complex::new(half, (-discriminant).sqrt())
    } else {
        Complex::new(half + discriminant.sqrt().copysign(half), 0.0)
    }
}

/// The only real root of `w^3 + c2 w^2 + c1 w - a`, `a > 0`, which lies in `(0, a)`. Cardano's formula gives
/// a start, and Newton's method, kept in the bracket, gives full relative accuracy.
fn positive_root(c2: f64, c1: f64, a: f64) -> f64 {
    let third = c2 / 3.0;
    let p = c1 / 3.0 - third * third;
    let half_q = third * (third * third - 0.5 * c1) - 0.5 * a;
    let discriminant = (half_q * half_q + p * p * p).max(0.0).sqrt();
    let u = -(half_q.abs() + discriminant).cbrt().copysign(half_q);
    let cardano = if u.abs() > 0.0 { u - p / u - third } else { -third };
    let (mut low, mut high) = (0.0, a);
    let mut w = if cardano > low && cardano < high { cardano } else { 0.5 * a };
    for _ in 0..100 {
        let value = ((w + c2) * w + c1) * w - a;
        if value > 0.0 {
            high = w;
        } else {
            low = w;
        }
        let newton = w - value / ((3.0 * w + 2.0 * c2) * w + c1);
        let next = if newton > low && newton < high { newton } else { 0.5 * (low + high) };
        if (next - w).abs() <= 4e-16 * w {
            return next;
        }
        w = next;
    }
    w
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_relative_eq;

    const CASES: [(f64, f64); 12] = [
        (0.0, 0.5),
        (1e-9, 1.0),
        (1e-3, 1.0),
        (0.3, 0.5),
        (1.0, 0.5),
        (2.0, 1.0),
        (3.0, 2.0),
        (4.0, 0.3),
        (20.0, 0.2),
        (60.0, 0.9),
        (0.5, 0.01),
        (5.0, 8.0),
    ];

    #[test]
    fn support_edges_are_the_roots_of_the_quartic_and_the_gap_is_found() {
        // The equation z'(w) = 0 is the quartic of the theory, whose value at the critical points vanishes.
        for (snr, kappa0) in CASES {
            let map = Wishart::new(kappa0).unwrap().uniformised(snr);
            let mut points = vec![map.left, map.right];
            points.extend(map.gap.into_iter().flatten());
            for w in points {
                let a = map.a;
                let terms = [
                    w.powi(4),
                    -2.0 * a * w.powi(3),
                    -(1.0 - a * a + snr * snr) * w * w,
                    2.0 * a * w,
                    -a * a,
                ];
                let scale: f64 = terms.iter().map(|t| t.abs()).sum();
                assert!(terms.iter().sum::<f64>().abs() < 1e-13 * scale, "snr {snr}, kappa0 {kappa0}, w {w}");
            }
        }
        assert_eq!(Wishart::new(0.3).unwrap().support(4.0).len(), 2);
        assert_eq!(Wishart::new(0.5).unwrap().support(1.0).len(), 1);
        assert_eq!(Wishart::new(2.0).unwrap().support(50.0).len(), 1);
        assert_relative_eq!(Wishart::new(0.3).unwrap().atom_at_zero(), 0.7);
    }

    #[test]
    fn weight_of_the_two_intervals() {
        // The intervals are far apart, and the lower one is the atom at zero, broadened by the noise.
        let teacher = Wishart::new(0.2).unwrap();
        let r = teacher.support(40.0)[0][1] + 0.5;
        assert_relative_eq!(teacher.denoise(40.0, r).rank_fraction, 0.2, max_relative = 1e-12);
    }

    #[test]
    fn stieltjes_solves_the_cubic_everywhere_and_decays() {
        for (snr, kappa0) in CASES {
            let teacher = Wishart::new(kappa0).unwrap();
            let map = teacher.uniformised(snr);
            for x in [-1e3, -2.5, -1.0, 0.0, 0.4, 1.7, 3.0, 8.0, 1e3] {
                let w = map.preimage(x);
                let back = w + w.inv() + map.shift * w / (w - map.a);
                if snr > 0.0 {
                    assert_relative_eq!(back.re, x, epsilon = 1e-11 * (1.0 + x.abs() + map.a));
                    assert!(back.im.abs() < 1e-11 * (1.0 + x.abs() + map.a), "{snr} {kappa0} {x}: {back}");
                }
                assert!(teacher.density(snr, x) >= 0.0);
            }
            let far = 1e6 * (1.0 + snr);
            assert_relative_eq!(teacher.stieltjes(snr, far)[0] * far, 1.0, max_relative = 1e-4);
            assert_relative_eq!(teacher.stieltjes(snr, -far)[0] * far, -1.0, max_relative = 1e-4);
        }
    }

    #[test]
    fn risk_at_a_strong_signal_is_stable() {
        // For snr -> infinity at a threshold inside the noise bulk, the risk tends to a limit of order one.
        let teacher = Wishart::new(0.4).unwrap();
        for r in [1.1, 2.5] {
            let [a, b] = [1e5, 1e7].map(|snr| teacher.denoise(snr, r).risk);
            assert_relative_eq!(a, b, max_relative = 1e-4);
        }
        // In the gap, the threshold cuts the whole noise bulk. The risk is r^2 and the noise on the span of
        // the teacher, 2 kappa0 - kappa0^2.
        assert_relative_eq!(teacher.denoise(1e7, 2.5).risk, 0.4 * 2.5 * 2.5 + 0.64, max_relative = 1e-5);
        // If the whole law is above the threshold, the risk is 1 + r^2.
        let wide = Wishart::new(3.0).unwrap();
        assert_relative_eq!(wide.denoise(1e6, 0.7).risk, 1.49, max_relative = 1e-12);
    }

    #[test]
    fn thresholds_beyond_the_support() {
        let teacher = Wishart::new(0.5).unwrap();
        let beyond = teacher.denoise(1.0, teacher.top_edge(1.0) + 1e-9);
        assert_eq!(beyond, Denoised { risk: 1.5, ..Denoised::default() });
        let low = teacher.support(1.0)[0][0];
        let [all, nearly] = [low - 1e-9, low + 1e-9].map(|r| teacher.denoise(1.0, r));
        assert_relative_eq!(all.norm, nearly.norm, max_relative = 1e-8);
        assert_relative_eq!(all.overlap, nearly.overlap, max_relative = 1e-8);
        assert_relative_eq!(all.risk, nearly.risk, max_relative = 1e-8);
    }

    #[test]
    fn a_gap_that_is_nothing_but_rounding_is_none() {
        // Rounding may exchange the critical points of a gap that is about to open.
        let (kappa0, snr) = (9.544_670_763_292_53e-1, 5.105_131_419_736_453_6e2);
        let denoised = Wishart::new(kappa0).unwrap().denoise(snr, 3.705_458_431_127_323_6e-1);
        assert_relative_eq!(denoised.rank_fraction, kappa0, max_relative = 1e-4);
        assert!(denoised.risk > 1.0 && denoised.risk < 1.5, "{denoised:?}");
    }

    #[test]
    fn the_rules_for_the_posterior_do_not_stop_too_early() {
        // The grid includes gaps that are about to open or have just opened, which are narrow features.
        for i in 0..40 {
            let kappa0 = 0.02 * 1.13_f64.powi(i);
            let opening = (1.0 / kappa0.cbrt() - 1.0).powf(-1.5);
            let signals =
                (0..12).map(|k| 0.05 * 2.3_f64.powi(k)).chain([0.999, 1.001, 1.1].map(|f| f * opening));
            for snr in signals.filter(|snr| snr.is_finite()) {
                let map = Wishart::new(kappa0).unwrap().uniformised(snr);
                let (few, many) = (map.posterior_integrals(FEWEST_NODES), map.posterior_integrals(4096));
                for (a, b) in few.into_iter().zip(many) {
                    approx::assert_abs_diff_eq!(a, b, epsilon = 1e-11 * b.max(1.0));
                }
            }
        }
    }

    #[test]
    fn bad_widths_are_errors() {
        for kappa0 in [0.0, -1.0, 1e-6, 1e7, f64::NAN, f64::INFINITY] {
            assert!(Wishart::new(kappa0).is_err());
        }
    }
}
