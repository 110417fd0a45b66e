//! The figure shows optimal pre-training for LoRA on fresh sequences: test error `E'` and alignment `o_w`
//! against the pre-training ridge, with and without recalibration `beta = M/Q`, for several amounts of
//! fine-tuning data. For linear attention it also shows the effective noise, whose minimum is at the same
//! ridge as all the other optima. The parameters are `T = 3`, `lambda' = .5`, `alpha = .1`,
//! `kappa0 = kappa = 1`, `Delta = .5`.
//!
//! ```text
//! cargo run --release -p gallery --example fig2
//! ```

mod common;

use std::error::Error;

use clap::Parser;
use common::{
    Arguments, BLACK, COLOURS, Dot, GREY, Trained, curve, fact, log_panel, mark, measured, save, train,
    write_csv,
};
use kuva::plot::legend::LegendPosition;
use lora_asymptotics::optimize::{Parameter, Settings, Target, Variable, minimize};
use lora_asymptotics::{Estimator, Model, Options, Scenario, Teacher, lora, observables, pretrain};
use serde::Serialize;

#[derive(Serialize)]
struct Row {
    activation: &'static str,
    lora_alpha: f64,
    lambda: f64,
    beta: f64,
    recalibrated: bool,
    test: f64,
    test_std_error: f64,
    alignment: f64,
    effective_noise: f64,
    verdict: String,
}

/// The rows of both recalibrations for every amount of data, on one pre-training.
fn rows(
    model: &Model,
    activation: &'static str,
    lambda: f64,
    alphas: &[f64],
    options: &Options,
) -> Result<Vec<Row>, lora_asymptotics::Error> {
    let base = pretrain::solve(model, &pretrain::Training::new(0.1, lambda)?, options)?.into_converged()?;
    let frozen = base.freeze()?;
    let best = observables::optimal_recalibration(frozen.q(), frozen.m()).unwrap_or(1.0);
    let mut rows = Vec::new();
    for &lora_alpha in alphas {
        for (recalibrated, beta) in [(false, 1.0), (true, best)] {
            let training = lora::Training::fresh(lora_alpha, 0.5)?.recalibrated(beta)?;
            let solution = lora::solve(model, &frozen, &training, options)?;
            rows.push(Row {
                activation,
                lora_alpha,
                lambda,
                beta,
                recalibrated,
                test: solution.errors.test,
                test_std_error: solution.std_error.test.unwrap_or(0.0),
                alignment: solution.alignment,
                effective_noise: observables::effective_noise(&frozen.overlaps(), model.delta(), beta),
                verdict: solution.validity.verdict.to_string(),
            });
        }
    }
    Ok(rows)
}

/// The amount of fine-tuning data at which networks are trained, without recalibration.
const MARKED: f64 = 5.0;

/// Results of networks trained in both stages.
#[derive(Serialize)]
struct Marker {
    activation: &'static str,
    lora_alpha: f64,
    lambda: f64,
    dimension: usize,
    test: f64,
    test_std_error: f64,
    alignment: f64,
    alignment_std_error: f64,
}

#[derive(Serialize)]
struct Recalibration {
    lambda: f64,
    best: f64,
    test: f64,
    overlaps: f64,
}

