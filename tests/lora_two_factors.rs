//! Fine-tuning with two factors (cross-attention): reference values, exact identities, symmetries, collapse, error paths, and a
//! comparison with training.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::ops::ControlFlow;

use lora_asymptotics::activation::Evaluated;
use lora_asymptotics::fixed_point::Status;
use lora_asymptotics::lora::{self, Column, ColumnOrder, Score, Selection, Solution, Training, Verdict};
use lora_asymptotics::simulate::{Experiment, Laboratory, Size, Stage};
use lora_asymptotics::{
    Activation, ActivationName, Attention, Error, Frozen, Model, Options, Outcome, Scenario,
};
use serde_json::{Value, json};

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

fn cross(model: Model, frozen: [f64; 3]) -> (Model, Frozen) {
    let [q0, q, m] = frozen;
    let frozen = Frozen::new(q0, q, m).unwrap().with_attention(Attention::Cross);
    (model.with_attention(Attention::Cross).unwrap(), frozen)
}

fn softmax(tokens: usize) -> (Model, Frozen) {
    cross(Model::softmax(tokens, 0.5).unwrap(), [2.0, 1.2, 1.1])
}

/// Perfectly frozen weights, on top of which the effective noise is `delta`.
fn linear(tokens: usize, delta: f64) -> (Model, Frozen) {
    cross(Model::linear(tokens, delta).unwrap(), [1.0; 3])
}

fn training(alpha: f64, lambda: f64, q0: &[f64]) -> Training {
    Training::fresh(alpha, lambda).unwrap().with_rank(q0.len()).unwrap().with_variances(q0).unwrap()
}

fn solve((model, frozen): &(Model, Frozen), training: &Training, options: &Options) -> Solution {
    lora::solve(model, frozen, training, options).unwrap()
}

fn factors(solution: &Solution) -> Vec<[ColumnOrder; 2]> {
    let pair = |column: &Column| match column {
        Column::Factors { b, a } => [*b, *a],
        other => panic!("{other:?}"),
    };
    solution.columns.iter().map(pair).collect()
}

fn trace(solution: &Solution) -> f64 {
    factors(solution).iter().flatten().map(|factor| factor.q).sum()
}

#[test]
fn identities_of_every_factor() {
    for (setting, training, symmetric) in [
        (linear(2, 0.5), training(3.0, 0.3, &[1.3]), true),
        (linear(3, 0.5), training(4.0, 0.3, &[1.5, 0.6]), true),
        (softmax(2), training(10.0, 0.3, &[1.0]), false),
    ] {
        let solution = solve(&setting, &training, &options(10, 8).with_tolerance(1e-9).unwrap());
        assert_eq!(solution.status, Status::Converged);
        let lambda = training.lambda().unwrap();
        let (mut q2, mut m2) = (0.0, 0.0);
        for ([b, a], q0) in factors(&solution).iter().zip(training.variances()) {
            approx::assert_relative_eq!(b.q, a.q, max_relative = 1e-9);
            assert!(!symmetric || b == a);
            q2 += b.q * a.q;
            m2 += b.m * a.m;
            for factor in [b, a] {
                let ColumnOrder { q, m, v, q_hat, m_hat, v_hat, alignment, .. } = *factor;
                let r = v_hat + 2.0 * lambda;
                approx::assert_relative_eq!(v * r, 1.0, max_relative = 1e-7);
                approx::assert_relative_eq!(alignment.unwrap(), m / (q * q0).sqrt(), max_relative = 1e-12);
                if symmetric {
                    approx::assert_relative_eq!(m, m_hat * q0 / r, max_relative = 1e-7);
                    approx::assert_relative_eq!(v * v * q_hat, q - m * m / q0, max_relative = 1e-7);
                }
            }
        }
        approx::assert_relative_eq!(solution.order.q, q2.sqrt(), max_relative = 1e-12);
        approx::assert_relative_eq!(solution.order.m, m2.sqrt(), max_relative = 1e-12);
        let alignment = m2 / (solution.order.q * training.q0());
        approx::assert_relative_eq!(solution.alignment, alignment, max_relative = 1e-9);
        let objective = training.alpha() * solution.errors.train + lambda * trace(&solution);
        approx::assert_relative_eq!(solution.objective, objective, max_relative = 1e-12);
        assert!(solution.order.eta == 0.0);
        if symmetric {
            let noise = setting.0.delta();
            let error = noise + q2 - 2.0 * m2 + training.q0() * training.q0();
            approx::assert_relative_eq!(solution.errors.test, error, max_relative = 1e-9);
            let noises = solution.effective_noise.unwrap();
            approx::assert_relative_eq!(noises.train.unwrap(), noise, max_relative = 1e-12);
            approx::assert_relative_eq!(noises.test, noise, max_relative = 1e-12);
        }
    }
}

