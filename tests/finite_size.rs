//! The coefficients of `D^{-1/2}` of fine-tuning on real frozen weights: reference values, exact identities, error paths, and training.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;

use approx::assert_relative_eq;
use lora_asymptotics::activation::{ActivationName, Softmax};
use lora_asymptotics::fixed_point::Status;
use lora_asymptotics::lora::{FiniteSize, Score, Selection, Solution, Training};
use lora_asymptotics::simulate::{Laboratory, OddDifferences, Size, odd_differences};
use lora_asymptotics::{Error, Frozen, Model, Options, Scenario, lora};
use serde_json::{Value, json};

fn coefficients(scenario: &Value) -> FiniteSize {
    let scenario = Scenario::from_json(&scenario.to_string()).unwrap();
    let solution = scenario.solve().unwrap().lora.unwrap().into_converged().unwrap();
    solution.finite_size.unwrap()
}

/// Within four combined standard errors of values from an independent solver, which takes differences of the fixed point at a positive and at a
/// negative `D^{-1/2}`.
#[test]
fn reference_values() {
    for line in include_str!("data/finite_size.jsonl").lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        let found = serde_json::to_value(coefficients(&record["scenario"])).unwrap();
        let expected = record["expected"]["lora"]["finite_size"].as_object().unwrap();
        assert_eq!(expected.len(), 8);
        for (name, number) in expected {
            let [value, std] = ["value", "std"].map(|key| number[key].as_f64().unwrap());
            let own = found[name].as_f64().unwrap();
            let error = found["std_error"][name].as_f64().unwrap_or(0.0);
            let z = (own - value) / std.hypot(error);
            assert!(z.abs() < 4.0, "{name}: {own} +- {error}, expected {value} +- {std}");
        }
    }
}

fn options() -> Options {
    Options::default().with_finite_size(true).with_log2_nodes(10).unwrap()
}

/// Frozen weights with third moments, multiplied by `sign`.
fn frozen(sign: f64) -> Frozen {
    Frozen::new(2.0, 1.2, 1.1)
        .unwrap()
        .with_response(0.5)
        .unwrap()
        .with_traces(0.6 * sign, sign)
        .unwrap()
        .with_cubes([1.5, 1.9, 2.6, 5.0].map(|cube| sign * cube))
        .unwrap()
        .with_response_traces([0.4 * sign, 0.6 * sign])
        .unwrap()
}

fn solve(model: &Model, frozen: &Frozen, training: &Training) -> Solution {
    lora::solve(model, frozen, training, &options()).unwrap().into_converged().unwrap()
}

fn values(found: &FiniteSize) -> [f64; 8] {
    let FiniteSize { q, m, alignment, objective, test, test_clean, train, frozen, .. } = *found;
    [q, m, alignment, objective, test, test_clean, train, frozen]
}

fn models() -> [Model; 3] {
    let cold = Model::softmax(2, 0.5).unwrap().with_inverse_temperature(1.3).unwrap();
    [Model::linear(2, 0.5).unwrap(), cold, Model::new(ActivationName::Sigmoid, 2, 0.5).unwrap()]
}

#[test]
fn coefficients_change_their_sign_with_the_weights() {
    for model in models() {
        for training in [Training::fresh(5.0, 0.3).unwrap(), Training::fresh(5.0, 0.3).unwrap().reused()] {
            let [mut plus, minus] = [1.0, -1.0].map(|sign| solve(&model, &frozen(sign), &training));
            let [of_plus, of_minus] = [&plus, &minus].map(|solution| values(&solution.finite_size.unwrap()));
            for (x, y) in of_plus.iter().zip(of_minus) {
                assert!(x.is_finite() && x.abs() > 0.0);
                assert_relative_eq!(*x, -y, max_relative = 1e-9);
            }
            // Nothing else of the solution knows of the third moments, or of the option.
            assert_eq!(plus.order, minus.order);
            let plain = options().with_finite_size(false);
            let without = lora::solve(&model, &frozen(1.0), &training, &plain).unwrap();
            plus.finite_size = None;
            assert_eq!(plus, without);
        }
    }
}

/// The moments of weights that are drawn by hand are those of the pre-training that gives them.
#[test]
fn moments_by_hand_are_those_of_pre_training() {
    let scenario = json!({
        "model": {"tokens": 2, "activation": "linear", "delta": 0.5, "teacher": {"power_law": {"exponent": 1.0, "dimension": 50}}},
        "pretrain": {"alpha": 0.4, "lambda": 0.02}, "lora": {"alpha": 4.0, "lambda": 0.3, "sequences": "reused"},
        "options": {"finite_size": true, "log2_nodes": 8}
    });
    let scenario = Scenario::from_json(&scenario.to_string()).unwrap();
    let outcome = scenario.solve().unwrap();
    let pretrained = outcome.pretrain.unwrap().freeze().unwrap();
    let mut by_hand: Value = serde_json::to_value(&scenario).unwrap();
    by_hand["frozen"] = serde_json::to_value(pretrained).unwrap();
    for part in ["pretrain", "model.teacher"] {
        match part.split_once('.') {
            Some((parent, child)) => drop(by_hand[parent].as_object_mut().unwrap().remove(child)),
            None => drop(by_hand.as_object_mut().unwrap().remove(part)),
        }
    }
    let again = Scenario::from_json(&by_hand.to_string()).unwrap().solve().unwrap();
    assert_eq!(again.lora, outcome.lora);
}

