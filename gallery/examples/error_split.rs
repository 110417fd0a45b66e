//! The figure shows where the error of pre-training comes from (linear attention, `T = 2`). Left: the excess error, split into what is missed, what is
//! shrunk, and what is learned of the noise (`pretrain::ErrorSplit`), against the ridge (`alpha = .3`, `kappa0 = .5`, `Delta = .5`). Right: for teachers with the
//! eigenvalues `s_i ~ i^-gamma`, the excess error at the best ridge against the data, with the predicted slopes.
//!
//! The slopes, derived here. The weights see the teacher through noise of size `tau = sqrt(E/(2 alpha K))`, with `E = Delta/2 + e` and `e` the excess error.
//! About `k` eigenvalues are above it, `s_k = tau`. The others are missed, which costs `sum_{i > k} s_i^2 ~ k s_k^2`, and the noise of the
//! `k` directions that are learned costs `k tau^2`, which is of the same order: `e ~ k tau^2 ~ tau^{2 - 1/gamma}`. Where noise in the labels dominates,
//! `tau^2 ~ 1/alpha`, and
//!
//! ```text
//! e ~ alpha^{-(1 - 1/(2 gamma))}
//! ```
//!
//! The law holds as long as `k` is neither near 1 nor a large share of all eigenvalues, and `e` is small in comparison with `Delta/2`.
//!
//! ```text
//! cargo run --release -p gallery --example error_split
//! ```

mod common;

use std::error::Error;

use clap::Parser;
use common::{Arguments, BLACK, COLOURS, Dot, GREY, curve, fact, log_panel, save, write_csv};
use kuva::plot::legend::LegendPosition;
use lora_asymptotics::optimize::{Parameter, Settings, Target, Variable, minimize};
use lora_asymptotics::pretrain::{self, ErrorSplit, Training};
use lora_asymptotics::{Model, Options, Scenario, Teacher};
use serde::Serialize;

#[derive(Serialize)]
struct Split {
    lambda: f64,
    missed: f64,
    shrinkage: f64,
    noise_fitted: f64,
    excess: f64,
}

#[derive(Serialize)]
struct Scaling {
    exponent: f64,
    alpha: f64,
    lambda: f64,
    excess: f64,
}

/// Exponents, and the range of `alpha` in which the law is looked at.
const LAWS: [(f64, [f64; 2]); 3] = [(1.0, [0.02, 0.6]), (1.5, [0.03, 3.0]), (2.0, [0.03, 10.0])];
const EIGENVALUES: usize = 400;
/// Label noise that dominates the excess error.
const DELTA: f64 = 4.0;

fn splits(count: usize) -> Result<Vec<Split>, lora_asymptotics::Error> {
    let model = Model::linear(2, 0.5)?.with_teacher(Teacher::Wishart { kappa0: 0.5 })?;
    let at = |step: usize| {
        let lambda = 1e-3 * 1e3_f64.powf(step as f64 / (count - 1) as f64);
        let training = Training::new(0.3, lambda)?;
        let solution = pretrain::solve(&model, &training, &Options::default())?;
        let split = ErrorSplit::new(&model, &training, &solution)?;
        let [missed, shrinkage, noise_fitted] =
            [split.missed, split.shrinkage, split.noise_fitted].map(|part| 1.5 * part);
        Ok(Split { lambda, missed, shrinkage, noise_fitted, excess: solution.errors.test_clean })
    };
    (0..count).map(at).collect()
}

/// The excess error at the best ridge.
fn scaling(exponent: f64, alpha: f64) -> Result<Option<Scaling>, lora_asymptotics::Error> {
    let scenario = Scenario::from_json(&format!(
        r#"{{"model": {{"tokens": 2, "activation": "linear", "delta": {DELTA},
                        "teacher": {{"power_law": {{"exponent": {exponent}, "dimension": {EIGENVALUES}}}}}}},
            "pretrain": {{"alpha": {alpha}, "lambda": 0.1}}}}"#
    ))?;
    let ridge = Variable::new(Parameter::PretrainLambda, 1e-6, 30.0)?;
    let settings = Settings { tolerance: 1e-3, scan: 15, ..Settings::default() };
    let optimum = minimize(&scenario, Target::PretrainTest, &[ridge], &settings)?;
    let (Some(best), Some(solution)) = (optimum.found.first(), optimum.outcome.pretrain) else {
        return Ok(None);
    };
    Ok(Some(Scaling { exponent, alpha, lambda: best.value, excess: solution.errors.test_clean }))
}

