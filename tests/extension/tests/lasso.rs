//! The LASSO against its equations in the form of M. Bayati and A. Montanari (IEEE Trans. Inf. Theory 58, 1997 (2012),
//! arXiv:1008.2581), solved by bisection, with averages by Simpson's rule.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use extension::lasso::{Sparse, solve};
use extension::sparse::GaussBernoulli;
use lora_asymptotics::{Options, Status};

/// The root of an increasing function.
fn bisect(mut low: f64, mut high: f64, f: impl Fn(f64) -> f64) -> f64 {
    for _ in 0..80 {
        let middle = 0.5 * (low + high);
        if f(middle) < 0.0 { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

fn gauss(x: f64) -> f64 {
    (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

fn simpson(from: f64, to: f64, f: impl Fn(f64) -> f64) -> f64 {
    const PANELS: usize = 400;
    let h = (to - from) / (2 * PANELS) as f64;
    let sum: f64 = (0..=2 * PANELS)
        .map(|i| {
            let weight = if i == 0 || i == 2 * PANELS { 1.0 } else { 2.0 + 2.0 * (i % 2) as f64 };
            weight * f(from + h * i as f64)
        })
        .sum();
    sum * h / 3.0
}

/// Regression in the notation of the reference: a matrix with entries of variance `1/n` for `n = delta d` samples.
struct Reference {
    delta: f64,
    sigma2: f64,
    density: f64,
    /// Variance of the coordinates that are not zero.
    present: f64,
}

impl Reference {
    /// `E (eta(x0 + tau z; theta) - x0)^2` and `P(eta != 0)`.
    fn scalar(&self, tau2: f64, theta: f64) -> (f64, f64) {
        let groups = [(1.0 - self.density, 0.0), (self.density, self.present)];
        groups.into_iter().fold((0.0, 0.0), |(error, active), (share, variance)| {
            // Given the sum u = x0 + tau z, x0 is Gaussian with mean (shrink u).
            let total = variance + tau2;
            let (deviation, shrink, rest) = (total.sqrt(), variance / total, variance * tau2 / total);
            let end = theta.max(0.0) + 12.0 * deviation;
            let law = |u: f64| 2.0 * gauss(u / deviation) / deviation;
            let zero = simpson(0.0, theta, |u| law(u) * (shrink * u).powi(2));
            let kept = simpson(theta, end, |u| law(u) * (u - theta - shrink * u).powi(2));
            (error + share * (zero + kept + rest), active + share * simpson(theta, end, law))
        })
    }

    /// `tau^2 = sigma^2 + E(..)^2/delta` at the threshold `a tau`.
    fn tau2(&self, a: f64) -> f64 {
        bisect(self.sigma2, 1e4, |tau2| {
            tau2 - self.sigma2 - self.scalar(tau2, a * tau2.sqrt()).0 / self.delta
        })
    }

    /// The smallest `a`: `(1 + a^2) P(z < -a) - a gauss(a) = delta/2`.
    fn smallest(&self) -> f64 {
        let tail = |a: f64| simpson(a, a + 12.0, gauss);
        let excess = |a: f64| self.delta / 2.0 - (1.0 + a * a) * tail(a) + a * gauss(a);
        if excess(0.0) >= 0.0 { 0.0 } else { bisect(0.0, 10.0, excess) }
    }

    /// `tau^2`, and the fraction of coordinates that are not zero over `delta`, at the penalty `lambda`, by the calibration
    /// `lambda = a tau (1 - P(eta != 0)/delta)`.
    fn solve(&self, lambda: f64) -> (f64, f64) {
        let at = |a: f64| {
            let tau2 = self.tau2(a);
            (tau2, self.scalar(tau2, a * tau2.sqrt()).1 / self.delta)
        };
        let calibrated = |a: f64| {
            let (tau2, active) = at(a);
            a * tau2.sqrt() * (1.0 - active)
        };
        at(bisect(self.smallest() + 1e-6, 20.0, |a| calibrated(a) - lambda))
    }
}

#[test]
fn errors_and_responses_are_those_of_the_calibrated_threshold() {
    let settings = [
        (0.5, 0.1, 0.2, 0.1),
        (0.64, 0.2, 0.5, 0.13),
        (2.0, 0.3, 1.0, 0.5),
        (0.3, 0.05, 0.05, 1e-3),
        (1.0, 1.0, 2.0, 0.2),
    ];
    for (alpha, density, lambda, delta) in settings {
        let truth = GaussBernoulli { density, variance: 1.0 };
        let solved = solve(delta, Sparse { alpha, lambda, truth }, &Options::default()).unwrap();
        assert_eq!(solved.status, Status::Converged);
        // In these units, X/sqrt(d) = sqrt(alpha) A, so that the weights are multiplied by sqrt(alpha).
        let reference = Reference { delta: alpha, sigma2: delta, density, present: alpha / density };
        let (tau2, active) = reference.solve(lambda / alpha.sqrt());
        let (error, response) = (tau2 - delta, active / (1.0 - active));
        println!(
            "alpha {alpha}, density {density}: E {:.10} {error:.10}, V {:.10} {response:.10}",
            solved.point.error, solved.point.response
        );
        assert!(
            (solved.point.error - error).abs() < 1e-8 * error.max(1.0),
            "{:?}, not {error}",
            solved.point
        );
        assert!(
            (solved.point.response - response).abs() < 1e-8 * response.max(1.0),
            "{:?}, not {response}",
            solved.point
        );
    }
}
