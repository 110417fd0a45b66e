//! Batches of samples with sizes known at run time: coordinates and logits, sample after sample.

use crate::channel::general::CoordinateBasis;

/// The numbers of consecutive nodes in the given columns, node after node.
pub(super) fn gather(columns: &[Vec<f64>], first: usize, size: usize) -> Vec<f64> {
    (first..first + size).flat_map(|node| columns.iter().map(move |column| column[node])).collect()
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

/// `a x + b y`.
pub(super) fn combine(x: &[f64], y: &[f64], a: f64, b: f64) -> Vec<f64> {
    x.iter().zip(y).map(|(x, y)| a * x + b * y).collect()
}
