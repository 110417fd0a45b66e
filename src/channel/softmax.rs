//! Softmax attention by rows: the squared loss between two attention matrices, and its derivatives in the
//! logits.
//!
//! For logits `h` and label logits `t` in `Sym(T)`, with `P = sigma(h)` and `Y = sigma(t)` the row-wise
//! softmax,
//!
//! ```text
//! l(h) = |sigma(h) - sigma(t)|_F^2 = sum_a |P_a - Y_a|^2
//! ```
//!
//! Row `a` of the loss depends on row `a` of `h` only. With `f = (P - Y) - P.(P - Y)` and `w = P (f + P)`
//! along the row, its gradient is `2 P f`, and its Hessian is a diagonal plus three outer products,
//!
//! ```text
//! 2 [ diag(w) - w P^T - P w^T + |P|^2 P P^T ]
//! ```
//!
//! The loss is flat along `u = 11^T/T`, which adds the same number to all logits.

use crate::lanes;

/// The derivatives of one row of the loss, for `L` samples at once. The gradient is `2 slope`, and the
/// Hessian is `2 (diag(weight) - weight p^T - p weight^T + norm2 p p^T)`.
pub(crate) struct SoftmaxRow<const T: usize, const L: usize> {
    pub(crate) p: [[f64; L]; T],
    pub(crate) slope: [[f64; L]; T],
    pub(crate) weight: [[f64; L]; T],
    pub(crate) norm2: [f64; L],
    pub(crate) loss: [f64; L],
}

/// The softmax of one row of logits, for `L` samples at once. Safe for logits of any finite size.
///
/// The exponentials are relative to the first logit, which saves one of them. Only where another logit is larger by so
/// much that the exponential of the first one vanishes beside it, they are relative to the largest.
#[inline(always)]
pub(crate) fn softmax_row<const T: usize, const L: usize>(logits: &[[f64; L]; T]) -> [[f64; L]; T] {
    const LARGE: f64 = 600.0;
    let mut top = [0.0; L];
    for b in 1..T {
        for l in 0..L {
            let above = logits[b][l] - logits[0][l];
            top[l] = if above > top[l] { above } else { top[l] };
        }
    }
    let mut p = [[0.0; L]; T];
    let (mut shift, mut total) = ([0.0; L], [0.0; L]);
    for l in 0..L {
        let first = if top[l] > LARGE { 0.0 } else { 1.0 };
        shift[l] = if top[l] > LARGE { top[l] } else { 0.0 };
        p[0][l] = first;
        total[l] = first;
    }
    for b in 1..T {
        let mut above = [0.0; L];
        for l in 0..L {
            above[l] = logits[b][l] - logits[0][l] - shift[l];
        }
        p[b] = lanes::exp(&above);
        for l in 0..L {
            total[l] += p[b][l];
        }
    }
    for l in 0..L {
        let scale = 1.0 / total[l];
        for b in 0..T {
            p[b][l] *= scale;
        }
    }
    p
}

impl<const T: usize, const L: usize> SoftmaxRow<T, L> {
    /// The derivatives at the given logits, for the label probabilities `y`.
    #[inline(always)]
    pub(crate) fn new(logits: &[[f64; L]; T], y: &[[f64; L]; T]) -> Self {
        let p = softmax_row(logits);
        let (mut mean, mut norm2, mut loss) = ([0.0; L], [0.0; L], [0.0; L]);
        for b in 0..T {
            for l in 0..L {
                let e = p[b][l] - y[b][l];
                mean[l] += p[b][l] * e;
                norm2[l] += p[b][l] * p[b][l];
                loss[l] += e * e;
            }
        }
        let (mut slope, mut weight) = ([[0.0; L]; T], [[0.0; L]; T]);
        for b in 0..T {
            for l in 0..L {
                slope[b][l] = p[b][l] * (p[b][l] - y[b][l] - mean[l]);
                weight[b][l] = slope[b][l] + p[b][l] * p[b][l];
            }
        }
        Self { p, slope, weight, norm2, loss }
    }

