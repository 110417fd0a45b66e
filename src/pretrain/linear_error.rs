//! The error of linear attention, whatever the kind of attention.

use crate::attention::Attention;
use crate::model::Model;
use crate::observables;

/// The error on new sequences, given `Q0 - 2M + Q + Delta/c` (without the noise for noiseless labels), with `c` the variance of a
/// logit in units of `Q`.
pub(super) fn linear_error(model: &Model, noisy_mse: f64) -> f64 {
    match model.attention() {
        Attention::Tied => observables::linear_pretraining_error(model.tokens(), noisy_mse),
        Attention::Cross => observables::linear_cross_pretraining_error(noisy_mse),
    }
}
