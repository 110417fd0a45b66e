//! One answer for every scenario of the input, written as soon as it is known.

use std::error::Error;
use std::io::{self, Write};
use std::path::Path;

use lora_asymptotics::lines::Summary;

use crate::Ending;
use crate::input::Values;

/// Answers every scenario. `solve` gives the answer to the text of a scenario as JSON, as [`lora_asymptotics::lines`]
/// writes it, and `render` the form in which it is written, given the line on which the scenario begins, from 1.
pub fn write(
    input: Option<&Path>,
    mut solve: impl FnMut(&[u8], &mut Vec<u8>) -> io::Result<Summary>,
    mut render: impl FnMut(usize, Vec<u8>) -> Result<Vec<u8>, Box<dyn Error>>,
) -> Result<Ending, Box<dyn Error>> {
    let mut values = Values::of(input)?;
    let mut output = io::stdout().lock();
    let mut failed = 0;
    for value in values.by_ref() {
        let value = value?;
        let mut answer = Vec::new();
        failed += solve(&value.text, &mut answer)?.failed;
        output.write_all(&render(value.line, answer)?)?;
        output.flush()?;
    }
    Ok(match failed {
        _ if values.is_interrupted() => Ending::Interrupted,
        0 => Ending::Complete,
        _ => Ending::SomeRefused,
    })
}
