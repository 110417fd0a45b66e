//! The limits by which the search for fixed points of fine-tuning tells an overlap from none.
//!
//! Near the fixed point without overlap, one undamped iteration changes a small overlap by
//!
//! ```text
//! ln(m'/m) = ln G - c m^2/q,
//! ```
//!
//! where `G` is the factor of `growth` at `m = 0`. There is no linear term in `m`, because the equations do not
//! change under `m -> -m`. If `G > 1`, a fixed point with an overlap is at `m^2/q = (ln G)/c`, from which a unit test of
//! `starts.rs` measures `c`: it is between 0.2 and 0.8. If `G <= 1`, there is none nearby, and the overlap shrinks by the
//! factor `G` in every step.

use crate::std_error::standard_error;

/// The limits of the search, those of overlaps in units of `q0`.
///
/// A unit test doubles and halves each of them, and sees that no status, branch or number changes, in scenarios on
/// both sides of weak recovery and of collapse.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct OverlapLimits {
    /// Largest residual, in `ln m`, at which the overlap of an iteration that has stalled is still believed. Such a
    /// residual moves `m^2/q` by `close/c`, which is 0.05 at most.
    pub(super) close: f64,
    /// `m^2/q` above which the overlap of such an iteration does not vanish. It is `close/c` for the smallest `c`: a
    /// fixed point with an overlap is then within reach of the residual, and the overlap of an iteration towards `m = 0`
    /// has a larger residual. A larger value costs time only: the fixed point without overlap is solved as
    /// well, and it is returned only if it is stable.
    pub(super) weak: f64,
    /// `m^2/q` below which an iterate is on its way to `m = 0`. A fixed point with such an overlap has
    /// `ln G` of about the same size, and `alpha'` is then within a similar relative distance of weak recovery. The
    /// averages over nodes do not tell two so close values of `alpha'` apart: their relative errors are larger
    /// than 1e-6.
    pub(super) vanishing: f64,
    /// `q` below which the criterion of collapse is evaluated. The criterion decides, and not this limit. It is
    /// far above the `q` at which an iteration towards `w = 0` ends, and a larger value costs time only.
    pub(super) gone: f64,
    /// Relative excess of the train objective without overlap, on few nodes, up to which that fixed point is solved on
    /// all nodes. It allows for the distance of the fixed points of few nodes from those of all nodes, and a larger
    /// value costs time only.
    pub(super) excess: f64,
    /// Relative growth of a small overlap in one iteration, on few nodes, up to which the fixed point without overlap may
    /// be stable. It allows for the same distance, and a larger value costs time only.
    pub(super) growth: f64,
    /// Number of standard errors by which a mean over few nodes has to exceed `excess` or `growth`. A larger value costs
    /// time only. The judgement is wrong once in some hundred cases in which the truth is exactly on the edge: four standard
    /// errors from eight replicates are exceeded on one side with a probability of 0.3%.
    pub(super) doubt: f64,
}

impl Default for OverlapLimits {
    fn default() -> Self {
        Self { close: 1e-2, weak: 0.05, vanishing: 1e-10, gone: 1e-4, excess: 0.05, growth: 0.1, doubt: 4.0 }
    }
}

impl OverlapLimits {
    /// Whether an iterate is on its way to `m = 0`.
    pub(super) fn vanishes(&self, m: f64, q: f64) -> bool {
        m > 0.0 && m * m < self.vanishing * q
    }

    /// Whether the fixed point without overlap may have the lower train objective, from the objectives there and at the informed
    /// fixed point for every replicate on the same few nodes: their difference has a much smaller error than either of them.
    pub(super) fn may_be_lower(&self, nothing: &[f64], informed: &[f64]) -> bool {
        let excess: Vec<f64> = nothing.iter().zip(informed).map(|(a, b)| a - b).collect();
        let scale = informed.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
        self.at_least(&excess).is_none_or(|excess| excess < self.excess * scale)
    }

    /// Whether a small overlap grows beyond doubt, from the factor of its growth for every replicate on few nodes.
    pub(super) fn surely_grows(&self, growths: &[f64]) -> bool {
        self.at_least(growths).is_some_and(|growth| growth > 1.0 + self.growth)
    }

    /// A share that the jumps exceed beyond doubt, from their share for every replicate on few nodes. It allows for the distance of
    /// the fixed points of few nodes from those of all nodes.
    pub(super) fn least_share(&self, shares: &[f64]) -> f64 {
        const ALLOWANCE: f64 = 0.5;
        self.at_least(shares).map_or(0.0, |share| ALLOWANCE * share)
    }

    /// The mean of the numbers of several replicates less what it may be wrong by; `None` if it is not a number, or if there are too
    /// few replicates for a standard error that tells much.
    fn at_least(&self, replicates: &[f64]) -> Option<f64> {
        const FEWEST: usize = 4;
        let mean = replicates.iter().sum::<f64>() / replicates.len() as f64;
        let error = standard_error(replicates.iter().copied()).unwrap_or(0.0);
        Some(mean - self.doubt * error).filter(|x| x.is_finite() && replicates.len() >= FEWEST)
    }

    /// Whether the overlap is too large to be on its way to `m = 0` at a residual of at most `close`.
    pub(super) fn is_strong(&self, m: f64, q: f64) -> bool {
        m * m > self.weak * q
    }
}
