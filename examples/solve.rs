//! Solves one scenario per line of standard input, and writes one outcome per line to standard output, in order.
//!
//! ```text
//! cargo run --release --example solve < scenarios.jsonl > outcomes.jsonl
//! ```
//!
//! Lines are flushed one by one, so that the program composes with pipes and schedulers. A line that is not a valid
//! scenario gives `{"error": {"kind", "message"}}` in its place; the others are solved, and the exit status is 1 at the end.
//! A solve that does not converge says so in its status, and does not change the exit status. Empty lines are passed over.

use std::io::{self, BufRead, Write};
use std::process::ExitCode;

use lora_asymptotics::{Error, Outcome, Scenario};
use serde_json::json;

fn main() -> io::Result<ExitCode> {
    let mut output = io::stdout().lock();
    let mut failed = false;
    for line in io::stdin().lock().split(b'\n') {
        let line = line?;
        if line.trim_ascii().is_empty() {
            continue;
        }
        let answer = match solve(&line) {
            Ok(outcome) => serde_json::to_string(&outcome)?,
            Err(error) => {
                failed = true;
                json!({"error": {"kind": error.kind(), "message": error.to_string()}}).to_string()
            }
        };
        writeln!(output, "{answer}")?;
        output.flush()?;
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn solve(line: &[u8]) -> Result<Outcome, Error> {
    let text = std::str::from_utf8(line).map_err(|error| Error::Syntax(error.to_string()))?;
    Scenario::from_json(text)?.solve()
}
