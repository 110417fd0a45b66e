//! The law of a teacher's eigenvalues, as the solvers see it.

use std::f64::consts::PI;

use super::integrals::{Denoised, LawMoments, Posterior};
use super::real_axis::RealAxis;

/// The law `mu` of a teacher's eigenvalues, as seen through semicircular noise.
///
/// The teacher of a layer with cross-attention has singular values. Its law `mu` is that of the singular values of `s*` and of their negatives, each
/// with half of the weight, and `Z` is then a matrix with independent entries of variance `1/D`: the law of the singular values of
/// `y = snr s* + Z` and of their negatives is the free convolution of `mu` with the same semicircle, so that everything below holds word for
/// word. The mean must be 0.
///
/// A law of your own needs six methods: [`mean`](Self::mean), [`second_moment`](Self::second_moment),
/// [`orbit_dimension`](Self::orbit_dimension), [`support`](Self::support), [`stieltjes`](Self::stieltjes), and
/// [`variance`](Self::variance) if the spectrum is narrow. The other methods follow from these by adaptive
/// quadrature along the real axis; an implementation that knows contour integrals or a closed form replaces
/// them. [`check`](super::check) tests an implementation. [`Model::with_teacher_spectrum`](crate::Model::with_teacher_spectrum)
/// makes it the teacher of a model.
///
/// `snr` must be finite and >= 0 in every method. Any other value gives numbers without meaning, but no
/// panic.
pub trait TeacherSpectrum: Send + Sync {
    /// A name for messages, and for `Debug` of a model. By default it is the name of the type.
    fn name(&self) -> String {
        std::any::type_name::<Self>().to_owned()
    }

    /// `int s dmu(s)`: the normalised trace of `s*`.
    fn mean(&self) -> f64;

    /// `Q0 = int s^2 dmu(s) = D^{-2} |S*|_F^2`.
    fn second_moment(&self) -> f64;

    /// `int s^2 dmu(s) - (int s dmu(s))^2`. The default forms this difference. It loses as many digits as the
    /// variance is smaller than `Q0`, so that a narrow law should give its variance by another formula.
    fn variance(&self) -> f64 {
        let mean = self.mean();
        (self.second_moment() - mean * mean).max(0.0)
    }

    /// `1 - sum_i p_i^2` over the atoms of the law, the limit of [`Posterior::risk`] for a strong signal. It
    /// is the dimension, in units of `D^2/2`, of the set of all symmetric matrices with this spectrum. It is
    /// 1 for a law without atoms.
    fn orbit_dimension(&self) -> f64;

    /// The intervals that make up the support of `y = snr s* + Z`, in increasing order.
    fn support(&self, snr: f64) -> Vec<[f64; 2]>;

    /// The right end of the support of `y = snr s* + Z`. By default it is the end of the last interval.
    fn top_edge(&self, snr: f64) -> f64 {
        self.support(snr).last().map_or(f64::NAN, |interval| interval[1])
    }

    /// `[Re G, Im G]` at `x - i0`, with `G(z) = int rho(y) dy / (z - y)`. The imaginary part is
    /// `pi rho(x) >= 0`, and the real part is the principal value. The error is about 1e-15, and 1e-8 at the
    /// square-root edges.
    fn stieltjes(&self, snr: f64, x: f64) -> [f64; 2];

    /// The density `rho(x)` of `y = snr s* + Z`.
    fn density(&self, snr: f64, x: f64) -> f64 {
        self.stieltjes(snr, x)[1] / PI
    }

    /// The integrals of the soft threshold at `r`, with a relative error of 1e-11 or less.
    ///
    /// The default integrates [`stieltjes`](Self::stieltjes) over the [`support`](Self::support), by adaptive
    /// Gauss-Kronrod rules in an angle in which the edges are smooth. With a transform as accurate as promised, it
    /// has the accuracy above for `1e-3 < snr sqrt(Q0) < 1e2`. At weaker signals the error of `overlap` may be
    /// 1e-9, because `E[s* | y]` is the difference `(y - 2 Re G)/snr`. At stronger ones the error of `response` grows like
    /// `1e-15 snr^2 Q0`, and that of `risk` like `1e-13 snr sqrt(Q0)`, because the positions have rounding errors.
    fn denoise(&self, snr: f64, r: f64) -> Denoised {
        along_the_axis(self, snr, |axis| axis.denoise(r))
    }

