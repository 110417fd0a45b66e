//! How to solve, as opposed to what to solve.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, check};

/// Which fixed point of the fine-tuning equations to return.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Start {
    /// Iterate from near-perfect overlap, `m` close to `sqrt(q q0)`.
    Informed,
    /// Iterate from a vanishing overlap: what an algorithm without side information reaches.
    Uninformed,
    /// Both; the lower train objective wins where replica symmetry can be trusted, else the informed one.
    #[default]
    Best,
}

impl fmt::Display for Start {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Informed => "informed",
            Self::Uninformed => "uninformed",
            Self::Best => "best",
        })
    }
}

/// Numerical options, shared by both stages.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Largest undamped residual, in the coordinates iterated on, of a converged solve. In `[1e-14, 1e-1]`.
    pub tolerance: f64,
    /// Bound on the iterations per fixed point, at least 1. A few evaluations more measure slopes and errors.
    pub max_iterations: usize,
    /// `log2` of the number of quasi-Monte-Carlo nodes of one scramble: 6 to 20.
    pub log2_nodes: usize,
    /// Number of independent scrambles: 1 to 64. Standard errors need at least 2.
    pub scrambles: usize,
    /// Seed of the scrambles. The same seed gives the same bits, whatever the number of threads.
    pub seed: u64,
    /// Which fixed point of the fine-tuning stage to return.
    pub start: Start,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tolerance: 1e-10,
            max_iterations: 1000,
            log2_nodes: 14,
            scrambles: 4,
            seed: 0,
            start: Start::Best,
        }
    }
}

impl Options {
    /// `log2` of the largest number of nodes of all scrambles together.
    const MAX_LOG2_TOTAL: u32 = 22;

    /// Checks every field.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] names the first field that is out of range.
    pub fn validate(&self) -> Result<(), Error> {
        if !(self.tolerance >= 1e-14 && self.tolerance <= 1e-1) {
            return Err(Error::invalid("options.tolerance", self.tolerance, "between 1e-14 and 1e-1"));
        }
        check::integer("options.max_iterations", self.max_iterations, 1, 1_000_000)?;
        check::integer("options.log2_nodes", self.log2_nodes, 6, 20)?;
        check::integer("options.scrambles", self.scrambles, 1, 64)?;
        if self.scrambles << self.log2_nodes > 1 << Self::MAX_LOG2_TOTAL {
            return Err(Error::invalid(
                "options.scrambles",
                self.scrambles,
                format!("at most 2^({} - log2_nodes), to bound the memory", Self::MAX_LOG2_TOTAL),
            ));
        }
        Ok(())
    }
}
