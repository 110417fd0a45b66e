//! The constants of the search. They change its speed and its range, but not the fixed points that it finds, unless a channel ends the
//! search on a cheap level.

use crate::fixed_point::Method;

/// The update rule of an iteration, and the bounds on its length.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Effort {
    /// The update rule.
    pub method: Method,
    /// Bound on the number of evaluations.
    pub evaluations: usize,
    /// Number of evaluations without a 10% lower residual after which the iteration has stalled.
    pub patience: usize,
}

/// The constants of a [`StateEvolution`](crate::state_evolution::StateEvolution). Residuals are undamped, in logarithms of the coordinates.
///
/// A test doubles and halves each of them and sees every answer move by less than a standard error.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Tuning {
    /// Numbers of nodes of the two cheap levels of quasi-Monte-Carlo averages, all replicates together, in increasing
    /// order. The first level gives a fixed point to some percent, from which Newton's method converges on the next level.
    pub coarse_nodes: [usize; 2],
    /// The approach from a start to the neighbourhood of a fixed point, on the cheapest level.
    pub approach: Effort,
    /// The second approach, used if the first one fails. It is slow and follows the flow of the dynamics.
    pub detour: Effort,
    /// The iteration on finer levels, with slopes measured on a cheap level.
    pub polish: Effort,
    /// Residual at which the search goes from the cheapest level to the next.
    pub first_tolerance: f64,
    /// Residual at which the search goes from a middle level to the next.
    pub middle_tolerance: f64,
    /// Residual, in units of the standard error of the image, at which the search goes from a cheap level to the next
    /// in any case: the fixed point of the next level is some standard errors away.
    pub share: f64,
    /// Residual, in units of the one at which the search leaves a level, from which one more step with the measured slopes
    /// is expected to suffice. The search then leaves the level with that step, and without evaluating its end. The slopes of a
    /// cheap level are right to some five percent, so that a step makes the residual at least ten times smaller.
    pub leap: f64,
    /// Residual below which an approach needs no detour. The jumps of few nodes may keep an approach above
    /// `first_tolerance`.
    pub close: f64,
    /// Residual above which an approach is not continued on finer levels.
    pub hopeless: f64,
    /// Logarithmic step of the finite differences that measure the slopes. It is large compared with the
    /// jumps of sampled averages.
    pub difference: f64,
    /// Logarithmic step of the finite differences that measure the slopes again where the averages jump so often that
    /// [`Tuning::difference`] does not average over the jumps. Both are bounded by
    /// [`Overlaps::largest_differences`](crate::state_evolution::Overlaps::largest_differences).
    pub rough_difference: f64,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            coarse_nodes: [1 << 10, 1 << 13],
            approach: Effort {
                method: Method::Anderson { memory: 5, mixing: 0.7, warmup: 5, max_step: 0.7 },
                evaluations: 300,
                patience: 20,
            },
            detour: Effort { method: Method::Damped { mixing: 0.4 }, evaluations: 300, patience: 20 },
            polish: Effort {
                method: Method::Anderson { memory: 5, mixing: 1.0, warmup: 0, max_step: 0.3 },
                evaluations: 60,
                patience: 10,
            },
            first_tolerance: 1e-4,
            middle_tolerance: 1e-6,
            share: 0.1,
            leap: 10.0,
            close: 1e-2,
            hopeless: 0.1,
            difference: 4e-2,
            rough_difference: 0.2,
        }
    }
}
