//! Derivatives that softmax and its variants share: for `p_b = exp(h_b)/(c + sum exp(h))` with a constant
//! `c >= 0`, the derivative along `d` is `p_b (d_b - sum_c p_c d_c)`, whatever `c` is.

use super::traits::Evaluated;
use crate::lanes::{self, LANES};

/// Writes `exp(h_b - s)/(c exp(-s) + sum exp(h - s))` of every row, with `s` large enough for any logits.
pub(super) fn normalised_exponentials(tokens: usize, logits: &[f64], offset: f64, attention: &mut [f64]) {
    let length = tokens.max(1);
    // The exponentials are taken in one long loop, which vectorises, and not row by row.
    let least = if offset > 0.0 { 0.0 } else { f64::NEG_INFINITY };
    let mut shifts = vec![0.0; logits.len() / length];
    let rows = logits.chunks_exact(length).zip(attention.chunks_exact_mut(length));
    for ((logits, shifted), shift) in rows.zip(&mut shifts) {
        let top = logits.iter().fold(least, |top, h| if *h > top { *h } else { top });
        for (s, h) in shifted.iter_mut().zip(logits) {
            *s = h - top;
        }
        *shift = -top;
    }
    exponentials(attention);
    if offset > 0.0 {
        exponentials(&mut shifts);
    }
    for (row, shift) in attention.chunks_exact_mut(length).zip(&shifts) {
        let rest = if offset > 0.0 { offset * shift } else { 0.0 };
        let scale = 1.0 / (rest + row.iter().sum::<f64>());
        row.iter_mut().for_each(|p| *p *= scale);
    }
}

/// Replaces numbers `<= 0` by their exponentials.
pub(super) fn exponentials(numbers: &mut [f64]) {
    let mut blocks = numbers.chunks_exact_mut(LANES);
    for block in &mut blocks {
        let mut lane = [0.0; LANES];
        lane.copy_from_slice(block);
        block.copy_from_slice(&lanes::exp(&lane));
    }
    for x in blocks.into_remainder() {
        [*x] = lanes::exp(&[*x]);
    }
}

/// `image_b = p_b (x_b - sum_c p_c x_c)` on every row. It is the derivative along `x`, and the adjoint of
/// `x`, because the matrix `diag(p) - p p^T` is symmetric.
pub(super) fn covariance(at: &Evaluated<'_>, x: &[f64], image: &mut [f64]) {
    let length = at.tokens.max(1);
    let rows = at.attention.chunks_exact(length).zip(x.chunks_exact(length));
    for ((p, x), image) in rows.zip(image.chunks_exact_mut(length)) {
        let mean: f64 = p.iter().zip(x).map(|(p, x)| p * x).sum();
        for ((image, p), x) in image.iter_mut().zip(p).zip(x) {
            *image = p * (x - mean);
        }
    }
}

/// The derivative along `d` of `p_b (w_b - sum_c p_c w_c)` on every row. With `e_b = p_b (d_b - sum_c p_c d_c)`,
/// it is `e_b (w_b - sum_c p_c w_c) - p_b sum_c e_c w_c`.
pub(super) fn second(at: &Evaluated<'_>, w: &[f64], d: &[f64], image: &mut [f64]) {
    let length = at.tokens.max(1);
    let rows = at.attention.chunks_exact(length).zip(w.chunks_exact(length));
    let rows = rows.zip(d.chunks_exact(length)).zip(image.chunks_exact_mut(length));
    for (((p, w), d), image) in rows {
        let (mut mean_w, mut mean_d) = (0.0, 0.0);
        for ((p, w), d) in p.iter().zip(w).zip(d) {
            mean_w += p * w;
            mean_d += p * d;
        }
        let mut along = 0.0;
        for (((image, p), w), d) in image.iter_mut().zip(p).zip(w).zip(d) {
            let e = p * (d - mean_d);
            along += e * w;
            *image = e * (w - mean_w);
        }
        for (image, p) in image.iter_mut().zip(p) {
            *image -= p * along;
        }
    }
}
