//! Fine-tuning of linear attention: reference values, exact identities, an independent evaluation of the averages with a
//! brute-force proximal operator, limits, standard errors, determinism and error paths.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::sync::LazyLock;

use common::{assert_close, assert_labelled, log_grid, perfectly_frozen};
use lora_asymptotics::fixed_point::Status;
use lora_asymptotics::lora::{
    self, Branch, Divergence, Errors, Frozen, Order, Score, Selection, Sequences, Solution, Training, Verdict,
};
use lora_asymptotics::quadrature::ScrambledSobol;
use lora_asymptotics::{Error, Model, Options, Start, Teacher, pretrain};
use proptest::prelude::*;
use rayon::prelude::*;
use serde_json::Value;

/// The most accurate options that are still fast.
static ACCURATE: LazyLock<Options> =
    LazyLock::new(|| Options::default().with_tolerance(1e-10).unwrap().with_scrambles(16).unwrap());

fn solve_with(model: &Model, frozen: &Frozen, training: &Training, options: &Options) -> Solution {
    lora::solve(model, frozen, training, options)
        .unwrap_or_else(|error| panic!("{model:?}, {frozen:?}, {training:?}: {error}"))
}

fn solve(model: &Model, frozen: &Frozen, training: &Training) -> Solution {
    solve_with(model, frozen, training, &Options::default())
}

fn converged(model: &Model, frozen: &Frozen, training: &Training, options: &Options) -> Solution {
    solve_with(model, frozen, training, options)
        .into_converged()
        .unwrap_or_else(|error| panic!("{model:?}, {frozen:?}, {training:?}: {error}"))
}

/// Fresh sequences with a given effective noise. The solution depends on nothing else of the frozen weights.
fn fresh(tokens: usize, delta_eff: f64, alpha: f64, lambda: f64, options: &Options) -> Solution {
    let (model, frozen) = perfectly_frozen(tokens, delta_eff);
    solve_with(&model, &frozen, &Training::fresh(alpha, lambda).unwrap(), options)
}

fn active(fraction: f64, score: Score) -> Sequences {
    Sequences::Active(Selection::new(fraction, score).unwrap())
}

/// The number of coordinates, `K = T(T+1)/2`.
fn coordinates(tokens: usize) -> f64 {
    0.5 * (tokens * (tokens + 1)) as f64
}

/// The mean and its standard error.
fn estimate(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (mean, (variance / n).sqrt())
}

mod reference {
    use super::*;

    struct Record {
        model: Model,
        frozen: Frozen,
        training: Training,
        expected: Value,
    }

    fn records(lines: &str) -> Vec<Record> {
        lines
            .lines()
            .map(|line| {
                let record: Value = serde_json::from_str(line).unwrap();
                let part = |name: &str| record["scenario"][name].clone();
                Record {
                    model: serde_json::from_value(part("model")).unwrap(),
                    frozen: serde_json::from_value(part("frozen")).unwrap(),
                    training: serde_json::from_value(part("lora")).unwrap(),
                    expected: record["expected"]["lora"].clone(),
                }
            })
            .collect()
    }

    /// `(name, value, std)` of every leaf; the name is the last part of the path, as in `std_error`.
    fn leaves(name: &str, expected: &Value, into: &mut Vec<(String, f64, f64)>) {
        let fields = expected.as_object().unwrap();
        if let Some(value) = fields.get("value") {
            into.push((name.to_owned(), value.as_f64().unwrap(), expected["std"].as_f64().unwrap()));
        } else {
            for (name, value) in fields {
                leaves(name, value, into);
            }
        }
    }

    fn named(solution: &Solution, name: &str) -> f64 {
        let solution = serde_json::to_value(solution).unwrap();
        [&solution["order"][name], &solution["errors"][name], &solution[name]]
            .iter()
            .find_map(|value| value.as_f64())
            .unwrap()
    }

    /// Asserts that every leaf agrees within 4 combined standard errors, and returns the number of leaves.
    fn compare(record: &Record) -> usize {
        let Record { model, frozen, training, expected } = record;
        let solution = converged(model, frozen, training, &ACCURATE);
        let errors = serde_json::to_value(solution.std_error).unwrap();
        let mut expected_leaves = Vec::new();
        leaves("", expected, &mut expected_leaves);
        for (name, value, std) in &expected_leaves {
            let found = named(&solution, name);
            let tolerance = if model.tokens() == 1 {
                assert!(errors[name].is_null(), "quadrature has no standard error");
                1e-7 * value.abs() + 4.0 * std
            } else {
                4.0 * std.hypot(errors[name].as_f64().unwrap()) + 1e-6
            };
            assert!(
                (found - value).abs() <= tolerance,
                "{model:?}, {frozen:?}, {training:?}: {name} = {found}, expected {value} +- {tolerance:e}"
            );
        }
        expected_leaves.len()
    }

    #[test]
    fn fresh_sequences() {
        let records = records(include_str!("data/lora_linear.jsonl"));
        assert_eq!(records.len(), 9);
        for record in &records {
            assert_eq!(compare(record), 10);
        }
    }

    /// The reference for random and active selection replaces the law of the label noise by a Gaussian of the
    /// same variance.
    #[test]
    fn selected_sequences() {
        let records = records(include_str!("data/lora_active_linear.jsonl"));
        assert_eq!(records.len(), 18);
        for record in &records {
            assert_eq!(compare(record), 2);
        }
    }
}

/// Converged points with every kind of sequences, `q0 != 1` and `beta != 1` among them: `(model, frozen, training)`.
fn all_kinds() -> Vec<(Model, Frozen, Training)> {
    let kinds =
        [Sequences::Fresh, Sequences::Reused, active(0.2, Score::Frobenius), active(0.1, Score::Centred)];
    let frozen = Frozen::new(2.0, 1.2, 1.1).unwrap().with_response(0.7).unwrap();
    let mut points = Vec::new();
    for tokens in 1..=8 {
        for (i, sequences) in kinds.into_iter().enumerate() {
            let q0 = [1.0, 2.3, 0.8][(tokens + i) % 3];
            let beta = [1.0, 0.8, 1.3, 0.0, 0.9][(tokens + 2 * i) % 5];
            let alpha = if tokens == 1 { 15.0 } else { 2.5 + 0.5 * i as f64 };
            let training = Training::fresh(alpha, 0.3 * q0)
                .unwrap()
                .with_variance(q0)
                .unwrap()
                .recalibrated(beta)
                .unwrap()
                .on(sequences);
            points.push((Model::linear(tokens, 0.5).unwrap(), frozen, training));
        }
    }
    points
}

mod identities {
    use super::*;

    static QUICK: LazyLock<Options> = LazyLock::new(|| ACCURATE.with_log2_nodes(11).unwrap());

    #[test]
    fn the_ridge_equations_close() {
        for (model, frozen, training) in all_kinds() {
            let solution = converged(&model, &frozen, &training, &QUICK);
            let Order { q, m, v, q_hat, m_hat, v_hat, eta } = solution.order;
            let q0 = training.q0();
            let what = |name: &str| format!("{name}, {model:?}, {training:?}");
            assert!(m > 0.5 * (q * q0).sqrt() && solution.residual <= 1e-10, "{}", what("trivial"));
            let r = v_hat + 2.0 * training.lambda().unwrap() + 2.0 * eta;
            assert_close(&what("v"), v, 1.0 / r, 1e-9);
            assert_close(&what("m"), m, m_hat * q0 / r, 1e-9);
            assert_close(&what("q"), q, (m_hat * m_hat * q0 + q_hat) / (r * r), 1e-9);
            assert_close(&what("q - m^2/q0"), v * v * q_hat, q - m * m / q0, 1e-8);
            assert_close(&what("alignment"), solution.alignment, m / (q * q0).sqrt(), 1e-12);
        }
    }

