//! Fine-tuning with two factors (cross-attention): reference values, exact identities, symmetries, collapse, error paths, and a
//! comparison with training.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use lora_asymptotics::fixed_point::Status;
use lora_asymptotics::{Options, Scenario};
use serde_json::Value;

fn options(log2_nodes: usize, scrambles: usize) -> Options {
    Options::default().with_log2_nodes(log2_nodes).unwrap().with_scrambles(scrambles).unwrap()
}

/// The numbers of a record, with their standard errors and the paths at which they stand.
fn leaves(path: &str, value: &Value, all: &mut Vec<(String, [f64; 2])>) {
    match (value.get("value"), value) {
        (Some(_), _) => {
            all.push((path.to_owned(), ["value", "std"].map(|key| value[key].as_f64().unwrap())));
        }
        (None, Value::Object(map)) => {
            map.iter().for_each(|(key, x)| leaves(&format!("{path}/{key}"), x, all))
        }
        (None, other) => panic!("{path}: {other}"),
    }
}

#[test]
fn reference_values() {
    let mut compared = 0;
    for line in include_str!("data/lora_two_factors.jsonl").lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        let mut scenario = Scenario::from_json(&record["scenario"].to_string()).unwrap();
        scenario.options = options(10, 16);
        let solution = scenario.solve().unwrap().lora.unwrap();
        assert_eq!(solution.status, Status::Converged, "{line}");
        let outcome = serde_json::to_value(&solution).unwrap();
        let mut expected = Vec::new();
        leaves("", &record["expected"]["lora"], &mut expected);
        for (path, [reference, std]) in expected {
            let value = outcome.pointer(&path).unwrap().as_f64().unwrap();
            let (place, name) = path.rsplit_once('/').unwrap();
            let place = if place.starts_with("/columns") { place } else { "" };
            let own = outcome.pointer(&format!("{place}/std_error/{name}")).unwrap().as_f64().unwrap();
            let z = (value - reference) / own.hypot(std);
            assert!(z.abs() < 4.0, "{}, {path}: {value} against {reference}, z = {z}", record["scenario"]);
            compared += 1;
        }
    }
    assert_eq!(compared, 96);
}
