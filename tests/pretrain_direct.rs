//! Direct training of the weights themselves: closed forms, limits, the threshold of interpolation, what is refused, and networks trained at finite
//! size.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::ops::ControlFlow;

use common::assert_close;
use lora_asymptotics::fixed_point::Status;
use lora_asymptotics::pretrain::{self, LearnedSpectrum, Parametrisation, Solution, Training};
use lora_asymptotics::simulate::{Comparison, Experiment, Laboratory, Size, Stage, odd_differences};
use lora_asymptotics::{Attention, Error, Model, Options, Scenario, Teacher, lora};

fn wishart(model: Model) -> Model {
    model.with_teacher(Teacher::Wishart { kappa0: 0.5 }).unwrap()
}

fn direct(alpha: f64, lambda: f64) -> Training {
    Training::new(alpha, lambda).unwrap().direct()
}

fn solve(model: &Model, training: &Training) -> Solution {
    pretrain::solve(model, training, &Options::default()).unwrap().into_converged().unwrap()
}

/// Every kind of linear layer, with `c` and `K`.
fn layers() -> impl Iterator<Item = (Model, f64, f64)> {
    [(1, Attention::Tied), (2, Attention::Tied), (3, Attention::Tied), (2, Attention::Cross)].into_iter().map(
        |(tokens, attention)| {
            let model = wishart(Model::linear(tokens, 0.3).unwrap().with_attention(attention).unwrap());
            let (c, k) = (attention.logit_variance(), attention.coordinates(tokens) as f64);
            (model, c, k)
        },
    )
}

#[test]
fn linear_attention_is_a_fixed_point_of_its_equations() {
    for (model, c, _) in layers() {
        for (alpha, lambda) in [(0.05, 0.1), (0.3, 1e-6), (0.7, 2.0), (3.0, 0.02), (0.2, 1e3)] {
            let training = direct(alpha, lambda);
            let solution = solve(&model, &training);
            let pretrain::Order { q, m, v, q_hat, m_hat, v_hat, .. } = solution.order;
            let image = pretrain::linear_step(&model, &training, [q, m, v]).unwrap();
            for (image, x) in image.into_iter().zip([q, m, v]) {
                assert_close("image", image, x, 1e-9);
            }
            let r = v_hat + 2.0 * c * lambda;
            assert_close("V", v, 1.0 / r, 1e-12);
            assert_close("M", m, m_hat * solution.q0 / r, 1e-12);
            assert_close("Q", q, (m_hat * m_hat * solution.q0 + q_hat) / (r * r), 1e-12);
            let objective = alpha * solution.errors.train + lambda * q;
            assert_close("objective", solution.objective, objective, 1e-12);
            assert_close("rank", solution.rank_fraction, 1.0, 0.0);
        }
    }
}

/// `tr s-hat` of eigenvalues of both signs, which for tied attention is `M` times the mean over the second moment of the truth.
#[test]
fn the_trace_is_learned_with_the_truth() {
    let model = wishart(Model::linear(2, 0.3).unwrap());
    let solution = solve(&model, &direct(0.2, 0.1));
    assert_close("trace", solution.trace, solution.order.m * 0.5_f64.sqrt() / 1.5, 1e-12);
    // The nuclear norm of a matrix is at least its Frobenius norm over the root of its rank, and at most the Frobenius norm itself.
    let cross = wishart(Model::linear(2, 0.3).unwrap().with_attention(Attention::Cross).unwrap());
    let solution = solve(&cross, &direct(0.3, 0.1));
    assert!(solution.trace < solution.order.q.sqrt() && solution.trace > 0.7 * solution.order.q.sqrt());
}

