//! Fine-tuning of weights with several columns: reference values, exact identities, symmetries, columns that collapse,
//! error paths, and a comparison with training.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::ops::ControlFlow;

use lora_asymptotics::fixed_point::Status;
use lora_asymptotics::lora::{self, Column, ColumnOrder, Solution, Training, Verdict};
use lora_asymptotics::simulate::{Experiment, Laboratory, Size, Stage};
use lora_asymptotics::sweep::{Shard, Sweep};
use lora_asymptotics::{Error, Frozen, Model, Options, Scenario, observables};
use proptest::prelude::*;
use serde_json::{Value, json};

fn options(log2_nodes: usize, scrambles: usize) -> Options {
    Options::default().with_log2_nodes(log2_nodes).unwrap().with_scrambles(scrambles).unwrap()
}

/// The frozen weights and the noise of the softmax settings.
fn softmax(tokens: usize) -> (Model, Frozen) {
    (Model::softmax(tokens, 0.5).unwrap(), Frozen::new(2.0, 1.2, 1.1).unwrap())
}

/// Perfectly frozen weights, on top of which the effective noise is `delta_eff`.
fn linear(tokens: usize, delta_eff: f64) -> (Model, Frozen) {
    (Model::linear(tokens, 2.0 * delta_eff).unwrap(), Frozen::new(1.0, 1.0, 1.0).unwrap())
}

fn training(alpha: f64, lambda: f64, rank: usize, q0: &[f64]) -> Training {
    Training::fresh(alpha, lambda).unwrap().with_rank(rank).unwrap().with_variances(q0).unwrap()
}

fn solve((model, frozen): &(Model, Frozen), training: &Training, options: &Options) -> Solution {
    lora::solve(model, frozen, training, options).unwrap()
}

fn columns(solution: &Solution) -> Vec<ColumnOrder> {
    let order = |column: &Column| match column {
        Column::Tied(order) => *order,
        other => panic!("{other:?}"),
    };
    solution.columns.iter().map(order).collect()
}

fn trace(solution: &Solution) -> f64 {
    columns(solution).iter().map(|column| column.q).sum()
}

/// The trace of `q` has the errors of all columns, which are those of equal columns in most cases.
fn error_of_trace(solution: &Solution) -> f64 {
    columns(solution).iter().filter_map(|column| column.std_error.q).sum()
}

#[test]
fn reference_values() {
    let mut compared = 0;
    for line in include_str!("data/lora_columns.jsonl").lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        let mut scenario = Scenario::from_json(&record["scenario"].to_string()).unwrap();
        scenario.options = options(10, 16);
        let solution = scenario.solve().unwrap().lora.unwrap();
        assert_eq!(solution.status, Status::Converged, "{line}");
        // The errors of some of the references come from two scrambles, and are hardly known. They are not taken to be smaller
        // than those of the same number of nodes here.
        let nodes = record["nodes"].as_f64().unwrap();
        let share = (16.0 * 1024.0 / nodes).sqrt();
        let Solution { order, errors, std_error, .. } = &solution;
        for (name, value, error) in [
            ("trace", trace(&solution), Some(error_of_trace(&solution))),
            ("m", order.m, std_error.m),
            ("alignment", solution.alignment, std_error.alignment),
            ("objective", solution.objective, std_error.objective),
            ("test", errors.test, std_error.test),
            ("test_clean", errors.test_clean, std_error.test_clean),
            ("train", errors.train, std_error.train),
        ] {
            let Some(expected) = record["expected"].get(name) else { continue };
            let [reference, std] = ["value", "std"].map(|key| expected[key].as_f64().unwrap());
            let error = error.unwrap();
            let error = std.max(share * error).hypot(error);
            let z = (value - reference) / error;
            assert!(z.abs() < 4.0, "{}, {name}: {value} against {reference}, z = {z}", record["source"]);
            compared += 1;
        }
    }
    assert_eq!(compared, 57);
}

