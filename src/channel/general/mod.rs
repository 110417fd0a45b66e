//! The general proximal operator: for any [`Activation`], and for logits that depend in any way on `n`
//! coordinates `x`, the global minimum of
//!
//! ```text
//! |sigma(h(x)) - y|_F^2 + sum_i (stiffness_i/2) (x_i - omega_i)^2
//! ```
//!
//! for a batch of samples. All sizes are known at run time only. The fast kernels of linear attention and of
//! softmax are specialisations, and are tested against this one.
//!
//! In pre-training, `h(x)` are the symmetric logits with coordinates `x` and `stiffness = 1/(2V)`. In
//! fine-tuning, `h(x) = z + b (chi chi^T - tr(q) I)` with `x = chi` and `stiffness = 1/v`.

mod descent;
mod logits;
mod replicas;
mod search;

use crate::activation::Activation;

pub(crate) use descent::{Local, Prox, inverse};
pub(crate) use logits::{CoordinateBasis, Perturbation};
pub(crate) use replicas::GeneralReplicas;
pub(crate) use search::Known;

/// Number of samples of a batch, for proximal problems with `n` coordinates. The derivatives of a batch then
/// fit into the cache of a processor.
pub(crate) fn batch_size(tokens: usize, n: usize) -> usize {
    const NUMBERS: usize = 1 << 13;
    let fit = NUMBERS / (n * tokens * tokens).max(1);
    [64, 32, 16].into_iter().find(|size| *size <= fit).unwrap_or(8)
}

/// `sigma` of a batch of logits.
pub(crate) fn attention(activation: &dyn Activation, tokens: usize, logits: &[f64]) -> Vec<f64> {
    let mut attention = vec![0.0; logits.len()];
    activation.attention(tokens, logits, &mut attention);
    attention
}
