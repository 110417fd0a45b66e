//! Pre-training with cross-attention: separate queries and keys, and singular values in place of eigenvalues.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;
#[path = "common/reference.rs"]
mod reference;

use std::sync::Arc;

use common::{assert_close, cases, solved};
use lora_asymptotics::pretrain::{
    self, LearnedSpectrum, Training, alpha_interp, alpha_perfect_recovery, bayes_optimal,
};
use lora_asymptotics::simulate::{Experiment, Laboratory, Size};
use lora_asymptotics::spectrum::{Discrete, Wishart, WishartProduct};
use lora_asymptotics::{
    ActivationName, Attention, Error, Frozen, Model, Options, Scenario, Status, Teacher, lora,
};
use proptest::prelude::*;

const WISHART: Teacher = Teacher::Wishart { kappa0: 0.5 };

fn cross(activation: ActivationName, tokens: usize, delta: f64, teacher: Teacher) -> Model {
    let model = Model::new(activation, tokens, delta).unwrap();
    model.with_attention(Attention::Cross).unwrap().with_teacher(teacher).unwrap()
}

fn linear(tokens: usize, delta: f64, teacher: Teacher) -> Model {
    cross(ActivationName::Linear, tokens, delta, teacher)
}

fn softmax(tokens: usize, delta: f64, teacher: Teacher) -> Model {
    cross(ActivationName::Softmax, tokens, delta, teacher)
}

fn listed(singular_values: &[f64]) -> Teacher {
    Teacher::SingularValues { singular_values: singular_values.to_vec() }
}

/// Linear attention and Bayes-optimal order parameters are compared to 1e-9, and softmax of three tokens within the standard errors.
#[test]
fn reference_values() {
    reference::compare(include_str!("data/pretrain_cross.jsonl"), 12);
}

/// Softmax of two tokens is averaged by quadrature.
#[test]
fn two_tokens_are_exact_to_quadrature() {
    for record in include_str!("data/pretrain_cross_two_tokens.jsonl").lines() {
        let record: serde_json::Value = serde_json::from_str(record).unwrap();
        let scenario: Scenario = serde_json::from_value(record["scenario"].clone()).unwrap();
        let solution = scenario.solve().unwrap().pretrain.unwrap().into_converged().unwrap();
        assert_eq!(solution.std_error, lora_asymptotics::StdError::default());
        let found = serde_json::to_value(&solution).unwrap();
        let expected = &record["expected"]["pretrain"];
        for (group, names) in [
            ("order", &["q", "m", "v", "q_hat", "m_hat", "v_hat"][..]),
            ("errors", &["test", "test_clean", "train"]),
        ] {
            for name in names {
                let value = expected[group][name]["value"].as_f64().unwrap();
                assert_close(name, found[group][name].as_f64().unwrap(), value, 1e-6);
            }
        }
        for name in ["trace", "rank_fraction", "objective", "alignment"] {
            assert_close(
                name,
                found[name].as_f64().unwrap(),
                expected[name]["value"].as_f64().unwrap(),
                1e-6,
            );
        }
    }
}

#[test]
fn ridgeless_training_in_closed_form() {
    for (tokens, delta, alpha, teacher) in [
        (1, 0.5, 1.5, WISHART),
        (2, 0.2, 0.3, Teacher::Wishart { kappa0: 2.0 }),
        (3, 1.0, 0.2, Teacher::PowerLaw { exponent: 1.0, dimension: 30 }),
    ] {
        let model = linear(tokens, delta, teacher);
        let t2 = (tokens * tokens) as f64;
        let solution = solved(&model, &Training::new(alpha, 0.0).unwrap());
        let excess = alpha * t2 - 1.0;
        assert_close("m", solution.order.m, 1.0, 1e-11);
        assert_close("q", solution.order.q, 1.0 + delta / excess, 1e-11);
        assert_close("v", solution.order.v, 1.0 / (2.0 * alpha - 2.0 / t2), 1e-11);
        assert_close("test", solution.errors.test, delta / (1.0 - 1.0 / (alpha * t2)), 1e-11);
        assert_close("train", solution.errors.train, delta * (1.0 - 1.0 / (alpha * t2)), 1e-11);
        assert_close("rank", solution.rank_fraction, 1.0, 1e-12);
    }
}

