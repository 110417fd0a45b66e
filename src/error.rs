//! The error type of everything that is solved. Journals of records have their own, [`crate::journal::JournalError`].

use std::fmt::{self, Display};

use crate::status::Status;

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
                "pretrain.kappa = {}: must be >= the learned rank fraction, {}, for these parameters",
                Number(*kappa),
                Number(*rank_fraction)
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
    pub(crate) fn invalid(field: &'static str, value: impl Shown, allowed: impl Into<String>) -> Self {
        Self::InvalidParameter { field, value: value.shown(), allowed: allowed.into() }
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

/// A number as messages show it: with an exponent where it would be mostly zeros otherwise.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Number(pub(crate) f64);

impl Display for Number {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(value) = *self;
        let size = value.abs();
        // Zero, infinities and NaN have no exponent to show.
        if size > 0.0 && size.is_finite() && !(1e-5..1e16).contains(&size) {
            write!(formatter, "{value:e}")
        } else {
            write!(formatter, "{value}")
        }
    }
}

/// What a refused value can be.
pub(crate) trait Shown {
    /// The value as messages show it.
    fn shown(&self) -> String;
}

impl Shown for f64 {
    fn shown(&self) -> String {
        Number(*self).to_string()
    }
}

impl Shown for usize {
    fn shown(&self) -> String {
        self.to_string()
    }
}

impl Shown for &str {
    fn shown(&self) -> String {
        (*self).to_owned()
    }
}

impl Shown for String {
    fn shown(&self) -> String {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_exact() {
        for (value, text) in [
            (0.0, "0"),
            (-0.5, "-0.5"),
            (1e-5, "0.00001"),
            (2.5e-7, "2.5e-7"),
            (5e-324, "5e-324"),
            (123_456.75, "123456.75"),
            (1e16, "1e16"),
            (-1e300, "-1e300"),
            (f64::INFINITY, "inf"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(Number(value).to_string(), text);
            let error = Error::invalid("lora.alpha", value, "finite and > 0");
            assert_eq!(error.to_string(), format!("lora.alpha = {text}: must be finite and > 0"));
        }
        let error = Error::RankDoesNotFit { kappa: 1e-300, rank_fraction: 0.5 };
        assert!(error.to_string().starts_with("pretrain.kappa = 1e-300: must be >= "), "{error}");
    }
}
