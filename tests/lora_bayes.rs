//! Bayes-optimal fine-tuning: reference values, exact limits, published state evolutions, thresholds, brute-force posteriors.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;
#[path = "common/reference.rs"]
mod reference;

use common::{assert_close, assert_honest, cases, perfectly_frozen};
use lora_asymptotics::fixed_point::Status;
use lora_asymptotics::lora::{self, BayesCurve, Frozen, Training, Verdict, bayes_optimal};
use lora_asymptotics::{Model, Options, Threshold};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_distr::StandardNormal;
use rand_pcg::Pcg64;

fn nodes(log2_nodes: usize) -> Options {
    Options::default().with_log2_nodes(log2_nodes).unwrap().with_scrambles(16).unwrap()
}

fn curve(model: &Model, frozen: &Frozen, log2_nodes: usize) -> BayesCurve {
    BayesCurve::new(model, frozen, 1.0, &nodes(log2_nodes)).unwrap()
}

/// Softmax attention with frozen weights that leave exactly `delta_bo` of effective noise.
fn perfectly_frozen_softmax(tokens: usize, delta_bo: f64) -> (Model, Frozen) {
    let (_, frozen) = perfectly_frozen(1, delta_bo);
    (Model::softmax(tokens, 2.0 * delta_bo).unwrap(), frozen)
}

#[test]
fn reference_values() {
    let records = include_str!("data/lora_bayes.jsonl");
    // A sample of softmax attention with three tokens needs a double integral.
    let double = |line: &&str| line.contains("\"tokens\": 3, \"activation\": \"softmax\"");
    let some =
        |keep: bool| records.lines().filter(|line| double(line) == keep).collect::<Vec<_>>().join("\n");
    reference::compare(&some(false), 11);
    reference::compare(&some(true), 8);
}

/// The model is real phase retrieval without noise, and the reference is the uninformed branch of the
/// published state evolution.
#[test]
fn noiseless_single_token_is_phase_retrieval() {
    let (model, frozen) = perfectly_frozen(1, 0.0);
    let curve = curve(&model, &frozen, 14);
    for (alpha, expected) in [(0.64375, 0.9188), (0.77875, 0.8050), (0.91375, 0.6513), (1.0015, 0.5212)] {
        let solution = curve.solve(alpha).unwrap().into_converged().unwrap();
        let error = 1.0 - solution.order.q;
        assert!((error - expected).abs() < 1e-3, "{alpha}: {error}, published {expected}");
    }
    // Weak recovery begins at 1/2. Perfect recovery is possible above 1, and easy above 1.128.
    assert_close("weak recovery", curve.weak_recovery().value, 0.5, 2e-3);
    let [low, high] = curve.spinodals().unwrap();
    assert_close("possible", low, 1.0, 1e-3);
    assert_close("easy", high, 1.128, 1e-3);
    let hard = curve.solve(1.05).unwrap();
    assert!(hard.branches.algorithmic.q < 0.8 && hard.branches.information_theoretic.q >= 1.0, "{hard:?}");
    assert!(hard.branches.information_theoretic.errors.test <= 0.0);
    assert!(curve.solve(1.2).unwrap().order.q >= 1.0);
}

/// Linear attention with `T = 1` and very little noise has two stable fixed points between the spinodals.
#[test]
fn coexistence_at_little_noise() {
    let (model, frozen) = perfectly_frozen(1, 1e-4);
    let curve = curve(&model, &frozen, 14);
    let [low, high] = curve.spinodals().unwrap();
    assert!((low - 1.098).abs() < 1.5e-3 && (high - 1.131).abs() < 1.5e-3, "{low} {high}");
    let jump = curve.information_theoretic_jump().unwrap();
    assert!((jump - 1.111).abs() < 1.5e-3, "{jump}");
    let below = curve.solve(0.5 * (low + jump)).unwrap();
    assert_eq!(below.branches.algorithmic, below.branches.information_theoretic);
    let above = curve.solve(0.5 * (jump + high)).unwrap();
    let [algorithmic, possible] = [above.branches.algorithmic, above.branches.information_theoretic];
    assert!(possible.q > 0.99 && algorithmic.q < 0.9 && possible.free_energy > algorithmic.free_energy);
    assert!(possible.errors.test < 0.5 * algorithmic.errors.test);
    // With more noise there is one fixed point at every alpha'.
    let (model, frozen) = perfectly_frozen(1, 1e-2);
    assert_eq!(self::curve(&model, &frozen, 12).spinodals(), None);
}