#[test]
fn identities_of_every_column() {
    for (setting, training) in [
        (linear(3, 0.3), training(5.0, 0.2, 2, &[1.5, 0.5])),
        (linear(2, 0.3), training(6.0, 0.2, 1, &[1.0, 0.4])),
        (softmax(3), training(8.0, 0.3, 2, &[1.2, 0.8])),
        (softmax(2), training(10.0, 0.3, 2, &[1.0])),
    ] {
        let solution = solve(&setting, &training, &options(10, 4).with_tolerance(1e-9).unwrap());
        assert_eq!(solution.status, Status::Converged);
        let lambda = training.lambda().unwrap();
        let mut variances = training.variances().to_vec();
        variances.sort_by(|a, b| b.total_cmp(a));
        for (k, column) in columns(&solution).iter().enumerate() {
            let ColumnOrder { q, m, v, q_hat, m_hat, v_hat, .. } = *column;
            let r = v_hat + 2.0 * lambda + 2.0 * solution.order.eta;
            approx::assert_relative_eq!(v * r, 1.0, max_relative = 1e-7);
            match variances.get(k) {
                Some(q0) => {
                    approx::assert_relative_eq!(m, m_hat * q0 / r, max_relative = 1e-7);
                    approx::assert_relative_eq!(v * v * q_hat, q - m * m / q0, max_relative = 1e-7);
                    approx::assert_relative_eq!(
                        solution.cosines[k],
                        m / (q * q0).sqrt(),
                        max_relative = 1e-12
                    );
                }
                None => {
                    assert!(m == 0.0 && m_hat == 0.0);
                    approx::assert_relative_eq!(v * v * q_hat, q, max_relative = 1e-7);
                }
            }
        }
        let norm = |of: fn(&ColumnOrder) -> f64| {
            columns(&solution).iter().map(|column| of(column).powi(2)).sum::<f64>().sqrt()
        };
        approx::assert_relative_eq!(solution.order.q, norm(|column| column.q), max_relative = 1e-12);
        approx::assert_relative_eq!(solution.order.m, norm(|column| column.m), max_relative = 1e-12);
        let alignment = solution.order.m / (solution.order.q * training.q0()).sqrt();
        approx::assert_relative_eq!(solution.alignment, alignment, max_relative = 1e-12);
        let objective = training.alpha() * solution.errors.train + lambda * trace(&solution);
        approx::assert_relative_eq!(solution.objective, objective, max_relative = 1e-12);
        if let Some(noise) = solution.effective_noise {
            let expected = observables::linear_forgetting(setting.0.tokens(), noise.test, solution.order.q);
            approx::assert_relative_eq!(solution.errors.forgetting, expected, max_relative = 1e-12);
        }
    }
}

/// The derivative of the train objective by the ridge is `tr q`. On the same nodes, the objective is stationary up to the
/// error of the divergences.
#[test]
fn the_objective_is_an_envelope() {
    for (setting, rank, q0) in
        [(linear(3, 0.3), 2, [1.5, 0.5]), (linear(2, 0.5), 1, [1.0, 0.5]), (softmax(3), 2, [1.0, 1.0])]
    {
        let at = |lambda: f64| solve(&setting, &training(8.0, lambda, rank, &q0), &options(10, 4));
        let [below, here, above] = [0.28, 0.3, 0.32].map(at);
        let slope = (above.objective - below.objective) / 0.04;
        assert!((slope - trace(&here)).abs() < 0.02 * trace(&here), "{slope} against {}", trace(&here));
    }
}

#[test]
fn equal_columns_are_equal_and_the_order_of_the_truth_does_not_matter() {
    let options = options(9, 4);
    let isotropic = solve(&linear(3, 0.3), &training(6.0, 0.2, 3, &[1.0; 3]), &options);
    assert_eq!(isotropic.status, Status::Converged);
    let all = columns(&isotropic);
    assert!(all.len() == 3 && all[1..].iter().all(|column| *column == all[0]));
    let one = solve(&linear(3, 0.3), &training(6.0, 0.2, 2, &[1.5, 0.5, 0.2]), &options);
    let other = solve(&linear(3, 0.3), &training(6.0, 0.2, 2, &[0.2, 1.5, 0.5]), &options);
    assert_eq!(one, other);
    assert_eq!(columns(&one).len(), 2);
    assert!(columns(&one)[0].m > columns(&one)[1].m);
}

/// For linear attention, `q0` only sets the units.
#[test]
fn scale_of_the_truth() {
    let options = options(9, 4);
    let one = solve(&linear(3, 0.3), &training(6.0, 0.2, 2, &[1.0, 0.5]), &options);
    let scale = 3.0;
    let model = Model::linear(3, 0.6 * scale * scale).unwrap();
    let frozen = Frozen::new(1.0, 1.0, 1.0).unwrap();
    let other = solve(&(model, frozen), &training(6.0, 0.2 * scale, 2, &[scale, 0.5 * scale]), &options);
    for (a, b) in columns(&one).iter().zip(columns(&other)) {
        approx::assert_relative_eq!(scale * a.q, b.q, max_relative = 1e-9);
        approx::assert_relative_eq!(scale * a.m, b.m, max_relative = 1e-9);
        approx::assert_relative_eq!(a.v, scale * b.v, max_relative = 1e-9);
    }
    approx::assert_relative_eq!(scale * scale * one.objective, other.objective, max_relative = 1e-9);
    approx::assert_relative_eq!(scale * scale * one.errors.test, other.errors.test, max_relative = 1e-9);
}