    #[test]
    fn errors_are_functions_of_the_overlaps() {
        for (model, frozen, training) in all_kinds() {
            let solution = converged(&model, &frozen, &training, &QUICK);
            let Order { q, m, .. } = solution.order;
            let Errors { test, test_clean, train, frozen: baseline, forgetting, .. } = solution.errors;
            let q0 = training.q0();
            let what = |name: &str| format!("{name}, {model:?}, {training:?}");
            let prefactor = 2.0 * coordinates(model.tokens()) / (model.tokens() * model.tokens()) as f64;
            let noise = solution.effective_noise.unwrap().test;
            let error = |noise: f64, q: f64, m: f64| prefactor * (noise + q * q - 2.0 * m * m + q0 * q0);
            assert_close(&what("test"), test, error(noise, q, m), 1e-11);
            assert_close(&what("clean"), test_clean, error(noise - 0.5 * model.delta(), q, m), 1e-11);
            assert_close(&what("frozen"), baseline, error(noise, 0.0, 0.0), 1e-11);
            // The label of pre-training has no part of the true perturbation.
            assert_close(&what("forgetting"), forgetting, prefactor * (noise + q * q), 1e-11);
            let objective = training.alpha() * train + training.lambda().unwrap() * q;
            assert_close(&what("objective"), solution.objective, objective, 1e-11);
        }
    }

    /// Distribution function of chi-square with three degrees of freedom, in closed form up to `erf`.
    fn chi2_3(x: f64) -> f64 {
        statrs::function::erf::erf((0.5 * x).sqrt())
            - (2.0 * x / std::f64::consts::PI).sqrt() * (-0.5 * x).exp()
    }

    /// Distribution function with five degrees of freedom: `F_{K+2}(x) = F_K(x) - 2 x f_K(x)/K` with `f_K`
    /// the density.
    fn chi2_5(x: f64) -> f64 {
        let density = (x / (2.0 * std::f64::consts::PI)).sqrt() * (-0.5 * x).exp();
        chi2_3(x) - 2.0 * x * density / 3.0
    }

    #[test]
    fn effective_noise() {
        let delta = 0.5;
        let model = Model::linear(2, delta).unwrap();
        let frozen = Frozen::new(2.0, 1.2, 1.1).unwrap().with_response(0.7).unwrap();
        let (q0, q, m, v) = (frozen.q0(), frozen.q(), frozen.m(), 0.7);
        let on_fresh = |beta: f64| 0.5 * delta + q0 - 2.0 * beta * m + beta * beta * q;
        let noise = |beta: f64, sequences: Sequences| {
            let training = Training::fresh(4.0, 0.3).unwrap().recalibrated(beta).unwrap().on(sequences);
            converged(&model, &frozen, &training, &QUICK).effective_noise.unwrap()
        };
        for beta in [0.0, 0.4, m / q, 1.0, 1.5] {
            let found = noise(beta, Sequences::Fresh);
            assert_close("fresh, train", found.train.unwrap(), on_fresh(beta), 1e-12);
            assert_close("fresh, test", found.test, on_fresh(beta), 1e-12);

            let p = (4.0 * v / 4.0) / (1.0 + 4.0 * v / 4.0);
            let label = 1.0 - beta * p;
            let reused = label * label * (q0 + 0.5 * delta) - 2.0 * beta * label * (1.0 - p) * m
                + (beta * (1.0 - p)).powi(2) * q;
            let found = noise(beta, Sequences::Reused);
            assert_close("reused, train", found.train.unwrap(), reused, 1e-12);
            assert_close("reused, test", found.test, on_fresh(beta), 1e-12);

            let fraction = 0.15;
            let radius = (0..100).fold((0.0, 50.0), |(low, high), _| {
                let middle = 0.5 * (low + high);
                if chi2_3(middle) < fraction { (middle, high) } else { (low, middle) }
            });
            let rest = 0.5 * delta + q0 - m * m / q;
            let selected = rest + (beta - m / q).powi(2) * q * chi2_5(radius.0) / fraction;
            let found = noise(beta, active(fraction, Score::Frobenius));
            assert_close("active, train", found.train.unwrap(), selected, 1e-9);
            assert_close("active, test", found.test, on_fresh(beta), 1e-12);

            let found = noise(beta, active(fraction, Score::Centred));
            assert_eq!(found.train, None, "anisotropic");
            assert_close("centred, test", found.test, on_fresh(beta), 1e-12);
        }
        let shrinkage: f64 = 1.0 + 4.0 * v / 4.0;
        let special = on_fresh(1.0) / (shrinkage * shrinkage);
        assert_close("reused at beta = 1", noise(1.0, Sequences::Reused).train.unwrap(), special, 1e-12);
    }

    /// The clean error is not computed from the noisy one. With a label noise that is eighteen orders of
    /// magnitude larger, the clean error has the closed form of a model without label noise, to its last
    /// digits. The ridge keeps the perturbation at zero.
    #[test]
    fn clean_error_beside_huge_label_noise() {
        let (tokens, q0) = (2, 1e-9);
        let frozen = Frozen::new(1.0, 1.0, 1.0 - 1e-12).unwrap();
        let training = Training::fresh(4.0, 1e9).unwrap().with_variance(q0).unwrap();
        let solution = lora::solve(&Model::linear(tokens, 1e6).unwrap(), &frozen, &training, &QUICK).unwrap();
        let lora::Order { q, m, .. } = solution.order;
        let left = 1.0 - 2.0 * frozen.m() + 1.0;
        let expected = 1.5 * (left + (q - q0).powi(2) + 2.0 * (q * q0 - m * m));
        assert_close("clean", solution.errors.test_clean, expected, 1e-9);
        assert!(expected > 2.9e-12, "{expected:e}");
        assert_close("noisy", solution.errors.test, 1.5 * 0.5e6, 1e-12);
    }

    /// Fine-tuning depends on the effective noise only. Reused sequences, and fresh ones with the same noise
    /// on the label, agree up to rounding, except for the test errors.
    #[test]
    fn pretraining_enters_through_the_effective_noise() {
        let (model, frozen) =
            (Model::linear(3, 0.5).unwrap(), Frozen::new(2.0, 1.2, 1.1).unwrap().with_response(0.7).unwrap());
        let reused = Training::fresh(3.0, 0.3).unwrap().reused();
        let a = converged(&model, &frozen, &reused, &QUICK);
        let b = fresh(3, a.effective_noise.unwrap().train.unwrap(), 3.0, 0.3, &QUICK);
        assert_close("q", a.order.q, b.order.q, 1e-9);
        assert_close("m", a.order.m, b.order.m, 1e-9);
        assert_close("train", a.errors.train, b.errors.train, 1e-9);
    }

