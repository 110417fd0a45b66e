//! The interpolation threshold of pre-training.

use crate::attention::Attention;
use crate::error::Error;
use crate::model::Model;
use crate::pretrain::training::Parametrisation;
use crate::roots::{End, bracketed};
use crate::threshold::Threshold;

/// `alpha_interp`: the number of samples (in units of `D^2`) below which ridgeless training (`lambda -> 0+`)
/// drives the train error to zero and the response `V` to infinity.
///
/// With `s-bar = (s* + d Z)_+` and `D(d)` its degrees of freedom, `d` solves
///
/// ```text
/// d^2 D(d) = Q0 - 2 M(d) + Q(d) + Delta/2,    alpha_interp = D(d)/(2 K')
/// ```
///
/// In cross-attention no constraint helps to find weights that interpolate, and the threshold is that of counting, `alpha_interp = 1/K'`: the test error diverges
/// there as `lambda -> 0`.
///
/// The result is exact to quadrature for every invertible activation, whose train error vanishes where the
/// logits that it sees are those of the label. It does not depend on nodes or other options.
/// The result is `None` at `Delta = 0`, where the train error vanishes at every `alpha` and the threshold is
/// degenerate. It is also `None` if the equation has no root in double precision.
///
/// # Errors
/// [`Error::InvalidParameter`] for an activation that is not invertible; [`Error::MissingField`] for a model
/// without a teacher.
pub fn alpha_interp(model: &Model) -> Result<Option<Threshold>, Error> {
    alpha_interp_of(model, Parametrisation::Factorised)
}

/// [`alpha_interp`] of any parametrisation. Direct training has no constraint at all, so that its threshold is that of counting, in
/// tied attention `alpha_interp = 1/(2K')`: there are `K' alpha D^2` equations for `D^2/2` unknowns. In cross-attention it is that of factors. The test error
/// diverges there as `lambda -> 0`.
///
/// # Errors
/// The errors of [`alpha_interp`].
pub fn alpha_interp_of(model: &Model, parametrisation: Parametrisation) -> Result<Option<Threshold>, Error> {
    model.require_invertible()?;
    let teacher = model.teacher_spectrum()?;
    if model.delta() <= 0.0 {
        return Ok(None);
    }
    if model.attention() == Attention::Cross || parametrisation == Parametrisation::Direct {
        let equations = model.attention().logit_variance() * model.observed_coordinates();
        return Ok(Some(Threshold::exact(1.0 / equations)));
    }
    // In units of the noise the equation is D - risk = (Delta/2)/d^2. It is searched in ln d.
    let balance = |log_d: f64| {
        let d = log_d.exp();
        let denoised = teacher.denoise(1.0 / d, 0.0);
        d * d * (denoised.response - denoised.risk) - 0.5 * model.delta()
    };
    // The left side grows from 0, like d for large d. The search starts where the noise is of the size of the
    // teacher.
    let mut low = 0.5 * (0.5 * model.delta() + teacher.second_moment()).ln();
    let mut high = low;
    for _ in 0..60 {
        if balance(low) < 0.0 {
            break;
        }
        low -= 2.0;
    }
    for _ in 0..60 {
        if balance(high) > 0.0 {
            break;
        }
        high += 2.0;
    }
    let (a, b) = (End { x: low, f: balance(low) }, End { x: high, f: balance(high) });
    if !(a.f < 0.0 && b.f > 0.0) {
        return Ok(None);
    }
    let root = bracketed(a, b, 1e-15, 1.0, balance);
    let threshold = teacher.denoise((-root).exp(), 0.0).response / (2.0 * model.observed_coordinates());
    Ok(Some(threshold).filter(|threshold| threshold.is_finite()).map(Threshold::exact))
}