#[test]
fn thresholds_of_collapse() {
    let training = Training::without_ridge(0.3).unwrap();
    let options = Options::default();
    let threshold = |model: &Model| pretrain::lambda_collapse(model, &training, &options).unwrap();
    assert_close("linear", threshold(&linear(2, 0.5, WISHART)).value, 1.062_07, 5e-6);
    assert_close("softmax of two tokens", threshold(&softmax(2, 0.5, WISHART)).value, 0.408_174, 1e-5);
    let three = threshold(&softmax(3, 0.5, WISHART));
    // The reference is from one scramble of 2^14 nodes.
    assert!((three.value - 0.484_799).abs() < 5e-5 + 4.0 * three.std_error.unwrap(), "{three:?}");
    for (model, closeness) in [(linear(2, 0.5, WISHART), 1e-5), (softmax(2, 0.5, WISHART), 1e-3)] {
        let critical = threshold(&model).value;
        let [below, above] = [1.0 - closeness, 1.0 + closeness]
            .map(|factor| solved(&model, &Training::new(0.3, factor * critical).unwrap()));
        assert!(below.status == Status::Converged && below.order.q > 0.0, "{below:?}");
        assert!(above.status == Status::Collapsed && above.order.q <= 0.0, "{above:?}");
        assert_close("objective", below.objective, above.objective, 1e-4);
    }
}

#[test]
fn interpolation_counts_the_logits() {
    let threshold = |model: &Model| alpha_interp(model).unwrap().unwrap().value;
    assert_close("linear", threshold(&linear(2, 0.5, WISHART)), 0.25, 1e-15);
    assert_close("softmax", threshold(&softmax(3, 0.5, WISHART)), 1.0 / 6.0, 1e-15);
    assert_eq!(alpha_interp(&linear(2, 0.0, WISHART)).unwrap(), None);
    let model = linear(2, 0.5, WISHART);
    let error = pretrain::solve(&model, &Training::new(0.25, 0.0).unwrap(), &Options::default()).unwrap_err();
    assert!(matches!(error, Error::InvalidParameter { field: "pretrain.lambda", .. }), "{error}");
    // The train error vanishes below the threshold, and the test error is largest at it.
    let [below, at, above] =
        [0.9, 1.0, 1.1].map(|factor| solved(&model, &Training::new(0.25 * factor, 1e-5).unwrap()));
    assert!(below.errors.train < 1e-6 && above.errors.train > 0.04, "{below:?} {above:?}");
    assert!(at.errors.test > below.errors.test && at.errors.test > above.errors.test);
}

#[test]
fn perfect_recovery() {
    for (model, expected) in [
        (softmax(2, 0.0, WISHART), 0.375),
        (linear(3, 0.0, Teacher::Wishart { kappa0: 0.3 }), 0.51 / 9.0),
        (linear(2, 0.0, Teacher::Wishart { kappa0: 4.0 }), 0.25),
        // A singular value with a share p leaves p^2/2 of the orbit, and that of 0 leaves p^2.
        (linear(2, 0.0, listed(&[0.0, 0.0, 1.0, 1.0])), (1.0 - 0.25 - 0.125) / 4.0),
    ] {
        let options = Options::default().with_log2_nodes(10).unwrap();
        let threshold = alpha_perfect_recovery(&model).unwrap();
        assert_close("alpha_c", threshold, expected, 1e-14);
        let [below, above] =
            [1.0 - 1e-6, 1.0].map(|f| bayes_optimal(&model, f * threshold, &options).unwrap());
        assert_eq!((below.alpha_c, below.status), (Some(threshold), Status::Converged));
        assert!(below.order.q < below.q0 && below.order.q > below.q0 * (1.0 - 1e-4), "{below:?}");
        assert!(above.order.q_hat.is_infinite() && above.errors.test <= 1e-15, "{above:?}");
    }
}