    #[test]
    fn the_scale_of_the_perturbation_is_a_unit() {
        for (tokens, sequences) in [
            (1, Sequences::Fresh),
            (2, Sequences::Reused),
            (3, active(0.1, Score::Frobenius)),
            (4, active(0.3, Score::Centred)),
        ] {
            let at = |scale: f64| {
                let square = scale * scale;
                let frozen = Frozen::new(2.0 * square, 1.2 * square, 1.1 * square)
                    .unwrap()
                    .with_response(0.7)
                    .unwrap();
                let training = Training::fresh(10.0, 0.3 * scale)
                    .unwrap()
                    .with_variance(scale)
                    .unwrap()
                    .recalibrated(0.9)
                    .unwrap()
                    .on(sequences);
                converged(&Model::linear(tokens, 0.5 * square).unwrap(), &frozen, &training, &QUICK)
            };
            let one = at(1.0);
            for scale in [0.3, 2.7, 1e3] {
                let other = at(scale);
                assert_close("alignment", other.alignment, one.alignment, 1e-8);
                assert_close("q", other.order.q, scale * one.order.q, 1e-8);
                assert_close("m", other.order.m, scale * one.order.m, 1e-8);
                assert_close("v", other.order.v, one.order.v / scale, 1e-8);
                assert_close("v_hat", other.order.v_hat, scale * one.order.v_hat, 1e-8);
                assert_close("m_hat", other.order.m_hat, scale * one.order.m_hat, 1e-8);
                assert_close("q_hat", other.order.q_hat, scale.powi(3) * one.order.q_hat, 1e-8);
                let square = scale * scale;
                assert_close("objective", other.objective, square * one.objective, 1e-8);
                assert_close("test", other.errors.test, square * one.errors.test, 1e-8);
                assert_close("train", other.errors.train, square * one.errors.train, 1e-8);
            }
        }
    }
}

/// The train objective is a minimum over the weights, and the fixed point a stationary point of the free energy
/// `alpha E min_chi [l'(chi; q) + |chi - omega|^2/(2v)] + lambda q + (terms without alpha and lambda)`. Its total
/// derivative is therefore the explicit one:
///
/// * in `lambda`: `q`;
/// * in `alpha`: the Moreau envelope `E[l'(chi_p) + |chi_p - omega|^2/(2v)]`, that is `train + v E|g|^2/2`, since
///   `chi_p - omega = v g`, that is `train + v qhat/(2 alpha)`.
mod envelope {
    use super::*;

    /// Derivative by the five-point rule: the truncation error is of fourth order in the step.
    fn derivative(f: impl Fn(f64) -> f64, x: f64, h: f64) -> f64 {
        (8.0 * (f(x + h) - f(x - h)) - (f(x + 2.0 * h) - f(x - 2.0 * h))) / (12.0 * h)
    }

    fn deviations(tokens: usize, delta_eff: f64, alpha: f64, lambda: f64, options: &Options) -> [f64; 2] {
        let at = |alpha, lambda| fresh(tokens, delta_eff, alpha, lambda, options).into_converged().unwrap();
        let solution = at(alpha, lambda);
        let moreau = solution.errors.train + solution.order.v * solution.order.q_hat / (2.0 * alpha);
        [
            derivative(|x| at(alpha, x).objective, lambda, 0.1 * lambda) - solution.order.q,
            derivative(|x| at(x, lambda).objective, alpha, 0.02 * alpha) - moreau,
        ]
    }

    #[test]
    fn one_token() {
        for (delta_eff, alpha, lambda) in [(1.0, 5.0, 0.05), (0.25, 3.0, 1.0), (0.1, 4.0, 0.5)] {
            for deviation in deviations(1, delta_eff, alpha, lambda, &Options::default()) {
                assert!(deviation.abs() < 1e-5, "{delta_eff}, {alpha}, {lambda}: {deviation:e}");
            }
        }
    }

    #[test]
    fn several_tokens() {
        for (tokens, delta_eff, alpha, lambda) in
            [(2, 1.0, 3.0, 0.5), (2, 0.25, 2.5, 0.3), (3, 1.0, 2.0, 0.5), (5, 0.5, 2.0, 0.2)]
        {
            let all: Vec<[f64; 2]> = (0..10)
                .map(|seed| {
                    let options = Options::default().with_log2_nodes(12).unwrap().with_seed(seed);
                    deviations(tokens, delta_eff, alpha, lambda, &options)
                })
                .collect();
            for i in [0, 1] {
                let (mean, error) = estimate(&all.iter().map(|row| row[i]).collect::<Vec<_>>());
                assert!(error < 2e-3, "too noisy to tell: {error:e}");
                assert!(
                    mean.abs() < 5.0 * error + 1e-5,
                    "T = {tokens}, derivative {i}: {mean:e} +- {error:e}"
                );
            }
        }
    }
}

mod perfect_frozen_weights {
    use super::*;

    #[test]
    fn a_small_ridge_recovers_the_perturbation() {
        for (tokens, alpha) in [(1, 5.0), (2, 5.0), (3, 3.0), (8, 2.0)] {
            let mut previous = f64::INFINITY;
            for lambda in [1e-1, 1e-2, 1e-3, 1e-4] {
                let solution = fresh(tokens, 0.0, alpha, lambda, &Options::default());
                assert_eq!(solution.status, Status::Converged, "T = {tokens}, lambda = {lambda}");
                // The bias of the ridge is of first order in lambda, the misalignment of second order.
                let missing = 1.0 - solution.alignment;
                assert!(missing < lambda * lambda && missing < previous, "T = {tokens}: {solution:?}");
                assert!((solution.order.q - 1.0).abs() < 2.0 * lambda, "T = {tokens}: {solution:?}");
                previous = missing;
            }
        }
    }

    #[test]
    fn without_a_ridge_recovery_is_perfect() {
        for tokens in [2, 3, 5] {
            let solution = fresh(tokens, 0.0, 5.0, 0.0, &Options::default());
            assert_eq!(solution.status, Status::Converged, "{solution:?}");
            assert!((solution.alignment - 1.0).abs() < 1e-9, "{solution:?}");
            assert!((solution.order.q - 1.0).abs() < 1e-6, "{solution:?}");
            assert!(solution.errors.test < 1e-6 && solution.objective < 1e-6, "{solution:?}");
        }
    }
}

mod starts {
    use super::*;

    fn from(start: Start, alpha: f64, lambda: f64) -> Solution {
        // The branches are compared to far less than their standard errors.
        let options = Options::default().with_tolerance(1e-10).unwrap().with_start(start);
        fresh(2, 1.0, alpha, lambda, &options)
    }

    #[test]
    fn with_enough_sequences_all_starts_agree() {
        for (alpha, lambda) in [(2.0, 0.5), (5.0, 0.05)] {
            let [informed, uninformed, best] =
                [Start::Informed, Start::Uninformed, Start::Best].map(|start| from(start, alpha, lambda));
            assert_eq!(informed.branch, Branch::Informed);
            assert_eq!(uninformed.branch, Branch::Uninformed);
            assert_eq!(best, informed);
            for solution in [&informed, &uninformed] {
                assert_eq!(solution.status, Status::Converged);
                assert_close("q", solution.order.q, best.order.q, 1e-8);
                assert_close("m", solution.order.m, best.order.m, 1e-8);
            }
        }
    }

    #[test]
    fn below_weak_recovery_nothing_is_learned() {
        for alpha in [0.1, 0.2] {
            let solution = from(Start::Uninformed, alpha, 0.5);
            assert_eq!(solution.branch, Branch::Uninformed);
            assert_eq!(solution.status, Status::Converged);
            assert!(solution.order.m <= 0.0 && solution.alignment <= 0.0, "{solution:?}");
            assert!(solution.order.q > 0.0, "for linear attention there is no collapse to w = 0");
            // The weights fit noise, and the test error is larger than without them.
            assert!(solution.errors.test > solution.errors.frozen, "{solution:?}");
            assert!(solution.errors.train < solution.errors.frozen, "{solution:?}");
        }
    }

    /// Where both branches can be trusted, `best` never returns the one with the larger objective. Where the
    /// informed branch is flagged, `best` never returns the uninformed one.
    #[test]
    fn best_compares_objectives_or_flags() {
        for (alpha, lambda) in
            [(0.2, 0.5), (0.5, 0.5), (1.0, 0.5), (1.5, 0.5), (2.0, 0.5), (2.0, 2.0), (3.0, 5.0)]
        {
            let [informed, uninformed, best] =
                [Start::Informed, Start::Uninformed, Start::Best].map(|start| from(start, alpha, lambda));
            if informed.validity.reliable {
                let least = informed.objective.min(uninformed.objective);
                assert!(best.objective <= least * (1.0 + 1e-8), "{alpha}, {lambda}: {best:?}");
            } else {
                assert_eq!(best, informed);
                assert!(!best.validity.reliable);
            }
        }
    }
}

