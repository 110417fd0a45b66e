//! Bayes-optimal pre-training, and teachers with any spectrum.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;
#[path = "common/reference.rs"]
mod reference;

use common::{assert_close, cases, model};
use lora_asymptotics::fixed_point::Status;
use lora_asymptotics::pretrain::{self, LearnedSpectrum, Training, alpha_perfect_recovery, bayes_optimal};
use lora_asymptotics::{Model, Options, Teacher};
use nalgebra::{DMatrix, SymmetricEigen};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_distr::StandardNormal;
use rand_pcg::Pcg64;

fn listed(tokens: usize, delta: f64, eigenvalues: &[f64]) -> Model {
    Model::linear(tokens, delta)
        .unwrap()
        .with_teacher(Teacher::Spectrum { eigenvalues: eigenvalues.to_vec() })
        .unwrap()
}

fn few() -> Options {
    Options::default().with_log2_nodes(10).unwrap()
}

#[test]
fn reference_values() {
    reference::compare(include_str!("data/pretrain_bayes.jsonl"), 14);
}

/// The tables are from earlier work, each with its own accuracy: Bayes-optimal (softmax and linear
/// attention), and empirical risk minimisation with a power-law teacher.
#[test]
fn published_tables() {
    reference::compare(include_str!("data/published.jsonl"), 10);
}

#[test]
fn the_threshold_of_perfect_recovery() {
    let softmax = Model::softmax(2, 0.0).unwrap().with_teacher(Teacher::Wishart { kappa0: 0.5 }).unwrap();
    assert_close("softmax", alpha_perfect_recovery(&softmax).unwrap(), 0.1875, 1e-14);
    for (kappa0, expected) in [(0.3, 0.255 / 6.0), (1.0, 0.5 / 6.0), (4.0, 0.5 / 6.0)] {
        assert_close("Wishart", alpha_perfect_recovery(&model(3, 0.5, kappa0)).unwrap(), expected, 1e-14);
    }
    let two = listed(2, 0.0, &[0.0, 0.0, 0.0, 1.0]);
    assert_close("listed", alpha_perfect_recovery(&two).unwrap(), (1.0 - 0.625) / 6.0, 1e-14);
    // Just below the threshold there is some error, and above it there is none.
    for model in [model(3, 0.0, 0.3), model(2, 0.0, 2.0), two, softmax] {
        let threshold = alpha_perfect_recovery(&model).unwrap();
        let [below, above] = [1.0 - 1e-6, 1.0].map(|f| bayes_optimal(&model, f * threshold, &few()).unwrap());
        assert_eq!((below.status, above.status), (Status::Converged, Status::Converged));
        assert_eq!(below.alpha_c, Some(threshold));
        assert!(below.order.q < below.q0 && below.order.q > below.q0 * (1.0 - 1e-4), "{below:?}");
        assert!(
            above.order.q_hat.is_infinite() && above.errors.test <= 1e-15 && above.alignment >= 1.0 - 1e-15
        );
        assert_close("recovered", above.order.q, above.q0, 1e-15);
    }
}

#[test]
fn limits_of_no_data_and_of_noise() {
    for (model, mean2) in [(model(3, 0.5, 0.7), 0.7), (listed(2, 0.5, &[0.0, 1.0, 2.0]), 1.0)] {
        // Only the mean of the spectrum is learned, which the prior knows.
        let nothing = bayes_optimal(&model, 1e-8, &few()).unwrap();
        assert_close("alpha -> 0", nothing.order.q, mean2, 1e-6);
        let loud = bayes_optimal(&model.clone().with_delta(1e9).unwrap(), 1.0, &few()).unwrap();
        assert_close("Delta -> infinity", loud.order.q, mean2, 1e-6);
        // With much data, the error is that of a Gaussian channel of all D^2/2 dimensions of the orbit of S*.
        let alpha = 1e6;
        let plenty = bayes_optimal(&model, alpha, &few()).unwrap();
        let dimension = 2.0 * alpha_perfect_recovery(&model).unwrap() * model.observed_coordinates();
        let expected = dimension * 0.5 * model.delta() / (2.0 * alpha * model.observed_coordinates());
        assert_close("alpha -> infinity", plenty.q0 - plenty.order.q, expected, 1e-2);
    }
}