    /// Half the Hessian times a vector.
    #[inline(always)]
    pub(crate) fn half_hessian_times(&self, x: &[[f64; L]; T]) -> [[f64; L]; T] {
        let (mut along_p, mut along_weight) = ([0.0; L], [0.0; L]);
        for b in 0..T {
            for l in 0..L {
                along_p[l] += self.p[b][l] * x[b][l];
                along_weight[l] += self.weight[b][l] * x[b][l];
            }
        }
        let mut product = [[0.0; L]; T];
        for b in 0..T {
            for l in 0..L {
                product[b][l] = self.weight[b][l] * (x[b][l] - along_p[l])
                    + self.p[b][l] * (self.norm2[l] * along_p[l] - along_weight[l]);
            }
        }
        product
    }
}

/// `sigma(h)`: the softmax of every row. Safe for logits of any finite size.
#[must_use]
pub fn softmax<const T: usize>(logits: &[[f64; T]; T]) -> [[f64; T]; T] {
    std::array::from_fn(|a| softmax_row(&logits[a].map(|x| [x])).map(|[p]| p))
}

/// The loss `|sigma(b h) - sigma(b t)|_F^2` as a function of `h`, for label logits `t` and inverse
/// temperature `b`.
///
/// Derivatives are those of a function on `Sym(T)` with the Frobenius product. The gradient is a symmetric
/// matrix, and the Hessian is a linear map of symmetric matrices. Both are orthogonal to `u = 11^T/T`.
///
/// ```
/// use lora_asymptotics::channel::SoftmaxLoss;
///
/// let loss = SoftmaxLoss::new(&[[1.0, -0.5], [-0.5, 0.3]], 1.0);
/// let h = [[1e3, 0.2], [0.2, -1e3]];
/// assert!(loss.value(&h) > 0.0 && loss.value(&h) <= 4.0);
/// assert!(loss.gradient(&[[1.0, -0.5], [-0.5, 0.3]]).iter().flatten().all(|x| x.abs() < 1e-15));
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SoftmaxLoss<const T: usize> {
    label: [[f64; T]; T],
    inverse_temperature: f64,
}

impl<const T: usize> SoftmaxLoss<T> {
    /// The loss for the label `sigma(b t)`.
    #[must_use]
    pub fn new(label_logits: &[[f64; T]; T], inverse_temperature: f64) -> Self {
        let label = softmax(&label_logits.map(|row| row.map(|x| inverse_temperature * x)));
        Self { label, inverse_temperature }
    }

    /// The loss at symmetric logits `h`.
    #[must_use]
    pub fn value(&self, h: &[[f64; T]; T]) -> f64 {
        self.rows(h).iter().map(|row| row.loss[0]).sum()
    }

    /// The gradient of the loss, a symmetric matrix.
    #[must_use]
    pub fn gradient(&self, h: &[[f64; T]; T]) -> [[f64; T]; T] {
        let rows = self.rows(h);
        let factor = self.inverse_temperature;
        std::array::from_fn(|a| std::array::from_fn(|b| factor * (rows[a].slope[b][0] + rows[b].slope[a][0])))
    }

    /// The Hessian of the loss times the symmetric matrix `direction`. The result is a symmetric matrix.
    #[must_use]
    pub fn hessian(&self, h: &[[f64; T]; T], direction: &[[f64; T]; T]) -> [[f64; T]; T] {
        let rows = self.rows(h);
        let factor = self.inverse_temperature * self.inverse_temperature;
        let product: [_; T] = std::array::from_fn(|a| rows[a].half_hessian_times(&direction[a].map(|x| [x])));
        std::array::from_fn(|a| std::array::from_fn(|b| factor * (product[a][b][0] + product[b][a][0])))
    }

