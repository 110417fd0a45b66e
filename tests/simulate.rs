//! The theory is compared with the network itself, which is trained at finite dimension `D` on its actual
//! loss. Its measurements are extrapolated to `D -> infinity`.
//!
//! Every comparison also has to reject a wrong prediction, so that agreement means something.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::ops::ControlFlow;

use lora_asymptotics::simulate::{
    Comparison, Estimate, Experiment, FrozenLogits, Laboratory, Measurement, MessagePassing, Size,
    message_passing,
};
use lora_asymptotics::{Error, Model, Options, Outcome, Scenario, Teacher, lora};

/// Number of standard errors by which a right prediction may be off.
const THRESHOLD: f64 = 5.0;

fn sizes(sizes: &[(usize, usize)]) -> Vec<Size> {
    sizes.iter().map(|(dimension, instances)| Size::new(*dimension, *instances)).collect()
}

fn laboratory(of: &[(usize, usize)]) -> Laboratory {
    Laboratory { sizes: sizes(of), seed: 1, random_starts: 0, ..Laboratory::default() }
}

fn scenario(json: &str) -> Scenario {
    Scenario::from_json(json).unwrap()
}

fn run(experiment: &Experiment) -> Vec<Measurement> {
    experiment.run_all(Vec::new(), |_| ControlFlow::Continue(())).unwrap()
}

/// Runs an experiment, asserts that it agrees with its prediction, and returns it with its measurements.
fn agrees(scenario: &Scenario, laboratory: &Laboratory) -> (Experiment, Vec<Measurement>) {
    let experiment = Experiment::new(scenario, laboratory).unwrap();
    let measurements = run(&experiment);
    let comparison = experiment.compare(&measurements);
    println!("{comparison}");
    assert_eq!(comparison.unconverged, 0, "{comparison}");
    assert!(comparison.rows.iter().all(|row| row.z.abs() < THRESHOLD), "{comparison}");
    (experiment, measurements)
}

/// The number of observables that a wrong prediction gets wrong.
fn rejected(comparison: &Comparison) -> usize {
    comparison.rows.iter().filter(|row| row.z.abs() > THRESHOLD).count()
}

/// The prediction for another ridge of pre-training.
fn with_ridge(scenario: &Scenario, factor: f64) -> Outcome {
    let mut wrong = scenario.clone();
    let pretraining = wrong.pretrain.as_mut().unwrap();
    *pretraining = pretraining.with_lambda(factor * pretraining.lambda().unwrap()).unwrap();
    wrong.solve().unwrap()
}

fn pretraining_agrees(json: &str, of: &[(usize, usize)], order: usize) {
    let scenario = scenario(json);
    let laboratory = Laboratory { order: Some(order), ..laboratory(of) };
    let (experiment, measurements) = agrees(&scenario, &laboratory);
    let wrong = experiment.compare_to(&with_ridge(&scenario, 2.0), &measurements);
    assert!(rejected(&wrong) >= 4, "twice the ridge is not rejected:\n{wrong}");
}

#[test]
fn linear_pretraining_of_one_token() {
    let json = r#"{"model": {"tokens": 1, "activation": "linear", "delta": 0.5, "teacher": {"wishart": {"kappa0": 0.5}}},
        "pretrain": {"alpha": 0.5, "lambda": 0.2}}"#;
    pretraining_agrees(json, &[(12, 384), (24, 144), (48, 48)], 2);
}

#[test]
fn linear_pretraining_of_two_tokens() {
    let json = r#"{"model": {"tokens": 2, "activation": "linear", "delta": 0.5, "teacher": {"wishart": {"kappa0": 0.5}}},
        "pretrain": {"alpha": 0.25, "lambda": 0.1}}"#;
    pretraining_agrees(json, &[(12, 384), (24, 144), (48, 48)], 2);
}

