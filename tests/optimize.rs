//! Optima are compared with fine grids, closed forms, and statements of the theory about them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use lora_asymptotics::optimize::{
    Optimum, Parameter, SearchBound, Settings, Target, Variable, best_split, minimize,
};
use lora_asymptotics::{Error, Scenario, observables};

fn scenario(json: &str) -> Scenario {
    Scenario::from_json(json).unwrap()
}

fn variable(parameter: Parameter, low: f64, high: f64) -> Variable {
    Variable::new(parameter, low, high).unwrap()
}

/// The mismatch of the paper, for linear attention and T = 2.
fn mismatch(sequences: &str) -> Scenario {
    scenario(&format!(
        r#"{{"model": {{"tokens": 2, "activation": "linear", "delta": 0.5, "teacher": {{"wishart": {{"kappa0": 0.5}}}}}},
            "pretrain": {{"alpha": 0.2, "lambda": 0.1}}, "lora": {{"alpha": 3.0, "lambda": 0.2, "sequences": "{sequences}"}},
            "options": {{"log2_nodes": 11, "tolerance": 1e-10}}}}"#
    ))
}

fn best_ridge(scenario: &Scenario, target: Target, tolerance: f64) -> Optimum {
    let settings = Settings { tolerance, ..Settings::default() };
    let best =
        minimize(scenario, target, &[variable(Parameter::PretrainLambda, 1e-3, 1.0)], &settings).unwrap();
    assert!(best.converged && best.excluded == 0, "{best:?}");
    best
}

#[test]
fn the_optimum_is_that_of_a_fine_grid() {
    let scenario = mismatch("reused");
    let best = best_ridge(&scenario, Target::LoraTest, 1e-4);
    let grid = (0..=400).map(|k| {
        let lambda = 1e-3 * 1e3_f64.powf(f64::from(k) / 400.0);
        let mut here = scenario.clone();
        here.pretrain = here.pretrain.map(|training| training.with_lambda(lambda).unwrap());
        (lambda, here.solve().unwrap().lora.unwrap().errors.test)
    });
    let (lambda, error) = grid.reduce(|best, next| if next.1 < best.1 { next } else { best }).unwrap();
    assert!((best.found[0].value / lambda).ln().abs() < 1e3_f64.ln() / 400.0, "{best:?}, grid {lambda}");
    assert!(best.value <= error + 1e-9 && best.value > error - 1e-4, "{} and {error}", best.value);
    assert!(best.solves < 40, "{} solves", best.solves);
    // In the paper's mismatch, E' is smallest near 0.1, at .7299.
    assert!((best.value - 0.7299).abs() < 1e-3);
    let uncertainty = best.found[0].uncertainty.unwrap();
    assert!(uncertainty > 0.0 && uncertainty < 1.0, "{uncertainty}");
}

#[test]
fn one_ridge_is_best_for_everything_on_fresh_linear_sequences() {
    let scenario = mismatch("fresh");
    let targets = [Target::PretrainTest, Target::EffectiveNoise, Target::LoraTest, Target::LoraAlignment];
    let found = targets.map(|target| best_ridge(&scenario, target, 1e-6).found[0].value);
    for value in found {
        assert!((value / found[0] - 1.0).abs() < 1e-4, "{found:?}");
    }
}

#[test]
fn reused_sequences_have_a_mismatch() {
    let scenario = mismatch("reused");
    let aligned = best_ridge(&scenario, Target::LoraAlignment, 1e-4);
    assert_eq!(aligned.found[0].at_bound, Some(SearchBound::Lower), "o_w falls monotonically: {aligned:?}");
    assert!((aligned.found[0].value - 1e-3).abs() < 1e-15 && (aligned.value - 0.9963).abs() < 1e-3);
    let predicting = best_ridge(&scenario, Target::LoraTest, 1e-4);
    assert!(predicting.found[0].at_bound.is_none() && predicting.found[0].value > 0.05, "{predicting:?}");
}

#[test]
fn the_best_recalibration_of_linear_attention_is_in_closed_form() {
    let scenario = scenario(
        r#"{"model": {"tokens": 2, "activation": "linear", "delta": 0.5}, "frozen": {"q0": 2.0, "q": 1.4, "m": 1.1},
            "lora": {"alpha": 4.0, "lambda": 0.5}, "options": {"log2_nodes": 11}}"#,
    );
    let frozen = scenario.frozen.unwrap();
    let settings = Settings { tolerance: 1e-5, ..Settings::default() };
    for target in [Target::LoraTest, Target::LoraAlignment, Target::EffectiveNoise] {
        let best = minimize(&scenario, target, &[variable(Parameter::Beta, 0.1, 3.0)], &settings).unwrap();
        let expected = observables::optimal_recalibration(frozen.q(), frozen.m()).unwrap();
        assert!((best.found[0].value / expected - 1.0).abs() < 1e-3, "{target:?}: {best:?}");
    }
}

