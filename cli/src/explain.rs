//! One outcome as a readable table.

use std::error::Error;
use std::fmt::Write;

use lora_asymptotics::{Outcome, Quantity, Status, Verdict};
use serde_json::Value;

use crate::meaning::Meanings;
use crate::rows::Answer;

/// The stages of an outcome, by their paths, and their titles.
const STAGES: [(&str, &str); 4] = [
    ("pretrain", "Pre-training"),
    ("lora", "Fine-tuning"),
    ("bayes_optimal.pretrain", "Bayes-optimal pre-training"),
    ("bayes_optimal.lora", "Bayes-optimal fine-tuning"),
];

/// Numbers that are shown in the title of a stage, and not as rows.
const IN_TITLE: [&str; 2] = ["residual", "iterations"];

/// The table of one answer, after an empty line unless it is the first.
pub fn answer(answer: &[u8], first: bool) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut text = if first { String::new() } else { "\n".to_owned() };
    match Answer::read(answer)? {
        Answer::Outcome(outcome, written) => table(&mut text, &outcome, &written)?,
        Answer::Refusal(failure) => writeln!(text, "not solved ({}): {}", failure.kind, failure.message)?,
    }
    Ok(text.into_bytes())
}

/// Writes every stage of an outcome, given the outcome and the same as it is written.
pub fn table(text: &mut String, outcome: &Outcome, written: &Value) -> Result<(), Box<dyn Error>> {
    let meanings = Meanings::new()?;
    let rows = outcome.rows();
    let mut first = true;
    for (path, title) in STAGES {
        let Some(stage) = written.pointer(&format!("/{}", path.replace('.', "/"))) else { continue };
        if !std::mem::take(&mut first) {
            text.push('\n');
        }
        let of_stage = rows.iter().filter_map(|row| {
            let name = row.name.strip_prefix(path)?.strip_prefix('.')?;
            (!IN_TITLE.contains(&name)).then(|| Shown::new(name, row, meanings.of(&row.name, written)))
        });
        section(text, title, stage, &of_stage.collect::<Vec<_>>())?;
    }
    Ok(())
}

fn section(text: &mut String, title: &str, stage: &Value, rows: &[Shown]) -> Result<(), Box<dyn Error>> {
    let word = |name: &str| stage.pointer(name).and_then(Value::as_str);
    write!(text, "{title}: {}", word("/status").unwrap_or_default().replace('_', " "))?;
    if let (Some(iterations), Some(residual)) = (stage["iterations"].as_u64(), stage["residual"].as_f64()) {
        write!(text, " after {iterations} iterations, residual {residual:.1e}")?;
    }
    writeln!(text)?;
    let width = |read: fn(&Shown) -> &str| rows.iter().map(|row| read(row).len()).max().unwrap_or(0);
    let (names, values, errors) =
        (width(|row| &row.name), width(|row| &row.value), width(|row| &row.std_error));
    for Shown { name, value, std_error, meaning } in rows {
        let sign = if std_error.is_empty() { "  " } else { "+-" };
        let line = format!("  {name:names$}  {value:>values$} {sign} {std_error:errors$}  {meaning}");
        writeln!(text, "{}", line.trim_end())?;
    }
    if let Some(verdict) = word("/validity/verdict") {
        writeln!(text, "  verdict: {verdict}")?;
    }
    writeln!(text, "  what to do: {}", advice(stage)?)?;
    Ok(())
}

/// What to do with the solution of a stage.
fn advice(stage: &Value) -> Result<String, serde_json::Error> {
    if stage["status"] == "skipped" {
        return Ok("solve the pre-training first: it did not converge".to_owned());
    }
    let status: Status = serde_json::from_value(stage["status"].clone())?;
    let mut advice = vec![match stage.pointer("/validity/verdict") {
        Some(verdict) if status.is_success() => serde_json::from_value::<Verdict>(verdict.clone())?.hint(),
        _ => status.hint(),
    }];
    if stage.pointer("/validity/above_bound").is_some_and(|above| above == true) {
        advice.push("the alignment is above the Bayes-optimal bound, which is impossible");
    }
    Ok(advice.join("; "))
}

/// Smallest standard error that is shown without an exponent.
const SMALLEST: f64 = 1e-8;

/// A row of the table.
struct Shown {
    name: String,
    value: String,
    std_error: String,
    meaning: String,
}

impl Shown {
    fn new(name: &str, row: &Quantity, meaning: Option<String>) -> Self {
        let (name, meaning) = (name.to_owned(), meaning.unwrap_or_default());
        let (value, std_error) = match row.std_error {
            // Two digits of the error are shown, and the same decimals of the value.
            Some(error) if error >= SMALLEST && row.value.is_finite() => {
                let decimals = (1.0 - error.log10().floor()).max(0.0) as usize;
                (format!("{:.decimals$}", row.value), format!("{error:.decimals$}"))
            }
            Some(error) => (six_digits(row.value), format!("{error:.1e}")),
            None => (six_digits(row.value), String::new()),
        };
        Self { name, value, std_error, meaning }
    }
}

/// A number with six significant digits.
pub fn six_digits(value: f64) -> String {
    let size = value.abs();
    if size == 0.0 || !size.is_finite() {
        return value.to_string();
    }
    if !(1e-4..1e6).contains(&size) {
        return format!("{value:.5e}");
    }
    let decimals = (5.0 - size.log10().floor()).clamp(0.0, 9.0) as usize;
    format!("{value:.decimals$}")
}
