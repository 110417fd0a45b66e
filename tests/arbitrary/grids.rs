//! Arbitrary arguments for the modules `scenario`, `sweep` and `optimize`.

use std::ops::ControlFlow;

use lora_asymptotics::optimize::{self, Parameter, Settings, Target, Variable, best_split, minimize};
use lora_asymptotics::sweep::{Axis, Scale, Shard, Sweep};
use lora_asymptotics::{Estimator, Scenario};
use proptest::prelude::*;
use proptest::sample::select;

use super::fuzz_targets::targets::check_outcome;
use super::values::{config, count, number, options, parameter, scenario, spoken};

fn variable_parameter() -> impl Strategy<Value = Parameter> {
    prop_oneof![
        3 => Just(Parameter::PretrainLambda),
        1 => Just(Parameter::LoraLambda),
        1 => Just(Parameter::Beta),
        1 => (parameter(), parameter()).prop_map(|(total, price)| Parameter::FinetuningShare { total, price }),
    ]
}

fn axis() -> impl Strategy<Value = Option<Axis>> {
    let field = select(vec![
        "pretrain.lambda",
        "pretrain.alpha",
        "lora.lambda",
        "lora.beta",
        "model.delta",
        "model.tokens",
        "model.teacher.wishart.kappa0",
        "options.seed",
        "options.log2_nodes",
        "",
        ".",
        "lora",
        "lora.",
        "nothing.here",
    ]);
    let list = prop::collection::vec(prop_oneof![6 => parameter(), 1 => number()], 0..4);
    let ends = prop::array::uniform2(prop_oneof![6 => parameter(), 1 => number()]);
    let scale = select(vec![Scale::Linear, Scale::Log]);
    let counted = prop_oneof![8 => 0_usize..5, 1 => Just(10_000_001), 1 => Just(usize::MAX)];
    prop_oneof![
        (field.clone(), list).prop_map(|(field, list)| spoken(Axis::list(field, list))),
        (field, ends, counted, scale)
            .prop_map(|(field, [from, to], count, scale)| spoken(Axis::range(field, from, to, count, scale))),
    ]
}

proptest! {
    #![proptest_config(config(8))]

    #[test]
    fn scenarios(scenario in scenario(), other in scenario()) {
        let valid = spoken(scenario.validate()).is_some();
        let text = serde_json::to_string(&scenario).unwrap();
        let _ = spoken(Scenario::from_json(&text));
        if let Some(outcome) = spoken(scenario.solve()) {
            prop_assert!(valid);
            check_outcome(&outcome);
            if let Some(next) = spoken(other.solve_from(&outcome)) {
                check_outcome(&next);
            }
        }
    }

    #[test]
    fn axes_and_shards(field in "[a-z.]{0,12}", ends in prop::array::uniform2(number()),
                       count in prop_oneof![20 => 0_usize..100, 4 => count().prop_filter("not made", |n| !(100..=10_000_000).contains(n))],
                       part in count(), of in count(), text in "[0-9 /-]{0,24}") {
        for scale in [Scale::Linear, Scale::Log] {
            if let Some(axis) = spoken(Axis::range(field.as_str(), ends[0], ends[1], count, scale)) {
                prop_assert_eq!(axis.values().len(), count);
                prop_assert!(axis.values().iter().all(|x| x.is_finite()), "{axis:?}");
                prop_assert_eq!(axis.field(), field.as_str());
            }
        }
        prop_assert_eq!(spoken(Shard::new(part, of)).is_some(), part >= 1 && part <= of);
        let _ = spoken(text.parse::<Shard>());
        let _ = spoken(format!("{part}/{of}").parse::<Shard>());
    }

    #[test]
    fn sweeps(scenario in scenario(), axes in prop::collection::vec(axis(), 0..3), part in 1_usize..5, of in 1_usize..5,
              index in count(), done in count(), values in prop::collection::vec(number(), 0..4)) {
        let Some(sweep) = spoken(Sweep::new(scenario, axes.into_iter().flatten().collect())) else { return Ok(()) };
        prop_assert_eq!(sweep.values(index).len(), sweep.axes().len());
        if let Some(scenario) = spoken(sweep.at(&values)) {
            prop_assert!(values.iter().all(|x| x.is_finite()));
            let _ = spoken(scenario.validate());
        }
        prop_assert!(sweep.points().is_multiple_of(sweep.row_length()));
        let Some(shard) = spoken(Shard::new(part, of)) else { return Ok(()) };
        let range = sweep.indices(shard);
        let mut seen = Vec::new();
        let emitted = spoken(sweep.run(shard, done, |record| {
            seen.push(record.index);
            if seen.len() < 3 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        }));
        prop_assert!(emitted.is_none_or(|emitted| emitted == seen.len()));
        prop_assert!(seen.iter().all(|index| range.contains(index)), "{seen:?}");
        let text = serde_json::to_string(&sweep).unwrap();
        prop_assert_eq!(spoken(Sweep::from_json(&text)), Some(sweep));
    }

    #[test]
    fn variables(parameter in variable_parameter(), ends in prop::array::uniform2(number())) {
        let [low, high] = ends;
        let variable = spoken(Variable::new(parameter, low, high));
        // The same variable is read from JSON, where infinities are lost.
        let text = serde_json::json!({"parameter": parameter, "low": low, "high": high});
        if let Ok(read) = serde_json::from_value::<Variable>(text) {
            prop_assert_eq!(variable, Some(read));
        }
    }
}