#[test]
fn without_a_ridge_it_is_least_squares() {
    for (model, c, k) in layers() {
        let threshold = pretrain::alpha_interp_of(&model, Parametrisation::Direct).unwrap().unwrap();
        assert_close("threshold", threshold.value, 1.0 / (c * k), 1e-14);
        for excess in [1.02, 2.0, 30.0] {
            let alpha = excess * threshold.value;
            let solution = solve(&model, &direct(alpha, 0.0));
            // There are `excess` equations for every unknown.
            let error = 0.3 / c / (1.0 - 1.0 / excess);
            assert_close("M", solution.order.m, solution.q0, 1e-12);
            assert_close("Q", solution.order.q, solution.q0 + error / excess, 1e-12);
            assert_close("noise", solution.errors.test_clean / solution.errors.test, 1.0 / excess, 1e-12);
            let limit = solve(&model, &direct(alpha, 1e-12));
            assert_close("limit", limit.errors.test, solution.errors.test, 1e-5);
        }
        let refused = pretrain::solve(&model, &direct(0.9 * threshold.value, 0.0), &Options::default());
        assert!(
            matches!(refused, Err(Error::InvalidParameter { field: "pretrain.lambda", .. })),
            "{refused:?}"
        );
        // Next to the threshold, rounding decides on which side the number of equations is: it is refused, or solved in finite numbers.
        let mut alpha = threshold.value;
        let mut refused = Vec::new();
        for _ in 0..20 {
            match pretrain::solve(&model, &direct(alpha, 0.0), &Options::default()) {
                Ok(solution) => assert!(solution.status != Status::NonFinite && solution.order.q > 1e10),
                Err(Error::InvalidParameter { field: "pretrain.lambda", .. }) => refused.push(alpha),
                Err(other) => panic!("{other}"),
            }
            alpha = alpha.next_up();
        }
        assert!((4..12).contains(&refused.len()), "{refused:?}");
        // The labels are interpolated below the threshold, and the error diverges next to it.
        let below = solve(&model, &direct(0.9 * threshold.value, 1e-7));
        assert!(below.errors.train < 1e-8);
        let [far, near] =
            [0.5, 0.999].map(|share| solve(&model, &direct(share * threshold.value, 1e-7)).errors.test);
        assert!(near > 20.0 * far, "{near} and {far}");
    }
}

/// Positivity and the nuclear norm need fewer labels: `alpha_interp` is lower, because fewer matrices interpolate.
#[test]
fn softmax_interpolates_up_to_the_counted_threshold() {
    let model = wishart(Model::softmax(2, 0.5).unwrap());
    let threshold = pretrain::alpha_interp_of(&model, Parametrisation::Direct).unwrap().unwrap().value;
    assert_close("threshold", threshold, 0.25, 1e-14);
    assert!(pretrain::alpha_interp(&model).unwrap().unwrap().value < threshold);
    let options = Options::default().with_log2_nodes(10).unwrap();
    let train = |alpha: f64, lambda: f64| {
        let solution = pretrain::solve(&model, &direct(alpha, lambda), &options).unwrap();
        assert_eq!(solution.status, Status::Converged, "{alpha}, {lambda}: {solution:?}");
        solution.errors.train
    };
    // Below the threshold the train error vanishes like the square of the ridge, above it does not.
    let (strong, weak) = (train(0.15, 1e-3), train(0.15, 1e-4));
    assert!(weak < 0.1 * strong, "{weak} and {strong}");
    let (strong, weak) = (train(0.6, 4e-3), train(0.6, 1e-3));
    assert!(weak > 0.7 * strong, "{weak} and {strong}");
    assert!(train(0.6, 0.0) < weak);
}

/// The derivative of the train objective by the ridge is `Q`.
#[test]
fn the_objective_is_an_envelope() {
    let options = Options::default().with_log2_nodes(10).unwrap().with_tolerance(1e-9).unwrap();
    for (model, step) in [
        (wishart(Model::linear(3, 0.5).unwrap()), 1e-4),
        (wishart(Model::softmax(3, 0.5).unwrap()), 2e-3),
        (wishart(Model::softmax(2, 0.5).unwrap().with_attention(Attention::Cross).unwrap()), 2e-3),
    ] {
        let at = |lambda: f64| {
            pretrain::solve(&model, &direct(0.3, lambda), &options).unwrap().into_converged().unwrap()
        };
        let [below, here, above] = [0.02 - step, 0.02, 0.02 + step].map(at);
        let slope = (above.objective - below.objective) / (2.0 * step);
        assert_close("slope", slope, here.order.q, 1e-2);
    }
}

