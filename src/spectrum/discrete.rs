//! A teacher with any list of eigenvalues, or of singular values and their negatives.
//!
//! In units of the noise, with `a_i = snr s_i` the eigenvalues of weights `p_i`, the law of `y = snr s* + Z` is parametrised
//! by its subordination function `w` (P. Biane, Indiana Univ. Math. J. 46, 705 (1997)):
//!
//! ```text
//! G = sum_i p_i/(w - a_i),    z = w + G,    H = sum_i p_i s_i/(w - a_i)
//! ```
//!
//! A real `z = x` in the support belongs to a point `w = u + i v` of the curve `v(u)` on which
//! `sum_i p_i/|w - a_i|^2 = 1`. There, `rho = v/pi` and `E[s* | y] = sum_i p_i s_i/|w - a_i|^2`. The integrals
//! of the soft threshold are contour integrals in the upper half-plane (see [`super::soft_threshold`]). Their
//! paths pass far above the eigenvalues, however many there are.

use nalgebra::Complex;
use std::cell::Cell;
use std::f64::consts::PI;

use super::adaptive::integrate;
use super::contour::{Lanes, PoleSums};
use super::integrals::{Denoised, LawMoments, Posterior, meaningful};
use super::law::{Chart, TeacherSpectrum, moments};
use super::soft_threshold::{self, Centre, Parametrised, Position, Terms};
use crate::error::{Error, Number};
use crate::lanes::{LANES, wide};
use crate::roots::{self, End};

/// The law of `s* = S*/sqrt(D)` for a listed spectrum: every eigenvalue has the same weight.
#[derive(Debug, Clone, PartialEq)]
pub struct Discrete {
    /// The distinct eigenvalues, in increasing order, and their weights.
    values: Vec<f64>,
    weights: Vec<f64>,
    /// The same eigenvalues and weights in blocks for the kernels. Copies of the largest eigenvalue without
    /// weight fill up the last block.
    blocks: Vec<EigenvalueBlock>,
    mean: f64,
    second_moment: f64,
    variance: f64,
}

/// One block of eigenvalues and their weights.
type EigenvalueBlock = ([f64; LANES], [f64; LANES]);

impl Discrete {
    /// The largest number of eigenvalues.
    pub const MAX_EIGENVALUES: usize = 10_000;
    /// Range of the largest eigenvalue. Squares of values in it are far from the limits of double precision.
    pub const SCALES: [f64; 2] = [1e-50, 1e50];

    /// The spectrum with the given eigenvalues of `s*`, in any order.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] unless there are 1 to 10,000 eigenvalues, all of them finite and >= 0, and the largest
    /// between 1e-50 and 1e50.
    pub fn new(eigenvalues: &[f64]) -> Result<Self, Error> {
        Self::check(eigenvalues)?;
        Ok(Self::from_valid(eigenvalues.to_vec()))
    }

    /// The symmetrised law of the given singular values of `s*`, in any order, for cross-attention: every singular value and its negative are
    /// eigenvalues.
    ///
    /// # Errors
    /// The errors of [`Discrete::new`], which name the singular values.
    pub fn singular(singular_values: &[f64]) -> Result<Self, Error> {
        check_list("model.teacher.spectrum.singular_values", "singular values", singular_values)?;
        Ok(Self::symmetric(singular_values))
    }

    /// The symmetrised law of the singular values `s_i` proportional to `i^(-exponent)`, `i = 1, ..., dimension`, scaled to `Q0 = 1`.
    ///
    /// # Errors
    /// The errors of [`Discrete::power_law`].
    pub fn singular_power_law(exponent: f64, dimension: usize) -> Result<Self, Error> {
        Self::check_power_law(exponent, dimension)?;
        Ok(Self::symmetric(&scaled_power_law(exponent, dimension)))
    }

    fn symmetric(singular_values: &[f64]) -> Self {
        // Adding 0 makes a positive zero of a negative one, so that both are one eigenvalue.
        let law = Self::from_valid(singular_values.iter().flat_map(|s| [s + 0.0, -s + 0.0]).collect());
        Self { mean: 0.0, variance: law.second_moment, ..law }
    }