/// A true column of vanishing variance changes nothing: the general kernel of columns and the fast ones of rank one agree.
#[test]
fn rank_one_by_the_kernel_of_columns() {
    for (setting, alpha, lambda) in
        [(linear(2, 0.25), 3.0, 0.2), (linear(3, 0.5), 3.0, 0.5), (softmax(2), 8.0, 0.3)]
    {
        let options = options(10, 16);
        let fast = solve(&setting, &training(alpha, lambda, 1, &[1.0]), &options);
        let columns = solve(&setting, &training(alpha, lambda, 1, &[1.0, 1e-30]), &options);
        assert!(fast.columns.is_empty() && columns.columns.len() == 1);
        assert_eq!(fast.validity.verdict, columns.validity.verdict);
        for (name, a, b, errors) in [
            ("q", fast.order.q, columns.order.q, [fast.std_error.q, columns.std_error.q]),
            ("m", fast.order.m, columns.order.m, [fast.std_error.m, columns.std_error.m]),
            ("v", fast.order.v, columns.order.v, [fast.std_error.v, columns.std_error.v]),
            ("eta", fast.order.eta, columns.order.eta, [fast.std_error.eta, columns.std_error.eta]),
            (
                "objective",
                fast.objective,
                columns.objective,
                [fast.std_error.objective, columns.std_error.objective],
            ),
            ("test", fast.errors.test, columns.errors.test, [fast.std_error.test, columns.std_error.test]),
            (
                "replicon",
                fast.validity.replicon,
                columns.validity.replicon,
                [fast.std_error.replicon, columns.std_error.replicon],
            ),
        ] {
            let [error, other] = errors.map(Option::unwrap);
            let z = (a - b) / error.hypot(other);
            assert!(z.abs() < 4.0, "{setting:?}, {name}: {a} against {b}, z = {z}");
        }
    }
}

/// A column in excess of the truth fits noise, and replica symmetry does not hold from its onset on.
#[test]
fn columns_in_excess_are_not_good() {
    for (setting, alpha, lambda) in [(linear(3, 0.3), 5.0, 0.1), (softmax(3), 8.0, 0.3)] {
        let solution = solve(&setting, &training(alpha, lambda, 2, &[1.0]), &options(10, 4));
        assert_eq!(solution.status, Status::Converged);
        let excess = columns(&solution)[1];
        assert!(excess.q > 0.05 && excess.m == 0.0, "{excess:?}");
        assert!(solution.validity.replicon > 1.0, "{:?}", solution.validity);
        assert_ne!(solution.validity.verdict, Verdict::Good);
        assert_eq!(solution.cosines.len(), 1);
    }
}

/// At a strong ridge a column in excess vanishes, and the other one is that of rank one. At a ridge that is strong enough,
/// all columns vanish.
#[test]
fn columns_collapse_one_by_one() {
    let alone = solve(&linear(2, 0.3), &training(5.0, 8.0, 1, &[1.0]), &options(11, 8));
    let partly = solve(&linear(2, 0.3), &training(5.0, 8.0, 2, &[1.0]), &options(11, 8));
    assert_eq!(partly.status, Status::Converged);
    let [first, second] = columns(&partly)[..] else { panic!("{partly:?}") };
    assert!(second.q == 0.0 && second.m == 0.0, "{second:?}");
    assert!(second.v > 0.0 && partly.validity.replicon < 1.0 && partly.cosines.len() == 1);
    for (a, b, errors) in [
        (alone.order.q, first.q, [alone.std_error.q, first.std_error.q]),
        (alone.order.m, first.m, [alone.std_error.m, first.std_error.m]),
        (alone.objective, partly.objective, [alone.std_error.objective, partly.std_error.objective]),
    ] {
        let [error, other] = errors.map(Option::unwrap);
        assert!((a - b).abs() < 4.0 * error.hypot(other), "{a} +- {error} against {b} +- {other}");
    }
    let gone = solve(&softmax(2), &training(5.0, 4.0, 2, &[1.0, 0.3]), &options(9, 4));
    assert_eq!(gone.status, Status::Collapsed);
    assert!(columns(&gone).iter().all(|column| column.q == 0.0 && column.v > 0.0));
    approx::assert_relative_eq!(gone.errors.test, gone.errors.frozen, max_relative = 1e-12);
    assert!(gone.alignment == 0.0);
}