#[test]
fn softmax_pretraining_of_two_tokens() {
    let json = r#"{"model": {"tokens": 2, "activation": "softmax", "delta": 0.5, "teacher": {"wishart": {"kappa0": 0.5}}},
        "pretrain": {"alpha": 0.25, "lambda": 0.05}, "options": {"tolerance": 1e-7}}"#;
    pretraining_agrees(json, &[(24, 96), (48, 48), (72, 24)], 1);
}

#[test]
fn softmax_pretraining_of_three_tokens_at_low_temperature() {
    let json = r#"{"model": {"tokens": 3, "activation": "softmax", "delta": 0.5, "inverse_temperature": 1.5,
                             "teacher": {"wishart": {"kappa0": 1.0}}},
        "pretrain": {"alpha": 0.1, "lambda": 0.1}, "options": {"tolerance": 1e-7, "log2_nodes": 13}}"#;
    pretraining_agrees(json, &[(30, 96), (50, 48), (70, 24)], 1);
}

#[test]
fn pretraining_with_a_narrow_student_and_a_power_law() {
    let json = r#"{"model": {"tokens": 2, "activation": "linear", "delta": 0.1,
                             "teacher": {"power_law": {"exponent": 1.0, "dimension": 30}}},
        "pretrain": {"alpha": 0.25, "lambda": 0.1, "kappa": 0.8}}"#;
    pretraining_agrees(json, &[(30, 96), (60, 48), (90, 16)], 1);
}

/// The fixed point of the same equations without `eta` in `r = vhat + 2 lambda + 2 eta`. The full equations
/// with the ridge `lambda' = lambda - eta(lambda')` are the same as these equations.
fn without_eta(scenario: &Scenario) -> Outcome {
    let lambda = scenario.lora.unwrap().lambda().unwrap();
    let mut shifted = scenario.clone();
    let mut outcome = scenario.solve().unwrap();
    for _ in 0..30 {
        let eta = outcome.lora.as_ref().unwrap().order.eta;
        let finetuning = shifted.lora.as_mut().unwrap();
        let change = (finetuning.lambda().unwrap() - (lambda - eta)).abs();
        if change < 1e-6 {
            break;
        }
        *finetuning = finetuning.with_lambda(lambda - eta).unwrap();
        outcome = shifted.solve().unwrap();
    }
    let solution = outcome.lora.as_mut().unwrap();
    let reached = shifted.lora.unwrap().lambda().unwrap();
    assert!((reached + solution.order.eta - lambda).abs() < 1e-4, "not a fixed point");
    solution.objective = scenario.lora.unwrap().alpha() * solution.errors.train + lambda * solution.order.q;
    outcome
}

/// The prediction for all sequences, although the fine-tuning has selected some of them.
fn without_selection(scenario: &Scenario) -> Outcome {
    let mut wrong = scenario.clone();
    wrong.lora = wrong.lora.map(|training| training.on(lora::Sequences::Fresh));
    wrong.solve().unwrap()
}

/// Fine-tuning on synthetic frozen logits, which has no large corrections at a single size.
fn finetuning_agrees(json: &str, dimension: usize, instances: usize, wrong: fn(&Scenario) -> Outcome) {
    let scenario = scenario(json);
    let (experiment, measurements) = agrees(&scenario, &laboratory(&[(dimension, instances)]));
    assert_eq!(experiment.outcome().lora.as_ref().unwrap().validity.verdict, lora::Verdict::Good);
    let wrong = experiment.compare_to(&wrong(&scenario), &measurements);
    println!("wrong:\n{wrong}");
    assert!(rejected(&wrong) >= 1, "a wrong prediction is not rejected:\n{wrong}");
}

#[test]
fn linear_finetuning_of_one_token() {
    let json = r#"{"model": {"tokens": 1, "activation": "linear", "delta": 0.25}, "frozen": {"q0": 1.0, "q": 1.2, "m": 1.0},
        "lora": {"alpha": 5.0, "lambda": 1.0}}"#;
    finetuning_agrees(json, 200, 96, without_eta);
}

