//! Solves a grid of scenarios, and writes one JSON line per point.
//!
//! ```text
//! cargo run --release -p gallery --example sweep -- gallery/examples/data/sweep.toml --out ridge.jsonl
//! cargo run --release -p gallery --example sweep -- grid.json --out part2.jsonl --shard 2/8      # one of eight processes
//! cat part?.jsonl > all.jsonl                                                         # the same bytes as one run
//! ```
//!
//! The grid (TOML or JSON) has a `scenario`, what `examples/solve.rs` reads, and `axes`: a `field` of the scenario, and its `values`, or
//! `from`, `to`, `count` and `scale` (linear or log). Every point begins with the one before it on the last axis. A process that
//! was killed goes on where it was, with the same command. Ctrl-C stops. A file `.description.json` beside the results says which grid and part
//! they are of.

use std::error::Error;
use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use lora_asymptotics::journal::Journal;
use lora_asymptotics::sweep::{Shard, Sweep};

#[derive(Parser)]
struct Arguments {
    /// The grid, as TOML or JSON.
    grid: PathBuf,
    /// The file of results.
    #[arg(long, default_value = "target/sweep.jsonl")]
    out: PathBuf,
    /// The part of the grid to solve, i/n.
    #[arg(long, default_value = "1/1")]
    shard: Shard,
    /// Number of threads; all there are if not given.
    #[arg(long)]
    threads: Option<usize>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let Arguments { grid, out, shard, threads } = arguments;
    let text = fs::read_to_string(grid)?;
    let sweep: Sweep = if grid.extension().is_some_and(|extension| extension == "toml") {
        toml::from_str(&text)?
    } else {
        Sweep::from_json(&text)?
    };
    let (mut journal, records) = Journal::open(out, &(&sweep, shard.to_string()))?;
    let done = sweep.finished(*shard, &records);
    // What is left of an interrupted row is solved again.
    journal.truncate(done)?;
    let total = sweep.indices(*shard).len();

    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed))?;
    let bar = ProgressBar::new(total as u64)
        .with_style(ProgressStyle::with_template("{wide_bar} {pos}/{len} points, {eta} left")?);
    bar.set_position(done as u64);
    let mut trouble = None;
    let new = sweep.run(*shard, done, *threads, |record| {
        bar.inc(1);
        if let Err(error) = journal.append(record) {
            trouble = Some(error);
            return ControlFlow::Break(());
        }
        if interrupted.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    bar.finish_and_clear();
    if let Some(error) = trouble {
        return Err(error.into());
    }
    eprintln!("{} of {total} points in {}", done + new, out.display());
    Ok(())
}
