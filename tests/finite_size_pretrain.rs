//! The theory against the network itself: train the attention layer at finite dimension `D` on its actual loss,
//! measure, extrapolate to `D -> infinity`, and compare.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use argmin::core::{CostFunction, Error, Executor, Gradient, State};
use argmin::solver::linesearch::MoreThuenteLineSearch;
use argmin::solver::quasinewton::LBFGS;
use lora_asymptotics::pretrain::{Solution, Training};
use nalgebra::DMatrix;
use rand::SeedableRng;
use rand_distr::{Distribution, StandardNormal};
use rand_pcg::Pcg64;
use rayon::prelude::*;

/// Sizes, and the number of instances of each: more of the small ones, which are cheap and fluctuate more. Powers of
/// two keep the quadratic extrapolation well conditioned: its weights are 1/3, -2 and 8/3.
const SIZES: [(usize, usize); 3] = [(12, 384), (24, 144), (48, 48)];
/// Fresh sequences per instance, for the test error.
const FRESH: usize = 2000;
/// Largest norm of the gradient at the end of training, relative to that of the ridge term alone.
const GRADIENT_TOLERANCE: f64 = 1e-5;
/// Observables that are measured, in the order of [`Observables`].
const NAMES: [&str; 7] = ["Q", "M", "trace", "objective", "train", "test", "test_clean"];

type Observables = [f64; 7];

/// What is trained, at any size. All widths are such that `alpha D^2` and `kappa0 D` are integers for [`SIZES`].
struct Setting {
    tokens: usize,
    delta: f64,
    kappa0: f64,
    training: Training,
}

impl Setting {
    fn predict(&self, lambda: f64) -> Solution {
        common::solved(
            &common::model(self.tokens, self.delta, self.kappa0),
            &Training { lambda, ..self.training },
        )
    }
}

fn gaussian_matrix(rng: &mut Pcg64, rows: usize, columns: usize) -> DMatrix<f64> {
    DMatrix::from_fn(rows, columns, |_, _| StandardNormal.sample(rng))
}

/// A Gaussian matrix scaled to the norm that it has on average. The scale is `1 + O(1/D)`, and so without consequence in
/// the limit, but it carries most of the scatter between instances.
fn normalised(rng: &mut Pcg64, rows: usize, columns: usize) -> DMatrix<f64> {
    let matrix = gaussian_matrix(rng, rows, columns);
    let scale = ((rows * columns) as f64).sqrt() / matrix.norm();
    matrix * scale
}

/// `P^{-1/2} W W^T`.
fn weights(w: &DMatrix<f64>) -> DMatrix<f64> {
    w * w.transpose() / (w.ncols() as f64).sqrt()
}

/// Labelled sequences.
struct Data {
    tokens: usize,
    /// One token per column.
    x: DMatrix<f64>,
    /// The transpose: one token per row.
    x_rows: DMatrix<f64>,
    /// `X X^T / D` of every sequence. It tends to the identity, but at finite `D` it is part of the loss.
    gram: Vec<DMatrix<f64>>,
    /// The argument of `sigma` in the label of every sequence.
    target: Vec<DMatrix<f64>>,
}

impl Data {
    fn sample(rng: &mut Pcg64, setting: &Setting, teacher: &DMatrix<f64>, sequences: usize) -> Self {
        let (tokens, dimension) = (setting.tokens, teacher.nrows());
        let x = normalised(rng, dimension, tokens * sequences);
        let x_rows = x.transpose();
        let identity = DMatrix::identity(dimension, dimension);
        let gram = blocks(tokens, &identity, &x).collect();
        let mut data = Self { tokens, x, x_rows, gram, target: Vec::new() };
        data.target = data.logits(teacher);
        let noise = normalised(rng, tokens * tokens, sequences) * setting.delta.sqrt();
        for (target, noise) in data.target.iter_mut().zip(noise.column_iter()) {
            // Half of B + B^T has variance 1 on the diagonal, 1/2 off it.
            let noise = noise.reshape_generic(nalgebra::Dyn(tokens), nalgebra::Dyn(tokens));
            *target += (noise + noise.transpose()) * 0.5;
        }
        data
    }

    /// `h(S)` of every sequence.
    fn logits(&self, s: &DMatrix<f64>) -> Vec<DMatrix<f64>> {
        let centre = DMatrix::identity(self.tokens, self.tokens) * (s.trace() / s.nrows() as f64);
        blocks(self.tokens, s, &self.x).map(|h| h - &centre).collect()
    }

    /// `sigma(h(S)) - sigma(target)` of every sequence, for `sigma(a) = a/T`.
    fn residuals(&self, s: &DMatrix<f64>) -> Vec<DMatrix<f64>> {
        let logits = self.logits(s).into_iter();
        logits.zip(&self.target).map(|(h, target)| (h - target) / self.tokens as f64).collect()
    }

    /// `sum_mu D^{-1} |yhat_mu - y_mu|_F^2`.
    fn loss(&self, s: &DMatrix<f64>) -> f64 {
        self.residuals(s).iter().zip(&self.gram).map(|(r, gram)| (r * gram * r).trace()).sum()
    }

