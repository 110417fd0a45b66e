//! The coefficients of `D^{-1/2}` of fine-tuning on real frozen weights: reference values, exact identities, error paths, and training.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use lora_asymptotics::lora::{FiniteSize, Score, Selection, Training};
use lora_asymptotics::{Error, Frozen, Model, Options, Scenario, lora};
use serde_json::{Value, json};

fn coefficients(scenario: &Value) -> FiniteSize {
    let scenario = Scenario::from_json(&scenario.to_string()).unwrap();
    let solution = scenario.solve().unwrap().lora.unwrap().into_converged().unwrap();
    solution.finite_size.unwrap()
}

#[test]
fn reference_values() {
    let mut worst: f64 = 0.0;
    for line in include_str!("data/finite_size.jsonl").lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        let start = std::time::Instant::now();
        let found = serde_json::to_value(coefficients(&record["scenario"])).unwrap();
        println!("{:?}", start.elapsed());
        let expected = record["expected"]["lora"]["finite_size"].as_object().unwrap();
        assert_eq!(expected.len(), 8);
        for (name, number) in expected {
            let [value, std] = ["value", "std"].map(|key| number[key].as_f64().unwrap());
            let own = found[name].as_f64().unwrap();
            let error = found["std_error"][name].as_f64().unwrap_or(0.0);
            let z = (own - value) / std.hypot(error);
            println!("{name:10} {own:9.5} +- {error:.5}   {value:9.5} +- {std:.5}   {z:6.2}");
            worst = worst.max(z.abs());
        }
    }
    assert!(worst < 4.0, "{worst}");
}