/// Noise below 1e-10 is left out. Noise just above this limit does not show in the table either.
#[test]
fn noise_that_is_left_out_does_not_matter() {
    for (tokens, alpha) in [(1, 0.9), (1, 1.2), (2, 0.3)] {
        let bound = |noise: f64| {
            let (model, frozen) = perfectly_frozen(tokens, noise);
            bayes_optimal(&model, &frozen, alpha, 1.0, &nodes(12)).unwrap()
        };
        let [without, with] = [0.99e-10, 2e-10].map(bound);
        let error = |bound: &lora::BayesSolution| bound.std_error.alignment.unwrap_or(0.0);
        let tolerance = 4.0 * error(&without).hypot(error(&with)) + 1e-6;
        assert!((without.alignment - with.alignment).abs() < tolerance, "{without:?} {with:?}");
    }
}

#[test]
fn weak_recovery_without_noise() {
    for tokens in 2..=8 {
        let expected = 1.0 / (tokens * (tokens + 1)) as f64;
        for noise in [0.0, 1e-6] {
            let (model, frozen) = perfectly_frozen(tokens, noise);
            let Threshold { value: threshold, std_error: error, .. } =
                curve(&model, &frozen, 9).weak_recovery();
            let allowance = 4.0 * error.unwrap() + 1e-2 * noise.sqrt() * expected;
            assert!((threshold - expected).abs() < allowance, "T = {tokens}: {threshold} +- {error:?}");
        }
    }
    let (model, frozen) = perfectly_frozen_softmax(2, 1e-7);
    let Threshold { value: threshold, std_error: error, .. } = curve(&model, &frozen, 9).weak_recovery();
    assert!((threshold - 1.0 / 6.0).abs() < 4.0 * error.unwrap() + 1e-3, "{threshold} +- {error:?}");
}

/// For loud noise, `E|E[chi chi^T|Y] - I|^2` is the signal-to-noise ratio of the coordinates that are seen,
/// each of variance 2.
#[test]
fn weak_recovery_in_loud_noise() {
    let noise = 1e4;
    for tokens in [1, 2, 3] {
        let k = (tokens * (tokens + 1) / 2) as f64;
        let (model, frozen) = perfectly_frozen(tokens, noise);
        // In orthonormal coordinates, chi chi^T has variance 2 per coordinate and the noise 2 Delta. The
        // posterior mean is linear.
        let expected = noise / (2.0 * k);
        let Threshold { value: threshold, std_error: error, .. } = curve(&model, &frozen, 12).weak_recovery();
        assert!(
            (threshold - expected).abs() < 4.0 * error.unwrap() + 2e-2 * expected,
            "{threshold}, {expected}"
        );
        if tokens > 1 {
            let (model, frozen) = perfectly_frozen_softmax(tokens, noise);
            let expected = noise / (2.0 * (k - 1.0));
            let Threshold { value: threshold, std_error: error, .. } =
                curve(&model, &frozen, 8).weak_recovery();
            assert!(
                (threshold - expected).abs() < 4.0 * error.unwrap() + 2e-2 * expected,
                "{threshold}, {expected}"
            );
        }
    }
}

