//! Golden outcomes: scenarios that cover every branch of `Scenario::solve`, and their outcomes when they were
//! recorded.
//!
//! They do not show that an outcome is right, as the other tests do, but that it has changed.
//! `tests/data/README.md` says how they are compared, and how they are recorded again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "golden/comparison.rs"]
mod comparison;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use comparison::{Accuracy, differences};
use lora_asymptotics::Scenario;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The environment variable that chooses the action of the test, and its values.
const VARIABLE: &str = "GOLDEN";
const WRITE: &str = "write";
const BITS: &str = "bits";

/// A line of `golden_scenarios.jsonl`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    /// A scenario, or a text that is read as one.
    scenario: Value,
    tolerance: Option<Tolerance>,
}

/// The way of comparing a case that cannot be compared to rounding.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Tolerance {
    Statistical,
    Words,
}

/// A line of `golden.jsonl`.
#[derive(Serialize, Deserialize)]
struct Record {
    name: String,
    scenario: Value,
    #[serde(flatten)]
    result: Answer,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Outcome(Value),
    Error { kind: String, message: String },
}

impl Case {
    fn solve(self) -> Record {
        let text = match &self.scenario {
            Value::String(text) => text.clone(),
            scenario => scenario.to_string(),
        };
        let result = match Scenario::from_json(&text).and_then(|scenario| scenario.solve()) {
            Ok(outcome) => Answer::Outcome(serde_json::to_value(outcome).unwrap()),
            Err(error) => Answer::Error { kind: error.kind().to_owned(), message: error.to_string() },
        };
        Record { name: self.name, scenario: self.scenario, result }
    }
}

fn path(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(file)
}

fn lines<T: for<'de> Deserialize<'de>>(file: &str) -> Vec<T> {
    let text = std::fs::read_to_string(path(file)).unwrap();
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{file}: {error} in {line}"));
    text.lines().map(parse).collect()
}

fn cases() -> Vec<Case> {
    lines("golden_scenarios.jsonl")
}

fn records() -> Vec<Record> {
    lines("golden.jsonl")
}

/// Whether the outcomes are being recorded. There is then nothing to compare with.
fn is_recording() -> bool {
    std::env::var(VARIABLE).as_deref() == Ok(WRITE)
}

fn write() {
    let solved = cases().into_iter().map(|case| serde_json::to_string(&case.solve()).unwrap() + "\n");
    std::fs::write(path("golden.jsonl"), solved.collect::<String>()).unwrap();
}

/// One line per difference between the outcomes now and the recorded ones, over the recorded cases.
fn changes(to_the_last_bit: bool) -> Vec<String> {
    let recorded: BTreeMap<_, _> = records().into_iter().map(|record| (record.name, record.result)).collect();
    let mut changes = Vec::new();
    for case in cases() {
        let Some(old) = recorded.get(&case.name) else { continue };
        let accuracy = match case.tolerance {
            _ if to_the_last_bit => Accuracy::Bits,
            Some(Tolerance::Statistical) => Accuracy::Statistical,
            Some(Tolerance::Words) => Accuracy::Words,
            None => Accuracy::Rounding,
        };
        let new = case.solve();
        let [before, after] = [old, &new.result].map(|result| serde_json::to_value(result).unwrap());
        changes.extend(differences(&before, &after, accuracy).iter().map(|d| format!("{}: {d}", new.name)));
    }
    changes
}

#[test]
fn outcomes_are_the_recorded_ones() {
    if is_recording() {
        return write();
    }
    let to_the_last_bit = match std::env::var(VARIABLE).as_deref() {
        Ok(BITS) => true,
        Ok("") | Err(_) => false,
        Ok(other) => panic!("{VARIABLE} = {other}: must be {WRITE}, {BITS} or absent"),
    };
    let changes = changes(to_the_last_bit);
    assert!(changes.is_empty(), "{} differences:\n{}", changes.len(), changes.join("\n"));
}

/// The recorded outcomes belong to the list of scenarios, case by case.
#[test]
fn every_scenario_is_recorded() {
    if is_recording() {
        return;
    }
    let listed: Vec<_> = cases().into_iter().map(|case| (case.name, case.scenario)).collect();
    let recorded: Vec<_> = records().into_iter().map(|record| (record.name, record.scenario)).collect();
    assert_eq!(listed, recorded, "run GOLDEN=write cargo test --release --test golden");
    let names: BTreeSet<_> = listed.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), listed.len(), "names are unique");
}

/// All texts and numbers at `pointers` in `values`; a pointer is a path of keys.
fn texts<'a>(values: impl Iterator<Item = &'a Value>, pointers: &[&str]) -> BTreeSet<String> {
    let found = values.flat_map(|value| pointers.iter().filter_map(|pointer| value.pointer(pointer)));
    found.map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned)).collect()
}

#[test]
fn every_kind_of_outcome_is_recorded() {
    if is_recording() {
        return;
    }
    let records = records();
    let results: Vec<Value> =
        records.iter().map(|record| serde_json::to_value(&record.result).unwrap()).collect();
    let set = |words: &[&str]| words.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
    let results = |pointers: &[&str]| texts(results.iter(), pointers);
    let statuses =
        ["collapsed", "converged", "max_iterations", "noise_limited", "non_finite", "skipped", "stalled"];
    assert_eq!(results(&["/outcome/pretrain/status", "/outcome/lora/status"]), set(&statuses));
    assert_eq!(results(&["/outcome/lora/validity/verdict"]), set(&["good", "marginal", "unreliable"]));
    assert_eq!(results(&["/outcome/lora/branch"]), set(&["informed", "uninformed"]));
    let divergences = set(&["integration_by_parts", "pointwise_and_jump"]);
    assert_eq!(results(&["/outcome/pretrain/divergence"]), divergences);
    assert_eq!(results(&["/outcome/lora/divergence"]), divergences);
    let kinds = ["conflict", "invalid_parameter", "missing_field", "rank_does_not_fit", "syntax"];
    assert_eq!(results(&["/error/kind"]), set(&kinds));
    for (activation, fewest) in [("linear", 1), ("softmax", 2)] {
        for stage in ["pretrain", "lora"] {
            let of_stage = records.iter().filter(|record| {
                record.scenario.pointer("/model/activation") == Some(&Value::from(activation))
                    && matches!(&record.result, Answer::Outcome(outcome) if outcome.get(stage).is_some())
            });
            let tokens = texts(of_stage.map(|record| &record.scenario), &["/model/tokens"]);
            let all: BTreeSet<String> = (fewest..=8).map(|tokens| tokens.to_string()).collect();
            assert_eq!(tokens, all, "{activation}, {stage}");
        }
    }
}
