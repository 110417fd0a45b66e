//! The output channel of fine-tuning.

use super::moments::{Moments, VectorOverlaps};
use super::zero_weights::ZeroWeights;
use crate::divergence::Divergence;
use crate::state_evolution::OutputChannel;

/// The losses of fine-tuning, for any kernel.
pub(crate) trait FinetuningLosses: OutputChannel<Point = VectorOverlaps, Averages = Moments> {
    /// The estimator of the divergences that has the smaller error where jumps are rare.
    fn smooth_divergence(&self) -> Divergence;

    /// The curvatures that decide whether the weights vanish altogether, on the nodes of a level; `None` for a loss
    /// under which the weights never vanish.
    fn zero_weights(&mut self, _level: usize) -> Option<&ZeroWeights> {
        None
    }
}
