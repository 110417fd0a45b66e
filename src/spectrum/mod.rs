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
mod wishart;

pub use consistency::{Fault, Faults, check};
pub use discrete::Discrete;
pub use integrals::{Denoised, Posterior};
pub use law::{Chart, TeacherSpectrum};
pub(crate) use law::{Implausible, implausible};
pub(crate) use squared_response::squared_response;
pub use wishart::Wishart;

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

    #[test]
    fn integrals_along_the_real_axis_at_extreme_signals() {
        let listed = || Box::new(Discrete::new(&[0.0, 0.0, 1.0, 2.0]).unwrap()) as Box<dyn TeacherSpectrum>;
        let wishart = || Box::new(Wishart::new(0.3).unwrap()) as Box<dyn TeacherSpectrum>;
        let power_law = || Box::new(Discrete::power_law(1.25, 40).unwrap()) as Box<dyn TeacherSpectrum>;
        for (teacher, snr) in [
            (wishart(), 1e-3), (wishart(), 1e-4), (wishart(), 2e-5), (wishart(), 5e-6), (wishart(), 1e-7),
            (power_law(), 1e-3), (power_law(), 1e-4), (power_law(), 2e-5), (power_law(), 5e-6), (power_law(), 1e-7),
            (wishart(), 3e2), (wishart(), 1e3), (wishart(), 1e4), (wishart(), 1e6),
            (listed(), 3e2), (listed(), 1e3), (listed(), 1e4), (listed(), 1e6),
            (power_law(), 3e2), (power_law(), 1e3), (power_law(), 1e4),
            (power_law(), 1e6),
        ] {
            let plain = plain::Plain(teacher);
            let teacher = plain.0.as_ref();
            let [low, high] = [teacher.support(snr)[0][0], teacher.top_edge(snr)];
            let mut worst = [0.0_f64; 8];
            for fraction in [-0.1, 0.03, 0.2, 0.45, 0.7, 0.93, 0.999, 1.1] {
                let r = low + fraction * (high - low);
                let (value, exact) = (plain.denoise(snr, r), teacher.denoise(snr, r));
                let rel = |a: f64, b: f64| (a - b).abs() / b.abs().max(1e-300);
                for (k, (a, b)) in [
                    (value.norm, exact.norm),
                    (value.overlap, exact.overlap),
                    (value.response, exact.response),
                    (value.trace, exact.trace),
                    (value.rank_fraction, exact.rank_fraction),
                    (value.risk, exact.risk),
                ].into_iter().enumerate() {
                    worst[k] = worst[k].max(rel(a, b));
                }
            }
            let (value, exact) = (plain.posterior(snr), teacher.posterior(snr));
            worst[6] = (value.overlap - exact.overlap).abs() / exact.overlap;
            worst[7] = (value.risk - exact.risk).abs();
            println!("{snr:e} {} {:?}", teacher.name(), worst.map(|x| format!("{x:.0e}")));
        }
    }
}
