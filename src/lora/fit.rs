//! Whether the layer, the frozen weights, the training and the options of fine-tuning fit together.

use super::training::Finetuning;
use crate::attention::Attention;
use crate::error::Error;
use crate::frozen::Frozen;
use crate::model::Model;
use crate::options::Options;

/// Checks that the inputs of a solve fit together. The ridge is checked elsewhere.
pub(super) fn check(
    model: &Model,
    frozen: &Frozen,
    training: &Finetuning,
    options: &Options,
) -> Result<(), Error> {
    require_same_attention(model, frozen)?;
    training.check_attention(model.attention())?;
    training.sequences().check_response(frozen)?;
    training.workload(model.attention()).check(model, options)
}

/// Checks that the frozen weights are those of the attention of the layer.
pub(super) fn require_same_attention(model: &Model, frozen: &Frozen) -> Result<(), Error> {
    if model.attention() == frozen.attention() {
        return Ok(());
    }
    let allowed = format!("{}, like model.attention", model.attention().name());
    Err(Error::invalid("frozen.attention", frozen.attention().name(), allowed))
}

/// Refuses cross-attention, for what is defined or solved for a single factor only.
pub(super) fn require_tied(model: &Model, purpose: &'static str) -> Result<(), Error> {
    match model.attention() {
        Attention::Tied => Ok(()),
        Attention::Cross => Err(Error::Conflict { field: "model.attention = cross", with: purpose }),
    }
}
