//! The frozen logits and the label's logits of a batch of nodes, drawn from their joint law, in coordinates.

use crate::channel::general::CoordinateBasis;
use crate::fields::{FieldColumns, JointLaw};

/// The numbers of consecutive nodes in the given columns, node after node.
pub(super) fn gather(columns: &[Vec<f64>], first: usize, size: usize) -> Vec<f64> {
    (first..first + size).flat_map(|node| columns.iter().map(move |column| column[node])).collect()
}

/// The coordinates of the frozen logits of new sequences, before recalibration.
pub(super) fn frozen_coordinates(
    law: &JointLaw,
    columns: &FieldColumns,
    first: usize,
    size: usize,
) -> Vec<f64> {
    gather(columns.logits().frozen, first, size).into_iter().map(|x| law.frozen * x).collect()
}

/// The coordinates of the label's logits, given those of the frozen logits.
pub(super) fn label_coordinates(
    law: &JointLaw,
    columns: &FieldColumns,
    first: usize,
    frozen: &[f64],
) -> Vec<f64> {
    let size = frozen.len() / columns.logits().label.len().max(1);
    let normals = gather(columns.logits().label, first, size);
    frozen.iter().zip(normals).map(|(z, x)| law.label(*z, x)).collect()
}

/// The matrices with the given coordinates, sample after sample, times `factor`.
pub(super) fn matrices(basis: &CoordinateBasis, tokens: usize, coordinates: &[f64], factor: f64) -> Vec<f64> {
    let square = tokens * tokens;
    let seen = basis.dimension();
    let mut matrices = vec![0.0; coordinates.len() / seen * square];
    for (x, matrix) in coordinates.chunks_exact(seen).zip(matrices.chunks_exact_mut(square)) {
        basis.add(x.iter().copied(), factor, matrix);
    }
    matrices
}
