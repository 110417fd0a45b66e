//! The estimator of the weights that a scenario studies.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The estimator of the weights that a scenario studies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Estimator {
    /// Empirical risk minimisation: the global minimum of the regularised train loss.
    #[default]
    Erm,
    /// The posterior mean, which has the least error that any algorithm can reach.
    BayesOptimal,
    /// Empirical risk minimisation, with the Bayes-optimal bound beside it.
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
