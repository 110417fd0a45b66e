//! The units of the solvers: `q0 = 1`, and a loss in its own unit.

use super::ridge::{Conjugates, SMALLEST_S2};
use super::solution::FinetuningOrder;
use crate::losses::vector::VectorOverlaps;

/// Sizes of the units. With `chi` in units of `sqrt(q0)`, the response `v` is in units of `q0/loss`. The
/// ridge is in units of `loss/q0`, like all conjugates of second derivatives.
#[derive(Debug, Clone, Copy, PartialEq)]
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

    /// The order parameters in these units.
    pub(super) fn scaled(&self, q: f64, m: f64, v: f64) -> VectorOverlaps {
        let (q, m, v) = (q / self.q0, m / self.q0, v * self.stiffness());
        VectorOverlaps { m, s2: q - m * m, v }
    }

    /// Conjugates in physical units.
    pub(super) fn physical(&self, conjugates: &Conjugates) -> Conjugates {
        let Conjugates { v_hat, m_hat, q_hat, eta } = *conjugates;
        let stiffness = self.stiffness();
        Conjugates {
            v_hat: stiffness * v_hat,
            m_hat: stiffness * m_hat,
            q_hat: self.loss * stiffness * q_hat,
            eta: stiffness * eta,
        }
    }

    /// The point of a solution in these units, as a start; `None` if it has no overlap or is not a solution.
    pub(super) fn point(&self, order: &FinetuningOrder) -> Option<VectorOverlaps> {
        let VectorOverlaps { m, s2, v } = self.scaled(order.q, order.m, order.v);
        let s2 = s2.max(SMALLEST_S2);
        [s2, m, v].iter().all(|x| x.is_finite() && *x > 0.0).then_some(VectorOverlaps { m, s2, v })
    }
}
