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
//! was killed goes on where it was, with the same command. Ctrl-C stops.

use std::error::Error;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
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
    let (mut file, done) = open(out, &sweep, *shard)?;
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
        if let Err(error) = append(&mut file, record) {
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

fn append(file: &mut BufWriter<File>, record: &Record) -> std::io::Result<()> {
    writeln!(file, "{}", serde_json::to_string(record)?)?;
    file.flush()
}

/// The file to append to, and the number of points that are in it: whole rows; what is left of an interrupted row is solved again.
fn open(path: &Path, sweep: &Sweep, shard: Shard) -> Result<(BufWriter<File>, usize), Box<dyn Error>> {
    let description = path.with_extension("grid.json");
    let wanted = serde_json::to_string(sweep)?;
    if path.exists() && description.exists() && fs::read_to_string(&description)? != wanted {
        return Err(
            format!("{} is of another grid: remove it, or choose another --out", path.display()).into()
        );
    }
    let text = if path.exists() { fs::read_to_string(path)? } else { String::new() };
    let first = sweep.indices(shard).start;
    let intact = text.split_inclusive('\n').enumerate().take_while(|(k, line)| {
        // A line that was being written when the process was killed does not count.
        line.ends_with('\n')
            && serde_json::from_str::<Record>(line).is_ok_and(|record| record.index == first + k)
    });
    let lines: Vec<&str> = intact.map(|(_, line)| line).collect();
    let done = lines.len() / sweep.row_length() * sweep.row_length();
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    // Written anew under another name first: nothing is lost if this is interrupted.
    let fresh = path.with_extension("new");
    let mut file = BufWriter::new(File::create(&fresh)?);
    for line in &lines[..done] {
        file.write_all(line.as_bytes())?;
    }
    file.flush()?;
    fs::rename(&fresh, path)?;
    fs::write(&description, wanted)?;
    Ok((file, done))
}
