//! The fine-tuning theory against training at finite dimension `D`: rank-one weights `w` on Gaussian sequences, with labels
//! `h1(w*) + N`, the minimum of
//!
//! `sum_mu T^{-2} |h1(w) - h1(w*) - N_mu|_F^2 + lambda |w|^2`, `h1(w) = D^{-1} (X w w^T X^T - |w|^2 I)`.
//!
//! The frozen logits are drawn independently of the sequences: `N` is Gaussian with variance `2 Delta_eff` per orthonormal
//! coordinate. With real frozen weights, which share `X` with `h1(w)`, there would be corrections of order `D^{-1/2}`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use argmin::core::{CostFunction, Error, Executor, Gradient, State};
use argmin::solver::linesearch::MoreThuenteLineSearch;
use argmin::solver::quasinewton::LBFGS;
use common::perfectly_frozen;
use lora_asymptotics::Options;
use lora_asymptotics::lora::{self, Solution, Training, Verdict};
use nalgebra::{DMatrix, DVector};
use rand::SeedableRng;
use rand_distr::{Distribution, StandardNormal};
use rand_pcg::Pcg64;
use rayon::prelude::*;

const DIMENSION: usize = 200;
const INSTANCES: u64 = 96;
/// Largest norm of the gradient at the end of training, relative to that of the ridge term alone.
const GRADIENT_TOLERANCE: f64 = 1e-5;
const NAMES: [&str; 5] = ["q", "m", "alignment", "objective", "train"];

type Observables = [f64; 5];

/// `alpha DIMENSION` is an integer; `q0 = 1`.
struct Setting {
    tokens: usize,
    delta_eff: f64,
    alpha: f64,
    lambda: f64,
}

impl Setting {
    fn predict(&self, lambda: f64) -> Solution {
        let (model, frozen) = perfectly_frozen(self.tokens, self.delta_eff);
        lora::solve(&model, &frozen, &Training::new(self.alpha, lambda), &Options::default())
            .and_then(Solution::into_converged)
            .unwrap()
    }

    /// The fixed point of the same equations with `eta` dropped from `r = vhat + 2 lambda + 2 eta`. Solving with the ridge
    /// `lambda' = lambda - eta(lambda')` instead makes the full equations those.
    fn predict_without_eta(&self) -> Observables {
        let mut shifted = self.lambda;
        for _ in 0..30 {
            shifted = self.lambda - self.predict(shifted).order.eta;
        }
        let solution = self.predict(shifted);
        assert!((shifted + solution.order.eta - self.lambda).abs() < 1e-4, "not a fixed point");
        let mut wrong = observables(&solution);
        wrong[3] = self.alpha * solution.errors.train + self.lambda * solution.order.q;
        wrong
    }
}

fn observables(solution: &Solution) -> Observables {
    let lora::Order { q, m, .. } = solution.order;
    [q, m, solution.alignment, solution.objective, solution.errors.train]
}

fn gaussian(rng: &mut Pcg64, rows: usize, columns: usize) -> DMatrix<f64> {
    DMatrix::from_fn(rows, columns, |_, _| StandardNormal.sample(rng))
}

/// The loss over `w`.
struct Objective {
    tokens: usize,
    lambda: f64,
    /// One token per row, sequence after sequence; and the transpose.
    x: DMatrix<f64>,
    x_columns: DMatrix<f64>,
    /// `h1(w*) + N` of every sequence.
    target: Vec<DMatrix<f64>>,
}

impl Objective {
    fn sample(rng: &mut Pcg64, setting: &Setting, star: &DVector<f64>) -> Self {
        let Setting { tokens, delta_eff, alpha, lambda } = *setting;
        let sequences = (alpha * DIMENSION as f64).round() as usize;
        let x = gaussian(rng, tokens * sequences, DIMENSION);
        let x_columns = x.transpose();
        let mut objective = Self { tokens, lambda, x, x_columns, target: Vec::new() };
        let logits: Vec<DMatrix<f64>> = objective.logits(star).collect();
        objective.target = logits
            .into_iter()
            .map(|logits| {
                // (G + G^T)/2 has variance 1 on the diagonal and 1/2 off it: 1 per orthonormal coordinate.
                let noise = gaussian(rng, tokens, tokens);
                logits + (&noise + noise.transpose()) * (0.5 * (2.0 * delta_eff).sqrt())
            })
            .collect();
        objective
    }

