//! The JSON schema, scenarios end to end, and scenarios as lines of text.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::io::{self, Write};

use common::assert_labelled;
use lora_asymptotics::fixed_point::Status;
use lora_asymptotics::lora::{Frozen, Score, Selection, Sequences};
use lora_asymptotics::{
    ActivationName, Error, Estimator, Model, Options, Outcome, Scenario, Skipped, Start, Teacher, Verdict,
    lora, pretrain,
};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use rayon::prelude::*;
use serde_json::{Value, json};

fn pretrained() -> Value {
    json!({
        "model": {"tokens": 2, "activation": "linear", "delta": 0.5, "teacher": {"wishart": {"kappa0": 0.5}}},
        "pretrain": {"alpha": 0.2, "lambda": 0.1},
        "lora": {"alpha": 3.0, "lambda": 0.2, "sequences": "reused"},
        "options": {"log2_nodes": 8},
    })
}

fn frozen() -> Value {
    json!({
        "model": {"tokens": 2, "activation": "linear", "delta": 0.5},
        "frozen": {"q0": 2.0, "q": 1.2, "m": 1.1},
        "lora": {"alpha": 5.0, "lambda": 0.5},
        "options": {"log2_nodes": 8},
    })
}

/// `base` with the value at a path (names joined by `/`) replaced; `None` removes it.
fn with(mut base: Value, path: &str, value: Option<Value>) -> Value {
    let mut names: Vec<&str> = path.split('/').collect();
    let last = names.pop().unwrap();
    let parent = names.into_iter().fold(&mut base, |at, name| &mut at[name]).as_object_mut().unwrap();
    match value {
        Some(value) => parent.insert(last.to_owned(), value),
        None => parent.remove(last),
    };
    base
}