mod standard_errors {
    use super::*;

    fn observed(solution: &Solution) -> [(f64, f64); 7] {
        let Solution { order, errors, alignment, objective, std_error: own, .. } = solution;
        [
            (order.q, own.q),
            (order.m, own.m),
            (order.v, own.v),
            (*alignment, own.alignment),
            (errors.test, own.test),
            (*objective, own.objective),
            (errors.train, own.train),
        ]
        .map(|(value, error)| (value, error.unwrap()))
    }

    #[test]
    fn match_the_spread_over_seeds() {
        const NAMES: [&str; 7] = ["q", "m", "v", "alignment", "test", "objective", "train"];
        const SEEDS: u64 = 50;
        for (tokens, alpha, lambda) in [(2, 2.0, 0.5), (3, 2.0, 0.3)] {
            let all: Vec<[(f64, f64); 7]> = (0..SEEDS)
                .map(|seed| {
                    let options = Options::default().with_log2_nodes(10).unwrap().with_seed(seed);
                    observed(&fresh(tokens, 1.0, alpha, lambda, &options).into_converged().unwrap())
                })
                .collect();
            for (i, name) in NAMES.iter().enumerate() {
                let values: Vec<f64> = all.iter().map(|row| row[i].0).collect();
                let spread = estimate(&values).1 * (SEEDS as f64).sqrt();
                let reported = (all.iter().map(|row| row[i].1.powi(2)).sum::<f64>() / SEEDS as f64).sqrt();
                let ratio = spread / reported;
                assert!((1.0 / 1.5..1.5).contains(&ratio), "T = {tokens}, {name}: spread/reported = {ratio}");
            }
        }
    }

    #[test]
    fn are_small_at_the_default_options() {
        for (tokens, delta_eff, alpha, lambda) in [
            (2, 1.0, 2.0, 0.5),
            (2, 0.25, 2.0, 0.05),
            (2, 2.0, 5.0, 0.5),
            (3, 1.0, 2.0, 0.5),
            (3, 2.0, 3.0, 1.0),
        ] {
            let solution = fresh(tokens, delta_eff, alpha, lambda, &Options::default());
            assert_eq!(solution.validity.verdict, Verdict::Good);
            let own = solution.std_error;
            for (name, error) in
                [("q", own.q), ("m", own.m), ("alignment", own.alignment), ("test", own.test)]
            {
                assert!(error.unwrap() < 3e-4, "T = {tokens}, {name}: {error:?}");
            }
            assert_eq!(own.frozen, None, "in closed form");
        }
    }

    #[test]
    fn a_single_scramble_has_none() {
        let solution = fresh(2, 1.0, 2.0, 0.5, &Options::default().with_scrambles(1).unwrap());
        assert_eq!(serde_json::to_string(&solution.std_error).unwrap(), "{}");
    }

    #[test]
    fn seeds_differ_within_errors() {
        let [a, b] = [0, 1].map(|seed| {
            observed(&fresh(
                3,
                1.0,
                2.0,
                0.5,
                &Options::default().with_scrambles(16).unwrap().with_seed(seed),
            ))
        });
        for ((x, dx), (y, dy)) in a.into_iter().zip(b) {
            assert!(
                x.to_bits() != y.to_bits() && (x - y).abs() < 5.0 * dx.hypot(dy),
                "{x} +- {dx}, {y} +- {dy}"
            );
        }
    }
}

#[test]
fn the_same_bits_on_any_number_of_threads() {
    let settings = [
        (1, Sequences::Fresh),
        (2, Sequences::Fresh),
        (2, active(0.1, Score::Centred)),
        (3, active(0.1, Score::Frobenius)),
        (3, Sequences::Reused),
    ];
    for (tokens, sequences) in settings {
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let frozen = Frozen::new(2.0, 1.2, 1.1).unwrap().with_response(0.7).unwrap();
            let training = Training::fresh(3.0, 0.3).unwrap().on(sequences);
            let solution = pool.install(|| solve(&Model::linear(tokens, 0.5).unwrap(), &frozen, &training));
            serde_json::to_string(&solution).unwrap()
        };
        let one = on(1);
        assert_eq!(on(2), one);
        assert_eq!(on(8), one);
    }
}

/// The averages at the fixed point are computed by other means: plain token coordinates instead of
/// eigenbases, a proximal operator by brute force instead of the secular equation, divergences by integration
/// by parts alone.
mod independent_averages {
    use super::*;

    const SCRAMBLES: u64 = 16;

    /// One sample: `T` tokens of `chi*` and of `omega`, and the label `B` (rows).
    struct Sample<const T: usize> {
        star: [f64; T],
        omega: [f64; T],
        label: [[f64; T]; T],
    }

    impl<const T: usize> Sample<T> {
        /// `T^{-2} |chi chi^T - B|_F^2`.
        fn loss(&self, chi: &[f64; T]) -> f64 {
            let mut sum = 0.0;
            for i in 0..T {
                for j in 0..T {
                    sum += (chi[i] * chi[j] - self.label[i][j]).powi(2);
                }
            }
            sum / (T * T) as f64
        }

        fn moreau(&self, chi: &[f64; T], v: f64) -> f64 {
            let distance: f64 = chi.iter().zip(&self.omega).map(|(c, o)| (c - o).powi(2)).sum();
            self.loss(chi) + distance / (2.0 * v)
        }
    }

    /// Every local minimum of the quartic `(chi^2 - b)^2 + (chi - omega)^2/(2v)` is a root of a cubic. The
    /// lowest one is returned.
    fn prox_1(sample: &Sample<1>, v: f64) -> [f64; 1] {
        let (p, r) = (0.25 / v - sample.label[0][0], -sample.omega[0] / (4.0 * v));
        // The cubic is chi^3 + p chi + r = 0.
        let discriminant = 0.25 * r * r + p * p * p / 27.0;
        let roots: Vec<f64> = if discriminant >= 0.0 {
            let s = discriminant.sqrt();
            vec![(-0.5 * r + s).cbrt() + (-0.5 * r - s).cbrt()]
        } else {
            let radius = 2.0 * (-p / 3.0).sqrt();
            let angle = (3.0 * r / (p * radius)).clamp(-1.0, 1.0).acos() / 3.0;
            (0..3).map(|k| radius * (angle - f64::from(k) * std::f64::consts::TAU / 3.0).cos()).collect()
        };
        let polished = roots.into_iter().map(|root| {
            (0..4).fold(root, |x, _| {
                let step = (x * x * x + p * x + r) / (3.0 * x * x + p);
                if step.is_finite() && step.abs() < 0.1 { x - step } else { x }
            })
        });
        least(polished.map(|x| [x]), |chi| sample.moreau(chi, v))
    }

    fn least<const T: usize>(
        candidates: impl Iterator<Item = [f64; T]>,
        cost: impl Fn(&[f64; T]) -> f64,
    ) -> [f64; T] {
        candidates.min_by(|x, y| cost(x).total_cmp(&cost(y))).unwrap()
    }

    /// Gradient and Hessian of the Moreau objective for two tokens, times `T^2/4 = 1`.
    fn derivatives_2(sample: &Sample<2>, v: f64, chi: &[f64; 2]) -> ([f64; 2], [f64; 3]) {
        let [x, y] = *chi;
        let [[a, b], [_, d]] = sample.label;
        let norm = x * x + y * y;
        let gradient = [
            norm * x - a * x - b * y + (x - sample.omega[0]) / v,
            norm * y - b * x - d * y + (y - sample.omega[1]) / v,
        ];
        (gradient, [norm + 2.0 * x * x - a + 1.0 / v, 2.0 * x * y - b, norm + 2.0 * y * y - d + 1.0 / v])
    }

