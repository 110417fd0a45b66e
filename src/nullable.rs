//! Numbers that may be missing in JSON. Every serialiser writes NaN as `null`, and this module reads `null`
//! as NaN.

use serde::{Deserialize, Deserializer};

/// Reads a number, with `null` as NaN. It is used in `#[serde(deserialize_with)]`.
pub(crate) fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// NaN, for numbers that outcomes written by earlier versions do not have. It is used in `#[serde(default)]`.
pub(crate) fn missing() -> f64 {
    f64::NAN
}

/// Reads a list of numbers, each with `null` as NaN.
pub(crate) fn numbers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
    let all: Vec<Option<f64>> = Vec::deserialize(deserializer)?;
    Ok(all.into_iter().map(|x| x.unwrap_or(f64::NAN)).collect())
}
