//! The status of a solve tells how it ended.

use serde::{Deserialize, Serialize};

/// The way in which a solve ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Status {
    /// The residual is within the tolerance.
    Converged,
    /// The learned weights are exactly zero, by the collapse criterion. This is the correct solution and not
    /// a failure.
    Collapsed,
    /// The quasi-Monte-Carlo map stalls at its own jumps, at a residual below its own statistical error.
    NoiseLimited,
    /// The residual stopped improving, at a value above the tolerance.
    Stalled,
    /// The bound on the number of iterations was reached.
    MaxIterations,
    /// The observer ended the solve. The solution is the best iterate so far.
    Interrupted,
    /// The map gave values that are not finite, or the result overflows. The numbers are then NaN (`null` in
    /// JSON).
    NonFinite,
}

impl Status {
    /// Whether the solution is a fixed point: the solve converged or collapsed.
    #[must_use]
    pub fn is_success(self) -> bool {
        matches!(self, Self::Converged | Self::Collapsed)
    }

    /// Advice on what to try next.
    #[must_use]
    pub fn hint(self) -> &'static str {
        match self {
            Self::Converged | Self::Collapsed => "nothing to do",
            Self::NoiseLimited => {
                "use more nodes (options.log2_nodes), or accept the residual (options.tolerance)"
            }
            Self::Stalled => "use more nodes, another start, or a larger alpha or lambda",
            Self::MaxIterations => "allow more iterations (options.max_iterations)",
            Self::Interrupted => "solve again, starting from this solution",
            Self::NonFinite => "the parameters are too extreme for double precision: rescale them",
        }
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.pad(match self {
            Self::Converged => "converged",
            Self::Collapsed => "collapsed",
            Self::NoiseLimited => "noise_limited",
            Self::Stalled => "stalled",
            Self::MaxIterations => "max_iterations",
            Self::Interrupted => "interrupted",
            Self::NonFinite => "non_finite",
        })
    }
}