/// The error of linear attention on the task of pre-training is a function of the effective noise alone, which is least at `M/Q`.
#[test]
fn the_best_recalibration_for_the_first_task_is_in_closed_form() {
    let scenario = scenario(
        r#"{"model": {"tokens": 2, "activation": "linear", "delta": 0.5}, "frozen": {"q0": 2.0, "q": 1.4, "m": 1.1},
            "lora": {"alpha": 4.0, "lambda": 0.5}, "options": {"log2_nodes": 11}}"#,
    );
    let frozen = scenario.frozen.unwrap();
    let settings = Settings { tolerance: 1e-5, ..Settings::default() };
    let beta = [variable(Parameter::Beta, 0.1, 3.0)];
    let best = minimize(&scenario, Target::LoraForgetting, &beta, &settings).unwrap();
    let expected = observables::optimal_recalibration(frozen.q(), frozen.m()).unwrap();
    assert!((best.found[0].value / expected - 1.0).abs() < 1e-3, "{best:?}");
    let stage = best.outcome.lora.unwrap();
    let noise = observables::effective_noise(&frozen.overlaps(), 0.5, best.found[0].value);
    assert!((best.value - observables::linear_forgetting(2, noise, stage.order.q)).abs() < 1e-12);
}

#[test]
fn the_best_recalibration_of_softmax_attention_is_below_that_of_the_overlaps() {
    // The reference for T = 3, alpha' = 4, lambda' = .5 is beta = .608 with E' = .4887, while M/Q = .917.
    let scenario = scenario(
        r#"{"model": {"tokens": 3, "activation": "softmax", "delta": 0.5}, "frozen": {"q0": 2.0, "q": 1.2, "m": 1.1},
            "lora": {"alpha": 4.0, "lambda": 0.5}, "options": {"log2_nodes": 12, "tolerance": 1e-7}}"#,
    );
    let settings = Settings { tolerance: 1e-3, ..Settings::default() };
    let best =
        minimize(&scenario, Target::LoraTest, &[variable(Parameter::Beta, 0.2, 2.0)], &settings).unwrap();
    let error = best.std_error.unwrap();
    assert!((best.value - 0.4887).abs() < 5.0 * error + 1e-4, "{} +- {error}", best.value);
    let Found { value, uncertainty } = found(&best);
    assert!((value / 0.608).ln().abs() < uncertainty + 0.02, "{value} within {uncertainty}");
    assert!(value < 0.8 * 1.1 / 1.2);
}

struct Found {
    value: f64,
    uncertainty: f64,
}

fn found(best: &Optimum) -> Found {
    Found { value: best.found[0].value, uncertainty: best.found[0].uncertainty.unwrap() }
}

#[test]
fn several_variables_at_once() {
    let scenario = mismatch("fresh");
    let variables = [variable(Parameter::LoraLambda, 0.02, 5.0), variable(Parameter::Beta, 0.3, 3.0)];
    let settings = Settings { tolerance: 1e-3, ..Settings::default() };
    let joint = minimize(&scenario, Target::LoraTest, &variables, &settings).unwrap();
    assert!(joint.converged && joint.found.iter().all(|one| one.at_bound.is_none()), "{joint:?}");
    // Along each of the two variables, the joint optimum is the best point as well.
    for (k, other) in [(0, 1), (1, 0)] {
        let mut fixed = scenario.clone();
        let finetuning = fixed.lora.as_mut().unwrap();
        match other {
            0 => *finetuning = finetuning.with_lambda(joint.found[0].value).unwrap(),
            _ => *finetuning = finetuning.recalibrated(joint.found[1].value).unwrap(),
        }
        let alone = minimize(&fixed, Target::LoraTest, &variables[k..=k], &settings).unwrap();
        assert!((alone.found[0].value / joint.found[k].value).ln().abs() < 1e-2, "{alone:?}\n{joint:?}");
        assert!(joint.value < alone.value + 1e-6);
    }
    // The recalibration has its closed form here as well.
    let outcome = joint.outcome.pretrain.as_ref().unwrap();
    let expected = observables::optimal_recalibration(outcome.order.q, outcome.order.m).unwrap();
    assert!((joint.found[1].value / expected).ln().abs() < 1e-2);
}

