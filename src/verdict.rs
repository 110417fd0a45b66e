//! What a gauge of replica symmetry says, in either stage.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How far a replica-symmetric prediction can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Verdict {
    /// Agrees with simulation within error bars, everywhere it was compared.
    Good,
    /// Off by a few percent at most (`o_w` within 0.04).
    Marginal,
    /// Do not use.
    Unreliable,
}

impl Verdict {
    /// Good if `good`, else marginal if `marginal`, else unreliable. A comparison with a gauge that is not a number is false, so that such a
    /// gauge is no reason to trust.
    pub(crate) fn of(good: bool, marginal: bool) -> Self {
        if good {
            Self::Good
        } else if marginal {
            Self::Marginal
        } else {
            Self::Unreliable
        }
    }

    /// Whether the verdict is good or marginal.
    #[must_use]
    pub fn is_reliable(self) -> bool {
        self != Self::Unreliable
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Good => "good",
            Self::Marginal => "marginal",
            Self::Unreliable => "unreliable",
        })
    }
}
