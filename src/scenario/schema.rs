//! JSON Schemas (draft 2020-12) of scenarios and outcomes, for editors, for validators, and for code generators of other languages.
//!
//! The schemas are derived from the types that read scenarios and write outcomes, by the feature `schema`, and are kept as texts, so that they
//! can be had without it. A schema tells names, types, and which fields are needed. It does not tell ranges, nor which parts exclude each
//! other: [`Scenario::from_json`](super::Scenario::from_json) and [`Scenario::validate`](super::Scenario::validate) refuse more than the schema
//! does.
//!
//! ```
//! let schema: serde_json::Value = serde_json::from_str(lora_asymptotics::scenario::schema::SCENARIO)?;
//! assert_eq!(schema["required"], serde_json::json!(["model"]));
//! # Ok::<(), serde_json::Error>(())
//! ```

/// The schema of a [`Scenario`](super::Scenario).
pub const SCENARIO: &str = include_str!("schema/scenario.json");

/// The schema of an [`Outcome`](super::Outcome). Readers ignore fields that they do not know, and so does the schema.
pub const OUTCOME: &str = include_str!("schema/outcome.json");

/// Derives [`SCENARIO`] from the types.
#[cfg(feature = "schema")]
#[must_use]
pub fn derive_scenario() -> schemars::Schema {
    schemars::generate::SchemaSettings::draft2020_12()
        .for_deserialize()
        .into_generator()
        .into_root_schema_for::<super::experiment::ScenarioFields>()
}

/// Derives [`OUTCOME`] from the types.
#[cfg(feature = "schema")]
#[must_use]
pub fn derive_outcome() -> schemars::Schema {
    schemars::generate::SchemaSettings::draft2020_12()
        .for_serialize()
        .with_transform(schemars::transform::RecursiveTransform(allow_null))
        .into_generator()
        .into_root_schema_for::<super::wire::OutcomeWire>()
}

/// Allows `null` for every real number, which is how NaN is written.
#[cfg(feature = "schema")]
fn allow_null(schema: &mut schemars::Schema) {
    if schema.get("type").is_some_and(|name| name == "number") {
        schema.insert("type".to_owned(), serde_json::json!(["number", "null"]));
    }
}
