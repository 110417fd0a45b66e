//! Where the error of pre-training comes from: closed forms, sums, limits, errors, and explicit random matrices.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use common::assert_close;
use lora_asymptotics::fixed_point::Status;
use lora_asymptotics::pretrain::{self, ErrorSplit, Solution, Training};
use lora_asymptotics::{Attention, Error, Model, Options, Teacher};
use nalgebra::{DMatrix, DVector};
use rand::{RngExt, SeedableRng};
use rand_distr::StandardNormal;

fn teachers() -> [Teacher; 5] {
    [
        Teacher::Wishart { kappa0: 0.4 },
        Teacher::Wishart { kappa0: 1.0 },
        Teacher::Wishart { kappa0: 3.0 },
        Teacher::PowerLaw { exponent: 1.25, dimension: 60 },
        Teacher::Spectrum { eigenvalues: vec![0.0, 0.0, 0.5, 1.0, 3.0] },
    ]
}

fn linear(tokens: usize, delta: f64, teacher: Teacher) -> Model {
    Model::linear(tokens, delta).unwrap().with_teacher(teacher).unwrap()
}

fn solve(model: &Model, training: &Training) -> Solution {
    pretrain::solve(model, training, &Options::default()).unwrap().into_converged().unwrap()
}

#[test]
fn the_parts_are_the_error() {
    for teacher in teachers() {
        for (tokens, delta) in [(1, 0.5), (2, 0.1), (3, 2.0)] {
            let model = linear(tokens, delta, teacher.clone());
            for (alpha, lambda) in [(0.05, 0.02), (0.3, 0.1), (2.0, 0.01), (0.3, 1e-3)] {
                let training = Training::new(alpha, lambda).unwrap();
                let solution = solve(&model, &training);
                let split = ErrorSplit::new(&model, &training, &solution).unwrap();
                let what = format!("{teacher:?}, {tokens}, {delta}, {alpha}, {lambda}: {split:?}");
                assert!(split.missed >= 0.0 && split.shrinkage >= 0.0 && split.noise_fitted >= 0.0, "{what}");
                assert!(split.residual < 2e-6, "{what}");
                let prefactor = (tokens as f64 + 1.0) / tokens as f64;
                // The sum differs by twice the overlap that is not resolved.
                let error = prefactor * 2.0 * split.residual * solution.q0 / solution.errors.test_clean;
                assert_close(&what, prefactor * split.total(), solution.errors.test_clean, error + 1e-9);
            }
        }
    }
}

#[test]
fn direct_training_is_in_closed_form() {
    for teacher in teachers() {
        let model = linear(2, 0.5, teacher);
        for (alpha, lambda) in [(0.1, 0.1), (0.5, 0.01), (1.0, 2.0)] {
            let training = Training::new(alpha, lambda).unwrap().direct();
            let solution = solve(&model, &training);
            let split = ErrorSplit::new(&model, &training, &solution).unwrap();
            let pretrain::Order { v, q_hat, m_hat, .. } = solution.order;
            assert!(split.missed < 1e-12, "{split:?}");
            assert_close("shrinkage", split.shrinkage, (1.0 - m_hat * v).powi(2) * solution.q0, 1e-6);
            assert_close("noise", split.noise_fitted, q_hat * v * v, 1e-6);
        }
    }
}

#[test]
fn all_is_missed_at_collapse_and_hardly_anything_where_data_abound() {
    let model = linear(2, 0.5, Teacher::Wishart { kappa0: 0.5 });
    let collapse = pretrain::lambda_collapse(&model, &Training::new(0.2, 0.1).unwrap(), &Options::default());
    let training = Training::new(0.2, 1.01 * collapse.unwrap().value).unwrap();
    let solution = solve(&model, &training);
    assert_eq!(solution.status, Status::Collapsed);
    let split = ErrorSplit::new(&model, &training, &solution).unwrap();
    assert_close("missed", split.missed, 1.5, 1e-12);
    assert!(split.shrinkage <= 0.0 && split.noise_fitted <= 0.0);
    let training = Training::new(5.0, 1e-4).unwrap();
    let split = ErrorSplit::new(&model, &training, &solve(&model, &training)).unwrap();
    assert!(
        split.missed < 0.05 * split.noise_fitted && split.shrinkage < 0.05 * split.noise_fitted,
        "{split:?}"
    );
    // A large ridge trades noise for shrinkage.
    let parts = [0.03, 0.1, 0.3, 0.6].map(|lambda| {
        let training = Training::new(0.2, lambda).unwrap();
        ErrorSplit::new(&model, &training, &solve(&model, &training)).unwrap()
    });
    assert!(parts.windows(2).all(|pair| pair[1].noise_fitted < pair[0].noise_fitted), "{parts:?}");
    assert!(parts.windows(2).all(|pair| pair[1].missed > pair[0].missed), "{parts:?}");
}