    /// Makes the checks of [`Self::new`] only.
    pub(crate) fn check(eigenvalues: &[f64]) -> Result<(), Error> {
        check_list("model.teacher.spectrum.eigenvalues", "eigenvalues", eigenvalues)
    }

    /// The spectrum `s_i` proportional to `i^(-exponent)`, `i = 1, ..., dimension`, scaled to `Q0 = 1`.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] unless `0 <= exponent <= 100` and `1 <= dimension <= 10,000`.
    pub fn power_law(exponent: f64, dimension: usize) -> Result<Self, Error> {
        Self::check_power_law(exponent, dimension)?;
        Ok(Self::from_valid(scaled_power_law(exponent, dimension)))
    }

    /// Makes the checks of [`Self::power_law`] only.
    pub(crate) fn check_power_law(exponent: f64, dimension: usize) -> Result<(), Error> {
        if !(0.0..=100.0).contains(&exponent) {
            let field = "model.teacher.power_law.exponent";
            return Err(Error::invalid(field, exponent, "between 0 and 100"));
        }
        let field = "model.teacher.power_law.dimension";
        crate::check::integer(field, dimension, 1, Self::MAX_EIGENVALUES)
    }

    fn from_valid(mut eigenvalues: Vec<f64>) -> Self {
        eigenvalues.sort_unstable_by(f64::total_cmp);
        let each = 1.0 / eigenvalues.len() as f64;
        let (mut values, mut weights): (Vec<f64>, Vec<f64>) = (Vec::new(), Vec::new());
        for group in eigenvalues.chunk_by(|a, b| a.total_cmp(b).is_eq()) {
            values.push(group[0]);
            weights.push(group.len() as f64 * each);
        }
        let average =
            |f: &dyn Fn(f64) -> f64| values.iter().zip(&weights).map(|(s, p)| p * f(*s)).sum::<f64>();
        let mean = average(&|s| s);
        let second_moment = average(&|s| s * s);
        let variance = average(&|s| (s - mean) * (s - mean));
        let largest = values.last().copied().unwrap_or(0.0);
        let fill = |chunk: &[f64], rest: f64| std::array::from_fn(|l| chunk.get(l).copied().unwrap_or(rest));
        let blocks = values
            .chunks(LANES)
            .zip(weights.chunks(LANES))
            .map(|(values, weights)| (fill(values, largest), fill(weights, 0.0)))
            .collect();
        Self { values, weights, blocks, mean, second_moment, variance }
    }

    /// The distinct eigenvalues in increasing order, with their weights.
    pub fn atoms(&self) -> impl ExactSizeIterator<Item = (f64, f64)> {
        self.values.iter().copied().zip(self.weights.iter().copied())
    }

    fn scaled(&self, snr: f64) -> Scaled<'_> {
        Scaled::new(self, meaningful(snr))
    }
}

/// Refuses a list of values that are no spectrum. `plural` is what the message calls them.
fn check_list(field: &'static str, plural: &str, values: &[f64]) -> Result<(), Error> {
    let count = values.len();
    if !(1..=Discrete::MAX_EIGENVALUES).contains(&count) {
        let allowed = format!("1 to {} {plural}", Discrete::MAX_EIGENVALUES);
        return Err(Error::invalid(field, format!("[{count} {plural}]"), allowed));
    }
    if let Some((index, value)) = values.iter().enumerate().find(|(_, s)| !(s.is_finite() && **s >= 0.0)) {
        let shown = format!("[.., {} at index {index}, ..]", Number(*value));
        return Err(Error::invalid(field, shown, "finite and >= 0"));
    }
    let largest = values.iter().fold(0.0_f64, |m, s| m.max(*s));
    let [low, high] = Discrete::SCALES;
    if !(low..=high).contains(&largest) {
        let allowed = format!("not all zero, and the largest between {low:e} and {high:e}");
        return Err(Error::invalid(
            field,
            format!("[largest of {count} {plural}: {}]", Number(largest)),
            allowed,
        ));
    }
    Ok(())
}

/// The values `i^(-exponent)`, scaled to a mean square of 1.
fn scaled_power_law(exponent: f64, dimension: usize) -> Vec<f64> {
    let raw: Vec<f64> = (1..=dimension).map(|i| (i as f64).powf(-exponent)).collect();
    let scale = (raw.iter().map(|s| s * s).sum::<f64>() / dimension as f64).sqrt();
    raw.into_iter().map(|s| s / scale).collect()
}

