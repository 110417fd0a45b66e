//! The input channel: the ridge problem for the weights, which turns the averages into order parameters.

use super::validity::FinetuningValidity;
use crate::divergence::Divergence;
use crate::losses::by_parts;
use crate::losses::vector::{Moments, VectorOverlaps, term};
use crate::state_evolution::InputChannel;
use crate::verdict::Verdict;

/// Smallest variance of `omega` given `chi*`, in units of `q0`, at which the iteration goes on. An iteration
/// towards perfect recovery ends here. At smaller variances the rounding errors of `g`, which is of the order
/// of the root of the variance, would keep the residual above the tolerance.
pub(super) const SMALLEST_S2: f64 = 1e-14;

/// Smallest factor on a positive overlap in one step. The overlap of a single step may be negative. At a fixed
/// point the factor is 1, so that this bound, which is below 1, neither makes a fixed point nor removes one.
const LARGEST_LOSS: f64 = 0.1;

/// Factor on `v` where the curvature is negative. At a small response the curvature is positive. No such point is
/// a fixed point, because `1/v` is the curvature at a fixed point. The residual there is `|ln 0.02| = 3.9`, far above
/// every residual that is accepted, so that the factor steers the path only.
const RETREAT: f64 = 0.02;

/// Share of the jumps in `vhat` above which integration by parts has the smaller error. It is the limit of a marginal
/// verdict. Both estimators are exact on average, so that the limit decides the size of an error and not the answer; a
/// unit test of `starts.rs` sees this.
pub(super) const JUMPS_DOMINATE: f64 = 0.13;

/// How the share of the jumps in the response is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JumpGauge {
    /// The surface terms of the divergence are known in closed form.
    Surface,
    /// The share is the difference between integration by parts and the pointwise divergence.
    Difference,
}

/// The parameters that close the equations, in units of `q0`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ridge {
    pub(super) tokens: f64,
    pub(super) alpha: f64,
    pub(super) lambda: f64,
    pub(super) divergence: Divergence,
    pub(super) gauge: JumpGauge,
    /// Share of the jumps in `vhat` above which the divergences are taken by parts.
    pub(super) by_parts_above: f64,
}

/// The conjugate order parameters of fine-tuning: what the losses tell the weights.
///
/// In their terms, a coordinate `w` of the weights minimises
/// `(vhat/2 + eta) w^2 - (mhat w* + sqrt(qhat) z) w + P(w)`, for a standard normal `z` and a penalty `P` per coordinate.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Conjugates {
    /// `vhat = alpha' E[-div_omega g]`.
    pub v_hat: f64,
    /// `mhat = alpha' E[div_chi* g]`.
    pub m_hat: f64,
    /// `qhat = alpha' E|g|^2`.
    pub q_hat: f64,
    /// `eta = alpha' E[dl'/dq]`: the shift of the ridge, because the centring of `h1(w)` depends on `|w|^2`.
    pub eta: f64,
}

impl VectorOverlaps {
    /// The point with other order parameters, if they are possible, and else the nearest possible one: an overlap
    /// that is positive stays positive, and one that vanishes stays zero.
    pub(super) fn moved_to(&self, m: f64, s2: f64, v: f64) -> Self {
        let m = if self.m > 0.0 { m.max(LARGEST_LOSS * self.m).max(f64::MIN_POSITIVE) } else { 0.0 };
        Self { m, s2: s2.max(SMALLEST_S2), v }
    }

    /// The point from which an iteration goes on where the curvature is negative.
    pub(super) fn retreated(&self) -> Self {
        Self { v: RETREAT * self.v, ..*self }
    }
}

impl Ridge {
    pub(super) fn conjugates(&self, point: &VectorOverlaps, moments: &Moments) -> Conjugates {
        let [omega, star] = match self.divergence {
            Divergence::PointwiseAndJump => [
                moments[term::DIVERGENCE_OMEGA] + moments[term::JUMP_OMEGA],
                moments[term::DIVERGENCE_STAR] + moments[term::JUMP_STAR],
            ],
            Divergence::IntegrationByParts => divergences_by_parts(point, moments, self.tokens),
        };
        Conjugates {
            v_hat: -self.alpha * omega,
            m_hat: self.alpha * star,
            q_hat: self.alpha * moments[term::GRADIENT2],
            eta: self.alpha * moments[term::CENTRING],
        }
    }

