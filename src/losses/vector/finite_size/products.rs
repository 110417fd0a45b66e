//! Products of small matrices, whose rows follow each other.

/// Adds `factor x y` to `target`, for square matrices with `n` rows.
pub(super) fn add_product(n: usize, factor: f64, x: &[f64], y: &[f64], target: &mut [f64]) {
    for (row, target) in x.chunks_exact(n).zip(target.chunks_exact_mut(n)) {
        for (x, other) in row.iter().zip(y.chunks_exact(n)) {
            for (target, y) in target.iter_mut().zip(other) {
                *target += factor * x * y;
            }
        }
    }
}

/// `x^T A y`.
pub(super) fn form(matrix: &[f64], x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(matrix.chunks_exact(y.len())).map(|(x, row)| x * inner(row, y)).sum()
}

/// The scalar product of two lists.
pub(super) fn inner(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

/// Adds `factor (x y^T + y x^T)` to `target`.
pub(super) fn add_both(factor: f64, x: &[f64], y: &[f64], target: &mut [f64]) {
    let n = x.len();
    for a in 0..n {
        for b in 0..n {
            target[a * n + b] += factor * (x[a] * y[b] + y[a] * x[b]);
        }
    }
}

/// Adds `factor I` to a square matrix with `n` rows.
pub(super) fn add_identity(n: usize, factor: f64, target: &mut [f64]) {
    target.iter_mut().step_by(n + 1).for_each(|x| *x += factor);
}