#[test]
fn linear_finetuning_of_two_tokens_with_recalibration() {
    let json = r#"{"model": {"tokens": 2, "activation": "linear", "delta": 0.25}, "frozen": {"q0": 1.5, "q": 1.2, "m": 1.1},
        "lora": {"alpha": 2.5, "lambda": 1.5, "beta": 0.8}}"#;
    finetuning_agrees(json, 200, 96, without_eta);
}

#[test]
fn linear_finetuning_of_three_tokens_on_reused_sequences() {
    let json = r#"{"model": {"tokens": 3, "activation": "linear", "delta": 0.5}, "frozen": {"q0": 2.0, "q": 1.2, "m": 1.1, "v": 0.8},
        "lora": {"alpha": 1.5, "lambda": 1.5, "sequences": "reused"}}"#;
    finetuning_agrees(json, 200, 96, without_eta);
}

#[test]
fn linear_finetuning_of_two_tokens_on_selected_sequences() {
    let json = r#"{"model": {"tokens": 2, "activation": "linear", "delta": 0.5}, "frozen": {"q0": 2.0, "q": 2.5, "m": 1.0},
        "lora": {"alpha": 5.0, "lambda": 1.5, "sequences": {"active": {"fraction": 0.2}}}}"#;
    finetuning_agrees(json, 200, 96, without_selection);
}

#[test]
fn softmax_finetuning_of_two_tokens() {
    let json = r#"{"model": {"tokens": 2, "activation": "softmax", "delta": 0.5}, "frozen": {"q0": 2.0, "q": 1.2, "m": 1.1},
        "lora": {"alpha": 6.0, "lambda": 0.5}, "options": {"tolerance": 1e-7, "log2_nodes": 13}}"#;
    finetuning_agrees(json, 200, 96, without_eta);
}

#[test]
fn softmax_finetuning_of_three_tokens_on_reused_sequences() {
    let json = r#"{"model": {"tokens": 3, "activation": "softmax", "delta": 0.5}, "frozen": {"q0": 2.0, "q": 1.2, "m": 1.1, "v": 1.0},
        "lora": {"alpha": 5.0, "lambda": 0.5, "sequences": "reused"}, "options": {"tolerance": 1e-7, "log2_nodes": 13}}"#;
    finetuning_agrees(json, 200, 64, without_eta);
}

#[test]
fn softmax_finetuning_of_two_tokens_on_selected_sequences() {
    let json = r#"{"model": {"tokens": 2, "activation": "softmax", "delta": 0.5, "inverse_temperature": 1.3}, "frozen": {"q0": 2.0, "q": 1.2, "m": 1.1},
        "lora": {"alpha": 6.0, "lambda": 0.5, "q0": 1.3, "beta": 0.8, "sequences": {"active": {"fraction": 0.3, "score": "centred"}}},
        "options": {"tolerance": 1e-7, "log2_nodes": 13}}"#;
    finetuning_agrees(json, 200, 96, without_selection);
}

#[test]
fn linear_pipeline_on_fresh_sequences() {
    let json = r#"{"model": {"tokens": 2, "activation": "linear", "delta": 0.5, "teacher": {"wishart": {"kappa0": 0.5}}},
        "pretrain": {"alpha": 0.2, "lambda": 0.1}, "lora": {"alpha": 3.0, "lambda": 0.5}}"#;
    agrees(&scenario(json), &laboratory(&[(20, 192), (40, 96), (80, 32)]));
}

#[test]
fn softmax_pipeline_on_reused_sequences() {
    let json = r#"{"model": {"tokens": 2, "activation": "softmax", "delta": 0.5, "teacher": {"wishart": {"kappa0": 0.5}}},
        "pretrain": {"alpha": 0.2, "lambda": 0.05}, "lora": {"alpha": 5.0, "lambda": 0.3, "sequences": "reused"},
        "options": {"tolerance": 1e-7, "log2_nodes": 13}}"#;
    agrees(&scenario(json), &laboratory(&[(30, 128), (60, 48), (90, 24)]));
}