    fn rows(&self, h: &[[f64; T]; T]) -> [SoftmaxRow<T, 1>; T] {
        std::array::from_fn(|a| {
            SoftmaxRow::new(&h[a].map(|x| [self.inverse_temperature * x]), &self.label[a].map(|y| [y]))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::{dimension, symmetric_from_coordinates};
    use approx::assert_relative_eq;

    fn matrix<const T: usize>(scale: f64, seed: usize) -> [[f64; T]; T] {
        let coordinates: Vec<f64> =
            (0..dimension(T)).map(|k| scale * ((k + 37 * seed) as f64 * 1.7 + 0.3).sin()).collect();
        symmetric_from_coordinates(|k| coordinates[k])
    }

    fn dot<const T: usize>(a: &[[f64; T]; T], b: &[[f64; T]; T]) -> f64 {
        a.iter().flatten().zip(b.iter().flatten()).map(|(x, y)| x * y).sum()
    }

    fn moved<const T: usize>(h: &[[f64; T]; T], step: f64, d: &[[f64; T]; T]) -> [[f64; T]; T] {
        std::array::from_fn(|a| std::array::from_fn(|b| h[a][b] + step * d[a][b]))
    }

    fn derivatives_are_those_of_the_value<const T: usize>() {
        let step = 1e-5;
        for seed in 0..20 {
            let loss = SoftmaxLoss::<T>::new(&matrix(2.0, seed), 1.3);
            let (h, d, e) = (matrix(1.5, seed + 100), matrix(1.0, seed + 200), matrix(1.0, seed + 300));
            let [up, down] = [step, -step].map(|step| moved(&h, step, &d));
            let slope = (loss.value(&up) - loss.value(&down)) / (2.0 * step);
            assert_relative_eq!(dot(&loss.gradient(&h), &d), slope, epsilon = 1e-9, max_relative = 1e-8);
            let curvature = (dot(&loss.gradient(&up), &e) - dot(&loss.gradient(&down), &e)) / (2.0 * step);
            assert_relative_eq!(
                dot(&loss.hessian(&h, &d), &e),
                curvature,
                epsilon = 1e-9,
                max_relative = 1e-8
            );
            let flat = [[1.0 / T as f64; T]; T];
            assert!(dot(&loss.gradient(&h), &flat).abs() < 1e-15);
            assert!(loss.hessian(&h, &flat).iter().flatten().all(|x| x.abs() < 1e-15));
            // A shift along u changes nothing.
            assert_relative_eq!(loss.value(&moved(&h, 40.0, &flat)), loss.value(&h), max_relative = 1e-12);
        }
    }

    #[test]
    fn gradients_and_hessians_by_finite_differences() {
        derivatives_are_those_of_the_value::<2>();
        derivatives_are_those_of_the_value::<3>();
        derivatives_are_those_of_the_value::<5>();
        derivatives_are_those_of_the_value::<8>();
    }

    #[test]
    fn permuting_the_tokens_permutes_everything() {
        let order = [2, 0, 3, 1];
        let permute = |m: &[[f64; 4]; 4]| -> [[f64; 4]; 4] {
            std::array::from_fn(|a| std::array::from_fn(|b| m[order[a]][order[b]]))
        };
        let (t, h, d) = (matrix::<4>(2.0, 1), matrix(1.0, 2), matrix(1.0, 3));
        let (loss, permuted) = (SoftmaxLoss::new(&t, 0.7), SoftmaxLoss::new(&permute(&t), 0.7));
        assert_relative_eq!(loss.value(&h), permuted.value(&permute(&h)), max_relative = 1e-14);
        let pairs = [
            (permute(&loss.gradient(&h)), permuted.gradient(&permute(&h))),
            (permute(&loss.hessian(&h, &d)), permuted.hessian(&permute(&h), &permute(&d))),
        ];
        for (x, y) in pairs {
            for (x, y) in x.iter().flatten().zip(y.iter().flatten()) {
                assert_relative_eq!(x, y, epsilon = 1e-15);
            }
        }
    }

    #[test]
    fn huge_logits_do_not_overflow() {
        for scale in [1e3, 1e6, 1e300] {
            let loss = SoftmaxLoss::new(&matrix::<3>(scale, 5), 1.0);
            let h = matrix(scale, 6);
            assert!(softmax(&h).iter().all(|row| (row.iter().sum::<f64>() - 1.0).abs() < 1e-15));
            assert!((0.0..=6.0).contains(&loss.value(&h)));
            let derivatives: [[[f64; 3]; 3]; 2] = [loss.gradient(&h), loss.hessian(&h, &matrix(1.0, 7))];
            assert!(derivatives.iter().flatten().flatten().all(|x| x.is_finite()));
        }
    }
}
