//! A test of implementations of [`TeacherSpectrum`]: whether their methods describe one and the same law.

use std::f64::consts::PI;
use std::fmt;

use super::adaptive::{self, PanelBudget};
use super::integrals::{Denoised, Posterior};
use super::law::{Implausible, TeacherSpectrum, along_the_axis, implausible, moments};
use super::real_axis::RealAxis;

/// Signals at which the law is tested, in units of `Q0^{-1/2}`. The last one is no signal: without it no density tells
/// the mean, on which the integrals depend, so that the mean must have been tested before.
const STRENGTHS: [f64; 6] = [0.1, 0.5, 1.0, 3.0, 10.0, 0.0];
/// Strong signals, in units of the inverse standard deviation of `s*`, from which the limit of the posterior
/// risk is estimated.
const STRONG: [f64; 2] = [1e3, 1e4];
/// Largest relative difference between integrals. The quadrature that they are compared with has an error of
/// about 1e-12.
const ACCURACY: f64 = 1e-9;
/// Largest difference between transforms, and between moments in units of the noise.
const PRECISION: f64 = 1e-8;
/// Largest density outside of the support. Rounding errors of the positions, 1e-15, leave their square root at the edges.
const NOTHING: f64 = 1e-6;
/// Smallest density inside the support, at the distances [`NEAR`] from the edges.
const SOMETHING: f64 = 1e-12;
/// Distances from the edges at which the density is looked at, relative to the width of an interval.
const NEAR: [f64; 2] = [1e-2, 1e-4];
/// Largest number of intervals that are looked at one by one.
const MAX_INTERVALS: usize = 32;
/// Positions of thresholds, relative to the support.
const THRESHOLDS: [f64; 6] = [-0.1, 0.1, 0.4, 0.7, 0.95, 1.1];

/// A number of a law that contradicts the other ones.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Fault {
    /// The method of [`TeacherSpectrum`] that is wrong, as far as one can tell.
    pub method: &'static str,
    /// The number that was tested.
    pub quantity: &'static str,
    /// The strength of the signal.
    pub snr: f64,
    /// The position, if the number belongs to one.
    pub x: Option<f64>,
    /// The value that follows from the method.
    pub value: f64,
    /// The value that follows from the other methods. NaN where only a range is known, which `quantity` names.
    pub expected: f64,
    /// The largest difference that would have passed.
    pub tolerance: f64,
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { method, quantity, snr, x, value, expected, tolerance } = self;
        write!(formatter, "{method} at snr = {snr}")?;
        if let Some(x) = x {
            write!(formatter, ", x = {x}")?;
        }
        write!(formatter, ": {quantity} is {value:e}")?;
        if expected.is_nan() {
            return Ok(());
        }
        write!(formatter, ", and should be {expected:e} to {tolerance:e}")
    }
}