/// The derivative of the train objective by the ridge is `tr (q_b + q_a)`.
#[test]
fn the_objective_is_an_envelope() {
    for (setting, alpha) in [(linear(3, 0.5), 3.0), (softmax(2), 10.0)] {
        let at = |lambda: f64| solve(&setting, &training(alpha, lambda, &[1.0]), &options(10, 8));
        let [below, here, above] = [0.28, 0.3, 0.32].map(at);
        let slope = (above.objective - below.objective) / 0.04;
        assert!((slope - trace(&here)).abs() < 0.02 * trace(&here), "{slope} against {}", trace(&here));
    }
}

#[test]
fn equal_columns_are_equal_and_the_order_of_the_truth_does_not_matter() {
    let isotropic = solve(&linear(3, 0.3), &training(6.0, 0.2, &[1.0; 3]), &options(9, 4));
    assert_eq!(isotropic.status, Status::Converged);
    let all = factors(&isotropic);
    assert!(all.len() == 3 && all[1..].iter().all(|pair| *pair == all[0]));
    assert_eq!(isotropic.cosines.len(), 6);
    let one = solve(&linear(3, 0.3), &training(6.0, 0.2, &[1.5, 0.5]), &options(9, 4));
    let other = solve(&linear(3, 0.3), &training(6.0, 0.2, &[0.5, 1.5]), &options(9, 4));
    assert_eq!(one, other);
    // For linear attention, q0 only sets the units.
    let scaled = solve(&linear(3, 0.3 * 9.0), &training(6.0, 0.6, &[4.5, 1.5]), &options(9, 4));
    approx::assert_relative_eq!(9.0 * one.objective, scaled.objective, max_relative = 1e-9);
    for (a, b) in factors(&one).iter().flatten().zip(factors(&scaled).iter().flatten()) {
        approx::assert_relative_eq!(3.0 * a.m, b.m, max_relative = 1e-9);
        approx::assert_relative_eq!(a.v, 3.0 * b.v, max_relative = 1e-9);
    }
}

/// Softmax without its derivatives in closed form, and without its second derivative.
#[derive(Debug)]
struct Outside;

impl Activation for Outside {
    fn name(&self) -> &str {
        "softmax from outside"
    }

    fn attention(&self, tokens: usize, logits: &[f64], attention: &mut [f64]) {
        ActivationName::Softmax.activation().attention(tokens, logits, attention);
    }

    fn derivative(&self, at: &Evaluated<'_>, direction: &[f64], image: &mut [f64]) {
        ActivationName::Softmax.activation().derivative(at, direction, image);
    }

    fn adjoint(&self, at: &Evaluated<'_>, direction: &[f64], image: &mut [f64]) {
        ActivationName::Softmax.activation().adjoint(at, direction, image);
    }

    fn unseen(&self) -> lora_asymptotics::activation::Unseen {
        ActivationName::Softmax.activation().unseen()
    }
}

#[test]
fn closed_forms_agree_with_the_general_kernel() {
    let general = Model::with_activation(2, 0.5, std::sync::Arc::new(Outside)).unwrap();
    let general = cross(general, [2.0, 1.2, 1.1]);
    let options = options(7, 2).with_tolerance(1e-8).unwrap();
    for q0 in [vec![1.0], vec![1.2, 0.7]] {
        let training = training(12.0, 0.3, &q0);
        let [fast, slow] = [&softmax(2), &general].map(|setting| solve(setting, &training, &options));
        approx::assert_relative_eq!(fast.objective, slow.objective, max_relative = 1e-5);
        approx::assert_relative_eq!(fast.order.q, slow.order.q, max_relative = 1e-4);
        approx::assert_relative_eq!(fast.errors.test, slow.errors.test, max_relative = 1e-5);
        approx::assert_relative_eq!(fast.validity.replicon, slow.validity.replicon, max_relative = 1e-3);
    }
}

