//! Arbitrary arguments for the module `pretrain`, and for the parameters in `model` and `options`.

use std::hint::black_box;

use lora_asymptotics::fixed_point::Status;
use lora_asymptotics::pretrain::{self, ErrorSplit, LearnedSpectrum, Order, Solution};
use lora_asymptotics::{ActivationName, Model, Options};
use proptest::prelude::*;

use super::values::{config, count, model, number, of_activation, options, parameter, spoken, training};

fn order() -> impl Strategy<Value = Order> {
    prop::array::uniform6(prop_oneof![3 => parameter(), 1 => number()])
        .prop_map(|[q, m, v, q_hat, m_hat, v_hat]| Order { q, m, v, q_hat, m_hat, v_hat })
}

fn check(solution: &Solution, options: &Options) {
    let (order, errors) = (solution.order, solution.errors);
    if let (Status::Converged, Some(tolerance)) = (solution.status, options.tolerance()) {
        assert!(solution.residual <= tolerance, "{solution:?}");
    }
    if solution.status.is_success() {
        assert!(order.q >= 0.0 && order.m >= 0.0 && order.v >= 0.0, "{solution:?}");
        assert!(order.m <= order.q.sqrt() * solution.q0.sqrt() * (1.0 + 1e-9), "{solution:?}");
        assert!(
            [errors.test, errors.test_clean, errors.train].iter().all(|error| *error >= 0.0),
            "{solution:?}"
        );
        assert!((0.0..=1.0).contains(&solution.alignment), "{solution:?}");
    }
    assert!(spoken(solution.freeze()).is_some() || !solution.status.is_success(), "{solution:?}");
    assert_eq!(spoken(solution.clone().into_converged()).is_some(), solution.status.is_success());
}

/// Calls every method of a learned spectrum.
fn examine(law: &LearnedSpectrum, x: f64, points: usize) {
    assert!((0.0..=1.0).contains(&law.atom()));
    black_box((law.density(x), law.distribution(x)));
    assert_eq!(spoken(law.quantile(x)).is_some(), (0.0..=1.0).contains(&x));
    assert!(spoken(law.quantile(0.5)).is_some());
    black_box(law.components());
    if !(200..=1_000_000).contains(&points) {
        assert_eq!(spoken(law.table(points)).is_some(), (1..=1_000_000).contains(&points));
    }
}

proptest! {
    #![proptest_config(config(2))]

    #[test]
    fn linear(model in model(), training in training(), options in options(), previous in order(), x in number(), points in count()) {
        let model = of_activation(&model, ActivationName::Linear, model.tokens());
        if let Some(solution) = spoken(pretrain::solve(&model, &training, &options)) {
            check(&solution, &options);
            prop_assert!(solution.status == Status::Collapsed || solution.iterations <= options.max_iterations().max(20), "{solution:?}");
            if let Some(law) = spoken(LearnedSpectrum::new(&model, &training, &solution)) {
                examine(&law, x, points);
            }
            if let Some(split) = spoken(ErrorSplit::new(&model, &training, &solution)) {
                let parts = [split.missed, split.shrinkage, split.noise_fitted];
                prop_assert!(parts.iter().all(|part| part.is_nan() || *part >= 0.0), "{split:?}");
                black_box(split.total());
            }
            // The solution is changed by hand.
            let mut hand = solution;
            hand.order = previous;
            hand.status = Status::Converged;
            if let Some(law) = spoken(LearnedSpectrum::new(&model, &training, &hand)) {
                examine(&law, x, points);
            }
            black_box(spoken(hand.freeze()));
            black_box(spoken(ErrorSplit::new(&model, &training, &hand)));
            if let Some(next) = spoken(pretrain::solve_from(&model, &training, &options, &hand)) {
                check(&next, &options);
            }
        }
        let Order { q, m, v, .. } = previous;
        black_box(spoken(pretrain::linear_step(&model, &training, [q, m, v])));
    }

    #[test]
    fn thresholds(model in model(), training in training(), options in options()) {
        black_box(model.observed_coordinates());
        black_box(spoken(pretrain::lambda_collapse(&model, &training, &options)));
        let interpolation = spoken(pretrain::alpha_interp(&model)).flatten().map(|threshold| threshold.value);
        black_box(spoken(pretrain::alpha_interp_of(&model, training.parametrisation())));
        for threshold in [interpolation, spoken(pretrain::alpha_perfect_recovery(&model))] {
            prop_assert!(threshold.is_none_or(|alpha| alpha >= 0.0), "{threshold:?}");
        }
    }

    #[test]
    fn bound(model in model(), alpha in parameter(), options in options()) {
        if let Some(bound) = spoken(pretrain::bayes_optimal(&model, alpha, &options)) {
            if bound.status.is_success() {
                prop_assert!(bound.order.q >= 0.0 && bound.order.q <= bound.q0 * (1.0 + 1e-9), "{bound:?}");
                prop_assert!(bound.errors.test_clean >= 0.0 && bound.errors.test >= 0.0, "{bound:?}");
            }
            black_box(spoken(bound.freeze()));
            prop_assert_eq!(spoken(bound.clone().into_converged()).is_some(), bound.status.is_success());
        }
    }
}

proptest! {
    #![proptest_config(config(16))]

    #[test]
    fn softmax(model in model(), training in training(), options in options(), previous in order()) {
        let model = of_activation(&model, ActivationName::Softmax, model.tokens().max(2));
        if let Some(mut solution) = spoken(pretrain::solve(&model, &training, &options)) {
            check(&solution, &options);
            solution.order = previous;
            if let Some(next) = spoken(pretrain::solve_from(&model, &training, &options, &solution)) {
                check(&next, &options);
            }
        }
    }
}

#[test]
fn memory_is_bounded_before_it_is_taken() {
    let softmax = Model::softmax(8, 0.5)
        .unwrap()
        .with_teacher(lora_asymptotics::Teacher::Wishart { kappa0: 0.5 })
        .unwrap();
    let options = Options::default().with_log2_nodes(20).unwrap().with_scrambles(8).unwrap();
    let refused = |error: lora_asymptotics::Error| {
        assert_eq!(error.kind(), "too_much_memory");
        assert!(error.to_string().contains("bytes"), "{error}");
    };
    refused(pretrain::solve(&softmax, &pretrain::Training::new(0.2, 0.1).unwrap(), &options).unwrap_err());
    let frozen = lora_asymptotics::lora::Frozen::new(1.0, 1.0, 1.0).unwrap();
    let training = lora_asymptotics::lora::Training::fresh(2.0, 0.1).unwrap();
    refused(lora_asymptotics::lora::solve(&softmax, &frozen, &training, &options).unwrap_err());
    refused(lora_asymptotics::lora::bayes_optimal(&softmax, &frozen, 2.0, 1.0, &options).unwrap_err());
}