/// The Nishimori identity: the overlap of the posterior mean with itself is its overlap with the truth. Both
/// are computed by plain Monte Carlo, with the posterior mean from sums over a fine grid, and both are `G` at
/// the fixed point.
#[test]
fn brute_force_posterior_means_give_the_same_overlap() {
    let (noise, alpha) = (0.3, 0.9);
    for tokens in [1_usize, 2] {
        let (model, frozen) = perfectly_frozen(tokens, noise);
        let solution = curve(&model, &frozen, 12).solve(alpha).unwrap();
        let q = solution.order.q;
        assert!(q > 0.1 && q < 0.95);
        let v = 1.0 - q;
        let mut random = Pcg64::seed_from_u64(11);
        let samples = 3000;
        let (mut by_mean, mut by_truth) = (Vec::new(), Vec::new());
        for _ in 0..samples {
            let mut normal = || random.sample::<f64, _>(StandardNormal);
            let omega: Vec<f64> = (0..tokens).map(|_| q.sqrt() * normal()).collect();
            let truth: Vec<f64> = omega.iter().map(|w| w + v.sqrt() * normal()).collect();
            let mut y = vec![vec![0.0; tokens]; tokens];
            for a in 0..tokens {
                for b in 0..=a {
                    let deviation = if a == b { (2.0 * noise).sqrt() } else { noise.sqrt() };
                    y[a][b] = truth[a] * truth[b] + deviation * normal();
                    y[b][a] = y[a][b];
                }
            }
            let mean = grid_posterior_mean(&y, &omega, v, noise);
            by_mean.push(mean.iter().zip(&omega).map(|(m, w)| ((m - w) / v).powi(2)).sum::<f64>());
            let overlap =
                mean.iter().zip(&omega).zip(&truth).map(|((m, w), c)| (m - w) * (c - w)).sum::<f64>();
            by_truth.push(overlap / v / v);
        }
        // The fixed point has qhat = alpha' G(q).
        let expected = q / v / alpha;
        for values in [by_mean, by_truth] {
            let mean = values.iter().sum::<f64>() / f64::from(samples);
            let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / f64::from(samples - 1);
            let error = (variance / f64::from(samples)).sqrt();
            assert!(
                (mean - expected).abs() < 4.0 * error,
                "T = {tokens}: {mean} +- {error}, expected {expected}"
            );
        }
    }
}

/// `E[chi | Y, omega]` by sums over a grid, for one token or two.
fn grid_posterior_mean(y: &[Vec<f64>], omega: &[f64], v: f64, noise: f64) -> Vec<f64> {
    let tokens = omega.len();
    let points: i32 = if tokens == 1 { 4001 } else { 161 };
    let reach = 6.5 * v.sqrt();
    let coordinate = |a: usize, k: i32| omega[a] + reach * (2.0 * f64::from(k) / f64::from(points - 1) - 1.0);
    let log_weight = |chi: &[f64]| {
        let mut log = 0.0;
        for a in 0..tokens {
            log -= (chi[a] - omega[a]).powi(2) / (2.0 * v);
            for b in 0..tokens {
                log -= (y[a][b] - chi[a] * chi[b]).powi(2) / (4.0 * noise);
            }
        }
        log
    };
    let mut total = 0.0;
    let mut mean = vec![0.0; tokens];
    for i in 0..points {
        for j in 0..if tokens == 1 { 1 } else { points } {
            let chi: Vec<f64> =
                [i, j].iter().take(tokens).enumerate().map(|(a, k)| coordinate(a, *k)).collect();
            let weight = log_weight(&chi).exp();
            total += weight;
            for a in 0..tokens {
                mean[a] += weight * chi[a];
            }
        }
    }
    mean.iter().map(|x| x / total).collect()
}

#[test]
fn limits_of_little_and_of_plenty_of_data() {
    for (model, frozen) in [perfectly_frozen(2, 0.4), perfectly_frozen_softmax(2, 0.4)] {
        let curve = curve(&model, &frozen, 9);
        let threshold = curve.weak_recovery().value;
        let nothing = curve.solve(0.9 * threshold).unwrap();
        assert!(nothing.order.q <= 0.0 && nothing.alignment <= 0.0 && nothing.order.q_hat <= 0.0);
        assert_close("no use", nothing.errors.test, nothing.errors.frozen, 1e-13);
        assert_eq!(nothing.status, Status::Converged);
        // The overlap is small just above the threshold, and grows with alpha'.
        let [a, b] = [1.003, 1.03].map(|f| curve.solve(f * threshold).unwrap().order.q);
        assert!(a > 0.0 && a < b && b < 0.1, "{a} {b}");
        // For much data, 1 - q = 1/(alpha' G(1)).
        let [a, b] = [1e4, 1e7].map(|alpha| 1.0 / curve.solve(alpha).unwrap().order.q_hat);
        assert_close("much data", 1e3 * b, a, 1e-2);
        let plenty = curve.solve(1e9).unwrap();
        assert!(plenty.alignment > 1.0 - 1e-8 && plenty.errors.test_clean < 1e-7, "{plenty:?}");
    }
}