    /// Descends to a local minimum by Newton's method with step halving. The Hessian is shifted where it is
    /// not positive definite.
    fn descend(sample: &Sample<2>, v: f64, start: [f64; 2]) -> [f64; 2] {
        let mut chi = start;
        let mut cost = sample.moreau(&chi, v);
        for _ in 0..60 {
            let (g, [a, b, d]) = derivatives_2(sample, v, &chi);
            let lowest = 0.5 * (a + d) - (0.25 * (a - d) * (a - d) + b * b).sqrt();
            let shift = if lowest > 1e-3 { 0.0 } else { 0.1 - lowest };
            let (a, d) = (a + shift, d + shift);
            let determinant = a * d - b * b;
            let step = [(d * g[0] - b * g[1]) / determinant, (a * g[1] - b * g[0]) / determinant];
            let mut fraction = 1.0;
            loop {
                let next = [chi[0] - fraction * step[0], chi[1] - fraction * step[1]];
                let next_cost = sample.moreau(&next, v);
                if next_cost <= cost {
                    (chi, cost) = (next, next_cost);
                    break;
                }
                fraction *= 0.5;
                if fraction < 1e-3 {
                    break;
                }
            }
            if step[0].abs() + step[1].abs() < 1e-11 {
                break;
            }
        }
        chi
    }

    /// The search starts from six directions at two radii. Minima occur as points near `+-` the top
    /// eigenvector of the label.
    fn prox_2(sample: &Sample<2>, v: f64) -> [f64; 2] {
        let radius = sample.label.iter().flatten().map(|x| x.abs()).sum::<f64>().sqrt();
        let starts = (0..12).map(|k| {
            let angle = f64::from(k % 6) * std::f64::consts::TAU / 6.0 + 0.3;
            let length = if k < 6 { radius } else { 0.2 * radius };
            [length * angle.cos(), length * angle.sin()]
        });
        let starts = starts.chain([sample.omega]);
        least(starts.map(|start| descend(sample, v, start)), |chi| sample.moreau(chi, v))
    }

    /// The averages `vhat, mhat, qhat, eta, train`, and `vhat` without jumps.
    type Averages = [f64; 6];

    /// The averages of one scramble at the fixed point `(q, m, v)`, with `q0 = 1`. `curvature` gives
    /// `tr H^{-1}` at the proximal point, with `H` the Hessian of the Moreau objective.
    fn averages<const T: usize>(
        solution: &Solution,
        alpha: f64,
        delta_eff: f64,
        (log2_nodes, scramble): (u32, u64),
        prox: impl Fn(&Sample<T>, f64) -> [f64; T] + Sync,
        trace_inverse: impl Fn(&Sample<T>, f64, &[f64; T]) -> f64 + Sync,
    ) -> Averages {
        let Order { q, m, v, .. } = solution.order;
        let dimensions = 2 * T + T * (T + 1) / 2;
        // The solver did not use this seed, so that the points are different.
        let points = ScrambledSobol::new(dimensions, log2_nodes, 77_777, scramble).unwrap();
        let columns: Vec<Vec<f64>> = (0..dimensions).map(|d| points.normals(d).unwrap()).collect();
        let per_node: Vec<[f64; 6]> = (0..points.nodes())
            .into_par_iter()
            .map(|node| {
                let normal = |d: usize| columns[d][node];
                let star: [f64; T] = std::array::from_fn(normal);
                let omega = std::array::from_fn(|i| m * star[i] + (q - m * m).sqrt() * normal(T + i));
                let mut label = [[0.0; T]; T];
                let mut next = 2 * T;
                for i in 0..T {
                    for j in i..T {
                        let deviation = (2.0 * delta_eff).sqrt() * if i == j { 1.0 } else { 0.5_f64.sqrt() };
                        label[i][j] = star[i] * star[j] + deviation * normal(next);
                        label[j][i] = label[i][j];
                        next += 1;
                    }
                    label[i][i] += q - 1.0;
                }
                let sample = Sample { star, omega, label };
                let chi = prox(&sample, v);
                let g: [f64; T] = std::array::from_fn(|i| (chi[i] - omega[i]) / v);
                let dot = |x: &[f64; T], y: &[f64; T]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
                let trace: f64 = (0..T).map(|i| sample.label[i][i]).sum();
                [
                    dot(&g, &sample.omega),
                    dot(&g, &sample.star),
                    dot(&g, &g),
                    // This is d/dq of T^{-2} |chi chi^T - B|^2 with dB/dq = I.
                    2.0 / (T * T) as f64 * (trace - dot(&chi, &chi)),
                    sample.loss(&chi),
                    (trace_inverse(&sample, v, &chi) / v - T as f64) / v,
                ]
            })
            .collect();
        let mean = |i: usize| per_node.iter().map(|row| row[i]).sum::<f64>() / per_node.len() as f64;
        let determinant = q - m * m;
        let div_omega = (mean(0) - m * mean(1)) / determinant;
        let div_star = (q * mean(1) - m * mean(0)) / determinant;
        [-alpha * div_omega, alpha * div_star, alpha * mean(2), alpha * mean(3), mean(4), -alpha * mean(5)]
    }

    fn agree(solution: &Solution, all: &[Averages], what: &str) {
        let Order { v_hat, m_hat, q_hat, eta, .. } = solution.order;
        let own = solution.std_error;
        let expected = [
            ("v_hat", v_hat, own.v_hat),
            ("m_hat", m_hat, own.m_hat),
            ("q_hat", q_hat, own.q_hat),
            ("eta", eta, own.eta),
            ("train", solution.errors.train, own.train),
            ("v_hat (1 + J)", v_hat * (1.0 + solution.validity.jump), own.v_hat),
        ];
        for (i, (name, value, own_error)) in expected.into_iter().enumerate() {
            let (mean, error) = estimate(&all.iter().map(|row| row[i]).collect::<Vec<_>>());
            let bound = 5.0 * error.hypot(own_error.unwrap_or(0.0));
            assert!(
                (mean - value).abs() < bound,
                "{what}, {name}: {value}, independently {mean} +- {error:e}"
            );
            assert!(error < 0.02 * value.abs().max(1.0), "{what}, {name}: too noisy to tell, {error:e}");
        }
    }

    #[test]
    fn one_token() {
        for (delta_eff, alpha, lambda) in [(1.0, 5.0, 0.05), (0.25, 3.0, 1.0), (1.0, 3.0, 0.3)] {
            let solution = fresh(1, delta_eff, alpha, lambda, &ACCURATE).into_converged().unwrap();
            let trace = |s: &Sample<1>, v: f64, chi: &[f64; 1]| {
                1.0 / (12.0 * chi[0] * chi[0] - 4.0 * s.label[0][0] + 1.0 / v)
            };
            let all: Vec<Averages> = (0..SCRAMBLES)
                .map(|scramble| averages::<1>(&solution, alpha, delta_eff, (14, scramble), prox_1, trace))
                .collect();
            agree(&solution, &all, &format!("{delta_eff}, {alpha}, {lambda}"));
        }
    }