/// The ridges were solved by an independent code (from 2^13 nodes, so that their last digit is uncertain), and agree with the largest singular values
/// of trained networks.
#[test]
fn ridges_of_collapse() {
    for (setting, alpha, expected) in [
        (softmax(2), 10.0, 2.135),
        (softmax(2), 5.0, 1.354),
        (softmax(3), 6.0, 2.082),
        (linear(3, 0.5), 3.0, 3.637),
        (linear(2, 0.5), 8.0, 9.17),
    ] {
        let (model, frozen) = &setting;
        let training = Training::without_ridge(alpha).unwrap();
        let found = lora::lambda_collapse(model, frozen, &training, &options(11, 8)).unwrap().unwrap();
        let error = found.std_error.unwrap().hypot(0.003 * expected);
        assert!((found.value - expected).abs() < 4.0 * error, "{setting:?}, {alpha}: {found:?}");
        let edge = lora::lambda_noise_edge(model, frozen, &training, &options(11, 8)).unwrap();
        assert!(edge.is_none_or(|edge| edge.value < found.value), "{edge:?} {found:?}");
    }
    // Little data has noise only.
    let (model, frozen) = softmax(3);
    let little = Training::without_ridge(0.3).unwrap();
    assert_eq!(lora::lambda_collapse(&model, &frozen, &little, &options(10, 4)).unwrap(), None);
}

/// With little data the steepest samples decide the noise edge. The first three values are those of an independent code from 2^18 random samples, the
/// last one is that of 2^13, and the largest singular value of networks of `D = 400` gives 0.617 +- 0.009.
#[test]
fn noise_edges_of_little_data() {
    let options = options(13, 8);
    for (setting, alpha, expected, by_few) in [
        (softmax(2), 2.0, 0.9036, false),
        (softmax(2), 1.0, 0.7548, true),
        (softmax(2), 0.5, 0.6723, true),
        (softmax(3), 0.5, 0.668, true),
    ] {
        let (model, frozen) = &setting;
        let training = Training::without_ridge(alpha).unwrap();
        let edge = lora::lambda_noise_edge(model, frozen, &training, &options).unwrap().unwrap();
        let error = edge.std_error.unwrap();
        assert_eq!(edge.status, if by_few { Status::NoiseLimited } else { Status::Converged }, "{edge:?}");
        assert!(
            error < 0.1 * expected && (edge.value - expected).abs() < (4.0 * error).min(0.1 * expected),
            "{setting:?}, {alpha}: {edge:?} against {expected}"
        );
        // There is no collapse with an overlap, or it is next to the edge.
        let collapse = lora::lambda_collapse(model, frozen, &training, &options).unwrap();
        assert!(
            collapse.is_none_or(|collapse| !by_few && collapse.value < 1.01 * edge.value),
            "{collapse:?}"
        );
    }
    // The loss of linear attention is not bounded: with little data, steeper and steeper samples leave no edge.
    let (model, frozen) = linear(2, 0.5);
    let little = Training::without_ridge(0.1).unwrap();
    assert_eq!(lora::lambda_noise_edge(&model, &frozen, &little, &options).unwrap(), None);
}

/// With much data, the derivative of the loss at zero weights is the truth and Gaussian noise.
#[test]
fn ridges_of_collapse_with_much_data() {
    let (tokens, delta, q0) = (3.0_f64, 0.5, 1.5);
    let (model, frozen) = linear(3, delta);
    let at = |alpha: f64| Training::without_ridge(alpha).unwrap().with_variance(q0).unwrap();
    let critical = lora::lambda_collapse(&model, &frozen, &at(100.0), &options(12, 8)).unwrap().unwrap();
    let expected = 100.0 * q0 + ((tokens + 2.0) * q0 * q0 + delta) / (tokens * tokens * q0);
    let error = 4.0 * critical.std_error.unwrap() + 0.02;
    assert!((critical.value - expected).abs() < error, "{critical:?} {expected}");
    // The largest singular value of a Gaussian matrix, of the variance 4 alpha' (q0^2 + Delta)/T^2 of all logits together.
    let edge = lora::lambda_noise_edge(&model, &frozen, &at(1e6), &options(12, 8)).unwrap().unwrap();
    let expected = 2.0 * (1e6 * (q0 * q0 + delta)).sqrt() / tokens;
    assert!(
        (edge.value / expected - 1.0).abs() < 0.01 + 4.0 * edge.std_error.unwrap() / expected,
        "{edge:?} {expected}"
    );
}