    /// `J`: the share of the jumps in `vhat`.
    pub(super) fn jump_share(&self, point: &VectorOverlaps, moments: &Moments) -> f64 {
        let v_hat = self.conjugates(point, moments).v_hat;
        let jump = match self.gauge {
            JumpGauge::Surface => moments[term::JUMP_OMEGA],
            JumpGauge::Difference => -v_hat / self.alpha - moments[term::DIVERGENCE_OMEGA],
        };
        // f64::min drops a NaN. Jumps without any response, and jumps that are NaN, therefore count as the
        // largest number.
        if jump <= 0.0 { 0.0 } else { (self.alpha * jump / v_hat.abs()).min(f64::MAX) }
    }

    /// The best verdict that a share `jump` of the jumps allows.
    pub(super) fn best_verdict(&self, jump: f64) -> Verdict {
        match self.gauge {
            JumpGauge::Surface => FinetuningValidity::linear(jump, 0.0, true),
            JumpGauge::Difference => FinetuningValidity::sampled(jump, 0.0),
        }
        .verdict
    }

    /// The verdict on replica symmetry.
    pub(super) fn validity(&self, point: &VectorOverlaps, moments: &Moments) -> FinetuningValidity {
        self.validity_of_spread(point, moments, 1.0)
    }

    /// The verdict on replica symmetry for weights whose responses differ from one coordinate to another:
    /// `spread` is the mean of their squares, over the square of their mean `v`. A ridge gives all coordinates the
    /// same response.
    pub(super) fn validity_of_spread(
        &self,
        point: &VectorOverlaps,
        moments: &Moments,
        spread: f64,
    ) -> FinetuningValidity {
        let jump = self.jump_share(point, moments);
        let replicon = self.alpha * moments[term::REPLICON] * spread;
        match self.gauge {
            JumpGauge::Surface => {
                FinetuningValidity::linear(jump, replicon, self.conjugates(point, moments).v_hat > 0.0)
            }
            JumpGauge::Difference => FinetuningValidity::sampled(jump, replicon),
        }
    }

    /// The train objective.
    pub(super) fn objective(&self, point: &VectorOverlaps, moments: &Moments) -> f64 {
        self.alpha * moments[term::LOSS] + self.lambda * point.q()
    }

    /// The growth factor of a small `m` at `m = 0`. The fixed point is unstable if it is above 1.
    pub(super) fn growth(&self, point: &VectorOverlaps, moments: &Moments) -> f64 {
        let Conjugates { v_hat, eta, .. } = self.conjugates(point, moments);
        (v_hat + self.alpha * moments[term::STABILITY]) / (v_hat + 2.0 * self.lambda + 2.0 * eta)
    }
}

impl InputChannel for Ridge {
    type Point = VectorOverlaps;
    type Averages = Moments;

    /// Far from the fixed point the curvature `r = vhat + 2 lambda + 2 eta` may be negative, or `m` may
    /// change its sign. The image then moves in the direction that restores the sign.
    fn image(&self, point: &VectorOverlaps, moments: &Moments) -> VectorOverlaps {
        let Conjugates { v_hat, m_hat, q_hat, eta } = self.conjugates(point, moments);
        let r = v_hat + 2.0 * self.lambda + 2.0 * eta;
        if r <= 0.0 {
            return point.retreated();
        }
        point.moved_to(m_hat / r, q_hat / (r * r), 1.0 / r)
    }

    /// After the approach, the divergences are taken by parts if jumps dominate the response.
    fn reconsider(&mut self, settled: bool, point: &VectorOverlaps, moments: &Moments) -> bool {
        let by_parts = !settled
            && self.divergence != Divergence::IntegrationByParts
            && self.jump_share(point, moments) > self.by_parts_above;
        if by_parts {
            self.divergence = Divergence::IntegrationByParts;
        }
        by_parts
    }

    /// Whether the nodes resolve the weights. Weights close to zero are exponentially small in the ridge, and
    /// come from samples too rare for the nodes.
    fn resolves(&self, point: &VectorOverlaps) -> bool {
        point.q() > 10.0 * SMALLEST_S2
    }
}

/// `E div_omega g` and `E div_chi* g` by Gaussian integration by parts. The least-squares fit `g = A omega + B chi*` has
/// `E div_omega g = T A` and `E div_chi* g = T B`. The fit is done in `f` and `chi*`, where `omega = m chi* + s f`,
/// since `omega` and `chi*` are nearly parallel close to perfect recovery.
fn divergences_by_parts(point: &VectorOverlaps, moments: &Moments, tokens: f64) -> [f64; 2] {
    let overlaps = moments.of([term::GRADIENT_FREE, term::GRADIENT_STAR]);
    let seconds = moments.of([term::FREE2, term::FREE_STAR, term::STAR2]);
    let [along_free, along_star] = by_parts::slopes(overlaps, seconds);
    let a = along_free / point.deviation();
    [tokens * a, tokens * (along_star - point.m * a)]
}
