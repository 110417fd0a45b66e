//! The teacher of cross-attention with two Gaussian factors: `s* = S*/sqrt(D)` with `S* = P0^{-1/2} U* V*^T`.
//!
//! The law of `y` is that of the singular values of `snr s* + Z` and of their negatives, with `Z` a real matrix of independent
//! entries of variance `1/D`. The R-transforms of such symmetrised laws add, `R(g) = g` for the noise and
//! `R(g) = snr^2 g/(1 - snr^2 g^2/kappa0)` for the signal. With `G` the Stieltjes transform and `w = 1/G`,
//!
//! ```text
//! z(w) = w + 1/w + snr^2 w/(w^2 - a^2),    a = snr/sqrt(kappa0)
//! ```
//!
//! The map `z` is rational in `w`, and so are `G = 1/w` and `H = snr/(w^2 - a^2)`, from which the integrals of the soft threshold
//! are made (see [`super::soft_threshold`]). The equation to solve is a quartic one, two roots of which are always real.
//!
//! Source: F. Benaych-Georges, Probab. Theory Relat. Fields 144, 471 (2009), for the sum of rectangular matrices; U. Haagerup,
//! F. Larsen, J. Funct. Anal. 176, 331 (2000), for R-diagonal elements.

use nalgebra::Complex;

use super::adaptive::integrate;
use super::contour::Lanes;
use super::integrals::{Denoised, LawMoments, Posterior, meaningful};
use super::law::{TeacherSpectrum, moments};
use super::soft_threshold::{self, Centre, Parametrised, Position, Terms};
use super::wishart::Wishart;
use crate::error::Error;
use std::f64::consts::{FRAC_1_SQRT_2, PI};

/// The symmetrised law of the singular values of `s* = S*/sqrt(D)` for `S* = P0^{-1/2} U* V*^T` with `U*` and `V*` of shape
/// `D x kappa0 D`: mean 0, second moment `Q0 = 1`, fourth moment `2 + 1/kappa0`, and an atom of weight `1 - kappa0` at zero if
/// `kappa0 < 1`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WishartProduct {
    kappa0: f64,
}

impl WishartProduct {
    /// The teacher of width `kappa0`.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] if `kappa0` is not in [`Wishart::WIDTHS`].
    pub fn new(kappa0: f64) -> Result<Self, Error> {
        Wishart::new(kappa0).map(|_| Self { kappa0 })
    }

    fn uniformised(&self, snr: f64) -> UniformisedProduct {
        UniformisedProduct::new(self, meaningful(snr))
    }
}

impl TeacherSpectrum for WishartProduct {
    fn mean(&self) -> f64 {
        0.0
    }

    fn second_moment(&self) -> f64 {
        1.0
    }

    fn variance(&self) -> f64 {
        1.0
    }

    fn orbit_dimension(&self) -> f64 {
        if self.kappa0 < 1.0 { self.kappa0 * (2.0 - self.kappa0) } else { 1.0 }
    }