#[test]
fn all_starts_of_pretraining_lead_to_one_minimum() {
    let json = r#"{"model": {"tokens": 2, "activation": "softmax", "delta": 0.5, "teacher": {"wishart": {"kappa0": 0.5}}},
        "pretrain": {"alpha": 0.2, "lambda": 0.05}, "options": {"tolerance": 1e-6, "log2_nodes": 10}}"#;
    let laboratory = Laboratory { pretraining_starts: 4, ..laboratory(&[(30, 4)]) };
    for measurement in run(&Experiment::new(&scenario(json), &laboratory).unwrap()) {
        let runs = measurement.pretrain.unwrap().runs;
        assert_eq!(runs.len(), 4);
        for run in &runs {
            assert!(run.converged);
            assert!((run.objective - runs[0].objective).abs() < 1e-9, "{runs:?}");
            assert!((run.alignment - runs[0].alignment).abs() < 1e-4, "{runs:?}");
        }
    }
}

fn cheap() -> Scenario {
    scenario(
        r#"{"model": {"tokens": 2, "activation": "linear", "delta": 0.5, "teacher": {"wishart": {"kappa0": 0.5}}},
            "pretrain": {"alpha": 0.25, "lambda": 0.1}, "lora": {"alpha": 2.0, "lambda": 0.5},
            "options": {"log2_nodes": 8}}"#,
    )
}

/// Returns the result of `work` on a pool with the given number of threads.
fn on<R: Send>(threads: usize, work: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}

#[test]
fn memory_is_that_of_the_pool_that_trains() {
    let sizes = laboratory(&[(20, 16)]);
    let scarce = Laboratory { memory_limit: 3_000_000, ..sizes };
    let experiment = on(1, || Experiment::new(&cheap(), &scarce)).unwrap();
    let refused = on(16, || experiment.run_all(Vec::new(), |_| ControlFlow::Continue(()))).unwrap_err();
    assert!(
        matches!(refused, Error::InvalidParameter { field: "laboratory.sizes.dimension", .. }),
        "{refused}"
    );
}

