//! Mixed traces of the thresholded matrix `f(y)` and of the teacher `s*`, of third order.
//!
//! With `G = a + i pi rho` the Stieltjes transform of `y = snr s* + Z` at `x - i0` and `omega = x - G` the subordination function,
//! the traces of `g(y)` with powers of `s*` are integrals over the support:
//!
//! ```text
//! tr(s* g(y))   = int g Im(omega G)/(pi snr)             = int g rho (x - 2a)/snr
//! tr(s*^2 g(y)) = int g Im(omega^2 G - omega)/(pi snr^2) = int g rho ((x - a)^2 - (pi rho)^2 - 2a (x - a) + 1)/snr^2
//! ```
//!
//! The response of `f(y)` to a field, averaged over its second index, is the function `Rbar(x) = int (f(x) - f(y))/(x - y) rho(y) dy`
//! of the matrix `y`. In traces with it, the double integrals reduce to single ones: exchanging `x` and `y` gives
//! `tr(Rbar f) = int f^2 a rho`, and `tr(Rbar s*) = int f (r_1 a + rho Re G_1)`, where `r_1 = Im G_1/pi` is the density of `tr(s* g(y))`
//! and `G_1 = (omega G - 1)/snr` its Stieltjes transform.

use std::f64::consts::PI;

use super::law::{TeacherSpectrum, along_the_axis};

/// The traces, for a function `f` of the matrix `y`, such as the unit-slope soft threshold `f(y) = (y - r)_+`, and `h = f(y)`, `s = s*`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MixedTraces {
    /// `tr h^3`.
    pub(crate) hhh: f64,
    /// `tr(h^2 s)`.
    pub(crate) hhs: f64,
    /// `tr(h s^2)`.
    pub(crate) hss: f64,
    /// `tr s^3`.
    pub(crate) sss: f64,
    /// `tr(Rbar h)`.
    pub(crate) response_h: f64,
    /// `tr(Rbar s)`.
    pub(crate) response_s: f64,
}

impl MixedTraces {
    /// No numbers, for arguments without meaning.
    fn undefined() -> Self {
        let none = f64::NAN;
        Self { hhh: none, hhs: none, hss: none, sss: none, response_h: none, response_s: none }
    }
}

/// Strength of the signal, `snr sqrt(Q0)`, below which the powers of `s*` given `y` are those without `y`: the
/// differences above have no digits left there.
const WEAK: f64 = 1e-6;
/// Strength of the signal at which the third moment of the teacher is read off from that of `y`.
const READING: f64 = 3.0;

/// `tr s*^3`, from the third moment of `y`: `tr y^3 = snr^3 tr s*^3 + 3 snr tr s*`, since the semicircle is free of `s*` and has no odd moments.
fn cube(teacher: &dyn TeacherSpectrum) -> f64 {
    let snr = READING / teacher.second_moment().sqrt();
    let [cube] = along_the_axis(teacher, snr, |axis| axis.integrate(EVERYWHERE, |point| [point.x.powi(3)]));
    (cube - 3.0 * snr * teacher.mean()) / snr.powi(3)
}

/// The traces with the identity in place of the threshold, `h = y`, by free independence. The response is 1 everywhere.
pub(crate) fn linear_traces(teacher: &dyn TeacherSpectrum, snr: f64) -> MixedTraces {
    let (mean, sss) = (teacher.mean(), cube(teacher));
    MixedTraces {
        hhh: snr.powi(3) * sss + 3.0 * snr * mean,
        hhs: snr * snr * sss + mean,
        hss: snr * sss,
        sss,
        response_h: snr * mean,
        response_s: mean,
    }
}

/// The mixed traces at the threshold `r`.
pub(crate) fn mixed_traces(teacher: &dyn TeacherSpectrum, snr: f64, r: f64) -> MixedTraces {
    if !(snr.is_finite() && snr >= 0.0 && r.is_finite()) {
        return MixedTraces::undefined();
    }
    let (mean, second, sss) = (teacher.mean(), teacher.second_moment(), cube(teacher));
    let weak = snr * second.sqrt() < WEAK;
    let [hhh, hhs, hss, response_h, response_s] = along_the_axis(teacher, snr, |axis| {
        axis.integrate([r, f64::INFINITY], |point| {
            let (f, x, a, b) = (point.x - r, point.x, point.real_g, PI * point.density);
            let rest = x - a;
            let [first, squared, real] = if weak {
                [mean, second, mean * a]
            } else {
                [
                    (x - 2.0 * a) / snr,
                    (rest * rest - b * b - 2.0 * a * rest + 1.0) / (snr * snr),
                    (rest * a + b * b - 1.0) / snr,
                ]
            };
            [f * f * f, f * f * first, f * squared, f * f * a, f * (first * a + real)]
        })
    });
    MixedTraces { hhh, hhs, hss, sss, response_h, response_s }
}

