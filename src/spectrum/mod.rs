//! The spectrum of `Y = Mhat s* + sqrt(Qhat) Z`, and the soft threshold of it.
//!
//! In the pre-training stage the learned weights are `s-hat = f(Y)`, with `Z` a GOE matrix whose eigenvalues follow
//! the semicircle on `[-2, 2]` and `f(x) = (x - 2 lambda sqrt(kappa))_+ / Vhat`. In units of the noise,
//!
//! ```text
//! y = snr s* + Z,    snr = Mhat/sqrt(Qhat),    f ~ (y - r)_+,
//! ```
//!
//! and training needs only the integrals in [`Denoised`]. A teacher is an implementation of
//! [`TeacherSpectrum`]: [`Wishart`], or [`Discrete`] for any list of eigenvalues. Both compute the integrals
//! as contour integrals of meromorphic functions, exactly to rounding. [`Posterior`] describes the best
//! denoiser, the posterior mean.
//!
//! # A teacher of your own
//!
//! Another law needs its moments, the support of `y`, and the Stieltjes transform of `y`. The integrals follow from these by
//! quadrature; [`check`] tests whether they belong together. The example is a matrix that was measured with noise: a few
//! strong directions and a constant, `A`, and a GOE matrix `sigma Z'`. Since `snr (A + sigma Z') + Z` is `snr A` with noise of variance
//! `w^2 = 1 + (snr sigma)^2`, its law is that of `A` at the signal `snr/w`, stretched by `w`: a semicircle with outliers.
//!
//! ```
//! use std::sync::Arc;
//!
//! use lora_asymptotics::spectrum::{self, Discrete, TeacherSpectrum};
//! use lora_asymptotics::{Model, Options, pretrain};
//!
//! struct Noisy {
//!     directions: Discrete,
//!     sigma: f64,
//! }
//!
//! impl Noisy {
//!     /// The width `w` of the noise, and the signal `snr/w` relative to it.
//!     fn noise(&self, snr: f64) -> (f64, f64) {
//!         let width = (snr * self.sigma).hypot(1.0);
//!         (width, snr / width)
//!     }
//! }
//!
//! impl TeacherSpectrum for Noisy {
//!     fn mean(&self) -> f64 {
//!         self.directions.mean()
//!     }
//!     fn second_moment(&self) -> f64 {
//!         self.directions.second_moment() + self.sigma * self.sigma
//!     }
//!     fn orbit_dimension(&self) -> f64 {
//!         1.0 // The law has no atoms.
//!     }
//!     fn support(&self, snr: f64) -> Vec<[f64; 2]> {
//!         let (width, snr) = self.noise(snr);
//!         self.directions.support(snr).into_iter().map(|interval| interval.map(|x| width * x)).collect()
//!     }
//!     fn stieltjes(&self, snr: f64, x: f64) -> [f64; 2] {
//!         let (width, snr) = self.noise(snr);
//!         self.directions.stieltjes(snr, x / width).map(|g| g / width)
//!     }
//! }
//!
//! // One direction in ten stands out of a bulk between 0.2 and 1.8.
//! let directions = Discrete::new(&[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 3.0])?;
//! let teacher = Noisy { directions, sigma: 0.4 };
//! spectrum::check(&teacher).expect("methods that belong together");
//! let model = Model::linear(2, 0.5)?.with_teacher_spectrum(Arc::new(teacher))?;
//! let training = pretrain::Training::new(0.4, 0.1)?;
//! let solution = pretrain::solve(&model, &training, &Options::default())?.into_converged()?;
//! // A list of 3200 quantiles of the same law has this alignment, too.
//! assert!((solution.alignment - 0.948_28).abs() < 1e-5);
//! # Ok::<(), lora_asymptotics::Error>(())
//! ```
//!
//! Source: arXiv:2606.05899; P. Biane, Indiana Univ. Math. J. 46, 705 (1997), for the free
//! convolution with the semicircle.

mod adaptive;
mod consistency;
mod contour;
mod discrete;
mod integrals;
mod law;
#[cfg(test)]
mod plain;
mod real_axis;
mod soft_threshold;
mod squared_response;
mod teacher_matrix;
mod third_moments;
mod wishart;
mod wishart_product;

