//! The channel without effective noise: `chi` is seen up to its sign, and only the sign is unknown.
//!
//! Then `E[chi | Y, omega] = chi tanh(chi.omega/V)`, for linear attention and, with two tokens or more, for
//! softmax.

use super::kernel::{Column, Kernel, Responses};
use crate::quadrature::ChiQuantile;

/// The samples of one scramble: `|chi|`, and the parts of the free part of `omega` along `chi` and across it.
pub(super) struct Noiseless {
    tokens: usize,
    samples: Vec<[f64; 3]>,
}

impl Noiseless {
    /// Number of standard normals that a sample takes.
    pub(super) const DIMENSIONS: usize = 3;

    /// The kernel for the given number of tokens. `across` is the law of the norm of `T - 1` standard
    /// normals; it is `None` for one token.
    pub(super) fn new(
        tokens: usize,
        radius: &ChiQuantile,
        across: Option<&ChiQuantile>,
        columns: &[Column],
    ) -> Self {
        let nodes = columns.first().map_or(0, Vec::len);
        let sample = |node: usize| {
            let beside = across.map_or(0.0, |law| law.at(columns[2][node]));
            [radius.at(columns[0][node]), columns[1][node], beside]
        };
        Self { tokens, samples: (0..nodes).map(sample).collect() }
    }
}

impl Kernel for Noiseless {
    fn responses(&self, overlap: f64) -> Responses {
        let v = 1.0 - overlap;
        let spread = (overlap * v).sqrt();
        let mut sums = [0.0; 2];
        for [length, free, beside] in &self.samples {
            let omega = overlap * length + spread * free;
            let mean = length * (length * omega / v).tanh();
            sums[0] += (mean - omega).powi(2) + (spread * beside).powi(2);
            sums[1] += length * length - mean * mean;
        }
        Responses::new(self.tokens, v, sums, self.samples.len())
    }
}
