//! Options for the solution of a scenario.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::check;
use crate::error::Error;
use crate::fixed_point::Tolerance;

/// The choice among several fixed points of the fine-tuning equations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Start {
    /// The iteration starts at a near-perfect overlap, `m` close to `sqrt(q q0)`.
    Informed,
    /// The iteration starts at a vanishing overlap. It finds the fixed point that an algorithm without side
    /// information reaches.
    Uninformed,
    /// Both fixed points are computed. The one with the lower train objective is returned where replica
    /// symmetry can be trusted, and else the informed one.
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

/// Numerical options, shared by both stages. A value of this type is always valid.
///
/// ```
/// use lora_asymptotics::Options;
///
/// let options = Options::default().with_log2_nodes(12)?.with_scrambles(16)?.with_seed(1);
/// assert_eq!(options.scrambles() << options.log2_nodes(), 65_536);
/// assert!(Options::default().with_log2_nodes(30).is_err());
/// # Ok::<(), lora_asymptotics::Error>(())
/// ```
#[derive(Default, Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "OptionsFields", into = "OptionsFields")]
pub struct Options(OptionsFields);

/// Numerical options, shared by both stages.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename = "Options")]
pub(crate) struct OptionsFields {
    /// Largest undamped residual of a converged solve; 1e-14 to 0.1. It follows the noise of the averages if it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    tolerance: Option<f64>,
    /// Bound on the number of iterations; 1 to 1,000,000.
    max_iterations: usize,
    /// `log2` of the number of quasi-Monte-Carlo nodes of one scramble; 6 to 20.
    #[serde(skip_serializing_if = "Option::is_none")]
    log2_nodes: Option<usize>,
    /// Number of independent scrambles; 1 to 64. Standard errors need at least 2.
    scrambles: usize,
    /// Seed of the scrambles.
    seed: u64,
    /// The choice among several fixed points of the fine-tuning stage.
    start: Start,
    #[serde(skip_serializing_if = "is_false")]
    finite_size: bool,
    /// `log2_nodes` if it is not given, which depends on what is averaged.
    #[serde(skip)]
    automatic_log2_nodes: usize,
}

/// Whether an option that is left out in JSON has its default.
fn is_false(option: &bool) -> bool {
    !option
}

impl Default for OptionsFields {
    fn default() -> Self {
        Self {
            tolerance: None,
            max_iterations: 1000,
            log2_nodes: None,
            scrambles: 8,
            seed: 0,
            start: Start::Best,
            finite_size: false,
            automatic_log2_nodes: 13,
        }
    }
}

impl TryFrom<OptionsFields> for Options {
    type Error = Error;

    fn try_from(fields: OptionsFields) -> Result<Self, Error> {
        if let Some(tolerance) = fields.tolerance
            && !(1e-14..=1e-1).contains(&tolerance)
        {
            return Err(Error::invalid("options.tolerance", tolerance, "between 1e-14 and 1e-1"));
        }
        check::integer("options.max_iterations", fields.max_iterations, 1, 1_000_000)?;
        let log2_nodes = fields.log2_nodes.unwrap_or(Self::MOST_AUTOMATIC_LOG2_NODES);
        check::integer("options.log2_nodes", log2_nodes, 6, 20)?;
        check::integer("options.scrambles", fields.scrambles, 1, 64)?;
        if fields.scrambles << log2_nodes > 1 << Self::MAX_LOG2_TOTAL {
            return Err(Error::invalid(
                "options.scrambles",
                fields.scrambles,
                format!("at most 2^({} - log2_nodes), to bound the memory", Self::MAX_LOG2_TOTAL),
            ));
        }
        Ok(Self(fields))
    }
}

impl From<Options> for OptionsFields {
    fn from(Options(fields): Options) -> Self {
        fields
    }
}

impl Options {
    /// `log2` of the largest number of nodes of all scrambles together.
    const MAX_LOG2_TOTAL: u32 = 23;
    /// The largest `log2_nodes` that is used if none is given.
    const MOST_AUTOMATIC_LOG2_NODES: usize = 14;

    /// Largest undamped residual, in the coordinates iterated on, of a converged solve.
    ///
    /// `None` (the default, left out in JSON) is an automatic tolerance. A map without noise is iterated to a residual
    /// of 1e-10. The map of an average over quasi-Monte-Carlo nodes is iterated to a twentieth of the standard
    /// error of its image, in its noisiest coordinate, and to 1e-3 at most, because a smaller residual would not make the result more
    /// accurate. With a single scramble the noise is unknown, and only 1e-10 counts as converged. A tolerance that is
    /// given is used for all maps, with noise or without.
    #[must_use]
    pub fn tolerance(&self) -> Option<f64> {
        self.0.tolerance
    }

