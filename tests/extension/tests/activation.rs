//! Activations of the user's own: checked against themselves, solved in both stages, and compared with trained networks.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::ops::ControlFlow;
use std::sync::Arc;

use extension::activations::{Cosine, ExactHardThreshold, HardThreshold, Square};
use lora_asymptotics::activation::{Activation, check};
use lora_asymptotics::simulate::{Experiment, Laboratory, Size};
use lora_asymptotics::{
    Error, Estimator, Frozen, Model, Options, Scenario, Status, Teacher, Verdict, lora, pretrain,
};

/// Number of standard errors by which a right prediction may be off.
const THRESHOLD: f64 = 4.0;

const HARD: HardThreshold = HardThreshold { threshold: 0.5, width: 1.0 };

fn layer(activation: impl Activation + 'static) -> Model {
    Model::with_activation(2, 0.5, Arc::new(activation)).unwrap()
}

fn taught(activation: impl Activation + 'static) -> Model {
    layer(activation).with_teacher(Teacher::Wishart { kappa0: 0.5 }).unwrap()
}

fn frozen() -> Frozen {
    Frozen::new(2.0, 1.2, 1.1).unwrap()
}

fn options() -> Options {
    Options::default().with_tolerance(1e-6).unwrap().with_log2_nodes(12).unwrap()
}

/// Fine-tuning on frozen logits that are drawn.
fn finetuning(model: Model, lambda: f64) -> Scenario {
    Scenario {
        model,
        pretrain: None,
        frozen: Some(frozen()),
        lora: Some(lora::Training::fresh(8.0, lambda).unwrap()),
        estimator: Estimator::Erm,
        options: options(),
    }
}

fn pretraining(model: Model, lambda: f64) -> Scenario {
    Scenario {
        model,
        pretrain: Some(pretrain::Training::new(0.25, lambda).unwrap()),
        frozen: None,
        lora: None,
        estimator: Estimator::Erm,
        options: options(),
    }
}

/// Trains networks, and asserts that their prediction agrees with the measurements, and that the prediction of the wrong
/// scenario does not.
fn compare(scenario: &Scenario, wrong: &Scenario, sizes: Vec<Size>, order: usize) {
    let laboratory =
        Laboratory { sizes, seed: 5, random_starts: 0, order: Some(order), ..Laboratory::default() };
    let experiment = Experiment::new(scenario, &laboratory).unwrap();
    let verdicts = [
        experiment.outcome().pretrain.as_ref().map(|stage| stage.validity.verdict),
        experiment.outcome().lora.as_ref().map(|stage| stage.validity.verdict),
    ];
    assert!(verdicts.into_iter().flatten().all(|verdict| verdict == Verdict::Good), "{verdicts:?}");
    let measurements = experiment.run_all(Vec::new(), |_| ControlFlow::Continue(())).unwrap();
    let right = experiment.compare(&measurements);
    println!("{right}");
    assert_eq!(right.unconverged, 0, "{right}");
    assert!(!right.rows.is_empty() && right.worst_z() < THRESHOLD, "{right}");
    let wrong = experiment.compare_to(&wrong.solve().unwrap(), &measurements);
    assert!(wrong.worst_z() > THRESHOLD, "not rejected:\n{wrong}");
}

#[test]
fn activations_agree_with_themselves() {
    for tokens in [1, 2, 3, 5] {
        check(&HARD, tokens).unwrap();
        check(&ExactHardThreshold(HARD), tokens).unwrap();
        check(&Cosine, tokens).unwrap();
        check(&Square, tokens).unwrap();
    }
}