#[test]
fn a_budget_of_data_is_split() {
    let scenario = mismatch("fresh");
    let (total, price) = (0.5, 0.05);
    let best = best_split(&scenario, total, price, &[], &Settings::default()).unwrap();
    let at = |share: f64| {
        let mut here = scenario.clone();
        here.pretrain = here.pretrain.map(|training| training.with_alpha((1.0 - share) * total).unwrap());
        here.lora = here.lora.map(|training| training.with_alpha(share * total / price).unwrap());
        here.solve().unwrap().lora.unwrap()
    };
    let share = best.found[0].value;
    assert!(best.found[0].at_bound.is_none() && (at(share).errors.test - best.value).abs() < 1e-6);
    let others = (1..40).map(|k| at(f64::from(k) / 40.0)).filter(|solution| solution.validity.reliable);
    assert!(others.map(|solution| solution.errors.test).all(|error| error > best.value - 1e-6));
    // If the ridge is chosen at the same time, the optimum is no worse.
    let ridge = [variable(Parameter::LoraLambda, 0.02, 5.0)];
    let settings = Settings { tolerance: 1e-3, ..Settings::default() };
    assert!(best_split(&scenario, total, price, &ridge, &settings).unwrap().value < best.value + 1e-6);
}

/// Two true columns: with much data the best rank is two, and its ridge is that of a search at this rank alone.
#[test]
fn the_best_rank_is_that_of_the_truth() {
    let scenario = scenario(
        r#"{"model": {"tokens": 2, "activation": "linear", "delta": 0.5}, "frozen": {"q0": 1.0, "q": 1.0, "m": 1.0},
            "lora": {"alpha": 8.0, "lambda": 0.5, "q0": [1.2, 0.8]}, "options": {"log2_nodes": 8, "tolerance": 1e-6}}"#,
    );
    let ridge = variable(Parameter::LoraLambda, 0.1, 2.0);
    let rank = variable(Parameter::Rank, 1.0, 3.0);
    let settings = Settings { tolerance: 3e-2, scan: 4, ..Settings::default() };
    let best = minimize(&scenario, Target::LoraTest, &[rank, ridge], &settings).unwrap();
    assert_eq!(best.found[0].parameter, Parameter::Rank);
    assert!(best.converged && best.found[0].at_bound.is_none(), "{best:?}");
    assert!(
        (best.found[0].value - 2.0).abs() < 1e-15 && best.outcome.lora.as_ref().unwrap().columns.len() == 2
    );
    let [one, two] = [1, 2].map(|columns| {
        let mut here = scenario.clone();
        here.lora = here.lora.map(|training| training.with_rank(columns).unwrap());
        minimize(&here, Target::LoraTest, &[ridge], &settings).unwrap()
    });
    assert_eq!(two.value.to_bits(), best.value.to_bits());
    assert_eq!(two.found[0], best.found[1]);
    assert!(two.value < one.value && best.solves > one.solves + two.solves);
    // The largest alignment is searched, and not the smallest. Without a ridge to search there is one solve per rank, and one of the best.
    let ranks = variable(Parameter::Rank, 1.0, 2.0);
    let aligned = minimize(&scenario, Target::LoraAlignment, &[ranks], &settings).unwrap();
    assert!((aligned.found[0].value - 2.0).abs() < 1e-15 && aligned.value > 0.9 && aligned.solves == 4);
    assert_eq!(aligned.found[0].at_bound, Some(SearchBound::Upper));
}

/// No rank is searched if the scenario cannot have all of them.
#[test]
fn ranks_out_of_range_are_refused_at_once() {
    let factors = scenario(
        r#"{"model": {"tokens": 2, "attention": "cross", "activation": "linear", "delta": 0.5}, "frozen": {"q0": 1.0, "q": 1.0, "m": 1.0},
            "lora": {"alpha": 8.0, "lambda": 0.5}}"#,
    );
    let ranks = [variable(Parameter::Rank, 1.0, 8.0)];
    let refused = minimize(&factors, Target::LoraTest, &ranks, &Settings::default());
    assert!(matches!(refused, Err(Error::InvalidParameter { field: "lora.rank", .. })), "{refused:?}");
}