/// All faults of a law; at least one.
#[derive(Debug, Clone, PartialEq)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// The faults, in the order of the signals.
    #[must_use]
    pub fn list(&self) -> &[Fault] {
        &self.0
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            write!(formatter, "{}{fault}", if index > 0 { "\n" } else { "" })?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// Tests whether the methods of a law belong together. At several signals from none to ten times the noise:
///
/// - the density is positive inside the support, next to its edges, and vanishes outside;
/// - its mass is 1, its mean `snr tr s*` and its second moment `1 + snr^2 Q0`;
/// - `Re G` is the principal value of `int rho(y) dy/(x - y)`, inside the support and outside;
/// - `denoise` and `posterior` return the integrals over the density, and `chart` parametrises the same density.
///
/// At a strong signal the risk of the posterior mean must tend to `orbit_dimension`. A rate of convergence is estimated
/// from two signals, so that small errors of the orbit dimension are found only for laws that converge fast.
///
/// What depends on a method that failed is not tested at the same signal, so that the list begins with the
/// culprit. The test takes some ten thousand to a million calls of `stieltjes`. It is meant for a unit test of the
/// implementation, and is called nowhere in the library.
///
/// ```
/// use lora_asymptotics::spectrum::{self, Wishart};
///
/// spectrum::check(&Wishart::new(0.5)?).expect("a law");
/// # Ok::<(), lora_asymptotics::Error>(())
/// ```
///
/// # Errors
/// [`Faults`], the list of the numbers that contradict each other, with method, signal, position, value,
/// expected value and tolerance.
pub fn check(teacher: &dyn TeacherSpectrum) -> Result<(), Faults> {
    let mut faults = Vec::new();
    if let Some(Implausible { method, value, allowed, .. }) = implausible(teacher) {
        faults.push(Fault {
            method,
            quantity: allowed,
            snr: 0.0,
            x: None,
            value,
            expected: f64::NAN,
            tolerance: 0.0,
        });
        return Err(Faults(faults));
    }
    for strength in STRENGTHS {
        let snr = strength / teacher.second_moment().sqrt();
        let found = along_the_axis(teacher, snr, |axis| {
            let at = Examination { teacher, snr, axis, faults: Vec::new() };
            at.run()
        });
        faults.extend(found);
    }
    if faults.is_empty() {
        faults.extend(orbit_dimension(teacher));
        faults.extend(eigenvalues(teacher));
    }
    if faults.is_empty() { Ok(()) } else { Err(Faults(faults)) }
}

/// The law at one signal, and what was found wrong with it.
struct Examination<'a> {
    teacher: &'a dyn TeacherSpectrum,
    snr: f64,
    axis: &'a RealAxis<'a>,
    faults: Vec<Fault>,
}

