//! The layers and frozen weights that fine-tuning with one factor can take.

use crate::attention::Attention;
use crate::error::Error;
use crate::frozen::Frozen;
use crate::model::Model;

/// Checks that the layer and the frozen weights are those of tied attention, whose update `w w^T` has a single factor.
pub(super) fn check(model: &Model, frozen: &Frozen) -> Result<(), Error> {
    let allowed = "tied, for fine-tuning with a single factor";
    for (field, attention) in
        [("model.attention", model.attention()), ("frozen.attention", frozen.attention())]
    {
        if attention != Attention::Tied {
            return Err(Error::invalid(field, attention.name(), allowed));
        }
    }
    Ok(())
}
