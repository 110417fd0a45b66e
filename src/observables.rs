//! Errors, alignments and the effective noise: closed forms in the order parameters.
//!
//! All of them are plain functions of overlaps, so that they also apply to overlaps that were measured, not solved for.
//! For linear attention they are exact; for other activations only the alignment is defined here.
//! Source: arXiv:2606.05899.

/// `m / sqrt(q q0)`: the cosine between learned and true weights, `o_w` or `o_W`. Zero if either norm
/// vanishes, NaN if any argument is.
#[must_use]
pub fn alignment(m: f64, q: f64, q0: f64) -> f64 {
    // One root at a time: the product of two extreme norms may overflow.
    let norms = q.sqrt() * q0.sqrt();
    if norms <= 0.0 {
        return 0.0;
    }
    let cosine = m / norms;
    if cosine > 1.0 { 1.0 } else { cosine }
}

/// `Delta_eff = Delta/2 + Q0 - 2 beta M + beta^2 Q`: half the variance, per coordinate of the logits, of everything in
/// the label that the frozen weights leave unexplained on sequences they were not trained on.
#[must_use]
pub fn effective_noise(q0: f64, q: f64, m: f64, delta: f64, beta: f64) -> f64 {
    // At perfect recovery, rounding may leave a tiny negative number.
    0.5 * delta + clamped(q0 - 2.0 * beta * m + beta * beta * q)
}

/// The training effective noise on reused sequences, for any recalibration `beta`: with the response `V` of the
/// pre-training and `p = (4V/T^2)/(1 + 4V/T^2)`,
///
/// $$ (1-\beta p)^2 (Q_0 + \Delta/2) - 2\beta(1-\beta p)(1-p) M + \beta^2 (1-p)^2 Q . $$
#[must_use]
pub fn reused_effective_noise(tokens: usize, q0: f64, q: f64, m: f64, v: f64, delta: f64, beta: f64) -> f64 {
    // With k = 1 - p, rearranged so that nothing cancels at beta = 1 and large V.
    let tokens = tokens as f64;
    let k = 1.0 / (1.0 + v / tokens / tokens * 4.0);
    let label = q0 + 0.5 * delta;
    let rest = 1.0 - beta;
    clamped(
        rest * rest * label
            + 2.0 * rest * beta * k * (label - m)
            + (beta * k) * (beta * k) * (label - 2.0 * m + q),
    )
}

/// Zero instead of a negative number; unlike `f64::max`, it lets NaN through.
fn clamped(x: f64) -> f64 {
    if x < 0.0 { 0.0 } else { x }
}

/// The recalibration `beta = M/Q` that minimises the effective noise on fresh sequences; `None` where `Q = 0`.
#[must_use]
pub fn optimal_recalibration(q: f64, m: f64) -> Option<f64> {
    (q > 0.0).then(|| m / q)
}

/// `E = (2K/T^2)(Q0 - 2M + Q + Delta/2)`, the test error of linear pre-training, given the bracket.
#[must_use]
pub fn linear_pretraining_error(tokens: usize, noisy_mse: f64) -> f64 {
    linear_prefactor(tokens) * noisy_mse
}

/// `E' = (2K/T^2)(Delta_eff + q^2 - 2 m^2 + q0^2)`, the test error of linear fine-tuning, with the effective noise of
/// the test law. At `q = m = 0` it is the frozen baseline; without `Delta/2` in `Delta_eff` it is the clean error.
#[must_use]
pub fn linear_finetuning_error(tokens: usize, effective_noise: f64, q: f64, m: f64, q0: f64) -> f64 {
    // q^2 - 2 m^2 + q0^2 without cancellation near perfect recovery.
    let weights = (q - q0) * (q - q0) + 2.0 * clamped(q * q0 - m * m);
    linear_prefactor(tokens) * (effective_noise + weights)
}

/// `2K/T^2 = (T+1)/T`.
fn linear_prefactor(tokens: usize) -> f64 {
    let tokens = tokens as f64;
    (tokens + 1.0) / tokens
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_relative_eq;

    #[test]
    fn what_is_not_a_number_stays_so() {
        assert!(effective_noise(f64::NAN, 1.0, 1.0, 0.5, 1.0).is_nan());
        assert!(effective_noise(1.0, 1.0, 1.0, 0.5, 1e308).is_nan());
        assert!(reused_effective_noise(2, 1.0, f64::NAN, 1.0, 0.1, 0.5, 1.0).is_nan());
        assert!(alignment(1.0, f64::NAN, 1.0).is_nan());
        assert!(alignment(1.0, 0.0, 1.0).abs() <= 0.0);
    }

    #[test]
    fn reused_noise_keeps_its_digits_at_any_response() {
        let (q0, q, m, delta) = (1.5, 1.0, 1.1, 0.5);
        for v in [1.0, 1e6, 1e12, 1e16, 1e150] {
            let expected = (q0 + 0.25 - 2.0 * m + q) / (1.0 + 4.0 * v) / (1.0 + 4.0 * v);
            assert_relative_eq!(
                reused_effective_noise(1, q0, q, m, v, delta, 1.0),
                expected,
                max_relative = 1e-13
            );
        }
        // Memorised labels, half of them kept: (1 - beta)^2 (Q0 + Delta/2).
        assert_relative_eq!(
            reused_effective_noise(1, q0, q, m, 1e308, delta, 0.5),
            0.4375,
            max_relative = 1e-13
        );
    }
}