/// The slope of `ln y` against `ln x`, by least squares.
fn slope(points: &[(f64, f64)]) -> f64 {
    let logs: Vec<(f64, f64)> = points.iter().map(|(x, y)| (x.ln(), y.ln())).collect();
    let count = logs.len() as f64;
    let [mx, my] =
        [logs.iter().map(|p| p.0).sum::<f64>() / count, logs.iter().map(|p| p.1).sum::<f64>() / count];
    let [xy, xx] =
        logs.iter().fold([0.0; 2], |[xy, xx], (x, y)| [xy + (x - mx) * (y - my), xx + (x - mx) * (x - mx)]);
    xy / xx
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let (fine, coarse) = if arguments.full { (121, 25) } else { (41, 9) };
    let splits = splits(fine)?;
    write_csv(&arguments.out, "error_split", &splits)?;
    for split in &splits {
        let total = split.missed + split.shrinkage + split.noise_fitted;
        fact((total / split.excess - 1.0).abs() < 1e-6, "the parts are the excess error")?;
    }
    let mut plots = Vec::new();
    let parts = [
        ("missed", (|split| split.missed) as fn(&Split) -> f64, COLOURS[0]),
        ("shrinkage", |split| split.shrinkage, COLOURS[2]),
        ("noise fitted", |split| split.noise_fitted, COLOURS[1]),
        ("all", |split| split.excess, BLACK),
    ];
    for (name, of, colour) in parts {
        let dots: Vec<Dot> =
            splits.iter().map(|split| Dot { x: split.lambda, y: of(split), reliable: true }).collect();
        plots.extend(curve(&dots, colour, name, false));
    }
    let left = log_panel(
        plots,
        "α = 0.3, κ₀ = 0.5, Δ = 0.5",
        "ridge λ",
        "excess error",
        LegendPosition::InsideTopLeft,
    );

    let mut rows = Vec::new();
    let mut plots = Vec::new();
    for ((exponent, [low, high]), colour) in LAWS.into_iter().zip(COLOURS) {
        let mut points = Vec::new();
        for step in 0..coarse {
            let alpha = low * (high / low).powf(step as f64 / (coarse - 1) as f64);
            if let Some(row) = scaling(exponent, alpha)? {
                points.push((alpha, row.excess));
                rows.push(row);
            }
        }
        let expected = 1.0 - 0.5 / exponent;
        let found = -slope(&points);
        println!("gamma = {exponent}: slope -{found:.3}, predicted -{expected:.3}");
        fact((found / expected - 1.0).abs() < 0.1, "the error falls with the predicted slope, to a tenth")?;
        let dots: Vec<Dot> = points.iter().map(|(x, y)| Dot { x: *x, y: *y, reliable: true }).collect();
        let name = format!("γ = {exponent}: −{found:.2} (−{expected:.2})");
        plots.extend(curve(&dots, colour, &name, false));
        // The line of the predicted slope goes through the middle of the points, in logarithms.
        let count = points.len() as f64;
        let middle = points.iter().map(|(x, y)| y.ln() + expected * x.ln()).sum::<f64>() / count;
        let line: Vec<Dot> =
            [low, high].map(|x| Dot { x, y: (middle - expected * x.ln()).exp(), reliable: true }).to_vec();
        plots.extend(curve(&line, GREY, if plots.len() >= 5 { "predicted slopes" } else { "" }, true));
    }
    write_csv(&arguments.out, "error_split_scaling", &rows)?;
    let (plots, layout) = log_panel(
        plots,
        "eigenvalues i^−γ, Δ = 4, best ridge",
        "data α",
        "excess error",
        LegendPosition::InsideBottomLeft,
    );
    let right = (plots, layout.with_log_y());
    save(&arguments, "error_split", "Where the error of pre-training comes from", 2, vec![left, right])
}