#[test]
fn the_size_of_the_perturbation_is_a_unit() {
    let frozen = Frozen::new(2.0, 1.2, 1.1).unwrap();
    let large = Frozen::new(18.0, 10.8, 9.9).unwrap();
    let a = bayes_optimal(&Model::linear(2, 0.5).unwrap(), &frozen, 0.8, 1.0, &nodes(9)).unwrap();
    let b = bayes_optimal(&Model::linear(2, 4.5).unwrap(), &large, 0.8, 3.0, &nodes(9)).unwrap();
    assert_close("q", b.order.q, 3.0 * a.order.q, 1e-12);
    assert_close("error", b.errors.test, 9.0 * a.errors.test, 1e-12);
    assert_close("alignment", b.alignment, a.alignment, 1e-12);
    // A scaling of the frozen weights changes nothing, because it does not change their information.
    let scaled = Frozen::new(frozen.q0(), 4.0 * frozen.q(), 2.0 * frozen.m()).unwrap();
    let c = bayes_optimal(&Model::linear(2, 0.5).unwrap(), &scaled, 0.8, 1.0, &nodes(9)).unwrap();
    assert_close("recalibrated", c.order.q, a.order.q, 1e-12);
}

#[test]
fn error_bars_cover_other_seeds() {
    for (model, frozen) in [perfectly_frozen(2, 0.4), perfectly_frozen_softmax(2, 0.4)] {
        let solutions: Vec<_> = (0..40)
            .map(|seed| {
                let options =
                    Options::default().with_log2_nodes(8).unwrap().with_scrambles(8).unwrap().with_seed(seed);
                bayes_optimal(&model, &frozen, 0.6, 1.0, &options).unwrap()
            })
            .collect();
        let ratio = |value: fn(&lora::BayesSolution) -> f64,
                     error: fn(&lora::BayesSolution) -> Option<f64>| {
            let mean = solutions.iter().map(value).sum::<f64>() / 40.0;
            let variance = solutions.iter().map(|s| (value(s) - mean).powi(2)).sum::<f64>() / 39.0;
            let reported = solutions.iter().map(|s| error(s).unwrap().powi(2)).sum::<f64>() / 40.0;
            (variance / reported).sqrt()
        };
        for ratio in [
            ratio(|s| s.order.q, |s| s.std_error.q),
            ratio(|s| s.alignment, |s| s.std_error.alignment),
            ratio(|s| s.errors.test, |s| s.std_error.test),
            ratio(|s| s.errors.test_clean, |s| s.std_error.test_clean),
            ratio(|s| s.order.q_hat, |s| s.std_error.q_hat),
        ] {
            assert!((0.6..1.6).contains(&ratio), "{ratio}");
        }
    }
}

#[test]
fn the_same_bits_on_any_number_of_threads() {
    let (model, frozen) = perfectly_frozen_softmax(3, 0.4);
    let options = Options::default().with_log2_nodes(7).unwrap();
    let solve = || bayes_optimal(&model, &frozen, 0.4, 1.0, &options).unwrap();
    let on = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(solve);
    assert_eq!(on(1), on(3));
}

#[test]
fn many_tokens() {
    for (model, frozen) in [perfectly_frozen(8, 0.4), perfectly_frozen_softmax(5, 0.4)] {
        let options = Options::default().with_log2_nodes(6).unwrap();
        let curve = BayesCurve::new(&model, &frozen, 1.0, &options).unwrap();
        let threshold = curve.weak_recovery().value;
        let solution = curve.solve(4.0 * threshold).unwrap();
        assert!(solution.order.q > 0.2 && solution.order.q < 1.0, "{solution:?}");
        assert!(solution.errors.test < solution.errors.frozen);
    }
}

