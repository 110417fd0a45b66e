//! Solves a grid from standard input twice, keeps all records, and writes the seconds that the second pass took. The first one
//! starts the threads. `sweep.py` compares the seconds with those of the Python package.

use std::error::Error;
use std::io;
use std::ops::ControlFlow;
use std::time::Instant;

use lora_asymptotics::sweep::{Shard, Sweep};

fn main() -> Result<(), Box<dyn Error>> {
    let grid = io::read_to_string(io::stdin())?;
    let mut seconds = 0.0;
    for _ in 0..2 {
        let begun = Instant::now();
        let sweep = Sweep::from_json(&grid)?;
        let mut records = Vec::new();
        sweep.run(Shard::WHOLE, 0, |record| {
            records.push(record.clone());
            ControlFlow::Continue(())
        })?;
        seconds = begun.elapsed().as_secs_f64();
    }
    println!("{seconds}");
    Ok(())
}