/// `Q_BO` is computed from its definition: one spectrum, one matrix of noise, the posterior mean by the
/// spectrum of their sum.
#[test]
fn four_hundred_eigenvalues_against_explicit_matrices() {
    let dimension = 400;
    let mut random = Pcg64::seed_from_u64(4);
    let eigenvalues: Vec<f64> =
        (0..dimension).map(|i| if i < 160 { 0.0 } else { 2.0 * random.random::<f64>() }).collect();
    let model = listed(2, 0.4, &eigenvalues);
    let training = Training::new(0.5, 0.25).unwrap();
    let solution = pretrain::solve(&model, &training, &few()).unwrap().into_converged().unwrap();
    let pretrain::Order { q_hat, m_hat, v_hat, .. } = solution.order;
    let threshold = 2.0 * training.lambda().unwrap();
    let spectrum = LearnedSpectrum::new(&model, &training, &solution).unwrap();
    let bound = bayes_optimal(&model, 0.5, &few()).unwrap();

    // The test makes sixteen draws of Y = Mhat s* + sqrt(Qhat) Z, of the learned weights, and of the
    // Bayes-optimal channel.
    let draws: Vec<[f64; 7]> = (0..16)
        .map(|_| {
            let mut noise =
                DMatrix::from_fn(dimension, dimension, |_, _| random.sample::<f64, _>(StandardNormal));
            noise = (&noise + noise.transpose()) / (2.0 * dimension as f64).sqrt();
            let teacher = DMatrix::from_diagonal(&eigenvalues.clone().into());
            let sum = SymmetricEigen::new(&teacher * m_hat + &noise * q_hat.sqrt());
            let learned = sum.eigenvalues.map(|y| (y - threshold).max(0.0) / v_hat);
            let weights = &sum.eigenvectors * DMatrix::from_diagonal(&learned) * sum.eigenvectors.transpose();
            let mean = |f: &dyn Fn(f64) -> f64| learned.iter().map(|s| f(*s)).sum::<f64>() / dimension as f64;
            let overlap = weights.component_mul(&teacher).sum() / dimension as f64;
            let below = |x: f64| mean(&|s| f64::from(u8::from(s <= x)));
            // For y = snr s* + Z, the Bayes-optimal estimate is (y - 2 Re G(y))/snr in the eigenbasis of y.
            let snr = bound.order.q_hat.sqrt();
            let seen = SymmetricEigen::new(&teacher * snr + &noise);
            let law = model.teacher().unwrap().spectrum().unwrap();
            let best = seen.eigenvalues.map(|y| (y - 2.0 * law.stieltjes(snr, y)[0]) / snr);
            let estimate = &seen.eigenvectors * DMatrix::from_diagonal(&best) * seen.eigenvectors.transpose();
            let error = (&estimate - &teacher).norm_squared() / dimension as f64;
            [
                mean(&|s| s * s),
                overlap,
                mean(&|s| s),
                below(0.0),
                below(spectrum.quantile(0.8).unwrap()),
                learned.max(),
                error,
            ]
        })
        .collect();
    let expected = [
        solution.order.q,
        solution.order.m,
        solution.trace,
        spectrum.atom(),
        0.8,
        spectrum.components().last().unwrap().high,
        bound.q0 - bound.order.q,
    ];
    for (k, expected) in expected.into_iter().enumerate() {
        let mean = draws.iter().map(|draw| draw[k]).sum::<f64>() / 16.0;
        let variance = draws.iter().map(|draw| (draw[k] - mean).powi(2)).sum::<f64>() / 15.0;
        // A count changes in steps of one eigenvalue of 400, which is also the scale of corrections to
        // traces. The largest eigenvalue is below the edge by a distance of order 400^(-2/3).
        let allowance =
            if k == 5 { 3.0 * 400f64.powf(-2.0 / 3.0) * expected } else { 1.0 / 400.0 * expected.max(0.2) };
        let error = 4.0 * (variance / 16.0).sqrt() + allowance;
        assert!((mean - expected).abs() < error, "{k}: {mean}, expected {expected} within {error}");
    }
}

#[test]
fn the_learned_spectrum_has_the_moments_of_the_solution() {
    let power_law = Teacher::PowerLaw { exponent: 1.25, dimension: 100 };
    let teachers = [
        Teacher::Wishart { kappa0: 0.4 },
        power_law,
        Teacher::Spectrum { eigenvalues: vec![0.0, 0.0, 0.0, 0.0, 0.5, 4.0] },
    ];
    for teacher in teachers {
        let model = Model::linear(2, 0.3).unwrap().with_teacher(teacher).unwrap();
        let training = Training::new(0.6, 0.1).unwrap().with_width(1.5).unwrap();
        let solution = pretrain::solve(&model, &training, &few()).unwrap().into_converged().unwrap();
        let spectrum = LearnedSpectrum::new(&model, &training, &solution).unwrap();
        assert_close("rank", 1.0 - spectrum.atom(), solution.rank_fraction, 1e-10);
        let table = spectrum.table(4000).unwrap();
        let moment = |k: i32| -> f64 {
            let cells = table.eigenvalues.windows(2).zip(table.density.windows(2));
            cells.map(|(s, rho)| 0.5 * (s[1] - s[0]) * (s[0].powi(k) * rho[0] + s[1].powi(k) * rho[1])).sum()
        };
        assert_close("mass", moment(0), solution.rank_fraction, 2e-3);
        assert_close("trace", moment(1), solution.trace, 2e-3);
        assert_close("norm", moment(2), solution.order.q, 2e-3);
        let weights: f64 = table.components.iter().map(|component| component.weight).sum();
        assert_close("components", weights, solution.rank_fraction, 1e-9);
        for p in [0.0, 0.3, 0.7, 0.97, 1.0] {
            let s = spectrum.quantile(p).unwrap();
            let expected = if s > 0.0 { p } else { spectrum.atom() };
            assert_close("quantile", spectrum.distribution(s), expected, 1e-9);
        }
        assert!(spectrum.quantile(1.1).is_err() && spectrum.quantile(f64::NAN).is_err());
        assert!(spectrum.table(0).is_err());
        assert!(spectrum.density(-1.0) <= 0.0 && spectrum.density(f64::NAN) <= 0.0);
    }
}

