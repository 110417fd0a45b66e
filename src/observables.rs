//! Errors, alignments and the effective noise: closed forms in the order parameters.
//!
//! All of them are plain functions of overlaps, so that they also apply to overlaps that were measured, not solved for.
//! For linear attention they are exact; for other activations only the alignment is defined here.
//! Source: arXiv:2606.05899 (sections 5 and 6 of the theory).

use crate::channel;

/// `m / sqrt(q q0)`: the cosine between learned and true weights, `o_w` or `o_W`. Zero if either norm vanishes.
#[must_use]
pub fn alignment(m: f64, q: f64, q0: f64) -> f64 {
    // One root at a time: the product of two extreme norms may overflow.
    let norms = q.sqrt() * q0.sqrt();
    if norms > 0.0 { (m / norms).min(1.0) } else { 0.0 }
}

/// `Delta_eff = Delta/2 + Q0 - 2 beta M + beta^2 Q`: half the variance, per coordinate of the logits, of everything in
/// the label that the frozen weights leave unexplained on sequences they were not trained on.
#[must_use]
pub fn effective_noise(q0: f64, q: f64, m: f64, delta: f64, beta: f64) -> f64 {
    // At perfect recovery, rounding may leave a tiny negative number.
    0.5 * delta + (q0 - 2.0 * beta * m + beta * beta * q).max(0.0)
}

/// The training effective noise on reused sequences, for any recalibration `beta`: with the response `V` of the
/// pre-training and `p = (4V/T^2)/(1 + 4V/T^2)`,
///
/// $$ (1-\beta p)^2 (Q_0 + \Delta/2) - 2\beta(1-\beta p)(1-p) M + \beta^2 (1-p)^2 Q . $$
#[must_use]
pub fn reused_effective_noise(tokens: usize, q0: f64, q: f64, m: f64, v: f64, delta: f64, beta: f64) -> f64 {
    let shift = 4.0 * v / (tokens * tokens) as f64;
    let kept = 1.0 / (1.0 + shift);
    let label = 1.0 - beta * shift * kept;
    let weights = beta * kept;
    (label * label * (q0 + 0.5 * delta) - 2.0 * weights * label * m + weights * weights * q).max(0.0)
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
    let weights = (q - q0) * (q - q0) + 2.0 * (q * q0 - m * m).max(0.0);
    linear_prefactor(tokens) * (effective_noise + weights)
}

/// `2K/T^2 = (T+1)/T`.
fn linear_prefactor(tokens: usize) -> f64 {
    2.0 * channel::dimension(tokens) as f64 / (tokens * tokens) as f64
}