impl TeacherSpectrum for Discrete {
    fn mean(&self) -> f64 {
        self.mean
    }

    fn second_moment(&self) -> f64 {
        self.second_moment
    }

    fn variance(&self) -> f64 {
        self.variance
    }

    fn orbit_dimension(&self) -> f64 {
        // This form does not cancel where nearly all weight is in one atom.
        let mut rest = 1.0;
        let mut pairs = 0.0;
        for p in &self.weights {
            rest -= p;
            pairs += p * rest;
        }
        2.0 * pairs.max(0.0)
    }

    fn support(&self, snr: f64) -> Vec<[f64; 2]> {
        let law = self.scaled(snr);
        law.intervals().iter().map(|interval| interval.map(|u| law.real_z(u))).collect()
    }

    fn top_edge(&self, snr: f64) -> f64 {
        let law = self.scaled(snr);
        law.real_z(law.outer_edges()[1])
    }

    fn stieltjes(&self, snr: f64, x: f64) -> [f64; 2] {
        // G(x - i0) is the complex conjugate of G(x + i0), and w is the preimage of x + i0.
        let w = self.scaled(snr).preimage(x);
        let g = (Complex::new(x, 0.0) - w).conj();
        [g.re, g.im]
    }

    fn denoise(&self, snr: f64, r: f64) -> Denoised {
        let law = self.scaled(snr);
        soft_threshold::denoise(&law, r, &law.threshold(r))
    }

    fn denoise_both_sides(&self, snr: f64, r: f64) -> Denoised {
        let law = self.scaled(snr);
        // A NaN stays one.
        let r = if r < 0.0 { 0.0 } else { r };
        soft_threshold::denoise_both_sides(&law, r, &law.threshold(r), || {
            // The curve of a symmetric law is at u = 0 there.
            let v = law.height2(0.0, 0.25).sqrt();
            Centre { w: Complex::new(0.0, v), density: v / PI }
        })
    }

    fn posterior(&self, snr: f64) -> Posterior {
        let law = self.scaled(snr);
        let [gain, response2] = law.integrate(|point| {
            let shift = point.mean - self.mean;
            [shift * shift, point.real_g * point.real_g]
        });
        Posterior::new(law.snr, &moments(self), gain, response2)
    }

    fn chart(&self, snr: f64) -> Box<dyn Chart + '_> {
        Box::new(Curve { law: self.scaled(snr), guess: Cell::new(0.25) })
    }

    /// Quantiles of the list, which are the list itself if the dimension is the number of eigenvalues.
    fn eigenvalues(&self, dimension: usize) -> Option<Vec<f64>> {
        let mut atoms = self.atoms();
        let (mut value, mut below) = atoms.next()?;
        let quantile = |i: usize| {
            let probability = (i as f64 + 0.5) / dimension as f64;
            while below < probability {
                let Some((next, weight)) = atoms.next() else { break };
                value = next;
                below += weight;
            }
            value
        };
        Some((0..dimension).map(quantile).collect())
    }
}

/// The curve `w = u + i v(u)`. A point of the curve costs no search for `u`.
struct Curve<'a> {
    law: Scaled<'a>,
    /// `v^2` at the last point, a good guess for the next one.
    guess: Cell<f64>,
}

impl Chart for Curve<'_> {
    fn intervals(&self) -> Vec<[f64; 2]> {
        self.law.intervals()
    }

    fn parameter(&self, x: f64) -> f64 {
        self.law.preimage(x).re
    }

    fn point(&self, u: f64) -> [f64; 2] {
        let mut guess = self.guess.get();
        let point = self.law.on_the_curve(u, &mut guess);
        self.guess.set(guess);
        // Next to an edge, rounding may make the height zero.
        let x = if point.density > 0.0 { u + point.real_g } else { self.law.real_z(u) };
        [x, point.density]
    }
}

/// The law at one `snr`.
struct Scaled<'a> {
    teacher: &'a Discrete,
    snr: f64,
    /// `snr` times the smallest eigenvalue, and `snr` times the largest.
    bottom: f64,
    top: f64,
}

/// A point of the support.
struct DiscreteOnCurve {
    /// `E[s* | y]`.
    mean: f64,
    /// `Re G`.
    real_g: f64,
    /// `rho dx/du`.
    density: f64,
}

