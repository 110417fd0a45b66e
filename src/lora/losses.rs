//! The output channel of fine-tuning.

use super::moments::{Moments, Point};
use super::zero_weights::ZeroWeights;
use crate::divergence::Divergence;
use crate::state_evolution::OutputChannel;

/// The losses of fine-tuning, whatever the activation.
pub(super) trait Losses: OutputChannel<Point = Point, Averages = Moments> {
    /// The estimator of the divergences with the smaller error where jumps are rare.
    fn smooth_divergence(&self) -> Divergence;

    /// What decides whether the weights vanish altogether; `None` for a loss that never lets them.
    fn zero_weights(&mut self) -> Option<&ZeroWeights> {
        None
    }
}