/// Softmax as an activation from outside, whose derivatives are not known in closed form, has the same nodes.
#[test]
fn any_activation_has_coefficients() {
    let training = Training::fresh(5.0, 0.3).unwrap();
    let own = Model::with_activation(3, 0.5, Arc::new(Softmax)).unwrap();
    let [named, own] = [Model::softmax(3, 0.5).unwrap(), own].map(|model| {
        let solution = solve(&model, &frozen(1.0), &training);
        (values(&solution.finite_size.unwrap()), solution.finite_size.unwrap().std_error.q.unwrap())
    });
    for (x, y) in named.0.iter().zip(own.0) {
        // The two solves end at slightly different points.
        assert!((x - y).abs() < 0.2 * named.1.hypot(own.1), "{x} {y}");
    }
}

#[test]
fn what_is_not_known_is_refused() {
    let model = Model::softmax(2, 0.5).unwrap();
    let fresh = Training::fresh(5.0, 0.3).unwrap();
    let refusal =
        |frozen: &Frozen, training: &Training| match lora::solve(&model, frozen, training, &options())
            .unwrap_err()
        {
            Error::MissingField { field, .. } | Error::Conflict { field, .. } => field,
            other => panic!("{other}"),
        };
    let bare = Frozen::new(2.0, 1.2, 1.1).unwrap().with_response(0.5).unwrap();
    let traced = bare.with_traces(0.6, 1.0).unwrap();
    let cubed = traced.with_cubes([1.5, 1.9, 2.6, 5.0]).unwrap();
    assert_eq!(refusal(&bare, &fresh), "frozen.trace");
    assert_eq!(refusal(&traced, &fresh), "frozen.cubes");
    assert_eq!(refusal(&cubed, &fresh.reused()), "frozen.response_traces");
    let selected = fresh.active(Selection::new(0.5, Score::Frobenius).unwrap());
    assert_eq!(refusal(&frozen(1.0), &selected), "lora.sequences = active");
    assert_eq!(refusal(&frozen(1.0), &fresh.with_rank(2).unwrap()), "lora.rank");
    assert_eq!(refusal(&frozen(1.0), &fresh.with_variances(&[1.0, 0.5]).unwrap()), "lora.q0");
    for (field, bad) in [
        ("frozen.trace", bare.with_traces(f64::NAN, 1.0)),
        ("frozen.trace", bare.with_traces(1.1, 1.0)),
        ("frozen.trace0", bare.with_traces(1.0, -1.5)),
        ("frozen.trace0", bare.with_traces(1.0, f64::INFINITY)),
        // Both traces are possible, but not together.
        ("frozen.trace0", bare.with_traces(1.0, -1.0)),
        ("frozen.cubes", bare.with_cubes([1.0, 2.0, f64::NAN, 1.0])),
        ("frozen.response_traces", bare.with_response_traces([f64::NAN, 1.0])),
    ] {
        assert!(matches!(bad, Err(Error::InvalidParameter { field: at, .. }) if at == field), "{field}");
    }
    let text = r#"{"model": {"tokens": 2, "activation": "linear", "delta": 0.5}, "frozen": {"q0": 2.0, "q": 1.2, "m": 1.1, "trace": 0.6},
        "lora": {"alpha": 5.0, "lambda": 0.3}, "options": {"finite_size": true}}"#;
    let refused = Scenario::from_json(text).unwrap().validate().unwrap_err();
    assert!(matches!(refused, Error::MissingField { field: "frozen.trace0", .. }), "{refused}");
    let bound = text
        .replace(r#", "lambda": 0.3"#, "")
        .replace(r#""options""#, r#""estimator": "bayes_optimal", "options""#);
    let refused = Scenario::from_json(&bound).unwrap().validate().unwrap_err();
    assert!(matches!(refused, Error::Conflict { field: "options.finite_size", .. }), "{refused}");
}

/// The coefficients do not depend on a truth that is much smaller than what is learned of the noise. The first pair is on both sides of
/// `q = 100 q0`, where the unit of the proximal points changes.
#[test]
fn a_negligible_truth_has_coefficients() {
    let model = Model::softmax(2, 0.5).unwrap();
    let at = |q0: f64| {
        let training = Training::fresh(5.0, 0.3).unwrap().with_variance(q0).unwrap();
        solve(&model, &frozen(1.0), &training).finite_size.unwrap()
    };
    for pair in [[6.6e-3, 5.4e-3], [1e-3, 1e-6]] {
        let [reference, negligible] = pair.map(at);
        for (a, b, error) in [
            (reference.q, negligible.q, reference.std_error.q),
            (reference.test, negligible.test, reference.std_error.test),
            (reference.train, negligible.train, reference.std_error.train),
        ] {
            assert!((a - b).abs() < 0.5 * error.unwrap(), "{reference:?} {negligible:?}");
        }
    }
}

/// Weights that are 0, proportional to each other, or multiples of the identity have the cubes that follow.
#[test]
fn impossible_cubes_are_refused() {
    let zero = Frozen::new(2.0, 0.0, 0.0).unwrap();
    // s-hat = s*/2, with traces of a law that is no multiple of the identity.
    let half = Frozen::new(2.0, 0.5, 1.0).unwrap().with_traces(0.5, 1.0).unwrap();
    // s-hat = 1/2, and s* = 3/2.
    let identity = Frozen::new(2.0, 0.25, 0.5).unwrap().with_traces(0.5, 1.0).unwrap();
    let constant = Frozen::new(2.25, 1.2, 1.0).unwrap().with_traces(2.0 / 3.0, 1.5).unwrap();
    let twelfths = 1.2 * 1.5;
    for (frozen, possible) in [
        (zero, [0.0, 0.0, 0.0, 5.0]),
        (half, [0.625, 1.25, 2.5, 5.0]),
        (identity, [0.125, 0.25, 1.0, 5.0]),
        (constant, [1.1, twelfths, 1.5, 3.375]),
    ] {
        frozen.with_cubes(possible).unwrap();
        let own = if frozen == constant { 1..4 } else { 0..3 };
        for k in own {
            let mut wrong = possible;
            wrong[k] += 0.5;
            let refused = frozen.with_cubes(wrong).unwrap_err();
            assert!(
                matches!(refused, Error::InvalidParameter { field: "frozen.cubes", .. }),
                "{frozen:?}, {wrong:?}: {refused}"
            );
        }
    }
    // A heavy tail has large cubes, whatever the norms are.
    Frozen::new(2.0, 1.2, 1.1).unwrap().with_cubes([1e6, 1e3, -1e3, 1e6]).unwrap();
}

/// Weights that vanish have no order parameters to move, and the error at zero weights remains.
#[test]
fn at_zero_weights_all_errors_move_together() {
    let solution = solve(&Model::softmax(2, 0.5).unwrap(), &frozen(1.0), &Training::fresh(2.0, 3.0).unwrap());
    assert_eq!(solution.status, Status::Collapsed);
    let FiniteSize { q, m, alignment, objective, test, train, frozen, std_error, .. } =
        solution.finite_size.unwrap();
    assert!([q, m, alignment].iter().all(|x| x.abs() <= 0.0));
    assert_relative_eq!(objective, 2.0 * train, max_relative = 1e-12);
    assert_relative_eq!(train, frozen, max_relative = 1e-9);
    assert_relative_eq!(test, frozen, max_relative = 1e-9);
    assert!(frozen.abs() > std_error.frozen.unwrap());
}

fn odd(activation: &str, beta: f64, sizes: Vec<Size>) -> OddDifferences {
    let scenario = json!({
        "model": {"tokens": 2, "activation": activation, "delta": 0.5, "teacher": {"wishart": {"kappa0": 1.0}}},
        "pretrain": {"alpha": 0.25, "lambda": 0.05}, "lora": {"alpha": 5.0, "lambda": 0.3, "beta": beta}
    });
    let scenario = Scenario::from_json(&scenario.to_string()).unwrap();
    let laboratory =
        Laboratory { sizes, seed: 5, random_starts: 0, test_sequences: 512, ..Laboratory::default() };
    odd_differences(&scenario, &laboratory).unwrap()
}

/// Trainings on weights of both signs differ by the coefficients: the limit and the `1/D` term drop out.
#[test]
fn odd_parts_of_training_are_the_coefficients() {
    for (activation, beta) in [("linear", 0.5), ("softmax", 0.6)] {
        let found = odd(activation, beta, vec![Size::new(60, 40)]);
        println!("{found}");
        assert_eq!((found.rows.len(), found.unconverged), (8, 0));
        assert!(found.rows.iter().all(|row| row.z.abs() < 4.0), "{found}");
        // Without the coefficients, the odd parts would be far from 0.
        let seen = found.rows.iter().filter(|row| row.theory.mean.abs() > 4.0 * row.simulation.std_error);
        assert!(seen.count() >= 2, "{found}");
    }
}
