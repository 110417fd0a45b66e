//! The JSON Schemas of the repository are those of the types. After a change of the types, `SCHEMA=write` records them again:
//!
//! ```text
//! SCHEMA=write cargo test --features schema --test schema
//! ```

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use lora_asymptotics::scenario::schema::{OUTCOME, SCENARIO, derive_outcome, derive_scenario};

#[test]
fn schemas_are_those_of_the_types() {
    for (name, derived, kept) in
        [("scenario", derive_scenario(), SCENARIO), ("outcome", derive_outcome(), OUTCOME)]
    {
        let text = serde_json::to_string_pretty(&derived).unwrap() + "\n";
        if std::env::var("SCHEMA").is_ok_and(|action| action == "write") {
            let file = format!("{}/src/scenario/schema/{name}.json", env!("CARGO_MANIFEST_DIR"));
            std::fs::write(file, text).unwrap();
        } else {
            assert!(text == kept, "the schema of the {name} has changed: SCHEMA=write records it");
        }
    }
}
