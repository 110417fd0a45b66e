//! `lora-asymptotics schema`: what is read and written conforms to the schema, and what is refused as a text does not.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::fs;

use common::{SCENARIO, answer, status, written};
use jsonschema::Validator;
use serde_json::{Value, json};

fn schema(of: &str) -> Validator {
    let output = answer(&["schema", of], b"");
    assert_eq!(status(&output), Some(0));
    let schema: Value = serde_json::from_str(written(&output)).unwrap();
    assert!(jsonschema::meta::is_valid(&schema));
    jsonschema::validator_for(&schema).unwrap()
}

/// The recorded scenarios with their answers.
fn golden() -> Vec<Value> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/golden.jsonl");
    fs::read_to_string(file).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The value with another one at a path; without a value, what is there is removed.
fn with(value: &Value, path: &str, new: Option<Value>) -> Value {
    let mut changed = value.clone();
    let (parent, name) = path.rsplit_once('/').unwrap();
    let fields = changed.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    match new {
        Some(new) => drop(fields.insert(name.to_owned(), new)),
        None => assert!(fields.remove(name).is_some(), "{path}"),
    }
    changed
}

#[test]
fn every_golden_scenario_conforms() {
    let schema = schema("scenario");
    // A number out of its range and parts that exclude each other are refused later than by the schema.
    let scenarios: Vec<Value> =
        golden().iter().map(|record| record["scenario"].clone()).filter(Value::is_object).collect();
    assert!(scenarios.len() > 100);
    for scenario in &scenarios {
        let result = schema.validate(scenario);
        assert!(result.is_ok(), "{result:?}: {scenario}");
    }
}

#[test]
fn a_wrong_scenario_does_not_conform() {
    let schema = schema("scenario");
    let scenario: Value = serde_json::from_str(SCENARIO).unwrap();
    assert!(schema.is_valid(&scenario));
    for (path, new) in [
        ("/modle", Some(json!({}))),
        ("/model", None),
        ("/model/tokens", Some(json!("two"))),
        ("/model/tokens", Some(json!(2.5))),
        ("/model/tokens", Some(json!(-2))),
        ("/model/activation", Some(json!("tanh"))),
        ("/model/activation", None),
        ("/model/teacher/wishart/kappa", Some(json!(1.0))),
        (
            "/model/teacher",
            Some(json!({"wishart": {"kappa0": 1.0}, "power_law": {"exponent": 1.0, "dimension": 5}})),
        ),
        ("/pretrain/alpha", None),
        ("/pretrain/alpha", Some(json!(null))),
        ("/lora/gamma", Some(json!(1.0))),
        ("/lora/q0", Some(json!(["one"]))),
        ("/lora/sequences", Some(json!("some"))),
        ("/lora/sequences", Some(json!({"active": {}}))),
        ("/options/log2_nodes", Some(json!(8.5))),
        ("/estimator", Some(json!("mean"))),
    ] {
        let wrong = with(&scenario, path, new);
        assert!(!schema.is_valid(&wrong), "{wrong}");
        // The program refuses it, too.
        let output = answer(&["solve"], wrong.to_string().as_bytes());
        assert!(written(&output).contains("\"kind\":\"syntax\""), "{wrong}: {}", written(&output));
    }
    for right in [
        with(&scenario, "/lora/q0", Some(json!([1.0, 0.5]))),
        with(&scenario, "/lora/sequences", Some(json!({"active": {"fraction": 0.1, "score": "centred"}}))),
        with(&scenario, "/pretrain/lambda", Some(json!(null))),
    ] {
        assert!(schema.is_valid(&right), "{right}");
    }
}

#[test]
fn every_golden_outcome_conforms() {
    let schema = schema("outcome");
    let outcomes: Vec<Value> =
        golden().into_iter().filter_map(|record| record.get("outcome").cloned()).collect();
    assert!(outcomes.len() > 100);
    for outcome in &outcomes {
        let result = schema.validate(outcome);
        assert!(result.is_ok(), "{result:?}: {outcome}");
    }
    // Among them are outcomes with nulls, with skipped stages, and with bounds.
    let text = serde_json::to_string(&outcomes).unwrap();
    for kind in ["null", "\"skipped\"", "\"branches\""] {
        assert!(text.contains(kind), "{kind}");
    }
}

#[test]
fn an_outcome_with_several_columns_conforms() {
    let scenario: Value = serde_json::from_str(SCENARIO).unwrap();
    let scenario = with(&scenario, "/lora/rank", Some(json!(2)));
    let scenario = with(&scenario, "/options", Some(json!({"log2_nodes": 6, "tolerance": 1e-2})));
    let solved = answer(&["solve"], scenario.to_string().as_bytes());
    let outcome: Value = serde_json::from_str(written(&solved)).unwrap();
    assert_eq!(outcome["lora"]["columns"].as_array().unwrap().len(), 2);
    let schema = schema("outcome");
    assert!(schema.is_valid(&outcome));
    assert!(!schema.is_valid(&with(&outcome, "/lora/columns", Some(json!([{"q": 1.0}])))));
}

#[test]
fn a_wrong_outcome_does_not_conform() {
    let schema = schema("outcome");
    let solved = answer(&["solve"], SCENARIO.as_bytes());
    let outcome: Value = serde_json::from_str(written(&solved)).unwrap();
    assert!(schema.is_valid(&outcome));
    for (path, new) in [
        ("/version", Some(json!(2))),
        ("/version", None),
        ("/pretrain/order/q", Some(json!("1.0"))),
        ("/pretrain/order", None),
        ("/lora/status", Some(json!("done"))),
        ("/lora/validity/verdict", Some(json!("fair"))),
        ("/lora/validity/reliable", None),
        ("/lora/iterations", Some(json!(-1))),
        ("/lora/std_error/test", Some(json!("small"))),
    ] {
        let wrong = with(&outcome, path, new);
        assert!(!schema.is_valid(&wrong), "{path}");
    }
    // Fields that a reader does not know are ignored.
    assert!(schema.is_valid(&with(&outcome, "/lora/news", Some(json!(1)))));
    assert!(!schema.is_valid(&json!({"error": {"kind": "syntax", "message": "no"}})));
}
