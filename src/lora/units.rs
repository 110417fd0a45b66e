//! The units of the solvers: `q0 = 1`, and a loss in its own unit.

use super::moments::VectorOverlaps;
use super::ridge::SMALLEST_S2;
use super::solution::FinetuningOrder;

/// Sizes of the units. With `chi` in units of `sqrt(q0)`, the response `v` is in units of `q0/loss`. The
/// ridge is in units of `loss/q0`, like all conjugates of second derivatives.
#[derive(Debug, Clone, Copy)]
pub(super) struct Units {
    /// Unit of `q`, `m` and the square of `chi`.
    pub(super) q0: f64,
    /// Unit of the loss and of the objective.
    pub(super) loss: f64,
}

impl Units {
    /// `loss/q0`.
    pub(super) fn stiffness(&self) -> f64 {
        self.loss / self.q0
    }

    /// `lambda'` in these units.
    pub(super) fn scaled_ridge(&self, lambda: f64) -> f64 {
        lambda / self.stiffness()
    }

    /// The point of a solution in these units, as a start; `None` if it has no overlap or is not a solution.
    pub(super) fn point(&self, order: &FinetuningOrder) -> Option<VectorOverlaps> {
        let (q, m, v) = (order.q / self.q0, order.m / self.q0, order.v * self.stiffness());
        let s2 = (q - m * m).max(SMALLEST_S2);
        [s2, m, v].iter().all(|x| x.is_finite() && *x > 0.0).then_some(VectorOverlaps { m, s2, v })
    }
}
