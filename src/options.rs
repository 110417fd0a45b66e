//! How to solve, as opposed to what to solve.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::check;
use crate::error::Error;
use crate::fixed_point::Tolerance;

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
    ///
    /// `None` (left out in JSON) is automatic. Every iteration aims at 1e-10. The map of an average over quasi-Monte-Carlo nodes
    /// has jumps, at which an iteration may stall; with a residual of at most a twentieth of the standard error of the
    /// image, in its noisiest coordinate, it is converged then, too: the tolerance belongs to the noise. With a single scramble
    /// nothing is known about the noise, and only 1e-10 is converged. A given tolerance holds as it is, noise or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<f64>,
    /// Bound on the iterations per fixed point, at least 1, and on the number of iterations that is reported. Evaluations that do
    /// not move the iterate are not counted: those that measure slopes, errors, and the residual of the point where the
    /// iterations ended.
    pub max_iterations: usize,
    /// `log2` of the number of quasi-Monte-Carlo nodes of one scramble: 6 to 20. The nodes of a stage may take 2 GiB of memory at
    /// most, all scrambles together: at 8 tokens, `2^20` of them do.
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
            tolerance: None,
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
        if let Some(tolerance) = self.tolerance
            && !(1e-14..=1e-1).contains(&tolerance)
        {
            return Err(Error::invalid("options.tolerance", tolerance, "between 1e-14 and 1e-1"));
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

    /// Which residual is small enough.
    pub(crate) fn tolerance(&self) -> Tolerance {
        self.tolerance.map_or(Tolerance::Automatic, Tolerance::Fixed)
    }
}