/// The objective is the minimum over the weights, so that its derivative in the ridge is the norm that the ridge multiplies.
#[test]
fn the_objective_is_stationary() {
    for (model, alpha, lambda) in [
        (linear(2, 0.5, WISHART), 0.4, 0.1),
        (linear(2, 0.5, listed(&[1.6, 0.5, 0.0])), 0.4, 0.1),
        (softmax(2, 0.5, WISHART), 0.4, 0.1),
        (cross(ActivationName::SoftmaxOne, 2, 0.5, WISHART), 0.3, 0.1),
        (softmax(3, 0.5, WISHART), 0.4, 0.05),
    ] {
        let kappa: f64 = 1.4;
        let options = Options::default().with_log2_nodes(12).unwrap();
        let at = |lambda: f64| {
            let training = Training::new(alpha, lambda).unwrap().with_width(kappa).unwrap();
            pretrain::solve(&model, &training, &options).unwrap().into_converged().unwrap()
        };
        let step = 1e-3 * lambda;
        let slope = (at(lambda + step).objective - at(lambda - step).objective) / (2.0 * step);
        // Sampled divergences leave the envelope theorem true within the error of the average.
        let tolerance = if model.observed_coordinates() > 4.0 || model.activation().name() == "softmax_one" {
            1e-2
        } else {
            1e-5
        };
        assert_close("slope", slope, 2.0 * kappa.sqrt() * at(lambda).trace, tolerance);
    }
}

#[test]
fn learned_singular_values() {
    let model = linear(2, 0.1, listed(&[0.0, 0.0, 0.0, 4.0]));
    let training = Training::new(1.0, 0.5).unwrap();
    let solution = solved(&model, &training);
    let law = LearnedSpectrum::new(&model, &training, &solution).unwrap();
    assert!((law.atom() - 0.75).abs() < 1e-9, "{}", law.atom());
    assert!(law.components().len() == 1 && law.components()[0].outlier, "{:?}", law.components());
    for (model, alpha) in [(linear(2, 0.5, WISHART), 0.4), (linear(2, 0.5, listed(&[0.0, 0.3, 2.0])), 0.7)] {
        let training = Training::new(alpha, 0.05).unwrap();
        let solution = solved(&model, &training);
        let law = LearnedSpectrum::new(&model, &training, &solution).unwrap();
        let table = law.table(4000).unwrap();
        let trapezoid = |f: &dyn Fn(f64) -> f64| -> f64 {
            let points = table.eigenvalues.iter().zip(&table.density);
            let points: Vec<(f64, f64)> = points.map(|(s, p)| (*s, f(*s) * p)).collect();
            points.windows(2).map(|pair| 0.5 * (pair[1].0 - pair[0].0) * (pair[0].1 + pair[1].1)).sum()
        };
        assert_close("rank", trapezoid(&|_| 1.0), solution.rank_fraction, 1e-4);
        assert_close("trace", trapezoid(&|s| s), solution.trace, 1e-4);
        assert_close("q", trapezoid(&|s| s * s), solution.order.q, 1e-4);
        assert_close("median", law.distribution(law.quantile(0.7).unwrap()), 0.7, 1e-10);
    }
}