impl<'a> Scaled<'a> {
    fn new(teacher: &'a Discrete, snr: f64) -> Self {
        let [bottom, top] =
            [teacher.values.first(), teacher.values.last()].map(|s| snr * s.copied().unwrap_or(0.0));
        Self { teacher, snr, bottom, top }
    }

    /// Sums over the atoms. The terms are functions of `(u - a_i, p_i, s_i)`.
    #[inline(always)]
    fn sums<const N: usize>(&self, u: f64, term: impl Fn(f64, f64, f64) -> [f64; N]) -> [f64; N] {
        let mut lanes = [[0.0; LANES]; N];
        wide(
            #[inline(always)]
            || {
                for (values, weights) in &self.teacher.blocks {
                    for l in 0..LANES {
                        let terms = term(u - self.snr * values[l], weights[l], values[l]);
                        for (lane, x) in lanes.iter_mut().zip(terms) {
                            lane[l] += x;
                        }
                    }
                }
            },
        );
        lanes.map(|lane| lane.iter().sum())
    }

    /// `sum_i p_i/(u - a_i)^2`, which is above 1 between the edges of the support.
    fn crowding(&self, u: f64) -> f64 {
        let [sum] = self.sums(u, |d, p, _| [p / (d * d).max(f64::MIN_POSITIVE)]);
        sum
    }

    /// `z` at a real `u` outside the support.
    fn real_z(&self, u: f64) -> f64 {
        // An atom without weight must not divide by zero.
        let [g] = self.sums(u, |d, p, _| [if d == 0.0 { 0.0 } else { p / d }]);
        u + g
    }

    /// `v(u)^2`, by Newton's method on the concave function `1/sum_i p_i/((u - a_i)^2 + v^2)` of `v^2`. The
    /// iteration is monotone after the first step.
    fn height2(&self, u: f64, guess: f64) -> f64 {
        const NOTHING: f64 = 1e-100;
        let mut y = guess.max(NOTHING);
        for _ in 0..100 {
            let [sum, square] = self.sums(u, |d, p, _| {
                let r = 1.0 / (d * d + y);
                [p * r, p * r * r]
            });
            let step = sum * (sum - 1.0) / square;
            let next = (y + step).max(NOTHING);
            if (next - y).abs() <= 4e-16 * y {
                break;
            }
            y = next;
        }
        if y <= NOTHING { 0.0 } else { y }
    }

    /// `x(u)`, which increases with `u`, and `v(u)^2`.
    fn image(&self, u: f64, guess: f64) -> (f64, f64) {
        let y = self.height2(u, guess);
        let [g] = self.sums(u, |d, p, _| [p * d / (d * d + y).max(f64::MIN_POSITIVE)]);
        (u + g, y)
    }

    /// The point `w` of the closed upper half-plane with `z(w) = x` at which `z` is on the upper side of the real axis.
    fn preimage(&self, x: f64) -> Complex<f64> {
        // |G| <= 1 on the curve and on the real axis outside it.
        let mut y = 0.25;
        let mut excess = |u: f64| {
            let (image, height2) = self.image(u, y);
            y = height2;
            image - x
        };
        let ends = [x - 1.0, x + 1.0].map(|u| End { x: u, f: excess(u) });
        let u = if ends[0].f >= 0.0 {
            ends[0].x
        } else if ends[1].f <= 0.0 {
            ends[1].x
        } else {
            roots::bracketed(ends[0], ends[1], 1e-15, 1e-3, excess)
        };
        let v = self.height2(u, y).sqrt();
        let mut w = Complex::new(u, v);
        if v <= 0.0 {
            return w;
        }
        // A few more steps give full accuracy also where v(u) is steep.
        for _ in 0..3 {
            let [re, im, slope_re, slope_im] = self.sums(w.re, |d, p, _| {
                let r = 1.0 / (d * d + w.im * w.im);
                let (y_re, y_im) = (d * r, -w.im * r);
                [p * y_re, p * y_im, -p * (y_re * y_re - y_im * y_im), -2.0 * p * y_re * y_im]
            });
            let step = (w + Complex::new(re, im) - x) / Complex::new(1.0 + slope_re, slope_im);
            let next = w - step;
            if !(step.norm() < 0.5 * w.im && next.im > 0.0) {
                break;
            }
            w = next;
        }
        w
    }

