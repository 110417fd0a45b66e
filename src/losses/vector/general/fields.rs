//! The frozen logits and the label's logits of a batch of nodes, drawn from their joint law, in coordinates.

use crate::fields::{FieldColumns, JointLaw};
use crate::losses::batch::gather;

/// The coordinates of the frozen logits of new sequences, before recalibration.
pub(crate) fn frozen_coordinates(
    law: &JointLaw,
    columns: &FieldColumns,
    first: usize,
    size: usize,
) -> Vec<f64> {
    gather(columns.logits().frozen, first, size).into_iter().map(|x| law.frozen * x).collect()
}

/// The coordinates of the label's logits, given those of the frozen logits.
pub(crate) fn label_coordinates(
    law: &JointLaw,
    columns: &FieldColumns,
    first: usize,
    frozen: &[f64],
) -> Vec<f64> {
    let size = frozen.len() / columns.logits().label.len().max(1);
    let normals = gather(columns.logits().label, first, size);
    frozen.iter().zip(normals).map(|(z, x)| law.label(*z, x)).collect()
}
