//! The verdict of the gauges of replica symmetry, in either stage.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A verdict tells how far a replica-symmetric prediction can be trusted. A worse verdict is the larger one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Verdict {
    /// The prediction agrees with simulation within error bars, everywhere it was compared.
    Good,
    /// The prediction is off by a few percent at most (`o_w` within 0.04).
    Marginal,
    /// The prediction must not be used.
    Unreliable,
}

impl Verdict {
    /// Good if `good`, else marginal if `marginal`, else unreliable. A comparison with a NaN is false, so
    /// that a gauge that is NaN is never a reason to trust the prediction.
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

    /// Advice on what to do with the prediction.
    #[must_use]
    pub fn hint(self) -> &'static str {
        match self {
            Self::Good => "the prediction can be used",
            Self::Marginal => "expect errors of some percent",
            Self::Unreliable => {
                "do not use this prediction: replica symmetry needs more data or a larger ridge"
            }
        }
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
