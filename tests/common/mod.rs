//! Helpers shared by the integration tests of pre-training.

#![allow(dead_code, reason = "every test binary compiles its own copy and uses a part of it")]

use lora_asymptotics::pretrain::{self, Solution, Training};
use lora_asymptotics::{Model, Options, Teacher};

/// Linear attention with a Wishart teacher.
pub fn model(tokens: usize, delta: f64, kappa0: f64) -> Model {
    Model::linear(tokens, delta).with_teacher(Teacher::Wishart { kappa0 })
}

/// The solution with default options, whatever its status.
pub fn solve(model: &Model, training: &Training) -> Solution {
    pretrain::solve(model, training, &Options::default())
        .unwrap_or_else(|error| panic!("{model:?}, {training:?}: {error}"))
}

/// The solution with default options, converged or collapsed.
pub fn solved(model: &Model, training: &Training) -> Solution {
    solve(model, training).into_converged().unwrap_or_else(|error| panic!("{model:?}, {training:?}: {error}"))
}

/// `n` points from `from` to `to`, equally spaced in the logarithm.
pub fn log_grid(from: f64, to: f64, n: usize) -> impl Iterator<Item = f64> + Clone {
    let ratio = (to / from).ln();
    (0..n).map(move |i| from * (ratio * i as f64 / (n - 1) as f64).exp())
}

/// `|value - expected| <= tolerance |expected|`; NaN never passes.
#[track_caller]
pub fn assert_close(what: &str, value: f64, expected: f64, tolerance: f64) {
    let error = (value - expected).abs();
    assert!(
        error <= tolerance * expected.abs(),
        "{what}: {value:e}, expected {expected:e}, relative error {:e} > {tolerance:e}",
        error / expected.abs()
    );
}
