//! The averages over the posterior that every activation must provide.

/// One coordinate of all nodes, as standard normals.
pub(super) type Column = Vec<f64>;

/// The averages over the posterior at one overlap.
#[derive(Debug, Clone, Copy)]
pub(super) struct Responses {
    /// `S/q` with `S = (1-q) G`.
    pub(super) slope: f64,
}

impl Responses {
    /// The responses from the sums over `count` samples of `|E chi - omega|^2` and of `tr Cov chi`, at prior
    /// variance `v`. Both sums estimate `S`. The first has the smaller error at small overlaps, the second at
    /// large ones, and the result weights them accordingly.
    pub(super) fn new(tokens: usize, v: f64, [moved, variance]: [f64; 2], count: usize) -> Self {
        let q = 1.0 - v;
        let count = count as f64;
        let (by_mean, by_variance) = (moved / count / v, tokens as f64 - variance / count / v);
        Self { slope: (v * by_mean + q * by_variance) / q }
    }
}

/// The posterior averages over the nodes of one scramble.
pub(super) trait Kernel: Send + Sync {
    fn responses(&self, overlap: f64) -> Responses;
}
