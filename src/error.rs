//! The error type of all solves. Journals of records have their own error type, `journal::JournalError`.
//!
//! | variant | [`kind`](Error::kind) | what it means | [`source`](std::error::Error::source) |
//! |---|---|---|---|
//! | [`InvalidParameter`](Error::InvalidParameter) | `invalid_parameter` | a number is outside its range | none |
//! | [`MissingField`](Error::MissingField) | `missing_field` | a field that the request needs was not given | none |
//! | [`Conflict`](Error::Conflict) | `conflict` | two fields exclude each other | none |
//! | [`RankDoesNotFit`](Error::RankDoesNotFit) | `rank_does_not_fit` | the student is narrower than what it learns | none |
//! | [`TooMuchMemory`](Error::TooMuchMemory) | `too_much_memory` | the nodes would take more memory than allowed | none |
//! | [`NoOptimum`](Error::NoOptimum) | `no_optimum` | no point of an optimisation can be used | none |
//! | [`Syntax`](Error::Syntax) | `syntax` | a text is not what it should describe | that of the JSON or UTF-8 reader, if it refused the text |
//! | [`Threads`](Error::Threads) | `threads` | the operating system does not start the global thread pool | that of the thread pool |
//! | [`NotConverged`](Error::NotConverged) | `not_converged` | `into_converged` of a solve without a fixed point | none |
//!
//! A program tells errors apart by their variant or their kind, and never by their text, which may change. The text of an error
//! includes that of its source.

use std::fmt::{self, Display};
use std::sync::Arc;

#[cfg(feature = "scenario")]
use crate::json_words::in_words;
use crate::status::Status;

/// Every error that prevents a result, and the refusal to treat an unconverged result as one.
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
        /// The value that was given.
        value: String,
        /// The allowed range, in words.
        allowed: String,
    },
    /// A field that this request needs was not given.
    MissingField {
        /// Path of the field, as in the JSON schema.
        field: &'static str,
        /// The reason why the field is needed.
        reason: &'static str,
    },
    /// Two fields that exclude each other were both given.
    Conflict {
        /// Path of the superfluous field.
        field: &'static str,
        /// The field that it conflicts with.
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
        /// The stage, `pretrain` or `lora`, or `state_evolution` for averages of one's own.
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
    /// An optimisation found no point that can be used.
    NoOptimum {
        /// Number of scenarios solved.
        solves: usize,
        /// Number of scenarios that could not be used.
        excluded: usize,
    },
    /// A text is not a scenario: broken JSON, an unknown field, a value of the wrong type.
    Syntax(Cause),
    /// The threads of the global pool cannot be started, because the operating system has no more threads, or
    /// no memory for their stacks. A program that builds its own pool, and calls the library inside it, does
    /// not need the global one.
    Threads(Cause),
    /// The solve ended without a fixed point (see `into_converged`).
    NotConverged {
        /// The stage, `pretrain` or `lora`.
        stage: &'static str,
        /// How the iteration ended.
        status: Status,
        /// The undamped residual of the iterate that was returned.
        residual: f64,
        /// Number of iterations.
        iterations: usize,
        /// The best iterate, as text.
        point: String,
        /// Advice on what to try next.
        hint: &'static str,
    },
}

/// The cause of an error: a message, and the error of another library from which it comes, if there is one.
/// Two causes are equal if their messages are equal.
#[derive(Debug, Clone)]
pub struct Cause {
    message: String,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Cause {
    /// The error of another library, with its own message.
    pub(crate) fn of(source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self { message: shortened(&source.to_string()), source: Some(Arc::new(source)) }
    }

    /// The message, which includes that of the source.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The error of another library, if there is one.
    #[must_use]
    pub fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}

/// The two ends of a long message. Messages quote the text that they refuse, which may be as long as a line.
/// The second end tells the place in the text.
fn shortened(message: &str) -> String {
    const HEAD: usize = 300;
    const TAIL: usize = 100;
    let characters = message.chars().count();
    if characters <= HEAD + TAIL {
        return message.to_owned();
    }
    let head: String = message.chars().take(HEAD).collect();
    let tail: String = message.chars().skip(characters - TAIL).collect();
    format!("{head} ... {tail}")
}

#[cfg(feature = "scenario")]
impl From<serde_json::Error> for Error {
    /// The refusal of a text by the reader of JSON, in the words of JSON.
    fn from(source: serde_json::Error) -> Self {
        let message = shortened(&in_words(&source.to_string()));
        Self::Syntax(Cause { message, source: Some(Arc::new(source)) })
    }
}

impl PartialEq for Cause {
    fn eq(&self, other: &Self) -> bool {
        self.message == other.message
    }
}

impl From<String> for Cause {
    /// A message without a source.
    fn from(message: String) -> Self {
        Self { message: shortened(&message), source: None }
    }
}

impl Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
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
            Self::Syntax(cause) => cause.fmt(f),
            Self::Threads(cause) => write!(f, "the global thread pool cannot be started: {cause}"),
            Self::NotConverged { stage, status, residual, iterations, point, hint } => write!(
                f,
                "{stage}: {status} after {iterations} iterations, residual {residual:e} at {point}; {hint}"
            ),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Syntax(cause) | Self::Threads(cause) => cause.source(),
            _ => None,
        }
    }
}

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

    /// A stable, machine-readable name of the variant, as printed by the command `lora-asymptotics solve`.
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
            Self::Threads(_) => "threads",
            Self::NotConverged { .. } => "not_converged",
        }
    }
}

/// A number as messages show it: with an exponent if it would otherwise be mostly zeros.
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

/// A type of values that can be refused.
pub(crate) trait Shown {
    /// The value in the form in which messages show it.
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

    #[test]
    #[cfg(feature = "scenario")]
    fn errors_of_other_libraries_are_sources() {
        use std::error::Error as _;

        let refused = |text: &str| serde_json::from_str::<f64>(text).unwrap_err();
        let error = Error::from(refused(""));
        let source = error.source().and_then(|source| source.downcast_ref::<serde_json::Error>()).unwrap();
        assert!(source.is_eof());
        assert_eq!(error.to_string(), source.to_string());
        assert_eq!(error, Error::from(refused("")));
        assert_ne!(error, Error::from(refused("true")));
        assert!(
            Error::from(refused("[]")).to_string().starts_with("invalid type: a list, expected a number")
        );

        let error = Error::Syntax(Cause::from("no such field".to_owned()));
        assert!(error.source().is_none());
        assert_eq!(error.to_string(), "no such field");

        let refused = std::io::Error::from(std::io::ErrorKind::WouldBlock);
        let error = Error::Threads(Cause::of(refused));
        assert!(error.source().is_some_and(|source| source.is::<std::io::Error>()));
        assert_eq!(error.kind(), "threads");
        assert!(error.to_string().starts_with("the global thread pool cannot be started: "), "{error}");
    }
}
