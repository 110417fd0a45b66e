//! Eigenvalues of small symmetric matrices, and the components of some vectors in their eigenbases.

/// Eigenvalues in decreasing order, and the components of `vector` in that eigenbasis, with signs chosen
/// non-negative.
pub(crate) fn eigenbasis<const T: usize>(a: [[f64; T]; T], vector: [f64; T]) -> ([f64; T], [f64; T]) {
    let mut a = a.map(|row| row.map(|x| [x]));
    let mut components = [vector.map(|x| [x])];
    let values = eigenbases(&mut a, &mut components);
    (values.map(|[x]| x), components[0].map(|[x]| x.abs()))
}

/// The eigenvalues of `L` matrices in decreasing order. On return, `vectors` are components in the eigenbases, whose
/// signs are arbitrary, but the same for all vectors. The matrices are destroyed.
///
/// The method is cyclic Jacobi on fixed-size arrays. The crate has its own implementation for three reasons.
/// One rotation diagonalises the 2 x 2 case exactly, which is the most frequent case (once per node). The
/// eigenvectors themselves are never needed, because the rotations are applied directly to the vectors. The loops over
/// `L` matrices compile to vector instructions.
#[inline(always)]
pub(crate) fn eigenbases<const T: usize, const V: usize, const L: usize>(
    a: &mut [[[f64; L]; T]; T],
    vectors: &mut [[[f64; L]; T]; V],
) -> [[f64; L]; T] {
    const MAX_SWEEPS: usize = 30;
    for _ in 0..MAX_SWEEPS {
        let mut rotated = false;
        for p in 0..T {
            for q in p + 1..T {
                rotated |= rotate(a, vectors, p, q);
            }
        }
        if !rotated {
            break;
        }
    }
    let mut values: [[f64; L]; T] = std::array::from_fn(|i| a[i][i]);
    for i in 0..T {
        for j in i + 1..T {
            for l in 0..L {
                let ordered = values[i][l] >= values[j][l];
                let exchanged = |x: f64, y: f64| if ordered { (x, y) } else { (y, x) };
                (values[i][l], values[j][l]) = exchanged(values[i][l], values[j][l]);
                for vector in &mut *vectors {
                    (vector[i][l], vector[j][l]) = exchanged(vector[i][l], vector[j][l]);
                }
            }
        }
    }
    values
}

/// The rotations in the plane `(p, q)` that annul `a[p][q]`. Returns whether there was anything to annul.
#[inline(always)]
fn rotate<const T: usize, const V: usize, const L: usize>(
    a: &mut [[[f64; L]; T]; T],
    vectors: &mut [[[f64; L]; T]; V],
    p: usize,
    q: usize,
) -> bool {
    let (mut cosine, mut sine) = ([1.0; L], [0.0; L]);
    let mut rotated = false;
    for l in 0..L {
        let (pp, qq, pq) = (a[p][p][l], a[q][q][l], a[p][q][l]);
        let rotates = pq.abs() > 1e-17 * (pp.abs() + qq.abs());
        rotated |= rotates;
        let theta = 0.5 * (qq - pp) / pq;
        let tangent = 1.0_f64.copysign(theta) / (theta.abs() + (theta * theta + 1.0).sqrt());
        let tangent = if rotates { tangent } else { 0.0 };
        cosine[l] = 1.0 / (tangent * tangent + 1.0).sqrt();
        sine[l] = tangent * cosine[l];
        let shift = tangent * pq;
        a[p][p][l] = pp - shift;
        a[q][q][l] = qq + shift;
        a[p][q][l] = 0.0;
        a[q][p][l] = 0.0;
    }
    for k in 0..T {
        if k != p && k != q {
            for l in 0..L {
                let (kp, kq) = (a[k][p][l], a[k][q][l]);
                a[k][p][l] = cosine[l] * kp - sine[l] * kq;
                a[k][q][l] = sine[l] * kp + cosine[l] * kq;
                a[p][k][l] = a[k][p][l];
                a[q][k][l] = a[k][q][l];
            }
        }
    }
    for vector in vectors {
        for l in 0..L {
            let (vp, vq) = (vector[p][l], vector[q][l]);
            vector[p][l] = cosine[l] * vp - sine[l] * vq;
            vector[q][l] = sine[l] * vp + cosine[l] * vq;
        }
    }
    rotated
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
    fn matrices_of_a_block_have_their_own_eigenbases() {
        let matrix = |l: usize| {
            // The last matrix is diagonal from the beginning.
            let off = if l == 3 { 0.0 } else { 1.0 };
            symmetric_from_coordinates::<4>(|k| {
                (0.7 * (k * 5 + l * 17) as f64).sin() * if k < 4 { 1.0 } else { off }
            })
        };
        let vectors = [[0.3, -1.2, 0.5, 0.9], [1.0, 0.4, -0.6, 0.2]];
        let mut a =
            std::array::from_fn(|i| std::array::from_fn(|j| std::array::from_fn(|l| matrix(l)[i][j])));
        let mut components = vectors.map(|vector| vector.map(|x| [x; 4]));
        let values: [[f64; 4]; 4] = eigenbases(&mut a, &mut components);
        for l in 0..4 {
            let (alone, first) = eigenbasis(matrix(l), vectors[0]);
            let second = eigenbasis(matrix(l), vectors[1]).1;
            // Their product tells that both vectors have the same signs.
            let form = |i: usize, j: usize| vectors[0][i] * matrix(l)[i][j] * vectors[1][j];
            let expected: f64 = (0..16).map(|k| form(k / 4, k % 4)).sum();
            let found: f64 = (0..4).map(|i| values[i][l] * components[0][i][l] * components[1][i][l]).sum();
            approx::assert_relative_eq!(found, expected, epsilon = 1e-13);
            for i in 0..4 {
                approx::assert_relative_eq!(values[i][l], alone[i], epsilon = 1e-13);
                approx::assert_relative_eq!(components[0][i][l].abs(), first[i], epsilon = 1e-13);
                approx::assert_relative_eq!(components[1][i][l].abs(), second[i], epsilon = 1e-13);
            }
        }
    }

    #[test]
    fn diagonal_and_zero_matrices() {
        assert_eq!(eigenbasis([[1.0, 0.0], [0.0, 2.0]], [3.0, -4.0]), ([2.0, 1.0], [4.0, 3.0]));
        assert!(eigenbasis([[0.0; 3]; 3], [1.0, 0.0, 0.0]).0.iter().all(|value| value.abs() <= 0.0));
    }
}