    /// At the first point the proximal point jumps for many samples, and at the last for none.
    #[test]
    fn two_tokens() {
        let mut jumps = Vec::new();
        for (delta_eff, alpha, lambda) in [(1.0, 1.0, 0.5), (1.0, 1.3, 0.5), (1.0, 2.0, 0.5)] {
            let solution = fresh(2, delta_eff, alpha, lambda, &ACCURATE);
            assert!(matches!(solution.status, Status::Converged | Status::NoiseLimited), "{solution:?}");
            let trace = |s: &Sample<2>, v: f64, chi: &[f64; 2]| {
                let (_, [a, b, d]) = derivatives_2(s, v, chi);
                (a + d) / (a * d - b * b)
            };
            let all: Vec<Averages> = (0..SCRAMBLES)
                .map(|scramble| averages::<2>(&solution, alpha, delta_eff, (11, scramble), prox_2, trace))
                .collect();
            agree(&solution, &all, &format!("{delta_eff}, {alpha}, {lambda}"));
            jumps.push(solution.validity.jump);
        }
        assert!(jumps[0] > 0.05 && jumps[2] < 1e-4, "{jumps:?}");
    }
}

mod validity {
    use super::*;

    #[test]
    fn few_sequences_and_a_small_ridge_are_flagged() {
        for (tokens, alpha, lambda) in
            [(2, 0.5, 0.05), (2, 1.0, 0.05), (2, 1.0, 0.5), (3, 0.5, 0.05), (1, 1.0, 0.05)]
        {
            let solution = fresh(tokens, 1.0, alpha, lambda, &Options::default());
            assert_eq!(solution.validity.verdict, Verdict::Unreliable, "T = {tokens}: {solution:?}");
            assert_eq!(solution.branch, Branch::Informed, "flagged points are the informed ones");
            assert_labelled(&solution, 1.0);
        }
    }

    /// A strong ridge makes the weights exponentially small. The nodes see nothing of them, and an overlap of the order of rounding is none.
    #[test]
    fn weights_that_the_nodes_do_not_resolve_are_noise_limited() {
        for lambda in [30.0, 100.0] {
            let options = Options::default().with_log2_nodes(8).unwrap();
            let solution = fresh(2, 0.25, 3.0, lambda, &options);
            assert_eq!(solution.status, Status::NoiseLimited, "{solution:?}");
            assert!(solution.order.q < 1e-12, "{solution:?}");
        }
    }

    #[test]
    fn many_sequences_are_good() {
        for (tokens, alpha, lambda) in
            [(1, 6.0, 0.5), (2, 2.0, 0.5), (2, 5.0, 0.05), (3, 2.0, 0.5), (8, 1.0, 0.1)]
        {
            let solution = fresh(tokens, 1.0, alpha, lambda, &Options::default());
            assert_eq!(solution.validity.verdict, Verdict::Good, "T = {tokens}: {solution:?}");
            assert_eq!(solution.divergence == Divergence::IntegrationByParts, tokens == 1);
            assert_labelled(&solution, 1.0);
        }
    }

    /// From many sequences to few, all verdicts occur in order.
    #[test]
    fn a_solve_that_has_not_converged_is_never_reliable() {
        let options = Options::default()
            .with_log2_nodes(8)
            .unwrap()
            .with_scrambles(2)
            .unwrap()
            .with_max_iterations(3)
            .unwrap();
        let training = Training::fresh(5.0, 0.5).unwrap();
        let (model, frozen) = perfectly_frozen(2, 0.5);
        let solution = lora::solve(&model, &frozen, &training, &options).unwrap();
        assert_eq!(solution.status, Status::MaxIterations);
        assert_eq!(solution.validity.verdict, Verdict::Unreliable);
        assert!(!solution.validity.reliable && solution.std_error.q.is_none(), "{solution:?}");
    }

    #[test]
    fn the_verdict_worsens_with_fewer_sequences() {
        let rank = |verdict| match verdict {
            Verdict::Good => 0,
            Verdict::Marginal => 1,
            _ => 2,
        };
        let ranks: Vec<i32> = log_grid(2.5, 0.8, 20)
            .map(|alpha| {
                let solution = fresh(2, 1.0, alpha, 0.5, &Options::default());
                assert_labelled(&solution, 1.0);
                rank(solution.validity.verdict)
            })
            .collect();
        assert!(ranks.is_sorted() && ranks.contains(&1) && ranks[0] == 0 && ranks[19] == 2, "{ranks:?}");
    }
}

mod effects {
    use super::*;

    #[test]
    fn recalibration_to_m_over_q_never_hurts_on_fresh_sequences() {
        for (tokens, q, m) in [(2, 4.0, 0.8), (2, 0.6, 0.7), (3, 1.2, 1.1), (1, 3.0, 1.2)] {
            let (model, frozen) = (Model::linear(tokens, 0.5).unwrap(), Frozen::new(2.0, q, m).unwrap());
            let at = |beta: f64| {
                let training = Training::fresh(6.0, 0.5).unwrap().recalibrated(beta).unwrap();
                converged(&model, &frozen, &training, &Options::default())
            };
            let optimal = at(m / q);
            for beta in [0.0, 0.5 * m / q, 0.9 * m / q, 1.1 * m / q, 1.5 * m / q, 1.0] {
                let other = at(beta);
                assert!(optimal.errors.test <= other.errors.test, "T = {tokens}, beta = {beta}");
                assert!(optimal.alignment >= other.alignment, "T = {tokens}, beta = {beta}");
            }
        }
    }

    /// The mismatched part of the frozen logits is noise on the label, and the selected sequences have little
    /// of it. For the fraction tending to 0, all of it is gone: `Delta_eff -> Delta/2 + Q0 - M^2/Q`.
    #[test]
    fn active_selection_helps_where_the_frozen_weights_are_miscalibrated() {
        let (model, frozen) = (Model::linear(2, 0.5).unwrap(), Frozen::new(2.0, 4.0, 0.8).unwrap());
        let at = |fraction: f64| {
            let training = Training::fresh(5.0, 0.5).unwrap().on(active(fraction, Score::Frobenius));
            converged(&model, &frozen, &training, &ACCURATE)
        };
        let path: Vec<Solution> = [1.0, 0.5, 0.2, 0.1, 0.03, 0.01, 1e-3, 1e-6].map(at).into();
        for pair in path.windows(2) {
            assert!(pair[1].alignment > pair[0].alignment, "{pair:?}");
            assert!(pair[1].errors.test < pair[0].errors.test, "{pair:?}");
        }
        // The reference values are from the theory, section 8: all sequences, and one sequence in a thousand.
        let [all, few] = [&path[0], &path[6]];
        assert!((all.alignment - 0.8979).abs() < 3e-4 && (all.errors.test - 7.687).abs() < 2e-3, "{all:?}");
        assert!((few.alignment - 0.9557).abs() < 3e-4 && (few.errors.test - 7.250).abs() < 2e-3, "{few:?}");
        assert_close("noise", path[7].effective_noise.unwrap().train.unwrap(), 0.25 + 2.0 - 0.16, 1e-3);
        let fresh = converged(&model, &frozen, &Training::fresh(5.0, 0.5).unwrap(), &ACCURATE);
        let tolerance = 5.0 * fresh.std_error.alignment.unwrap().hypot(all.std_error.alignment.unwrap());
        assert!((all.alignment - fresh.alignment).abs() < tolerance, "everything selected is fresh");
    }

