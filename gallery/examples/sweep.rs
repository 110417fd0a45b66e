//! Solves a grid of scenarios, and writes one JSON line per point.
//!
//! ```text
//! cargo run --release -p gallery --example sweep -- gallery/examples/data/sweep.toml --out ridge.jsonl
//! cargo run --release -p gallery --example sweep -- grid.json --out part2.jsonl --shard 2/8      # one of eight processes
//! cat part?.jsonl > all.jsonl                                                         # the same bytes as one run
//! ```
//!
//! The grid (TOML or JSON) has a `scenario`, as `examples/solve.rs` reads it, and `axes`. An axis has a
//! `field` of the scenario, and either its `values`, or `from`, `to`, `count` and `scale` (linear or log).
//! Every point begins with the solution of the one before it on the last axis. After a process was killed,
//! the same command continues where it stopped. Ctrl-C stops after the points that are being solved, with
//! exit status 130; a second Ctrl-C stops at once. A file `.description.json` beside the results describes
//! their grid and part.

#[path = "../../examples/interrupt/mod.rs"]
mod interrupt;

use std::error::Error;
use std::fs;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use interrupt::Interrupt;
use lora_asymptotics::journal::Journal;
use lora_asymptotics::sweep::{Record, Shard, Sweep};

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
    threads: Option<NonZeroUsize>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let Arguments { grid, out, shard, threads } = arguments;
    let text = fs::read_to_string(grid)?;
    let sweep: Sweep = if grid.extension().is_some_and(|extension| extension == "toml") {
        toml::from_str(&text)?
    } else {
        Sweep::from_json(&text)?
    };
    let (mut journal, records) = Journal::open(out, &(&sweep, shard.to_string()))?;
    let done = sweep.finished(*shard, &records);
    // The points of an interrupted row are solved again.
    journal.truncate(done)?;
    let total = sweep.indices(*shard).len();

    let interrupt = Interrupt::listen(|| {})?;
    // Without a number, rayon chooses the number of threads.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.map_or(0, NonZeroUsize::get)).build()?;
    let bar = ProgressBar::new(total as u64)
        .with_style(ProgressStyle::with_template("{wide_bar} {pos}/{len} points, {eta} left")?);
    bar.set_position(done as u64);
    let mut trouble = None;
    let record = |record: &Record| {
        bar.inc(1);
        if let Err(error) = journal.append(record) {
            trouble = Some(error);
            return ControlFlow::Break(());
        }
        if interrupt.is_set() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let new = pool.install(|| sweep.run(*shard, done, record))?;
    bar.finish_and_clear();
    if let Some(error) = trouble {
        return Err(error.into());
    }
    eprintln!("{} of {total} points in {}", done + new, out.display());
    Ok(if interrupt.is_set() { ExitCode::from(interrupt::STATUS) } else { ExitCode::SUCCESS })
}
