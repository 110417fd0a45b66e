//! One answer for every line of the input, written as soon as it is known.

use std::error::Error;
use std::io::{self, Write};
use std::path::Path;

use lora_asymptotics::lines::Summary;

use crate::Ending;
use crate::input::Lines;

/// Answers every line that is not empty. `solve` gives the answer to a line as JSON, as [`lora_asymptotics::lines`]
/// writes it, and `render` the form in which it is written, given the number of the line from 1.
pub fn write(
    input: Option<&Path>,
    mut solve: impl FnMut(&[u8], &mut Vec<u8>) -> io::Result<Summary>,
    mut render: impl FnMut(usize, Vec<u8>) -> Result<Vec<u8>, Box<dyn Error>>,
) -> Result<Ending, Box<dyn Error>> {
    let mut lines = Lines::of(input)?;
    let mut output = io::stdout().lock();
    let mut failed = 0;
    for (index, line) in lines.by_ref().enumerate() {
        let mut answer = Vec::new();
        let summary = solve(&line?, &mut answer)?;
        if summary.answered > 0 {
            output.write_all(&render(index + 1, answer)?)?;
            output.flush()?;
        }
        failed += summary.failed;
    }
    Ok(match failed {
        _ if lines.is_interrupted() => Ending::Interrupted,
        0 => Ending::Complete,
        _ => Ending::SomeRefused,
    })
}