/// For softmax attention, `M/Q` is not the best recalibration. The best one gives the least `E'` at
/// `alpha' = 5`.
fn recalibrations(full: bool) -> Result<Vec<Recalibration>, lora_asymptotics::Error> {
    let (count, log2_nodes) = if full { (13, 13) } else { (5, 10) };
    let settings = Settings { tolerance: 1e-2, scan: 5, ..Settings::default() };
    let variable = Variable::new(Parameter::Beta, 0.2, 6.0)?;
    (0..count)
        .map(|k| {
            let lambda = 0.2 * 0.02_f64.powf(f64::from(k) / f64::from(count - 1));
            let scenario = Scenario::from_json(&format!(
                r#"{{"model": {{"tokens": 3, "activation": "softmax", "delta": 0.5, "teacher": {{"wishart": {{"kappa0": 1.0}}}}}},
                    "pretrain": {{"alpha": 0.1, "lambda": {lambda}}}, "lora": {{"alpha": 5.0, "lambda": 0.5}},
                    "options": {{"log2_nodes": {log2_nodes}, "tolerance": 1e-6}}}}"#
            ))?;
            let found = minimize(&scenario, Target::LoraTest, &[variable], &settings)?;
            let order = found.outcome.pretrain.map(|stage| stage.order);
            Ok(Recalibration {
                lambda,
                best: found.found[0].value,
                test: found.value,
                overlaps: order.map_or(f64::NAN, |order| order.m / order.q),
            })
        })
        .collect()
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let teacher = Teacher::Wishart { kappa0: 1.0 };
    let linear = Model::linear(3, 0.5)?.with_teacher(teacher.clone())?;
    let softmax = Model::softmax(3, 0.5)?.with_teacher(teacher)?;
    let (count, softmax_count, log2_nodes) = if arguments.full { (60, 25, 14) } else { (25, 9, 11) };
    let nodes = |log2_nodes| Options::default().with_log2_nodes(log2_nodes)?.with_tolerance(1e-6);
    let mut table = Vec::new();
    for (model, activation, count, largest, alphas, options) in [
        (&linear, "linear", count, 0.8, &[0.5, 1.0, 2.0, 5.0, 10.0][..], nodes(log2_nodes + 1)?),
        (&softmax, "softmax", softmax_count, 0.5, &[2.0, 5.0, 10.0][..], nodes(log2_nodes)?),
    ] {
        for k in 0..count {
            let lambda = largest * 0.005_f64.powf(f64::from(k) / f64::from(count - 1));
            table.extend(rows(model, activation, lambda, alphas, &options)?);
        }
    }
    write_csv(&arguments.out, "fig2", &table)?;
    let mut markers = Vec::new();
    if arguments.simulate {
        for (activation, model) in [("linear", &linear), ("softmax", &softmax)] {
            for lambda in [0.02, 0.1, 0.3] {
                let scenario = Scenario {
                    model: model.clone(),
                    pretrain: Some(pretrain::Training::new(0.1, lambda)?),
                    frozen: None,
                    lora: Some(lora::Training::fresh(MARKED, 0.5)?),
                    estimator: Estimator::Erm,
                    options: nodes(11)?,
                };
                if let Some(Trained { dimension, test, alignment, .. }) = train(&scenario, arguments.full)? {
                    markers.push(Marker {
                        activation,
                        lora_alpha: MARKED,
                        lambda,
                        dimension,
                        test: test.mean,
                        test_std_error: test.std_error,
                        alignment: alignment.mean,
                        alignment_std_error: alignment.std_error,
                    });
                }
            }
        }
        write_csv(&arguments.out, "fig2_trained", &markers)?;
    }
    let recalibrations = recalibrations(arguments.full)?;
    write_csv(&arguments.out, "fig2_recalibration", &recalibrations)?;

    for pair in table.chunks_exact(2).filter(|pair| pair[0].activation == "linear") {
        if pair.iter().all(|row| row.verdict != "unreliable") {
            fact(pair[1].test < pair[0].test + 1e-6, "recalibration never hurts linear attention")?;
        }
    }
    for one in &recalibrations {
        fact(one.best < one.overlaps, "the best recalibration of softmax attention is below M/Q")?;
    }

    let dots = |activation: &str, alpha: f64, recalibrated: bool, value: fn(&Row) -> f64| -> Vec<Dot> {
        let here = |row: &&Row| {
            row.activation == activation
                && (row.lora_alpha - alpha).abs() < 1e-9
                && row.recalibrated == recalibrated
        };
        let dot = |row: &Row| Dot { x: row.lambda, y: value(row), reliable: row.verdict != "unreliable" };
        table.iter().filter(here).map(dot).collect()
    };
    let x = "pre-training ridge lambda";
    let mut panels = Vec::new();
    for (activation, alphas) in
        [("linear", &[0.5, 1.0, 2.0, 5.0, 10.0][..]), ("softmax", &[2.0, 5.0, 10.0][..])]
    {
        for (name, value) in [
            ("test error E'", (|row: &Row| row.test) as fn(&Row) -> f64),
            ("alignment o_w", |row: &Row| row.alignment),
        ] {
            let mut plots = Vec::new();
            for (alpha, colour) in alphas.iter().zip(COLOURS) {
                let plain = dots(activation, *alpha, false, value);
                plots.extend(curve(&plain, colour, &format!("alpha' = {alpha}"), false));
                plots.extend(curve(&dots(activation, *alpha, true, value), colour, "", true));
            }
            let points: Vec<(f64, f64, f64)> = markers
                .iter()
                .filter(|one| one.activation == activation)
                .map(|one| match name.starts_with('a') {
                    true => (one.lambda, one.alignment, one.alignment_std_error),
                    false => (one.lambda, one.test, one.test_std_error),
                })
                .collect();
            if !points.is_empty() {
                plots.push(measured(&points, BLACK, "trained"));
            }
            panels.push(log_panel(plots, activation, x, name, LegendPosition::OutsideRightTop));
        }
        if activation == "linear" {
            let mut plots = Vec::new();
            for (recalibrated, legend) in [(false, "beta = 1"), (true, "beta = M/Q")] {
                let noise = dots("linear", 2.0, recalibrated, |row| row.effective_noise);
                let noise: Vec<Dot> = noise.into_iter().map(|dot| Dot { reliable: true, ..dot }).collect();
                plots.extend(curve(&noise, GREY, legend, recalibrated));
                if let Some(best) = noise.iter().min_by(|a, b| a.y.total_cmp(&b.y)) {
                    plots.push(mark(best.x, best.y, GREY));
                }
            }
            panels.push(log_panel(
                plots,
                activation,
                x,
                "effective noise Delta_eff",
                LegendPosition::InsideTopLeft,
            ));
        }
    }
    let shown = |value: fn(&Recalibration) -> f64| -> Vec<Dot> {
        recalibrations.iter().map(|one| Dot { x: one.lambda, y: value(one), reliable: true }).collect()
    };
    let mut plots = curve(&shown(|one| one.best), COLOURS[1], "least E', alpha' = 5", false);
    plots.extend(curve(&shown(|one| one.overlaps), GREY, "M/Q", true));
    panels.push(log_panel(plots, "softmax", x, "recalibration beta", LegendPosition::InsideTopLeft));
    let mut title =
        "The ridge that is best for LoRA (dashed: recalibrated, beta = M/Q; hollow: not reliable".to_owned();
    if let Some(one) = markers.first() {
        title += &format!("; dots: networks trained at D = {}, alpha' = {MARKED}", one.dimension);
    }
    save(&arguments, "fig2", &(title + ")"), 3, panels)
}