    /// The gradient of [`Data::loss`] with respect to `S`.
    fn loss_gradient(&self, s: &DMatrix<f64>) -> DMatrix<f64> {
        let (dimension, tokens) = self.x.shape();
        let mut pulled = DMatrix::zeros(dimension, tokens);
        let mut trace = 0.0;
        for (mu, (r, gram)) in self.residuals(s).iter().zip(&self.gram).enumerate() {
            let a = gram * r + r * gram;
            trace += a.trace();
            let first = mu * self.tokens;
            pulled.columns_mut(first, self.tokens).gemm(1.0, &self.x.columns(first, self.tokens), &a, 0.0);
        }
        let centred = pulled * &self.x_rows - DMatrix::identity(dimension, dimension) * trace;
        centred / (self.tokens * dimension) as f64
    }
}

/// `X S X^T / D` of every sequence.
fn blocks<'a>(
    tokens: usize,
    s: &DMatrix<f64>,
    x: &'a DMatrix<f64>,
) -> impl Iterator<Item = DMatrix<f64>> + 'a {
    let dimension = x.nrows() as f64;
    let image = s * x;
    (0..x.ncols()).step_by(tokens).map(move |first| {
        DMatrix::from_fn(tokens, tokens, |a, b| image.column(first + a).dot(&x.column(first + b)) / dimension)
    })
}

/// `L(W)`, with `W` flattened by columns.
struct Objective<'a> {
    data: &'a Data,
    lambda: f64,
    width: usize,
}

impl Objective<'_> {
    fn matrix(&self, w: &[f64]) -> DMatrix<f64> {
        DMatrix::from_column_slice(w.len() / self.width, self.width, w)
    }
}

impl CostFunction for Objective<'_> {
    type Param = Vec<f64>;
    type Output = f64;

    fn cost(&self, w: &Vec<f64>) -> Result<f64, Error> {
        let w = self.matrix(w);
        Ok(self.data.loss(&weights(&w)) + self.lambda * w.norm_squared())
    }
}

impl Gradient for Objective<'_> {
    type Param = Vec<f64>;
    type Gradient = Vec<f64>;

    fn gradient(&self, w: &Vec<f64>) -> Result<Vec<f64>, Error> {
        let w = self.matrix(w);
        let outer = self.data.loss_gradient(&weights(&w)) / (self.width as f64).sqrt();
        Ok(((outer * &w + &w * self.lambda) * 2.0).as_slice().to_vec())
    }
}

/// `W` at the minimum of `L`, from a random start.
fn train(objective: Objective, rng: &mut Pcg64) -> DMatrix<f64> {
    let dimension = objective.data.x.nrows();
    let (lambda, width) = (objective.lambda, objective.width);
    let start = gaussian_matrix(rng, dimension, width).as_slice().to_vec();
    // The ridge term alone has a gradient of norm 2 lambda |W|, of the order of 2 lambda D.
    let scale = 2.0 * lambda * dimension as f64;
    let solver = LBFGS::new(MoreThuenteLineSearch::new(), 20)
        .with_tolerance_grad(0.3 * GRADIENT_TOLERANCE * scale)
        .unwrap()
        .with_tolerance_cost(0.0)
        .unwrap();
    let result =
        Executor::new(objective, solver).configure(|state| state.param(start).max_iters(5000)).run().unwrap();
    let best = result.state.get_best_param().unwrap();
    let gradient = result.problem.problem.as_ref().unwrap().gradient(best).unwrap();
    let w = DMatrix::from_column_slice(dimension, width, best);
    let relative = norm(&gradient) / (2.0 * lambda * w.norm());
    let ended = result.state.get_termination_status();
    assert!(relative <= GRADIENT_TOLERANCE, "D = {dimension}: {ended}, relative gradient {relative:e}");
    w
}

fn norm(vector: &[f64]) -> f64 {
    vector.iter().map(|x| x * x).sum::<f64>().sqrt()
}

fn integer(x: f64) -> usize {
    assert!((x - x.round()).abs() < 1e-9, "{x} must be an integer");
    x.round() as usize
}

/// One instance: teacher, data, training, measurement.
fn measure(setting: &Setting, dimension: usize, seed: u64) -> Observables {
    let mut rng = Pcg64::seed_from_u64(seed);
    let Training { alpha, lambda, kappa } = setting.training;
    let d = dimension as f64;
    let square = d * d;
    let teacher = weights(&normalised(&mut rng, dimension, integer(setting.kappa0 * d)));
    let data = Data::sample(&mut rng, setting, &teacher, integer(alpha * square));
    let w = train(Objective { data: &data, lambda, width: integer(kappa * d) }, &mut rng);
    let s = weights(&w);
    let loss = data.loss(&s);
    let mut fresh = Data::sample(&mut rng, setting, &teacher, FRESH);
    let test = fresh.loss(&s) / FRESH as f64;
    fresh.target = fresh.logits(&teacher);
    let clean = fresh.loss(&s) / FRESH as f64;
    [
        s.norm_squared() / square,
        s.dot(&teacher) / square,
        s.trace() / (d * d.sqrt()),
        (loss + lambda * w.norm_squared()) / square,
        loss / (alpha * square),
        test,
        clean,
    ]
}

