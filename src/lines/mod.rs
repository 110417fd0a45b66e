//! Scenarios as JSON text in, outcomes as lines of JSON out. The library can be used as a filter in
//! pipes, by schedulers and from other languages.
//!
//! ```
//! use lora_asymptotics::lines;
//!
//! let input = br#"{"model": {"tokens": 2, "activation": "linear", "delta": 0.5, "teacher": {"wishart": {"kappa0": 0.5}}}, "pretrain": {"alpha": 0.2, "lambda": 0.1}}
//! nonsense"#;
//! let mut output = Vec::new();
//! let summary = lines::solve(&input[..], &mut output)?;
//! assert_eq!((summary.answered, summary.failed), (2, 1));
//! # Ok::<(), std::io::Error>(())
//! ```

mod values;

use std::io::{self, BufRead, Write};

use serde::Serialize;
use serde_json::json;

use crate::error::{Cause, Error};
use crate::parallel;
use crate::scenario::Scenario;

pub use values::{Value, Values, values};

/// The number of scenarios that [`solve`] answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Summary {
    /// Number of lines of output: one for each scenario of the input, good or bad.
    pub answered: usize,
    /// Number of lines of output that are errors.
    pub failed: usize,
}

/// Reads one scenario after another, each on a line or on several (see [`values`]), and writes one outcome per line, in order.
/// Every line is flushed as soon as it is solved.
///
/// What is not a valid scenario is answered by `{"error": {"kind", "message"}}` (see [`Error::kind`]),
/// and the scenarios after it are solved. Empty lines are skipped. Lines may have the line ends of any operating
/// system, and the last line may have none. A byte order mark at the beginning of a scenario is skipped.
///
/// # Errors
/// The errors of reading and writing. After an error of the output, such as [`io::ErrorKind::BrokenPipe`],
/// nothing more is read or solved.
pub fn solve(input: impl BufRead, output: impl Write) -> io::Result<Summary> {
    answer(input, output, Scenario::solve)
}

/// Like [`solve`], with another answer to a scenario than its outcome.
///
/// ```
/// use lora_asymptotics::lines;
///
/// let input = br#"{"model": {"tokens": 2, "activation": "linear", "delta": 0.5, "teacher": {"wishart": {"kappa0": 0.5}}}, "pretrain": {"alpha": 0.2, "lambda": 0.1}}"#;
/// let mut output = Vec::new();
/// lines::answer(&input[..], &mut output, |scenario| scenario.validate().map(|()| "valid"))?;
/// assert_eq!(output, b"\"valid\"\n");
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// The errors of [`solve`]. An error of `answer` is written in the place of the answer.
pub fn answer<T: Serialize>(
    input: impl BufRead,
    mut output: impl Write,
    mut answer: impl FnMut(&Scenario) -> Result<T, Error>,
) -> io::Result<Summary> {
    let mut summary = Summary::default();
    for value in values(input) {
        let written = match read(&value?.text).and_then(|scenario| answer(&scenario)) {
            Ok(value) => serde_json::to_string(&value)?,
            Err(error) => {
                summary.failed += 1;
                json!({"error": {"kind": error.kind(), "message": error.to_string()}}).to_string()
            }
        };
        writeln!(output, "{written}")?;
        output.flush()?;
        summary.answered += 1;
    }
    Ok(summary)
}

fn read(text: &[u8]) -> Result<Scenario, Error> {
    let text = std::str::from_utf8(text).map_err(|error| Error::Syntax(Cause::of(error)))?;
    let scenario = Scenario::from_json(text)?;
    // A solve would panic if no threads can be started.
    parallel::threads()?;
    Ok(scenario)
}