/// A list with the singular values of a product of Gaussian matrices, and a law from outside that has the transform only.
#[test]
fn teachers_of_your_own() {
    struct Plain(WishartProduct);
    impl lora_asymptotics::spectrum::TeacherSpectrum for Plain {
        fn mean(&self) -> f64 {
            self.0.mean()
        }
        fn second_moment(&self) -> f64 {
            self.0.second_moment()
        }
        fn orbit_dimension(&self) -> f64 {
            self.0.orbit_dimension()
        }
        fn support(&self, snr: f64) -> Vec<[f64; 2]> {
            self.0.support(snr)
        }
        fn stieltjes(&self, snr: f64, x: f64) -> [f64; 2] {
            self.0.stieltjes(snr, x)
        }
    }
    let own = Model::linear(2, 0.5).unwrap().with_attention(Attention::Cross).unwrap();
    let own = own.with_teacher_spectrum(Arc::new(Plain(WishartProduct::new(0.5).unwrap()))).unwrap();
    for (alpha, lambda) in [(0.4, 0.1), (0.2, 0.4), (1.0, 0.0)] {
        let training = Training::new(alpha, lambda).unwrap();
        let [one, other] = [&own, &linear(2, 0.5, WISHART)].map(|model| solved(model, &training));
        assert_close("q", one.order.q, other.order.q, 1e-9);
        assert_close("m", one.order.m, other.order.m, 1e-9);
        assert_close("objective", one.objective, other.objective, 1e-9);
    }
    // The law of positive eigenvalues is not that of singular values and their negatives.
    let tied =
        Model::linear(2, 0.5).unwrap().with_teacher_spectrum(Arc::new(Wishart::new(0.5).unwrap())).unwrap();
    let error = tied.with_attention(Attention::Cross).unwrap_err();
    assert!(matches!(error, Error::InvalidParameter { field: "model.teacher.mean", .. }), "{error}");
}

