//! The figure shows the mismatch on reused sequences: the pre-training ridge that aligns the LoRA weights
//! best is not the one that predicts best. It has alignment `o_w` and test error `E'` against `lambda`, for
//! linear attention (`alpha' = 3`, `lambda' = .2`) and softmax attention (`alpha' = 3, 5`, `lambda' = .5`).
//! The other parameters are `T = 2`, `Delta = .5`, `kappa0 = .5`, `kappa = 1`, `alpha = .2`.
//!
//! ```text
//! cargo run --release -p gallery --example fig3
//! cargo run --release -p gallery --example fig3 -- --full --simulate   # more nodes, and trained networks: minutes
//! ```

mod common;

use std::error::Error;

use clap::Parser;
use common::{
    Arguments, COLOURS, Dot, Point, decades, extrapolate, fact, mark, measured, points_of, save, smooth,
    solve, write_csv, write_points,
};
use kuva::plot::legend::LegendPosition;
use kuva::render::layout::TickFormat;
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

/// The smallest and the largest ridge.
const RIDGES: [f64; 2] = [0.002, 0.5];

/// The grid of one activation. Its axes are the fine-tuning data and the pre-training ridge.
fn grid(activation: &str, full: bool) -> String {
    let (log2_nodes, scrambles) = if full { (12, 8) } else { (9, 4) };
    // The averages of linear attention are cheap, and its alignment is near 1.
    let (lora_lambda, alphas, more) = match activation {
        "linear" => (0.2, "[3.0]", 3),
        _ => (0.5, "[3.0, 5.0]", 0),
    };
    let log2_nodes = log2_nodes + more;
    let [smallest, largest] = RIDGES;
    format!(
        r#"{{"scenario": {{"model": {{"tokens": 2, "activation": "{activation}", "delta": 0.5, "teacher": {{"wishart": {{"kappa0": 0.5}}}}}},
                          "pretrain": {{"alpha": 0.2, "lambda": 0.1}},
                          "lora": {{"alpha": 3.0, "lambda": {lora_lambda}, "sequences": "reused"}},
                          "options": {{"log2_nodes": {log2_nodes}, "scrambles": {scrambles}, "tolerance": 1e-5}}}},
            "axes": [{{"field": "lora.alpha", "values": {alphas}}},
                     {{"field": "pretrain.lambda", "from": {largest}, "to": {smallest}, "count": 61, "scale": "log"}}]}}"#
    )
}

/// Optima whose ridges have a smaller ratio are the same to the accuracy of the averages. Those of softmax attention at `alpha' = 3` are.
const SAME: f64 = 1.2;

/// Trains networks in both stages.
fn markers() -> Result<Vec<Point>, Box<dyn Error>> {
    let mut markers = Vec::new();
    for (activation, alpha) in [("linear", 3.0), ("softmax", 3.0), ("softmax", 5.0)] {
        for lambda in [0.005, 0.02, 0.08, 0.25] {
            let scenario = Sweep::from_json(&grid(activation, true))?.at(&[alpha, lambda])?;
            markers.extend(extrapolate(&scenario, [activation, &alpha.to_string()], lambda)?);
        }
    }
    Ok(markers)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let mut rows = Vec::new();
    for activation in ["linear", "softmax"] {
        let records = solve(&grid(activation, arguments.full))?;
        rows.extend(records.iter().filter_map(|record| row(activation, record)));
    }
    write_csv(&arguments.out, "fig3", &rows)?;
    let markers = if arguments.simulate { markers()? } else { Vec::new() };
    if arguments.simulate {
        write_points(&arguments.out, "fig3_trained", &markers)?;
    }

    for (activation, alpha) in [("linear", 3.0), ("softmax", 3.0), ("softmax", 5.0)] {
        let here = |row: &&Row| row.activation == activation && (row.lora_alpha - alpha).abs() < 1e-9;
        let aligned = rows.iter().filter(here).max_by(|a, b| a.alignment.total_cmp(&b.alignment));
        let predicting = rows.iter().filter(here).min_by(|a, b| a.test.total_cmp(&b.test));
        let (Some(aligned), Some(predicting)) = (aligned, predicting) else { return Err("no rows".into()) };
        fact(
            aligned.lambda < SAME * predicting.lambda,
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
        for (observable, name, value, sign) in [
            ("alignment", "alignment `o_w`", (|row: &Row| row.alignment) as fn(&Row) -> f64, -1.0),
            ("test", "test error `E′`", |row: &Row| row.test, 1.0),
        ] {
            let mut plots = Vec::new();
            let mut on_top = Vec::new();
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
                plots.extend(smooth(&dots, colour, &format!("`α′` = {alpha}"), false));
                on_top.push(mark(best.x, best.y, colour));
                let points = points_of(&markers, [activation, &alpha.to_string()], observable);
                if !points.is_empty() {
                    on_top.push(measured(&points, colour, "trained"));
                }
            }
            plots.extend(on_top);
            let (legend, decimals, low, step) = match (observable, activation) {
                ("alignment", "linear") => (LegendPosition::InsideBottomLeft, 3, 0.984, 0.002),
                ("alignment", _) => (LegendPosition::InsideBottomLeft, 2, 0.85, 0.05),
                (_, "linear") => (LegendPosition::InsideTopLeft, 1, 0.7, 0.1),
                _ => (LegendPosition::InsideTopLeft, 2, 0.15, 0.05),
            };
            // The diamond at the smallest ridge is not cut.
            let axis = [0.9 * RIDGES[0], RIDGES[1]];
            let (plots, layout) = decades(plots, axis, activation, ["pre-training ridge `λ`", name], legend);
            let layout = layout.with_y_axis_min(low).with_y_tick_step(step);
            panels.push((plots, layout.with_y_tick_format(TickFormat::Fixed(decimals))));
        }
    }
    let title = "LoRA on reused sequences: best alignment and best prediction (diamonds) disagree";
    save(&arguments, "fig3", title, 2, panels)
}