#[test]
fn invalid_columns_are_named() {
    let base = json!({
        "model": {"tokens": 2, "activation": "linear", "delta": 0.5},
        "frozen": {"q0": 1.0, "q": 1.0, "m": 1.0},
        "lora": {"alpha": 3.0, "lambda": 0.5},
    });
    let with = |field: &str, value: Value| {
        let mut scenario = base.clone();
        scenario["lora"][field] = value;
        Scenario::from_json(&scenario.to_string())
    };
    for (field, value) in [
        ("rank", json!(0)),
        ("rank", json!(9)),
        ("q0", json!([])),
        ("q0", json!([1.0, -0.5])),
        ("q0", json!([1.0, 0.0])),
        ("q0", json!([1e200])),
        ("q0", json!(vec![1.0; 9])),
    ] {
        let error = with(field, value.clone()).unwrap_err();
        let Error::InvalidParameter { field: named, .. } = &error else { panic!("{value}: {error}") };
        assert_eq!(*named, format!("lora.{field}"), "{value}");
    }
    for (field, value) in
        [("rank", json!(-1)), ("rank", json!(1.5)), ("q0", json!("1")), ("q0", json!([null]))]
    {
        assert!(matches!(with(field, value.clone()), Err(Error::Syntax(_))), "{value}");
    }
    let fresh = Training::fresh(1.0, 1.0).unwrap();
    assert!(matches!(
        fresh.with_variances(&[1.0, f64::NAN]),
        Err(Error::InvalidParameter { field: "lora.q0", .. })
    ));
    // More dimensions than the nodes can have.
    let (model, frozen) = softmax(8);
    let wide = training(5.0, 1.0, 8, &[1.0; 8]);
    let refused = lora::solve(&model, &frozen, &wide, &Options::default());
    assert!(matches!(refused, Err(Error::InvalidParameter { field: "lora.rank", .. })), "{refused:?}");
    // What is defined for a single column only.
    let (model, frozen) = softmax(2);
    for (training, named) in
        [(training(5.0, 1.0, 2, &[1.0]), "lora.rank"), (training(5.0, 1.0, 1, &[1.0; 2]), "lora.q0")]
    {
        for error in [
            lora::weak_recovery(&model, &frozen, &training, &Options::default()).unwrap_err(),
            lora::alpha_weak_recovery(&model, &frozen, &training, &Options::default()).unwrap_err(),
            lora::lambda_collapse(&model, &frozen, &training, &Options::default()).unwrap_err(),
            lora::loss_channel(&model, &frozen, &training, &Options::default()).err().unwrap(),
        ] {
            assert!(matches!(error, Error::Conflict { field, .. } if field == named), "{error}");
        }
    }
    for estimator in ["bayes_optimal", "both"] {
        let mut scenario = base.clone();
        scenario["estimator"] = json!(estimator);
        scenario["lora"]["rank"] = json!(2);
        if estimator == "bayes_optimal" {
            scenario["lora"].as_object_mut().unwrap().remove("lambda");
        }
        let error = Scenario::from_json(&scenario.to_string()).unwrap().validate().unwrap_err();
        assert!(matches!(error, Error::Conflict { field: "lora.rank", .. }), "{error}");
    }
}