    /// Bound on the number of iterations per fixed point, which is also the largest number that is reported;
    /// 1000 by default. Evaluations that do not move the iterate are not counted. They measure slopes,
    /// errors, and the residual of the point where the iterations ended.
    #[must_use]
    pub fn max_iterations(&self) -> usize {
        self.0.max_iterations
    }

    /// `log2` of the number of quasi-Monte-Carlo nodes of one scramble. The default is 13, with three exceptions: 12 in the pre-training of
    /// tied softmax attention, whose noise is a tenth of that of fine-tuning; 14 in the fine-tuning of linear attention with one column, whose
    /// averages are cheap; and 14 in the fine-tuning of softmax attention with two tokens on reused sequences, which has all of the noise of
    /// both stages together and less than half of the time. Where so many samples of softmax fine-tuning have several
    /// minima that the solution is not reliable, the default is `2^12` nodes of all scrambles together, unless a tolerance is given. The nodes of a stage,
    /// all scrambles together, may take at most 2 GiB of memory, which at 8 tokens is `2^20` nodes.
    #[must_use]
    pub fn log2_nodes(&self) -> usize {
        self.0.log2_nodes.unwrap_or(self.0.automatic_log2_nodes)
    }

    /// Whether the number of nodes is left to the library.
    pub(crate) fn has_automatic_nodes(&self) -> bool {
        self.0.log2_nodes.is_none()
    }

    /// Number of independent scrambles; 8 by default. Standard errors need at least 2.
    #[must_use]
    pub fn scrambles(&self) -> usize {
        self.0.scrambles
    }

    /// Seed of the scrambles; 0 by default. The same seed gives the same bits, whatever the number of threads.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.0.seed
    }

    /// The choice among several fixed points of the fine-tuning stage.
    #[must_use]
    pub fn start(&self) -> Start {
        self.0.start
    }

    /// Whether the coefficients of `D^{-1/2}` are computed, by which fine-tuning at a finite dimension `D` differs from the
    /// limit (see `lora::FiniteSize`); `false` by default, and left out in JSON then.
    #[must_use]
    pub fn finite_size(&self) -> bool {
        self.0.finite_size
    }

    /// These options with a given [tolerance](Self::tolerance).
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] unless it is between 1e-14 and 1e-1.
    pub fn with_tolerance(self, tolerance: f64) -> Result<Self, Error> {
        OptionsFields { tolerance: Some(tolerance), ..self.0 }.try_into()
    }

    /// These options with another [bound on the iterations](Self::max_iterations).
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] unless it is between 1 and 1,000,000.
    pub fn with_max_iterations(self, max_iterations: usize) -> Result<Self, Error> {
        OptionsFields { max_iterations, ..self.0 }.try_into()
    }

    /// These options with another [number of nodes](Self::log2_nodes).
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] unless `log2_nodes` is between 6 and 20, and all scrambles together have at most `2^23` nodes.
    pub fn with_log2_nodes(self, log2_nodes: usize) -> Result<Self, Error> {
        OptionsFields { log2_nodes: Some(log2_nodes), ..self.0 }.try_into()
    }

    /// These options with another [number of scrambles](Self::scrambles).
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] unless it is between 1 and 64, and all scrambles together have at most `2^23` nodes.
    pub fn with_scrambles(self, scrambles: usize) -> Result<Self, Error> {
        OptionsFields { scrambles, ..self.0 }.try_into()
    }

    /// These options with another [seed](Self::seed).
    #[must_use]
    pub fn with_seed(self, seed: u64) -> Self {
        Self(OptionsFields { seed, ..self.0 })
    }

    /// These options with another [start](Self::start).
    #[must_use]
    pub fn with_start(self, start: Start) -> Self {
        Self(OptionsFields { start, ..self.0 })
    }

    /// These options with or without the [coefficients of `D^{-1/2}`](Self::finite_size).
    #[must_use]
    pub fn with_finite_size(self, finite_size: bool) -> Self {
        Self(OptionsFields { finite_size, ..self.0 })
    }

    /// These options with another number of nodes if it is left to the library.
    pub(crate) fn with_automatic_log2_nodes(self, automatic_log2_nodes: usize) -> Self {
        debug_assert!(automatic_log2_nodes <= Self::MOST_AUTOMATIC_LOG2_NODES);
        Self(OptionsFields { automatic_log2_nodes, ..self.0 })
    }

    /// Whether averages over nodes need no more accuracy than their noise allows. The noise of a single scramble is unknown.
    pub(crate) fn follows_noise(&self) -> bool {
        self.0.tolerance.is_none() && self.0.scrambles > 1
    }

    /// The residual at which an iteration counts as converged.
    pub(crate) fn accuracy(&self) -> Tolerance {
        self.0.tolerance.map_or(Tolerance::Automatic, Tolerance::Fixed)
    }
}