#[test]
fn atoms_that_stand_out_become_outliers() {
    let mut eigenvalues = vec![0.0; 98];
    eigenvalues.extend([6.0, 9.0]);
    let model = listed(2, 0.2, &eigenvalues);
    let training = Training::new(0.3, 0.1).unwrap();
    let solution = pretrain::solve(&model, &training, &few()).unwrap().into_converged().unwrap();
    let spectrum = LearnedSpectrum::new(&model, &training, &solution).unwrap();
    let outliers: Vec<_> = spectrum.components().into_iter().filter(|component| component.outlier).collect();
    assert_eq!(outliers.len(), 2, "{outliers:?}");
    for (outlier, s) in outliers.iter().zip([6.0, 9.0]) {
        assert_close("weight", outlier.weight, 0.01, 1e-9);
        // Near the atom, s-hat = (Mhat s + Qhat G(Mhat s) - threshold)/Vhat, where G is about 1/(Mhat s).
        let pretrain::Order { q_hat, m_hat, v_hat, .. } = solution.order;
        let expected = (m_hat * s + q_hat / (m_hat * s) - 2.0 * training.lambda().unwrap()) / v_hat;
        assert_close("position", 0.5 * (outlier.low + outlier.high), expected, 2e-2);
    }
}

#[test]
fn collapse_with_a_listed_spectrum() {
    let model = listed(2, 0.2, &[0.0, 0.0, 1.0, 3.0]);
    let critical = pretrain::lambda_collapse(&model, &Training::new(0.3, 0.1).unwrap(), &Options::default())
        .unwrap()
        .value;
    let [below, above] = [0.999, 1.001]
        .map(|f| pretrain::solve(&model, &Training::new(0.3, f * critical).unwrap(), &few()).unwrap().status);
    assert_eq!((below, above), (Status::Converged, Status::Collapsed));
}

proptest! {
    #![proptest_config(cases(64))]

    /// No estimator beats the bound, whatever the teacher. The overlap is between that of the prior and that
    /// of the truth, and grows with the amount of data.
    #[test]
    fn empirical_risk_minimisation_is_not_better(
        tokens in 1_usize..=8,
        log_delta in -6.0..3.0_f64,
        log_alpha in -4.0..2.0_f64,
        log_lambda in -4.0..1.0_f64,
        eigenvalues in prop::collection::vec(0.0..3.0_f64, 1..12),
        kappa0 in prop::option::of(0.05..5.0_f64),
    ) {
        let teacher = match kappa0 {
            Some(kappa0) => Teacher::Wishart { kappa0 },
            None => Teacher::Spectrum { eigenvalues },
        };
        let model = Model::linear(tokens, log_delta.exp()).unwrap().with_teacher(teacher).unwrap();
        let alpha = log_alpha.exp();
        let bound = bayes_optimal(&model, alpha, &few()).unwrap();
        prop_assert_eq!(bound.status, Status::Converged);
        let q = bound.order.q;
        prop_assert!(q > 0.0 && q <= bound.q0 * (1.0 + 1e-12), "{:?}", bound);
        let more = bayes_optimal(&model, 1.5 * alpha, &few()).unwrap();
        prop_assert!(more.order.q >= q * (1.0 - 1e-12));
        let training = Training::new(alpha, log_lambda.exp()).unwrap();
        let solution = pretrain::solve(&model, &training, &few()).unwrap();
        if solution.status.is_success() {
            prop_assert!(solution.errors.test >= bound.errors.test * (1.0 - 1e-10), "{:?} {:?}", solution, bound);
            prop_assert!(solution.alignment <= bound.alignment + 1e-10);
        }
    }
}

#[test]
fn bad_input_is_named() {
    let good = model(2, 0.5, 1.0);
    for alpha in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(bayes_optimal(&good, alpha, &few()).unwrap_err().to_string().contains("pretrain.alpha"));
    }
    assert!(
        bayes_optimal(&Model::linear(2, 0.5).unwrap(), 1.0, &few())
            .unwrap_err()
            .to_string()
            .contains("teacher")
    );
    for list in [vec![], vec![0.0, 0.0], vec![1.0, -0.1], vec![f64::NAN]] {
        let teacher = Teacher::Spectrum { eigenvalues: list };
        let error = Model::linear(2, 0.5).unwrap().with_teacher(teacher).unwrap_err().to_string();
        assert!(error.contains("model.teacher.spectrum.eigenvalues"), "{error}");
    }
}

#[test]
fn one_eigenvalue_is_known_from_the_start() {
    let bound = bayes_optimal(&listed(2, 0.5, &[1.3, 1.3]), 0.1, &few()).unwrap();
    assert_close("q", bound.order.q, 1.69, 1e-12);
    assert_close("error", bound.errors.test, 1.5 * 0.25, 1e-12);
}
