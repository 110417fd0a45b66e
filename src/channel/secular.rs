//! The secular equation of a proximal point under the loss of linear attention.
//!
//! In the eigenbasis of the label (eigenvalues `b_1 >= ... >= b_T`), with `t = tau - max(a b_1, 1/v)`,
//! `offset = max(a b_1, 1/v) - 1/v`, `gaps_i = max(a b_1, 1/v) - a b_i` and `weights_i = (omega_i/v)^2`, it reads
//!
//! ```text
//! a sum_i weights_i/(t + gaps_i)^2 = t + offset,    t > 0.
//! ```

use crate::lanes::{LANES, Lane};

/// The root `t` for every sample of a block, by Newton's method on `psi(t) = S^{-1/2} - R^{-1/2}`. `S` and `R` are
/// the two sides of the secular equation, and `psi` is increasing and concave. From any start the first step
/// therefore lands left of the root, and the later steps approach the root monotonically.
#[inline(always)]
pub(crate) fn secular_roots<const T: usize>(
    weights: &[Lane; T],
    gaps: &[Lane; T],
    offset: &Lane,
    a: f64,
    t: &mut Lane,
) {
    const MAX_STEPS: usize = 60;
    // Size of the step before the last one. The convergence is quadratic, so that the last step ends at
    // rounding.
    const CLOSE: f64 = 3e-8;
    for _ in 0..MAX_STEPS {
        let mut s = [0.0; LANES];
        let mut slope = [0.0; LANES];
        for i in 0..T {
            for l in 0..LANES {
                let x = 1.0 / (t[l] + gaps[i][l]);
                let term = weights[i][l] * x * x;
                s[l] += term;
                slope[l] += term * x;
            }
        }
        let mut largest: f64 = 0.0;
        for l in 0..LANES {
            let right = t[l] + offset[l];
            let left = a * s[l];
            let ratio = (left / right).sqrt();
            let step = 2.0 * (ratio - 1.0) * left * right / (2.0 * a * slope[l] * right + ratio * left);
            let next = (t[l] + step).max(0.05 * t[l]);
            largest = largest.max((next - t[l]).abs() / next);
            t[l] = next;
        }
        // The loop also ends if a sample is NaN, because f64::max ignores NaN.
        if largest < CLOSE {
            break;
        }
    }
}
