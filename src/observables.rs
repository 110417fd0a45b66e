//! Errors, alignments and the effective noise: closed forms in the order parameters.
//!
//! All of them are plain functions of overlaps, so that they also apply to measured overlaps. For linear
//! attention they are exact; for other activations only the alignment is defined here.
//!
//! Every function returns NaN if an argument is NaN, if a norm or a variance is negative, or if an overlap is
//! larger than the product of the norms allows (`m^2 > q q0`, with an allowance of 1e-9 for rounding). No
//! such input is corrected. Source: arXiv:2606.05899.

/// Norms of true and learned weights, and their overlap: `Q0, Q, M` of pre-training or `q0, q, m` of
/// fine-tuning. They may come from a solve or from a measurement.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WeightOverlaps {
    /// Square of the norm of the true weights.
    pub q0: f64,
    /// Square of the norm of the learned weights.
    pub q: f64,
    /// Overlap of the true and the learned weights.
    pub m: f64,
}

/// Allowance for rounding by which `|m|/sqrt(q q0)` may exceed 1. It covers overlaps that were solved for,
/// and overlaps that were typed in with all their digits.
const ROUNDING: f64 = 1e-9;

/// The largest overlap `sqrt(q q0)` of weights with the given norms. NaN if one of them is negative or NaN.
pub(crate) fn largest_overlap(q: f64, q0: f64) -> f64 {
    // The two roots are taken separately, because the product of two extreme norms may overflow.
    q.sqrt() * q0.sqrt()
}

/// Whether `m` can be the overlap of weights whose norms allow for `largest`. False if either is NaN.
pub(crate) fn is_possible(m: f64, largest: f64) -> bool {
    m.abs() <= largest * (1.0 + ROUNDING)
}

/// The value of the closure if there are weights with these overlaps, else NaN.
fn if_possible(m: f64, q: f64, q0: f64, value: impl FnOnce() -> f64) -> f64 {
    if is_possible(m, largest_overlap(q, q0)) { value() } else { f64::NAN }
}

/// `m / sqrt(q q0)`: the cosine between learned and true weights, `o_w` or `o_W`. Zero if either norm
/// vanishes.
#[must_use]
pub fn alignment(m: f64, q: f64, q0: f64) -> f64 {
    let largest = largest_overlap(q, q0);
    if_possible(m, q, q0, || if largest > 0.0 { (m / largest).clamp(-1.0, 1.0) } else { 0.0 })
}

/// `Q0 - 2 beta M + beta^2 Q`: half the variance, per coordinate of the logits, of the part of the noiseless
/// label that the frozen weights leave unexplained, on sequences that they were not trained on.
#[must_use]
pub fn unexplained(weights: &WeightOverlaps, beta: f64) -> f64 {
    let WeightOverlaps { q0, q, m } = *weights;
    // At perfect recovery, rounding may leave a tiny negative number.
    if_possible(m, q, q0, || without_rounding(q0 - 2.0 * beta * m + beta * beta * q))
}

/// `Delta_eff = Delta/2 + Q0 - 2 beta M + beta^2 Q`: half the variance, per coordinate of the logits, of the
/// part of the noisy label that the frozen weights leave unexplained, on sequences that they were not trained
/// on.
#[must_use]
pub fn effective_noise(weights: &WeightOverlaps, delta: f64, beta: f64) -> f64 {
    half_variance(delta) + unexplained(weights, beta)
}

/// The effective noise of the training law on reused sequences, for any recalibration `beta`. With the
/// response `V` of the pre-training and `p = (4V/T^2)/(1 + 4V/T^2)`, it is
///
/// ```text
/// (1 - beta p)^2 (Q0 + Delta/2)  -  2 beta (1 - beta p) (1 - p) M  +  beta^2 (1 - p)^2 Q
/// ```
#[must_use]
pub fn reused_effective_noise(weights: &WeightOverlaps, tokens: usize, v: f64, delta: f64, beta: f64) -> f64 {
    let WeightOverlaps { q0, q, m } = *weights;
    // With k = 1 - p the terms are rearranged so that nothing cancels at beta = 1 and large V.
    let tokens = tokens as f64;
    let k = 1.0 / (1.0 + non_negative(v) / tokens / tokens * 4.0);
    let label = q0 + half_variance(delta);
    let rest = 1.0 - beta;
    if_possible(m, q, q0, || {
        without_rounding(
            rest * rest * label
                + 2.0 * rest * beta * k * (label - m)
                + (beta * k) * (beta * k) * (label - 2.0 * m + q),
        )
    })
}

/// The number itself, or NaN if it is negative.
fn non_negative(x: f64) -> f64 {
    if x < 0.0 { f64::NAN } else { x }
}

/// `Delta/2`, or NaN if `Delta` is negative.
fn half_variance(delta: f64) -> f64 {
    0.5 * non_negative(delta)
}

