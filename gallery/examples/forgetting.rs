//! The figure shows what fine-tuning costs on the task of pre-training: `E'` against the error on the task of pre-training after
//! fine-tuning, along the ridge `lambda'` at fixed data (full lines), and along the data `alpha'` at a fixed ridge (dashed). All curves begin, at
//! `q = 0`, at the frozen weights: the errors of pre-training on both tasks. The parameters are `T = 2`, `Delta = .5`, frozen weights with the
//! overlaps of a pre-training at `alpha = .2`, `kappa0 = .5`, `kappa = 1`, `lambda = .05`, and fresh sequences. With `--simulate`, markers show networks trained
//! on frozen logits of the same law, at `D = 200`.
//!
//! ```text
//! cargo run --release -p gallery --example forgetting -- --simulate
//! ```

mod common;

use std::error::Error;

use clap::Parser;
use common::{Arguments, BLACK, COLOURS, Dot, GREY, curve, fact, mark, panel, save, solve, train, write_csv};
use kuva::plot::ScatterPlot;
use kuva::plot::legend::LegendPosition;
use kuva::render::plots::Plot;
use lora_asymptotics::sweep::{Record, Sweep};
use lora_asymptotics::{Model, Options, Teacher, pretrain};
use serde::Serialize;

/// The data of the full lines. For softmax, replica symmetry asks for more of them.
const ALPHAS: [(&str, [f64; 3]); 2] = [("linear", [2.0, 4.0, 10.0]), ("softmax", [4.0, 8.0, 20.0])];
/// The ridges of the dashed lines.
const LAMBDAS: [f64; 2] = [0.3, 1.0];

#[derive(Serialize)]
struct Row {
    activation: &'static str,
    /// The parameter that varies along the curve.
    along: &'static str,
    alpha: f64,
    lambda: f64,
    test: f64,
    forgetting: f64,
    frozen: f64,
    q: f64,
    reliable: bool,
}

#[derive(Serialize)]
struct Marker {
    activation: &'static str,
    alpha: f64,
    lambda: f64,
    dimension: usize,
    test: f64,
    test_std_error: f64,
    forgetting: f64,
    forgetting_std_error: f64,
}

/// The pre-training, whose overlaps the frozen weights have.
fn pretrained(activation: &str) -> Result<pretrain::Solution, lora_asymptotics::Error> {
    let model = if activation == "linear" { Model::linear(2, 0.5) } else { Model::softmax(2, 0.5) }?
        .with_teacher(Teacher::Wishart { kappa0: 0.5 })?;
    pretrain::solve(&model, &pretrain::Training::new(0.2, 0.05)?, &Options::default())?.into_converged()
}

/// A grid of fine-tunings of these frozen weights, with all axes in `axes`.
fn grid(activation: &str, first: &pretrain::Solution, log2_nodes: u32, axes: &str) -> String {
    let pretrain::Solution { q0, order, .. } = first;
    format!(
        r#"{{"scenario": {{"model": {{"tokens": 2, "activation": "{activation}", "delta": 0.5}},
                          "frozen": {{"q0": {q0}, "q": {}, "m": {}}}, "lora": {{"alpha": 1.0, "lambda": 1.0}},
                          "options": {{"log2_nodes": {log2_nodes}, "tolerance": 1e-4}}}},
            "axes": [{axes}]}}"#,
        order.q, order.m
    )
}