/// Explicit matrices `Y` of one teacher with independent noises: the mean weights are seen by the product of two of them, and the shares of the
/// directions by the projector on the learned subspace.
#[test]
fn explicit_matrices_agree() {
    const DIMENSION: usize = 160;
    const PAIRS: usize = 16;
    let eigenvalues = [0.0, 0.0, 0.5, 1.0, 3.0];
    let model = linear(2, 0.5, Teacher::Spectrum { eigenvalues: eigenvalues.to_vec() });
    let training = Training::new(0.15, 0.1).unwrap();
    let solution = solve(&model, &training);
    let split = ErrorSplit::new(&model, &training, &solution).unwrap();
    let pretrain::Order { q_hat, m_hat, v_hat, .. } = solution.order;
    let d = DIMENSION as f64;
    let truth = |i: usize| eigenvalues[i * eigenvalues.len() / DIMENSION];
    let mut rng = rand_pcg::Pcg64::seed_from_u64(5);
    // The weights of one draw of the noise, with the projector on the learned subspace.
    let mut draw = || -> [DMatrix<f64>; 2] {
        let g = DMatrix::from_fn(DIMENSION, DIMENSION, |_, _| rng.sample::<f64, _>(StandardNormal));
        let mut y = (&g + g.transpose()) * (0.5 * q_hat / d).sqrt();
        (0..DIMENSION).for_each(|i| y[(i, i)] += m_hat * truth(i));
        let eigen = y.symmetric_eigen();
        let kept = eigen.eigenvalues.map(|y| (y - 0.2).max(0.0) / v_hat);
        let projector = kept.map(|f| if f > 0.0 { 1.0 } else { 0.0 });
        [kept, projector].map(|values: DVector<f64>| {
            &eigen.eigenvectors * DMatrix::from_diagonal(&values) * eigen.eigenvectors.transpose()
        })
    };
    let mut measured: [Vec<f64>; 3] = Default::default();
    for _ in 0..PAIRS {
        let [[one, first], [two, second]] = [draw(), draw()];
        // B and c of every atom of the teacher, from all its directions and both draws.
        let size = DIMENSION / eigenvalues.len();
        let over = |matrix: &DMatrix<f64>, other: &DMatrix<f64>, atom: usize| {
            let here = size * atom..size * (atom + 1);
            here.map(|i| matrix[(i, i)] + other[(i, i)]).sum::<f64>() / (2 * size) as f64
        };
        let (mut missed, mut shrinkage) = (0.0, 0.0);
        let mut noise = 0.5 * (one.norm_squared() + two.norm_squared()) / d - one.dot(&two) / d;
        for (atom, s) in eigenvalues.iter().enumerate() {
            let (mean, share) = (over(&one, &two, atom), over(&first, &second, atom));
            let (lost, weight) = (s - mean, 1.0 / eigenvalues.len() as f64);
            if lost > 0.0 {
                let inside = (share * s - mean).max(0.0);
                shrinkage += weight * lost * inside;
                missed += weight * lost * (lost - inside);
            } else {
                noise += weight * lost * lost;
            }
        }
        for (all, value) in measured.iter_mut().zip([missed, shrinkage, noise]) {
            all.push(value);
        }
    }
    for (all, expected) in measured.iter().zip([split.missed, split.shrinkage, split.noise_fitted]) {
        let count = all.len() as f64;
        let mean = all.iter().sum::<f64>() / count;
        let variance = all.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (count - 1.0);
        // The law of a matrix of this size is off by some 1/D.
        let error = (variance / count).sqrt().hypot(expected / d);
        assert!((mean - expected).abs() < 4.0 * error, "{mean} against {expected} +- {error}: {split:?}");
    }
}

#[test]
fn what_cannot_be_split_is_an_error() {
    let model = linear(2, 0.5, Teacher::Wishart { kappa0: 0.5 });
    let training = Training::new(0.2, 0.1).unwrap();
    let solution = solve(&model, &training);
    let refused = |model: &Model, training: &Training, solution: &Solution| {
        ErrorSplit::new(model, training, solution).unwrap_err().kind()
    };
    let cross = model.clone().with_attention(Attention::Cross).unwrap();
    assert!(matches!(
        ErrorSplit::new(&cross, &training, &solution),
        Err(Error::Conflict { field: "model.attention = cross", .. })
    ));
    assert_eq!(refused(&model.clone().without_teacher(), &training, &solution), "missing_field");
    assert_eq!(refused(&model, &Training::without_ridge(0.2).unwrap(), &solution), "missing_field");
    let mut stalled = solution.clone();
    stalled.status = Status::Stalled;
    assert_eq!(refused(&model, &training, &stalled), "not_converged");
    let mut hand = solution;
    hand.order.q_hat = -1.0;
    assert_eq!(refused(&model, &training, &hand), "invalid_parameter");
}
