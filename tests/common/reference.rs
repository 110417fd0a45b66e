//! Comparison of outcomes with records of the reference data, field by field.

use lora_asymptotics::Scenario;
use serde_json::Value;

/// Solves every record with 16 scrambles of `2^log2_nodes` nodes and compares all its numbers, within 4
/// combined standard errors. Numbers without a standard error (`trace`, `rank_fraction`) are compared to 1e-3
/// of their value. If the record has a `tolerance`, `abs` or `rel`, it is used for all numbers instead. A standard error of the record that is
/// known to be too small has a larger one in its `std`.
pub fn compare(records: &str, log2_nodes: usize) {
    for record in records.lines() {
        let record: Value = serde_json::from_str(record).unwrap();
        let mut scenario: Scenario = serde_json::from_value(record["scenario"].clone()).unwrap();
        scenario.options = scenario.options.with_scrambles(16).unwrap().with_log2_nodes(log2_nodes).unwrap();
        let outcome = serde_json::to_value(scenario.solve().unwrap()).unwrap();
        for (stage, expected) in record["expected"].as_object().unwrap() {
            let mut compared = 0;
            compare_fields(&outcome[stage], &outcome[stage]["std_error"], expected, &record, &mut compared);
            assert!(compared > 0, "nothing to compare in {record}");
        }
    }
}

fn compare_fields(outcome: &Value, errors: &Value, expected: &Value, record: &Value, compared: &mut usize) {
    for (name, field) in expected.as_object().unwrap() {
        let Some(value) = field["value"].as_f64() else {
            if field.is_object() {
                compare_fields(&outcome[name], errors, field, record, compared);
            }
            continue;
        };
        let found = outcome[name].as_f64().unwrap_or_else(|| panic!("no {name} in {outcome}"));
        let fallback =
            if matches!(name.as_str(), "trace" | "rank_fraction") { 2.5e-4 * value.abs() } else { 0.0 };
        let own = errors[name].as_f64().unwrap_or(fallback);
        let std = record["std"][name].as_f64().or(field["std"].as_f64()).unwrap();
        let error = own.hypot(std);
        let tolerance = &record["tolerance"];
        let allowed = match (tolerance["abs"].as_f64(), tolerance["rel"].as_f64()) {
            (Some(absolute), _) => absolute,
            (_, Some(relative)) => relative * value.abs(),
            _ => 4.0 * error + 1e-9,
        };
        assert!((found - value).abs() <= allowed, "{name}: {found}, expected {value} +- {error}");
        *compared += 1;
    }
}
