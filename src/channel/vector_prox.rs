//! The proximal problem of the softmax loss on a rank-one perturbation of the logits, for a block of samples.
//!
//! In units with `q0 = 1`, and with `k = b q0` the coupling (`b` the inverse temperature), the logits of a
//! sample are `A = z + k (chi chi^T - q I)` and the objective is
//!
//! ```text
//! F(chi) = |sigma(A) - sigma(B)|_F^2 + |chi - omega|^2/(2v)
//! ```
//!
//! The objective is not convex. How its global minimum is found is in `vector_search.rs`.

use super::softmax::{SoftmaxRow, softmax_row};
use crate::descent::{Descent, LaneMatrix, LaneVector, Local};
use crate::lanes::{LANES, Lane};

/// One proximal problem per sample.
#[derive(Clone, Copy)]
pub(crate) struct VectorProx<'a, const T: usize> {
    /// The recalibrated frozen logits `z`.
    pub(crate) frozen: &'a LaneMatrix<T>,
    /// `k q`, with `q = |w|^2/D`.
    pub(crate) centring: f64,
    /// `sigma` of the label's logits.
    pub(crate) y: &'a LaneMatrix<T>,
    /// The field `omega`.
    pub(crate) omega: LaneVector<T>,
    /// Factor `k` on `chi chi^T`.
    pub(crate) coupling: f64,
    /// `1/v`.
    pub(crate) stiffness: f64,
    /// Relative size of a Newton step after which a descent ends.
    pub(crate) close: f64,
}

impl<const T: usize> VectorProx<'_, T> {
    #[inline(always)]
    fn row(&self, chi: &LaneVector<T>, a: usize) -> [Lane; T] {
        let mut row = self.frozen[a];
        for l in 0..LANES {
            row[a][l] -= self.centring;
        }
        for b in 0..T {
            for l in 0..LANES {
                row[b][l] += self.coupling * chi[a][l] * chi[b][l];
            }
        }
        row
    }

    #[inline(always)]
    pub(super) fn distance(&self, chi: &LaneVector<T>) -> Lane {
        let mut sum = [0.0; LANES];
        for i in 0..T {
            for l in 0..LANES {
                let d = chi[i][l] - self.omega[i][l];
                sum[l] += 0.5 * self.stiffness * d * d;
            }
        }
        sum
    }

    /// The objective, and its derivative along `direction`.
    #[inline(always)]
    pub(super) fn along(&self, chi: &LaneVector<T>, direction: &LaneVector<T>) -> [Lane; 2] {
        let mut value = self.distance(chi);
        let mut slope = [0.0; LANES];
        for i in 0..T {
            for l in 0..LANES {
                slope[l] += self.stiffness * (chi[i][l] - self.omega[i][l]) * direction[i][l];
            }
        }
        for a in 0..T {
            let p = softmax_row(&self.row(chi, a));
            // The loss of the row is |e|^2, and its derivative along dh is 2 (sum p e dh - (p.e)(p.dh)).
            let (mut products, mut mean, mut drift) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
            for b in 0..T {
                for l in 0..LANES {
                    let e = p[b][l] - self.y[a][b][l];
                    let moved = chi[a][l] * direction[b][l] + direction[a][l] * chi[b][l];
                    value[l] += e * e;
                    products[l] += p[b][l] * e * moved;
                    mean[l] += p[b][l] * e;
                    drift[l] += p[b][l] * moved;
                }
            }
            for l in 0..LANES {
                slope[l] += 2.0 * self.coupling * (products[l] - mean[l] * drift[l]);
            }
        }
        [value, slope]
    }

    /// The gradients of the loss in the logits `A` and in the label's logits `B`, on symmetric matrices.
    #[inline(always)]
    pub(crate) fn gradients_in_logits(&self, chi: &LaneVector<T>) -> [LaneMatrix<T>; 2] {
        let mut gradients = [[[[0.0; LANES]; T]; T]; 2];
        for a in 0..T {
            let p = softmax_row(&self.row(chi, a));
            let y = &self.y[a];
            let (mut along_p, mut along_y) = ([0.0; LANES], [0.0; LANES]);
            for b in 0..T {
                for l in 0..LANES {
                    let e = p[b][l] - y[b][l];
                    along_p[l] += p[b][l] * e;
                    along_y[l] += y[b][l] * e;
                }
            }
            for b in 0..T {
                for l in 0..LANES {
                    let e = p[b][l] - y[b][l];
                    // Half of the derivative in an entry of a row goes to either side of the diagonal.
                    let slopes = [p[b][l] * (e - along_p[l]), -y[b][l] * (e - along_y[l])];
                    for (gradient, slope) in gradients.iter_mut().zip(slopes) {
                        gradient[a][b][l] += slope;
                        gradient[b][a][l] += slope;
                    }
                }
            }
        }
        gradients
    }
}

