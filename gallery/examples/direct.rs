//! The figure shows what the nuclear norm buys: the test error of pre-training against the data `alpha` at the best ridge, for factors
//! (`S = P^{-1/2} W W^T`, ridge on `W`) and for direct training (any symmetric `S`, ridge on `S`), with the Bayes-optimal bound. The teachers have
//! the widths `kappa0 = .1` and `1`; `T = 2`, `Delta = .5`, `kappa = 1`. With `--simulate`, markers show networks trained directly, extrapolated in `D`.
//!
//! ```text
//! cargo run --release -p gallery --example direct -- --simulate
//! ```

mod common;

use std::error::Error;

use clap::Parser;
use common::{Arguments, BLACK, COLOURS, Dot, curve, fact, log_panel, measured, save, write_csv};
use kuva::plot::legend::LegendPosition;
use lora_asymptotics::optimize::{Parameter, Settings, Target, Variable, minimize};
use lora_asymptotics::scenario::Estimator;
use lora_asymptotics::simulate::{Laboratory, Size, Stage, compare};
use lora_asymptotics::{Scenario, pretrain};
use serde::Serialize;

const WIDTHS: [f64; 2] = [0.1, 1.0];

#[derive(Serialize)]
struct Row {
    activation: &'static str,
    kappa0: f64,
    alpha: f64,
    factorised: f64,
    factorised_lambda: f64,
    direct: f64,
    direct_lambda: f64,
    bound: f64,
}

#[derive(Serialize)]
struct Marker {
    activation: &'static str,
    kappa0: f64,
    alpha: f64,
    lambda: f64,
    test: f64,
    test_std_error: f64,
}

fn scenario(
    activation: &str,
    kappa0: f64,
    alpha: f64,
    log2_nodes: u32,
) -> Result<Scenario, lora_asymptotics::Error> {
    Scenario::from_json(&format!(
        r#"{{"model": {{"tokens": 2, "activation": "{activation}", "delta": 0.5, "teacher": {{"wishart": {{"kappa0": {kappa0}}}}}}},
            "pretrain": {{"alpha": {alpha}, "lambda": 0.1}}, "options": {{"log2_nodes": {log2_nodes}, "scrambles": 4, "tolerance": 1e-4}}}}"#
    ))
}

/// The best ridge, and the least test error. Interpolation is never best at this noise, so that the bounds of the search are not in the way.
fn best(scenario: &Scenario) -> Result<[f64; 2], lora_asymptotics::Error> {
    let ridge = Variable::new(Parameter::PretrainLambda, 3e-3, 1.0)?;
    let settings = Settings { tolerance: 3e-2, scan: 5, ..Settings::default() };
    let optimum = minimize(scenario, Target::PretrainTest, &[ridge], &settings)?;
    Ok([optimum.found.first().map_or(f64::NAN, |found| found.value), optimum.value])
}

fn row(
    activation: &'static str,
    kappa0: f64,
    alpha: f64,
    log2_nodes: u32,
) -> Result<Row, lora_asymptotics::Error> {
    let factors = scenario(activation, kappa0, alpha, log2_nodes)?;
    let whole = Scenario { pretrain: factors.pretrain.map(pretrain::Training::direct), ..factors.clone() };
    let ([factorised_lambda, factorised], [direct_lambda, direct]) = (best(&factors)?, best(&whole)?);
    let unridged = Some(pretrain::Training::without_ridge(alpha)?);
    let bound = Scenario { estimator: Estimator::BayesOptimal, pretrain: unridged, ..factors }.solve()?;
    let bound =
        bound.bayes_optimal.and_then(|bound| bound.pretrain).map_or(f64::NAN, |bound| bound.errors.test);
    Ok(Row { activation, kappa0, alpha, factorised, factorised_lambda, direct, direct_lambda, bound })
}

/// Networks trained directly at the best ridge of a row.
fn train(row: &Row) -> Result<Option<Marker>, lora_asymptotics::Error> {
    let Row { activation, kappa0, alpha, direct_lambda: lambda, .. } = *row;
    let mut scenario = scenario(activation, kappa0, alpha, 10)?;
    scenario.pretrain = Some(pretrain::Training::new(alpha, lambda)?.direct());
    let sizes = vec![Size::new(20, 24), Size::new(40, 12), Size::new(60, 8)];
    let comparison = compare(&scenario, &Laboratory { sizes, random_starts: 0, ..Laboratory::default() })?;
    let test = comparison.row(Stage::Pretrain, "test").map(|row| row.simulation);
    Ok(test.map(|test| Marker {
        activation,
        kappa0,
        alpha,
        lambda,
        test: test.mean,
        test_std_error: test.std_error,
    }))
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let mut rows = Vec::new();
    let mut trained = Vec::new();
    for (activation, count, log2_nodes) in
        [("linear", 31, 8), ("softmax", if arguments.full { 21 } else { 9 }, 9)]
    {
        for kappa0 in WIDTHS {
            for step in 0..count {
                let alpha = 0.05 * 40_f64.powf(step as f64 / (count - 1) as f64);
                rows.push(row(activation, kappa0, alpha, log2_nodes)?);
            }
            if arguments.simulate {
                for alpha in [0.1, 0.25, 0.5, 1.0] {
                    trained.extend(train(&row(activation, kappa0, alpha, log2_nodes)?)?);
                }
            }
        }
    }
    write_csv(&arguments.out, "direct", &rows)?;
    if arguments.simulate {
        write_csv(&arguments.out, "direct_trained", &trained)?;
    }
    for row in &rows {
        let what =
            "the bound is below both, and factors are better than direct training for a teacher of low rank";
        let slack = 1.0 + 1e-3;
        let ordered = row.bound < row.factorised * slack && row.bound < row.direct * slack;
        fact(ordered && (row.kappa0 > 0.5 || row.factorised < row.direct * slack), what)?;
    }

    let mut panels = Vec::new();
    for activation in ["linear", "softmax"] {
        let mut plots = Vec::new();
        for (kappa0, colours) in WIDTHS.into_iter().zip(COLOURS.chunks_exact(2)) {
            let own = || {
                rows.iter().filter(|row| row.activation == activation && (row.kappa0 - kappa0).abs() < 1e-9)
            };
            let dots = |of: fn(&Row) -> f64| -> Vec<Dot> {
                own().map(|row| Dot { x: row.alpha, y: of(row), reliable: true }).collect()
            };
            plots.extend(curve(
                &dots(|row| row.factorised),
                colours[0],
                &format!("κ₀ = {kappa0}, factors"),
                false,
            ));
            plots.extend(curve(
                &dots(|row| row.direct),
                colours[1],
                &format!("κ₀ = {kappa0}, direct"),
                false,
            ));
            let legend = if kappa0 > 0.5 { "bounds" } else { "" };
            plots.extend(curve(&dots(|row| row.bound), BLACK, legend, true));
            let points: Vec<(f64, f64, f64)> = trained
                .iter()
                .filter(|point| point.activation == activation && (point.kappa0 - kappa0).abs() < 1e-9)
                .map(|point| (point.alpha, point.test, point.test_std_error))
                .collect();
            if !points.is_empty() {
                plots.push(measured(&points, colours[1], ""));
            }
        }
        let title = format!("{activation}, T = 2, at the best ridge");
        panels.push(log_panel(plots, &title, "data α", "test error E", LegendPosition::InsideTopRight));
    }
    save(&arguments, "direct", "What the nuclear norm buys (dots: trained directly)", 2, panels)
}