#[test]
fn what_cannot_be_optimised_is_an_error() {
    use Parameter::{Beta, FinetuningShare, LoraLambda, PretrainLambda, Rank};
    for (parameter, low, high) in [
        (PretrainLambda, 0.0, 1.0),
        (PretrainLambda, 1.0, 1.0),
        (LoraLambda, f64::NAN, 1.0),
        (Beta, 0.1, f64::INFINITY),
        (FinetuningShare { total: 1.0, price: 1.0 }, 0.1, 1.0),
        (FinetuningShare { total: -1.0, price: 1.0 }, 0.1, 0.5),
        (FinetuningShare { total: 1.0, price: 0.0 }, 0.1, 0.5),
        (Rank, 0.0, 2.0),
        (Rank, 1.0, 1.0),
        (Rank, 1.5, 2.0),
        (Rank, 1.0, 2.5),
        (Rank, 1.0, 9.0),
    ] {
        assert!(Variable::new(parameter, low, high).is_err(), "{parameter:?} {low} {high}");
    }
    let good = variable(LoraLambda, 0.1, 1.0);
    let settings = Settings::default();
    let scenario = mismatch("fresh");
    assert!(minimize(&scenario, Target::LoraTest, &[], &settings).is_err());
    assert!(minimize(&scenario, Target::LoraTest, &[good, good], &settings).is_err());
    for bad in [
        Settings { tolerance: f64::NAN, ..settings },
        Settings { scan: 2, ..settings },
        Settings { max_solves: 0, ..settings },
    ] {
        assert!(minimize(&scenario, Target::LoraTest, &[good], &bad).is_err(), "{bad:?}");
    }
    let alone = Scenario { lora: None, ..scenario.clone() };
    assert!(matches!(
        minimize(&alone, Target::LoraTest, &[variable(PretrainLambda, 0.1, 1.0)], &settings),
        Err(Error::MissingField { field: "lora", .. })
    ));
    // With almost no data, no point can be trusted.
    let mut hopeless = scenario.clone();
    hopeless.lora = hopeless.lora.map(|training| training.with_alpha(0.1).unwrap());
    let result = minimize(&hopeless, Target::LoraTest, &[variable(LoraLambda, 1e-3, 1e-2)], &settings);
    assert!(
        matches!(result, Err(Error::NoOptimum { excluded, solves }) if excluded > 0 && excluded < solves),
        "{result:?}"
    );
}

/// A pre-training that cannot be trusted gives frozen weights of which nothing is known, so that a fine-tuning
/// on top of it cannot be trusted either.
#[test]
fn what_stands_on_an_untrusted_pretraining_is_left_out() {
    let untrusted = scenario(
        r#"{"model": {"tokens": 2, "activation": "softmax", "delta": 0.5, "teacher": {"wishart": {"kappa0": 0.5}}, "inverse_temperature": 4.0},
            "pretrain": {"alpha": 0.2, "lambda": 0.001}, "lora": {"alpha": 5.0, "lambda": 0.5},
            "options": {"log2_nodes": 7, "tolerance": 0.1}}"#,
    );
    let outcome = untrusted.solve().unwrap();
    let base = outcome.pretrain.unwrap();
    assert!(base.status.is_success() && !base.validity.reliable, "{base:?}");
    let settings = Settings { scan: 3, max_solves: 10, tolerance: 0.1, ..Settings::default() };
    let anyway = Settings { reliable_only: false, ..settings };
    for (target, parameter, low, high) in [
        (Target::PretrainTest, Parameter::PretrainLambda, 0.0009, 0.0011),
        (Target::EffectiveNoise, Parameter::PretrainLambda, 0.0009, 0.0011),
        (Target::LoraTest, Parameter::LoraLambda, 0.4, 0.6),
    ] {
        let ridge = [variable(parameter, low, high)];
        let refused = minimize(&untrusted, target, &ridge, &settings);
        assert!(
            matches!(refused, Err(Error::NoOptimum { solves, excluded }) if solves == excluded),
            "{target:?}: {refused:?}"
        );
        let taken = minimize(&untrusted, target, &ridge, &anyway).unwrap();
        assert!(taken.value.is_finite(), "{target:?}: {taken:?}");
    }
}

/// A simplex has one vertex more than there are variables. The search once panicked if the bound on the solves ended
/// it before every vertex of its second simplex had a value.
#[test]
fn a_search_ends_anywhere() {
    let scenario = scenario(
        r#"{"model": {"tokens": 2, "activation": "linear", "delta": 0.5, "teacher": {"wishart": {"kappa0": 0.5}}},
            "pretrain": {"alpha": 0.2, "lambda": 0.1}, "lora": {"alpha": 3.0, "lambda": 0.3},
            "options": {"log2_nodes": 6}}"#,
    );
    let variables = [
        variable(Parameter::PretrainLambda, 0.05, 0.2),
        variable(Parameter::LoraLambda, 0.2, 0.4),
        variable(Parameter::Beta, 0.8, 1.1),
    ];
    let mut ended_early = 0;
    for max_solves in 10..40 {
        let settings = Settings { max_solves, tolerance: 0.1, ..Settings::default() };
        let optimum = minimize(&scenario, Target::LoraTest, &variables, &settings).unwrap();
        assert!(optimum.solves <= max_solves + 1 && optimum.value.is_finite(), "{optimum:?}");
        ended_early += usize::from(!optimum.converged);
    }
    assert!(ended_early > 0);
}