/// A sum of squares whose rounding errors may have left a negative number. Unlike `f64::max`, it lets NaN
/// through.
fn without_rounding(x: f64) -> f64 {
    if x < 0.0 { 0.0 } else { x }
}

/// The recalibration `beta = M/Q` that minimises the effective noise on fresh sequences; `None` unless
/// `Q > 0`.
#[must_use]
pub fn optimal_recalibration(q: f64, m: f64) -> Option<f64> {
    (q > 0.0).then(|| m / q)
}

/// `E = (2K/T^2)(Q0 - 2M + Q + Delta/2)`, the test error of linear pre-training, given the bracket.
#[must_use]
pub fn linear_pretraining_error(tokens: usize, noisy_mse: f64) -> f64 {
    linear_prefactor(tokens) * non_negative(noisy_mse)
}

/// `E = Q0 - 2M + Q + Delta`, the test error of linear pre-training with cross-attention, given this sum. Each of the `T^2` logits has the weight
/// `1/T^2`.
#[must_use]
pub fn linear_cross_pretraining_error(noisy_mse: f64) -> f64 {
    non_negative(noisy_mse)
}

/// `E' = noise + q^2 - 2 m^2 + q0^2`, an error of linear fine-tuning with two factors (cross-attention), where `q^2 = tr q_b q_a`,
/// `m^2 = tr m_b m_a` and `q0` is the Frobenius norm of the variances of the true columns. It is the test error if `noise` is
/// `Delta + Q0 - 2 beta M + beta^2 Q`, and the clean error without `Delta`.
#[must_use]
pub fn linear_cross_finetuning_error(noise: f64, weights: &WeightOverlaps) -> f64 {
    linear_error_of_weights(1.0, noise, weights)
}

/// `E' = (2K/T^2)(noise + q^2 - 2 m^2 + q0^2)`, an error of linear fine-tuning. It is the test error if
/// `noise` is the [`effective_noise`] of the test law, and the clean error if `noise` is the [`unexplained`]
/// part. At `q = m = 0` it is the frozen baseline.
#[must_use]
pub fn linear_finetuning_error(tokens: usize, noise: f64, weights: &WeightOverlaps) -> f64 {
    linear_error_of_weights(linear_prefactor(tokens), noise, weights)
}

/// `prefactor (noise + q^2 - 2 m^2 + q0^2)`.
fn linear_error_of_weights(prefactor: f64, noise: f64, weights: &WeightOverlaps) -> f64 {
    let WeightOverlaps { q0, q, m } = *weights;
    // This form of q^2 - 2 m^2 + q0^2 has no cancellation near perfect recovery.
    if_possible(m, q, q0, || {
        let weights = (q - q0) * (q - q0) + 2.0 * without_rounding(q * q0 - m * m);
        prefactor * (non_negative(noise) + weights)
    })
}

/// `(2K/T^2)(Delta_eff + q^2)`, the test error of linear attention on the task of pre-training after fine-tuning, given the
/// [`effective_noise`] of the test law. For several columns, `q` is the norm `|q|_F`. At `q = 0` and `beta = 1` it is the
/// [`linear_pretraining_error`].
#[must_use]
pub fn linear_forgetting(tokens: usize, noise: f64, q: f64) -> f64 {
    let q = non_negative(q);
    linear_prefactor(tokens) * (non_negative(noise) + q * q)
}

/// The coefficient of `D^{-1/2}` of the test error of linear attention on real frozen weights,
///
/// ```text
/// (2K/T^2) [2 trace (q0 - q) + 2 q q_1 - 4 m m_1],    trace = tr s* - beta tr s-hat,
/// ```
///
/// where `q_1` and `m_1` are the coefficients of `q` and `m`. The first term comes from the overlap of the two matrices in
/// `A = S* + w* w*^T - beta S-hat - w w^T`, whose norm is the error (see [`linear_error_at`]).
#[must_use]
pub fn linear_finetuning_error_slope(
    tokens: usize,
    trace: f64,
    weights: &WeightOverlaps,
    [q_1, m_1]: [f64; 2],
) -> f64 {
    let WeightOverlaps { q0, q, m } = *weights;
    if_possible(m, q, q0, || {
        linear_prefactor(tokens) * (2.0 * trace * (q0 - q) + 2.0 * q * q_1 - 4.0 * m * m_1)
    })
}

/// The test error `E |(h(A) + sqrt(Delta) xi) X/T|_F^2/D` of linear attention at a finite dimension `D`, for labels and weights that differ by
/// the matrix `A`, with `norm = |A|_F^2/D^2` and noise `xi` that is independent of the sequences:
///
/// ```text
/// (K/T^2) [Delta + 2 norm (1 + (T^2 + 3T + 4)/((T + 1) D))],    K = T(T+1)/2.
/// ```
///
/// It holds at every `D`, for pre-training with `A = S* - S-hat` and for fine-tuning with `A = S* + w* w*^T - beta S-hat - w w^T`. The second term in
/// the bracket is the correlation of the logits with the Gram matrix of the tokens. Source: this project.
#[must_use]
pub fn linear_error_at(tokens: usize, dimension: usize, delta: f64, norm: f64) -> f64 {
    0.5 * linear_prefactor(tokens) * (delta + 2.0 * norm * gram_factor(tokens, dimension))
}

