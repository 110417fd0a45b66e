//! Blocks of samples with a number of tokens known at compile time.

use crate::channel;
use crate::lanes::{LANES, Lane};

/// The matrices orthogonal to `u` that have the standard normals of consecutive nodes as coordinates.
pub(super) fn centred_matrices<const T: usize>(columns: &[Vec<f64>], first: usize) -> [[Lane; T]; T] {
    let mut block = [[[0.0; LANES]; T]; T];
    for l in 0..LANES {
        let matrix = channel::centred_from_coordinates::<T>(|k| columns[k][first + l]);
        for a in 0..T {
            for b in 0..T {
                block[a][b][l] = matrix[a][b];
            }
        }
    }
    block
}
