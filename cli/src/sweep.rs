//! A grid of scenarios.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use lora_asymptotics::journal::Journal;
use lora_asymptotics::sweep::{Record, Shard, Sweep};

use crate::Ending;
use crate::input::named;
use crate::interrupt::Interrupt;
use crate::recorder::Recorder;

/// Solves a grid of scenarios; can be interrupted, resumed, and cut into shards.
///
/// The grid has a `scenario`, and `axes`: each with a `field` of the scenario (`pretrain.lambda`), and either its `values`,
/// or `from`, `to`, `count` and `scale` (linear or log). The last axis varies fastest, and every point begins with the solution
/// of the one before it on that axis. After an interruption, the same command continues where it stopped. The files of all
/// shards, one after the other, have the same bytes as that of one run. A file `.description.json` beside the results
/// describes their grid and part.
#[derive(clap::Args)]
pub struct Arguments {
    /// The grid, as TOML (a name that ends in .toml) or JSON.
    grid: PathBuf,
    /// The file of results, one JSON object per line.
    #[arg(long, default_value = "sweep.jsonl")]
    out: PathBuf,
    /// The part of the grid to solve, i/n.
    #[arg(long, default_value = "1/1")]
    shard: Shard,
}

pub fn run(arguments: &Arguments) -> Result<Ending, Box<dyn Error>> {
    let Arguments { grid, out, shard } = arguments;
    let sweep = read(grid)?;
    let (mut journal, records) = Journal::open(out, &(&sweep, shard.to_string()))?;
    let done = sweep.finished(*shard, &records);
    // The points of an interrupted row are solved again.
    journal.truncate(done)?;
    let total = sweep.indices(*shard).len();

    let interrupt = Interrupt::listen(|| {})?;
    let mut recorder = Recorder::new(journal, [done, total], "points", &interrupt)?;
    let mut failed = records[..done].iter().filter(|record| record.error.is_some()).count();
    let new = sweep.run(*shard, done, |record: &Record| {
        failed += usize::from(record.error.is_some());
        recorder.record(record)
    })?;
    recorder.finish()?;
    eprintln!("{} of {total} points in {}", done + new, out.display());
    if failed > 0 {
        eprintln!("{failed} of them could not be solved, and have an error in their place");
    }
    Ok(match failed {
        _ if interrupt.is_set() => Ending::Interrupted,
        0 => Ending::Complete,
        _ => Ending::SomeRefused,
    })
}

fn read(path: &Path) -> Result<Sweep, Box<dyn Error>> {
    let text = fs::read_to_string(path).map_err(|error| named(path, &error))?;
    if path.extension().is_some_and(|extension| extension == "toml") {
        return Ok(toml::from_str(&text)?);
    }
    Ok(Sweep::from_json(&text)?)
}
