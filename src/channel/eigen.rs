//! Eigenvalues of a small symmetric matrix, and the components of one vector in its eigenbasis.

/// Eigenvalues in decreasing order, and the components of `vector` in that eigenbasis, with signs chosen
/// non-negative.
///
/// The method is cyclic Jacobi on fixed-size arrays. The crate has its own implementation for two reasons.
/// One rotation diagonalises the 2 x 2 case exactly, which is the most frequent case (once per node). The
/// eigenvectors themselves are never needed, because the rotations are applied directly to the vector.
pub(crate) fn eigenbasis<const T: usize>(mut a: [[f64; T]; T], mut vector: [f64; T]) -> ([f64; T], [f64; T]) {
    const MAX_SWEEPS: usize = 30;
    for _ in 0..MAX_SWEEPS {
        let mut rotated = false;
        for p in 0..T {
            for q in p + 1..T {
                if a[p][q].abs() > 1e-17 * (a[p][p].abs() + a[q][q].abs()) {
                    rotated = true;
                    rotate(&mut a, &mut vector, p, q);
                }
            }
        }
        if !rotated {
            break;
        }
    }
    let mut order: [usize; T] = std::array::from_fn(|i| i);
    order.sort_unstable_by(|&i, &j| a[j][j].total_cmp(&a[i][i]));
    (order.map(|i| a[i][i]), order.map(|i| vector[i].abs()))
}

/// The rotation in the plane `(p, q)` that annuls `a[p][q]`.
fn rotate<const T: usize>(a: &mut [[f64; T]; T], vector: &mut [f64; T], p: usize, q: usize) {
    let theta = 0.5 * (a[q][q] - a[p][p]) / a[p][q];
    let tangent = 1.0_f64.copysign(theta) / (theta.abs() + (theta * theta + 1.0).sqrt());
    let cosine = 1.0 / (tangent * tangent + 1.0).sqrt();
    let sine = tangent * cosine;
    let shift = tangent * a[p][q];
    a[p][p] -= shift;
    a[q][q] += shift;
    a[p][q] = 0.0;
    a[q][p] = 0.0;
    for k in 0..T {
        if k != p && k != q {
            let (kp, kq) = (a[k][p], a[k][q]);
            a[k][p] = cosine * kp - sine * kq;
            a[k][q] = sine * kp + cosine * kq;
            a[p][k] = a[k][p];
            a[q][k] = a[k][q];
        }
    }
    let (vp, vq) = (vector[p], vector[q]);
    vector[p] = cosine * vp - sine * vq;
    vector[q] = sine * vp + cosine * vq;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::symmetric_from_coordinates;
    use nalgebra::{SMatrix, SVector, SymmetricEigen};

    #[test]
    fn agrees_with_nalgebra() {
        for seed in 0..50 {
            let coordinates: Vec<f64> = (0..15).map(|k| (1.3 * f64::from(k * 7 + seed * 31)).sin()).collect();
            let a = symmetric_from_coordinates::<5>(|k| coordinates[k]);
            let vector = [0.3, -1.2, 0.5, 0.9, -0.1];
            let (values, components) = eigenbasis(a, vector);
            let eigen = SymmetricEigen::new(SMatrix::<f64, 5, 5>::from_fn(|i, j| a[i][j]));
            let mut expected: Vec<(f64, f64)> = (0..5)
                .map(|i| {
                    (eigen.eigenvalues[i], eigen.eigenvectors.column(i).dot(&SVector::from(vector)).abs())
                })
                .collect();
            expected.sort_by(|x, y| y.0.total_cmp(&x.0));
            for i in 0..5 {
                approx::assert_relative_eq!(values[i], expected[i].0, epsilon = 1e-13);
                approx::assert_relative_eq!(components[i], expected[i].1, epsilon = 1e-12);
            }
        }
    }

    #[test]
    fn diagonal_and_zero_matrices() {
        assert_eq!(eigenbasis([[1.0, 0.0], [0.0, 2.0]], [3.0, -4.0]), ([2.0, 1.0], [4.0, 3.0]));
        assert!(eigenbasis([[0.0; 3]; 3], [1.0, 0.0, 0.0]).0.iter().all(|value| value.abs() <= 0.0));
    }
}
