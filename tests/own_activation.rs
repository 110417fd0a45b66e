//! Activations from outside of the library, at the edges of what they may tell of themselves.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use lora_asymptotics::activation::{Activation, Evaluated, Linear, Parity, Sigmoid, Softmax, SoftmaxOne};
use lora_asymptotics::{Error, Frozen, Model, Options, Status, Teacher, lora, pretrain};

/// `sigma(h)_ab = exp(-h_ab^2/2)`, which is even and does not tell the sign of a logit.
#[derive(Debug)]
struct Bump;

impl Activation for Bump {
    fn name(&self) -> &str {
        "bump"
    }

    fn attention(&self, _tokens: usize, logits: &[f64], attention: &mut [f64]) {
        for (a, h) in attention.iter_mut().zip(logits) {
            *a = (-0.5 * h * h).exp();
        }
    }

    fn derivative(&self, at: &Evaluated<'_>, direction: &[f64], image: &mut [f64]) {
        for (((image, h), a), d) in image.iter_mut().zip(at.logits).zip(at.attention).zip(direction) {
            *image = -h * a * d;
        }
    }

    fn parity(&self) -> Parity {
        Parity::Even
    }
}

fn model(activation: Arc<dyn Activation>) -> Model {
    let model = Model::with_activation(2, 0.5, activation).unwrap();
    model.with_teacher(Teacher::Wishart { kappa0: 0.5 }).unwrap()
}

fn options() -> Options {
    Options::default().with_log2_nodes(7).unwrap().with_scrambles(2).unwrap()
}

#[test]
fn an_empty_batch_of_no_tokens_is_no_panic() {
    let none = Evaluated { tokens: 0, logits: &[], attention: &[] };
    for activation in [&Softmax as &dyn Activation, &SoftmaxOne, &Sigmoid::default(), &Linear] {
        let mut image = [];
        activation.attention(0, &[], &mut image);
        activation.derivative(&none, &[], &mut image);
        activation.adjoint(&none, &[], &mut image);
        assert!(activation.second_derivative(&none, &[], &[], &mut image));
    }
}

#[test]
fn thresholds_of_a_gaussian_channel_need_an_invertible_activation() {
    let model = model(Arc::new(Bump));
    let refused = [pretrain::alpha_interp(&model).err(), pretrain::alpha_perfect_recovery(&model).err()];
    for error in refused {
        assert!(
            matches!(error, Some(Error::InvalidParameter { field: "model.activation", .. })),
            "{error:?}"
        );
    }
}

#[test]
fn a_bound_without_numbers_is_not_converged() {
    let model = model(Arc::new(Sigmoid::with_bias(f64::NAN)));
    let bound = pretrain::bayes_optimal(&model, 0.3, &options()).unwrap();
    assert!(bound.errors.test.is_nan());
    assert_eq!(bound.status, Status::NonFinite);
}

/// Without frozen logits, zero weights are a stationary point of an even activation at any ridge.
#[test]
fn zero_weights_of_an_even_activation_are_no_proof_of_a_collapse() {
    let model = model(Arc::new(Bump));
    let training = lora::Training::fresh(6.0, 0.05).unwrap();
    let frozen = Frozen::new(2.0, 1.2, 1.1).unwrap();
    for (frozen, training) in
        [(Frozen::new(2.0, 0.0, 0.0).unwrap(), training), (frozen, training.recalibrated(0.0).unwrap())]
    {
        assert_eq!(lora::lambda_collapse(&model, &frozen, &training, &options()), Ok(None));
        let solution = lora::solve(&model, &frozen, &training, &options()).unwrap();
        assert!(solution.status != Status::Collapsed && solution.order.q > 0.0, "{}", solution.status);
    }
    // With frozen logits, the curvature at zero weights decides as for any other activation.
    let collapse = lora::lambda_collapse(&model, &frozen, &training, &options()).unwrap().unwrap().value;
    let beyond = training.with_lambda(1.2 * collapse).unwrap();
    assert_eq!(lora::solve(&model, &frozen, &beyond, &options()).unwrap().status, Status::Collapsed);
}

/// At a huge inverse temperature, no node lies where the activation changes. The curvatures at zero weights then all
/// vanish, and such a solve was once called collapsed, with the verdict `good`.
#[test]
fn an_activation_too_steep_for_the_nodes_is_not_called_collapsed() {
    let frozen = Frozen::new(2.0, 1.2, 1.1).unwrap();
    let training = lora::Training::fresh(3.0, 0.2).unwrap();
    let options = options().with_max_iterations(3).unwrap();
    for activation in [Arc::new(Sigmoid::default()) as Arc<dyn Activation>, Arc::new(SoftmaxOne)] {
        let model = Model::with_activation(2, 0.5, activation).unwrap();
        for steepness in [1e5, 1e6] {
            let steep = model.clone().with_inverse_temperature(steepness).unwrap();
            assert_eq!(lora::lambda_collapse(&steep, &frozen, &training, &options).unwrap(), None);
            let solution = lora::solve(&steep, &frozen, &training, &options).unwrap();
            assert!(solution.status != Status::Collapsed, "{steepness:e}: {solution:?}");
        }
        assert!(lora::lambda_collapse(&model, &frozen, &training, &options).unwrap().is_some());
    }
}
