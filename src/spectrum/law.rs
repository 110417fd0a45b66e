//! The integrals over the law of `y = snr s* + Z` that a solver needs from a teacher.

use std::f64::consts::PI;

/// Integrals over the law `rho` of `y = snr s* + Z` with the unit-slope soft threshold `f(y) = (y - r)_+`.
///
/// An implementation of [`TeacherSpectrum`] builds this value and [`Posterior`]. Both are exhaustive structs,
/// so that the compiler reports an implementation that lacks an integral added later. The integral would
/// otherwise be 0 without a warning.
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
    /// `snr^2 Q0 - 2 snr overlap + norm`, computed without cancellation: the mean square error of `f(y)/snr`,
    /// times `snr^2`.
    pub risk: f64,
}

/// Integrals over the law of `y = snr s* + Z` of the posterior mean `E[s* | y]`, the best denoiser. They tell
/// how much of `s*` can be learned from `y`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Posterior {
    /// `int E[s* | y]^2 rho`: the overlap of two draws of the posterior, `Q_BO`.
    pub overlap: f64,
    /// `snr^2 (Q0 - Q_BO) = 1 - (4 pi^2/3) int rho^3`, computed without cancellation: the least mean square
    /// error, times `snr^2`.
    pub risk: f64,
}

impl Posterior {
    /// Builds the integrals from `gain = int (E[s* | y] - tr s*)^2 rho` and `response2 = int (Re G)^2 rho`.
    /// The two are related by `snr E[s* | y] = y - 2 Re G(y)`. The first is accurate at a weak signal and the
    /// second at a strong one.
    pub(super) fn new(snr: f64, teacher: &dyn TeacherSpectrum, gain: f64, response2: f64) -> Self {
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

/// `snr` if it is finite and >= 0, else NaN. The searches end at once on NaN, but may take very long on other
/// invalid values.
pub(super) fn meaningful(snr: f64) -> f64 {
    if snr.is_finite() && snr >= 0.0 { snr } else { f64::NAN }
}

/// The law of a teacher's eigenvalues, as seen through semicircular noise.
///
/// `snr` must be finite and >= 0 in every method. Any other value gives numbers without meaning, but no
/// panic.
pub trait TeacherSpectrum: Send + Sync {
    /// `int s dmu(s)`: the normalised trace of `s*`.
    fn mean(&self) -> f64;

    /// `Q0 = int s^2 dmu(s) = D^{-2} |S*|_F^2`.
    fn second_moment(&self) -> f64;

    /// `int s^2 dmu(s) - (int s dmu(s))^2`, computed without cancellation.
    fn variance(&self) -> f64;

    /// `1 - sum_i p_i^2` over the atoms of the law, the limit of [`Posterior::risk`] for a strong signal. It
    /// is the dimension, in units of `D^2/2`, of the set of all symmetric matrices with this spectrum.
    fn orbit_dimension(&self) -> f64;

    /// The intervals that make up the support of `y = snr s* + Z`, in increasing order.
    fn support(&self, snr: f64) -> Vec<[f64; 2]>;

    /// The right end of the support of `y = snr s* + Z`.
    fn top_edge(&self, snr: f64) -> f64;

    /// `[Re G, Im G]` at `x - i0`, with `G(z) = int rho(y) dy / (z - y)`. The imaginary part is
    /// `pi rho(x) >= 0`, and the real part is the principal value. The error is about 1e-15, and 1e-8 at the
    /// square-root edges.
    fn stieltjes(&self, snr: f64, x: f64) -> [f64; 2];

    /// The density `rho(x)` of `y = snr s* + Z`.
    fn density(&self, snr: f64, x: f64) -> f64 {
        self.stieltjes(snr, x)[1] / PI
    }

    /// The integrals of the soft threshold at `r`, with a relative error of 1e-11 or less.
    fn denoise(&self, snr: f64, r: f64) -> Denoised;

    /// The integrals of the posterior mean, with an error of 1e-11 or less.
    fn posterior(&self, snr: f64) -> Posterior;

    /// The law of `y = snr s* + Z` as a function of a parameter for which many points of the law are cheap to
    /// compute. By default the parameter is `x` itself.
    fn chart(&self, snr: f64) -> Box<dyn Chart + '_> {
        Box::new(ByPosition { teacher: self, snr })
    }
}

/// The law of `y = snr s* + Z` as a function of a parameter `u` that increases with `x`.
pub trait Chart {
    /// The intervals of `u` whose images make up the support, in increasing order.
    fn intervals(&self) -> Vec<[f64; 2]>;

    /// The parameter of a point `x`. For a point in a gap of the support it is any parameter in the
    /// corresponding gap.
    fn parameter(&self, x: f64) -> f64;

    /// `[x, rho dx/du]` at a parameter in one of the intervals.
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