/// The ridge of a Gaussian prior with the second moment of the truth, `Delta/(2 T^2 Q0)`, is the best one at every amount of data.
#[test]
fn the_best_ridge_of_linear_attention_does_not_depend_on_the_data() {
    for (tokens, delta) in [(2, 0.5), (3, 2.0)] {
        let model = wishart(Model::linear(tokens, delta).unwrap());
        let best = delta / (2.0 * (tokens * tokens) as f64 * 1.5);
        for alpha in [0.02, 0.1, 0.5, 4.0] {
            let test = |lambda: f64| solve(&model, &direct(alpha, lambda)).errors.test;
            let here = test(best);
            assert!(here < test(1.02 * best) && here < test(best / 1.02), "{tokens}, {delta}, {alpha}");
        }
    }
}

/// At a large ridge the weights are small, but do not vanish.
#[test]
fn there_is_no_collapse() {
    let options = Options::default().with_log2_nodes(10).unwrap();
    for model in [wishart(Model::linear(2, 0.5).unwrap()), wishart(Model::softmax(2, 0.5).unwrap())] {
        for lambda in [1.0, 30.0] {
            let solution = pretrain::solve(&model, &direct(0.2, lambda), &options).unwrap();
            assert_eq!(solution.status, Status::Converged, "{solution:?}");
            assert!(solution.order.m > 0.0 && solution.alignment > 0.1);
            assert_close("V", solution.order.v, 1.0 / (solution.order.v_hat + 4.0 * lambda), 1e-6);
        }
        let error = pretrain::lambda_collapse(&model, &direct(0.2, 0.1), &options).unwrap_err();
        assert!(matches!(error, Error::Conflict { .. }), "{error}");
    }
}

