//! Activations that use the general channel: theory against networks trained at finite dimension, and the
//! collapse of both stages at a large ridge. `docs/activations.csv` has longer comparisons.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::ops::ControlFlow;

use lora_asymptotics::simulate::{Comparison, Experiment, Laboratory, Measurement, Size};
use lora_asymptotics::{
    ActivationName, Frozen, Model, Options, Scenario, Status, Teacher, Verdict, lora, pretrain,
};

/// Number of standard errors by which a right prediction may be off.
const THRESHOLD: f64 = 4.0;

const ACTIVATIONS: [ActivationName; 2] = [ActivationName::SoftmaxOne, ActivationName::Sigmoid];

/// A scenario of fine-tuning on given frozen weights.
fn finetuning(activation: ActivationName, tokens: usize, response: f64, lora: &str) -> Scenario {
    let json = format!(
        r#"{{"model": {{"tokens": {tokens}, "activation": "{activation}", "delta": 0.5}},
            "frozen": {{"q0": 2.0, "q": 1.2, "m": 1.1, "v": {response}}},
            "lora": {lora}, "options": {{"tolerance": 1e-6, "log2_nodes": 13}}}}"#
    );
    Scenario::from_json(&json).unwrap()
}

/// A scenario of pre-training with two tokens.
fn pretraining(activation: ActivationName, lambda: f64) -> Scenario {
    let json = format!(
        r#"{{"model": {{"tokens": 2, "activation": "{activation}", "delta": 0.5, "teacher": {{"wishart": {{"kappa0": 0.5}}}}}},
            "pretrain": {{"alpha": 0.25, "lambda": {lambda}}}, "options": {{"tolerance": 1e-6, "log2_nodes": 12}}}}"#
    );
    Scenario::from_json(&json).unwrap()
}

/// Trains networks, and returns their measurements.
fn train(scenario: &Scenario, sizes: &[(usize, usize)], order: usize) -> (Experiment, Vec<Measurement>) {
    let sizes = sizes.iter().map(|(dimension, instances)| Size::new(*dimension, *instances)).collect();
    let laboratory =
        Laboratory { sizes, seed: 5, random_starts: 0, order: Some(order), ..Laboratory::default() };
    let experiment = Experiment::new(scenario, &laboratory).unwrap();
    let measurements = experiment.run_all(Vec::new(), |_| ControlFlow::Continue(())).unwrap();
    (experiment, measurements)
}

/// Asserts that a prediction agrees with measurements, and that a wrong one does not.
fn assert_agreement(right: &Comparison, wrong: &Comparison) {
    println!("{right}");
    assert_eq!(right.unconverged, 0, "{right}");
    assert!(right.rows.iter().all(|row| row.z.abs() < THRESHOLD), "{right}");
    assert!(wrong.rows.iter().any(|row| row.z.abs() > THRESHOLD), "not rejected:\n{wrong}");
}

#[test]
fn finetuned_networks() {
    let fresh = r#"{"alpha": 8.0, "lambda": 0.1}"#;
    let reused = r#"{"alpha": 4.0, "lambda": 0.3, "sequences": "reused"}"#;
    for activation in ACTIVATIONS {
        for (tokens, response, lora) in [(2, 0.0, fresh), (3, 1.0, reused)] {
            let scenario = finetuning(activation, tokens, response, lora);
            let (experiment, measurements) = train(&scenario, &[(200, 16)], 0);
            assert_eq!(experiment.outcome().lora.as_ref().unwrap().validity.verdict, Verdict::Good);
            // The wrong prediction is that of the other activation.
            let other = ACTIVATIONS.into_iter().find(|other| *other != activation).unwrap();
            let wrong = finetuning(other, tokens, response, lora).solve().unwrap();
            assert_agreement(
                &experiment.compare(&measurements),
                &experiment.compare_to(&wrong, &measurements),
            );
        }
    }
}

#[test]
fn pretrained_networks() {
    for activation in ACTIVATIONS {
        let scenario = pretraining(activation, 0.05);
        let (experiment, measurements) = train(&scenario, &[(16, 192), (24, 96), (36, 48)], 2);
        assert_eq!(experiment.outcome().pretrain.as_ref().unwrap().validity.verdict, Verdict::Good);
        let wrong = pretraining(activation, 0.1).solve().unwrap();
        assert_agreement(&experiment.compare(&measurements), &experiment.compare_to(&wrong, &measurements));
    }
}

