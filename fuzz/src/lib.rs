//! What the fuzz targets do with their bytes: everything that a user's file can reach, with little work per input.
//!
//! The test `arbitrary` of the library gives the same functions mutated copies of the seed corpus, where there is no fuzzer.

use std::ops::ControlFlow;

use lora_asymptotics::simulate::{Experiment, Laboratory, Size};
use lora_asymptotics::sweep::{Shard, Sweep};
use lora_asymptotics::{Error, Options, Outcome, Scenario, Teacher};
use serde_json::{Value, json};

/// A line of JSON, as a scenario: reads, checks, solves, and solves again from the outcome.
pub fn scenario(line: &[u8]) {
    let Some(text) = text(line) else { return };
    let Some(mut scenario) = spoken(Scenario::from_json(text)) else { return };
    let _ = spoken(scenario.validate());
    bound_scenario(&mut scenario);
    let Some(outcome) = spoken(scenario.solve()) else { return };
    check_outcome(&outcome);
    if let Some(outcome) = spoken(scenario.solve_from(&outcome)) {
        check_outcome(&outcome);
    }
}

/// A file of JSON, as a description of a grid: reads, and solves the beginning of two shards.
pub fn sweep(file: &[u8]) {
    let Some(text) = text(file) else { return };
    let _ = spoken(Sweep::from_json(text));
    // The options of the scenarios of a grid can only be bounded in its description.
    let Ok(mut description) = serde_json::from_str::<Value>(text) else { return };
    let Some(options) = description.pointer_mut("/scenario").and_then(Value::as_object_mut) else { return };
    options.insert("options".to_owned(), json!({"log2_nodes": 6, "scrambles": 2, "max_iterations": 20}));
    let Some(sweep) = spoken(Sweep::from_json(&description.to_string())) else { return };
    for shard in ["1/1", "2/3"] {
        let Some(shard) = spoken(shard.parse::<Shard>()) else { return };
        let range = sweep.indices(shard);
        assert!(range.start <= range.end && range.end <= sweep.points());
        let Some(first) = range.clone().next() else { continue };
        let values = sweep.values(first);
        assert_eq!(values.len(), sweep.axes().len());
        let Some(scenario) = spoken(sweep.at(&values)) else { continue };
        if is_large(&scenario) {
            return;
        }
        let mut left = 2;
        let _ = spoken(sweep.run(shard, 0, |record| {
            assert!(range.contains(&record.index));
            if let Some(outcome) = &record.outcome {
                check_outcome(outcome);
            }
            left -= 1;
            if left > 0 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        }));
        // Done to the end and beyond: nothing is left.
        assert_eq!(spoken(sweep.run(shard, usize::MAX, |_| ControlFlow::Break(()))), Some(0));
    }
}

/// A file of JSON with a `scenario` and a `laboratory`: reads, checks, and trains very small networks.
pub fn laboratory(file: &[u8]) {
    let Some(text) = text(file) else { return };
    let Ok(mut description) = serde_json::from_str::<Value>(text) else { return };
    let mut part = |name: &str| description.get_mut(name).map(Value::take).unwrap_or_default();
    let Ok(mut scenario) = serde_json::from_value::<Scenario>(part("scenario")) else { return };
    let Ok(mut laboratory) = serde_json::from_value::<Laboratory>(part("laboratory")) else { return };
    let _ = spoken(laboratory.validate());
    bound_scenario(&mut scenario);
    bound_laboratory(&mut laboratory);
    let Some(experiment) = spoken(Experiment::new(&scenario, &laboratory)) else { return };
    check_outcome(experiment.outcome());
    let first = experiment.instances().into_iter().take(2);
    let measured: Vec<_> =
        first.filter_map(|[dimension, instance]| spoken(experiment.run(dimension, instance))).collect();
    assert!(!experiment.compare(&measured).to_string().is_empty());
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// The value, if there is one; an error has a name and words.
fn spoken<T>(result: Result<T, Error>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            assert!(!error.kind().is_empty() && !error.to_string().is_empty());
            None
        }
    }
}

/// Keeps the work small.
pub fn bound_options(options: &mut Options) {
    let smaller = options
        .with_log2_nodes(options.log2_nodes().min(6))
        .and_then(|options| options.with_scrambles(options.scrambles().min(2)))
        .and_then(|options| options.with_max_iterations(options.max_iterations().min(20)));
    *options = smaller.unwrap_or(*options);
}

/// Likewise.
pub fn bound_scenario(scenario: &mut Scenario) {
    bound_options(&mut scenario.options);
    let smaller = match scenario.model.teacher().cloned() {
        Some(Teacher::PowerLaw { exponent, dimension }) => {
            Teacher::PowerLaw { exponent, dimension: dimension.min(40) }
        }
        Some(Teacher::Spectrum { mut eigenvalues }) => {
            eigenvalues.truncate(40);
            Teacher::Spectrum { eigenvalues }
        }
        Some(Teacher::SingularValues { mut singular_values }) => {
            singular_values.truncate(40);
            Teacher::SingularValues { singular_values }
        }
        _ => return,
    };
    // The first eigenvalues of a valid list may all be 0, which is refused.
    if let Some(model) = spoken(scenario.model.clone().with_teacher(smaller)) {
        scenario.model = model;
    }
}

/// Whether a scenario of a grid takes long: its teacher cannot be bounded.
fn is_large(scenario: &Scenario) -> bool {
    match scenario.model.teacher() {
        Some(Teacher::PowerLaw { dimension, .. }) => *dimension > 40,
        Some(Teacher::Spectrum { eigenvalues: list } | Teacher::SingularValues { singular_values: list }) => {
            list.len() > 40
        }
        _ => false,
    }
}

/// Likewise.
pub fn bound_laboratory(laboratory: &mut Laboratory) {
    laboratory.sizes.truncate(2);
    for Size { dimension, instances, .. } in &mut laboratory.sizes {
        (*dimension, *instances) = ((*dimension).min(12), (*instances).min(2));
    }
    laboratory.test_sequences = laboratory.test_sequences.min(8);
    laboratory.pretraining_starts = laboratory.pretraining_starts.min(1);
    laboratory.random_starts = laboratory.random_starts.min(1);
    laboratory.max_iterations = laboratory.max_iterations.min(20);
    laboratory.memory_limit = laboratory.memory_limit.min(1 << 26);
}

/// What holds of any outcome.
pub fn check_outcome(outcome: &Outcome) {
    if let Some(stage) = &outcome.pretrain
        && stage.status.is_success()
    {
        let (order, errors) = (stage.order, stage.errors);
        let bound = order.q.sqrt() * stage.q0.sqrt();
        assert!(order.m <= bound * (1.0 + 1e-9), "{stage:?}");
        assert!(
            [errors.test, errors.test_clean, errors.train].iter().all(|error| *error >= 0.0),
            "{stage:?}"
        );
    }
    if let Some(stage) = &outcome.lora
        && stage.status.is_success()
    {
        let (order, errors) = (stage.order, stage.errors);
        assert!(order.q >= 0.0 && order.m >= 0.0, "{stage:?}");
        assert!(stage.alignment <= 1.0, "{stage:?}");
        assert!(
            [errors.test, errors.test_clean, errors.train].iter().all(|error| *error >= 0.0),
            "{stage:?}"
        );
    }
    // What is written can be read.
    let written = serde_json::to_string(outcome).map(|text| serde_json::from_str::<Outcome>(&text).is_ok());
    assert!(matches!(written, Ok(true)), "{outcome:?}");
}