#[test]
fn what_has_no_meaning_is_refused() {
    let training = direct(0.2, 0.1);
    assert!(matches!(training.with_width(1.0), Err(Error::Conflict { field: "pretrain.kappa", .. })));
    assert_eq!(Training::new(0.2, 0.1).unwrap().with_width(0.5).unwrap().direct(), training);
    let model = wishart(Model::linear(2, 0.5).unwrap());
    let law = LearnedSpectrum::new(&model, &training, &solve(&model, &training));
    assert!(matches!(law.err(), Some(Error::Conflict { .. })));

    let scenario = |pretrain: &str, estimator: &str| {
        Scenario::from_json(&format!(
            r#"{{"model": {{"tokens": 2, "activation": "linear", "delta": 0.5, "teacher": {{"wishart": {{"kappa0": 0.5}}}}}},
                "pretrain": {{"alpha": 0.2, "parametrisation": "direct"{pretrain}}}, "estimator": "{estimator}"}}"#
        ))
    };
    let field = |error: Error| match error {
        Error::Conflict { field, .. } => field,
        other => panic!("{other}"),
    };
    assert_eq!(field(scenario(r#", "lambda": 0.1, "kappa": 1.0"#, "erm").unwrap_err()), "pretrain.kappa");
    let bound = scenario("", "bayes_optimal").unwrap();
    assert_eq!(field(bound.validate().unwrap_err()), "pretrain.parametrisation = direct");
    // The bound may stand beside direct training.
    let both = scenario(r#", "lambda": 0.1"#, "both").unwrap();
    let outcome = both.solve().unwrap();
    let (trained, bound) = (outcome.pretrain.unwrap(), outcome.bayes_optimal.unwrap().pretrain.unwrap());
    assert!(bound.errors.test < trained.errors.test);
    let text = serde_json::to_string(&both).unwrap();
    assert!(text.contains(r#""parametrisation":"direct""#) && !text.contains("kappa\""), "{text}");
    assert_eq!(Scenario::from_json(&text).unwrap(), both);
    let cross = Scenario {
        model: both.model.clone().with_attention(Attention::Cross).unwrap(),
        estimator: Default::default(),
        ..both.clone()
    };
    let refused = Experiment::new(&cross, &Laboratory::default()).unwrap_err();
    assert_eq!(field(refused), "pretrain.parametrisation = direct");
    let tuned =
        Scenario { model: both.model.clone(), lora: Some(lora::Training::fresh(3.0, 0.5).unwrap()), ..cross };
    let refused = odd_differences(&tuned, &Laboratory::default()).unwrap_err();
    assert_eq!(field(refused), "pretrain.parametrisation = direct");
}

/// Compares a scenario with trained networks, and asserts that the prediction of factorised training is rejected.
fn agrees(json: &str, sizes: &[(usize, usize)], worst: f64) -> Comparison {
    let scenario = Scenario::from_json(json).unwrap();
    let sizes = sizes.iter().map(|(dimension, instances)| Size::new(*dimension, *instances)).collect();
    let laboratory = Laboratory { sizes, seed: 2, random_starts: 0, ..Laboratory::default() };
    let experiment = Experiment::new(&scenario, &laboratory).unwrap();
    let measurements = experiment.run_all(Vec::new(), |_| ControlFlow::Continue(())).unwrap();
    let comparison = experiment.compare(&measurements);
    println!("{comparison}");
    assert_eq!(comparison.unconverged, 0);
    // All eigenvalues differ from 0, and their measured fraction does not scatter.
    assert_close("rank", comparison.row(Stage::Pretrain, "rank_fraction").unwrap().simulation.mean, 1.0, 0.0);
    assert!(comparison.worst_z() < worst, "{comparison}");
    let mut wrong = scenario;
    wrong.pretrain = wrong.pretrain.map(|one| Training::new(one.alpha(), one.lambda().unwrap()).unwrap());
    let wrong = experiment.compare_to(&wrong.solve().unwrap(), &measurements);
    assert!(wrong.worst_z() > 10.0, "{wrong}");
    comparison
}

#[test]
fn linear_attention_agrees_with_least_squares() {
    agrees(
        r#"{"model": {"tokens": 2, "activation": "linear", "delta": 0.5, "teacher": {"wishart": {"kappa0": 0.5}}},
            "pretrain": {"alpha": 0.2, "lambda": 0.05, "parametrisation": "direct"}}"#,
        &[(40, 16), (80, 16)],
        3.0,
    );
}

#[test]
fn softmax_attention_agrees_with_training() {
    agrees(
        r#"{"model": {"tokens": 2, "activation": "softmax", "delta": 0.5, "teacher": {"wishart": {"kappa0": 0.5}}},
            "pretrain": {"alpha": 0.4, "lambda": 0.02, "parametrisation": "direct"}}"#,
        &[(20, 24), (40, 16)],
        4.0,
    );
}

/// Fine-tuning takes from direct training what it takes from any other: `Q0`, `Q`, `M`, the response `V`, and the moments for the term of order
/// `D^{-1/2}`, which is known in the extrapolation.
#[test]
fn fine_tuning_on_reused_sequences_agrees_with_training() {
    let comparison = agrees(
        r#"{"model": {"tokens": 2, "activation": "linear", "delta": 0.5, "teacher": {"wishart": {"kappa0": 0.5}}},
            "pretrain": {"alpha": 0.4, "lambda": 0.05, "parametrisation": "direct"},
            "lora": {"alpha": 5.0, "lambda": 0.3, "sequences": "reused"}}"#,
        &[(20, 32), (40, 24), (60, 16)],
        4.0,
    );
    assert!(comparison.row(Stage::Lora, "q").unwrap().extrapolation.known_root);
}
