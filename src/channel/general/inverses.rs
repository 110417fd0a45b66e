//! Inverses of many symmetric positive definite matrices of the same size, which is known at run time.

use crate::lanes::{LANES, Lane, wide};

const ZERO: Lane = [0.0; LANES];

/// The inverses of `n x n` matrices that follow each other. A matrix that is not positive definite gives NaN.
pub(crate) fn inverses(matrices: &[f64], n: usize) -> Vec<f64> {
    let mut all = vec![0.0; matrices.len()];
    let size = n * n;
    let mut factor = vec![ZERO; size];
    let mut inverse = vec![ZERO; size];
    for (from, to) in matrices.chunks(LANES * size).zip(all.chunks_mut(LANES * size)) {
        let last = from.len() / size - 1;
        for l in 0..LANES {
            // The last block repeats its last matrix.
            let own = &from[l.min(last) * size..];
            factor.iter_mut().zip(own).for_each(|(lane, x)| lane[l] = *x);
        }
        wide(
            #[inline(always)]
            || invert(&mut factor, &mut inverse, n),
        );
        for (l, own) in to.chunks_exact_mut(size).enumerate() {
            own.iter_mut().zip(&factor).for_each(|(x, lane)| *x = lane[l]);
        }
    }
    all
}

/// Replaces `matrix` by its inverse. `triangle` is room for the inverse of the Cholesky factor.
#[inline(always)]
fn invert(matrix: &mut [Lane], triangle: &mut [Lane], n: usize) {
    // The Cholesky factor replaces the lower triangle, with the inverse of its diagonal in place of the diagonal.
    for i in 0..n {
        for j in 0..=i {
            let mut sum = matrix[i * n + j];
            for k in 0..j {
                let (x, y) = (matrix[i * n + k], matrix[j * n + k]);
                for l in 0..LANES {
                    sum[l] -= x[l] * y[l];
                }
            }
            let diagonal = matrix[j * n + j];
            for l in 0..LANES {
                matrix[i * n + j][l] = if i == j { 1.0 / sum[l].sqrt() } else { sum[l] * diagonal[l] };
            }
        }
    }
    for j in 0..n {
        triangle[j * n + j] = matrix[j * n + j];
        for i in j + 1..n {
            let mut sum = ZERO;
            for k in j..i {
                let (x, y) = (matrix[i * n + k], triangle[k * n + j]);
                for l in 0..LANES {
                    sum[l] -= x[l] * y[l];
                }
            }
            let diagonal = matrix[i * n + i];
            for l in 0..LANES {
                triangle[i * n + j][l] = sum[l] * diagonal[l];
            }
        }
    }
    for i in 0..n {
        for j in 0..=i {
            let mut sum = ZERO;
            for k in i..n {
                let (x, y) = (triangle[k * n + i], triangle[k * n + j]);
                for l in 0..LANES {
                    sum[l] += x[l] * y[l];
                }
            }
            matrix[i * n + j] = sum;
            matrix[j * n + i] = sum;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inverses_are_inverse() {
        for n in 1..=7 {
            let entry = |m: usize, i: usize, j: usize| {
                ((m + (i + 1) * (j + 1)) as f64).sin() + if i == j { 2.0 * n as f64 } else { 0.0 }
            };
            let count = LANES + 3;
            let all: Vec<f64> = (0..count * n * n).map(|k| entry(k / n / n, k / n % n, k % n)).collect();
            let inverse = inverses(&all, n);
            for m in 0..count {
                for i in 0..n {
                    for j in 0..n {
                        let product: f64 =
                            (0..n).map(|k| entry(m, i, k) * inverse[(m * n + k) * n + j]).sum();
                        approx::assert_abs_diff_eq!(product, if i == j { 1.0 } else { 0.0 }, epsilon = 1e-12);
                    }
                }
            }
        }
        assert!(inverses(&[1.0, 2.0, 2.0, 1.0], 2).iter().all(|x| x.is_nan()));
    }
}