    fn support(&self, snr: f64) -> Vec<[f64; 2]> {
        let map = self.uniformised(snr);
        let high = map.z(map.right);
        match map.gap {
            Some(gap) => {
                let [from, to] = gap.map(|w| map.z(w));
                vec![[-high, -to], [-from, from], [to, high]]
            }
            None => vec![[-high, high]],
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

    fn denoise_both_sides(&self, snr: f64, r: f64) -> Denoised {
        let map = self.uniformised(snr);
        // A NaN stays one.
        let r = if r < 0.0 { 0.0 } else { r };
        soft_threshold::denoise_both_sides(&map, r, &map.threshold(r), || {
            let w = map.preimage(0.0);
            Centre { w, density: -w.inv().im / PI }
        })
    }

    fn posterior(&self, snr: f64) -> Posterior {
        let map = self.uniformised(snr);
        let [gain, response2] = map.posterior_integrals();
        Posterior::new(map.snr, &map.moments, gain, response2)
    }
}

/// The rational parametrisation of the law at one `snr`.
struct UniformisedProduct {
    snr: f64,
    moments: LawMoments,
    /// The positive pole of `z`. The others are 0 and `-a`.
    a: f64,
    /// The critical point of `z` beyond `a`, whose image is the outer edge of the support.
    right: f64,
    /// The critical points between 0 and `a`, whose images are the edges of the gap, if the support has one.
    gap: Option<[f64; 2]>,
}

/// A point of the support.
struct ProductOnCurve {
    /// `E[s* | y]`.
    mean: f64,
    /// `Re G`.
    real_g: f64,
    /// `rho dx/d(Re w)`.
    density: f64,
}

impl UniformisedProduct {
    fn new(teacher: &WishartProduct, snr: f64) -> Self {
        let a = snr / teacher.kappa0.sqrt();
        let mut map = Self { snr, moments: moments(teacher), a, right: 0.0, gap: None };
        // z' is concave between and beyond its poles. It is negative where 1/w^2 or the nearest pole at `a` alone
        // makes it so, and Newton's method converges monotonically from there.
        let reach = snr * FRAC_1_SQRT_2;
        map.right = map.critical_point((a + reach).max(1.0));
        if a - reach > 1.0 {
            map.gap = map.opening(1.0, a - reach);
        }
        map
    }

    /// `z(w)`.
    fn z(&self, w: f64) -> f64 {
        w + 1.0 / w + self.snr * (w / (w - self.a)) * (self.snr / (w + self.a))
    }

    /// `z'(w)` and its derivative.
    fn slope(&self, w: f64) -> [f64; 2] {
        let (i, s, t) = (1.0 / w, 1.0 / (w - self.a), 1.0 / (w + self.a));
        let half = 0.5 * self.snr;
        let pole = |s: f64| half * s * (self.snr * s);
        [1.0 - i * i - pole(s) - pole(t), 2.0 * (i * i * i + pole(s) * s + pole(t) * t)]
    }

    /// The zero of `z'` that Newton's method reaches monotonically from `w`.
    fn critical_point(&self, mut w: f64) -> f64 {
        for _ in 0..100 {
            let [slope, curvature] = self.slope(w);
            let step = slope / curvature;
            if step.is_nan() || step.abs() <= 1e-16 * w.abs() {
                break;
            }
            w -= step;
        }
        w
    }

    /// The two zeros of the concave `z'` between two points at which it is negative, if there are any.
    fn opening(&self, low: f64, high: f64) -> Option<[f64; 2]> {
        let (mut from, mut to) = (low, high);
        for _ in 0..200 {
            let middle = 0.5 * (from + to);
            let [slope, curvature] = self.slope(middle);
            if slope > 0.0 {
                let gap = [self.critical_point(low), self.critical_point(high)];
                // Rounding may close a gap that has just opened.
                return Some(gap).filter(|[from, to]| from < to && self.z(*from) < self.z(*to));
            }
            // The tangent bounds a concave function from above.
            let bounded = slope + curvature.abs() * (to - from) < 0.0;
            if bounded || !(middle > from && middle < to) {
                return None;
            }
            *(if curvature > 0.0 { &mut from } else { &mut to }) = middle;
        }
        None
    }

    /// `int E[s* | y]^2 rho` and `int (Re G)^2 rho`.
    fn posterior_integrals(&self) -> [f64; 2] {
        // The integrands are even, so that the intervals of positive `Re w` count twice.
        let intervals = match self.gap {
            Some([from, to]) => [Some([0.0, from]), Some([to, self.right])],
            None => [Some([0.0, self.right]), None],
        };
        let mut total = [0.0; 2];
        for [low, high] in intervals.into_iter().flatten() {
            let (middle, half) = (0.5 * (low + high), 0.5 * (high - low));
            // The square roots at the edges are smooth as functions of the angle.
            let part = integrate(0.0, PI, |theta| {
                let ProductOnCurve { mean, real_g, density } = self.on_the_curve(middle + half * theta.cos());
                let weight = 2.0 * density * half * theta.sin();
                [mean * mean * weight, real_g * real_g * weight]
            });
            for (sum, x) in total.iter_mut().zip(part) {
                *sum += x;
            }
        }
        total
    }

    /// The point of the curve `Im z = 0` above `xi >= 0`.
    ///
    /// With `w = xi + i eta` and `R = |w|^2`, the equation is `1 - 1/R = snr^2 u/(u^2 - b^2)` with `u = R + a^2` and `b = 2 a xi`. Its left
    /// side grows with `R` and its right side falls, so that there is one root.
    fn on_the_curve(&self, xi: f64) -> ProductOnCurve {
        let signal = self.snr * self.snr;
        let (a2, b) = (self.a * self.a, 2.0 * self.a * xi);
        // The difference of both sides, with its derivatives in R and in b^2.
        let excess = |r: f64| {
            let u = r + a2;
            let distances = (u - b) * (u + b);
            let pull = signal * u / distances;
            let slope = 1.0 / (r * r) + (pull * (2.0 * u) - signal) / distances;
            [1.0 - 1.0 / r - pull, slope, -pull / distances]
        };
        let (mut low, mut high) = ((xi * xi).max(1.0), self.right * self.right);
        let mut r = 0.5 * (low + high);
        for _ in 0..200 {
            let [value, slope, _] = excess(r);
            *(if value < 0.0 { &mut low } else { &mut high }) = r;
            let newton = r - value / slope;
            let next = if newton > low && newton < high { newton } else { 0.5 * (low + high) };
            let close = (next - r).abs() <= 4e-16 * r;
            r = next;
            if close {
                break;
            }
        }
        let eta2 = r - xi * xi;
        if eta2.is_nan() || eta2 <= 0.0 {
            return ProductOnCurve { mean: 0.0, real_g: 0.0, density: 0.0 };
        }
        let [_, slope, slope_b2] = excess(r);
        let r_slope = -slope_b2 * 8.0 * a2 * xi / slope;
        // x = xi + xi/R + (snr^2/2) sum (xi -+ a)/d with d = R -+ 2 a xi + a^2, the squares of the distances from the poles.
        let pole = |a: f64| {
            let distance2 = r - 2.0 * a * xi + a2;
            let distance2_slope = r_slope - 2.0 * a;
            0.5 * signal / distance2 * (1.0 - (xi - a) / distance2 * distance2_slope)
        };
        let x_slope = 1.0 + (1.0 - xi / r * r_slope) / r + pole(self.a) + pole(-self.a);
        let distances = (r + a2 - b) * (r + a2 + b);
        ProductOnCurve {
            mean: 2.0 * self.snr * xi * (r / distances),
            real_g: xi / r,
            density: eta2.sqrt() / (PI * r) * x_slope,
        }
    }

    /// The position of the threshold `r`.
    fn threshold(&self, r: f64) -> Position {
        let top = self.z(self.right);
        if r >= top {
            return Position::AboveTheSupport;
        }
        if r <= -top {
            return Position::BelowTheSupport;
        }
        let [left, right] = match self.gap {
            // The paths start where each of them stays close to its own part of the support.
            Some([from, to]) if r.abs() >= self.z(from) && r.abs() <= self.z(to) => {
                let [near, far] =
                    [1.0, 2.0 * self.a - self.right].map(|w| Complex::new(w.clamp(from, to), 0.0));
                if r > 0.0 { [near, far] } else { [-far, -near] }
            }
            _ => [self.preimage(r); 2],
        };
        Position::Inside { left, right }
    }

    /// The point `w` of the closed upper half-plane with `z(w) = x` that is `1/G(x + i0)`.
    fn preimage(&self, x: f64) -> Complex<f64> {
        if x < 0.0 {
            return -self.preimage(-x).conj();
        }
        if x >= self.z(self.right) {
            return Complex::new(self.beyond(x), 0.0);
        }
        if let Some([from, to]) = self.gap
            && x >= self.z(from)
            && x <= self.z(to)
        {
            return Complex::new(self.bisect(x, [from, to]), 0.0);
        }
        // In the bulk there are two real roots of the quartic, on either side of 0 and closer to it than the poles. The complex
        // pair follows from their sum and product.
        let squared = self.a * self.a;
        if squared <= 0.0 {
            let half = 0.5 * x;
            return Complex::new(half, (1.0 - half * half).max(0.0).sqrt());
        }
        let [plus, minus] = [x, -x].map(|x| self.inner_root(x));
        let re = 0.5 * (x - (plus - minus));
        let im = ((self.a / plus) * (self.a / minus) - re * re).max(0.0).sqrt();
        Complex::new(re, im)
    }

    /// The solution of `z(w) = x` beyond the outer edge, where `z` increases and is convex.
    fn beyond(&self, x: f64) -> f64 {
        // z(w) > w there.
        let mut w = self.right.max(x);
        for _ in 0..200 {
            let step = (self.z(w) - x) / self.slope(w)[0];
            if !step.is_finite() || step.abs() <= 1e-16 * w {
                break;
            }
            w -= step;
        }
        w
    }

    /// The solution of `z(w) = x` in the gap, where `z` increases.
    fn bisect(&self, x: f64, [mut from, mut to]: [f64; 2]) -> f64 {
        for _ in 0..80 {
            let middle = 0.5 * (from + to);
            *(if self.z(middle) < x { &mut from } else { &mut to }) = middle;
        }
        0.5 * (from + to)
    }

    /// The solution of `z(w) = x` in `(0, a)` for `x` in the bulk, where it is the only one. In `t = w/a` it is the root of
    /// `(a^2 t^2 - a x t + 1)(1 - t^2) = snr^2 t^2`, whose left side minus right side falls from 1 to `-snr^2`.
    fn inner_root(&self, x: f64) -> f64 {
        let (a, signal) = (self.a, self.snr * self.snr);
        let (quadratic, linear) = (a * a, a * x);
        let value = |t: f64| {
            let first = (quadratic * t - linear) * t + 1.0;
            let second = (1.0 - t) * (1.0 + t);
            let slope = (2.0 * quadratic * t - linear) * second - 2.0 * t * first - 2.0 * signal * t;
            (first * second - signal * t * t, slope)
        };
        let (mut low, mut high) = (0.0, 1.0);
        // The root for x = 0 without the first term, which is close to it for weak signals.
        let mut t = 1.0 / (1.0 + signal).sqrt();
        for _ in 0..200 {
            let (f, slope) = value(t);
            *(if f > 0.0 { &mut low } else { &mut high }) = t;
            let newton = t - f / slope;
            let next = if newton > low && newton < high { newton } else { 0.5 * (low + high) };
            if (next - t).abs() <= 4e-16 * t {
                return a * next;
            }
            t = next;
        }
        a * t
    }
}

impl Parametrised for UniformisedProduct {
    const RISK_WITHOUT_CANCELLATION: f64 = 1e-3;

    fn snr(&self) -> f64 {
        self.snr
    }

    fn moments(&self) -> LawMoments {
        self.moments
    }

    fn ends(&self, _: f64) -> [f64; 2] {
        [-self.right, self.right]
    }

    fn clearance(&self, w: Complex<f64>) -> f64 {
        let folded = Complex::new(w.re.abs(), w.im);
        w.norm_sqr().min((folded - self.a).norm_sqr())
    }

    fn terms(&self, w: &Lanes) -> Terms {
        let g = w.reciprocal();
        let pole = w.squared().minus(self.a * self.a).reciprocal();
        let signal = w.times(&pole);
        Terms {
            z: w.plus(1.0, &g).plus(self.snr * self.snr, &signal),
            g,
            g_slope: g.squared(),
            h_slope: signal.times(&pole).scaled(2.0 * self.snr),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spectrum::Discrete;
    use crate::spectrum::law::along_the_axis;
    use crate::spectrum::plain::Plain;
    use approx::{assert_abs_diff_eq, assert_relative_eq};

    /// The gap of the last two cases has just opened, or is about to open: it opens at `snr = 1.84782` for `kappa0 = 0.3`.
    const CASES: [(f64, f64); 14] = [
        (0.0, 0.5),
        (1e-9, 1.0),
        (1e-3, 1.0),
        (0.3, 0.5),
        (1.0, 0.5),
        (4.0, 0.3),
        (2.0, 1.0),
        (3.0, 2.0),
        (20.0, 0.2),
        (30.0, 1.0),
        (60.0, 0.9),
        (0.5, 0.01),
        (1.848, 0.3),
        (1.8475, 0.3),
    ];

    fn teacher(kappa0: f64) -> WishartProduct {
        WishartProduct::new(kappa0).unwrap()
    }

    #[test]
    fn moments_of_the_density() {
        for (snr, kappa0) in CASES {
            let law = teacher(kappa0);
            let moments = along_the_axis(&law, snr, |axis| {
                axis.integrate([f64::NEG_INFINITY, f64::INFINITY], |point| {
                    let square = point.x * point.x;
                    [1.0, square, square * square]
                })
            });
            let second = 1.0 + snr * snr;
            let exact = [1.0, second, 2.0 * second * second + snr.powi(4) / kappa0];
            for (value, exact) in moments.into_iter().zip(exact) {
                assert_relative_eq!(value, exact, max_relative = 1e-13);
            }
        }
    }

    #[test]
    fn edges_are_the_roots_of_the_cubic() {
        for (snr, kappa0) in CASES {
            let map = teacher(kappa0).uniformised(snr);
            let a2 = map.a * map.a;
            for w in map.gap.into_iter().flatten().chain([map.right]) {
                let square = w * w;
                let terms = [(square - 1.0) * (square - a2).powi(2), -snr * snr * square * (square + a2)];
                let scale = (square + 1.0) * (square + a2).powi(2) + snr * snr * square * (square + a2);
                assert!(terms.iter().sum::<f64>().abs() < 1e-13 * scale, "{snr} {kappa0} {w}");
            }
        }
        let intervals = |snr: f64, kappa0: f64| teacher(kappa0).support(snr).len();
        assert_eq!([intervals(20.0, 0.2), intervals(1.0, 0.5), intervals(50.0, 2.0)], [3, 1, 1]);
    }

    #[test]
    fn stieltjes_solves_the_quartic_everywhere_and_decays() {
        for (snr, kappa0) in CASES {
            let law = teacher(kappa0);
            let map = law.uniformised(snr);
            for x in [-1e3, -2.5, -1.0, 0.0, 1e-3, 0.4, 1.7, 3.0, 8.0, 30.0, 1e3] {
                let w = map.preimage(x);
                let back = w + w.inv() + snr * (w / (w - map.a)) * (snr / (w + map.a));
                if snr > 0.0 {
                    let tolerance = 1e-11 * (1.0 + x.abs() + map.a);
                    assert_relative_eq!(back.re, x, epsilon = tolerance);
                    assert!(back.im.abs() < tolerance, "{snr} {kappa0} {x}: {back}");
                }
                assert!(law.density(snr, x) >= 0.0);
                assert_relative_eq!(law.density(snr, x), law.density(snr, -x), max_relative = 1e-14);
            }
            let far = 1e6 * (1.0 + snr);
            assert_relative_eq!(law.stieltjes(snr, far)[0] * far, 1.0, max_relative = 1e-4);
        }
    }

    /// Contour integrals against integrals along the real axis, for products and for lists.
    #[test]
    fn both_sides_along_contours_as_along_the_axis() {
        let product = |kappa0| -> Box<dyn TeacherSpectrum> { Box::new(teacher(kappa0)) };
        let mut cases: Vec<_> = CASES.map(|(snr, kappa0)| (product(kappa0), snr)).into_iter().collect();
        for (list, snr) in [
            (&[1.3][..], 0.0),
            (&[1.3], 2.0),
            (&[0.0, 1.0], 1.5),
            (&[0.0, 1.0, 5.0, 0.0, 0.0], 3.0),
            (&[0.1, 0.3, 0.4, 2.0, 2.2, 7.0], 0.9),
        ] {
            cases.push((Box::new(Discrete::singular(list).unwrap()), snr));
        }
        for (law, snr) in cases {
            let plain = Plain(law);
            let law = plain.0.as_ref();
            let high = law.top_edge(snr);
            for fraction in [0.0, 0.01, 0.2, 0.45, 0.7, 0.93, 1.1] {
                let r = fraction * high;
                let (value, exact) = (law.denoise_both_sides(snr, r), plain.denoise_both_sides(snr, r));
                let overlap = if snr < 1e-3 { 1e-8 } else { 1e-10 };
                for (value, exact, tolerance) in [
                    (value.norm, exact.norm, 1e-10),
                    (value.overlap, exact.overlap, overlap),
                    (value.response, exact.response, 1e-10),
                    (value.trace, exact.trace, 1e-10),
                    (value.rank_fraction, exact.rank_fraction, 1e-10),
                    (value.risk, exact.risk, 1e-10),
                ] {
                    assert_relative_eq!(value, exact, max_relative = tolerance, epsilon = 1e-14);
                }
            }
            let (value, exact) = (law.posterior(snr), plain.posterior(snr));
            assert_abs_diff_eq!(value.overlap, exact.overlap, epsilon = 1e-11);
            assert_abs_diff_eq!(value.risk, exact.risk, epsilon = 1e-11);
        }
    }

    #[test]
    fn without_a_threshold_it_is_least_squares() {
        for (snr, kappa0) in CASES {
            let all = teacher(kappa0).denoise_both_sides(snr, 0.0);
            assert_relative_eq!(all.norm, 1.0 + snr * snr, max_relative = 1e-12);
            assert_relative_eq!(all.overlap, snr, max_relative = 1e-12);
            assert_relative_eq!(all.risk, 1.0, max_relative = 1e-11);
            assert_relative_eq!(all.response, 1.0, max_relative = 1e-12);
            assert_relative_eq!(all.rank_fraction, 1.0, max_relative = 1e-12);
        }
    }

    #[test]
    fn the_posterior_at_weak_and_strong_signals() {
        for kappa0 in [0.3, 4.0, 1e5] {
            let law = teacher(kappa0);
            let weak = law.posterior(1e-6);
            assert_relative_eq!(weak.risk, 1e-12, max_relative = 1e-10);
            for snr in [1e5, 1e9, 1e12] {
                let strong = law.posterior(snr);
                assert_relative_eq!(strong.risk, law.orbit_dimension(), max_relative = 1e-3);
            }
            assert_relative_eq!(law.posterior(1e9).risk, law.orbit_dimension(), max_relative = 1e-6);
        }
        // In the gap between noise and signal, the threshold cuts all noise but that on the spans of the factors.
        let law = teacher(0.4);
        assert_relative_eq!(law.denoise_both_sides(1e7, 2.5).risk, 0.4 * 6.25 + 0.64, max_relative = 1e-5);
    }
}