#[test]
fn lists_for_the_other_attention_are_refused() {
    let layer = || Model::linear(2, 0.5).unwrap();
    let cross = || layer().with_attention(Attention::Cross).unwrap();
    let eigenvalues = Teacher::Spectrum { eigenvalues: vec![0.0, 1.0] };
    for (refused, expected) in [
        (cross().with_teacher(eigenvalues.clone()), "model.teacher.spectrum.eigenvalues"),
        (layer().with_teacher(listed(&[0.0, 1.0])), "model.teacher.spectrum.singular_values"),
        (
            layer().with_teacher(eigenvalues).unwrap().with_attention(Attention::Cross),
            "model.teacher.spectrum.eigenvalues",
        ),
    ] {
        assert!(matches!(refused, Err(Error::Conflict { field, .. }) if field == expected), "{refused:?}");
    }
    for list in [&[][..], &[1.0, -1e-9], &[f64::NAN], &[0.0, 0.0], &[f64::INFINITY], &[1e60]] {
        let refused = cross().with_teacher(listed(list));
        let field = "model.teacher.spectrum.singular_values";
        assert!(
            matches!(&refused, Err(Error::InvalidParameter { field: f, .. }) if *f == field),
            "{refused:?}"
        );
    }
    assert!(Discrete::singular(&vec![1.0; 10_001]).is_err());
    let line = |attention: &str, spectrum: &str| {
        Scenario::from_json(&format!(
            r#"{{"model": {{"tokens": 2, "activation": "linear", "attention": "{attention}", "delta": 0.5, "teacher": {{"spectrum": {spectrum}}}}}, "pretrain": {{"alpha": 1.0, "lambda": 0.1}}}}"#
        ))
    };
    let both = r#"{"eigenvalues": [1.0], "singular_values": [1.0]}"#;
    for (attention, spectrum, kind) in [
        ("tied", r#"{"singular_values": [1.0]}"#, "conflict"),
        ("cross", r#"{"eigenvalues": [1.0]}"#, "conflict"),
        ("cross", both, "conflict"),
        ("cross", "{}", "missing_field"),
        ("cross", r#"{"singular_values": []}"#, "invalid_parameter"),
        ("self", r#"{"singular_values": [1.0]}"#, "syntax"),
    ] {
        assert_eq!(line(attention, spectrum).unwrap_err().kind(), kind, "{attention}, {spectrum}");
    }
    let scenario = line("cross", r#"{"singular_values": [0.5, 1.5]}"#).unwrap();
    let text = serde_json::to_string(&scenario).unwrap();
    assert_eq!(Scenario::from_json(&text).unwrap(), scenario, "{text}");
}

#[test]
fn frozen_weights_say_that_they_are_those_of_cross_attention() {
    let model = linear(2, 0.5, WISHART);
    let solution = solved(&model, &Training::new(0.4, 0.1).unwrap());
    let frozen = solution.freeze().unwrap();
    assert_eq!(frozen.attention(), Attention::Cross);
    assert_eq!(
        (frozen.q0(), frozen.q(), frozen.m(), frozen.v()),
        (1.0, solution.order.q, solution.order.m, Some(solution.order.v))
    );
    let text = serde_json::to_string(&frozen).unwrap();
    assert_eq!(serde_json::from_str::<Frozen>(&text).unwrap(), frozen, "{text}");
    let bound = bayes_optimal(&model, 0.4, &Options::default()).unwrap().freeze().unwrap();
    assert_eq!(bound.attention(), Attention::Cross);
    let tied = Model::linear(2, 0.5).unwrap();
    let training = lora::Training::fresh(3.0, 0.2).unwrap();
    for (model, frozen, expected) in [
        (&tied, frozen, "frozen.attention"),
        (&model, Frozen::new(1.0, 1.0, 1.0).unwrap(), "frozen.attention"),
    ] {
        for error in [
            lora::solve(model, &frozen, &training, &Options::default()).unwrap_err(),
            lora::bayes_optimal(model, &frozen, 3.0, 1.0, &Options::default()).unwrap_err(),
        ] {
            assert!(matches!(error, Error::InvalidParameter { field, .. } if field == expected), "{error}");
        }
    }
}

/// Softmax takes one row; the general kernel takes all of them.
#[test]
fn all_rows_are_as_one_row() {
    #[derive(Debug)]
    struct Softmax;
    impl lora_asymptotics::Activation for Softmax {
        fn name(&self) -> &str {
            "softmax from outside"
        }
        fn attention(&self, tokens: usize, logits: &[f64], attention: &mut [f64]) {
            ActivationName::Softmax.activation().attention(tokens, logits, attention);
        }
        fn derivative(
            &self,
            at: &lora_asymptotics::activation::Evaluated<'_>,
            direction: &[f64],
            image: &mut [f64],
        ) {
            ActivationName::Softmax.activation().derivative(at, direction, image);
        }
        fn unseen(&self) -> lora_asymptotics::activation::Unseen {
            lora_asymptotics::activation::Unseen::RowShifts
        }
        fn is_invertible(&self) -> bool {
            true
        }
    }
    let options = Options::default().with_log2_nodes(11).unwrap();
    let training = Training::new(0.4, 0.05).unwrap();
    let own = Model::with_activation(2, 0.5, Arc::new(Softmax)).unwrap();
    let own = own.with_attention(Attention::Cross).unwrap().with_teacher(WISHART).unwrap();
    let named = softmax(2, 0.5, WISHART);
    let [all, one] = [&own, &named]
        .map(|model| pretrain::solve(model, &training, &options).unwrap().into_converged().unwrap());
    for (what, x, y, error) in [
        ("q", all.order.q, one.order.q, all.std_error.q),
        ("m", all.order.m, one.order.m, all.std_error.m),
        ("v_hat", all.order.v_hat, one.order.v_hat, all.std_error.v_hat),
        ("objective", all.objective, one.objective, all.std_error.objective),
        ("test", all.errors.test, one.errors.test, all.std_error.test),
        ("clean", all.errors.test_clean, one.errors.test_clean, all.std_error.test_clean),
        ("replicon", all.validity.replicon.unwrap(), one.validity.replicon.unwrap(), all.std_error.replicon),
    ] {
        assert!((x - y).abs() < 5.0 * error.unwrap() + 1e-6, "{what}: {x} against {y} +- {error:?}");
    }
    let [all, one] = [&own, &named].map(|model| bayes_optimal(model, 1.0, &options).unwrap());
    assert!((all.errors.test - one.errors.test).abs() < 5.0 * all.std_error.test.unwrap() + 1e-6);
}

/// The network itself, trained at two sizes, against the prediction and against a wrong one.
#[test]
fn training_agrees_with_the_prediction() {
    for json in [
        r#"{"model": {"tokens": 2, "activation": "linear", "attention": "cross", "delta": 0.5, "teacher": {"wishart": {"kappa0": 0.5}}},
            "pretrain": {"alpha": 0.5, "lambda": 0.1}}"#,
        r#"{"model": {"tokens": 2, "activation": "softmax", "attention": "cross", "delta": 0.5, "teacher": {"spectrum": {"singular_values": [0.0, 0.5, 2.0]}}},
            "pretrain": {"alpha": 0.5, "lambda": 0.05}}"#,
    ] {
        let scenario = Scenario::from_json(json).unwrap();
        let sizes = vec![Size::new(12, 96), Size::new(24, 32)];
        let laboratory = Laboratory { sizes, seed: 1, test_sequences: 1024, ..Laboratory::default() };
        let experiment = Experiment::new(&scenario, &laboratory).unwrap();
        let measurements = experiment.run_all(Vec::new(), |_| std::ops::ControlFlow::Continue(())).unwrap();
        let comparison = experiment.compare(&measurements);
        assert_eq!(comparison.unconverged, 0, "{comparison}");
        assert!(comparison.rms_z() < 2.0 && comparison.worst_z() < 4.5, "{comparison}");
        let mut wrong = scenario.clone();
        let training = scenario.pretrain.unwrap();
        wrong.pretrain = Some(training.with_lambda(2.0 * training.lambda().unwrap()).unwrap());
        let wrong = experiment.compare_to(&wrong.solve().unwrap(), &measurements);
        assert!(
            wrong.rows.iter().filter(|row| row.z.abs() > 5.0).count() >= 4,
            "twice the ridge is not rejected:\n{wrong}"
        );
    }
}

fn teachers() -> impl Strategy<Value = Teacher> {
    prop_oneof![
        (-4.0..3.0).prop_map(|x: f64| Teacher::Wishart { kappa0: x.exp() }),
        prop::collection::vec(0.0..3.0, 1..8).prop_map(|mut singular_values| {
            singular_values.push(1.0);
            Teacher::SingularValues { singular_values }
        }),
        (0.0..3.0, 1_usize..30).prop_map(|(exponent, dimension)| Teacher::PowerLaw { exponent, dimension }),
    ]
}

proptest! {
    #![proptest_config(cases(200))]

    /// Linear attention over the whole domain: the overlaps are possible, and no estimator beats the bound.
    #[test]
    fn linear_solutions_are_possible_and_above_the_bound(
        tokens in 1_usize..6, delta in prop_oneof![1 => Just(0.0), 9 => (-6.0..4.0).prop_map(f64::exp)],
        alpha in (-5.0..4.0).prop_map(f64::exp), lambda in (-9.0..3.0).prop_map(f64::exp), teacher in teachers(),
    ) {
        let model = linear(tokens, delta, teacher);
        let training = Training::new(alpha, lambda).unwrap();
        let solution = solved(&model, &training);
        let q0 = solution.q0;
        let order = solution.order;
        prop_assert!(order.m * order.m <= order.q * q0 * (1.0 + 1e-9), "{solution:?}");
        prop_assert!((0.0..=1.0).contains(&solution.rank_fraction) && solution.errors.train >= 0.0);
        prop_assert!(solution.errors.train <= solution.errors.test);
        let bound = bayes_optimal(&model, alpha, &Options::default()).unwrap();
        prop_assert!(solution.errors.test >= bound.errors.test * (1.0 - 1e-9), "{solution:?} {bound:?}");
        // The state evolution itself, without the search.
        if solution.status == Status::Converged {
            let image = pretrain::linear_step(&model, &training, [order.q, order.m, order.v]).unwrap();
            prop_assert!((image[1] - order.m).abs() <= 1e-6 * order.m.max(order.q), "{image:?} {order:?}");
        }
    }
}
