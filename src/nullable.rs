//! Numbers that may be missing in JSON: NaN is written as `null` by every serialiser, and read back as NaN here.

use serde::{Deserialize, Deserializer};

/// For `#[serde(deserialize_with)]`: `null` is NaN.
pub(crate) fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}