#[test]
fn stability_of_no_overlap_by_empirical_risk_minimisation() {
    let (model, frozen) = perfectly_frozen(2, 1.0);
    let options = Options::default().with_log2_nodes(11).unwrap();
    let training = Training::fresh(2.0, 1.0).unwrap();
    let threshold = lora::alpha_weak_recovery(&model, &frozen, &training, &options).unwrap().unwrap();
    assert!((threshold.at.growth - 1.0).abs() < 1e-4, "{threshold:?}");
    for (factor, recovers) in [(0.9, false), (1.1, true)] {
        let training = training.with_alpha(factor * threshold.alpha.value).unwrap();
        let here = lora::weak_recovery(&model, &frozen, &training, &options).unwrap();
        assert_eq!(here.recovers, recovers, "{here:?}");
        let uninformed = options.with_start(lora_asymptotics::Start::Uninformed);
        let solution = lora::solve(&model, &frozen, &training, &uninformed).unwrap();
        assert_eq!(solution.alignment > 0.0, recovers, "{solution:?}");
    }
    // The standard errors of the growth and of the threshold are those of their spread.
    let (growths, thresholds): (Vec<_>, Vec<_>) = (0..24)
        .map(|seed| {
            let options = options
                .with_log2_nodes(8)
                .unwrap()
                .with_scrambles(8)
                .unwrap()
                .with_seed(seed)
                .with_tolerance(1e-8)
                .unwrap();
            let here = lora::weak_recovery(&model, &frozen, &training, &options).unwrap();
            let threshold =
                lora::alpha_weak_recovery(&model, &frozen, &training, &options).unwrap().unwrap().alpha;
            ((here.growth, here.std_error), (threshold.value, threshold.std_error))
        })
        .unzip();
    assert_honest("growth", &growths);
    assert_honest("threshold", &thresholds);
    // No algorithm recovers before the Bayes-optimal one does.
    let bound = curve(&model, &frozen, 9).weak_recovery().value;
    assert!(threshold.alpha.value > bound || threshold.at.validity.verdict == Verdict::Unreliable);
}

proptest! {
    #![proptest_config(cases(24))]

    /// In the reliable region, no estimator beats the bound.
    #[test]
    fn reliable_solutions_are_not_better_than_the_bound(
        tokens in 1_usize..=4,
        softmax in any::<bool>(),
        delta in 0.01..3.0_f64,
        correlation in 0.1..1.0_f64,
        norm in 0.1..2.0_f64,
        log_alpha in -1.0..2.0_f64,
        log_lambda in -3.0..1.0_f64,
    ) {
        let softmax = softmax && tokens == 2;
        let model = if softmax { Model::softmax(2, delta).unwrap() } else { Model::linear(tokens, delta).unwrap() };
        let frozen = Frozen::new(1.5, norm, correlation * (1.5 * norm).sqrt()).unwrap();
        let training = Training::fresh(log_alpha.exp(), log_lambda.exp()).unwrap();
        let options = Options::default().with_log2_nodes(9).unwrap();
        let bound = bayes_optimal(&model, &frozen, training.alpha(), 1.0, &options).unwrap();
        prop_assert_eq!(bound.status, Status::Converged);
        prop_assert!((0.0..=1.0).contains(&bound.order.q) && bound.errors.test <= bound.errors.frozen + 1e-3);
        let solution = lora::solve(&model, &frozen, &training, &options).unwrap();
        if solution.validity.reliable {
            let best = bound.branches.information_theoretic;
            let error = |a: Option<f64>, b: Option<f64>| 5.0 * a.unwrap_or(0.0).hypot(b.unwrap_or(0.0)) + 1e-3;
            let slack = error(solution.std_error.test, bound.std_error.test);
            prop_assert!(solution.errors.test >= best.errors.test - slack, "{:?} {:?}", solution, bound);
            let slack = error(solution.std_error.alignment, bound.std_error.alignment);
            prop_assert!(solution.alignment <= best.alignment + slack, "{:?} {:?}", solution, bound);
        }
    }
}

#[test]
fn bad_input_is_named() {
    let (model, frozen) = perfectly_frozen(2, 0.4);
    let options = nodes(6);
    for alpha in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let error = bayes_optimal(&model, &frozen, alpha, 1.0, &options).unwrap_err().to_string();
        assert!(error.contains("lora.alpha"), "{error}");
    }
    for q0 in [0.0, -1.0, f64::NAN, 1e-200] {
        let error = bayes_optimal(&model, &frozen, 1.0, q0, &options).unwrap_err().to_string();
        assert!(error.contains("lora.q0"), "{error}");
    }
    // Extreme parameters end in a number or in a status, never in a panic.
    for (delta, alpha) in [(1e300, 1.0), (1e-300, 1e-300), (1.0, 1e300), (1e150, 1e200)] {
        for model in [Model::linear(2, delta).unwrap(), Model::softmax(2, delta).unwrap()] {
            let solution = bayes_optimal(&model, &frozen, alpha, 1.0, &options).unwrap();
            let q = solution.order.q;
            assert!(solution.status == Status::NonFinite || (0.0..=1.0).contains(&q), "{solution:?}");
        }
    }
}