    fn threshold(&self, r: f64) -> Position {
        let w = self.preimage(r);
        if w.im <= 0.0 && w.re >= self.top {
            Position::AboveTheSupport
        } else if w.im <= 0.0 && w.re <= self.bottom {
            Position::BelowTheSupport
        } else {
            Position::Inside { left: w, right: w }
        }
    }

    /// The real points whose images are the outer edges of the support.
    fn outer_edges(&self) -> [f64; 2] {
        let [first, last] = [self.teacher.weights.first(), self.teacher.weights.last()]
            .map(|weight| weight.copied().unwrap_or(1.0).sqrt());
        [self.edge(self.bottom - first, self.bottom - 1.0), self.edge(self.top + last, self.top + 1.0)]
    }

    /// The edge of the support between `inside`, which is in the support or on its edge, and `outside`.
    fn edge(&self, inside: f64, outside: f64) -> f64 {
        let excess = |u: f64| 1.0 - 1.0 / self.crowding(u).sqrt();
        let ends = [inside, outside].map(|u| End { x: u, f: excess(u) });
        if ends[0].f <= 0.0 {
            inside
        } else if ends[1].f >= 0.0 {
            outside
        } else {
            roots::bracketed(ends[0], ends[1], 1e-16, (outside - inside).abs(), excess)
        }
    }

    /// The intervals of `u` whose images make up the support.
    fn intervals(&self) -> Vec<[f64; 2]> {
        let [first, last] = self.outer_edges();
        let mut intervals = Vec::new();
        let mut start = first;
        let atoms: Vec<(f64, f64)> = self.teacher.atoms().map(|(s, p)| (self.snr * s, p)).collect();
        for pair in atoms.windows(2) {
            if let Some([from, to]) = self.gap(pair[0], pair[1]) {
                intervals.push([start, from]);
                start = to;
            }
        }
        intervals.push([start, last]);
        intervals
    }

    /// The gap of the support between two neighbouring atoms, if there is one.
    fn gap(&self, (left, p): (f64, f64), (right, q): (f64, f64)) -> Option<[f64; 2]> {
        let distance = right - left;
        // The cube roots give the least crowding by these two atoms alone, which tells whether there may be a
        // gap. A NaN has no gap.
        let open = (p.cbrt() + q.cbrt()).powi(3) < distance * distance;
        if !open {
            return None;
        }
        // The crowding is convex between the two atoms. Newton's method finds its minimum, within a bracket.
        let (mut low, mut high) = (left, right);
        let mut u = left + distance * p.cbrt() / (p.cbrt() + q.cbrt());
        for _ in 0..100 {
            let [crowding, slope, curvature] = self.sums(u, |d, p, _| {
                let i = 1.0 / d;
                let square = p * i * i;
                [square, -2.0 * square * i, 6.0 * square * i * i]
            });
            if crowding < 1.0 {
                return Some([self.edge(left + p.sqrt(), u), self.edge(right - q.sqrt(), u)]);
            }
            // The left-hand side is a lower bound on the crowding in the bracket, by convexity.
            if crowding - slope.abs() * (high - low) >= 1.0 {
                return None;
            }
            *(if slope < 0.0 { &mut low } else { &mut high }) = u;
            let newton = u - slope / curvature;
            let next = if newton > low && newton < high { newton } else { 0.5 * (low + high) };
            if (next - u).abs() <= 1e-15 * distance {
                return None;
            }
            u = next;
        }
        None
    }

    /// Integrals of `integrand` times the density over the support.
    fn integrate<const N: usize>(&self, integrand: impl Fn(&DiscreteOnCurve) -> [f64; N]) -> [f64; N] {
        let mut total = [0.0; N];
        for [from, to] in self.intervals() {
            let (middle, half) = (0.5 * (from + to), 0.5 * (to - from));
            let mut guess = 0.25;
            // The square roots at the edges are smooth as functions of the angle.
            let part = integrate(0.0, PI, |theta| {
                let point = self.on_the_curve(middle + half * theta.cos(), &mut guess);
                let weight = point.density * half * theta.sin();
                integrand(&point).map(|x| x * weight)
            });
            for (t, x) in total.iter_mut().zip(part) {
                *t += x;
            }
        }
        total
    }

