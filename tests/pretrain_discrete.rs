//! Linear pre-training with listed teachers. Every point of a difficult table, and of thousands of random
//! spectra, is solved.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use common::{log_grid, solve};
use lora_asymptotics::fixed_point::{self, Coordinate, Method, Problem, Status};
use lora_asymptotics::pretrain::{self, Order, Training};
use lora_asymptotics::{Model, Options, Teacher};
use rand::{RngExt, SeedableRng};
use rayon::prelude::*;

/// `(Q, M, V)` by the plain iteration of one step of the state evolution, which is another search than that
/// of the solver. (An accelerated iteration may overshoot to `Q0 - 2M + Q < 0`.)
fn iterated(model: &Model, training: &Training) -> [f64; 3] {
    let start = [0.5, 0.5, 0.25 * (model.tokens() * model.tokens()) as f64];
    let options = fixed_point::Options {
        tolerance: 1e-12,
        max_iterations: 3000,
        method: Method::Picard,
        ..Default::default()
    };
    let problem = Problem::new(start, Coordinate::Log);
    let step = |x: &[f64; 3]| pretrain::linear_step(model, training, *x).unwrap();
    let report = fixed_point::solve(&problem, &options, step).unwrap();
    // Where V is large, rounding errors may end the iteration before its tolerance.
    assert!(report.residual < 1e-10, "{model:?}, {training:?}: {report:?}");
    report.point
}

/// Solves the table with one power law, T = 2 and 4, and compares the solutions with the iteration.
fn table(exponent: f64, delta: f64) {
    let points: Vec<(usize, f64, f64)> = [2, 4]
        .into_iter()
        .flat_map(|tokens| log_grid(0.05, 0.6, 7).map(move |alpha| (tokens, alpha)))
        .flat_map(|(tokens, alpha)| log_grid(0.01, 0.3, 6).map(move |lambda| (tokens, alpha, lambda)))
        .collect();
    assert_eq!(points.len(), 84);
    points.into_par_iter().for_each(|(tokens, alpha, lambda)| {
        let model = Model::linear(tokens, delta)
            .unwrap()
            .with_teacher(Teacher::PowerLaw { exponent, dimension: 400 })
            .unwrap();
        let training = Training::new(alpha, lambda).unwrap();
        let solution = solve(&model, &training);
        assert_eq!(solution.status, Status::Converged, "{model:?}, {training:?}: {solution:?}");
        let Order { q, m, v, .. } = solution.order;
        for (found, expected) in [q, m, v].into_iter().zip(iterated(&model, &training)) {
            approx::assert_relative_eq!(found, expected, max_relative = 1e-9);
        }
    });
}

#[test]
fn power_law_1_25_without_noise() {
    table(1.25, 0.0);
}

#[test]
fn power_law_1_25_with_little_noise() {
    for delta in [0.003, 0.01, 0.03] {
        table(1.25, delta);
    }
}

#[test]
fn power_law_2() {
    for delta in [0.0, 0.003, 0.01, 0.03] {
        table(2.0, delta);
    }
}

#[test]
fn an_example_with_its_value() {
    let model = Model::linear(4, 0.0)
        .unwrap()
        .with_teacher(Teacher::PowerLaw { exponent: 1.25, dimension: 400 })
        .unwrap();
    let solution = solve(&model, &Training::new(0.18, 0.0729).unwrap()).into_converged().unwrap();
    // The reference is the end of the plain iteration. The integrals over the density on the real axis gave
    // the same value.
    approx::assert_abs_diff_eq!(solution.order.q, 0.957_542_9, epsilon = 1e-7);
}

/// A random spectrum with `Q0 = 1`: 1 to 400 eigenvalues, evenly spread, in clusters of any width, decaying, or over four
/// decades; in half of the cases, a random part of them is zero.
fn random_teacher(random: &mut impl RngExt) -> Teacher {
    let count = 400f64.powf(random.random::<f64>()).round() as usize;
    let kind = random.random_range(0..4);
    let centres: Vec<f64> = (0..random.random_range(1..=5)).map(|_| decades(random, -1.0, 1.0)).collect();
    let width = decades(random, -4.0, 0.0);
    let exponent = 3.0 * random.random::<f64>();
    let zeros = (2.0 * random.random::<f64>() - 1.0).max(0.0);
    let mut eigenvalues: Vec<f64> = (0..count)
        .map(|i| {
            if random.random::<f64>() < zeros {
                return 0.0;
            }
            match kind {
                0 => random.random(),
                1 => centres[random.random_range(0..centres.len())] * (1.0 + width * random.random::<f64>()),
                2 => ((i + 1) as f64).powf(-exponent),
                _ => decades(random, -2.0, 2.0),
            }
        })
        .collect();
    eigenvalues[0] = eigenvalues[0].max(1e-2);
    let norm = (eigenvalues.iter().map(|s| s * s).sum::<f64>() / count as f64).sqrt();
    eigenvalues.iter_mut().for_each(|s| *s /= norm);
    Teacher::Spectrum { eigenvalues }
}

/// A number whose decimal logarithm is uniformly distributed.
fn decades(random: &mut impl RngExt, low: f64, high: f64) -> f64 {
    10f64.powf(random.random_range(low..high))
}

#[test]
fn random_spectra() {
    const COUNT: usize = 2000;
    let mut random = rand_pcg::Pcg64::seed_from_u64(2026);
    let cases: Vec<(Model, Training)> = (0..COUNT)
        .map(|k| {
            let model = Model::linear(random.random_range(1..=8), [0.0, 1e-3, 0.5][k % 3])
                .unwrap()
                .with_teacher(random_teacher(&mut random))
                .unwrap();
            let training =
                Training::new(decades(&mut random, -2.0, 1.0), decades(&mut random, -4.0, 0.0)).unwrap();
            (model, training)
        })
        .collect();
    let statuses: Vec<Status> = cases
        .par_iter()
        .map(|(model, training)| {
            let solution = solve(model, training);
            let collapsed = pretrain::lambda_collapse(model, training, &Options::default()).unwrap().value
                <= training.lambda().unwrap();
            assert_eq!(solution.status == Status::Collapsed, collapsed, "{solution:?}");
            if solution.status == Status::Converged {
                assert!(solution.residual <= 1e-10 && solution.order.q > 0.0, "{solution:?}");
            }
            solution.status
        })
        .collect();
    let count = |status| statuses.iter().filter(|s| **s == status).count();
    let (converged, collapsed) = (count(Status::Converged), count(Status::Collapsed));
    println!("{converged} converged, {collapsed} collapsed, {} neither", COUNT - converged - collapsed);
    assert!(converged + collapsed >= COUNT * 995 / 1000);
    assert!(collapsed > 0, "both kinds are among the cases");
}
