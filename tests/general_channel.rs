//! The general proximal channel against the kernels that are special to softmax and to linear attention.
//!
//! A model that is made from the type `Softmax` or `Linear` goes through the general channel. In fine-tuning of softmax, both
//! kernels use the same nodes, so that they agree to rounding; elsewhere, they use different nodes and agree within the
//! standard errors.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;

use lora_asymptotics::activation::{Activation, Linear, Softmax};
use lora_asymptotics::lora::{self, Score, Selection, Sequences};
use lora_asymptotics::{Frozen, Model, Options, Teacher, Verdict, pretrain};

/// Observables by name, with their standard errors.
type Observables = Vec<(&'static str, f64, Option<f64>)>;

fn options(log2_nodes: usize) -> Options {
    Options::default().with_log2_nodes(log2_nodes).unwrap().with_scrambles(8).unwrap()
}

/// The same layer through the general channel.
fn general(model: &Model, activation: Arc<dyn Activation>) -> Model {
    let mut general = Model::with_activation(model.tokens(), model.delta(), activation).unwrap();
    if general.activation().has_inverse_temperature() {
        general = general.with_inverse_temperature(model.inverse_temperature()).unwrap();
    }
    match model.teacher() {
        Some(teacher) => general.with_teacher(teacher.clone()).unwrap(),
        None => general,
    }
}

fn finetuned(model: &Model, frozen: &Frozen, training: &lora::Training, options: &Options) -> Observables {
    let solution = lora::solve(model, frozen, training, options).unwrap();
    assert!(solution.status.is_success(), "{}", solution.status);
    assert!(solution.validity.verdict != Verdict::Unreliable, "{:?}", solution.validity);
    let lora::Solution { order, errors, .. } = &solution;
    let error = &solution.std_error;
    vec![
        ("q", order.q, error.q),
        ("m", order.m, error.m),
        ("v", order.v, error.v),
        ("eta", order.eta, error.eta),
        ("objective", solution.objective, error.objective),
        ("test", errors.test, error.test),
        ("test_clean", errors.test_clean, error.test_clean),
        ("train", errors.train, error.train),
        ("frozen", errors.frozen, error.frozen),
        ("forgetting", errors.forgetting, error.forgetting),
        ("replicon", solution.validity.replicon, error.replicon),
    ]
}

fn pretrained(model: &Model, training: &pretrain::Training, options: &Options) -> Observables {
    let solution = pretrain::solve(model, training, options).unwrap();
    assert!(solution.status.is_success(), "{}", solution.status);
    let (order, errors, error) = (solution.order, solution.errors, &solution.std_error);
    vec![
        ("q", order.q, error.q),
        ("m", order.m, error.m),
        ("v", order.v, error.v),
        ("trace", solution.trace, error.trace),
        ("objective", solution.objective, error.objective),
        ("test", errors.test, error.test),
        ("test_clean", errors.test_clean, error.test_clean),
        ("train", errors.train, error.train),
    ]
}

fn assert_compatible(name: &str, special: &Observables, general: &Observables) {
    for ((observable, special, own), (_, general, other)) in special.iter().zip(general) {
        let error = own.unwrap_or(0.0).hypot(other.unwrap_or(0.0));
        // Standard errors from eight scrambles scatter by a quarter.
        let tolerance = 5.0 * error + 1e-9;
        assert!(
            (special - general).abs() <= tolerance,
            "{name}: {observable} {special} and {general} +- {error}"
        );
    }
}

#[test]
fn softmax_fine_tuning_is_compatible_through_the_general_channel() {
    let frozen = Frozen::new(2.0, 1.2, 1.1).unwrap();
    let trained = frozen.with_response(0.9).unwrap();
    let fresh = |alpha, lambda| lora::Training::fresh(alpha, lambda).unwrap();
    let active = |score| Sequences::Active(Selection::new(0.3, score).unwrap());
    let cases = [
        (2, 1.0, frozen, fresh(10.0, 0.5)),
        (2, 1.0, frozen, fresh(10.0, 0.5).recalibrated(0.7).unwrap()),
        (2, 1.3, frozen, fresh(10.0, 0.5)),
        (2, 1.0, frozen, fresh(10.0, 0.5).with_variance(1.2).unwrap()),
        (2, 1.0, trained, fresh(10.0, 0.5).reused()),
        (2, 1.0, frozen, fresh(10.0, 0.5).on(active(Score::Frobenius))),
        (3, 1.0, frozen, fresh(4.0, 0.5)),
        (3, 0.8, frozen, fresh(4.0, 0.5).on(active(Score::Centred))),
        (3, 1.0, trained, fresh(4.0, 0.5).reused()),
        (4, 1.0, frozen, fresh(4.0, 0.5)),
    ];
    for (number, (tokens, temperature, frozen, training)) in cases.iter().enumerate() {
        let model = Model::softmax(*tokens, 0.5).unwrap().with_inverse_temperature(*temperature).unwrap();
        let options = options(11);
        // The nodes of the two kernels are different. A unit test compares their averages on the same nodes.
        let special = finetuned(&model, frozen, training, &options);
        let general = finetuned(&general(&model, Arc::new(Softmax)), frozen, training, &options);
        assert_compatible(&format!("case {number}"), &special, &general);
    }
}

#[test]
fn softmax_pre_training_is_compatible_through_the_general_channel() {
    for (tokens, temperature, alpha, lambda) in
        [(2, 1.0, 0.2, 0.05), (2, 1.8, 0.3, 0.05), (3, 1.0, 0.1, 0.1), (4, 1.0, 0.1, 0.1)]
    {
        let model = Model::softmax(tokens, 0.5)
            .and_then(|model| model.with_inverse_temperature(temperature))
            .and_then(|model| model.with_teacher(Teacher::Wishart { kappa0: 0.5 }))
            .unwrap();
        let training = pretrain::Training::new(alpha, lambda).unwrap();
        // The special kernel takes its samples from one domain of the symmetries of softmax, so that the nodes differ.
        let options = options(11);
        let special = pretrained(&model, &training, &options);
        let general = general(&model, Arc::new(Softmax));
        assert_compatible(&format!("T = {tokens}"), &special, &pretrained(&general, &training, &options));
        let [special, general] = [model, general].map(|model| {
            let threshold = pretrain::lambda_collapse(&model, &training, &options).unwrap();
            let bound = pretrain::bayes_optimal(&model, alpha, &options).unwrap();
            (threshold, bound)
        });
        let error = special.0.std_error.unwrap().hypot(general.0.std_error.unwrap());
        assert!(
            (special.0.value - general.0.value).abs() < 5.0 * error,
            "{:?} and {:?}",
            special.0,
            general.0
        );
        // The special kernel draws single rows for the bound, so that the nodes differ.
        let error = special.1.std_error.test.unwrap_or(0.0).hypot(general.1.std_error.test.unwrap());
        assert!((special.1.errors.test - general.1.errors.test).abs() < 6.0 * error);
        assert!((special.1.order.q - general.1.order.q).abs() < 1e-12);
    }
}

#[test]
fn linear_attention_is_compatible_through_the_general_channel() {
    let frozen = Frozen::new(1.5, 1.3, 1.25).unwrap();
    let trained = frozen.with_response(0.9).unwrap();
    let cases = [
        (2, frozen, lora::Training::fresh(6.0, 0.3).unwrap()),
        (2, trained, lora::Training::fresh(6.0, 0.3).unwrap().reused()),
        (3, frozen, lora::Training::fresh(3.0, 0.2).unwrap().recalibrated(0.9).unwrap()),
    ];
    for (tokens, frozen, training) in cases {
        let model = Model::linear(tokens, 0.5).unwrap();
        let options = options(10);
        let special = finetuned(&model, &frozen, &training, &options);
        let through = finetuned(&general(&model, Arc::new(Linear)), &frozen, &training, &options);
        // The two kernels measure the jumps in different ways, and the replicon with them.
        assert_compatible(&format!("T = {tokens}"), &special[..9].to_vec(), &through[..9].to_vec());
    }
    for (tokens, alpha, lambda) in [(1, 0.6, 0.1), (2, 0.2, 0.1), (3, 0.1, 0.1)] {
        let model =
            Model::linear(tokens, 0.5).unwrap().with_teacher(Teacher::Wishart { kappa0: 0.5 }).unwrap();
        let training = pretrain::Training::new(alpha, lambda).unwrap();
        let options = options(10);
        // The closed form of direct training and the search for its fixed point have nothing in common but the output channel.
        for training in [training, training.direct()] {
            // The averages of direct training are exact on any nodes, so that there is no noise to which a tolerance could be matched.
            let options = options.with_tolerance(1e-11).unwrap();
            let special = pretrained(&model, &training, &options);
            let through = pretrained(&general(&model, Arc::new(Linear)), &training, &options);
            assert_compatible(&format!("T = {tokens}, {training:?}"), &special, &through);
        }
    }
}
