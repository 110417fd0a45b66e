//! The one error type of the crate.

use std::fmt::{self, Display};

use crate::fixed_point::Status;

/// Everything that can go wrong before a number exists, and the refusal to treat an unconverged number as one.
///
/// An invalid input is always an `Err`; a solve that does not converge is an `Ok(Solution)` with a
/// [`Status`] that says so, until the caller asks for
/// `into_converged()`, which turns it into [`Error::NotConverged`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Error {
    /// A parameter outside its range (NaN and infinities included).
    InvalidParameter {
        /// Path of the field, as in the JSON schema (`lora.alpha`).
        field: &'static str,
        /// What was given.
        value: String,
        /// The allowed range, in words.
        allowed: String,
    },
    /// A field that this request needs was not given.
    MissingField {
        /// Path of the field, as in the JSON schema.
        field: &'static str,
        /// Why it is needed.
        reason: &'static str,
    },
    /// Two fields that exclude each other were both given.
    Conflict {
        /// Path of the superfluous field.
        field: &'static str,
        /// What it conflicts with.
        with: &'static str,
    },
    /// The student is too narrow: the learned rank fraction exceeds `pretrain.kappa`, so that the equations of
    /// the full-rank student do not describe it.
    RankDoesNotFit {
        /// Width of the student, `P/D`.
        kappa: f64,
        /// Fraction of positive eigenvalues that the full-rank student learns.
        rank_fraction: f64,
    },
    /// The nodes of the averages of a stage would take more memory than allowed.
    TooMuchMemory {
        /// `pretrain` or `lora`.
        stage: &'static str,
        /// `log2` of the number of nodes of one scramble.
        log2_nodes: usize,
        /// Number of scrambles.
        scrambles: usize,
        /// Bytes that all nodes would take.
        bytes: u64,
        /// Bytes that they may take.
        limit: u64,
    },
    /// An optimisation without a single point to compare.
    NoOptimum {
        /// Number of scenarios solved.
        solves: usize,
        /// How many of them could not be used.
        excluded: usize,
    },
    /// A line that is not a scenario: broken JSON, an unknown field, a value of the wrong type.
    Syntax(String),
    /// The solve ended without a fixed point (see `into_converged`).
    NotConverged {
        /// `pretrain` or `lora`.
        stage: &'static str,
        /// How the iteration ended.
        status: Status,
        /// Undamped residual of the returned iterate.
        residual: f64,
        /// Number of iterations.
        iterations: usize,
        /// The last (best) iterate, as text.
        point: String,
        /// What to try next.
        hint: &'static str,
    },
}

impl Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidParameter { field, value, allowed } => {
                write!(f, "{field} = {value}: must be {allowed}")
            }
            Self::MissingField { field, reason } => write!(f, "{field} is missing: {reason}"),
            Self::Conflict { field, with } => write!(f, "{field} must not be given together with {with}"),
            Self::RankDoesNotFit { kappa, rank_fraction } => write!(
                f,
                "pretrain.kappa = {kappa}: must be >= the learned rank fraction, {rank_fraction}, for these parameters"
            ),
            Self::TooMuchMemory { stage, log2_nodes, scrambles, bytes, limit } => write!(
                f,
                "options.log2_nodes = {log2_nodes} with options.scrambles = {scrambles}: {stage} needs {bytes} bytes, and at most {limit} are allowed; take fewer nodes"
            ),
            Self::NoOptimum { solves, excluded } => write!(
                f,
                "no optimum: of {solves} solves, {excluded} did not converge, were impossible, or could not be trusted; try other bounds"
            ),
            Self::Syntax(text) => f.write_str(text),
            Self::NotConverged { stage, status, residual, iterations, point, hint } => write!(
                f,
                "{stage}: {status} after {iterations} iterations, residual {residual:e} at {point}; {hint}"
            ),
        }
    }
}

impl std::error::Error for Error {}

impl Error {
    pub(crate) fn invalid(field: &'static str, value: impl Display, allowed: impl Into<String>) -> Self {
        Self::InvalidParameter { field, value: value.to_string(), allowed: allowed.into() }
    }

    /// [`Error::NotConverged`] unless the status is a success.
    pub(crate) fn unless_converged(
        stage: &'static str,
        status: Status,
        residual: f64,
        iterations: usize,
        point: String,
    ) -> Result<(), Self> {
        if status.is_success() {
            return Ok(());
        }
        Err(Self::NotConverged { stage, status, residual, iterations, point, hint: status.hint() })
    }

    /// A stable, machine-readable name of the variant, as printed by `examples/solve.rs`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::InvalidParameter { .. } => "invalid_parameter",
            Self::MissingField { .. } => "missing_field",
            Self::Conflict { .. } => "conflict",
            Self::RankDoesNotFit { .. } => "rank_does_not_fit",
            Self::TooMuchMemory { .. } => "too_much_memory",
            Self::NoOptimum { .. } => "no_optimum",
            Self::Syntax(_) => "syntax",
            Self::NotConverged { .. } => "not_converged",
        }
    }
}

/// Checks of single numbers, shared by every validated input.
pub(crate) mod check {
    use super::Error;

    pub(crate) fn positive(field: &'static str, value: f64) -> Result<(), Error> {
        if value.is_finite() && value > 0.0 {
            Ok(())
        } else {
            Err(Error::invalid(field, value, "finite and > 0"))
        }
    }

    pub(crate) fn non_negative(field: &'static str, value: f64) -> Result<(), Error> {
        if value.is_finite() && value >= 0.0 {
            Ok(())
        } else {
            Err(Error::invalid(field, value, "finite and >= 0"))
        }
    }

    pub(crate) fn integer(field: &'static str, value: usize, low: usize, high: usize) -> Result<(), Error> {
        if (low..=high).contains(&value) {
            Ok(())
        } else {
            Err(Error::invalid(field, value, format!("between {low} and {high}")))
        }
    }
}