    /// On reused sequences the pre-training ridge that aligns best is not the one that predicts best.
    #[test]
    fn the_best_ridge_depends_on_the_target() {
        let model = Model::linear(2, 0.5).unwrap().with_teacher(Teacher::Wishart { kappa0: 0.5 }).unwrap();
        let training = Training::fresh(3.0, 0.2).unwrap().reused();
        let at = |lambda: f64| {
            let pretraining = pretrain::Training::new(0.2, lambda).unwrap();
            let pretrained = pretrain::solve(&model, &pretraining, &Options::default()).unwrap();
            converged(
                &model,
                &pretrained.into_converged().unwrap().freeze().unwrap(),
                &training,
                &Options::default(),
            )
        };
        let path: Vec<Solution> = [0.001, 0.003, 0.01, 0.03, 0.05, 0.1, 0.15, 0.2, 0.3].map(at).into();
        assert!(path.windows(2).all(|pair| pair[1].alignment < pair[0].alignment));
        assert!((path[0].alignment - 0.9963).abs() < 1e-4, "{}", path[0].alignment);
        assert!((path[8].alignment - 0.9904).abs() < 1e-4, "{}", path[8].alignment);
        let least = (0..9).min_by(|&i, &j| path[i].errors.test.total_cmp(&path[j].errors.test)).unwrap();
        assert_eq!(least, 5, "lambda = 0.1");
        // The value quoted comes from a single scramble.
        assert!((path[5].errors.test - 0.7302).abs() < 1e-3, "{}", path[5].errors.test);
    }

    /// If pre-training has collapsed, the frozen weights are zero, and the whole teacher is noise.
    #[test]
    fn fine_tuning_on_collapsed_weights() {
        let frozen = Frozen::new(1.5, 0.0, 0.0).unwrap().with_response(0.0).unwrap();
        let kinds =
            [Sequences::Fresh, Sequences::Reused, active(0.1, Score::Frobenius), active(0.1, Score::Centred)];
        for tokens in [1, 2, 3] {
            let solutions = kinds.map(|sequences| {
                let training = Training::fresh(8.0, 0.5).unwrap().on(sequences);
                converged(&Model::linear(tokens, 0.5).unwrap(), &frozen, &training, &Options::default())
            });
            for solution in &solutions {
                assert_labelled(solution, 1.0);
                let noise = solution.effective_noise.unwrap();
                assert_close("train", noise.train.unwrap(), 0.25 + 1.5, 1e-14);
                assert_close("test", noise.test, 0.25 + 1.5, 1e-14);
                assert!(solution.alignment > 0.8 && solution.errors.test < solution.errors.frozen);
                assert_eq!(
                    solution, &solutions[0],
                    "without logits there is nothing to reuse or to select by"
                );
            }
        }
        // An actual pre-training leads to the same solution.
        let model = Model::linear(2, 0.5).unwrap().with_teacher(Teacher::Wishart { kappa0: 0.5 }).unwrap();
        let collapsed =
            pretrain::solve(&model, &pretrain::Training::new(0.2, 50.0).unwrap(), &Options::default())
                .unwrap();
        assert_eq!(collapsed.status, Status::Collapsed);
        assert_eq!(collapsed.freeze().unwrap(), frozen);
    }

    /// For one token the centred score does not depend on the sequence.
    #[test]
    fn one_token_with_a_sharply_selected_noise() {
        // Without recalibration and nearly without noise, the law of N is a Gaussian cut at two edges of
        // width 0.01, which a rule must resolve. The reference is the same product rule with 4/3 to 2 times
        // the nodes, and no break at the edges.
        let selection = Sequences::Active(Selection::new(0.5, Score::Frobenius).unwrap());
        for (delta, q) in [(1e-2, 1.011_566_99), (1e-4, 1.010_102_28)] {
            let training = Training::fresh(4.0, 0.2).unwrap().recalibrated(0.0).unwrap().on(selection);
            let (model, frozen) = perfectly_frozen(1, 0.5 * delta);
            let solution = lora::solve(&model, &frozen, &training, &Options::default()).unwrap();
            assert_close("q", solution.order.q, q, 2e-8);
        }
    }

    #[test]
    fn one_token_has_no_centred_score() {
        let (model, frozen) = (Model::linear(1, 0.5).unwrap(), Frozen::new(2.0, 1.2, 0.6).unwrap());
        let at = |sequences| {
            converged(&model, &frozen, &Training::fresh(6.0, 0.5).unwrap().on(sequences), &Options::default())
        };
        assert_eq!(at(active(0.1, Score::Centred)), at(Sequences::Fresh));
        assert!(at(active(0.1, Score::Frobenius)).alignment > at(Sequences::Fresh).alignment);
    }
}

mod inputs {
    use super::*;

    static OPTIONS: LazyLock<Options> = LazyLock::new(|| {
        let few = Options::default().with_log2_nodes(6).unwrap().with_scrambles(2).unwrap();
        few.with_tolerance(1e-8).unwrap().with_max_iterations(300).unwrap()
    });
    static FROZEN: LazyLock<Frozen> =
        LazyLock::new(|| Frozen::new(2.0, 1.2, 1.1).unwrap().with_response(0.1).unwrap());