/// Reference values of softmax_one with `(Q0, Q, M, Delta) = (2, 1.2, 1.1, .5)`: `q`, `m`, the objective and
/// `E'`, each with its standard error. They come from an independent solver of the same equations.
#[test]
fn reference_of_softmax_one() {
    type Reference = [(f64, f64); 4];
    let two: Reference = [(0.9249, 0.0015), (0.9227, 0.0008), (1.579, 0.003), (0.2215, 0.0003)];
    let three: Reference = [(0.7794, 0.0011), (0.8515, 0.0006), (2.017, 0.004), (0.4069, 0.0011)];
    for (tokens, lora, reference) in
        [(2, r#"{"alpha": 8.0, "lambda": 0.1}"#, two), (3, r#"{"alpha": 5.0, "lambda": 0.3}"#, three)]
    {
        let solution =
            finetuning(ActivationName::SoftmaxOne, tokens, 0.0, lora).solve().unwrap().lora.unwrap();
        assert_eq!(solution.status, Status::Converged);
        let lora::Solution { order, errors, std_error, .. } = solution;
        let found = [
            (order.q, std_error.q),
            (order.m, std_error.m),
            (solution.objective, std_error.objective),
            (errors.test, std_error.test),
        ];
        for ((value, own), (expected, error)) in found.into_iter().zip(reference) {
            let z = (value - expected) / error.hypot(own.unwrap());
            assert!(z.abs() < THRESHOLD, "T = {tokens}: {value} against {expected}, z = {z:.1}");
        }
    }
}

/// The largest norm of trained weights.
fn largest(measurements: &[Measurement], norm: impl Fn(&Measurement) -> f64) -> f64 {
    measurements.iter().map(norm).fold(0.0, f64::max)
}

/// The smallest norm of trained weights.
fn smallest(measurements: &[Measurement], norm: impl Fn(&Measurement) -> f64) -> f64 {
    measurements.iter().map(norm).fold(f64::INFINITY, f64::min)
}

#[test]
fn collapse_of_pretraining() {
    for activation in ACTIVATIONS {
        let model =
            Model::new(activation, 2, 0.5).unwrap().with_teacher(Teacher::Wishart { kappa0: 0.5 }).unwrap();
        let training = pretrain::Training::without_ridge(0.25).unwrap();
        let threshold = pretrain::lambda_collapse(&model, &training, &Options::default()).unwrap().value;
        for (factor, expected) in [(1.01, Status::Collapsed), (0.97, Status::Converged)] {
            let solution = pretraining(activation, factor * threshold).solve().unwrap().pretrain.unwrap();
            assert_eq!(solution.status, expected, "{activation} at {factor} of {threshold}");
            assert_eq!(solution.order.q > 0.0, expected == Status::Converged);
        }
        // The threshold of a finite network scatters, and the norm just below it is very small.
        let norm = |one: &Measurement| one.pretrain.as_ref().unwrap().q;
        let (_, above) = train(&pretraining(activation, 1.4 * threshold), &[(40, 8)], 0);
        assert!(largest(&above, norm) < 1e-6, "{activation}: {}", largest(&above, norm));
        let (_, below) = train(&pretraining(activation, 0.6 * threshold), &[(40, 8)], 0);
        assert!(smallest(&below, norm) > 1e-4, "{activation}: {}", smallest(&below, norm));
    }
}

#[test]
fn collapse_of_finetuning() {
    for activation in ACTIVATIONS {
        let model = Model::new(activation, 2, 0.5).unwrap();
        let frozen = Frozen::new(2.0, 1.2, 1.1).unwrap();
        let training = lora::Training::without_ridge(8.0).unwrap();
        let options = Options::default().with_log2_nodes(13).unwrap();
        let threshold = lora::lambda_collapse(&model, &frozen, &training, &options).unwrap().unwrap().value;
        let at = |factor: f64| {
            let lora = format!(r#"{{"alpha": 8.0, "lambda": {}}}"#, factor * threshold);
            finetuning(activation, 2, 0.0, &lora)
        };
        for (factor, expected) in [(1.02, Status::Collapsed), (0.9, Status::Converged)] {
            let solution = at(factor).solve().unwrap().lora.unwrap();
            assert_eq!(solution.status, expected, "{activation} at {factor} of {threshold}");
            assert_eq!(solution.order.q > 0.0, expected == Status::Converged);
        }
        let norm = |one: &Measurement| one.lora.as_ref().unwrap().q;
        // The threshold of a finite network scatters by some percent.
        let (_, above) = train(&at(1.3), &[(200, 8)], 0);
        assert!(largest(&above, norm) < 1e-6, "{activation}: {}", largest(&above, norm));
        let (_, below) = train(&at(0.7), &[(200, 8)], 0);
        assert!(smallest(&below, norm) > 1e-2, "{activation}: {}", smallest(&below, norm));
    }
}