    /// The integrals of the soft threshold `f(y) = sign(y) (|y| - r)_+` of singular values, for the law of a teacher of cross-attention, which is
    /// symmetric, and `r >= 0` (a negative `r` counts as 0): the trace is `int |f| rho`, and the rank fraction is that of the singular values that are learned. The default
    /// integrates like that of [`denoise`](Self::denoise), with the same accuracy.
    fn denoise_both_sides(&self, snr: f64, r: f64) -> Denoised {
        along_the_axis(self, snr, |axis| axis.denoise_both_sides(r))
    }

    /// The integrals of the posterior mean, with an error of 1e-11 or less. The default integrates like that
    /// of [`denoise`](Self::denoise).
    fn posterior(&self, snr: f64) -> Posterior {
        along_the_axis(self, snr, |axis| axis.posterior())
    }

    /// The law of `y = snr s* + Z` as a function of a parameter for which many points of the law are cheap to
    /// compute. By default the parameter is `x` itself.
    fn chart(&self, snr: f64) -> Box<dyn Chart + '_> {
        Box::new(ByPosition { teacher: self, snr })
    }

    /// The eigenvalues of a matrix `s*` of the given dimension, for training at finite size
    /// (`simulate`). They must be finite and >= 0, and as many as the dimension; quantiles of the law, at
    /// the probabilities `(i + 1/2)/dimension`, have the smallest fluctuations. Of a symmetric law, for cross-attention, the larger half is taken as
    /// the singular values of a matrix of half the dimension. The default is `None`: such a
    /// teacher is refused by a simulation of pre-training.
    fn eigenvalues(&self, _dimension: usize) -> Option<Vec<f64>> {
        None
    }
}

/// The moments of a law.
pub(super) fn moments<S: TeacherSpectrum + ?Sized>(teacher: &S) -> LawMoments {
    LawMoments { mean: teacher.mean(), second: teacher.second_moment(), variance: teacher.variance() }
}

/// Applies `f` to the law on the real axis, as [`TeacherSpectrum::support`] and [`TeacherSpectrum::stieltjes`] describe it.
pub(super) fn along_the_axis<S: TeacherSpectrum + ?Sized, R>(
    teacher: &S,
    snr: f64,
    f: impl FnOnce(&RealAxis<'_>) -> R,
) -> R {
    let stieltjes = |x: f64| teacher.stieltjes(snr, x);
    f(&RealAxis::new(snr, moments(teacher), teacher.support(snr), &stieltjes))
}

/// A number of a law that cannot be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Implausible {
    /// The method that returned the number.
    pub(crate) method: &'static str,
    /// Path of the number, as in messages about other fields of a model.
    pub(crate) field: &'static str,
    pub(crate) value: f64,
    pub(crate) allowed: &'static str,
}

/// Largest difference between the variance and the one that follows from the moments, relative to `Q0`.
const ROUNDING: f64 = 1e-10;

/// The first number of the law that cannot be, if there is one. Only what costs nothing is looked at.
pub(crate) fn implausible(teacher: &dyn TeacherSpectrum) -> Option<Implausible> {
    /// Range of `Q0` in which products of moments are far from the limits of double precision.
    const SCALES: std::ops::RangeInclusive<f64> = 1e-100..=1e100;
    let LawMoments { mean, second, variance } = moments(teacher);
    let orbit = teacher.orbit_dimension();
    let consistent = (second - mean * mean - variance).abs() <= ROUNDING * second;
    let facts = [
        (
            SCALES.contains(&second),
            "second_moment",
            "model.teacher.second_moment",
            second,
            "between 1e-100 and 1e100",
        ),
        (
            mean * mean <= second * (1.0 + ROUNDING),
            "mean",
            "model.teacher.mean",
            mean,
            "finite, with a square of at most the second moment",
        ),
        (
            variance >= 0.0 && consistent,
            "variance",
            "model.teacher.variance",
            variance,
            ">= 0, the second moment minus the square of the mean",
        ),
        (
            (0.0..=1.0).contains(&orbit),
            "orbit_dimension",
            "model.teacher.orbit_dimension",
            orbit,
            "between 0 and 1",
        ),
    ];
    facts.into_iter().find(|(holds, ..)| !holds).map(|(_, method, field, value, allowed)| Implausible {
        method,
        field,
        value,
        allowed,
    })
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
