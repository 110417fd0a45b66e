//! Products and distances of short vectors, and the Cholesky factor of small matrices.

/// The scalar product. It has four partial sums, so that the loop compiles to vector instructions.
pub(super) fn dot(x: &[f64], y: &[f64]) -> f64 {
    let ((x, x_rest), (y, y_rest)) = (x.as_chunks::<4>(), y.as_chunks::<4>());
    let mut sums = [0.0; 4];
    for (x, y) in x.iter().zip(y) {
        for i in 0..4 {
            sums[i] += x[i] * y[i];
        }
    }
    let rest: f64 = x_rest.iter().zip(y_rest).map(|(x, y)| x * y).sum();
    (sums[0] + sums[1]) + (sums[2] + sums[3]) + rest
}

pub(super) fn distance2(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| (x - y) * (x - y)).sum()
}

/// Writes the lower Cholesky factor of `matrix + damping`, with the inverse of its diagonal in place of the
/// diagonal. The result is false if the matrix is not positive definite.
pub(super) fn cholesky(matrix: &[f64], damping: f64, factor: &mut [f64], n: usize) -> bool {
    for i in 0..n {
        for j in 0..=i {
            let sum = matrix[i * n + j] - dot(&factor[i * n..i * n + j], &factor[j * n..j * n + j]);
            if i == j {
                let pivot = sum + damping;
                if !(pivot > 1e-14 && pivot.is_finite()) {
                    return false;
                }
                factor[i * n + i] = 1.0 / pivot.sqrt();
            } else {
                factor[i * n + j] = sum * factor[j * n + j];
            }
        }
    }
    true
}

/// Replaces `b` by the solution `x` of `L L^T x = b` for a factor made by [`cholesky`].
pub(super) fn solve(factor: &[f64], x: &mut [f64]) {
    let n = x.len();
    for i in 0..n {
        let sum = x[i] - dot(&factor[i * n..i * n + i], &x[..i]);
        x[i] = sum * factor[i * n + i];
    }
    for i in (0..n).rev() {
        let sum: f64 = x[i] - (i + 1..n).map(|k| factor[k * n + i] * x[k]).sum::<f64>();
        x[i] = sum * factor[i * n + i];
    }
}

/// The inverse of a symmetric positive definite matrix, or `None` if the matrix is not.
pub(crate) fn inverse(matrix: &[f64], n: usize) -> Option<Vec<f64>> {
    let mut factor = vec![0.0; n * n];
    if !cholesky(matrix, 0.0, &mut factor, n) {
        return None;
    }
    let mut columns = vec![0.0; n * n];
    for (j, column) in columns.chunks_exact_mut(n).enumerate() {
        column[j] = 1.0;
        solve(&factor, column);
    }
    Some(columns)
}
