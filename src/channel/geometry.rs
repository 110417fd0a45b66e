//! The geometry of the symmetric `T x T` logits: orthonormal coordinates, with and without the direction
//! `u = 11^T/T`.

use std::f64::consts::{FRAC_1_SQRT_2, SQRT_2};

use crate::attention::dimension;

/// The symmetric matrix with the given orthonormal coordinates: first the diagonal, then the rows of the
/// upper triangle.
pub(crate) fn symmetric_from_coordinates<const T: usize>(coordinate: impl Fn(usize) -> f64) -> [[f64; T]; T] {
    let mut matrix = [[0.0; T]; T];
    let mut next = T;
    for a in 0..T {
        matrix[a][a] = coordinate(a);
        for b in a + 1..T {
            matrix[a][b] = FRAC_1_SQRT_2 * coordinate(next);
            matrix[b][a] = matrix[a][b];
            next += 1;
        }
    }
    matrix
}

/// Coordinate `k` of `u = 11^T/T`, the direction that softmax cannot see.
pub(crate) fn flat_direction(tokens: usize, k: usize) -> f64 {
    if k < tokens { 1.0 / tokens as f64 } else { SQRT_2 / tokens as f64 }
}

/// The symmetric matrix orthogonal to `u` with the given `K - 1` coordinates, in an orthonormal basis of the
/// subspace orthogonal to `u`. The basis is the image of all coordinate axes but the first under the
/// reflection that exchanges `u` with the first axis.
pub(crate) fn centred_from_coordinates<const T: usize>(coordinate: impl Fn(usize) -> f64) -> [[f64; T]; T] {
    // The reflection is 1 - n n^T / (1 - u_0) with n = e_0 - u.
    let along: f64 = (1..dimension(T)).map(|k| flat_direction(T, k) * coordinate(k - 1)).sum();
    let scale = along / (1.0 - flat_direction(T, 0));
    symmetric_from_coordinates(
        |k| {
            if k == 0 { along } else { coordinate(k - 1) - scale * flat_direction(T, k) }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn centred_coordinates_are_orthonormal_and_orthogonal_to_u() {
        let matrix = |k: usize| centred_from_coordinates::<3>(|j| if j == k { 1.0 } else { 0.0 });
        for i in 0..5 {
            let a = matrix(i);
            assert!(a.iter().flatten().sum::<f64>().abs() < 1e-15);
            for j in 0..5 {
                let b = matrix(j);
                let product: f64 = a.iter().flatten().zip(b.iter().flatten()).map(|(x, y)| x * y).sum();
                approx::assert_relative_eq!(product, if i == j { 1.0 } else { 0.0 }, epsilon = 1e-15);
            }
        }
    }

    #[test]
    fn coordinates_are_orthonormal() {
        // The Frobenius norm of the matrix is the Euclidean norm of the coordinates, for any coordinates.
        let coordinates: Vec<f64> = (0..dimension(4)).map(|k| (k as f64 * 1.7).sin()).collect();
        let matrix = symmetric_from_coordinates::<4>(|k| coordinates[k]);
        let frobenius: f64 = matrix.iter().flatten().map(|x| x * x).sum();
        let euclidean: f64 = coordinates.iter().map(|x| x * x).sum();
        approx::assert_relative_eq!(frobenius, euclidean, max_relative = 1e-14);
        assert!((0..4).all(|a| (0..4).all(|b| matrix[a][b].to_bits() == matrix[b][a].to_bits())));
    }
}
