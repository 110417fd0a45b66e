//! The reason why a stage has no solution.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The reason why a stage that was asked for has no solution. JSON has `{"status": "skipped", "reason": ..}` in
/// the place of the solution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Skipped {
    /// The pre-training did not converge, so that there is nothing to fine-tune. The status of the pre-training
    /// tells why.
    PretrainNotConverged,
}

impl fmt::Display for Skipped {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::PretrainNotConverged => "pretrain_not_converged",
        })
    }
}