/// `1 + (T^2 + 3T + 4)/((T + 1) D)`: what the Gram matrix of the tokens makes of the noiseless part of an error of linear attention.
pub(crate) fn gram_factor(tokens: usize, dimension: usize) -> f64 {
    let (t, d) = (tokens as f64, dimension as f64);
    1.0 + (t * t + 3.0 * t + 4.0) / ((t + 1.0) * d)
}

/// `2K/T^2 = (T+1)/T`; NaN for zero tokens.
fn linear_prefactor(tokens: usize) -> f64 {
    let tokens = if tokens == 0 { f64::NAN } else { tokens as f64 };
    (tokens + 1.0) / tokens
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_relative_eq;

    fn overlaps(q0: f64, q: f64, m: f64) -> WeightOverlaps {
        WeightOverlaps { q0, q, m }
    }

    #[test]
    fn what_is_not_a_number_stays_so() {
        assert!(effective_noise(&overlaps(f64::NAN, 1.0, 1.0), 0.5, 1.0).is_nan());
        assert!(effective_noise(&overlaps(1.0, 1.0, 1.0), 0.5, 1e308).is_nan());
        assert!(reused_effective_noise(&overlaps(1.0, f64::NAN, 1.0), 2, 0.1, 0.5, 1.0).is_nan());
        assert!(alignment(1.0, f64::NAN, 1.0).is_nan());
        assert!(alignment(0.0, 0.0, 1.0).abs() <= 0.0);
    }

    #[test]
    fn overlaps_that_cannot_be_have_no_observables() {
        // Rounding is allowed for, and a negative overlap is possible.
        assert_relative_eq!(alignment(1.0 + 1e-12, 1.0, 1.0), 1.0);
        assert_relative_eq!(alignment(-0.5, 1.0, 1.0), -0.5);
        assert_relative_eq!(effective_noise(&overlaps(1.0, 1.0, 1.0 + 1e-12), 0.0, 1.0), 0.0);
        for (m, q, q0) in
            [(1.1, 1.0, 1.0), (-1.1, 1.0, 1.0), (0.1, 0.0, 1.0), (0.0, -1.0, 1.0), (0.0, 1.0, -1.0)]
        {
            let all = [
                alignment(m, q, q0),
                effective_noise(&overlaps(q0, q, m), 0.5, 1.0),
                reused_effective_noise(&overlaps(q0, q, m), 2, 0.3, 0.5, 0.8),
                linear_finetuning_error(2, 0.5, &overlaps(q0, q, m)),
            ];
            assert!(all.iter().all(|x| x.is_nan()), "{m} {q} {q0}: {all:?}");
        }
        let negative = [
            effective_noise(&overlaps(1.0, 1.0, 0.5), -0.1, 1.0),
            reused_effective_noise(&overlaps(1.0, 1.0, 0.5), 2, -0.3, 0.5, 0.8),
            reused_effective_noise(&overlaps(1.0, 1.0, 0.5), 2, 0.3, -0.5, 0.8),
            linear_pretraining_error(2, -1e-3),
            linear_finetuning_error(2, -0.5, &overlaps(1.0, 1.0, 0.5)),
            linear_pretraining_error(0, 1.0),
            linear_forgetting(2, -0.5, 1.0),
            linear_forgetting(2, 0.5, -1.0),
            linear_forgetting(0, 0.5, 1.0),
        ];
        assert!(negative.iter().all(|x| x.is_nan()), "{negative:?}");
        assert_eq!(optimal_recalibration(-1.0, 0.5), None);
    }

    #[test]
    fn reused_noise_keeps_its_digits_at_any_response() {
        let (q0, q, m, delta) = (1.5, 1.0, 1.1, 0.5);
        for v in [1.0, 1e6, 1e12, 1e16, 1e150] {
            let expected = (q0 + 0.25 - 2.0 * m + q) / (1.0 + 4.0 * v) / (1.0 + 4.0 * v);
            assert_relative_eq!(
                reused_effective_noise(&overlaps(q0, q, m), 1, v, delta, 1.0),
                expected,
                max_relative = 1e-13
            );
        }
        // Labels are memorised, and half of each is kept: (1 - beta)^2 (Q0 + Delta/2).
        assert_relative_eq!(
            reused_effective_noise(&overlaps(q0, q, m), 1, 1e308, delta, 0.5),
            0.4375,
            max_relative = 1e-13
        );
    }
}