    /// `h1(w)` of every sequence.
    fn logits<'a>(&'a self, w: &DVector<f64>) -> impl Iterator<Item = DMatrix<f64>> + 'a {
        let (projected, centre) = (&self.x * w, w.norm_squared());
        (0..projected.len()).step_by(self.tokens).map(move |first| {
            DMatrix::from_fn(self.tokens, self.tokens, |a, b| {
                let product = projected[first + a] * projected[first + b];
                (product - if a == b { centre } else { 0.0 }) / DIMENSION as f64
            })
        })
    }

    fn loss(&self, w: &DVector<f64>) -> f64 {
        let squares = self.logits(w).zip(&self.target).map(|(h, target)| (h - target).norm_squared());
        squares.sum::<f64>() / (self.tokens * self.tokens) as f64
    }

    /// `sum_mu (X^T A_mu X w - tr(A_mu) w)` for one symmetric matrix per sequence.
    fn pull(&self, matrices: impl Iterator<Item = DMatrix<f64>>, w: &DVector<f64>) -> DVector<f64> {
        let mut projected = &self.x * w;
        let mut trace = 0.0;
        for (mu, a) in matrices.enumerate() {
            let mut rows = projected.rows_mut(mu * self.tokens, self.tokens);
            let image = &a * &rows;
            rows.copy_from(&image);
            trace += a.trace();
        }
        &self.x_columns * projected - w * trace
    }

    fn slope(&self, w: &DVector<f64>) -> DVector<f64> {
        let residuals = self.logits(w).zip(&self.target).map(|(h, target)| h - target);
        let scale = 4.0 / (self.tokens * self.tokens * DIMENSION) as f64;
        self.pull(residuals, w) * scale + w * (2.0 * self.lambda)
    }

    /// The top eigenvector of `sum_mu X^T target X`, with `|w|^2 = D`: what the labels say to first order.
    fn spectral_start(&self, rng: &mut Pcg64) -> DVector<f64> {
        let mut w = gaussian(rng, DIMENSION, 1).column(0).into_owned();
        // A shift that makes the top eigenvalue the largest in absolute value.
        let shift = self.x.norm();
        for _ in 0..100 {
            w = self.pull(self.target.iter().cloned(), &w) + &w * shift;
            w *= (DIMENSION as f64).sqrt() / w.norm();
        }
        w
    }

    /// From a start to a minimum.
    fn train(&self, start: &DVector<f64>) -> DVector<f64> {
        let scale = 2.0 * self.lambda * (DIMENSION as f64).sqrt();
        let solver = LBFGS::new(MoreThuenteLineSearch::new(), 10)
            .with_tolerance_grad(0.3 * GRADIENT_TOLERANCE * scale)
            .unwrap()
            .with_tolerance_cost(0.0)
            .unwrap();
        let start = start.as_slice().to_vec();
        let result =
            Executor::new(self, solver).configure(|state| state.param(start).max_iters(2000)).run().unwrap();
        let w = DVector::from_column_slice(result.state.get_best_param().unwrap());
        let relative = self.slope(&w).norm() / (2.0 * self.lambda * w.norm());
        assert!(relative <= GRADIENT_TOLERANCE, "relative gradient {relative:e}");
        w
    }
}

impl CostFunction for &Objective {
    type Param = Vec<f64>;
    type Output = f64;

    fn cost(&self, w: &Vec<f64>) -> Result<f64, Error> {
        let w = DVector::from_column_slice(w);
        Ok(self.loss(&w) + self.lambda * w.norm_squared())
    }
}

impl Gradient for &Objective {
    type Param = Vec<f64>;
    type Gradient = Vec<f64>;

    fn gradient(&self, w: &Vec<f64>) -> Result<Vec<f64>, Error> {
        Ok(self.slope(&DVector::from_column_slice(w)).as_slice().to_vec())
    }
}

