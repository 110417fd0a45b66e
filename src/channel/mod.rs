//! What both stages share about the losses: the geometry of the `T x T` logits.
//!
//! The logits live in `Sym(T)`, symmetric matrices with the Frobenius product. Orthonormal coordinates are
//! `h_aa` and `sqrt(2) h_ab` (`a < b`), `K = T(T+1)/2` of them; in these coordinates `h(S) ~ N(0, 2 Q I_K)`
//! and the label noise `sqrt(Delta) xi ~ N(0, Delta I_K)`.

use std::f64::consts::FRAC_1_SQRT_2;

/// Dimension `K = T(T+1)/2` of `Sym(T)`.
#[must_use]
pub const fn dimension(tokens: usize) -> usize {
    tokens.saturating_mul(tokens.saturating_add(1)) / 2
}

/// The symmetric matrix with the given orthonormal coordinates: first the diagonal, then the rows of the upper triangle.
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

#[cfg(test)]
mod tests {
    use super::*;

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