#[test]
fn ranks_are_swept() {
    let sweep = Sweep::from_json(
        r#"{"scenario": {"model": {"tokens": 2, "activation": "linear", "delta": 0.5}, "frozen": {"q0": 1.0, "q": 1.0, "m": 1.0},
                         "lora": {"alpha": 6.0, "lambda": 0.5, "q0": [1.0, 0.6]}, "options": {"log2_nodes": 9}},
            "axes": [{"field": "lora.rank", "values": [1, 2, 3]}]}"#,
    )
    .unwrap();
    let mut widths = Vec::new();
    let mut errors = Vec::new();
    sweep
        .run(Shard::WHOLE, 0, |record| {
            let outcome = record.outcome.as_ref().unwrap();
            let rows = outcome.rows();
            let stage = outcome.lora.as_ref().unwrap();
            widths.push(stage.columns.len());
            errors.push(stage.errors.test);
            let last = format!("lora.columns.{}.q", stage.columns.len() - 1);
            assert!(rows.iter().any(|row| row.name == last && row.value > 0.0));
            // An outcome can be read again.
            let text = serde_json::to_string(outcome).unwrap();
            assert_eq!(serde_json::from_str::<lora_asymptotics::Outcome>(&text).unwrap(), *outcome);
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(widths, [1, 2, 3]);
    assert!(errors[1] < errors[0], "{errors:?}");
}

/// A solution of the same columns is a start, and leads to the same fixed point.
#[test]
fn continued_solutions() {
    let (model, frozen) = linear(3, 0.3);
    let options = options(9, 4).with_tolerance(1e-9).unwrap();
    let near = lora::solve(&model, &frozen, &training(5.0, 0.3, 2, &[1.0, 0.5]), &options).unwrap();
    let there = training(5.0, 0.2, 2, &[1.0, 0.5]);
    let cold = lora::solve(&model, &frozen, &there, &options).unwrap();
    let warm = lora::solve_from(&model, &frozen, &there, &options, &near).unwrap();
    for (a, b) in columns(&cold).iter().zip(columns(&warm)) {
        approx::assert_relative_eq!(a.q, b.q, max_relative = 1e-7);
        approx::assert_relative_eq!(a.m, b.m, max_relative = 1e-7);
    }
    assert!(warm.iterations < cold.iterations, "{} {}", warm.iterations, cold.iterations);
}

/// Networks with two columns, trained on synthetic frozen logits.
#[test]
fn trained_networks() {
    let scenario = Scenario::from_json(
        r#"{"model": {"tokens": 3, "activation": "linear", "delta": 0.6}, "frozen": {"q0": 1.0, "q": 1.0, "m": 1.0},
            "lora": {"alpha": 5.0, "lambda": 0.5, "rank": 2, "q0": [1.5, 0.5]}, "options": {"log2_nodes": 11}}"#,
    )
    .unwrap();
    let laboratory = Laboratory {
        sizes: vec![Size::new(200, 16)],
        random_starts: 0,
        test_sequences: 500,
        ..Laboratory::default()
    };
    let experiment = Experiment::new(&scenario, &laboratory).unwrap();
    let measurements = experiment.run_all(Vec::new(), |_| ControlFlow::Continue(())).unwrap();
    let comparison = experiment.compare(&measurements);
    assert!(comparison.worst_z() < 4.0, "{comparison}");
    assert!(comparison.row(Stage::Lora, "mean_cosine").unwrap().simulation.mean > 0.98, "{comparison}");
    // Without the second true column the prediction is rejected.
    let mut wrong = scenario;
    wrong.lora = Some(training(5.0, 0.5, 2, &[1.5, 0.4]));
    let wrong = experiment.compare_to(&wrong.solve().unwrap(), &measurements);
    assert!(wrong.worst_z() > 6.0, "{wrong}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any columns have possible overlaps.
    #[test]
    fn possible_overlaps(log_alpha in -1.0..1.5, log_lambda in -2.0..1.0, rank in 1_usize..4, q0 in prop::collection::vec(0.05..3.0, 1..4),
                         linear_attention in any::<bool>(), tokens in 2_usize..4) {
        let setting = if linear_attention { linear(tokens, 0.4) } else { softmax(tokens) };
        let training = training(10_f64.powf(log_alpha), 10_f64.powf(log_lambda), rank, &q0);
        let options = options(6, 2).with_max_iterations(40).unwrap();
        let solution = solve(&setting, &training, &options);
        if solution.status.is_success() && !solution.columns.is_empty() {
            let mut variances = q0;
            variances.sort_by(|a, b| b.total_cmp(a));
            let all = columns(&solution);
            prop_assert_eq!(all.len(), rank);
            for (k, column) in all.iter().enumerate() {
                let q0 = variances.get(k).copied().unwrap_or(0.0);
                prop_assert!(column.q >= 0.0 && column.m >= 0.0 && column.v > 0.0, "{:?}", column);
                prop_assert!(column.m * column.m <= column.q * q0 * (1.0 + 1e-9), "{:?}", column);
            }
            prop_assert!(solution.cosines.iter().all(|cosine| (0.0..=1.0).contains(cosine)));
            prop_assert!((0.0..=1.0).contains(&solution.alignment));
        }
    }
}
