//! A teacher with a spectrum of the user's own against closed equations, and against lists of its eigenvalues.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;

use extension::semicircle::Semicircle;
use lora_asymptotics::spectrum::{TeacherSpectrum, check};
use lora_asymptotics::{Model, Options, Teacher, pretrain};

const TEACHER: Semicircle = Semicircle { centre: 1.0, sigma: 0.4 };

fn layer() -> Model {
    Model::linear(2, 0.5).unwrap()
}

fn model() -> Model {
    layer().with_teacher_spectrum(Arc::new(TEACHER)).unwrap()
}

fn assert_close(found: f64, expected: f64, relative: f64) {
    assert!((found - expected).abs() <= relative * expected.abs(), "{found} instead of {expected}");
}

#[test]
fn the_posterior_of_a_gaussian_matrix_is_that_of_a_gaussian_number() {
    assert_eq!(check(&TEACHER), Ok(()));
    for snr in [0.1, 1.0, 5.0, 30.0] {
        let signal = (snr * TEACHER.sigma).powi(2);
        let posterior = TEACHER.posterior(snr);
        assert_close(posterior.risk, signal / (1.0 + signal), 1e-9);
        assert_close(posterior.overlap, 1.0 + TEACHER.variance() * signal / (1.0 + signal), 1e-11);
    }
    let bound =
        pretrain::bayes_optimal(&model(), 0.4, &Options::default()).unwrap().into_converged().unwrap();
    let signal = bound.order.q_hat * TEACHER.variance();
    assert_close(bound.order.q, 1.0 + TEACHER.variance() * signal / (1.0 + signal), 1e-9);
    // The three coordinates of the logits of two tokens are seen with noise of variance delta/2.
    let seen = TEACHER.second_moment() - bound.order.q + 0.25;
    assert_close(bound.order.q_hat * seen, 2.0 * 0.4 * 3.0, 1e-9);
}

#[test]
fn a_threshold_below_the_support_leaves_closed_equations() {
    let training = pretrain::Training::new(2.0, 0.05).unwrap();
    let solution =
        pretrain::solve(&model(), &training, &Options::default()).unwrap().into_converged().unwrap();
    let order = solution.order;
    let threshold = 2.0 * training.lambda().unwrap() * training.kappa().sqrt();
    let snr = order.m_hat / order.q_hat.sqrt();
    assert!(threshold / order.q_hat.sqrt() < TEACHER.support(snr)[0][0], "eigenvalues are cut off");
    // With s-hat = (Y - threshold)/Vhat the averages over Y are moments.
    let (mean, second) = (TEACHER.mean(), TEACHER.second_moment());
    let norm = order.m_hat.powi(2) * second + order.q_hat - 2.0 * threshold * order.m_hat * mean
        + threshold * threshold;
    assert_close(order.q, norm / order.v_hat.powi(2), 1e-9);
    assert_close(order.m, (order.m_hat * second - threshold * mean) / order.v_hat, 1e-9);
    assert_close(order.v, 1.0 / order.v_hat, 1e-9);
    assert_close(solution.trace, (order.m_hat * mean - threshold) / order.v_hat, 1e-9);
}

#[test]
fn a_long_list_of_eigenvalues_gives_the_same_solution() {
    let training = pretrain::Training::new(0.4, 0.1).unwrap();
    let options = Options::default();
    let exact = pretrain::solve(&model(), &training, &options).unwrap().into_converged().unwrap();
    assert!(exact.rank_fraction < 0.99, "the soft threshold cuts nothing off");
    let teacher = Teacher::Spectrum { eigenvalues: TEACHER.quantiles(3200) };
    let listed = layer().with_teacher(teacher).unwrap();
    let listed = pretrain::solve(&listed, &training, &options).unwrap().into_converged().unwrap();
    // Quantiles at midpoints differ from the law by the order of n^(-5/3), because of the square roots at the edges.
    for (found, expected) in [
        (listed.order.q, exact.order.q),
        (listed.order.m, exact.order.m),
        (listed.order.v, exact.order.v),
        (listed.trace, exact.trace),
        (listed.errors.test, exact.errors.test),
    ] {
        assert_close(found, expected, 1e-5);
    }
}