/// A solve inside `progress` must not begin another instance on top of it, which would wait for ever for the lock that the
/// first one holds.
#[test]
fn progress_may_solve() {
    let experiment = Experiment::new(&cheap(), &laboratory(&[(20, 24)])).unwrap();
    let mut solved = 0;
    let all = on(4, || {
        experiment.run_all(Vec::new(), |_| {
            solved += usize::from(cheap().solve().is_ok());
            ControlFlow::Continue(())
        })
    });
    assert_eq!((all.unwrap().len(), solved), (24, 24));
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let results = [1, 2, 3, 16].map(|threads| {
        let measurements =
            on(threads, || run(&Experiment::new(&cheap(), &laboratory(&[(20, 4), (40, 2)])).unwrap()));
        measurements.iter().map(|one| serde_json::to_string(one).unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(results[0], results[1]);
    assert_eq!(results[0], results[2]);
    // With fewer instances than threads, the instances run one after the other, each on all threads.
    assert_eq!(results[0], results[3]);
    // The instances are run one by one, each on all threads.
    let experiment = Experiment::new(&cheap(), &laboratory(&[(20, 4), (40, 2)])).unwrap();
    let alone: Vec<String> = experiment
        .instances()
        .iter()
        .map(|[dimension, instance]| {
            serde_json::to_string(&experiment.run(*dimension, *instance).unwrap()).unwrap()
        })
        .collect();
    assert_eq!(results[0], alone);
}

#[test]
fn an_experiment_stops_and_goes_on() {
    let experiment = Experiment::new(&cheap(), &laboratory(&[(20, 12)])).unwrap();
    let mut count = 0;
    let stop = |_: &Measurement| {
        count += 1;
        if count == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let some = on(2, || experiment.run_all(Vec::new(), stop)).unwrap();
    assert!((3..12).contains(&some.len()), "{} instances", some.len());
    // The measurements are read from a file. One instance is not of this experiment, and another occurs
    // twice.
    let mut known: Vec<Measurement> =
        some.iter().map(|one| serde_json::from_str(&serde_json::to_string(one).unwrap()).unwrap()).collect();
    let mut foreign = known[0].clone();
    foreign.dimension = 21;
    known.push(foreign);
    known.push(known[0].clone());
    let mut new = 0;
    let all = experiment
        .run_all(known, |_| {
            new += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(new + some.len(), 12);
    assert_eq!(all, run(&experiment));
    // A single instance has a value, but no standard error.
    let one = experiment.compare(&all[..1]);
    assert!(one.rows.iter().all(|row| row.simulation.mean.is_finite() && row.z.is_nan()), "{one}");
    assert!(one.rms_z().is_nan() && one.worst_z().abs() <= 0.0);
}

/// The name of the field for which an experiment is refused.
fn refused(scenario: &Scenario, laboratory: &Laboratory) -> String {
    match Experiment::new(scenario, laboratory).unwrap_err() {
        Error::InvalidParameter { field, .. }
        | Error::Conflict { field, .. }
        | Error::MissingField { field, .. } => field.to_owned(),
        other => panic!("{other}"),
    }
}

#[test]
fn what_cannot_be_simulated_is_an_error() {
    let good = laboratory(&[(20, 4)]);
    let with = |of: &[(usize, usize)]| laboratory(of);
    for (expected, bad) in [
        ("laboratory.sizes", with(&[])),
        ("laboratory.sizes.dimension", with(&[(1, 4)])),
        ("laboratory.sizes.dimension", with(&[(20, 4), (20, 5)])),
        ("laboratory.sizes.dimension", with(&[(usize::MAX, 4)])),
        ("laboratory.sizes.instances", with(&[(20, 1)])),
        // The number of sequences would be alpha D^2 = 72.25.
        ("laboratory.sizes.dimension", with(&[(3, 4)])),
        ("laboratory.test_sequences", Laboratory { test_sequences: 0, ..good.clone() }),
        ("laboratory.pretraining_starts", Laboratory { pretraining_starts: 0, ..good.clone() }),
        ("laboratory.random_starts", Laboratory { random_starts: 101, ..good.clone() }),
        ("laboratory.gradient_tolerance", Laboratory { gradient_tolerance: f64::NAN, ..good.clone() }),
        ("laboratory.max_iterations", Laboratory { max_iterations: 0, ..good.clone() }),
        ("laboratory.order", Laboratory { order: Some(1), ..good.clone() }),
        // There would be 10^9 sequences of two tokens in 60,000 dimensions. The experiment is refused without
        // an attempt to allocate 10^15 bytes.
        ("laboratory.sizes.dimension", with(&[(60_000, 2)])),
        ("laboratory.sizes.dimension", Laboratory { memory_limit: 1000, ..good.clone() }),
        ("laboratory.memory_limit", Laboratory { memory_limit: u64::MAX, ..good.clone() }),
    ] {
        assert_eq!(refused(&cheap(), &bad), expected, "{bad:?}");
    }
    let mut reusing = cheap();
    reusing.lora = reusing.lora.map(|training| training.reused().with_alpha(6.0).unwrap());
    assert_eq!(refused(&reusing, &good), "laboratory.sizes.dimension");
    let wide = Teacher::Wishart { kappa0: 1e6 };
    let wide = Scenario { model: cheap().model.with_teacher(wide).unwrap(), ..cheap() };
    assert_eq!(refused(&wide, &with(&[(100, 4)])), "laboratory.sizes.dimension");
    let bound = scenario(
        r#"{"model": {"tokens": 2, "activation": "linear", "delta": 0.5}, "frozen": {"q0": 1.5, "q": 1.2, "m": 1.1},
            "lora": {"alpha": 2.5}, "estimator": "bayes_optimal"}"#,
    );
    assert_eq!(refused(&bound, &good), "estimator = bayes_optimal");
    let nothing = Scenario { lora: None, ..cheap() };
    assert_eq!(refused(&nothing, &Laboratory { frozen: FrozenLogits::Synthetic, ..good.clone() }), "lora");
    let experiment = Experiment::new(&cheap(), &good).unwrap();
    assert!(experiment.run(20, 4).is_err() && experiment.run(40, 0).is_err());
}

#[test]
fn an_experiment_without_measurements_is_empty() {
    let experiment = Experiment::new(&cheap(), &laboratory(&[(20, 4)])).unwrap();
    let comparison = experiment.compare(&[]);
    assert!(comparison.rows.is_empty() && comparison.worst_z().abs() <= 0.0);
}

fn deviation(measured: Estimate, expected: f64) -> f64 {
    (measured.mean - expected) / measured.std_error
}

fn message_passing_follows_state_evolution(model: &Model, noise: f64, alpha: f64, instances: usize) {
    let frozen = lora::Frozen::new(1.0 + noise, 1.0, 1.0).unwrap();
    let options = Options::default().with_log2_nodes(12).unwrap();
    let settings = MessagePassing { iterations: 15, start: 0.3 };
    let laboratory = laboratory(&[(400, instances)]);
    let found = message_passing(model, &frozen, alpha, 1.0, &settings, &laboratory, &options).unwrap();
    let steps = &found[0].iterations;
    assert_eq!(steps.len(), settings.iterations + 1);
    for step in [1, 2, 4, settings.iterations] {
        let now = steps[step];
        let [m, q] = [now.m, now.q].map(|measured| deviation(measured, now.state_evolution));
        println!("{model:?}, iteration {step}: {now:?}, m: {m:.2}, q: {q:.2} standard errors");
        assert!(m.abs() < THRESHOLD && q.abs() < THRESHOLD, "{now:?}");
    }
    // Message passing ends on the algorithmic branch.
    let bound = lora::bayes_optimal(model, &frozen, alpha, 1.0, &options).unwrap();
    let last = steps[settings.iterations];
    assert!((last.state_evolution - bound.order.q).abs() < 1e-3, "{last:?}, {:?}", bound.order);
}

#[test]
fn message_passing_of_linear_attention() {
    message_passing_follows_state_evolution(&Model::linear(1, 0.3).unwrap(), 0.1, 2.5, 32);
    message_passing_follows_state_evolution(&Model::linear(2, 0.3).unwrap(), 0.1, 1.2, 32);
}

#[test]
fn message_passing_of_softmax_attention() {
    message_passing_follows_state_evolution(&Model::softmax(2, 0.3).unwrap(), 0.1, 2.0, 32);
    message_passing_follows_state_evolution(&Model::softmax(3, 0.3).unwrap(), 0.1, 1.5, 16);
}

#[test]
fn message_passing_recovers_everything_without_noise() {
    let frozen = lora::Frozen::new(1.0, 1.0, 1.0).unwrap();
    let settings = MessagePassing { iterations: 40, start: 0.3 };
    let options = Options::default().with_log2_nodes(10).unwrap();
    let model = Model::softmax(3, 0.0).unwrap();
    let found =
        message_passing(&model, &frozen, 2.0, 1.0, &settings, &laboratory(&[(300, 16)]), &options).unwrap();
    let last = found[0].iterations[settings.iterations];
    // At finite size, the sign of a sequence with small chi may stay wrong.
    assert!(last.m.mean > 0.98 && last.state_evolution > 0.999, "{last:?}");
    // On one thread the result is the same, bit by bit.
    let again =
        on(1, || message_passing(&model, &frozen, 2.0, 1.0, &settings, &laboratory(&[(300, 16)]), &options));
    assert_eq!(found, again.unwrap());
}