fn parse(value: &Value) -> Result<Scenario, Error> {
    Scenario::from_json(&value.to_string())
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

mod schema {
    use super::*;

    #[test]
    fn defaults() {
        let scenario = parse(&with(pretrained(), "options", None)).unwrap();
        assert_eq!(scenario.pretrain.unwrap().kappa().to_bits(), 1.0_f64.to_bits());
        assert_eq!(scenario.estimator, Estimator::Erm);
        let options = scenario.options;
        assert_eq!(options, Options::default());
        assert_eq!((options.log2_nodes(), options.scrambles(), options.seed()), (13, 8, 0));
        assert_eq!((options.max_iterations(), options.start()), (1000, Start::Best));
        assert_eq!(options.tolerance(), None);
        let written = serde_json::to_string(&options).unwrap();
        assert!(!written.contains("tolerance") && !written.contains("log2_nodes"), "{written}");

        let scenario = parse(&frozen()).unwrap();
        assert_eq!(scenario.frozen, Some(Frozen::new(2.0, 1.2, 1.1).unwrap()));
        assert_eq!(scenario.lora, Some(lora::Training::fresh(5.0, 0.5).unwrap()));
        assert_eq!(scenario.lora.unwrap().sequences(), Sequences::Fresh);
        assert_eq!(scenario.options, Options::default().with_log2_nodes(8).unwrap());

        let active = with(frozen(), "lora/sequences", Some(json!({"active": {"fraction": 0.1}})));
        let sequences = parse(&active).unwrap().lora.unwrap().sequences();
        assert_eq!(sequences, Sequences::Active(Selection::new(0.1, Score::Frobenius).unwrap()));
    }

    #[test]
    fn every_value_of_the_schema_is_understood() {
        let full = json!({
            "model": {"tokens": 3, "activation": "linear", "delta": 0.5, "teacher": {"wishart": {"kappa0": 1.0}}},
            "pretrain": {"alpha": 0.1, "lambda": 0.1, "kappa": 1.5},
            "lora": {"alpha": 3.0, "lambda": 0.5, "rank": 2, "q0": [1.2, 0.8], "beta": 0.9,
                     "sequences": {"active": {"fraction": 0.1, "score": "centred"}}},
            "estimator": "erm",
            "options": {"tolerance": 1e-9, "max_iterations": 500, "log2_nodes": 9, "scrambles": 3, "seed": 7,
                        "start": "uninformed"},
        });
        let scenario = parse(&full).unwrap();
        let expected = Scenario {
            model: Model::linear(3, 0.5).unwrap().with_teacher(Teacher::Wishart { kappa0: 1.0 }).unwrap(),
            pretrain: Some(pretrain::Training::new(0.1, 0.1).unwrap().with_width(1.5).unwrap()),
            frozen: None,
            lora: Some(
                lora::Training::fresh(3.0, 0.5)
                    .unwrap()
                    .with_rank(2)
                    .unwrap()
                    .with_variances(&[1.2, 0.8])
                    .unwrap()
                    .recalibrated(0.9)
                    .unwrap()
                    .active(Selection::new(0.1, Score::Centred).unwrap()),
            ),
            estimator: Estimator::Erm,
            options: Options::default()
                .with_tolerance(1e-9)
                .unwrap()
                .with_max_iterations(500)
                .unwrap()
                .with_log2_nodes(9)
                .unwrap()
                .with_scrambles(3)
                .unwrap()
                .with_seed(7)
                .with_start(Start::Uninformed),
        };
        assert_eq!(scenario, expected);
        // The text that is written is the text that was read, so that the schema has no other names.
        assert_eq!(serde_json::to_value(&scenario).unwrap(), full);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let cases = [
            (with(frozen(), "color", Some(json!(1))), "color"),
            (with(frozen(), "model/depth", Some(json!(1))), "depth"),
            (with(frozen(), "frozen/beta", Some(json!(1.0))), "beta"),
            (with(frozen(), "lora/kappa", Some(json!(1.0))), "kappa"),
            (with(pretrained(), "pretrain/q0", Some(json!(1.0))), "q0"),
            (with(frozen(), "options/nodes", Some(json!(9))), "nodes"),
            (with(frozen(), "lora/sequences", Some(json!({"active": {"rho": 0.1}}))), "rho"),
            (with(frozen(), "model/activation", Some(json!("tanh"))), "tanh"),
            (with(frozen(), "estimator", Some(json!("oracle"))), "oracle"),
            (with(frozen(), "lora/sequences", Some(json!("old"))), "old"),
            (with(frozen(), "options/start", Some(json!("warm"))), "warm"),
            (with(pretrained(), "model/teacher", Some(json!({"uniform": {}}))), "uniform"),
            (with(frozen(), "model", None), "model"),
            (with(frozen(), "model/tokens", None), "tokens"),
            (with(frozen(), "model/delta", None), "delta"),
            (with(frozen(), "model/activation", None), "activation"),
            (with(frozen(), "lora/alpha", None), "alpha"),
            (with(frozen(), "frozen/q", None), "q"),
            (with(frozen(), "model/tokens", Some(json!(2.5))), "2.5"),
            (with(frozen(), "model/tokens", Some(json!(-2))), "-2"),
            (with(frozen(), "lora/alpha", Some(json!("3"))), "\"3\""),
            (with(frozen(), "lora/alpha", Some(json!(null))), "null"),
        ];
        for (scenario, name) in cases {
            match parse(&scenario) {
                Err(error @ Error::Syntax(_)) => {
                    assert!(error.to_string().contains(name), "{scenario}: {error}");
                    assert_eq!(error.kind(), "syntax");
                }
                other => panic!("{scenario}: {other:?}"),
            }
        }
        for text in ["", "{", "[]", "null", "3", "{\"model\": NaN}", "{} {}"] {
            assert!(matches!(Scenario::from_json(text), Err(Error::Syntax(_))), "{text}");
        }
    }

    #[test]
    fn parts_that_do_not_fit_together() {
        let teacher = json!({"wishart": {"kappa0": 1.0}});
        let training = json!({"alpha": 0.2, "lambda": 0.1});
        let cases = [
            (with(frozen(), "model/teacher", Some(teacher)), "conflict", "model.teacher"),
            (with(frozen(), "pretrain", Some(training)), "conflict", "frozen"),
            (with(frozen(), "frozen", None), "missing_field", "pretrain"),
            (with(frozen(), "lora", None), "missing_field", "lora"),
            (with(pretrained(), "model/teacher", None), "missing_field", "model.teacher"),
            (with(pretrained(), "pretrain", None), "missing_field", "pretrain"),
            (with(frozen(), "model/tokens", Some(json!(9))), "invalid_parameter", "model.tokens"),
            (with(frozen(), "model/delta", Some(json!(-1))), "invalid_parameter", "model.delta"),
            (with(frozen(), "frozen/m", Some(json!(2))), "invalid_parameter", "frozen.m"),
            (with(frozen(), "lora/beta", Some(json!(-1))), "invalid_parameter", "lora.beta"),
            (with(frozen(), "options/scrambles", Some(json!(0))), "invalid_parameter", "options.scrambles"),
            (with(pretrained(), "pretrain/kappa", Some(json!(0))), "invalid_parameter", "pretrain.kappa"),
            (with(pretrained(), "pretrain/kappa", Some(json!(0.01))), "rank_does_not_fit", "pretrain.kappa"),
        ];
        for (scenario, kind, field) in cases {
            let error = parse(&scenario).and_then(|scenario| scenario.solve()).unwrap_err();
            assert_eq!(error.kind(), kind, "{scenario}");
            assert!(error.to_string().starts_with(field), "{scenario}: {error}");
        }
    }

    #[test]
    fn scenarios_survive_a_round_trip() {
        for scenario in (0..300).map(|seed| random(seed).1) {
            let text = serde_json::to_string(&scenario).unwrap();
            let back = Scenario::from_json(&text).unwrap();
            // The comparison is of digits and not of bits, because reading may be off by a unit in the last
            // place.
            let mut pairs = Vec::new();
            numbers("", &serde_json::to_value(&scenario).unwrap(), &mut pairs);
            let mut others = Vec::new();
            numbers("", &serde_json::to_value(&back).unwrap(), &mut others);
            same(&pairs, &others, &text);
        }
    }

    /// Collects every leaf with its path.
    fn numbers(path: &str, value: &Value, into: &mut Vec<(String, Value)>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    numbers(&format!("{path}/{name}"), value, into);
                }
            }
            leaf => into.push((path.to_owned(), leaf.clone())),
        }
    }

    fn same(a: &[(String, Value)], b: &[(String, Value)], what: &str) {
        assert_eq!(a.len(), b.len(), "{what}");
        for ((name, x), (other, y)) in a.iter().zip(b) {
            assert_eq!(name, other, "{what}");
            match (x.as_f64(), y.as_f64()) {
                (Some(x), Some(y)) => {
                    assert!((x - y).abs() <= 2.0 * f64::EPSILON * x.abs(), "{what}: {name}, {x:e}, {y:e}");
                }
                _ => assert_eq!(x, y, "{what}: {name}"),
            }
        }
    }

    #[test]
    fn outcomes_survive_a_round_trip() {
        let mut single = frozen();
        single["options"]["scrambles"] = json!(1);
        let mut one_token = frozen();
        one_token["model"]["tokens"] = json!(1);
        let centred = json!({"active": {"fraction": 0.1, "score": "centred"}});
        // The result overflows, so that there are no numbers.
        let huge = with(frozen(), "lora/alpha", Some(json!(1e300)));
        let scenarios = [
            pretrained(),
            frozen(),
            single,
            one_token,
            with(frozen(), "lora/sequences", Some(centred)),
            huge,
        ];
        for (i, scenario) in scenarios.iter().enumerate() {
            let outcome = parse(scenario).unwrap().solve().unwrap();
            let text = serde_json::to_string(&outcome).unwrap();
            let back: Outcome = serde_json::from_str(&text).unwrap();
            let [mut a, mut b] = [Vec::new(), Vec::new()];
            numbers("", &serde_json::to_value(&outcome).unwrap(), &mut a);
            numbers("", &serde_json::to_value(&back).unwrap(), &mut b);
            same(&a, &b, &text);
            if i == 5 {
                let lora = back.lora.unwrap();
                assert_eq!(lora.status, Status::NonFinite);
                assert!(lora.order.q.is_nan() && text.contains("\"q\":null"), "{text}");
            }
        }
    }

    /// Collects the numbers of a stage with their paths, without its standard errors.
    fn leaves(path: &str, value: &Value, into: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields.iter().filter(|(name, _)| *name != "std_error") {
                    let separator = if path.is_empty() { "" } else { "." };
                    leaves(&format!("{path}{separator}{name}"), value, into);
                }
            }
            Value::Number(_) if path != "version" => into.push(path.to_owned()),
            _ => {}
        }
    }

    #[test]
    fn rows_are_the_numbers_of_the_outcome() {
        let softmax =
            with(with(pretrained(), "model/activation", Some(json!("softmax"))), "lora/sequences", None);
        let both = with(softmax, "estimator", Some(json!("both")));
        let bayes = with(with(both.clone(), "pretrain/lambda", None), "lora/lambda", None);
        let bayes = with(bayes, "estimator", Some(json!("bayes_optimal")));
        for scenario in [pretrained(), frozen(), both, bayes] {
            let outcome = parse(&scenario).unwrap().solve().unwrap();
            let written = serde_json::to_value(&outcome).unwrap();
            let rows = outcome.rows();
            let mut expected = Vec::new();
            leaves("", &written, &mut expected);
            let mut names: Vec<String> = rows.iter().map(|row| row.name.clone()).collect();
            names.sort_unstable();
            expected.sort_unstable();
            assert_eq!(names, expected);
            for row in &rows {
                let path = row.name.split('.').collect::<Vec<_>>();
                let value = path.iter().fold(&written, |at, name| &at[*name]);
                assert!((value.as_f64().unwrap() - row.value).abs() <= 0.0, "{row:?}");
                // A standard error has the last name of the number that it belongs to.
                let stage =
                    if path[0] == "bayes_optimal" { &written[path[0]][path[1]] } else { &written[path[0]] };
                let claimed = &stage["std_error"][*path.last().unwrap()];
                assert!(row.std_error.is_none() || claimed.as_f64() == row.std_error, "{row:?}");
            }
            // Every standard error belongs to a row.
            for (prefix, stage) in [("pretrain", "/pretrain"), ("lora", "/lora")] {
                let Some(claimed) = written.pointer(&format!("{stage}/std_error")) else { continue };
                let with_error =
                    rows.iter().filter(|row| row.name.starts_with(prefix) && row.std_error.is_some());
                assert!(with_error.count() >= claimed.as_object().unwrap().len(), "{claimed}");
            }
        }
    }

    #[test]
    fn a_skipped_stage_says_so() {
        let stuck = with(pretrained(), "options/max_iterations", Some(json!(1)));
        let outcome = parse(&stuck).unwrap().solve().unwrap();
        assert!(!outcome.pretrain.as_ref().unwrap().status.is_success());
        assert_eq!(
            (outcome.lora.is_none(), outcome.lora_skipped),
            (true, Some(Skipped::PretrainNotConverged))
        );
        let text = serde_json::to_string(&outcome).unwrap();
        assert!(text.contains(r#""lora":{"status":"skipped","reason":"pretrain_not_converged"}"#), "{text}");
        assert_eq!(serde_json::from_str::<Outcome>(&text).unwrap(), outcome);
        // A stage that was not asked for is absent.
        let alone = parse(&with(stuck, "lora", None)).unwrap().solve().unwrap();
        assert!(alone.lora.is_none() && alone.lora_skipped.is_none());
    }

    #[test]
    fn readers_ignore_what_they_do_not_know_and_miss_what_they_need() {
        let mut scenario = with(pretrained(), "lora/sequences", None);
        scenario["estimator"] = json!("both");
        let outcome = parse(&scenario).unwrap().solve().unwrap();
        let written = serde_json::to_value(&outcome).unwrap();
        let mut newer = written.clone();
        for path in [
            "",
            "/pretrain",
            "/lora",
            "/lora/order",
            "/lora/errors",
            "/lora/validity",
            "/lora/std_error",
            "/bayes_optimal",
            "/bayes_optimal/pretrain",
            "/bayes_optimal/lora",
            "/bayes_optimal/lora/branches",
        ] {
            newer
                .pointer_mut(path)
                .unwrap()
                .as_object_mut()
                .unwrap()
                .insert("new".to_owned(), json!({"a": [1]}));
        }
        assert_eq!(serde_json::from_value::<Outcome>(newer).unwrap(), outcome);
        let unversioned = with(written.clone(), "version", None);
        assert_eq!(serde_json::from_value::<Outcome>(unversioned).unwrap(), outcome);
        let refused = |value: Value| serde_json::from_value::<Outcome>(value).unwrap_err().to_string();
        assert!(refused(with(written.clone(), "version", Some(json!(2)))).contains("version 2"));
        // A solution by empirical risk minimisation with a missing field must not be read as one of the
        // posterior mean.
        let error = refused(with(written, "pretrain/validity", None));
        assert!(error.contains("missing field `validity`"), "{error}");
    }

    #[test]
    fn names_are_displayed_as_they_are_written() {
        fn same<T: serde::Serialize + std::fmt::Display>(values: impl IntoIterator<Item = T>) {
            for value in values {
                assert_eq!(serde_json::to_value(&value).unwrap(), value.to_string());
                assert_eq!(format!("{value:>30}").len(), 30);
            }
        }
        same([Verdict::Good, Verdict::Marginal, Verdict::Unreliable]);
        same([lora::Branch::Informed, lora::Branch::Uninformed]);
        same([lora::Divergence::PointwiseAndJump, lora::Divergence::IntegrationByParts]);
        same([Score::Frobenius, Score::Centred]);
        same([Start::Informed, Start::Uninformed, Start::Best]);
        same([
            ActivationName::Linear,
            ActivationName::Softmax,
            ActivationName::SoftmaxOne,
            ActivationName::Sigmoid,
        ]);
        same([Estimator::Erm, Estimator::BayesOptimal, Estimator::Both]);
        same([Skipped::PretrainNotConverged]);
        same([Status::Converged, Status::Collapsed, Status::NoiseLimited, Status::Stalled]);
        same([Status::MaxIterations, Status::NonFinite]);
    }

    #[test]
    fn names_of_the_outcome() {
        let outcome = serde_json::to_value(parse(&pretrained()).unwrap().solve().unwrap()).unwrap();
        assert_eq!(keys(&outcome), ["lora", "pretrain", "version"]);
        assert_eq!(outcome["version"], 1);
        let stage = &outcome["pretrain"];
        for name in [
            "order",
            "trace",
            "rank_fraction",
            "objective",
            "errors",
            "alignment",
            "validity",
            "status",
            "residual",
            "iterations",
        ] {
            assert!(!stage[name].is_null(), "pretrain.{name}");
        }
        assert_eq!(keys(&stage["order"]), ["m", "m_hat", "q", "q_hat", "v", "v_hat"]);
        assert_eq!(keys(&stage["errors"]), ["test", "test_clean", "train"]);
        assert_eq!(keys(&stage["validity"]), ["contested", "reliable", "verdict"]);
        assert_eq!(stage["status"], "converged");
        assert!(stage["std_error"].as_object().unwrap().is_empty());

        let stage = &outcome["lora"];
        for name in [
            "order",
            "objective",
            "errors",
            "alignment",
            "effective_noise",
            "validity",
            "status",
            "residual",
            "iterations",
        ] {
            assert!(!stage[name].is_null(), "lora.{name}");
        }
        assert_eq!(keys(&stage["order"]), ["eta", "m", "m_hat", "q", "q_hat", "v", "v_hat"]);
        assert_eq!(keys(&stage["errors"]), ["forgetting", "frozen", "test", "test_clean", "train"]);
        assert_eq!(keys(&stage["effective_noise"]), ["test", "train"]);
        assert_eq!(keys(&stage["validity"]), ["jump", "reliable", "replicon", "verdict"]);
        let mut qualified = [
            "q",
            "m",
            "v",
            "q_hat",
            "m_hat",
            "v_hat",
            "eta",
            "objective",
            "test",
            "test_clean",
            "train",
            "forgetting",
            "alignment",
            "replicon",
        ];
        qualified.sort_unstable();
        assert_eq!(keys(&stage["std_error"]), qualified);
        assert_eq!((&stage["status"], &stage["validity"]["verdict"]), (&json!("converged"), &json!("good")));

        let alone = serde_json::to_value(parse(&frozen()).unwrap().solve().unwrap()).unwrap();
        assert_eq!(keys(&alone), ["lora", "version"]);
        let alone = parse(&with(pretrained(), "lora", None)).unwrap().solve().unwrap();
        assert_eq!(keys(&serde_json::to_value(alone).unwrap()), ["pretrain", "version"]);
    }
}

/// A scenario somewhere in the domain, and the `q0` of its perturbation.
fn random(seed: u64) -> (f64, Scenario) {
    let mut rng = Pcg64::seed_from_u64(seed);
    let mut log = |low: f64, high: f64| 10f64.powf(rng.random_range(low..high));
    let [kappa0, delta, q0, beta, fraction] =
        [log(-1.0, 1.0), log(-3.0, 1.0), log(-1.0, 1.0), log(-1.0, 0.5), log(-3.0, 0.0)];
    let [alpha, lambda, lora_alpha, lora_lambda] =
        [log(-2.0, 1.0), log(-3.0, 1.0), log(-1.0, 1.5), log(-3.0, 1.0)];
    let [frozen_q0, frozen_q, frozen_v] = [log(-1.0, 1.0), log(-2.0, 1.0), log(-2.0, 1.0)];
    let overlap = rng.random_range(0.0..1.0);
    let tokens = rng.random_range(1..=8);
    let by_hand = rng.random_bool(0.5);
    let sequences = match rng.random_range(0..4) {
        0 => Sequences::Fresh,
        1 => Sequences::Reused,
        2 => Sequences::Active(Selection::new(fraction, Score::Frobenius).unwrap()),
        _ => Sequences::Active(Selection::new(fraction, Score::Centred).unwrap()),
    };
    let m = overlap * (frozen_q * frozen_q0).sqrt();
    let layer = Model::linear(tokens, delta).unwrap();
    let scenario = Scenario {
        model: if by_hand { layer } else { layer.with_teacher(Teacher::Wishart { kappa0 }).unwrap() },
        pretrain: (!by_hand).then(|| pretrain::Training::new(alpha, lambda).unwrap()),
        frozen: by_hand
            .then_some(Frozen::new(frozen_q0, frozen_q, m).unwrap().with_response(frozen_v).unwrap()),
        lora: Some(
            lora::Training::fresh(lora_alpha, lora_lambda)
                .unwrap()
                .with_variance(q0)
                .unwrap()
                .recalibrated(beta)
                .unwrap()
                .on(sequences),
        ),
        estimator: Estimator::Erm,
        options: Options::default().with_log2_nodes(7).unwrap().with_scrambles(2).unwrap().with_seed(seed),
    };
    (q0, scenario)
}

/// Over the whole domain there is no panic and no number that is not finite, and every outcome has a status.
#[test]
fn random_scenarios() {
    const COUNT: u64 = 2000;
    let labels: Vec<(Status, bool)> = (0..COUNT)
        .into_par_iter()
        .map(|seed| {
            let (q0, scenario) = random(seed);
            let outcome = scenario.solve().unwrap_or_else(|error| panic!("{scenario:?}: {error}"));
            if let Some(stage) = &outcome.pretrain {
                let pretrain::Order { q, m, v, .. } = stage.order;
                assert!(stage.status.is_success(), "{scenario:?}: {stage:?}");
                assert!(
                    q >= 0.0 && v >= 0.0 && m >= 0.0 && m <= (q * stage.q0).sqrt() * (1.0 + 1e-9),
                    "{stage:?}"
                );
                let pretrain::Errors { test, test_clean, train, .. } = stage.errors;
                assert!([test, test_clean, train, stage.objective].iter().all(|x| *x >= 0.0), "{stage:?}");
                assert!((0.0..=1.0).contains(&stage.alignment), "{stage:?}");
            }
            let lora = outcome.lora.expect("pre-training succeeded");
            assert_labelled(&lora, q0);
            assert_ne!(lora.status, Status::NonFinite, "{scenario:?}");
            (lora.status, lora.validity.reliable)
        })
        .collect();
    let mut counts = BTreeMap::new();
    for (status, reliable) in &labels {
        *counts.entry((status.to_string(), *reliable)).or_insert(0) += 1;
    }
    println!("{counts:?}");
    let reliable = labels.iter().filter(|(_, reliable)| *reliable).count();
    let solved = labels.iter().filter(|(status, reliable)| {
        // With few nodes the map has jumps, and the status reports them.
        *reliable && (status.is_success() || *status == Status::NoiseLimited)
    });
    let solved = solved.count();
    assert!(reliable > COUNT as usize / 3, "{counts:?}");
    assert!(solved as f64 >= 0.95 * reliable as f64, "{counts:?}");
}

#[test]
fn labels_are_printed_as_they_are_written_in_json() {
    use lora::Verdict;
    let statuses = [
        Status::Converged,
        Status::Collapsed,
        Status::NoiseLimited,
        Status::Stalled,
        Status::MaxIterations,
        Status::NonFinite,
    ];
    for status in statuses {
        assert_eq!(json!(status), json!(status.to_string()));
    }
    for verdict in [Verdict::Good, Verdict::Marginal, Verdict::Unreliable] {
        assert_eq!(json!(verdict), json!(verdict.to_string()));
    }
    assert_eq!(Status::NoiseLimited.to_string(), "noise_limited");
}

mod lines {
    use std::io::ErrorKind;

    use lora_asymptotics::lines;

    use super::*;

    fn run(input: &[u8]) -> (lines::Summary, Vec<Value>) {
        let mut output = Vec::new();
        let summary = lines::solve(input, &mut output).unwrap();
        assert!(output.is_empty() || output.ends_with(b"\n"));
        let answers = output.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let answers: Vec<Value> = answers.map(|line| serde_json::from_slice(line).unwrap()).collect();
        assert_eq!(summary.answered, answers.len());
        (summary, answers)
    }

    /// A pipe that takes a number of bytes, and is closed afterwards.
    struct Pipe {
        room: usize,
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.room);
            self.room -= taken;
            if taken > 0 { Ok(taken) } else { Err(ErrorKind::BrokenPipe.into()) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_closed_pipe_ends_the_work() {
        let line = format!("{}\n", frozen());
        let (_, answers) = run(line.as_bytes());
        let length = answers[0].to_string().len();
        // The pipe is closed before the first answer, within it, and after it.
        for room in [0, length / 2, length + 1] {
            let input = line.repeat(1000);
            let mut rest = input.as_bytes();
            let error = lines::solve(&mut rest, Pipe { room }).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BrokenPipe);
            assert!(rest.len() >= input.len() - 2 * line.len(), "lines are read after the pipe is closed");
        }
    }

    /// The answer once repeated the megabyte that it refused.
    #[test]
    fn a_refusal_does_not_repeat_long_lines() {
        let long = "\u{e9}".repeat(1_000_000);
        for line in [format!("\"{long}\""), format!("{{\"{long}\": 1}}")] {
            let (summary, answers) = run(line.as_bytes());
            assert_eq!(summary.failed, 1);
            let message = answers[0]["error"]["message"].as_str().unwrap();
            assert!(message.len() < 1000 && message.contains("line 1 column"), "{message}");
        }
    }

    /// Deep nesting is refused, and does not exhaust the stack.
    #[test]
    fn a_deep_line_is_refused() {
        for line in ["[".repeat(100_000), "{\"model\":".repeat(100_000)] {
            let (summary, answers) = run(line.as_bytes());
            assert_eq!((summary.answered, summary.failed), (1, 1));
            assert_eq!(answers[0]["error"]["kind"], "syntax");
        }
    }

    #[test]
    fn a_byte_order_mark_is_skipped() {
        let line = frozen().to_string();
        let (_, expected) = run(line.as_bytes());
        assert_eq!(expected[0]["lora"]["status"], "converged");
        // The mark is at the beginning, on its own line, and where two files were joined.
        let marked = format!("\u{feff}{line}\r\n\u{feff}\n\u{feff} \n\u{feff}{line}");
        let (summary, answers) = run(marked.as_bytes());
        assert_eq!((summary.answered, summary.failed), (2, 0));
        assert!(answers.iter().all(|answer| *answer == expected[0]));
        assert_eq!(Scenario::from_json(&format!("\u{feff}{line}")), Scenario::from_json(&line));
        // At any other place the mark is an error.
        let (summary, _) = run(format!("{line}\u{feff}").as_bytes());
        assert_eq!(summary.failed, 1);
    }

    #[test]
    fn nothing_is_answered_by_nothing() {
        for input in ["", "\n", "\r\n \n", "\u{feff}"] {
            assert_eq!(run(input.as_bytes()).0, lines::Summary::default());
        }
    }

    #[test]
    fn good_lines_are_answered_in_order() {
        let lines: Vec<Value> = [2.0, 1.0, 0.5, 0.1]
            .into_iter()
            .flat_map(|lambda| {
                [
                    with(frozen(), "lora/lambda", Some(json!(lambda))),
                    with(pretrained(), "lora/lambda", Some(json!(lambda))),
                ]
            })
            .collect();
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        // The input has no final end of line, or the line ends of another operating system.
        for input in [text.clone(), text.trim_end().to_owned(), text.replace('\n', "\r\n")] {
            let (summary, answers) = run(input.as_bytes());
            assert_eq!((summary.answered, summary.failed), (lines.len(), 0));
            for (line, answer) in lines.iter().zip(&answers) {
                assert_eq!(
                    answer,
                    &serde_json::from_str::<Value>(
                        &serde_json::to_string(&parse(line).unwrap().solve().unwrap()).unwrap()
                    )
                    .unwrap()
                );
            }
        }
    }

    #[test]
    fn bad_lines_are_answered_by_errors_and_do_not_stop_the_others() {
        /// The kind and the cause of the error, if an error is expected.
        type Expected = Option<(&'static str, &'static str)>;
        let good = frozen().to_string();
        let unknown = with(frozen(), "lora/gamma", Some(json!(1))).to_string();
        let impossible = with(frozen(), "lora/alpha", Some(json!(-3))).to_string();
        let tanh = with(frozen(), "model/activation", Some(json!("tanh"))).to_string();
        let lines: [(&[u8], Expected); 8] = [
            (good.as_bytes(), None),
            (b"{\"model\": ", Some(("syntax", "EOF"))),
            (unknown.as_bytes(), Some(("syntax", "gamma"))),
            (impossible.as_bytes(), Some(("invalid_parameter", "lora.alpha = -3"))),
            (b"{\"model\": \"\xff\xfe\"}", Some(("syntax", "utf-8"))),
            (tanh.as_bytes(), Some(("syntax", "sigmoid"))),
            (b"{}", Some(("syntax", "model"))),
            (good.as_bytes(), None),
        ];
        let mut input = Vec::new();
        for (line, _) in &lines {
            input.extend_from_slice(line);
            // Empty lines are skipped.
            input.extend_from_slice(b"\n \n\n");
        }
        let (summary, answers) = run(&input);
        assert_eq!((summary.answered, summary.failed), (lines.len(), 6));
        for ((line, expected), answer) in lines.iter().zip(&answers) {
            let line = String::from_utf8_lossy(line);
            match expected {
                None => assert_eq!(answer["lora"]["status"], "converged", "{line}"),
                Some((kind, cause)) => {
                    assert_eq!(keys(answer), ["error"], "{line}");
                    assert_eq!(keys(&answer["error"]), ["kind", "message"], "{line}");
                    assert_eq!(answer["error"]["kind"], *kind, "{line}");
                    let message = answer["error"]["message"].as_str().unwrap();
                    assert!(message.contains(cause), "{line}: {message}");
                }
            }
        }
        assert_eq!(answers[0], answers[7]);
    }

    #[test]
    fn no_convergence_is_no_failure() {
        let line = with(frozen(), "options/max_iterations", Some(json!(2)));
        let (summary, answers) = run(format!("{line}\n").as_bytes());
        assert_eq!((summary.answered, summary.failed), (1, 0));
        assert_eq!(answers[0]["lora"]["status"], "max_iterations");
    }
}

mod estimators {
    use super::*;

    fn bayes(base: Value) -> Value {
        let base = with(with(base, "lora/lambda", None), "estimator", Some(json!("bayes_optimal")));
        let base = with(base, "lora/sequences", None);
        if base["pretrain"].is_object() { with(base, "pretrain/lambda", None) } else { base }
    }

    fn solved(scenario: &Value) -> (Outcome, Value) {
        let outcome = parse(scenario).unwrap().solve().unwrap();
        let written = serde_json::to_value(&outcome).unwrap();
        (outcome, written)
    }

    #[test]
    fn the_bayes_optimal_stages_are_in_the_places_of_the_others() {
        let (outcome, written) = solved(&bayes(pretrained()));
        assert!(outcome.pretrain.is_none() && outcome.lora.is_none());
        let bound = outcome.bayes_optimal.clone().unwrap();
        assert_eq!(keys(&written), ["lora", "pretrain", "version"]);
        assert_eq!(keys(&written["pretrain"]["order"]), ["q", "q_hat"]);
        assert_eq!(keys(&written["lora"]["order"]), ["q", "q_hat"]);
        assert!(written["lora"].get("objective").is_none());
        assert_eq!(keys(&written["lora"]["branches"]), ["algorithmic", "information_theoretic"]);
        for branch in ["algorithmic", "information_theoretic"] {
            let branch = &written["lora"]["branches"][branch];
            assert_eq!(keys(branch), ["alignment", "errors", "free_energy", "q"]);
            assert_eq!(keys(&branch["errors"]), ["frozen", "test", "test_clean"]);
        }
        assert!(written["lora"]["alpha_c"].is_f64() && written["pretrain"]["alpha_c"].is_null());
        assert_eq!(written["lora"]["status"], "converged");
        // Fine-tuning is on top of the Bayes-optimal pre-training.
        let model = parse(&pretrained()).unwrap().model;
        let options = parse(&pretrained()).unwrap().options;
        let frozen = bound.pretrain.as_ref().unwrap().freeze().unwrap();
        assert_eq!(lora::bayes_optimal(&model, &frozen, 3.0, 1.0, &options).unwrap(), bound.lora.unwrap());
        // The outcome that is written is the outcome that is read.
        let back: Outcome = serde_json::from_value(written).unwrap();
        assert_eq!(back, outcome);
    }

    #[test]
    fn perfect_recovery_is_written_as_null() {
        let scenario = json!({
            "model": {"tokens": 2, "activation": "linear", "delta": 0.0, "teacher": {"wishart": {"kappa0": 0.5}}},
            "pretrain": {"alpha": 1.0}, "lora": {"alpha": 2.0}, "estimator": "bayes_optimal",
            "options": {"log2_nodes": 8},
        });
        let (_, written) = solved(&scenario);
        assert!(written["pretrain"]["order"]["q_hat"].is_null());
        assert_eq!(written["pretrain"]["alignment"], 1.0);
        assert_eq!(written["lora"]["order"]["q"], 1.0);
        assert_eq!(written["lora"]["errors"]["test"], 0.0);
        assert!(serde_json::from_value::<Outcome>(written).unwrap().bayes_optimal.is_some());
    }

    #[test]
    fn both_puts_the_bound_beside_the_stages() {
        let both = with(with(pretrained(), "estimator", Some(json!("both"))), "lora/sequences", None);
        let (outcome, written) = solved(&both);
        assert_eq!(keys(&written), ["bayes_optimal", "lora", "pretrain", "version"]);
        assert_eq!(keys(&written["bayes_optimal"]), ["lora", "pretrain"]);
        let bound = outcome.bayes_optimal.as_ref().unwrap();
        let (solution, best) = (outcome.lora.as_ref().unwrap(), bound.lora.as_ref().unwrap());
        assert!(solution.alignment < best.alignment && solution.validity.reliable);
        assert!(
            outcome.pretrain.as_ref().unwrap().errors.test > bound.pretrain.as_ref().unwrap().errors.test
        );
        // The stages are the same as those of empirical risk minimisation alone.
        let (mut alone, _) = solved(&with(both, "estimator", None));
        let validity = &mut alone.lora.as_mut().unwrap().validity;
        assert_eq!(validity.above_bound, None);
        validity.above_bound = Some(false);
        assert_eq!((alone.pretrain, alone.lora), (outcome.pretrain.clone(), outcome.lora.clone()));
        assert_eq!(serde_json::from_value::<Outcome>(written).unwrap(), outcome);
    }

    /// With little data and a very small ridge, the informed replica-symmetric solution claims more than any
    /// algorithm can learn.
    #[test]
    fn an_alignment_above_the_bound_is_told_beside_the_verdict() {
        let scenario = json!({
            "model": {"tokens": 1, "activation": "linear", "delta": 1.0},
            "frozen": {"q0": 1.0, "q": 1.0, "m": 1.0},
            "lora": {"alpha": 1.5, "lambda": 0.03},
            "estimator": "both",
            "options": {"log2_nodes": 8, "start": "informed"},
        });
        let (outcome, written) = solved(&scenario);
        assert_eq!(written["lora"]["validity"]["above_bound"], true);
        let (alone, _) = solved(&with(scenario, "estimator", None));
        let best = outcome.bayes_optimal.unwrap().lora.unwrap().branches.information_theoretic;
        let solution = outcome.lora.unwrap();
        assert!(solution.alignment > best.alignment + 0.1, "{solution:?} {best:?}");
        assert_eq!(solution.validity.verdict, alone.lora.unwrap().validity.verdict);
    }

    #[test]
    fn a_ridge_is_required_or_refused() {
        let refused = |scenario: &Value, text: &str| {
            let error = parse(scenario).and_then(|scenario| scenario.solve()).unwrap_err();
            assert!(error.to_string().contains(text), "{error}");
        };
        for estimator in ["erm", "both"] {
            let chosen = |base| with(base, "estimator", Some(json!(estimator)));
            refused(&chosen(with(pretrained(), "pretrain/lambda", None)), "pretrain.lambda is missing");
            refused(&chosen(with(frozen(), "lora/lambda", None)), "lora.lambda is missing");
        }
        refused(&with(bayes(pretrained()), "pretrain/lambda", Some(json!(0.1))), "pretrain.lambda must not");
        refused(&with(bayes(frozen()), "lora/lambda", Some(json!(0.1))), "lora.lambda must not");
        for (path, value) in
            [("lora/alpha", -1.0), ("lora/q0", 0.0), ("lora/beta", -1.0), ("pretrain/kappa", 0.0)]
        {
            refused(&with(bayes(pretrained()), path, Some(json!(value))), &path.replace('/', "."));
        }
        refused(&with(bayes(frozen()), "lora/sequences", Some(json!("reused"))), "lora.sequences = reused");
    }

    #[test]
    fn teachers_by_their_spectrum() {
        let teacher = |teacher: Value| with(pretrained(), "model/teacher", Some(teacher));
        let listed = teacher(json!({"spectrum": {"eigenvalues": [0.0, 0.0, 1.0, 2.0]}}));
        let (outcome, _) = solved(&listed);
        assert!((outcome.pretrain.unwrap().q0 - 1.25).abs() < 1e-14);
        assert!(outcome.lora.unwrap().status.is_success());
        let power = teacher(json!({"power_law": {"exponent": 1.25, "dimension": 50}}));
        assert!((solved(&power).0.pretrain.unwrap().q0 - 1.0).abs() < 1e-14);
        for (bad, name) in [
            (json!({"spectrum": {"eigenvalues": []}}), "eigenvalues"),
            (json!({"spectrum": {"eigenvalues": [0.0, 0.0]}}), "not all zero"),
            (json!({"spectrum": {"eigenvalues": [1.0, -1.0]}}), "-1 at index 1"),
            (json!({"power_law": {"exponent": -1.0, "dimension": 5}}), "power_law.exponent"),
            (json!({"power_law": {"exponent": 1.0, "dimension": 0}}), "power_law.dimension"),
        ] {
            let error = parse(&teacher(bad)).and_then(|scenario| scenario.solve()).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}
