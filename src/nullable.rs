//! Numbers that may be missing in JSON. Every serialiser writes NaN as `null`, and this module reads `null`
//! as NaN.

use serde::{Deserialize, Deserializer};

/// Reads a number, with `null` as NaN. It is used in `#[serde(deserialize_with)]`.
pub(crate) fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}