impl<const T: usize> Descent<T, 2> for VectorProx<'_, T> {
    fn stiffness(&self) -> f64 {
        self.stiffness
    }

    fn close(&self) -> f64 {
        self.close
    }

    /// The objective and its derivatives at `chi`. The extra values are the loss and `dl'/dq`.
    #[inline(always)]
    fn local(&self, chi: &LaneVector<T>) -> Local<T, 2> {
        let k = self.coupling;
        let mut loss = [0.0; LANES];
        let mut centring = [0.0; LANES];
        // `slope` is G/2 plus its transpose, and `second` is the second-order part of the Hessian over 2 k^2.
        let mut slope = [[[0.0; LANES]; T]; T];
        let mut second = [[[0.0; LANES]; T]; T];
        for a in 0..T {
            let row = SoftmaxRow::new(&self.row(chi, a), &self.y[a]);
            let product = row.half_hessian_times(chi);
            // Half the Hessian of the row in its logits is diag(weight) + p r^T + r p^T, times the square of chi_a, which `scaled`
            // has, and `diagonal`.
            let (mut rest, mut scaled, mut diagonal) =
                ([[0.0; LANES]; T], [[0.0; LANES]; T], [[0.0; LANES]; T]);
            for l in 0..LANES {
                loss[l] += row.loss[l];
                centring[l] -= 2.0 * k * row.slope[a][l];
            }
            for b in 0..T {
                for l in 0..LANES {
                    let chi2 = chi[a][l] * chi[a][l];
                    rest[b][l] = 0.5 * row.norm2[l] * row.p[b][l] - row.weight[b][l];
                    scaled[b][l] = chi2 * row.p[b][l];
                    diagonal[b][l] = chi2 * row.weight[b][l];
                }
            }
            for b in 0..T {
                for l in 0..LANES {
                    slope[a][b][l] += row.slope[b][l];
                    slope[b][a][l] += row.slope[b][l];
                    second[a][a][l] += chi[b][l] * product[b][l];
                }
                // This is added to the lower triangle. An entry of the diagonal stands for itself and its transpose.
                let (high, low) = if a > b { (a, b) } else { (b, a) };
                let factor = if a == b { 2.0 } else { 1.0 };
                for l in 0..LANES {
                    second[high][low][l] += factor * chi[a][l] * product[b][l];
                    second[b][b][l] += diagonal[b][l];
                }
            }
            for i in 0..T {
                for j in 0..=i {
                    for l in 0..LANES {
                        second[i][j][l] += scaled[i][l] * rest[j][l] + rest[i][l] * scaled[j][l];
                    }
                }
            }
        }
        let mut value = self.distance(chi);
        let mut gradient = [[0.0; LANES]; T];
        let mut hessian = second;
        for i in 0..T {
            for l in 0..LANES {
                gradient[i][l] = (chi[i][l] - self.omega[i][l]) * self.stiffness;
            }
            for j in 0..T {
                for l in 0..LANES {
                    gradient[i][l] += 2.0 * k * slope[i][j][l] * chi[j][l];
                }
            }
            for j in 0..=i {
                for l in 0..LANES {
                    hessian[i][j][l] = 2.0 * k * (slope[i][j][l] + k * second[i][j][l]);
                }
            }
            for l in 0..LANES {
                hessian[i][i][l] += self.stiffness;
            }
        }
        for l in 0..LANES {
            value[l] += loss[l];
        }
        Local { value, gradient, hessian, extra: [loss, centring] }
    }
}