#[test]
fn weights_vanish_above_the_ridge_of_collapse() {
    for (setting, alpha) in [(softmax(2), 10.0), (linear(3, 0.5), 3.0)] {
        let (model, frozen) = &setting;
        let free = Training::without_ridge(alpha).unwrap();
        let critical = lora::lambda_collapse(model, frozen, &free, &options(10, 4)).unwrap().unwrap().value;
        let at = |share: f64| solve(&setting, &training(alpha, share * critical, &[1.0]), &options(10, 4));
        let [below, above] = [0.8, 1.1].map(at);
        assert_eq!(below.status, Status::Converged, "{setting:?}");
        assert!(below.order.q > 0.02 && below.alignment > 0.5, "{below:?}");
        assert_eq!(above.status, Status::Collapsed, "{above:?}");
        let [b, a] = factors(&above)[0];
        assert!(b.q == 0.0 && a.q == 0.0 && above.alignment == 0.0);
        approx::assert_relative_eq!(above.errors.test, above.errors.frozen, max_relative = 1e-12);
        // A second column adds nothing where all vanish.
        let two = training(alpha, 1.1 * critical, &[1.0, 0.5]);
        assert_eq!(solve(&setting, &two, &options(9, 4)).status, Status::Collapsed);
    }
}

#[test]
fn training_laws() {
    // Without response, reused sequences are new ones.
    for (model, frozen) in [softmax(2), cross(Model::linear(2, 0.5).unwrap(), [2.0, 1.2, 1.1])] {
        let fresh = training(8.0, 0.4, &[1.0]).recalibrated(0.8).unwrap();
        let options = options(10, 16);
        let reference = lora::solve(&model, &frozen, &fresh, &options).unwrap();
        let without = frozen.with_response(0.0).unwrap();
        let reused = lora::solve(&model, &without, &fresh.reused(), &options).unwrap();
        approx::assert_relative_eq!(reused.objective, reference.objective, max_relative = 1e-12);
        // Selection that keeps nearly everything is no selection.
        let all = fresh.active(Selection::new(1.0, Score::Frobenius).unwrap());
        let selected = lora::solve(&model, &frozen, &all, &options).unwrap();
        let error = selected.std_error.objective.unwrap().hypot(reference.std_error.objective.unwrap());
        assert!((selected.objective - reference.objective).abs() < 4.0 * error);
        // Frozen weights that know the labels leave less of them unexplained.
        let memory = frozen.with_response(2.0).unwrap();
        let better = lora::solve(&model, &memory, &fresh.reused(), &options).unwrap();
        assert!(better.status.is_success());
        let error = better.std_error.train.unwrap().hypot(reference.std_error.train.unwrap());
        assert!(better.errors.train < reference.errors.train - 4.0 * error, "{better:?}");
    }
    let (model, frozen) = cross(Model::linear(3, 0.5).unwrap(), [2.0, 1.2, 1.1]);
    let reused = training(5.0, 0.3, &[1.0]).reused();
    let solution = lora::solve(&model, &frozen.with_response(1.5).unwrap(), &reused, &options(8, 2)).unwrap();
    let noise = solution.effective_noise.unwrap();
    // The proximal point of the squared error moves the logits by a factor.
    let shrinkage = 1.0 + 2.0 * 1.5 / 9.0;
    approx::assert_relative_eq!(noise.test, 0.5 + 2.0 - 2.2 + 1.2, max_relative = 1e-12);
    approx::assert_relative_eq!(noise.train.unwrap(), 1.5 / (shrinkage * shrinkage), max_relative = 1e-12);
    // Selection takes from the noise what the frozen logits contribute, and hardly anything is left of it for the smallest scores.
    let selected = training(5.0, 0.3, &[1.0]).recalibrated(0.3).unwrap();
    let selected = selected.active(Selection::new(1e-6, Score::Frobenius).unwrap());
    let solution = lora::solve(&model, &frozen, &selected, &options(8, 2)).unwrap();
    let noise = solution.effective_noise.unwrap();
    approx::assert_relative_eq!(noise.test, 0.5 + 2.0 - 0.66 + 0.09 * 1.2, max_relative = 1e-12);
    let least = 0.5 + 2.0 - 1.1 * 1.1 / 1.2;
    let train = noise.train.unwrap();
    assert!(train > least && train < least + 0.03, "{train} {least}");
}

