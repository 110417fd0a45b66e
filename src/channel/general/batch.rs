//! Batches of samples.

use crate::activation::Activation;
use crate::lanes::{LANES, Lane};

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

/// Adds the squared Frobenius norm of the difference of two `T x T` matrices for every sample to the lane of the sample.
pub(crate) fn add_squared_differences(tokens: usize, x: &[f64], y: &[f64], sum: &mut Lane) {
    for (k, (x, y)) in x.iter().zip(y).enumerate() {
        sum[k / (tokens * tokens) % LANES] += (x - y) * (x - y);
    }
}
