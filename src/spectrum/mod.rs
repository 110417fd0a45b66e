//! The spectrum of `Y = Mhat s* + sqrt(Qhat) Z`, and what the soft threshold makes of it.
//!
//! In the pre-training stage the learned weights are `s-hat = f(Y)`, with `Z` a GOE matrix whose eigenvalues follow
//! the semicircle on `[-2, 2]` and `f(x) = (x - 2 lambda sqrt(kappa))_+ / Vhat`. In units of the noise,
//!
//! ```text
//! y = snr s* + Z,    snr = Mhat/sqrt(Qhat),    f ~ (y - r)_+,
//! ```
//!
//! everything that training needs are the integrals in [`Denoised`]. A teacher is one implementation of
//! [`TeacherSpectrum`]: [`Wishart`], or [`Discrete`] for any list of eigenvalues. Both have them by contour integrals of
//! meromorphic functions, exact to rounding. The best denoiser, the posterior mean, is in [`Posterior`].
//!
//! Source: arXiv:2606.05899; P. Biane, Indiana Univ. Math. J. 46, 705 (1997), for the free
//! convolution with the semicircle.

mod adaptive;
mod contour;
mod discrete;
mod soft_threshold;
mod squared_response;
mod wishart;

use std::f64::consts::PI;

pub use discrete::Discrete;
pub(crate) use squared_response::squared_response;
pub use wishart::Wishart;

/// Integrals over the law `rho` of `y = snr s* + Z` with the unit-slope soft threshold `f(y) = (y - r)_+`.
///
/// Whoever implements [`TeacherSpectrum`] builds this value and [`Posterior`]. Both can be built outside of this crate, so that an
/// integral that is added later is missed by the compiler, and not 0 in silence.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Denoised {
    /// `int f^2 rho`; gives `Q`.
    pub norm: f64,
    /// `int f(y) E[s* | y] rho`; gives `M`.
    pub overlap: f64,
    /// `double-int (f(x) - f(y))/(x - y) rho rho = 2 int f Re G rho`: the degrees of freedom `D = V Vhat`.
    pub response: f64,
    /// `int f rho`; gives `tr s-hat`.
    pub trace: f64,
    /// `int 1[f > 0] rho`: the learned rank fraction.
    pub rank_fraction: f64,
    /// `snr^2 Q0 - 2 snr overlap + norm`: the mean square error of `f(y)/snr`, times `snr^2`; without cancellation.
    pub risk: f64,
}

/// What is known of `s*` once `y = snr s* + Z` is seen: integrals over the law of `y` of the posterior mean `E[s* | y]`, the
/// best denoiser there is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Posterior {
    /// `int E[s* | y]^2 rho`: the overlap of two draws of the posterior, `Q_BO`.
    pub overlap: f64,
    /// `snr^2 (Q0 - Q_BO) = 1 - (4 pi^2/3) int rho^3`: the least mean square error, times `snr^2`; without cancellation.
    pub risk: f64,
}

impl Posterior {
    /// From `int (E[s* | y] - tr s*)^2 rho` and `int (Re G)^2 rho`, one of which has the digits at a weak signal and the other
    /// at a strong one: `snr E[s* | y] = y - 2 Re G(y)`.
    fn new(snr: f64, teacher: &dyn TeacherSpectrum, gain: f64, response2: f64) -> Self {
        let (mean, variance) = (teacher.mean(), teacher.variance());
        let signal = snr * snr * variance;
        if signal.is_nan() {
            return Self { overlap: f64::NAN, risk: f64::NAN };
        }
        if signal < 1.0 {
            let gain = gain.min(variance);
            return Self { overlap: mean * mean + gain, risk: snr * snr * (variance - gain) };
        }
        let risk = (1.0 - 4.0 * response2).clamp(0.0, signal);
        Self { overlap: teacher.second_moment() - risk / (snr * snr), risk }
    }
}

/// `snr` if it is finite and >= 0, else NaN: the searches end at once on NaN, and may take very long on nonsense.
fn meaningful(snr: f64) -> f64 {
    if snr.is_finite() && snr >= 0.0 { snr } else { f64::NAN }
}

/// The law of a teacher's eigenvalues, as seen through semicircular noise.
///
/// `snr` must be finite and >= 0 in every method; anything else gives numbers without meaning, but no panic.
pub trait TeacherSpectrum: Send + Sync {
    /// `int s dmu(s)`: the normalised trace of `s*`.
    fn mean(&self) -> f64;