impl Examination<'_> {
    fn run(mut self) -> Vec<Fault> {
        let Some(ends) = self.axis.ends() else {
            let quantity = "the number of intervals, which must be finite and in increasing order,";
            let count = self.axis.support().len() as f64;
            self.outside("support", quantity, None, count);
            return self.faults;
        };
        let steps: [fn(&mut Self, [f64; 2]); 5] =
            [Self::support, Self::moments, Self::transform, Self::integrals, Self::chart];
        for step in steps {
            step(&mut self, ends);
            if !self.faults.is_empty() {
                break;
            }
        }
        self.faults
    }

    /// Notes a number that is outside its range.
    fn outside(&mut self, method: &'static str, quantity: &'static str, x: Option<f64>, value: f64) {
        let (expected, tolerance) = (f64::NAN, 0.0);
        self.faults.push(Fault { method, quantity, snr: self.snr, x, value, expected, tolerance });
    }

    /// Compares two numbers.
    fn compare(
        &mut self,
        method: &'static str,
        quantity: &'static str,
        x: Option<f64>,
        [value, expected]: [f64; 2],
        tolerance: f64,
    ) {
        let equal = (value - expected).abs() <= tolerance;
        if !equal {
            self.faults.push(Fault { method, quantity, snr: self.snr, x, value, expected, tolerance });
        }
    }

    /// The edges of the support.
    fn support(&mut self, [low, high]: [f64; 2]) {
        let edges = [self.teacher.top_edge(self.snr), high];
        self.compare("top_edge", "the right end of the support", None, edges, PRECISION * (1.0 + high.abs()));
        let support = self.axis.support().to_vec();
        let around = high - low + 1.0;
        for (k, &[from, to]) in support.iter().enumerate().take(MAX_INTERVALS) {
            let before = k.checked_sub(1).map_or(low - around, |k| support[k][1]);
            let after = support.get(k + 1).map_or(high + around, |next| next[0]);
            for near in NEAR {
                let distance = near * (to - from);
                for x in [from + distance, to - distance] {
                    let density = self.teacher.density(self.snr, x);
                    if density.is_nan() || density < SOMETHING {
                        self.outside("support", "the density inside the support", Some(x), density);
                    }
                }
                for (x, gap) in [(from - distance, from - before), (to + distance, after - to)] {
                    // A gap that is hardly open is not resolved.
                    if distance > 0.5 * gap {
                        continue;
                    }
                    let density = self.teacher.density(self.snr, x);
                    self.compare(
                        "support",
                        "the density outside of the support",
                        Some(x),
                        [density, 0.0],
                        NOTHING,
                    );
                }
            }
        }
    }

    /// The first moments of the density.
    fn moments(&mut self, _: [f64; 2]) {
        let everywhere = [f64::NEG_INFINITY, f64::INFINITY];
        let [mass, first, second] =
            self.axis.integrate(everywhere, |point| [1.0, point.x, point.x * point.x]);
        let quantity = "the mass of Im G/pi over the support";
        self.compare("stieltjes", quantity, None, [mass, 1.0], PRECISION);
        if !self.faults.is_empty() {
            return;
        }
        let Self { teacher, snr, .. } = *self;
        if snr > 0.0 {
            let size = 1.0 + snr * snr * teacher.second_moment();
            let values = [teacher.mean(), first / snr];
            self.compare("mean", "the mean of the density over snr", None, values, PRECISION * size / snr);
            let values = [teacher.second_moment(), (second - 1.0) / (snr * snr)];
            let quantity = "the second moment of the density minus 1, over snr^2,";
            self.compare("second_moment", quantity, None, values, PRECISION * size / (snr * snr));
        } else {
            self.compare("stieltjes", "the mean of the noise", None, [first, 0.0], PRECISION);
            self.compare("stieltjes", "the variance of the noise", None, [second, 1.0], PRECISION);
        }
    }

    /// The real part of the transform, and the density.
    fn transform(&mut self, [low, high]: [f64; 2]) {
        let mut positions = vec![low - 0.3 * (high - low), high + 0.3 * (high - low)];
        let support = self.axis.support().to_vec();
        let mut widest = support.clone();
        widest.sort_by(|[a, b], [c, d]| (d - c).total_cmp(&(b - a)));
        for [from, to] in widest.into_iter().take(3) {
            positions.extend([0.13, 0.5, 0.9].map(|fraction| from + fraction * (to - from)));
        }
        let gaps = support.windows(2).map(|pair| [pair[0][1], pair[1][0]]);
        if let Some([from, to]) = gaps.max_by(|[a, b], [c, d]| (b - a).total_cmp(&(d - c))) {
            positions.push(0.5 * (from + to));
        }
        for x in positions {
            let [real, imaginary] = self.teacher.stieltjes(self.snr, x);
            let density = [self.teacher.density(self.snr, x), imaginary / PI];
            self.compare("density", "the density", Some(x), density, PRECISION);
            let quantity = "Re G, the principal value of int rho(y) dy/(x - y),";
            self.compare("stieltjes", quantity, Some(x), [real, self.axis.principal_value(x)], PRECISION);
        }
    }

    /// The integrals of the soft threshold and of the posterior mean.
    fn integrals(&mut self, [low, high]: [f64; 2]) {
        let Self { teacher, snr, .. } = *self;
        let signal = snr * snr * teacher.second_moment();
        for fraction in THRESHOLDS {
            let r = low + fraction * (high - low);
            let (value, expected) = (teacher.denoise(snr, r), self.axis.denoise(r));
            let number =
                |quantity, of: fn(&Denoised) -> f64, unit: f64| (quantity, [of(&value), of(&expected)], unit);
            let size = 1.0 + signal + r * r;
            for (quantity, values, unit) in [
                number("norm", |denoised| denoised.norm, size),
                number("overlap", |denoised| denoised.overlap, size / (1.0 + snr)),
                number("response", |denoised| denoised.response, 1.0),
                number("trace", |denoised| denoised.trace, size.sqrt()),
                number("rank_fraction", |denoised| denoised.rank_fraction, 1.0),
                number("risk", |denoised| denoised.risk, size),
            ] {
                let tolerance = ACCURACY * (values[1].abs() + 1e-3 * unit);
                self.compare("denoise", quantity, Some(r), values, tolerance);
            }
        }
        let Posterior { overlap, risk } = teacher.posterior(snr);
        // This form of the risk does not contain the real part of the transform.
        let everywhere = [f64::NEG_INFINITY, f64::INFINITY];
        let [square] = self.axis.integrate(everywhere, |point| [point.density * point.density]);
        let expected = 1.0 - 4.0 / 3.0 * PI * PI * square;
        self.compare("posterior", "risk", None, [risk, expected], PRECISION);
        let expected = self.axis.posterior().overlap;
        self.compare("posterior", "overlap", None, [overlap, expected], ACCURACY * teacher.second_moment());
    }

    /// The mass of the chart, and whether it is one.
    fn chart(&mut self, [low, high]: [f64; 2]) {
        let chart = self.teacher.chart(self.snr);
        let mut budget = PanelBudget::default();
        let mut total = [0.0; 2];
        for [from, to] in chart.intervals() {
            let (middle, half) = (0.5 * (from + to), 0.5 * (to - from));
            let part = adaptive::integrate_relative([0.0, PI], &mut budget, |theta| {
                let [x, density] = chart.point(middle + half * theta.cos());
                let weight = density * half * theta.sin();
                [weight, weight * x]
            });
            total = [total[0] + part[0], total[1] + part[1]];
        }
        self.compare("chart", "the mass over the parameter", None, [total[0], 1.0], PRECISION);
        let mean = self.snr * self.teacher.mean();
        let size = 1.0 + low.abs().max(high.abs());
        self.compare("chart", "the mean over the parameter", None, [total[1], mean], PRECISION * size);
        for [from, to] in self.axis.support().iter().copied().take(MAX_INTERVALS) {
            let x = 0.5 * (from + to);
            let back = chart.point(chart.parameter(x))[0];
            self.compare("chart", "the point of the parameter of x", Some(x), [back, x], PRECISION * size);
        }
    }
}

