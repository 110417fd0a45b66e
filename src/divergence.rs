//! The two estimators of the divergences of an output channel.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The estimator that gave the divergences of `g`. Both estimators are exact on average; the more accurate
/// one is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Divergence {
    /// The Jacobian of the proximal point, plus the surface terms where the proximal point jumps. It has the
    /// least noise where jumps are rare.
    PointwiseAndJump,
    /// Gaussian integration by parts, which is used where jumps dominate.
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