    fn on_the_curve(&self, u: f64, guess: &mut f64) -> DiscreteOnCurve {
        let y = self.height2(u, *guess);
        if y <= 0.0 {
            return DiscreteOnCurve { mean: 0.0, real_g: 0.0, density: 0.0 };
        }
        *guess = y;
        let [mean, real_g, a, b] = self.sums(u, |d, p, s| {
            let r = 1.0 / (d * d + y);
            let weight = p * r;
            [weight * s, weight * d, weight * r, weight * d * r]
        });
        DiscreteOnCurve { mean, real_g, density: 2.0 * (y * a + b * b / a) * y.sqrt() / PI }
    }
}

impl Parametrised for Scaled<'_> {
    /// The ratio is near the noise, because the rounding errors of many atoms at many distances add up.
    const RISK_WITHOUT_CANCELLATION: f64 = 0.1;

    fn snr(&self) -> f64 {
        self.snr
    }

    fn moments(&self) -> LawMoments {
        moments(self.teacher)
    }

    fn ends(&self, r: f64) -> [f64; 2] {
        // The left end is as far from the outermost atoms as `p = z - r` is large there. Close to an atom,
        // the powers of `p` in the integrands would make terms that are larger than the integrals by the
        // ratio of the two distances, and that cancel.
        let below = 1.0 + (r - self.bottom).max(0.0);
        let above = 1.0 + (self.top - r).max(0.0);
        [self.bottom - below, self.top + above]
    }

    fn clearance(&self, w: Complex<f64>) -> f64 {
        let above = self.teacher.values.partition_point(|s| self.snr * s < w.re);
        let neighbours =
            &self.teacher.values[above.saturating_sub(1)..self.teacher.values.len().min(above + 1)];
        neighbours.iter().map(|s| (w - self.snr * s).norm_sqr()).fold(f64::INFINITY, f64::min)
    }

    fn terms(&self, w: &Lanes) -> Terms {
        let poles = self.teacher.atoms().map(|(s, p)| (self.snr * s, p, s));
        let PoleSums { first, second, marked } = PoleSums::new(w, poles);
        Terms { z: w.plus(1.0, &first), g: first, g_slope: second, h_slope: marked }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spectrum::Wishart;
    use approx::{assert_abs_diff_eq, assert_relative_eq};

    /// The eigenvalues of a Wishart teacher in `count` bins of equal weight, as the mean of each bin.
    fn discretised(kappa0: f64, count: usize) -> Discrete {
        // The Marchenko-Pastur law in the angle. Its mass and first moment are summed over the cells of a
        // fine grid.
        let root = kappa0.sqrt();
        let cells = 400 * count;
        let mut values = vec![0.0; ((1.0 - kappa0).max(0.0) * count as f64).round() as usize];
        let bin = 1.0 / count as f64;
        let (mut mass, mut moment) = (0.0, 0.0);
        for k in 0..cells {
            let theta = PI * (k as f64 + 0.5) / cells as f64;
            let s = (1.0 + kappa0 - 2.0 * root * theta.cos()) / root;
            let weight = 2.0 * root * theta.sin().powi(2) / s / cells as f64;
            if mass + weight >= bin {
                // The cell straddles the end of the bin.
                let rest = bin - mass;
                values.push((moment + rest * s) / bin);
                (mass, moment) = (weight - rest, (weight - rest) * s);
            } else {
                mass += weight;
                moment += weight * s;
            }
        }
        // Rounding errors may have left the last bin slightly less than full.
        if values.len() < count {
            values.push(moment / mass);
        }
        assert_eq!(values.len(), count);
        Discrete::new(&values).unwrap()
    }

    #[test]
    fn a_discretised_wishart_teacher_agrees_with_the_cubic() {
        for kappa0 in [0.5, 2.0] {
            let listed = discretised(kappa0, 10_000);
            let exact = Wishart::new(kappa0).unwrap();
            for snr in [0.1, 0.4, 1.0, 3.0, 10.0] {
                let (a, b) = (listed.posterior(snr), exact.posterior(snr));
                assert_relative_eq!(a.overlap, b.overlap, max_relative = 1e-6);
                assert_relative_eq!(a.risk, b.risk, max_relative = 1e-6);
                let all = exact.denoise(snr, 0.0);
                for fraction in [0.0, 0.3, 0.6, 0.8] {
                    let r = fraction * exact.top_edge(snr);
                    let (a, b) = (listed.denoise(snr, r), exact.denoise(snr, r));
                    // The tolerance is relative to the integral without a threshold: for high thresholds the
                    // integrals are small and the widths of the last bins matter.
                    assert_abs_diff_eq!(a.norm, b.norm, epsilon = 1e-6 * all.norm);
                    assert_abs_diff_eq!(a.overlap, b.overlap, epsilon = 1e-6 * all.overlap);
                    assert_abs_diff_eq!(a.response, b.response, epsilon = 1e-6 * all.response);
                    assert_abs_diff_eq!(a.trace, b.trace, epsilon = 1e-6 * all.trace);
                    assert_abs_diff_eq!(a.risk, b.risk, epsilon = 1e-6 * b.risk);
                }
            }
        }
    }

    /// `int f^2 rho`, `int f E[s* | y] rho`, `2 int f Re G rho`, `int f rho` and the risk, as integrals over
    /// the real curve `v(u)`.
    fn over_the_curve(teacher: &Discrete, snr: f64, r: f64) -> [f64; 5] {
        let law = teacher.scaled(snr);
        let top = law.top + 1.0;
        let threshold = law.preimage(r).re;
        let [norm, overlap, response, trace, below] = law
            .intervals()
            .iter()
            .map(|[from, to]| {
                let (middle, half) = (0.5 * (from + to), 0.5 * (to - from));
                let mut guess = 0.25;
                let mut part = |low: f64, high: f64| {
                    integrate(low, high, |theta| {
                        let u = middle + half * theta.cos();
                        let point = law.on_the_curve(u, &mut guess);
                        let x = u + point.real_g;
                        let weight = point.density * half * theta.sin();
                        let f = (x - r).max(0.0);
                        // The terms are in units of the whole signal where they grow with it.
                        let terms =
                            [f / top * f / top, f / top * point.mean, 2.0 * f * point.real_g, f / top];
                        let [norm, overlap, response, trace] = terms.map(|term| term * weight);
                        [norm, overlap, response, trace, x.min(r).powi(2) * weight]
                    })
                };
                // The integrand has a kink at the threshold.
                let kink = ((threshold - middle) / half).clamp(-1.0, 1.0).acos();
                let (above, below) = (part(0.0, kink), part(kink, PI));
                std::array::from_fn(|i| above[i] + below[i])
            })
            .fold([0.0; 5], |sum: [f64; 5], part: [f64; 5]| std::array::from_fn(|i| sum[i] + part[i]));
        [top * top * norm, top * overlap, response, top * trace, below - 1.0 + 2.0 * response]
    }

    #[test]
    fn strong_signals_of_spread_spectra() {
        // The atoms range from far below to far above the noise, some in intervals of their own, and the
        // thresholds are near the noise.
        for (exponent, dimension, snr) in
            [(1.25, 400, 28.0), (1.25, 60, 430.0), (2.0, 400, 33.0), (2.0, 60, 430.0), (2.0, 100, 4e3)]
        {
            let teacher = Discrete::power_law(exponent, dimension).unwrap();
            for r in [0.3, 1.9, 2.06, 3.88, 6.0] {
                let found = teacher.denoise(snr, r);
                let [norm, overlap, response, trace, risk] = over_the_curve(&teacher, snr, r);
                assert_relative_eq!(found.norm, norm, max_relative = 1e-10);
                assert_relative_eq!(found.overlap, overlap, max_relative = 1e-10);
                assert_relative_eq!(found.response, response, max_relative = 1e-10);
                assert_relative_eq!(found.trace, trace, max_relative = 1e-10);
                assert_relative_eq!(found.risk, risk, max_relative = 1e-10);
                // The integrals must not jump where the panels of the contour change.
                for k in 1..=20 {
                    let nearby = teacher.denoise(snr * (1.0 + f64::from(k) * 1e-13), r);
                    for (a, b) in [
                        (found.norm, nearby.norm),
                        (found.overlap, nearby.overlap),
                        (found.response, nearby.response),
                        (found.risk, nearby.risk),
                    ] {
                        assert_relative_eq!(a, b, max_relative = 2e-11);
                    }
                }
            }
        }
    }

    #[test]
    fn isolated_atoms_make_their_own_intervals() {
        let teacher = Discrete::new(&[0.0, 0.0, 3.0, 0.0, 9.0, 0.0, 0.0, 3.0]).unwrap();
        let support = teacher.support(4.0);
        assert_eq!(support.len(), 3);
        let weights = [5.0 / 8.0, 2.0 / 8.0, 1.0 / 8.0];
        let above: Vec<f64> = support
            .iter()
            .map(|[low, _]| teacher.denoise(4.0, low - 1e-3).rank_fraction)
            .chain([0.0])
            .collect();
        for k in 0..3 {
            assert_relative_eq!(above[k] - above[k + 1], weights[k], max_relative = 1e-12);
            // To first order in 1/snr, the interval is that of a semicircle of variance p.
            let half = 0.5 * (support[k][1] - support[k][0]);
            assert_relative_eq!(half, 2.0 * f64::sqrt(weights[k]), max_relative = 5e-3);
        }
        assert_eq!(teacher.atoms().collect::<Vec<_>>(), [(0.0, 0.625), (3.0, 0.25), (9.0, 0.125)]);
        assert_relative_eq!(teacher.orbit_dimension(), 1.0 - (25.0 + 4.0 + 1.0) / 64.0, max_relative = 1e-14);
    }

    #[test]
    fn gaps_open_where_two_equal_atoms_part() {
        // The intervals of two atoms of weight 1/2 part at distance 2.
        let teacher = Discrete::new(&[0.0, 1.0]).unwrap();
        for (snr, intervals) in [(1.99, 1), (2.0, 1), (2.001, 2), (1e6, 2)] {
            assert_eq!(teacher.support(snr).len(), intervals, "{snr}");
        }
    }

    #[test]
    fn thresholds_in_gaps_and_beyond_the_support() {
        let teacher = Discrete::new(&[0.0, 0.0, 0.0, 1.0]).unwrap();
        assert_relative_eq!(teacher.denoise(10.0, 5.0).rank_fraction, 0.25, max_relative = 1e-13);
        let top = teacher.top_edge(10.0);
        assert_eq!(teacher.denoise(10.0, top + 1e-6), Denoised { risk: 25.0, ..Denoised::default() });
        assert!(teacher.denoise(10.0, top - 1e-6).rank_fraction > 0.0);
        let all = teacher.denoise(10.0, -5.0);
        assert_relative_eq!(all.rank_fraction, 1.0);
        assert_relative_eq!(all.trace, 2.5 + 5.0);
        assert_relative_eq!(all.risk, 26.0);
    }

    #[test]
    fn power_laws_are_normalised() {
        let teacher = Discrete::power_law(1.25, 400).unwrap();
        assert_relative_eq!(teacher.second_moment(), 1.0, max_relative = 1e-14);
        let values: Vec<f64> = teacher.atoms().map(|(s, _)| s).collect();
        assert_relative_eq!(values[399] / values[398], 2f64.powf(1.25), max_relative = 1e-13);
        // One law is flat; the other is so steep that all eigenvalues but the first underflow.
        assert_eq!(Discrete::power_law(0.0, 7).unwrap().atoms().len(), 1);
        let steep = Discrete::power_law(100.0, 10_000).unwrap();
        assert!(steep.denoise(2.0, 1.0).risk.is_finite() && steep.posterior(2.0).risk > 0.0);
    }

    #[test]
    fn bad_lists_are_errors() {
        for list in
            [vec![], vec![0.0; 3], vec![1.0, -1e-9], vec![f64::NAN], vec![f64::INFINITY, 1.0], vec![1e60]]
        {
            let error = Discrete::new(&list).unwrap_err().to_string();
            assert!(error.contains("eigenvalues"), "{list:?}: {error}");
        }
        assert!(Discrete::new(&vec![1.0; 10_001]).is_err());
        for (exponent, dimension) in [(-1.0, 3), (f64::NAN, 3), (101.0, 3), (1.0, 0), (1.0, 10_001)] {
            assert!(Discrete::power_law(exponent, dimension).is_err());
        }
    }
}