    fn refused<T: std::fmt::Debug>(result: Result<T, Error>) -> &'static str {
        match result {
            Err(Error::InvalidParameter { field, value, allowed }) => {
                assert!(!value.is_empty() && !allowed.is_empty());
                field
            }
            other => panic!("{other:?}"),
        }
    }

    fn accepted(frozen: &Frozen, training: &Training) {
        let solution = solve_with(&Model::linear(2, 0.5).unwrap(), frozen, training, &OPTIONS);
        assert_labelled(&solution, training.q0());
    }

    /// The inputs with one number of them given, or `None` if the number is refused.
    fn with(field: &str, x: f64) -> Result<(Frozen, Training), Error> {
        let (frozen, training) = (*FROZEN, Training::fresh(3.0, 0.3)?);
        let (q0, q, m) = (frozen.q0(), frozen.q(), frozen.m());
        Ok(match field {
            "frozen.q0" => (Frozen::new(x, q, m)?, training),
            "frozen.q" => (Frozen::new(q0, x, m)?, training),
            "frozen.m" => (Frozen::new(q0, q, x)?, training),
            "frozen.v" => (frozen.with_response(x)?, training),
            "lora.alpha" => (frozen, training.with_alpha(x)?),
            "lora.lambda" => (frozen, training.with_lambda(x)?),
            "lora.q0" => (frozen, training.with_variance(x)?),
            "lora.beta" => (frozen, training.recalibrated(x)?),
            "lora.sequences.active.fraction" => {
                (frozen, training.active(Selection::new(x, Score::Frobenius)?))
            }
            other => panic!("{other}"),
        })
    }

    #[test]
    fn numbers_out_of_range_are_named() {
        const NEVER: [f64; 4] = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0];
        for field in [
            "frozen.q0",
            "frozen.q",
            "frozen.m",
            "frozen.v",
            "lora.alpha",
            "lora.lambda",
            "lora.q0",
            "lora.beta",
            "lora.sequences.active.fraction",
        ] {
            for x in NEVER {
                assert_eq!(refused(with(field, x)), field, "{x}");
            }
            let without = with(field, 0.0);
            match field {
                "frozen.q0" | "lora.alpha" | "lora.q0" | "lora.sequences.active.fraction" => {
                    assert_eq!(refused(without), field);
                }
                // Without Q there can be no M.
                "frozen.q" => assert_eq!(refused(without), "frozen.m"),
                _ => {
                    let (frozen, training) = without.unwrap();
                    accepted(&frozen, &training);
                }
            }
        }
        for score in [Score::Frobenius, Score::Centred] {
            assert_eq!(refused(Selection::new(1.0 + 1e-12, score)), "lora.sequences.active.fraction");
            accepted(&FROZEN, &Training::fresh(3.0, 0.3).unwrap().on(active(1.0, score)));
        }
    }

    #[test]
    fn a_ridge_is_needed_where_the_answer_depends_on_it() {
        let (model, training) = (Model::linear(2, 0.5).unwrap(), Training::without_ridge(3.0).unwrap());
        let missing = |error: Error| matches!(error, Error::MissingField { field: "lora.lambda", .. });
        assert!(missing(lora::solve(&model, &FROZEN, &training, &OPTIONS).unwrap_err()));
        assert!(missing(lora::weak_recovery(&model, &FROZEN, &training, &OPTIONS).unwrap_err()));
        assert!(missing(lora::alpha_weak_recovery(&model, &FROZEN, &training, &OPTIONS).unwrap_err()));
        assert!(lora::lambda_collapse(&model, &FROZEN, &training, &OPTIONS).is_ok());
    }

    #[test]
    fn a_nearly_perfect_fit_has_no_negative_error() {
        // The loss is a difference of terms of size one, and nothing of it is left.
        let training = Training::fresh(9.469_959_414_848_077e-68, 5e-4)
            .unwrap()
            .with_variance(4.160_505_573_227_761e35)
            .unwrap();
        let frozen = Frozen::new(1.0, 1.0, 1.0).unwrap().with_response(1.0).unwrap();
        let solution = lora::solve(&Model::linear(1, 1.0).unwrap(), &frozen, &training, &OPTIONS).unwrap();
        assert_labelled(&solution, training.q0());
    }

    #[test]
    fn reused_sequences_need_a_response() {
        let training = Training::fresh(3.0, 0.3).unwrap().reused();
        let frozen = Frozen::new(FROZEN.q0(), FROZEN.q(), FROZEN.m()).unwrap();
        let model = Model::linear(2, 0.5).unwrap();
        let missing = |error: Error| matches!(error, Error::MissingField { field: "frozen.v", .. });
        assert!(missing(lora::solve(&model, &frozen, &training, &OPTIONS).unwrap_err()));
        assert!(missing(lora::weak_recovery(&model, &frozen, &training, &OPTIONS).unwrap_err()));
        assert!(missing(lora::lambda_collapse(&model, &frozen, &training, &OPTIONS).unwrap_err()));
        // Other sequences need no response, and a response of zero may be given.
        accepted(&frozen, &Training::fresh(3.0, 0.3).unwrap());
        accepted(&frozen.with_response(0.0).unwrap(), &training);
    }

    #[test]
    fn extremes_have_no_verdict_but_unreliable() {
        for (alpha, lambda, q0) in
            [(1e300, 0.3, 1.0), (1e-300, 1e308, 1e-90), (1e300, 1e300, 1e100), (3.0, 1e308, 1e-5)]
        {
            for model in [
                Model::linear(1, 0.5).unwrap(),
                Model::linear(2, 0.5).unwrap(),
                Model::softmax(2, 0.5).unwrap(),
            ] {
                let training = Training::fresh(alpha, lambda).unwrap().with_variance(q0).unwrap();
                let solution = lora::solve(&model, &FROZEN, &training, &OPTIONS).unwrap();
                let unreliable = solution.validity.verdict == Verdict::Unreliable;
                assert!(unreliable || solution.status != Status::NonFinite, "{solution:?}");
                let stability = lora::weak_recovery(&model, &FROZEN, &training, &OPTIONS).unwrap();
                let unreliable = stability.validity.verdict == Verdict::Unreliable;
                assert!(unreliable || stability.status != Status::NonFinite, "{stability:?}");
            }
        }
        let training = Training::fresh(1e300, 0.3).unwrap();
        let solution = lora::solve(&Model::linear(2, 0.5).unwrap(), &FROZEN, &training, &OPTIONS).unwrap();
        assert_eq!(solution.status, Status::NonFinite);
        for q0 in [5e-324, 1e-101, 1e101] {
            assert_eq!(refused(with("lora.q0", q0)), "lora.q0");
        }
    }

    #[test]
    fn overlaps_obey_cauchy_and_schwarz() {
        let training = Training::fresh(3.0, 0.3).unwrap();
        let bound = (1.2_f64 * 2.0).sqrt();
        assert_eq!(refused(Frozen::new(2.0, 1.2, 1.0001 * bound)), "frozen.m");
        accepted(&Frozen::new(2.0, 1.2, bound).unwrap(), &training);
    }

    #[test]
    fn the_model_is_checked() {
        for tokens in [0, 9, usize::MAX] {
            assert_eq!(refused(Model::linear(tokens, 0.5)), "model.tokens");
        }
        for delta in [f64::NAN, f64::INFINITY, -0.1] {
            assert_eq!(refused(Model::linear(2, delta)), "model.delta");
        }
    }

    #[test]
    fn too_few_iterations_are_reported() {
        let (model, frozen) = perfectly_frozen(2, 1.0);
        let options = Options::default().with_max_iterations(3).unwrap();
        let solution = solve_with(&model, &frozen, &Training::fresh(2.0, 0.5).unwrap(), &options);
        assert_eq!(solution.status, Status::MaxIterations);
        assert!(solution.residual > 1e-10 && solution.iterations <= 3);
        match solution.into_converged() {
            Err(Error::NotConverged { stage, status, hint, .. }) => {
                assert_eq!((stage, status), ("lora", Status::MaxIterations));
                assert!(hint.contains("max_iterations"));
            }
            other => panic!("{other:?}"),
        }
    }

    /// Any bit pattern, any positive magnitude, and ordinary numbers.
    fn number() -> impl Strategy<Value = f64> {
        prop_oneof![
            1 => any::<u64>().prop_map(f64::from_bits),
            2 => (-300.0..300.0).prop_map(|x: f64| 10f64.powf(x)),
            4 => (-6.0..3.0).prop_map(|x: f64| 10f64.powf(x)),
            1 => Just(0.0),
            1 => Just(1.0),
        ]
    }

    /// Any rule for the sequences, or `None` if it is refused.
    fn sequences() -> impl Strategy<Value = Option<Sequences>> {
        prop_oneof![
            Just(Some(Sequences::Fresh)),
            Just(Some(Sequences::Reused)),
            (number(), any::<bool>()).prop_map(|(fraction, centred)| {
                let score = if centred { Score::Centred } else { Score::Frobenius };
                Selection::new(fraction, score).ok().map(Sequences::Active)
            }),
        ]
    }

    proptest! {
        #![proptest_config(common::cases(1000))]
        #[test]
        fn anything_goes_in_and_an_error_or_a_label_comes_out(
            tokens in prop_oneof![9 => 1_usize..=8, 1 => any::<usize>()],
            (delta, q0_frozen, q, overlap, v) in (number(), number(), number(), number(), number()),
            (alpha, lambda, q0, beta) in (number(), number(), number(), number()),
            sequences in sequences(),
            start in prop_oneof![Just(Start::Informed), Just(Start::Uninformed), Just(Start::Best)],
        ) {
            // Half of the time the overlap is allowed.
            let m = if overlap < 1.0 { overlap * q.sqrt() * q0_frozen.sqrt() } else { overlap };
            let frozen = Frozen::new(q0_frozen, q, m).and_then(|frozen| frozen.with_response(v));
            let training = Training::fresh(alpha, lambda)
                .and_then(|training| training.with_variance(q0))
                .and_then(|training| training.recalibrated(beta));
            let model = Model::linear(tokens, delta);
            let (Ok(frozen), Ok(training), Ok(model), Some(sequences)) = (frozen, training, model, sequences) else {
                return Ok(());
            };
            let training = training.on(sequences);
            // One token is solved by quadrature with many more nodes. The bound limits the time that extreme
            // points take.
            let max_iterations = if tokens == 1 { 15 } else { OPTIONS.max_iterations() };
            let options = OPTIONS.with_start(start).with_max_iterations(max_iterations).unwrap();
            match lora::solve(&model, &frozen, &training, &options) {
                Ok(solution) => assert_labelled(&solution, q0),
                Err(error) => prop_assert_eq!(error.kind(), "invalid_parameter"),
            }
        }
    }
}
