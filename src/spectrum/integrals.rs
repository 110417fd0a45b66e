//! The integrals over the law of `y = snr s* + Z` that a solver needs from a teacher.

/// Integrals over the law `rho` of `y = snr s* + Z` with the unit-slope soft threshold `f(y) = (y - r)_+`.
///
/// An implementation of [`TeacherSpectrum::denoise`](super::TeacherSpectrum::denoise) builds this value. It is an
/// exhaustive struct, like [`Posterior`], so that the compiler reports an implementation that lacks an integral
/// added later. The integral would otherwise be 0 without a warning.
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

impl Denoised {
    /// No numbers, for arguments without meaning.
    pub(super) fn undefined() -> Self {
        let none = f64::NAN;
        Self { norm: none, overlap: none, response: none, trace: none, rank_fraction: none, risk: none }
    }

    /// The integrals of both tails of a symmetric law, given those of the upper one. The risk is left out.
    pub(super) fn doubled(self) -> Self {
        let Self { norm, overlap, response, trace, rank_fraction, .. } = self;
        Self {
            norm: 2.0 * norm,
            overlap: 2.0 * overlap,
            response: 2.0 * response,
            trace: 2.0 * trace,
            rank_fraction: (2.0 * rank_fraction).min(1.0),
            risk: 0.0,
        }
    }

    /// The integrals for a threshold above the support, where `f` vanishes.
    pub(super) fn above_the_support(snr: f64, moments: &LawMoments) -> Self {
        Self { risk: snr * snr * moments.second, ..Self::default() }
    }

    /// The integrals for a threshold `r` below the support, where `f(y) = y - r`.
    pub(super) fn below_the_support(snr: f64, moments: &LawMoments, r: f64) -> Self {
        let LawMoments { mean, second, .. } = *moments;
        let signal = snr * snr * second;
        Self {
            norm: 1.0 + signal - 2.0 * r * snr * mean + r * r,
            overlap: snr * second - r * mean,
            response: 1.0,
            trace: snr * mean - r,
            rank_fraction: 1.0,
            risk: 1.0 + r * r,
        }
    }
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
    pub(super) fn new(snr: f64, moments: &LawMoments, gain: f64, response2: f64) -> Self {
        let LawMoments { mean, second, variance } = *moments;
        let signal = snr * snr * variance;
        // The signal is NaN for an invalid snr, and negative for an invalid variance.
        if signal.is_nan() || signal < 0.0 {
            return Self { overlap: f64::NAN, risk: f64::NAN };
        }
        if signal < 1.0 {
            let gain = gain.min(variance);
            return Self { overlap: mean * mean + gain, risk: snr * snr * (variance - gain) };
        }
        let risk = (1.0 - 4.0 * response2).clamp(0.0, signal);
        Self { overlap: second - risk / (snr * snr), risk }
    }
}

/// LawMoments of a teacher's law.
#[derive(Debug, Clone, Copy)]
pub(super) struct LawMoments {
    /// `int s dmu(s)`.
    pub(super) mean: f64,
    /// `int s^2 dmu(s)`.
    pub(super) second: f64,
    /// `int s^2 dmu(s) - (int s dmu(s))^2`, without cancellation.
    pub(super) variance: f64,
}

/// `snr` if it is finite and >= 0, else NaN. The searches end at once on NaN, but may take very long on other
/// invalid values.
pub(super) fn meaningful(snr: f64) -> f64 {
    if snr.is_finite() && snr >= 0.0 { snr } else { f64::NAN }
}
