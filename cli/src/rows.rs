//! Answers as rows of a table.

use std::error::Error;

use lora_asymptotics::Outcome;
use lora_asymptotics::sweep::Failure;
use serde_json::Value;

/// An answer to a scenario.
pub enum Answer {
    /// The outcome, and the same as it is written.
    Outcome(Box<Outcome>, Value),
    Refusal(Failure),
}

impl Answer {
    /// Reads an answer as it is written.
    pub fn read(text: &[u8]) -> Result<Self, serde_json::Error> {
        let mut value: Value = serde_json::from_slice(text)?;
        match value.get_mut("error") {
            Some(error) => Ok(Self::Refusal(serde_json::from_value(error.take())?)),
            None => Ok(Self::Outcome(serde_json::from_value(value.clone())?, value)),
        }
    }
}

/// The rows of an answer: all its numbers with their standard errors, and then its words, such as `lora.status`. A number
/// that is null has an empty value.
pub fn csv(number: usize, answer: &[u8], with_header: bool) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut table = csv::Writer::from_writer(Vec::new());
    if with_header {
        table.write_record(["line", "quantity", "value", "std_error"])?;
    }
    let line = number.to_string();
    let mut row = |quantity: &str, value: &str, std_error: &str| {
        table.write_record([line.as_str(), quantity, value, std_error])
    };
    match Answer::read(answer)? {
        Answer::Outcome(outcome, written) => {
            for one in outcome.rows() {
                let number = |x: f64| if x.is_finite() { format!("{x:?}") } else { String::new() };
                row(&one.name, &number(one.value), &one.std_error.map(number).unwrap_or_default())?;
            }
            let mut all = Vec::new();
            words(&written, "", &mut all);
            for (quantity, word) in &all {
                row(quantity, word, "")?;
            }
        }
        Answer::Refusal(failure) => {
            row("error.kind", &failure.kind, "")?;
            row("error.message", &failure.message, "")?;
        }
    }
    Ok(table.into_inner()?)
}

/// The texts and truth values of an outcome, with their paths.
fn words(value: &Value, path: &str, found: &mut Vec<(String, String)>) {
    match value {
        Value::String(word) => found.push((path.to_owned(), word.clone())),
        Value::Bool(truth) => found.push((path.to_owned(), truth.to_string())),
        Value::Object(fields) => {
            for (name, field) in fields {
                let inner = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                words(field, &inner, found);
            }
        }
        Value::Array(entries) => {
            for (index, entry) in entries.iter().enumerate() {
                words(entry, &format!("{path}.{index}"), found);
            }
        }
        Value::Null | Value::Number(_) => {}
    }
}
