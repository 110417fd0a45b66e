//! Solves one scenario per line of standard input, and writes one outcome per line to standard output, in order.
//!
//! ```text
//! cargo run --release --example solve < scenarios.jsonl > outcomes.jsonl
//! ```
//!
//! Lines are flushed one by one, so that the program composes with pipes and schedulers. A line that is not a valid
//! scenario gives `{"error": {"kind", "message"}}` in its place; the others are solved, and the exit status is 1 at the end.
//! A solve that does not converge says so in its status, and does not change the exit status. Empty lines are passed over. If
//! the reader of the outcomes closes the pipe, the program ends quietly with exit status 141, as shells report that case.

use std::io::{self, ErrorKind};
use std::process::ExitCode;

use lora_asymptotics::lines;

/// 128 and the number of SIGPIPE.
const CLOSED_PIPE: u8 = 141;

fn main() -> ExitCode {
    match lines::solve(io::stdin().lock(), io::stdout().lock()) {
        Ok(summary) if summary.failed == 0 => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::from(CLOSED_PIPE),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
