//! Arbitrary arguments for the module `simulate`: any description, very small networks, and any measurements.

use std::hint::black_box;
use std::ops::ControlFlow;

use lora_asymptotics::Outcome;
use lora_asymptotics::simulate::{
    Estimate, Experiment, FrozenLogits, Laboratory, Measurement, MessagePassing, Size, extrapolate,
    message_passing, odd_differences,
};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::json;

use super::fuzz_targets::targets::bound_laboratory;
use super::values::{
    apply, change, config, count, finetuning, frozen, model, number, of_activation, options, parameter,
    scenario, spoken,
};

fn laboratory() -> impl Strategy<Value = Laboratory> {
    let dimension = prop_oneof![12 => 2_usize..12, 1 => count()];
    let instances = prop_oneof![12 => Just(2_usize), 1 => count()];
    let sizes = prop::collection::vec((dimension, instances), 0..3).prop_map(|sizes| {
        sizes.into_iter().map(|(dimension, instances)| Size::new(dimension, instances)).collect::<Vec<_>>()
    });
    let counts = prop::array::uniform4(prop_oneof![12 => 1_usize..4, 1 => count()]);
    let frozen = select(vec![FrozenLogits::Trained, FrozenLogits::Synthetic]);
    let order = prop_oneof![3 => Just(None), 1 => count().prop_map(Some)];
    let limit = prop_oneof![6 => Just(1_u64 << 26), 1 => any::<u64>()];
    (sizes, any::<u64>(), frozen, counts, parameter(), order, limit).prop_map(
        |(sizes, seed, frozen, counts, gradient_tolerance, order, memory_limit)| Laboratory {
            sizes,
            seed,
            frozen,
            test_sequences: counts[0],
            pretraining_starts: counts[1],
            random_starts: counts[2],
            gradient_tolerance,
            max_iterations: counts[3].saturating_mul(8),
            order,
            memory_limit,
        },
    )
}

fn estimate() -> impl Strategy<Value = Estimate> {
    (number(), prop_oneof![3 => parameter(), 1 => number()])
        .prop_map(|(mean, std_error)| Estimate::new(mean, std_error))
}

/// A measurement of two stages.
fn measured() -> serde_json::Value {
    let run = json!({"start": "random", "objective": 1.0, "alignment": 0.5, "gradient": 0.0, "iterations": 1, "converged": true});
    json!({
        "dimension": 6, "instance": 0,
        "pretrain": {"q": 1.0, "m": 1.0, "trace": 1.0, "rank_fraction": 0.5, "objective": 1.0, "test": 1.0, "test_clean": 0.5,
                     "train": 1.0, "alignment": 0.5, "eigenvalues": [0.0, 1.0, 2.0], "runs": [run.clone()]},
        "lora": {"q": 1.0, "m": 1.0, "objective": 1.0, "test": 1.0, "test_clean": 0.5, "train": 1.0, "frozen": 2.0, "forgetting": 1.5,
                 "alignment": 0.5, "runs": [run]},
    })
}

proptest! {
    #![proptest_config(config(1))]

    #[test]
    fn statistics(values in prop::collection::vec(number(), 0..6), points in prop::collection::vec((count(), estimate()), 0..7),
                  power in number(), order in prop_oneof![4 => 0_usize..6, 1 => count()]) {
        black_box(Estimate::of(&values));
        black_box(extrapolate(&points, power, order));
    }

    #[test]
    fn descriptions(laboratory in laboratory()) {
        let _ = spoken(laboratory.validate());
    }
}

proptest! {
    #![proptest_config(config(16))]

    #[test]
    fn experiments(scenario in scenario(), mut laboratory in laboratory(), changes in prop::collection::vec(change(), 0..4),
                   dimension in count(), instance in count()) {
        let _ = spoken(Experiment::new(&scenario, &laboratory));
        bound_laboratory(&mut laboratory);
        let Some(experiment) = spoken(Experiment::new(&scenario, &laboratory)) else { return Ok(()) };
        prop_assert_eq!(experiment.laboratory(), &laboratory);
        prop_assert_eq!(experiment.scenario(), &scenario);
        let instances = experiment.instances();
        let found = spoken(experiment.run(dimension, instance)).is_some();
        prop_assert_eq!(found, instances.contains(&[dimension, instance]));
        let mut known: Vec<Measurement> = Vec::new();
        for some in changes.chunks(2) {
            let mut value = measured();
            some.iter().for_each(|change| apply(&mut value, change));
            known.extend(serde_json::from_value::<Measurement>(value));
        }
        for one in &known {
            black_box(one.unconverged());
        }
        let all = spoken(experiment.run_all(known.clone(), |_| ControlFlow::Continue(())));
        prop_assert_eq!(all.map(|all| all.len()), Some(instances.len()));
        let comparison = experiment.compare(&known);
        black_box((comparison.to_string(), comparison.rms_z(), comparison.worst_z()));
        let nothing: Outcome = serde_json::from_str("{}").unwrap();
        prop_assert!(experiment.compare_to(&nothing, &known).rows.is_empty());
    }

    #[test]
    fn odd_parts(scenario in scenario(), mut laboratory in laboratory()) {
        bound_laboratory(&mut laboratory);
        if let Some(found) = spoken(odd_differences(&scenario, &laboratory)) {
            prop_assert_eq!(found.rows.len(), 8 * laboratory.sizes.len());
            black_box((found.to_string(), found.rms_z()));
        }
    }

    #[test]
    fn messages(model in model(), frozen in frozen(), training in finetuning(), mut laboratory in laboratory(), options in options(),
                iterations in prop_oneof![9 => 1_usize..4, 1 => count().prop_filter("long", |n| !(20..=10_000).contains(n))],
                start in prop_oneof![9 => 0.01..0.99, 1 => number()]) {
        bound_laboratory(&mut laboratory);
        let activation = model.activation_name().expect("a named activation");
        let model = of_activation(&model, activation, model.tokens().min(2));
        let settings = MessagePassing { iterations, start };
        let found = spoken(message_passing(&model, &frozen, training.alpha(), training.q0(), &settings, &laboratory, &options));
        for trajectory in found.iter().flatten() {
            prop_assert_eq!(trajectory.iterations.len(), iterations + 1);
        }
    }
}

/// The results that are kept of every instance have to fit in memory as well.
#[test]
fn laboratories_are_bounded() {
    let size = |dimension| Size::new(dimension, 1_000_000);
    let many = Laboratory { sizes: (2..13).map(size).collect(), ..Laboratory::default() };
    assert!(spoken(many.validate()).is_none());
    let sizes = (2..103).map(|dimension| Size::new(dimension, 2)).collect();
    assert!(spoken(Laboratory { sizes, ..Laboratory::default() }.validate()).is_none());
}
