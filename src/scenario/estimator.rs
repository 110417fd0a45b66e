//! Which estimator of the weights is studied.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Which estimator of the weights is studied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Estimator {
    /// Empirical risk minimisation: the global minimum of the regularised train loss.
    #[default]
    Erm,
    /// The posterior mean: the least error that any algorithm can reach.
    BayesOptimal,
    /// Empirical risk minimisation, and the bound beside it.
    Both,
}

impl fmt::Display for Estimator {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Erm => "erm",
            Self::BayesOptimal => "bayes_optimal",
            Self::Both => "both",
        })
    }
}