/// One instance: data, training from an informed and a spectral start, measurement at the lower objective.
fn measure(setting: &Setting, seed: u64) -> Observables {
    let d = DIMENSION as f64;
    let mut rng = Pcg64::seed_from_u64(seed);
    let star = gaussian(&mut rng, DIMENSION, 1).column(0).into_owned();
    // |w*|^2 = D exactly: this scatter has no counterpart in the theory.
    let star = &star * (d.sqrt() / star.norm());
    let objective = Objective::sample(&mut rng, setting, &star);
    let total = |w: &DVector<f64>| objective.loss(w) + setting.lambda * w.norm_squared();
    let [informed, spectral] =
        [star.clone(), objective.spectral_start(&mut rng)].map(|start| objective.train(&start));
    let w = if total(&informed) <= total(&spectral) { informed } else { spectral };
    let (q, m) = (w.norm_squared() / d, w.dot(&star).abs() / d);
    [q, m, m / q.sqrt(), total(&w) / d, objective.loss(&w) / objective.target.len() as f64]
}

fn agrees(setting: &Setting, seed: u64) {
    let theory = setting.predict(setting.lambda);
    assert_eq!(theory.validity.verdict, Verdict::Good);
    let wrong = setting.predict_without_eta();
    let measured: Vec<Observables> =
        (0..INSTANCES).into_par_iter().map(|instance| measure(setting, seed + instance)).collect();
    let expected = observables(&theory);
    let mut rejected = 0;
    let mut table = String::new();
    let mut worst: f64 = 0.0;
    for i in 0..NAMES.len() {
        let n = INSTANCES as f64;
        let mean = measured.iter().map(|row| row[i]).sum::<f64>() / n;
        let variance = measured.iter().map(|row| (row[i] - mean).powi(2)).sum::<f64>() / (n - 1.0);
        let error = (variance / n).sqrt();
        let [z, z_wrong] = [expected[i], wrong[i]].map(|x| (mean - x) / error);
        worst = worst.max(z.abs());
        rejected += usize::from(z_wrong.abs() > 5.0);
        table += &format!(
            "{:>10}: trained {mean:.5} +- {error:.5}, theory {:.5} (z = {z:.2}), without eta {:.5} (z = {z_wrong:.2})\n",
            NAMES[i], expected[i], wrong[i]
        );
    }
    println!("{table}");
    assert!(worst < 5.0, "\n{table}");
    assert!(rejected >= 1, "dropping eta is not rejected:\n{table}");
}

#[test]
fn one_token() {
    agrees(&Setting { tokens: 1, delta_eff: 0.25, alpha: 5.0, lambda: 1.0 }, 1000);
}

#[test]
fn two_tokens() {
    agrees(&Setting { tokens: 2, delta_eff: 0.5, alpha: 2.0, lambda: 1.5 }, 2000);
}

#[test]
fn three_tokens() {
    agrees(&Setting { tokens: 3, delta_eff: 0.5, alpha: 1.5, lambda: 1.5 }, 3000);
}

#[test]
fn the_gradient_is_the_derivative_of_the_loss() {
    let setting = Setting { tokens: 3, delta_eff: 0.5, alpha: 0.1, lambda: 0.3 };
    let mut rng = Pcg64::seed_from_u64(1);
    let star = gaussian(&mut rng, DIMENSION, 1).column(0).into_owned();
    let objective = Objective::sample(&mut rng, &setting, &star);
    let w = gaussian(&mut rng, DIMENSION, 1).as_slice().to_vec();
    let gradient = (&objective).gradient(&w).unwrap();
    let size = DVector::from_column_slice(&gradient).norm();
    for i in (0..DIMENSION).step_by(17) {
        let [up, down] = [1e-4, -1e-4].map(|step| {
            let mut moved = w.clone();
            moved[i] += step;
            (&objective).cost(&moved).unwrap()
        });
        assert!(((up - down) / 2e-4 - gradient[i]).abs() < 1e-7 * size, "component {i}");
    }
}