/// From pre-training to an outcome that can be written and read.
#[test]
fn the_whole_pipeline() {
    let scenario = Scenario::from_json(
        r#"{"model": {"tokens": 2, "activation": "linear", "attention": "cross", "delta": 0.5, "teacher": {"wishart": {"kappa0": 0.5}}},
            "pretrain": {"alpha": 0.4, "lambda": 0.1}, "lora": {"alpha": 5.0, "lambda": 0.3, "rank": 2, "q0": [1.0, 0.6], "sequences": "reused"},
            "options": {"log2_nodes": 9}}"#,
    )
    .unwrap();
    let outcome = scenario.solve().unwrap();
    let stage = outcome.lora.as_ref().unwrap();
    assert_eq!((stage.status, stage.columns.len()), (Status::Converged, 2));
    let text = serde_json::to_string(&outcome).unwrap();
    assert_eq!(serde_json::from_str::<Outcome>(&text).unwrap(), outcome, "{text}");
    let value: Value = serde_json::from_str(&text).unwrap();
    assert!(value["lora"]["columns"][1]["a"]["m"].as_f64().unwrap() > 0.0, "{text}");
    assert!(outcome.rows().iter().any(|row| row.name == "lora.columns.1.b.q" && row.std_error.is_some()));
    let near = scenario.solve_from(&outcome).unwrap().lora.unwrap();
    assert!(near.iterations < stage.iterations, "{} {}", near.iterations, stage.iterations);
    approx::assert_relative_eq!(near.objective, stage.objective, max_relative = 1e-4);
}

#[test]
fn what_two_factors_do_not_take_is_named() {
    let base = json!({
        "model": {"tokens": 2, "activation": "softmax", "attention": "cross", "delta": 0.5},
        "frozen": {"q0": 2.0, "q": 1.2, "m": 1.1},
        "lora": {"alpha": 3.0, "lambda": 0.5},
    });
    for (field, value, named) in [
        ("rank", json!(5), "lora.rank"),
        (
            "sequences",
            json!({"active": {"fraction": 0.5, "score": "centred"}}),
            "lora.sequences.active.score",
        ),
        ("sequences", json!("reused"), "frozen.v"),
    ] {
        let mut scenario = base.clone();
        scenario["lora"][field] = value;
        let error = Scenario::from_json(&scenario.to_string()).unwrap().validate().unwrap_err();
        let found = match error {
            Error::InvalidParameter { field, .. } | Error::MissingField { field, .. } => field,
            other => panic!("{other}"),
        };
        assert_eq!(found, named);
    }
    let mut scenario = base;
    scenario["estimator"] = json!("both");
    let error = Scenario::from_json(&scenario.to_string()).unwrap().validate().unwrap_err();
    assert!(matches!(error, Error::Conflict { field: "model.attention = cross", .. }), "{error}");
    let ((model, frozen), tied) = (softmax(2), Frozen::new(2.0, 1.2, 1.1).unwrap());
    let (training, options) = (training(5.0, 1.0, &[1.0]), Options::default());
    for error in [
        lora::weak_recovery(&model, &frozen, &training, &options).unwrap_err(),
        lora::alpha_weak_recovery(&model, &frozen, &training, &options).unwrap_err(),
        lora::loss_channel(&model, &frozen, &training, &options).err().unwrap(),
        lora::bayes_optimal(&model, &frozen, 5.0, 1.0, &options).unwrap_err(),
    ] {
        assert!(matches!(error, Error::Conflict { field: "model.attention = cross", .. }), "{error}");
    }
    let error = lora::solve(&model, &tied, &training, &options).unwrap_err();
    assert!(matches!(error, Error::InvalidParameter { field: "frozen.attention", .. }), "{error}");
}

/// Where rare samples of an unbounded loss decide, typical samples show nothing. In training at `D = 200`, one token and `alpha' = 1` had
/// `m = 0.23 +- 0.03` where the prediction has none, and weights that vanish at `lambda' = .05` do not at `lambda' = .1`.
#[test]
fn too_little_data_is_not_trusted() {
    for (tokens, alpha, lambda) in [(1, 1.0, 0.5), (2, 0.3, 0.05)] {
        let solution = solve(&linear(tokens, 0.5), &training(alpha, lambda, &[1.0]), &options(8, 2));
        assert!(!solution.validity.reliable, "{solution:?}");
    }
    let trusted = solve(&linear(1, 0.5), &training(12.0, 0.5, &[1.0]), &options(8, 4));
    assert!(trusted.validity.reliable, "{trusted:?}");
}

/// The error of nodes that are too large names the rank that was given, and not the number of columns of both factors.
#[test]
fn the_rank_of_an_error_is_the_one_given() {
    let wide = Scenario::from_json(
        r#"{"model": {"tokens": 8, "attention": "cross", "activation": "softmax", "delta": 0.5}, "frozen": {"q0": 2.0, "q": 1.2, "m": 1.1},
            "lora": {"alpha": 5.0, "lambda": 0.3, "rank": 4}}"#,
    )
    .unwrap();
    let refused = wide.validate().unwrap_err();
    assert!(matches!(refused, Error::InvalidParameter { field: "lora.rank", .. }), "{refused}");
    assert!(refused.to_string().starts_with("lora.rank = 4:"), "{refused}");
}

