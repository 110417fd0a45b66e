//! The figure shows the fine-tuning error `E'` against the pre-training ridge `lambda`, for several
//! `lambda'`, and the frozen baseline (no fine-tuning). The parameters are softmax attention, `T = 3`,
//! `alpha = .1`, `alpha' = 3`, `kappa0 = kappa = 1`, `Delta = .5`, fresh sequences.
//!
//! ```text
//! cargo run --release -p gallery --example fig1
//! cargo run --release -p gallery --example fig1 -- --full --simulate   # more nodes, and trained networks: minutes
//! ```

mod common;

use std::error::Error;

use clap::Parser;
use common::{
    Arguments, COLOURS, Dot, GREY, Point, decades, extrapolate, fact, mark, measured, points_of, save,
    smooth, solve, write_csv, write_points,
};
use kuva::plot::legend::LegendPosition;
use lora_asymptotics::sweep::Sweep;
use serde::Serialize;

const LORA_LAMBDAS: [f64; 4] = [0.1, 0.3, 1.0, 2.0];
const SMALLEST: f64 = 0.006;
const LARGEST: f64 = 0.45;

#[derive(Serialize)]
struct Row {
    lora_lambda: f64,
    lambda: f64,
    test: f64,
    test_std_error: f64,
    frozen: f64,
    verdict: String,
}

/// The grid, with the ridges of both stages as axes.
fn grid(full: bool) -> String {
    let (log2_nodes, scrambles) = if full { (11, 8) } else { (9, 2) };
    format!(
        r#"{{"scenario": {{"model": {{"tokens": 3, "activation": "softmax", "delta": 0.5, "teacher": {{"wishart": {{"kappa0": 1.0}}}}}},
                          "pretrain": {{"alpha": 0.1, "lambda": 0.1}}, "lora": {{"alpha": 3.0, "lambda": 0.5}},
                          "options": {{"log2_nodes": {log2_nodes}, "scrambles": {scrambles}, "tolerance": 1e-4}}}},
            "axes": [{{"field": "lora.lambda", "values": {LORA_LAMBDAS:?}}},
                     {{"field": "pretrain.lambda", "from": {LARGEST}, "to": {SMALLEST}, "count": 61, "scale": "log"}}]}}"#
    )
}

/// Trains networks in both stages.
fn markers() -> Result<Vec<Point>, Box<dyn Error>> {
    let sweep = Sweep::from_json(&grid(true))?;
    let mut markers = Vec::new();
    for lora_lambda in [0.3, 1.0] {
        for lambda in [0.01, 0.05, 0.2] {
            let scenario = sweep.at(&[lora_lambda, lambda])?;
            let [test, _] = extrapolate(&scenario, ["softmax", &lora_lambda.to_string()], lambda)?;
            markers.push(test);
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
    for row in &rows {
        fact(row.test < row.frozen, "fine-tuning is better than none")?;
    }
    let trained = if arguments.simulate { markers()? } else { Vec::new() };
    if arguments.simulate {
        write_points(&arguments.out, "fig1_trained", &trained)?;
    }

    let of = |lora_lambda: f64| rows.iter().filter(move |row| (row.lora_lambda - lora_lambda).abs() < 1e-9);
    let mut plots = Vec::new();
    let frozen: Vec<Dot> =
        of(LORA_LAMBDAS[0]).map(|row| Dot { x: row.lambda, y: row.frozen, reliable: true }).collect();
    plots.extend(smooth(&frozen, GREY, "frozen, `w` = 0", true));
    let mut on_top = Vec::new();
    for (lora_lambda, colour) in LORA_LAMBDAS.into_iter().zip(COLOURS) {
        let dots: Vec<Dot> = of(lora_lambda)
            .map(|row| Dot { x: row.lambda, y: row.test, reliable: row.verdict != "unreliable" })
            .collect();
        plots.extend(smooth(&dots, colour, &format!("`λ′` = {lora_lambda}"), false));
        if let Some(best) = dots.iter().filter(|dot| dot.reliable).min_by(|a, b| a.y.total_cmp(&b.y)) {
            on_top.push(mark(best.x, best.y, colour));
        }
        let points = points_of(&trained, ["softmax", &lora_lambda.to_string()], "test");
        if !points.is_empty() {
            on_top.push(measured(&points, colour, &format!("trained, `λ′` = {lora_lambda}")));
        }
    }
    plots.extend(on_top);
    let panel = decades(
        plots,
        [SMALLEST, LARGEST],
        "softmax, `T` = 3, `α` = 0.1, `α′` = 3, `Δ` = 0.5",
        ["pre-training ridge `λ`", "test error `E′`"],
        LegendPosition::OutsideRightTop,
    );
    save(&arguments, "fig1", "The error of LoRA against the pre-training ridge", 1, vec![panel])
}
