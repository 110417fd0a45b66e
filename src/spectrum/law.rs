//! What a solver asks of the law of the teacher: integrals over the law of `y = snr s* + Z`.

use std::f64::consts::PI;

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

/// `snr` if it is finite and >= 0, else NaN: the searches end at once on NaN, and may take very long on nonsense.
pub(super) fn meaningful(snr: f64) -> f64 {
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
