//! The command line of `lora-asymptotics`.
//!
//! | exit status | meaning |
//! |---|---|
//! | 0 | everything that was asked for was done, even if some solves did not converge |
//! | 1 | an input was refused: a line is answered by an error, or the whole command has one |
//! | 2 | the command was called in a wrong way |
//! | 130 | Ctrl-C: the work in hand was finished; the second Ctrl-C ends the program at once |
//! | 141 | nobody reads the output any more |

mod answers;
mod compare;
mod explain;
mod input;
mod interrupt;
mod meaning;
mod optimize;
mod recorder;
mod rows;
mod solve;
mod sweep;

use std::error::Error;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use lora_asymptotics::scenario::schema;

/// Predictions for an attention layer that is pre-trained on plenty of data and then adapted with LoRA on little.
///
/// Exit status: 0; 1 if an input was refused, a single line of many included; 2 if the command was called in a wrong
/// way; 130 after Ctrl-C; 141 if nobody reads the output any more.
#[derive(Parser)]
#[command(name = "lora-asymptotics", version, max_term_width = 110)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Number of threads, 1 to 1024; as many as there are processors, or RAYON_NUM_THREADS, if not given.
    #[arg(long, global = true, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

#[derive(Subcommand)]
enum Command {
    Solve(solve::Arguments),
    Sweep(sweep::Arguments),
    Compare(compare::Arguments),
    Optimize(optimize::Arguments),
    /// Prints the JSON Schema of scenarios or of outcomes.
    Schema {
        /// Which of the two.
        #[arg(value_enum)]
        of: Described,
    },
    /// Prints a script that completes the commands and options of this program in a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

/// What has a schema.
#[derive(Clone, Copy, ValueEnum)]
enum Described {
    Scenario,
    Outcome,
}

/// How a command ended that was not stopped by an error.
enum Ending {
    Complete,
    /// Some of the inputs were refused, and answered by errors.
    SomeRefused,
    Interrupted,
}

impl From<Ending> for ExitCode {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::Complete => Self::SUCCESS,
            Ending::SomeRefused => Self::FAILURE,
            Ending::Interrupted => Self::from(interrupt::STATUS),
        }
    }
}

/// The exit status 128 plus the number of SIGPIPE, as shells report a program that wrote to a closed pipe.
const CLOSED_PIPE: u8 = 141;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(ending) => ending.into(),
        Err(error) if is_closed_pipe(&*error) => ExitCode::from(CLOSED_PIPE),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<Ending, Box<dyn Error>> {
    if let Some(threads) = arguments.threads {
        rayon_core::ThreadPoolBuilder::new().num_threads(usize::from(threads)).build_global()?;
    }
    match &arguments.command {
        Command::Solve(arguments) => solve::run(arguments),
        Command::Sweep(arguments) => sweep::run(arguments),
        Command::Compare(arguments) => compare::run(arguments),
        Command::Optimize(arguments) => optimize::run(arguments),
        Command::Schema { of: Described::Scenario } => print(schema::SCENARIO.as_bytes()),
        Command::Schema { of: Described::Outcome } => print(schema::OUTCOME.as_bytes()),
        Command::Completions { shell } => {
            // The generator panics where it cannot write, which memory cannot refuse.
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Arguments::command(), "lora-asymptotics", &mut script);
            print(&script)
        }
    }
}

fn print(text: &[u8]) -> Result<Ending, Box<dyn Error>> {
    let mut output = io::stdout().lock();
    output.write_all(text)?;
    output.flush()?;
    Ok(Ending::Complete)
}

/// Ends the program as a wrong call does, with exit status 2.
fn refuse_call(reason: impl std::fmt::Display) -> ! {
    Arguments::command().error(clap::error::ErrorKind::ValueValidation, reason).exit()
}

fn is_closed_pipe(error: &(dyn Error + 'static)) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
        || error.source().is_some_and(is_closed_pipe)
}