/// The limit of the posterior risk. The distance from the limit is estimated by the last change, which is
/// larger unless the convergence is slower than a factor of two per decade.
fn orbit_dimension(teacher: &dyn TeacherSpectrum) -> Option<Fault> {
    /// Ratio of the distance from the limit to the last change that is allowed.
    const SLOWNESS: f64 = 4.0;
    /// Distance from the limit that is allowed always.
    const CLOSE: f64 = 1e-4;
    let value = teacher.orbit_dimension();
    let deviation = moments(teacher).variance.sqrt();
    let (snr, [before, expected]) = if deviation > 0.0 {
        (STRONG[1] / deviation, STRONG.map(|strength| teacher.posterior(strength / deviation).risk))
    } else {
        (0.0, [0.0; 2])
    };
    let tolerance = SLOWNESS * (expected - before).abs() + CLOSE;
    let equal = (value - expected).abs() <= tolerance;
    let quantity = "the limit of the posterior risk";
    (!equal).then_some(Fault {
        method: "orbit_dimension",
        quantity,
        snr,
        x: None,
        value,
        expected,
        tolerance,
    })
}

/// The eigenvalues of matrices, if the law has them.
fn eigenvalues(teacher: &dyn TeacherSpectrum) -> Option<Fault> {
    const DIMENSION: usize = 7;
    let eigenvalues = teacher.eigenvalues(DIMENSION)?;
    let count = eigenvalues.iter().filter(|value| value.is_finite() && **value >= 0.0).count();
    let sound = count == DIMENSION && eigenvalues.len() == DIMENSION;
    (!sound).then_some(Fault {
        method: "eigenvalues",
        quantity: "the number of finite eigenvalues >= 0 of a matrix of dimension 7",
        snr: 0.0,
        x: None,
        value: count as f64,
        expected: DIMENSION as f64,
        tolerance: 0.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spectrum::plain::Plain;
    use crate::spectrum::{Chart, Discrete, Wishart};

    fn laws() -> Vec<Box<dyn TeacherSpectrum>> {
        vec![
            Box::new(Wishart::new(0.3).unwrap()),
            Box::new(Wishart::new(1.0).unwrap()),
            Box::new(Wishart::new(4.0).unwrap()),
            Box::new(Discrete::new(&[1.3]).unwrap()),
            Box::new(Discrete::new(&[0.0, 0.0, 0.0, 5.0, 1.0, 1.0]).unwrap()),
            Box::new(Discrete::power_law(1.25, 12).unwrap()),
        ]
    }

    #[test]
    fn the_laws_of_the_library_pass() {
        for law in laws() {
            assert_eq!(check(law.as_ref()), Ok(()), "{}", law.name());
            let plain = Plain(law);
            assert_eq!(check(&plain), Ok(()), "{} along the real axis", plain.0.name());
        }
    }

    /// A law with one wrong method.
    struct Wrong {
        law: Wishart,
        culprit: &'static str,
    }

    impl Wrong {
        fn factor(&self, method: &str, factor: f64) -> f64 {
            if self.culprit == method { factor } else { 1.0 }
        }
    }

    impl TeacherSpectrum for Wrong {
        fn mean(&self) -> f64 {
            self.law.mean() * self.factor("mean", 1.01)
        }
        fn second_moment(&self) -> f64 {
            self.law.second_moment() * self.factor("second_moment", 1.001)
        }
        fn variance(&self) -> f64 {
            let (mean, second) = (self.mean(), self.second_moment());
            (second - mean * mean) * self.factor("variance", 1.001)
        }
        fn orbit_dimension(&self) -> f64 {
            self.law.orbit_dimension() * self.factor("orbit_dimension", 0.99)
        }
        fn support(&self, snr: f64) -> Vec<[f64; 2]> {
            let mut support = self.law.support(snr);
            if let Some(last) = support.last_mut() {
                last[1] += 0.01 * (self.factor("support", 0.0) - 1.0) * (last[1] - last[0]);
            }
            support
        }
        fn top_edge(&self, snr: f64) -> f64 {
            let last = self.support(snr).last().map_or(f64::NAN, |interval| interval[1]);
            last * self.factor("top_edge", 1.001)
        }
        fn stieltjes(&self, snr: f64, x: f64) -> [f64; 2] {
            let [re, im] = self.law.stieltjes(snr, x);
            [re * self.factor("stieltjes", -1.0), im]
        }
        fn density(&self, snr: f64, x: f64) -> f64 {
            self.law.density(snr, x) * self.factor("density", 1.001)
        }
        fn denoise(&self, snr: f64, r: f64) -> Denoised {
            let mut denoised = self.law.denoise(snr, r);
            denoised.response *= self.factor("denoise", 1.0 + 1e-6);
            denoised
        }
        fn posterior(&self, snr: f64) -> Posterior {
            let mut posterior = self.law.posterior(snr);
            posterior.overlap *= self.factor("posterior", 1.0 + 1e-6);
            posterior
        }
        fn chart(&self, snr: f64) -> Box<dyn Chart + '_> {
            Box::new(HeavyChart { law: &self.law, snr, factor: self.factor("chart", 1.001) })
        }
        fn eigenvalues(&self, dimension: usize) -> Option<Vec<f64>> {
            Some(vec![1.0; dimension + usize::from(self.culprit == "eigenvalues")])
        }
    }

    struct HeavyChart<'a> {
        law: &'a Wishart,
        snr: f64,
        factor: f64,
    }

    impl Chart for HeavyChart<'_> {
        fn intervals(&self) -> Vec<[f64; 2]> {
            self.law.support(self.snr)
        }
        fn parameter(&self, x: f64) -> f64 {
            x
        }
        fn point(&self, u: f64) -> [f64; 2] {
            [u, self.factor * self.law.density(self.snr, u)]
        }
    }

    #[test]
    fn the_wrong_method_is_named() {
        let law = Wishart::new(0.5).unwrap();
        assert_eq!(check(&Wrong { law, culprit: "" }), Ok(()));
        for culprit in [
            "mean",
            "second_moment",
            "variance",
            "orbit_dimension",
            "support",
            "top_edge",
            "stieltjes",
            "density",
            "denoise",
            "posterior",
            "chart",
            "eigenvalues",
        ] {
            let faults = check(&Wrong { law, culprit }).unwrap_err();
            let first = &faults.list()[0];
            assert_eq!(first.method, culprit, "{faults}");
            assert!(faults.to_string().starts_with(culprit), "{faults}");
            let far = (first.value - first.expected).abs() > first.tolerance;
            assert!(far || first.expected.is_nan(), "{first:?}");
        }
    }
}
