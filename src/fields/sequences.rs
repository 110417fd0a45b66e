//! Which sequences fine-tuning is trained on.

use serde::{Deserialize, Serialize};

use super::selection::{Selection, SelectionFields};
use crate::error::Error;
use crate::frozen::Frozen;

/// The sequences that fine-tuning is trained on. The test law is always that of new sequences.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Sequences {
    /// New sequences.
    #[default]
    Fresh,
    /// A subset of the pre-training sequences, with the same label noise.
    Reused,
    /// Sequences selected among new ones by a score of the frozen logits.
    Active(Selection),
}

impl Sequences {
    /// Checks that the response of the frozen weights is known if fine-tuning on these sequences needs it.
    pub(crate) fn check_response(&self, frozen: &Frozen) -> Result<(), Error> {
        match (self, frozen.v()) {
            (Self::Reused, None) => Err(Error::MissingField {
                field: "frozen.v",
                reason: "reused sequences need the response of the pre-training (0 if it did not see them)",
            }),
            _ => Ok(()),
        }
    }
}

/// The sequences that fine-tuning is trained on. The test law is always that of new sequences.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case", rename = "Sequences")]
pub(crate) enum SequencesFields {
    /// New sequences.
    #[default]
    Fresh,
    /// A subset of the pre-training sequences, with the same label noise.
    Reused,
    /// Sequences selected among new ones by a score of the frozen logits.
    #[cfg_attr(feature = "scenario", serde(deserialize_with = "crate::json::object"))]
    Active(SelectionFields),
}

impl TryFrom<SequencesFields> for Sequences {
    type Error = Error;

    fn try_from(fields: SequencesFields) -> Result<Self, Error> {
        Ok(match fields {
            SequencesFields::Fresh => Self::Fresh,
            SequencesFields::Reused => Self::Reused,
            SequencesFields::Active(selection) => Self::Active(selection.try_into()?),
        })
    }
}

/// What the fields of fine-tuning depend on besides the layer and its frozen weights.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FieldParameters {
    pub(crate) sequences: Sequences,
    /// The factor on the frozen logits.
    pub(crate) beta: f64,
    /// The variance of the true perturbation, which is the unit of the label's logits.
    pub(crate) q0: f64,
}