pub use consistency::{Fault, Faults, check};
pub use discrete::Discrete;
pub use integrals::{Denoised, Posterior};
pub use law::{Chart, TeacherSpectrum};
pub(crate) use law::{Implausible, implausible};
pub(crate) use teacher_matrix::TeacherMatrix;
pub(crate) use third_moments::{MixedTraces, linear_traces, mixed_traces};
pub use wishart::Wishart;
pub use wishart_product::WishartProduct;

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_relative_eq;
    use gauss_quad::GaussLegendre;
    use std::f64::consts::PI;

    /// The cases have intervals that are about to part and parted ones, narrow and wide teachers, weak and
    /// strong signals.
    fn cases() -> Vec<(Box<dyn TeacherSpectrum>, f64)> {
        let wishart = |kappa0| Box::new(Wishart::new(kappa0).unwrap()) as Box<dyn TeacherSpectrum>;
        let listed = |s: &[f64]| Box::new(Discrete::new(s).unwrap()) as Box<dyn TeacherSpectrum>;
        vec![
            (wishart(0.5), 0.0),
            (wishart(1.0), 1e-9),
            (wishart(1.0), 1e-3),
            (wishart(0.5), 0.3),
            (wishart(0.5), 1.0),
            (wishart(1.0), 2.0),
            (wishart(2.0), 3.0),
            (wishart(0.3), 4.0),
            (wishart(0.2), 20.0),
            (wishart(0.9), 60.0),
            (wishart(0.01), 0.5),
            (wishart(8.0), 5.0),
            (listed(&[1.3]), 0.0),
            (listed(&[1.3]), 2.0),
            (listed(&[0.0, 1.0]), 0.7),
            (listed(&[0.0, 1.0]), 1.5),
            (listed(&[0.0, 1.0]), 2.1),
            (listed(&[0.0, 0.0, 0.0, 5.0, 1.0, 1.0]), 3.0),
            (listed(&[0.0, 0.1, 0.3, 0.4, 2.0, 2.2, 7.0]), 0.9),
            (Box::new(Discrete::power_law(1.25, 40).unwrap()), 3.0),
        ]
    }

    /// Gauss-Legendre rules in theta with x = mid + half cos(theta) on every interval resolve the square-root
    /// edges.
    fn above(teacher: &dyn TeacherSpectrum, snr: f64, r: f64, f: impl Fn(f64) -> f64) -> f64 {
        let rule = GaussLegendre::new(std::num::NonZeroUsize::new(1200).unwrap());
        let interval = |[low, high]: [f64; 2]| {
            let low = low.max(r);
            let (mid, half) = (0.5 * (low + high), 0.5 * (high - low));
            if half <= 0.0 {
                return 0.0;
            }
            rule.integrate(0.0, PI, |theta| f(mid + half * theta.cos()) * half * theta.sin())
        };
        teacher.support(snr).into_iter().map(interval).sum()
    }

    #[test]
    fn moments_of_the_density() {
        for (teacher, snr) in cases() {
            let teacher = teacher.as_ref();
            let moment =
                |k: i32| above(teacher, snr, f64::NEG_INFINITY, |x| x.powi(k) * teacher.density(snr, x));
            assert_relative_eq!(moment(0), 1.0, max_relative = 1e-10);
            assert_relative_eq!(moment(1), snr * teacher.mean(), max_relative = 1e-10, epsilon = 1e-10);
            let second = 1.0 + snr * snr * teacher.second_moment();
            assert_relative_eq!(moment(2), second, max_relative = 1e-10);
            let variance = teacher.second_moment() - teacher.mean().powi(2);
            assert_relative_eq!(teacher.variance(), variance, epsilon = 1e-14 * teacher.second_moment());
        }
    }

    #[test]
    fn contour_integrals_equal_integrals_over_the_density() {
        for (teacher, snr) in cases() {
            let teacher = teacher.as_ref();
            let support = teacher.support(snr);
            let (low, high) = (support[0][0], support[support.len() - 1][1]);
            assert_relative_eq!(teacher.top_edge(snr), high, max_relative = 1e-15);
            for fraction in [0.03, 0.2, 0.45, 0.7, 0.93, 0.999] {
                let r = low + fraction * (high - low);
                let denoised = teacher.denoise(snr, r);
                let rho = |x: f64| teacher.density(snr, x);
                let re = |x: f64| teacher.stieltjes(snr, x)[0];
                let check = |value: f64, exact: f64| {
                    // The tolerance is relative to the value, plus the resolution of the comparison itself in
                    // the far edge.
                    assert_relative_eq!(value, exact, max_relative = 2e-10, epsilon = 1e-13);
                };
                check(denoised.rank_fraction, above(teacher, snr, r, rho));
                check(denoised.trace, above(teacher, snr, r, |x| (x - r) * rho(x)));
                check(denoised.norm, above(teacher, snr, r, |x| (x - r).powi(2) * rho(x)));
                check(denoised.response, above(teacher, snr, r, |x| 2.0 * (x - r) * re(x) * rho(x)));
                if snr > 0.01 {
                    // The form of the theory, M = (int x f rho - V)/snr, cancels at small snr.
                    let xf = above(teacher, snr, r, |x| x * (x - r) * rho(x));
                    assert_relative_eq!(
                        snr * denoised.overlap,
                        xf - denoised.response,
                        epsilon = 1e-10 * (1.0 + xf)
                    );
                }
                let risk = snr * snr * teacher.second_moment() - 2.0 * snr * denoised.overlap + denoised.norm;
                assert_relative_eq!(denoised.risk, risk, epsilon = 1e-12 * (1.0 + snr * snr));
            }
        }
    }

    #[test]
    fn the_posterior_mean_has_the_risk_of_the_cube_of_the_density() {
        for (teacher, snr) in cases() {
            let teacher = teacher.as_ref();
            let Posterior { overlap, risk } = teacher.posterior(snr);
            let cube = above(teacher, snr, f64::NEG_INFINITY, |x| teacher.density(snr, x).powi(3));
            assert_relative_eq!(risk, 1.0 - 4.0 * PI * PI / 3.0 * cube, epsilon = 2e-11);
            let expected = teacher.second_moment() * snr * snr - risk;
            assert_relative_eq!(snr * snr * overlap, expected, max_relative = 1e-12, epsilon = 1e-13);
            let least = teacher.mean().powi(2);
            assert!(overlap >= least * (1.0 - 1e-14) && overlap <= teacher.second_moment());
        }
    }

    #[test]
    fn the_posterior_at_weak_and_strong_signals() {
        for teacher in [
            Box::new(Wishart::new(0.3).unwrap()) as Box<dyn TeacherSpectrum>,
            Box::new(Wishart::new(1e5).unwrap()),
            Box::new(Discrete::new(&[0.0, 0.0, 1.0, 2.0]).unwrap()),
        ] {
            // To first order, the risk is snr^2 var(s*), and the overlap is the part that the prior knows.
            let weak = teacher.posterior(1e-6);
            assert_relative_eq!(weak.risk, 1e-12 * teacher.variance(), max_relative = 1e-10);
            assert_relative_eq!(weak.overlap, teacher.mean().powi(2), max_relative = 1e-10);
            let strong = teacher.posterior(1e7);
            assert_relative_eq!(strong.risk, teacher.orbit_dimension(), max_relative = 1e-4);
            assert_relative_eq!(strong.overlap, teacher.second_moment(), max_relative = 1e-12);
        }
    }

    /// The defaults of the trait, which know the Stieltjes transform only, against the contour integrals.
    #[test]
    fn integrals_along_the_real_axis_equal_contour_integrals() {
        for (teacher, snr) in cases() {
            let plain = plain::Plain(teacher);
            let teacher = plain.0.as_ref();
            let [low, high] = [teacher.support(snr)[0][0], teacher.top_edge(snr)];
            assert_relative_eq!(plain.top_edge(snr), high, max_relative = 1e-15);
            for fraction in [-0.1, 0.03, 0.2, 0.45, 0.7, 0.93, 0.999, 1.1] {
                let r = low + fraction * (high - low);
                let (value, exact) = (plain.denoise(snr, r), teacher.denoise(snr, r));
                // The contour integrals over the last thousandth of the support have lost digits.
                let equal = |a: f64, b: f64| {
                    assert_relative_eq!(a, b, max_relative = 1e-11, epsilon = 1e-16);
                };
                equal(value.norm, exact.norm);
                equal(value.overlap, exact.overlap);
                equal(value.response, exact.response);
                equal(value.trace, exact.trace);
                equal(value.rank_fraction, exact.rank_fraction);
                equal(value.risk, exact.risk);
            }
            let (value, exact) = (plain.posterior(snr), teacher.posterior(snr));
            assert_relative_eq!(value.overlap, exact.overlap, max_relative = 1e-12);
            assert_relative_eq!(value.risk, exact.risk, epsilon = 1e-12);
        }
    }

    /// Weak signals cost `overlap` digits, and strong ones the response and the risk, as the documentation of
    /// `TeacherSpectrum::denoise` says.
    #[test]
    fn integrals_along_the_real_axis_at_extreme_signals() {
        let listed = Discrete::new(&[0.0, 0.0, 1.0, 2.0]).unwrap();
        let power_law = Discrete::power_law(1.25, 40).unwrap();
        let wishart = Wishart::new(0.3).unwrap();
        let laws: [&dyn Fn() -> Box<dyn TeacherSpectrum>; 3] =
            [&|| Box::new(listed.clone()), &|| Box::new(power_law.clone()), &|| Box::new(wishart)];
        for (law, snr) in laws
            .into_iter()
            .flat_map(|law| [1e-7, 5e-6, 2e-5, 1e-4, 1e-3, 3e2, 1e3, 1e4].map(|snr| (law, snr)))
        {
            let plain = plain::Plain(law());
            let teacher = plain.0.as_ref();
            let [low, high] = [teacher.support(snr)[0][0], teacher.top_edge(snr)];
            for fraction in [-0.1, 0.03, 0.2, 0.45, 0.7, 0.93, 1.1] {
                let r = low + fraction * (high - low);
                let (value, exact) = (plain.denoise(snr, r), teacher.denoise(snr, r));
                let equal = |a: f64, b: f64, accuracy: f64| {
                    assert_relative_eq!(a, b, max_relative = accuracy, epsilon = 1e-16);
                };
                equal(value.norm, exact.norm, 1e-11);
                equal(value.overlap, exact.overlap, if snr < 1e-3 { 1e-9 } else { 1e-11 });
                equal(value.response, exact.response, 1e-11 + 1e-15 * snr * snr);
                equal(value.trace, exact.trace, 1e-11);
                equal(value.rank_fraction, exact.rank_fraction, 1e-11);
                equal(value.risk, exact.risk, 1e-11 + 1e-13 * snr);
            }
            let (value, exact) = (plain.posterior(snr), teacher.posterior(snr));
            assert_relative_eq!(value.overlap, exact.overlap, max_relative = 1e-12);
            assert_relative_eq!(value.risk, exact.risk, epsilon = 1e-11);
        }
    }
}
