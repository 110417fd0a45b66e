//! Reading JSON from files and pipes of any operating system.

use serde::de::DeserializeOwned;

use crate::error::{Cause, Error};

/// The byte order mark, with which some programs begin a text in UTF-8. It carries no information.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// The line without a byte order mark at its beginning.
pub(crate) fn without_mark(line: &[u8]) -> &[u8] {
    let mut buffer = [0; 4];
    line.strip_prefix(BYTE_ORDER_MARK.encode_utf8(&mut buffer).as_bytes()).unwrap_or(line)
}

/// Reads a value from JSON, with or without a byte order mark.
pub(crate) fn from_json<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    serde_json::from_str(text).map_err(|error| Error::Syntax(Cause::of(error)))
}
