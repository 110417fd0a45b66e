//! Solves scenarios a given number of times, so that `benches/yardstick/compare.py` can time them from
//! outside.
//!
//! Reads lines `{"scenario": .., "repetitions": ..}` from standard input, and answers each line by the
//! outcome of the last repetition.

use std::error::Error;
use std::hint::black_box;
use std::io::{self, BufRead, Write};

use lora_asymptotics::Scenario;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    scenario: Scenario,
    repetitions: usize,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut output = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let Request { scenario, repetitions } = serde_json::from_str(&line?)?;
        for _ in 1..repetitions {
            black_box(black_box(&scenario).solve()?);
        }
        writeln!(output, "{}", serde_json::to_string(&scenario.solve()?)?)?;
        output.flush()?;
    }
    Ok(())
}
