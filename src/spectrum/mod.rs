//! The spectrum of `Y = Mhat s* + sqrt(Qhat) Z`, and what the soft threshold makes of it.
//!
//! In the pre-training stage the learned weights are `s-hat = f(Y)`, with `Z` a GOE matrix whose eigenvalues follow
//! the semicircle on `[-2, 2]` and `f(x) = (x - 2 lambda sqrt(kappa))_+ / Vhat`. In units of the noise,
//!
//! $$ y = \mathrm{snr}\\, s^* + Z, \qquad \mathrm{snr} = \hat M/\sqrt{\hat Q}, \qquad f \propto (y - r)_+ , $$
//!
//! everything that training needs are the integrals in [`Denoised`]. A teacher is one implementation of
//! [`TeacherSpectrum`]; [`Wishart`] has them by contour integrals of rational functions, exact to rounding.
//!
//! Source: arXiv:2606.05899; P. Biane, Indiana Univ. Math. J. 46, 705 (1997), for the free
//! convolution with the semicircle.

mod contour;
mod wishart;

use nalgebra::Complex;
use std::f64::consts::PI;

pub use wishart::Wishart;

/// Integrals over the law `rho` of `y = snr s* + Z` with the unit-slope soft threshold `f(y) = (y - r)_+`.
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

/// The law of a teacher's eigenvalues, as seen through semicircular noise.
///
/// `snr` must be finite and >= 0 in every method; anything else gives numbers without meaning, but no panic.
pub trait TeacherSpectrum: Send + Sync {
    /// `int s dmu(s)`: the normalised trace of `s*`.
    fn mean(&self) -> f64;

    /// `Q0 = int s^2 dmu(s) = D^{-2} |S*|_F^2`.
    fn second_moment(&self) -> f64;

    /// The intervals that make up the support of `y = snr s* + Z`, in increasing order.
    fn support(&self, snr: f64) -> Vec<[f64; 2]>;

    /// The right end of the support of `y = snr s* + Z`.
    fn top_edge(&self, snr: f64) -> f64;

    /// `G(x - i0)`, `G(z) = int rho(y) dy / (z - y)`: the imaginary part is `pi rho(x) >= 0`, the real part the
    /// principal value. To about 1e-15, but for the square-root edges, where it is 1e-8.
    fn stieltjes(&self, snr: f64, x: f64) -> Complex<f64>;

    /// The density `rho(x)` of `y = snr s* + Z`.
    fn density(&self, snr: f64, x: f64) -> f64 {
        self.stieltjes(snr, x).im / PI
    }

    /// The integrals of the soft threshold at `r`, to 1e-11 relative or better.
    fn denoise(&self, snr: f64, r: f64) -> Denoised;
}
