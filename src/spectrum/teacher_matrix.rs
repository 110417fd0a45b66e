//! The matrix `s*` of a teacher as training sees it: through its eigenvalues, or through its singular values.

use super::integrals::Denoised;
use super::law::{TeacherSpectrum, moments};
use super::squared_response::{squared_response, squared_response_of_both_sides};
use crate::attention::Attention;

/// A teacher's law, and whether the weights that learn it are thresholded by their eigenvalues, `(y - r)_+`, or by their singular values,
/// `sign(y) (|y| - r)_+`.
#[derive(Clone, Copy)]
pub(crate) struct TeacherMatrix<'a> {
    law: &'a dyn TeacherSpectrum,
    attention: Attention,
}

impl<'a> TeacherMatrix<'a> {
    pub(crate) fn new(law: &'a dyn TeacherSpectrum, attention: Attention) -> Self {
        Self { law, attention }
    }

    /// `Q0`.
    pub(crate) fn second_moment(&self) -> f64 {
        self.law.second_moment()
    }

    /// The right end of the support of `y`.
    pub(crate) fn top_edge(&self, snr: f64) -> f64 {
        self.law.top_edge(snr)
    }

    /// The intervals that make up the support of the eigenvalues of `y`, or of its singular values.
    pub(crate) fn support(&self, snr: f64) -> Vec<[f64; 2]> {
        let support = self.law.support(snr).into_iter();
        match self.attention {
            Attention::Tied => support.collect(),
            Attention::Cross => {
                support.filter(|[_, high]| *high > 0.0).map(|[low, high]| [low.max(0.0), high]).collect()
            }
        }
    }

    /// The density of the eigenvalues of `y`, or of its singular values, at a point of the support.
    pub(crate) fn density(&self, snr: f64, x: f64) -> f64 {
        let density = self.law.density(snr, x);
        match self.attention {
            Attention::Tied => density,
            Attention::Cross => 2.0 * density,
        }
    }

    /// The integrals of the soft threshold at `r >= 0`.
    pub(crate) fn denoise(&self, snr: f64, r: f64) -> Denoised {
        match self.attention {
            Attention::Tied => self.law.denoise(snr, r),
            Attention::Cross => self.law.denoise_both_sides(snr, r),
        }
    }

    /// The integrals of `f(y) = y`, of weights that are shrunk and not thresholded. The trace is that of eigenvalues of both signs, or the
    /// nuclear norm of singular values.
    pub(crate) fn keep(&self, snr: f64) -> Denoised {
        let all = Denoised::below_the_support(snr, &moments(self.law), 0.0);
        match self.attention {
            Attention::Tied => all,
            Attention::Cross => Denoised { trace: self.law.denoise_both_sides(snr, 0.0).trace, ..all },
        }
    }

    /// The mean square of the divided differences of the soft threshold.
    pub(crate) fn squared_response(&self, snr: f64, r: f64) -> f64 {
        match self.attention {
            Attention::Tied => squared_response(self.law, snr, r),
            Attention::Cross => squared_response_of_both_sides(self.law, snr, r),
        }
    }

    /// The attention that learns from this teacher.
    pub(crate) fn attention(&self) -> Attention {
        self.attention
    }

    /// The variance of a logit in units of `Q` (see [`Attention::logit_variance`]).
    pub(crate) fn logit_variance(&self) -> f64 {
        self.attention.logit_variance()
    }
}