/// Networks with two factors, trained on synthetic frozen logits.
#[test]
fn trained_networks() {
    for (model, lora) in [
        (
            r#""activation": "linear", "delta": 0.3"#,
            r#""alpha": 5.0, "lambda": 0.4, "rank": 2, "q0": [1.5, 0.6]"#,
        ),
        (r#""activation": "softmax", "delta": 0.5"#, r#""alpha": 12.0, "lambda": 0.3"#),
    ] {
        let scenario = Scenario::from_json(&format!(
            r#"{{"model": {{"tokens": 2, "attention": "cross", {model}}}, "frozen": {{"q0": 1.0, "q": 0.8, "m": 0.8}},
                 "lora": {{{lora}}}, "options": {{"log2_nodes": 11}}}}"#
        ))
        .unwrap();
        let laboratory = Laboratory {
            sizes: vec![Size::new(200, 16)],
            random_starts: 0,
            test_sequences: 500,
            ..Laboratory::default()
        };
        let experiment = Experiment::new(&scenario, &laboratory).unwrap();
        let stage = experiment.outcome().lora.as_ref().unwrap();
        assert_eq!(stage.validity.verdict, Verdict::Good, "{stage:?}");
        let measurements = experiment.run_all(Vec::new(), |_| ControlFlow::Continue(())).unwrap();
        let comparison = experiment.compare(&measurements);
        assert!(comparison.worst_z() < 4.0, "{comparison}");
        assert_eq!(comparison.rows.len(), 10, "{comparison}");
        // With another ridge the prediction is rejected.
        let mut wrong = scenario;
        wrong.lora = wrong.lora.map(|training| training.with_lambda(0.8).unwrap());
        let wrong = experiment.compare_to(&wrong.solve().unwrap(), &measurements);
        assert!(wrong.worst_z() > 6.0, "{wrong}");
    }
}

/// The whole pipeline at finite size: both factors are fine-tuned on fresh sequences, on top of weights that were pre-trained with cross-attention.
#[test]
fn networks_that_were_really_pretrained() {
    let scenario = Scenario::from_json(
        r#"{"model": {"tokens": 2, "attention": "cross", "activation": "linear", "delta": 0.5, "teacher": {"wishart": {"kappa0": 0.5}}},
            "pretrain": {"alpha": 0.5, "lambda": 0.1}, "lora": {"alpha": 6.0, "lambda": 0.3}, "options": {"log2_nodes": 10}}"#,
    )
    .unwrap();
    let laboratory = Laboratory {
        sizes: vec![Size::new(20, 32), Size::new(40, 16)],
        random_starts: 0,
        test_sequences: 500,
        ..Laboratory::default()
    };
    let experiment = Experiment::new(&scenario, &laboratory).unwrap();
    assert_eq!(experiment.outcome().lora.as_ref().unwrap().validity.verdict, Verdict::Good);
    let measurements = experiment.run_all(Vec::new(), |_| ControlFlow::Continue(())).unwrap();
    let comparison = experiment.compare(&measurements);
    let tuned: Vec<_> = comparison.rows.iter().filter(|row| row.stage == Stage::Lora).collect();
    assert_eq!(tuned.len(), 10, "{comparison}");
    assert!(tuned.iter().all(|row| row.z.abs() < 4.0), "{comparison}");
    // Fine-tuning after another pre-training is rejected.
    let mut wrong = scenario;
    wrong.pretrain = wrong.pretrain.map(|training| training.with_alpha(0.3).unwrap());
    let wrong = experiment.compare_to(&wrong.solve().unwrap(), &measurements);
    let test = wrong.row(Stage::Lora, "test").unwrap();
    assert!(test.z.abs() > 6.0, "{wrong}");
}

/// Where the overlap is lost, the search does not follow it to zero step by step.
#[test]
fn a_lost_overlap_is_not_followed_to_zero() {
    let setting = linear(2, 0.5);
    for lambda in [0.1, 0.3] {
        let solution = solve(&setting, &training(0.3, lambda, &[1.0]), &options(9, 4));
        assert!(solution.order.m == 0.0 && solution.order.q > 0.1, "{solution:?}");
        assert!(!solution.validity.reliable && solution.iterations < 200, "{solution:?}");
    }
}
