//! Which estimator of the divergences of an output channel was used.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Which estimator gave the divergences of `g`. Both are exact on average; the better one is chosen by regime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Divergence {
    /// The Jacobian of the proximal point, plus the surface terms where it jumps: least noise where jumps are rare.
    PointwiseAndJump,
    /// Gaussian integration by parts: where jumps dominate.
    IntegrationByParts,
}

impl fmt::Display for Divergence {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::PointwiseAndJump => "pointwise_and_jump",
            Self::IntegrationByParts => "integration_by_parts",
        })
    }
}
