//! Scenarios in, outcomes out.

use std::error::Error;
use std::path::PathBuf;

use clap::ValueEnum;
use lora_asymptotics::lines;

use crate::{Ending, answers, explain, rows};

/// Solves scenarios, and writes one answer for each, in order.
///
/// Scenarios are JSON objects, one after another, each on a line or on several. A line that is a whole scenario is always
/// one of its own, whatever is wrong before it. What is not a valid scenario is
/// answered by {"error": {"kind", "message"}}, and the scenarios after it are solved.
/// A solve that does not converge is marked by its status, and does not change the exit status. Empty lines are skipped.
/// Every answer is flushed, so that the command works in pipes and under schedulers.
#[derive(clap::Args)]
pub struct Arguments {
    /// The scenarios, as JSON (see `lora-asymptotics schema scenario`); standard input if not given.
    scenarios: Option<PathBuf>,
    /// The form of the answers.
    #[arg(long, value_enum, default_value_t = Format::Json)]
    format: Format,
    /// Writes a readable table instead: every number with its error bar and its meaning, the verdict, and what to do.
    #[arg(long, conflicts_with = "format")]
    explain: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// One outcome per line.
    Json,
    /// One number per row: line of the scenario, quantity, value, standard error.
    Csv,
}

pub fn run(arguments: &Arguments) -> Result<Ending, Box<dyn Error>> {
    let mut first = true;
    let render = |number: usize, answer: Vec<u8>| {
        let begins = std::mem::replace(&mut first, false);
        match arguments.format {
            _ if arguments.explain => explain::answer(&answer, begins),
            Format::Json => Ok(answer),
            Format::Csv => rows::csv(number, &answer, begins),
        }
    };
    answers::write(arguments.scenarios.as_deref(), |text, answer| lines::solve(text, answer), render)
}
