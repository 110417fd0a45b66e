//! The JSON values of a text: each on a line, or on several.

use std::io::{self, BufRead};
use std::iter::Peekable;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::json::without_mark;

/// A JSON value of a text, good or bad.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Value {
    /// The number of the line on which it begins, from 1.
    pub line: usize,
    /// Its lines, with their ends.
    pub text: Vec<u8>,
}

/// The values of a text, in order, each as soon as its last line is read. Empty lines between values belong to none.
///
/// A value that its first line leaves open goes on until it is closed. A line that is a whole scenario by itself always begins a
/// new value, so that a line that was cut off does not swallow the lines after it. If several lines are no JSON, the value
/// ends before the next line that begins with a brace, too. Nothing is read ahead of a value that is on one line, good or bad.
///
/// ```
/// use lora_asymptotics::lines;
///
/// let text = b"{\"model\": 1}\n{\n  \"model\":\n{\"b\": 2}\n}\n{\"cut\": \n{\"model\": 3}\n";
/// let values: Result<Vec<_>, _> = lines::values(&text[..]).map(|value| value.map(|value| value.line)).collect();
/// assert_eq!(values?, [1, 2, 6, 7]);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn values<R: BufRead>(input: R) -> Values<R> {
    Values { lines: Lines { input, read: 0 }.peekable() }
}

/// The values of a text, given by [`values`].
#[derive(Debug)]
pub struct Values<R: BufRead> {
    lines: Peekable<Lines<R>>,
}

impl<R: BufRead> Iterator for Values<R> {
    type Item = io::Result<Value>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut value = match self.lines.find(|line| !line.as_ref().is_ok_and(Value::is_empty))? {
            Ok(first) => first,
            Err(error) => return Some(Err(error)),
        };
        let mut form = Form::of(&value.text);
        let spans = form == Form::Open;
        let mut open = unclosed(&value.text);
        while spans
            && form != Form::Whole
            && let Some(Ok(line)) =
                self.lines.next_if(|line| line.as_ref().is_ok_and(|line| !line.begins_another(form)))
        {
            open += unclosed(&line.text);
            value.text.extend(line.text);
            // Looking at an open value after every line would take a time of the square of its length.
            if open <= 0 {
                form = Form::of(&value.text);
            }
        }
        Some(Ok(value))
    }
}

impl Value {
    fn is_empty(&self) -> bool {
        without_mark(&self.text).trim_ascii().is_empty()
    }

    /// Whether this line begins another value than the one before it, which has the given form so far.
    fn begins_another(&self, so_far: Form) -> bool {
        let text = without_mark(&self.text);
        let is_scenario =
            text.trim_ascii_start().starts_with(b"{") && serde_json::from_slice::<HasModel>(text).is_ok();
        is_scenario || (so_far == Form::Broken && text.starts_with(b"{"))
    }
}

/// What tells a scenario from its parts.
#[derive(Deserialize)]
struct HasModel {
    #[serde(rename = "model")]
    _model: IgnoredAny,
}

/// The number of brackets that lines open and do not close. A string of JSON does not go over several lines.
fn unclosed(lines: &[u8]) -> i64 {
    let (mut open, mut quoted, mut escaped) = (0, false, false);
    for byte in lines {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            b'{' | b'[' if !quoted => open += 1,
            b'}' | b']' if !quoted => open -= 1,
            _ => {}
        }
    }
    open
}

/// What a text is, as far as it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// A value of JSON.
    Whole,
    /// The beginning of a value.
    Open,
    /// Not the beginning of any value.
    Broken,
}

impl Form {
    fn of(text: &[u8]) -> Self {
        match serde_json::from_slice::<IgnoredAny>(without_mark(text)) {
            Ok(_) => Self::Whole,
            Err(error) if error.is_eof() => Self::Open,
            Err(_) => Self::Broken,
        }
    }
}

/// The lines of a text, each with its number.
#[derive(Debug)]
struct Lines<R> {
    input: R,
    read: usize,
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = io::Result<Value>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut text = Vec::new();
        match self.input.read_until(b'\n', &mut text) {
            Ok(0) => None,
            Ok(_) => {
                self.read += 1;
                Some(Ok(Value { line: self.read, text }))
            }
            Err(error) => Some(Err(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Vec<(usize, String)> {
        let values = values(text.as_bytes()).map(Result::unwrap);
        values.map(|Value { line, text }| (line, String::from_utf8(text).unwrap())).collect()
    }

    #[test]
    fn a_value_may_span_lines() {
        let spanning = "\u{feff}{\r\n  \"a\": [\r\n\r\n    1,\r\n    {\"b\": 2}\r\n  ]\r\n}\r\n";
        let text = format!("\n{spanning}{{\"c\": 3}}\n{spanning}");
        assert_eq!(
            split(&text),
            [(2, spanning.to_owned()), (9, "{\"c\": 3}\n".to_owned()), (10, spanning.to_owned())]
        );
        // What was cut from a text is cut in the same way again.
        assert_eq!(split(spanning), [(1, spanning.to_owned())]);
    }

    #[test]
    fn a_bad_value_ends_before_the_next_one() {
        let good = "{\"model\": 1}\n";
        for bad in [
            "nonsense\n",
            "{\"cut\": \n",
            "{\"cut\": {\n",
            "{\"text\": \"{[\\\"\", \"cut\":\n",
            "{\n  \"comma\": 1,\n}\n",
            "{\n 1\n}\n}\n",
            "{\n 1 2,\n \"pretrain\": {}\n}\n",
            "[1, 2\n",
        ] {
            let lines = bad.lines().count();
            for indent in ["", "  "] {
                let text = format!("{bad}{indent}{good}{indent}{good}");
                let begins: Vec<usize> = split(&text).into_iter().map(|(line, _)| line).collect();
                assert_eq!(begins, [1, lines + 1, lines + 2], "{text}");
            }
            assert_eq!(split(bad), [(1, bad.to_owned())], "{bad}");
        }
        // Lines that are no JSON by themselves are values by themselves, and so are bad objects on one line.
        assert_eq!(split("no\nno\n{1}\n{2}\n").len(), 4);
    }

    #[test]
    fn parts_of_a_scenario_may_be_lines() {
        let text = "{\"model\":\n{\"tokens\": 2}\n,\n\"pretrain\":\n{\"alpha\": 1}\n}\n";
        assert_eq!(split(&text.repeat(2)), [(1, text.to_owned()), (7, text.to_owned())]);
    }

    /// Lists of a hundred thousand lines would take minutes in a time of the square.
    #[test]
    fn a_long_list_is_one_value() {
        for entry in ["1,\n", "[\n1\n],\n", "{},\n"] {
            let text = format!("[\n{}0\n]\n", entry.repeat(100_000));
            assert_eq!(split(&text), [(1, text)]);
        }
    }
}
