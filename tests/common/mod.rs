//! Helpers shared by the integration tests.

#![allow(dead_code, reason = "every test binary compiles its own copy and uses a part of it")]

use lora_asymptotics::fixed_point::Status;
use lora_asymptotics::lora::{self, Frozen, Verdict};
use lora_asymptotics::pretrain::{self, Solution, Training};
use lora_asymptotics::{Model, Options, Teacher};
use proptest::prelude::ProptestConfig;
use proptest::test_runner::RngSeed;

/// Linear attention with a Wishart teacher.
pub fn model(tokens: usize, delta: f64, kappa0: f64) -> Model {
    Model::linear(tokens, delta).unwrap().with_teacher(Teacher::Wishart { kappa0 }).unwrap()
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

/// Linear attention with frozen weights that leave exactly the effective noise `delta_eff` on fresh sequences.
pub fn perfectly_frozen(tokens: usize, delta_eff: f64) -> (Model, Frozen) {
    (Model::linear(tokens, 2.0 * delta_eff).unwrap(), Frozen::new(1.0, 1.0, 1.0).unwrap())
}

/// Asserts the properties of every fine-tuning solution, converged or not.
#[track_caller]
pub fn assert_labelled(solution: &lora::Solution, q0: f64) {
    let lora::Order { q, m, v, q_hat, m_hat, v_hat, eta } = solution.order;
    let lora::Errors { test, test_clean, train, frozen, forgetting, .. } = solution.errors;
    let objective = solution.objective;
    let errors = [test, test_clean, train, frozen, forgetting];
    let numbers = [q, m, v, q_hat, m_hat, v_hat, eta, objective, solution.alignment];
    let numbers: Vec<f64> = numbers.into_iter().chain(errors).collect();
    if solution.status == Status::NonFinite {
        assert!(numbers.iter().all(|x| x.is_nan()), "no number at all rather than some: {solution:?}");
        assert!(
            solution.validity.verdict == Verdict::Unreliable && !solution.validity.reliable,
            "{solution:?}"
        );
        return;
    }
    assert!(numbers.iter().all(|x| x.is_finite()), "{solution:?}");
    assert!(q >= 0.0 && m >= 0.0 && v > 0.0 && q_hat >= 0.0, "{solution:?}");
    assert!(m <= q.sqrt() * q0.sqrt() * (1.0 + 1e-9), "{solution:?}");
    assert!((0.0..=1.0).contains(&solution.alignment), "{solution:?}");
    assert!(objective >= 0.0 && errors.iter().all(|x| *x >= 0.0), "{solution:?}");
    assert!(test_clean <= test && solution.residual >= 0.0, "{solution:?}");
    let validity = solution.validity;
    let solved = matches!(solution.status, Status::Converged | Status::NoiseLimited);
    let gauged = solved && (v_hat > 0.0 || validity.jump <= 0.0);
    let by_jump = if gauged && validity.jump <= 0.02 {
        Verdict::Good
    } else if gauged && validity.jump <= 0.13 {
        Verdict::Marginal
    } else {
        Verdict::Unreliable
    };
    assert_eq!(validity.verdict, by_jump, "{solution:?}");
    assert_eq!(validity.reliable, validity.verdict != Verdict::Unreliable, "{solution:?}");
    assert!(validity.jump >= 0.0 && validity.replicon >= 0.0, "{solution:?}");
}

/// Compares values from many seeds with the standard errors that they claim. The spread of the values must
/// agree with the errors.
#[track_caller]
pub fn assert_honest(what: &str, values: &[(f64, Option<f64>)]) {
    let count = values.len() as f64;
    let mean = values.iter().map(|(value, _)| value).sum::<f64>() / count;
    let spread = (values.iter().map(|(value, _)| (value - mean).powi(2)).sum::<f64>() / (count - 1.0)).sqrt();
    let claimed = (values.iter().map(|(_, error)| error.unwrap().powi(2)).sum::<f64>() / count).sqrt();
    let ratio = spread / claimed;
    assert!((1.0 / 1.5..1.5).contains(&ratio), "{what}: {ratio}");
}

/// The configuration for random cases. The cases are the same in every run, unless `PROPTEST_RNG_SEED` in the
/// environment chooses others. Failures are printed, and not recorded on disk. Few attempts are made to
/// simplify a failure, since each attempt may take the whole time allowed.
pub fn cases(cases: u32) -> ProptestConfig {
    let default = ProptestConfig::default();
    let rng_seed = match default.rng_seed {
        RngSeed::Random => RngSeed::Fixed(2026),
        chosen => chosen,
    };
    ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 16, rng_seed, ..default }
}