fn row(
    activation: &'static str,
    along: &'static str,
    [alpha, lambda]: [f64; 2],
    record: &Record,
) -> Option<Row> {
    let stage = record.outcome.as_ref()?.lora.as_ref()?;
    let errors = stage.errors;
    Some(Row {
        activation,
        along,
        alpha,
        lambda,
        test: errors.test,
        forgetting: errors.forgetting,
        frozen: errors.frozen,
        q: stage.order.q,
        reliable: stage.validity.reliable,
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let (count, log2_nodes) = if arguments.full { (61, 12) } else { (21, 10) };
    let (mut rows, mut trained) = (Vec::new(), Vec::new());
    let mut starts = Vec::new();
    for (activation, alphas) in ALPHAS {
        let first = pretrained(activation)?;
        for alpha in alphas {
            let axes = format!(
                r#"{{"field": "lora.alpha", "values": [{alpha}]}},
                   {{"field": "lora.lambda", "from": 60.0, "to": 0.05, "count": {count}, "scale": "log"}}"#
            );
            let records = solve(&grid(activation, &first, log2_nodes, &axes))?;
            rows.extend(records.iter().filter_map(|record| {
                row(activation, "lambda", [record.values[0], record.values[1]], record)
            }));
        }
        for lambda in LAMBDAS {
            let axes = format!(
                r#"{{"field": "lora.lambda", "values": [{lambda}]}},
                   {{"field": "lora.alpha", "from": 40.0, "to": 2.0, "count": {count}, "scale": "log"}}"#
            );
            let records = solve(&grid(activation, &first, log2_nodes, &axes))?;
            rows.extend(
                records.iter().filter_map(|record| {
                    row(activation, "alpha", [record.values[1], record.values[0]], record)
                }),
            );
        }
        if arguments.simulate {
            let axes =
                r#"{"field": "lora.alpha", "values": [1.0]}, {"field": "lora.lambda", "values": [1.0]}"#;
            let sweep = Sweep::from_json(&grid(activation, &first, log2_nodes, axes))?;
            for alpha in alphas {
                for lambda in [0.3, 1.0, 2.0] {
                    let Some(point) = train(&sweep.at(&[alpha, lambda])?, false)? else { continue };
                    trained.push(Marker {
                        activation,
                        alpha,
                        lambda,
                        dimension: point.dimension,
                        test: point.test.mean,
                        test_std_error: point.test.std_error,
                        forgetting: point.forgetting.mean,
                        forgetting_std_error: point.forgetting.std_error,
                    });
                }
            }
        }
        starts.push((activation, first.errors.test));
    }
    write_csv(&arguments.out, "forgetting", &rows)?;
    if arguments.simulate {
        write_csv(&arguments.out, "forgetting_trained", &trained)?;
    }
    for (activation, before) in &starts {
        let own = || rows.iter().filter(|row| row.activation == *activation && row.reliable);
        // Linear attention forgets by q^2 whatever the parameters. The errors of softmax at these overlaps are those of averages.
        let least = own().map(|row| row.forgetting).fold(f64::INFINITY, f64::min);
        fact(least > before * (1.0 - 2e-2), "no fine-tuning on the new task improves the old one")?;
        if *activation == "linear" {
            for row in own() {
                let expected = before + 1.5 * row.q * row.q;
                fact(
                    (row.forgetting / expected - 1.0).abs() < 1e-6,
                    "linear attention forgets by (2K/T^2) q^2",
                )?;
            }
        }
    }

    let panels = ALPHAS.into_iter().zip(&starts).map(|((activation, alphas), (_, before))| {
        let own = || rows.iter().filter(move |row| row.activation == activation);
        let dots = |keep: &dyn Fn(&&Row) -> bool| -> Vec<Dot> {
            own()
                .filter(keep)
                .map(|row| Dot { x: row.forgetting, y: row.test, reliable: row.reliable })
                .collect()
        };
        let mut plots = Vec::new();
        for (alpha, colour) in alphas.into_iter().zip(COLOURS) {
            let dots = dots(&|row| row.along == "lambda" && (row.alpha - alpha).abs() < 1e-9);
            plots.extend(curve(&dots, colour, &format!("α′ = {alpha}"), false));
            let points: Vec<&Marker> = trained
                .iter()
                .filter(|point| point.activation == activation && (point.alpha - alpha).abs() < 1e-9)
                .collect();
            if !points.is_empty() {
                let scatter = ScatterPlot::new()
                    .with_data(points.iter().map(|point| (point.forgetting, point.test)).collect::<Vec<_>>())
                    .with_x_err(points.iter().map(|point| point.forgetting_std_error).collect::<Vec<_>>())
                    .with_y_err(points.iter().map(|point| point.test_std_error).collect::<Vec<_>>())
                    .with_color(colour)
                    .with_size(4.0);
                plots.push(Plot::Scatter(scatter));
            }
        }
        for (lambda, colour) in LAMBDAS.into_iter().zip([GREY, BLACK]) {
            let dots = dots(&|row| row.along == "alpha" && (row.lambda - lambda).abs() < 1e-9);
            plots.extend(curve(&dots, colour, &format!("λ′ = {lambda}"), true));
        }
        let frozen = own().next().map_or(f64::NAN, |row| row.frozen);
        plots.push(mark(*before, frozen, BLACK));
        let title = format!("{activation}, T = 2");
        let (plots, layout) = panel(
            plots,
            &title,
            "error on the pre-training task",
            "error E′ on the new task",
            LegendPosition::InsideTopRight,
        );
        // There is room above the marker of the frozen weights.
        (plots, layout.with_y_axis_max(1.08 * frozen))
    });
    save(
        &arguments,
        "forgetting",
        "What fine-tuning forgets (diamond: frozen weights; dots: trained)",
        2,
        panels.collect(),
    )
}
