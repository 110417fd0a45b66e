//! Eigenvalues and eigenvectors of a small symmetric matrix whose size is known at run time.

/// Eigenvalues, and the matrix whose columns are the eigenvectors.
pub(super) struct Eigen {
    pub(super) values: Vec<f64>,
    pub(super) vectors: Vec<f64>,
}

impl Eigen {
    /// Cyclic Jacobi rotations. The matrices are those of the starts of a search, so that rounding hardly matters.
    pub(super) fn new(mut a: Vec<f64>, n: usize) -> Self {
        const MAX_SWEEPS: usize = 12;
        let mut vectors = vec![0.0; n * n];
        vectors.iter_mut().step_by(n + 1).for_each(|x| *x = 1.0);
        for _ in 0..MAX_SWEEPS {
            let mut rotated = false;
            for p in 0..n {
                for q in p + 1..n {
                    let off = a[p * n + q];
                    if off.abs() > 1e-10 * (a[p * n + p].abs() + a[q * n + q].abs()) {
                        rotated = true;
                        let theta = 0.5 * (a[q * n + q] - a[p * n + p]) / off;
                        let tangent = 1.0_f64.copysign(theta) / (theta.abs() + (theta * theta + 1.0).sqrt());
                        let cosine = 1.0 / (tangent * tangent + 1.0).sqrt();
                        rotate(&mut a, &mut vectors, n, [p, q], [cosine, tangent * cosine]);
                    }
                }
            }
            if !rotated {
                break;
            }
        }
        Self { values: a.into_iter().step_by(n + 1).collect(), vectors }
    }

    /// The numbers of the eigenvalues, the largest first.
    pub(super) fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.values.len()).collect();
        order.sort_unstable_by(|i, j| self.values[*j].total_cmp(&self.values[*i]));
        order
    }
}

/// Rotates the plane `(p, q)` of the matrix and of the eigenvectors.
fn rotate(a: &mut [f64], vectors: &mut [f64], n: usize, [p, q]: [usize; 2], [cosine, sine]: [f64; 2]) {
    let turn = |x: &mut [f64], i: usize, j: usize| {
        (x[i], x[j]) = (cosine * x[i] - sine * x[j], sine * x[i] + cosine * x[j]);
    };
    for k in 0..n {
        turn(a, k * n + p, k * n + q);
        turn(vectors, k * n + p, k * n + q);
    }
    for k in 0..n {
        turn(a, p * n + k, q * n + k);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eigenvectors_diagonalise() {
        for n in 1..=8 {
            let entry = |i: usize, j: usize| (1.3 * ((i + 1) * (j + 1)) as f64 + (i + j) as f64).sin();
            let matrix: Vec<f64> = (0..n * n).map(|k| entry(k / n, k % n)).collect();
            let eigen = Eigen::new(matrix.clone(), n);
            for i in 0..n {
                for a in 0..n {
                    let image: f64 = (0..n).map(|b| matrix[a * n + b] * eigen.vectors[b * n + i]).sum();
                    approx::assert_abs_diff_eq!(
                        image,
                        eigen.values[i] * eigen.vectors[a * n + i],
                        epsilon = 1e-9
                    );
                }
            }
            let order = eigen.order();
            assert!(order.windows(2).all(|pair| eigen.values[pair[0]] >= eigen.values[pair[1]]));
        }
    }
}
