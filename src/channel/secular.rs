//! The secular equation of a proximal point under the loss of linear attention.
//!
//! In the eigenbasis of the label (eigenvalues `b_1 >= ... >= b_T`), with `t = tau - max(a b_1, 1/v)`,
//! `offset = max(a b_1, 1/v) - 1/v`, `gaps_i = max(a b_1, 1/v) - a b_i` and `weights_i = (omega_i/v)^2`, it reads
//!
//! ```text
//! a sum_i weights_i/(t + gaps_i)^2 = t + offset,    t > 0.
//! ```

use crate::lanes::{LANES, Lane};

/// Largest correction of a step of Newton's method by the second derivative.
const LARGEST_CORRECTION: f64 = 0.25;

/// The root `t` for every sample of a block, by Halley's method on `psi(t) = S^{-1/2} - R^{-1/2}`. `S` and `R` are
/// the two sides of the secular equation, and `psi` is increasing and concave. From any start a step of Newton's method
/// lands left of the root, and further such steps approach the root monotonically. Where the second derivative would change the step by more than
/// a quarter, the correction is cut, so that the search is nearly that of Newton's method far from the root.
#[inline(always)]
pub(crate) fn secular_roots<const T: usize>(
    weights: &[Lane; T],
    gaps: &[Lane; T],
    offset: &Lane,
    a: f64,
    t: &mut Lane,
) {
    const MAX_STEPS: usize = 60;
    // Relative size of the last step. The convergence is cubic, so that the last step ends at rounding.
    const CLOSE: f64 = 1e-5;
    for _ in 0..MAX_STEPS {
        let [mut s, mut slope, mut bend] = [[0.0; LANES]; 3];
        for i in 0..T {
            for l in 0..LANES {
                let x = 1.0 / (t[l] + gaps[i][l]);
                let term = weights[i][l] * x * x;
                s[l] += term;
                slope[l] += term * x;
                bend[l] += term * x * x;
            }
        }
        let mut far = false;
        for l in 0..LANES {
            // These are psi and its derivatives, times S^{1/2}.
            let (over_s, over_r) = (1.0 / s[l], 1.0 / (t[l] + offset[l]));
            let ratio = (a * s[l] * over_r).sqrt();
            let (along, across) = (slope[l] * over_s, ratio * over_r);
            let value = 1.0 - ratio;
            let first = along + 0.5 * across;
            let second = 3.0 * (along * along - bend[l] * over_s) - 0.75 * across * over_r;
            let square = first * first;
            let bound = LARGEST_CORRECTION * square;
            let correction = 0.5 * value * second;
            let correction = if correction > bound { bound } else { correction };
            let correction = if correction < -bound { -bound } else { correction };
            let (next, least) = (t[l] - value * first / (square - correction), 0.05 * t[l]);
            let next = if next > least { next } else { least };
            // A sample that is not a number does not keep the others in the loop.
            far |= first.is_finite() && (next - t[l]).abs() > CLOSE * next;
            t[l] = next;
        }
        if !far {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_solve_the_equation_from_any_start() {
        // Additive recurrences fill the cube of the logarithms evenly.
        let fraction = |k: usize, step: f64| (k as f64 * step).fract();
        for k in 0..20_000 {
            let wide = |step: f64, decades: f64| 10.0_f64.powf(decades * (fraction(k, step) - 0.5));
            let weights = [[wide(0.618_033_988_75, 24.0); LANES], [wide(0.754_877_666_25, 12.0); LANES]];
            // One of the first gap and the offset is zero.
            let (gap, offset) = (wide(0.569_840_290_998, 8.0), wide(0.671_043_606_7, 8.0));
            let (gap, offset) = if k % 2 == 0 { (gap, 0.0) } else { (0.0, offset) };
            let gaps = [[gap; LANES], [gap + wide(0.819_172_513_4, 8.0); LANES]];
            let offset = [offset; LANES];
            let a = 0.7;
            let mut t = std::array::from_fn(|l| 10.0_f64.powf(3.0 * l as f64 - 12.0) * wide(0.55, 2.0));
            secular_roots(&weights, &gaps, &offset, a, &mut t);
            for l in 0..LANES {
                let difference = |t: f64| {
                    let left: f64 = (0..2).map(|i| weights[i][l] / (t + gaps[i][l]).powi(2)).sum();
                    (a * left).ln() - (t + offset[l]).ln()
                };
                assert!(difference(t[l] * (1.0 - 1e-12)) > 0.0, "{k} {l} {t:?}");
                assert!(difference(t[l] * (1.0 + 1e-12)) < 0.0, "{k} {l} {t:?}");
            }
        }
    }
}