    /// `Q0 = int s^2 dmu(s) = D^{-2} |S*|_F^2`.
    fn second_moment(&self) -> f64;

    /// `int s^2 dmu(s) - (int s dmu(s))^2`, without cancellation.
    fn variance(&self) -> f64;

    /// `1 - sum_i p_i^2` over the atoms of the law: the limit of [`Posterior::risk`] for a strong signal. It is the dimension,
    /// in units of `D^2/2`, of the set of all symmetric matrices with this spectrum.
    fn orbit_dimension(&self) -> f64;

    /// The intervals that make up the support of `y = snr s* + Z`, in increasing order.
    fn support(&self, snr: f64) -> Vec<[f64; 2]>;

    /// The right end of the support of `y = snr s* + Z`.
    fn top_edge(&self, snr: f64) -> f64;

    /// `[Re G, Im G]` at `x - i0`, with `G(z) = int rho(y) dy / (z - y)`: the imaginary part is `pi rho(x) >= 0`, the real part the
    /// principal value. To about 1e-15, but for the square-root edges, where it is 1e-8.
    fn stieltjes(&self, snr: f64, x: f64) -> [f64; 2];

    /// The density `rho(x)` of `y = snr s* + Z`.
    fn density(&self, snr: f64, x: f64) -> f64 {
        self.stieltjes(snr, x)[1] / PI
    }

    /// The integrals of the soft threshold at `r`, to 1e-11 relative or better.
    fn denoise(&self, snr: f64, r: f64) -> Denoised;

    /// The integrals of the posterior mean, to 1e-11 or better.
    fn posterior(&self, snr: f64) -> Posterior;

    /// The law of `y = snr s* + Z` along a parameter in which many points of it cost little. By default the parameter is `x` itself.
    fn chart(&self, snr: f64) -> Box<dyn Chart + '_> {
        Box::new(ByPosition { teacher: self, snr })
    }
}

/// The law of `y = snr s* + Z` along a parameter `u` that increases with `x`.
pub trait Chart {
    /// The intervals of `u` whose images make up the support, in increasing order.
    fn intervals(&self) -> Vec<[f64; 2]>;

    /// The parameter of a point `x`; any parameter between two intervals for a point between their images.
    fn parameter(&self, x: f64) -> f64;

    /// `x` and `rho dx/du` at a parameter in the intervals.
    fn point(&self, u: f64) -> [f64; 2];
}

/// The parameter `u = x`.
struct ByPosition<'a, S: ?Sized> {
    teacher: &'a S,
    snr: f64,
}

impl<S: TeacherSpectrum + ?Sized> Chart for ByPosition<'_, S> {
    fn intervals(&self) -> Vec<[f64; 2]> {
        self.teacher.support(self.snr)
    }

    fn parameter(&self, x: f64) -> f64 {
        x
    }

    fn point(&self, u: f64) -> [f64; 2] {
        [u, self.teacher.density(self.snr, u)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_relative_eq;
    use gauss_quad::GaussLegendre;

    /// Teachers and signals: intervals that are about to part, and parted ones; narrow and wide; weak and strong.
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

    /// Gauss-Legendre in theta with x = mid + half cos(theta) on every interval: resolves square-root edges.
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
                    // Relative to the value, but for what the comparison itself resolves in the far edge.
                    assert_relative_eq!(value, exact, max_relative = 2e-10, epsilon = 1e-13);
                };
                check(denoised.rank_fraction, above(teacher, snr, r, rho));
                check(denoised.trace, above(teacher, snr, r, |x| (x - r) * rho(x)));
                check(denoised.norm, above(teacher, snr, r, |x| (x - r).powi(2) * rho(x)));
                check(denoised.response, above(teacher, snr, r, |x| 2.0 * (x - r) * re(x) * rho(x)));
                if snr > 0.01 {
                    // M = (int x f rho - V)/snr, the form of the theory, cancels at small snr.
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
            // snr^2 var(s*) to first order, and what the prior knows.
            let weak = teacher.posterior(1e-6);
            assert_relative_eq!(weak.risk, 1e-12 * teacher.variance(), max_relative = 1e-10);
            assert_relative_eq!(weak.overlap, teacher.mean().powi(2), max_relative = 1e-10);
            let strong = teacher.posterior(1e7);
            assert_relative_eq!(strong.risk, teacher.orbit_dimension(), max_relative = 1e-4);
            assert_relative_eq!(strong.overlap, teacher.second_moment(), max_relative = 1e-12);
        }
    }
}
