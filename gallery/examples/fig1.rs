//! The figure shows the fine-tuning error `E'` against the pre-training ridge `lambda`, for several
//! `lambda'`, and the frozen baseline (no fine-tuning). The parameters are softmax attention, `T = 3`,
//! `alpha = .1`, `alpha' = 3`, `kappa0 = kappa = 1`, `Delta = .5`, fresh sequences.
//!
//! ```text
//! cargo run --release -p gallery --example fig1
//! cargo run --release -p gallery --example fig1 -- --simulate          # with trained networks, D = 60
//! cargo run --release -p gallery --example fig1 -- --full --simulate   # more points, D = 150: hours
//! ```

mod common;

use std::error::Error;

use clap::Parser;
use common::{
    Arguments, COLOURS, Dot, GREY, Trained, curve, fact, log_panel, mark, measured, save, solve, train,
    write_csv,
};
use kuva::plot::legend::LegendPosition;
use lora_asymptotics::simulate::Estimate;
use lora_asymptotics::sweep::Sweep;
use serde::Serialize;

const LORA_LAMBDAS: [f64; 4] = [0.1, 0.3, 1.0, 2.0];

#[derive(Serialize)]
struct Row {
    lora_lambda: f64,
    lambda: f64,
    test: f64,
    test_std_error: f64,
    frozen: f64,
    verdict: String,
}

#[derive(Serialize)]
struct Marker {
    lora_lambda: f64,
    lambda: f64,
    dimension: usize,
    test: f64,
    test_std_error: f64,
}

/// The grid, with the ridges of both stages as axes.
fn grid(full: bool) -> String {
    let (count, log2_nodes) = if full { (33, 14) } else { (12, 11) };
    format!(
        r#"{{"scenario": {{"model": {{"tokens": 3, "activation": "softmax", "delta": 0.5, "teacher": {{"wishart": {{"kappa0": 1.0}}}}}},
                          "pretrain": {{"alpha": 0.1, "lambda": 0.1}}, "lora": {{"alpha": 3.0, "lambda": 0.5}},
                          "options": {{"log2_nodes": {log2_nodes}, "tolerance": 1e-6}}}},
            "axes": [{{"field": "lora.lambda", "values": {LORA_LAMBDAS:?}}},
                     {{"field": "pretrain.lambda", "from": 0.8, "to": 0.005, "count": {count}, "scale": "log"}}]}}"#
    )
}

/// Trains networks in both stages at one dimension.
fn markers(full: bool) -> Result<Vec<Marker>, lora_asymptotics::Error> {
    let sweep = Sweep::from_json(&grid(false))?;
    let mut markers = Vec::new();
    for lora_lambda in [0.3, 1.0] {
        for lambda in [0.02, 0.1, 0.3] {
            if let Some(Trained { dimension, test, .. }) = train(&sweep.at(&[lora_lambda, lambda])?, full)? {
                let Estimate { mean, std_error, .. } = test;
                markers.push(Marker {
                    lora_lambda,
                    lambda,
                    dimension,
                    test: mean,
                    test_std_error: std_error,
                });
            }
        }
    }
    Ok(markers)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let records = solve(&grid(arguments.full))?;
    let rows: Vec<Row> = records
        .iter()
        .filter_map(|record| {
            let stage = record.outcome.as_ref()?.lora.as_ref()?;
            Some(Row {
                lora_lambda: record.values[0],
                lambda: record.values[1],
                test: stage.errors.test,
                test_std_error: stage.std_error.test.unwrap_or(0.0),
                frozen: stage.errors.frozen,
                verdict: stage.validity.verdict.to_string(),
            })
        })
        .collect();
    write_csv(&arguments.out, "fig1", &rows)?;
    for row in rows.iter().filter(|row| row.verdict == "good" && row.lambda < 0.3) {
        fact(row.test < row.frozen, "fine-tuning is better than none")?;
    }
    let trained = if arguments.simulate { markers(arguments.full)? } else { Vec::new() };
    if arguments.simulate {
        write_csv(&arguments.out, "fig1_trained", &trained)?;
    }

    let of = |lora_lambda: f64| rows.iter().filter(move |row| (row.lora_lambda - lora_lambda).abs() < 1e-9);
    let mut plots = Vec::new();
    let frozen: Vec<Dot> =
        of(LORA_LAMBDAS[0]).map(|row| Dot { x: row.lambda, y: row.frozen, reliable: true }).collect();
    plots.extend(curve(&frozen, GREY, "frozen, w = 0", true));
    for (lora_lambda, colour) in LORA_LAMBDAS.into_iter().zip(COLOURS) {
        let dots: Vec<Dot> = of(lora_lambda)
            .map(|row| Dot { x: row.lambda, y: row.test, reliable: row.verdict != "unreliable" })
            .collect();
        plots.extend(curve(&dots, colour, &format!("lambda' = {lora_lambda}"), false));
        if let Some(best) = dots.iter().filter(|dot| dot.reliable).min_by(|a, b| a.y.total_cmp(&b.y)) {
            plots.push(mark(best.x, best.y, colour));
        }
        let points: Vec<(f64, f64, f64)> = trained
            .iter()
            .filter(|point| (point.lora_lambda - lora_lambda).abs() < 1e-9)
            .map(|point| (point.lambda, point.test, point.test_std_error))
            .collect();
        if !points.is_empty() {
            let dimension = trained[0].dimension;
            plots.push(measured(&points, colour, &format!("trained, D = {dimension}")));
        }
    }
    let title = "softmax, T = 3, alpha = 0.1, alpha' = 3";
    let panel = log_panel(
        plots,
        title,
        "pre-training ridge lambda",
        "test error E'",
        LegendPosition::OutsideRightTop,
    );
    save(
        &arguments,
        "fig1",
        "Error of LoRA against the pre-training ridge (hollow: not reliable)",
        1,
        vec![panel],
    )
}