proptest! {
    #![proptest_config(config(32))]

    #[test]
    fn optima(scenario in scenario(), options in options(), parameters in prop::collection::vec(variable_parameter(), 0..3),
              low in 0.01_f64..0.9, ratio in 1.0_f64..50.0,
              target in select(vec![Target::PretrainTest, Target::LoraTest, Target::LoraAlignment, Target::LoraForgetting, Target::EffectiveNoise]),
              tolerance in prop_oneof![4 => Just(0.05), 1 => number()], scan in prop_oneof![4 => 3_usize..5, 1 => count()],
              budget in parameter(), price in parameter()) {
        let max_iterations = options.max_iterations().min(10);
        let scenario = Scenario { estimator: Estimator::Erm, options: options.with_max_iterations(max_iterations).unwrap(), ..scenario };
        let settings = Settings { tolerance, scan, max_solves: 12, reliable_only: false };
        let variables: Vec<Variable> = parameters
            .into_iter()
            .filter_map(|parameter| spoken(Variable::new(parameter, low, (ratio * low).min(0.95))))
            .collect();
        if let Some(optimum) = spoken(minimize(&scenario, target, &variables, &settings)) {
            prop_assert_eq!(optimum.found.len(), variables.len());
            prop_assert!(optimum.excluded <= optimum.solves);
            let inside = |found: &optimize::BestValue| found.value >= low && found.value <= (ratio * low).min(0.95);
            prop_assert!(optimum.found.iter().all(inside), "{optimum:?}");
        }
        let settings = Settings { tolerance: 0.1, scan: 3, max_solves: 10, reliable_only: false };
        let _ = spoken(best_split(&scenario, budget, price, &[], &settings));
    }
}

fn small(axes: &str) -> Result<Sweep, lora_asymptotics::Error> {
    Sweep::from_json(&format!(
        r#"{{"scenario": {{"model": {{"tokens": 2, "activation": "linear", "delta": 0.5, "teacher": {{"wishart": {{"kappa0": 0.5}}}}}},
             "pretrain": {{"alpha": 0.2, "lambda": 0.1}}}}, "axes": {axes}}}"#
    ))
}

/// The sum of the beginning of the shard and `done` once overflowed, and the points before the shard were
/// solved.
#[test]
fn more_than_everything_is_done() {
    let sweep = small(
        r#"[{"field": "model.delta", "from": 0.1, "to": 0.5, "count": 4}, {"field": "pretrain.lambda", "values": [0.1, 0.2, 0.3, 0.4]}]"#,
    )
    .unwrap();
    let second = Shard::new(2, 2).unwrap();
    assert_eq!(sweep.indices(second), 8..16);
    for done in [8, 9, usize::MAX - 8, usize::MAX - 3, usize::MAX] {
        assert_eq!(sweep.run(second, done, |_| ControlFlow::Continue(())).unwrap(), 0, "{done}");
    }
}

/// A hundred ranges of ten million values each would take gigabytes if their values were made before they are
/// counted.
#[test]
fn a_short_text_does_not_describe_more_points_than_there_is_memory_for() {
    let range = r#"{"field": "model.delta", "from": 0.1, "to": 0.5, "count": 10000000}"#;
    let error = small(&format!("[{}]", vec![range; 100].join(","))).unwrap_err();
    assert!(error.to_string().contains("100000000 points"), "{error}");
    assert!(spoken(Axis::range("model.delta", -1e308, 1e308, 3, Scale::Linear)).is_none());
}

#[test]
fn a_variable_is_read_as_it_is_made() {
    for text in [
        r#"{"parameter": "beta", "low": 2.0, "high": 1.0}"#,
        r#"{"parameter": "beta", "low": -1.0, "high": 1.0}"#,
        r#"{"parameter": "beta", "low": 1.0, "high": 1.0}"#,
        r#"{"parameter": {"finetuning_share": {"total": 1.0, "price": 0.0}}, "low": 0.1, "high": 0.5}"#,
        r#"{"parameter": {"finetuning_share": {"total": 1.0, "price": 1.0}}, "low": 0.1, "high": 1.0}"#,
    ] {
        assert!(serde_json::from_str::<Variable>(text).is_err(), "{text}");
    }
    let beta = Variable::new(Parameter::Beta, 0.5, 2.0).unwrap();
    assert_eq!(serde_json::from_str::<Variable>(&serde_json::to_string(&beta).unwrap()).unwrap(), beta);
}