const EVERYWHERE: [f64; 2] = [f64::NEG_INFINITY, f64::INFINITY];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spectrum::{Discrete, Wishart};
    use approx::assert_relative_eq;

    fn teachers() -> Vec<Box<dyn TeacherSpectrum>> {
        vec![
            Box::new(Wishart::new(0.5).unwrap()),
            Box::new(Wishart::new(2.0).unwrap()),
            Box::new(Discrete::new(&[0.0, 0.0, 1.0, 3.0]).unwrap()),
            Box::new(Discrete::power_law(1.25, 40).unwrap()),
        ]
    }

    /// Without a threshold, `h = y - r` is a polynomial, and free independence gives all traces.
    #[test]
    fn without_a_threshold_the_traces_are_those_of_polynomials() {
        for teacher in teachers() {
            for snr in [0.3, 1.0, 4.0] {
                let r = -30.0;
                let traces = mixed_traces(teacher.as_ref(), snr, r);
                let (m1, m2, m3) = (teacher.mean(), teacher.second_moment(), traces.sss);
                let (s1, s2, s3) = (snr * m1, snr * snr * m2, snr.powi(3) * m3);
                let hhh = s3 + 3.0 * s1 - 3.0 * r * (s2 + 1.0) + 3.0 * r * r * s1 - r.powi(3);
                let hhs = snr * snr * m3 + m1 - 2.0 * r * snr * m2 + r * r * m1;
                assert_relative_eq!(traces.hhh, hhh, max_relative = 1e-10);
                assert_relative_eq!(traces.hhs, hhs, max_relative = 1e-10);
                assert_relative_eq!(traces.hss, snr * m3 - r * m2, max_relative = 1e-10);
                assert_relative_eq!(traces.response_h, s1 - r, max_relative = 1e-10);
                assert_relative_eq!(traces.response_s, m1, max_relative = 1e-9);
            }
        }
        // kappa0^{3/2} (1 + 3/kappa0 + 1/kappa0^2), and the mean of the cubes.
        let cube = |teacher: &dyn TeacherSpectrum| mixed_traces(teacher, 1.0, 0.0).sss;
        assert_relative_eq!(
            cube(&Wishart::new(0.5).unwrap()),
            11.0 * 0.5_f64.powf(1.5),
            max_relative = 1e-10
        );
        assert_relative_eq!(cube(&Discrete::new(&[0.0, 0.0, 1.0, 3.0]).unwrap()), 7.0, max_relative = 1e-10);
    }

    /// The traces of matrices that are drawn, with all fluctuations, are those of free independence up to `1/D`.
    #[test]
    fn linear_traces_are_those_of_sampled_matrices() {
        const DIMENSION: usize = 120;
        const DRAWS: usize = 24;
        let eigenvalues = [0.0, 0.0, 1.0, 3.0];
        let snr = 0.8;
        let exact = linear_traces(&Discrete::new(&eigenvalues).unwrap(), snr);
        let mut rng = rand_pcg::Pcg64::new(3, 7);
        let star = nalgebra::DMatrix::from_diagonal(&nalgebra::DVector::from_fn(DIMENSION, |i, _| {
            eigenvalues[i % 4]
        }));
        let draws: Vec<[f64; 3]> = (0..DRAWS)
            .map(|_| {
                let normal = rand_distr::StandardNormal;
                let g = nalgebra::DMatrix::from_fn(DIMENSION, DIMENSION, |_, _| -> f64 {
                    rand_distr::Distribution::sample(&normal, &mut rng)
                });
                // A semicircle of variance 1.
                let noise = (&g + g.transpose()) / (2.0 * DIMENSION as f64).sqrt();
                let y = &star * snr + noise;
                let square = &y * &y;
                [(&square * &y).trace(), (&square * &star).trace(), (&y * &star * &star).trace()]
                    .map(|trace| trace / DIMENSION as f64)
            })
            .collect();
        for (k, exact) in [exact.hhh, exact.hhs, exact.hss].into_iter().enumerate() {
            let values: Vec<f64> = draws.iter().map(|draw| draw[k]).collect();
            let mean = values.iter().sum::<f64>() / DRAWS as f64;
            let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (DRAWS - 1) as f64;
            let z =
                (mean - exact) / (variance / DRAWS as f64 + (3.0 * exact / DIMENSION as f64).powi(2)).sqrt();
            assert!(z.abs() < 4.0, "trace {k}: {mean} beside {exact}, z = {z}");
        }
        assert_relative_eq!(exact.sss, 7.0, max_relative = 1e-10);
    }

    /// The mean of the response is the number of degrees of freedom, and its traces are double integrals.
    #[test]
    fn traces_with_the_response_are_double_integrals() {
        let teacher = Wishart::new(2.0).unwrap();
        let (snr, r) = (1.5, 1.2);
        let f = |y: f64| (y - r).max(0.0);
        let [low, high] = teacher.support(snr)[0];
        // A midpoint rule in the angle of the support, whose two grids do not meet.
        let grid = |count: usize, shift: f64| -> Vec<[f64; 3]> {
            let node = |k: usize| {
                let theta = PI * (k as f64 + shift) / count as f64;
                let x = 0.5 * (low + high) - 0.5 * (high - low) * theta.cos();
                let weight = 0.5 * (high - low) * theta.sin() * PI / count as f64 * teacher.density(snr, x);
                [x, weight, weight * (x - 2.0 * teacher.stieltjes(snr, x)[0]) / snr]
            };
            (0..count).map(node).collect()
        };
        let (outer, inner) = (grid(700, 0.5), grid(701, 0.5));
        let mut exact = [0.0; 2];
        for [x, weight, with_teacher] in &outer {
            let response: f64 = inner.iter().map(|[y, p, _]| p * (f(*x) - f(*y)) / (x - y)).sum();
            exact[0] += weight * f(*x) * response;
            exact[1] += with_teacher * response;
        }
        let traces = mixed_traces(&teacher, snr, r);
        assert_relative_eq!(traces.response_h, exact[0], max_relative = 1e-4);
        assert_relative_eq!(traces.response_s, exact[1], max_relative = 1e-4);
    }

    #[test]
    fn a_threshold_above_the_support_leaves_the_teacher_alone() {
        let teacher = Wishart::new(1.0).unwrap();
        let traces = mixed_traces(&teacher, 1.0, 20.0);
        let MixedTraces { hhh, hhs, hss, response_h, response_s, .. } = traces;
        assert!([hhh, hhs, hss, response_h, response_s].iter().all(|trace| trace.abs() <= 0.0));
    }
}
