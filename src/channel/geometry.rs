//! The geometry of the symmetric `T x T` logits: orthonormal coordinates, with and without the direction
//! `u = 11^T/T`.

use std::f64::consts::{FRAC_1_SQRT_2, SQRT_2};

use crate::attention::dimension;

/// The symmetric matrices with the given orthonormal coordinates: first the diagonal, then the rows of the
/// upper triangle.
#[inline(always)]
pub(crate) fn symmetric_matrices<const T: usize, const L: usize>(
    coordinate: impl Fn(usize) -> [f64; L],
) -> [[[f64; L]; T]; T] {
    let mut matrix = [[[0.0; L]; T]; T];
    let mut next = T;
    for a in 0..T {
        matrix[a][a] = coordinate(a);
        for b in a + 1..T {
            let entry = coordinate(next);
            for l in 0..L {
                matrix[a][b][l] = FRAC_1_SQRT_2 * entry[l];
            }
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

/// The symmetric matrices orthogonal to `u` with the given `K - 1` coordinates, in an orthonormal basis of the
/// subspace orthogonal to `u`. The basis is the image of all coordinate axes but the first under the
/// reflection that exchanges `u` with the first axis.
#[inline(always)]
pub(crate) fn centred_matrices<const T: usize, const L: usize>(
    coordinate: impl Fn(usize) -> [f64; L],
) -> [[[f64; L]; T]; T] {
    // The reflection is 1 - n n^T / (1 - u_0) with n = e_0 - u.
    let mut along = [0.0; L];
    for k in 1..dimension(T) {
        let (own, flat) = (coordinate(k - 1), flat_direction(T, k));
        for l in 0..L {
            along[l] += flat * own[l];
        }
    }
    let scale = 1.0 / (1.0 - flat_direction(T, 0));
    symmetric_matrices(
        #[inline(always)]
        |k| {
            if k == 0 {
                return along;
            }
            let (mut image, flat) = (coordinate(k - 1), flat_direction(T, k));
            for l in 0..L {
                image[l] -= scale * along[l] * flat;
            }
            image
        },
    )
}

/// One matrix of [`symmetric_matrices`].
pub(crate) fn symmetric_from_coordinates<const T: usize>(coordinate: impl Fn(usize) -> f64) -> [[f64; T]; T] {
    symmetric_matrices(|k| [coordinate(k)]).map(|row| row.map(|[x]| x))
}

/// One matrix of [`centred_matrices`].
#[cfg(test)]
pub(crate) fn centred_from_coordinates<const T: usize>(coordinate: impl Fn(usize) -> f64) -> [[f64; T]; T] {
    centred_matrices(|k| [coordinate(k)]).map(|row| row.map(|[x]| x))
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