#[derive(Debug, Clone, Copy)]
struct Estimate {
    mean: f64,
    error: f64,
}

impl Estimate {
    fn of(values: impl Iterator<Item = f64> + Clone) -> Self {
        let n = values.clone().count() as f64;
        let mean = values.clone().sum::<f64>() / n;
        let variance = values.map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0);
        Self { mean, error: (variance / n).sqrt() }
    }
}

/// The limit of `a + b/D + c/D^2`: the value at `1/D = 0` of the parabola through three sizes.
fn extrapolate(points: [(usize, Estimate); 3]) -> Estimate {
    let inverse = points.map(|(dimension, _)| 1.0 / dimension as f64);
    let mut limit = Estimate { mean: 0.0, error: 0.0 };
    for (i, (_, estimate)) in points.iter().enumerate() {
        let others = inverse.iter().enumerate().filter(|(j, _)| *j != i);
        let weight: f64 = others.map(|(_, x)| x / (x - inverse[i])).product();
        limit.mean += weight * estimate.mean;
        limit.error = limit.error.hypot(weight * estimate.error);
    }
    limit
}

/// Deviation of every observable from the theory, in standard errors, with a table for the message.
fn compare(limits: &[Estimate; 7], theory: &Solution, raw: &str) -> ([f64; 7], String) {
    let expected = [
        theory.order.q,
        theory.order.m,
        theory.trace,
        theory.objective,
        theory.errors.train,
        theory.errors.test,
        theory.errors.test_clean,
    ];
    let scores = std::array::from_fn(|i| (limits[i].mean - expected[i]) / limits[i].error);
    let rows = (0..7).map(|i| {
        let Estimate { mean, error } = limits[i];
        format!(
            "{:>10}: extrapolated {mean:.5} +- {error:.5}, theory {:.5}, z = {:.2}\n",
            NAMES[i], expected[i], scores[i]
        )
    });
    (scores, format!("\n{}{raw}", rows.collect::<String>()))
}

fn agrees(setting: &Setting) {
    let sizes = SIZES.map(|(dimension, instances)| {
        let seeds = 0..instances as u64;
        let measured: Vec<Observables> = seeds
            .into_par_iter()
            .map(|seed| measure(setting, dimension, 1000 * dimension as u64 + seed))
            .collect();
        (dimension, std::array::from_fn::<_, 7, _>(|i| Estimate::of(measured.iter().map(move |row| row[i]))))
    });
    let raw: String =
        sizes.iter().map(|(d, row)| format!("D = {d}: {:?}\n", row.map(|e| (e.mean, e.error)))).collect();
    let limits = std::array::from_fn(|i| extrapolate(sizes.map(|(d, row)| (d, row[i]))));

    let lambda = setting.training.lambda;
    let (scores, table) = compare(&limits, &setting.predict(lambda), &raw);
    assert!(scores.iter().all(|z| z.abs() < 5.0), "{table}");
    println!("{table}");

    // The same comparison has to tell a wrong theory from the right one; by most observables, since the test errors are
    // near their minimum in lambda and hardly move.
    let (scores, table) = compare(&limits, &setting.predict(2.0 * lambda), &raw);
    let rejected = scores.iter().filter(|z| z.abs() > 5.0).count();
    assert!(rejected >= 4, "twice the ridge is not rejected:{table}");
    println!("{table}");
}

#[test]
fn one_token() {
    agrees(&Setting { tokens: 1, delta: 0.5, kappa0: 0.5, training: Training::new(0.5, 0.2) });
}

#[test]
fn two_tokens() {
    agrees(&Setting { tokens: 2, delta: 0.5, kappa0: 0.5, training: Training::new(0.25, 0.1) });
}

#[test]
fn the_gradient_is_the_derivative_of_the_loss() {
    let setting = Setting { tokens: 3, delta: 0.5, kappa0: 0.5, training: Training::new(0.5, 0.1) };
    let mut rng = Pcg64::seed_from_u64(1);
    let teacher = weights(&normalised(&mut rng, 6, 3));
    let data = Data::sample(&mut rng, &setting, &teacher, 18);
    let objective = Objective { data: &data, lambda: 0.1, width: 4 };
    let w = gaussian_matrix(&mut rng, 6, 4).as_slice().to_vec();
    let gradient = objective.gradient(&w).unwrap();
    let size = norm(&gradient);
    for i in 0..w.len() {
        let [up, down] = [1e-5, -1e-5].map(|step| {
            let mut moved = w.clone();
            moved[i] += step;
            objective.cost(&moved).unwrap()
        });
        assert!(((up - down) / 2e-5 - gradient[i]).abs() < 1e-8 * size, "component {i}");
    }
}
