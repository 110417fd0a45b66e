//! Arbitrary arguments for the module `lora`.

use std::hint::black_box;

use lora_asymptotics::ActivationName;
use lora_asymptotics::fixed_point::Status;
use lora_asymptotics::lora::{self, BayesCurve, Order, Solution};
use lora_asymptotics::state_evolution::{Averages, OutputChannel, Overlaps, Pass};
use proptest::prelude::*;

use super::values::{config, finetuning, frozen, model, number, of_activation, options, parameter, spoken};

fn order() -> impl Strategy<Value = Order> {
    prop::array::uniform7(prop_oneof![3 => parameter(), 1 => number()])
        .prop_map(|[q, m, v, q_hat, m_hat, v_hat, eta]| Order { q, m, v, q_hat, m_hat, v_hat, eta })
}

fn check(solution: &Solution, q0: f64) {
    let (order, errors) = (solution.order, solution.errors);
    if solution.status.is_success() {
        assert!(order.q >= 0.0 && order.m >= 0.0 && order.v >= 0.0, "{solution:?}");
        assert!(order.m <= order.q.sqrt() * q0.sqrt() * (1.0 + 1e-9), "{solution:?}");
        assert!(
            [errors.test, errors.test_clean, errors.train, errors.frozen, errors.forgetting]
                .iter()
                .all(|error| *error >= 0.0),
            "{solution:?}"
        );
        assert!((0.0..=1.0).contains(&solution.alignment), "{solution:?}");
    }
    if solution.status == Status::NonFinite {
        assert!(order.q.is_nan() && errors.test.is_nan(), "{solution:?}");
    }
    assert_eq!(spoken(solution.clone().into_converged()).is_some(), solution.status.is_success());
}

proptest! {
    #![proptest_config(config(8))]

    #[test]
    fn any_stage(model in model(), frozen in frozen(), training in finetuning(), options in options(), previous in order()) {
        let frozen = frozen.with_attention(model.attention());
        if let Some(mut solution) = spoken(lora::solve(&model, &frozen, &training, &options)) {
            check(&solution, training.q0());
            solution.order = previous;
            if let Some(next) = spoken(lora::solve_from(&model, &frozen, &training, &options, &solution)) {
                check(&next, training.q0());
            }
        }
    }

    /// The output channel by itself, at any overlaps and with any averages.
    #[test]
    fn any_overlaps(model in model(), frozen in frozen(), training in finetuning(), options in options(), averages in prop::collection::vec(number(), 0..16),
                    start in prop::array::uniform3(prop_oneof![4 => parameter(), 1 => number()]), next in prop::array::uniform3(number())) {
        let Some(mut channel) = spoken(lora::loss_channel(&model, &frozen, &training, &options)) else { return Ok(()) };
        let [q, m, v] = start;
        let Some(at) = spoken(channel.overlaps(q, m, v)) else { return Ok(()) };
        prop_assert!(at.q() > 0.0 && at.v() > 0.0 && at.m() >= 0.0);
        let mut estimator = channel.estimator();
        let finest = channel.levels() - 1;
        let all = channel.averages(finest, Pass::Fresh, &at);
        prop_assert!(!all.is_empty());
        for averages in all.into_iter().chain([lora::LossAverages::from_terms(&averages)]) {
            black_box((estimator.reconsider(false, &at, &averages), estimator.conjugates(&at, &averages)));
            black_box((estimator.train_error(&averages), estimator.validity(&at, &averages, next[0])));
        }
        let [q, m, v] = next;
        for moved in [at.moved_to(q, m, v), at.retreated()] {
            prop_assert_eq!(moved.coordinates().len(), at.coordinates().len());
        }
    }

    #[test]
    fn stability(model in model(), frozen in frozen(), training in finetuning(), options in options()) {
        let frozen = frozen.with_attention(model.attention());
        black_box(spoken(lora::lambda_collapse(&model, &frozen, &training, &options)));
        black_box(spoken(lora::lambda_noise_edge(&model, &frozen, &training, &options)));
        if let Some(recovery) = spoken(lora::weak_recovery(&model, &frozen, &training, &options)) {
            prop_assert_eq!(recovery.recovers, recovery.growth > 1.0);
        }
    }
}

proptest! {
    #![proptest_config(config(64))]

    #[test]
    fn threshold(model in model(), frozen in frozen(), training in finetuning(), options in options()) {
        if let Some(Some(threshold)) = spoken(lora::alpha_weak_recovery(&model, &frozen, &training, &options)) {
            prop_assert!(threshold.alpha.value > 0.0, "{threshold:?}");
        }
    }

    #[test]
    fn bound(model in model(), frozen in frozen(), q0 in parameter(), alpha in prop_oneof![4 => parameter(), 1 => number()],
             start in prop_oneof![4 => 0.0..1.0, 1 => number()], steps in prop_oneof![9 => 0_usize..20, 1 => Just(usize::MAX)],
             options in options()) {
        // With three tokens, softmax needs double integrals, which take long.
        let activation = model.activation_name().expect("a named activation");
        let tokens = if activation == ActivationName::Linear { model.tokens() } else { model.tokens().min(2) };
        let model = of_activation(&model, activation, tokens);
        let Some(curve) = spoken(BayesCurve::new(&model, &frozen, q0, &options)) else { return Ok(()) };
        black_box((curve.weak_recovery(), curve.information_theoretic_jump()));
        if let Some([low, high]) = curve.spinodals() {
            prop_assert!(low <= high);
        }
        if let Some(path) = spoken(curve.state_evolution(alpha, start * q0, steps)) {
            prop_assert_eq!(path.len(), steps + 1);
        }
        if let Some(bound) = spoken(curve.solve(alpha)) {
            if bound.status.is_success() {
                prop_assert!(bound.order.q >= 0.0 && bound.order.q <= q0 * (1.0 + 1e-9), "{bound:?}");
                prop_assert!(bound.errors.test_clean >= 0.0 && bound.errors.test >= 0.0, "{bound:?}");
            }
            prop_assert_eq!(spoken(bound.clone().into_converged()).is_some(), bound.status.is_success());
        }
        black_box(spoken(lora::bayes_optimal(&model, &frozen, alpha, q0, &options)));
    }
}
