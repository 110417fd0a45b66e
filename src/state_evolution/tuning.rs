//! The constants of the search. They steer its speed and its reach, not the fixed points that it finds.

use crate::fixed_point::Method;

/// How long, and in which way, a map is iterated.
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
    /// Numbers of nodes of the two cheap levels of quasi-Monte-Carlo averages, in increasing order. At the first of them a fixed point is
    /// known to about a percent, which is within the reach of Newton's method at the next.
    pub coarse_nodes: [usize; 2],
    /// The approach from a start to the neighbourhood of a fixed point, on the cheapest level.
    pub approach: Effort,
    /// The second approach, where the first one failed: slow, the way that the dynamics flows.
    pub detour: Effort,
    /// The iteration on finer levels, with slopes known from a cheap one.
    pub polish: Effort,
    /// Residual at which the cheapest level hands over to the next.
    pub first_tolerance: f64,
    /// Residual at which a middle level hands over to the next.
    pub middle_tolerance: f64,
    /// Residual of an approach that needs no detour: the jumps of few nodes may keep it from `first_tolerance`.
    pub close: f64,
    /// Residual of an approach beyond which finer levels are not tried.
    pub hopeless: f64,
    /// Logarithmic step of the finite differences that measure the slopes: large against the jumps of sampled averages.
    pub difference: f64,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            coarse_nodes: [1 << 9, 1 << 11],
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
            close: 1e-2,
            hopeless: 0.1,
            difference: 1e-2,
        }
    }
}