/// Both find the same minima, by different steps. What remains between the two is the tolerance of the solves, and the
/// finite differences of the curvature.
#[test]
fn derivatives_by_differences_and_exact_ones_give_the_same_solutions() {
    let close = |pairs: &[(f64, f64)]| {
        for (i, (x, y)) in pairs.iter().enumerate() {
            println!("{x:.12} {y:.12}");
            assert!((x - y).abs() < 1e-5 * y.abs(), "number {i}: {x} and {y}");
        }
    };
    let tune = |model: Model| {
        lora::solve(&model, &frozen(), &lora::Training::fresh(8.0, 0.1).unwrap(), &options()).unwrap()
    };
    let (a, b) = (tune(layer(HARD)), tune(layer(ExactHardThreshold(HARD))));
    assert_eq!((a.status, b.status), (Status::Converged, Status::Converged));
    close(&[
        (a.order.q, b.order.q),
        (a.order.m, b.order.m),
        (a.order.v, b.order.v),
        (a.objective, b.objective),
        (a.errors.test, b.errors.test),
        (a.validity.replicon, b.validity.replicon),
    ]);
    let train = |model: Model| {
        pretrain::solve(&model, &pretrain::Training::new(0.25, 0.1).unwrap(), &options()).unwrap()
    };
    let (a, b) = (train(taught(HARD)), train(taught(ExactHardThreshold(HARD))));
    assert_eq!((a.status, b.status), (Status::Converged, Status::Converged));
    close(&[
        (a.order.q, b.order.q),
        (a.order.m, b.order.m),
        (a.order.v, b.order.v),
        (a.objective, b.objective),
        (a.errors.test, b.errors.test),
        (a.validity.replicon.unwrap(), b.validity.replicon.unwrap()),
    ]);
}

#[test]
fn finetuned_networks() {
    let sizes = || vec![Size::new(300, 16)];
    compare(&finetuning(layer(HARD), 0.1), &finetuning(layer(HARD), 0.5), sizes(), 0);
    compare(&finetuning(layer(Cosine), 0.1), &finetuning(layer(Cosine), 0.5), sizes(), 0);
}

#[test]
fn pretrained_networks() {
    // The corrections of an odd activation are integer powers of 1/D, so that two sizes are enough.
    let sizes = vec![Size::new(20, 96), Size::new(40, 48)];
    compare(&pretraining(taught(Cosine), 0.1), &pretraining(taught(Cosine), 0.2), sizes, 1);
}

#[test]
fn a_model_with_an_own_activation_is_not_written() {
    let model = layer(HARD);
    assert!(model.activation_name().is_none());
    let refused = serde_json::to_string(&model).unwrap_err().to_string();
    assert!(refused.contains("activation") && refused.contains("hard_threshold"), "{refused}");
    let refused = serde_json::to_string(&finetuning(model, 0.1)).unwrap_err().to_string();
    assert!(refused.contains("hard_threshold"), "{refused}");
}

/// Asserts that an error refuses the activation of this name.
fn assert_refused(error: &Error, name: &str) {
    assert!(matches!(error, Error::InvalidParameter { field: "model.activation", .. }), "{error}");
    assert!(error.to_string().contains(name), "{error}");
}

#[test]
fn bounds_exist_for_invertible_activations_alone() {
    let model = taught(HARD);
    assert_refused(
        &lora::bayes_optimal(&model, &frozen(), 8.0, 1.0, &options()).unwrap_err(),
        "hard_threshold",
    );
    assert_refused(&pretrain::bayes_optimal(&model, 0.25, &options()).unwrap_err(), "hard_threshold");

    let model = taught(Cosine);
    let training = lora::Training::fresh(8.0, 0.1).unwrap();
    let tuned = lora::solve(&model, &frozen(), &training, &options()).unwrap().into_converged().unwrap();
    let bound = lora::bayes_optimal(&model, &frozen(), 8.0, training.q0(), &options()).unwrap();
    println!("fine-tuning: {} below {}", tuned.alignment, bound.alignment);
    assert!(bound.status.is_success() && tuned.alignment > 0.5 && bound.alignment > tuned.alignment);
    assert!(bound.errors.test < tuned.errors.test);
    let training = pretrain::Training::new(0.25, 0.05).unwrap();
    let trained = pretrain::solve(&model, &training, &options()).unwrap().into_converged().unwrap();
    let bound = pretrain::bayes_optimal(&model, 0.25, &options()).unwrap().into_converged().unwrap();
    println!("pre-training: {} below {}", trained.alignment, bound.alignment);
    assert!(trained.alignment > 0.5 && bound.alignment > trained.alignment);
    assert!(bound.errors.test < trained.errors.test);
}

#[test]
fn an_even_activation_is_fine_tuned_but_not_pretrained() {
    let model = taught(Square);
    let training = pretrain::Training::new(0.25, 0.05).unwrap();
    assert_refused(&pretrain::solve(&model, &training, &options()).unwrap_err(), "square");
    let training = lora::Training::fresh(8.0, 0.3).unwrap();
    let tuned = lora::solve(&model, &frozen(), &training, &options()).unwrap();
    assert!(tuned.status.is_success() && tuned.alignment > 0.5, "{:?}, {}", tuned.status, tuned.alignment);
}
