//! The figure shows the mismatch on reused sequences: the pre-training ridge that aligns the LoRA weights
//! best is not the one that predicts best. It has alignment `o_w` and test error `E'` against `lambda`, for
//! linear attention (`alpha' = 3`, `lambda' = .2`) and softmax attention (`alpha' = 3, 5`, `lambda' = .5`).
//! The other parameters are `T = 2`, `Delta = .5`, `kappa0 = .5`, `kappa = 1`, `alpha = .2`.
//!
//! ```text
//! cargo run --release -p gallery --example fig3
//! ```

mod common;

use std::error::Error;

use clap::Parser;
use common::{
    Arguments, COLOURS, Dot, Trained, curve, fact, log_panel, mark, measured, save, solve, train, write_csv,
};
use kuva::plot::legend::LegendPosition;
use lora_asymptotics::sweep::{Record, Sweep};
use serde::Serialize;

#[derive(Serialize)]
struct Row {
    activation: &'static str,
    lora_alpha: f64,
    lambda: f64,
    alignment: f64,
    alignment_std_error: f64,
    test: f64,
    test_std_error: f64,
    verdict: String,
}

/// Results of networks trained in both stages.
#[derive(Serialize)]
struct Marker {
    activation: &'static str,
    lora_alpha: f64,
    lambda: f64,
    dimension: usize,
    alignment: f64,
    alignment_std_error: f64,
    test: f64,
    test_std_error: f64,
}

fn row(activation: &'static str, record: &Record) -> Option<Row> {
    let stage = record.outcome.as_ref()?.lora.as_ref()?;
    Some(Row {
        activation,
        lora_alpha: record.values[0],
        lambda: record.values[1],
        alignment: stage.alignment,
        alignment_std_error: stage.std_error.alignment.unwrap_or(0.0),
        test: stage.errors.test,
        test_std_error: stage.std_error.test.unwrap_or(0.0),
        verdict: stage.validity.verdict.to_string(),
    })
}

/// The grid of one activation. Its axes are the fine-tuning data and the pre-training ridge.
fn grid(activation: &str, full: bool) -> String {
    let (lora_lambda, alphas, count, log2_nodes) = match (activation, full) {
        ("linear", _) => (0.2, "[3.0]", if full { 60 } else { 31 }, 13),
        (_, false) => (0.5, "[3.0, 5.0]", 13, 12),
        (_, true) => (0.5, "[3.0, 5.0]", 30, 14),
    };
    format!(
        r#"{{"scenario": {{"model": {{"tokens": 2, "activation": "{activation}", "delta": 0.5, "teacher": {{"wishart": {{"kappa0": 0.5}}}}}},
                          "pretrain": {{"alpha": 0.2, "lambda": 0.1}},
                          "lora": {{"alpha": 3.0, "lambda": {lora_lambda}, "sequences": "reused"}},
                          "options": {{"log2_nodes": {log2_nodes}, "tolerance": 1e-6}}}},
            "axes": [{{"field": "lora.alpha", "values": {alphas}}},
                     {{"field": "pretrain.lambda", "from": 0.5, "to": 0.002, "count": {count}, "scale": "log"}}]}}"#
    )
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let mut rows = Vec::new();
    for activation in ["linear", "softmax"] {
        let records = solve(&grid(activation, arguments.full))?;
        rows.extend(records.iter().filter_map(|record| row(activation, record)));
    }
    write_csv(&arguments.out, "fig3", &rows)?;
    let mut markers = Vec::new();
    if arguments.simulate {
        for (activation, alpha) in [("linear", 3.0), ("softmax", 5.0)] {
            for lambda in [0.01, 0.05, 0.2] {
                let scenario = Sweep::from_json(&grid(activation, false))?.at(&[alpha, lambda])?;
                if let Some(Trained { dimension, test, alignment, .. }) = train(&scenario, arguments.full)? {
                    markers.push(Marker {
                        activation,
                        lora_alpha: alpha,
                        lambda,
                        dimension,
                        alignment: alignment.mean,
                        alignment_std_error: alignment.std_error,
                        test: test.mean,
                        test_std_error: test.std_error,
                    });
                }
            }
        }
        write_csv(&arguments.out, "fig3_trained", &markers)?;
    }

    for (activation, alpha) in [("linear", 3.0), ("softmax", 3.0), ("softmax", 5.0)] {
        let here = |row: &&Row| row.activation == activation && (row.lora_alpha - alpha).abs() < 1e-9;
        let aligned = rows.iter().filter(here).max_by(|a, b| a.alignment.total_cmp(&b.alignment));
        let predicting = rows.iter().filter(here).min_by(|a, b| a.test.total_cmp(&b.test));
        let (Some(aligned), Some(predicting)) = (aligned, predicting) else { return Err("no rows".into()) };
        fact(
            aligned.lambda <= predicting.lambda,
            "the best alignment needs no larger ridge than the best prediction",
        )?;
        if activation == "linear" {
            fact(
                aligned.lambda < 0.1 * predicting.lambda,
                "for linear attention it needs a much smaller one",
            )?;
        }
    }

    let mut panels = Vec::new();
    for activation in ["linear", "softmax"] {
        for (name, value, sign) in [
            ("alignment o_w", (|row: &Row| row.alignment) as fn(&Row) -> f64, -1.0),
            ("test error E'", |row: &Row| row.test, 1.0),
        ] {
            let mut plots = Vec::new();
            for (alpha, colour) in [(3.0, COLOURS[0]), (5.0, COLOURS[1])] {
                let here: Vec<&Row> = rows
                    .iter()
                    .filter(|row| row.activation == activation && (row.lora_alpha - alpha).abs() < 1e-9)
                    .collect();
                let dots: Vec<Dot> = here
                    .iter()
                    .map(|row| Dot { x: row.lambda, y: value(row), reliable: row.verdict != "unreliable" })
                    .collect();
                let best = dots.iter().min_by(|a, b| (sign * a.y).total_cmp(&(sign * b.y)));
                let Some(best) = best else { continue };
                plots.extend(curve(&dots, colour, &format!("alpha' = {alpha}"), false));
                plots.push(mark(best.x, best.y, colour));
                let points: Vec<(f64, f64, f64)> = markers
                    .iter()
                    .filter(|one| one.activation == activation && (one.lora_alpha - alpha).abs() < 1e-9)
                    .map(|one| match sign < 0.0 {
                        true => (one.lambda, one.alignment, one.alignment_std_error),
                        false => (one.lambda, one.test, one.test_std_error),
                    })
                    .collect();
                if !points.is_empty() {
                    let dimension = markers[0].dimension;
                    plots.push(measured(&points, colour, &format!("trained, D = {dimension}")));
                }
            }
            let legend =
                if sign < 0.0 { LegendPosition::InsideBottomLeft } else { LegendPosition::InsideTopLeft };
            panels.push(log_panel(plots, activation, "pre-training ridge lambda", name, legend));
        }
    }
    save(
        &arguments,
        "fig3",
        "LoRA on reused sequences: best alignment and best prediction (diamonds) disagree",
        2,
        panels,
    )
}
