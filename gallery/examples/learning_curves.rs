//! The figure shows learning curves and the Bayes-optimal bound: `E` and `o_W` against the pre-training data
//! `alpha`, `E'` and `o_w` against the fine-tuning data `alpha'`. The parameters are `T = 2`, `Delta = .5`,
//! `kappa0 = .5`, `kappa = 1`, `lambda = .05`, `lambda' = .5`. Fine-tuning is on top of `alpha = .2`, on
//! fresh sequences.
//!
//! ```text
//! cargo run --release -p gallery --example learning_curves
//! ```

mod common;

use std::error::Error;

use clap::Parser;
use common::{Arguments, COLOURS, Dot, curve, fact, log_panel, save, solve, write_csv};
use kuva::plot::legend::LegendPosition;
use lora_asymptotics::sweep::Record;
use serde::Serialize;

#[derive(Serialize)]
struct Row {
    activation: &'static str,
    stage: &'static str,
    alpha: f64,
    test: f64,
    alignment: f64,
    bound_test: f64,
    bound_alignment: f64,
    reliable: bool,
}

fn pretraining(activation: &'static str, record: &Record) -> Option<Row> {
    let outcome = record.outcome.as_ref()?;
    let (stage, bound) = (outcome.pretrain.as_ref()?, outcome.bayes_optimal.as_ref()?.pretrain.as_ref()?);
    Some(Row {
        activation,
        stage: "pretrain",
        alpha: record.values[0],
        test: stage.errors.test,
        alignment: stage.alignment,
        bound_test: bound.errors.test,
        bound_alignment: bound.alignment,
        reliable: true,
    })
}

fn finetuning(activation: &'static str, record: &Record) -> Option<Row> {
    let outcome = record.outcome.as_ref()?;
    let (stage, bound) = (outcome.lora.as_ref()?, outcome.bayes_optimal.as_ref()?.lora.as_ref()?);
    Some(Row {
        activation,
        stage: "lora",
        alpha: record.values[0],
        test: stage.errors.test,
        alignment: stage.alignment,
        bound_test: bound.errors.test,
        bound_alignment: bound.alignment,
        reliable: stage.validity.reliable,
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let (count, log2_nodes) = if arguments.full { (40, 13) } else { (13, 10) };
    let mut rows = Vec::new();
    for activation in ["linear", "softmax"] {
        let grid = |lora: &str, axis: &str| {
            format!(
                r#"{{"scenario": {{"model": {{"tokens": 2, "activation": "{activation}", "delta": 0.5, "teacher": {{"wishart": {{"kappa0": 0.5}}}}}},
                                  "pretrain": {{"alpha": 0.2, "lambda": 0.05}}, {lora} "estimator": "both",
                                  "options": {{"log2_nodes": {log2_nodes}, "tolerance": 1e-6}}}},
                    "axes": [{{{axis}, "count": {count}, "scale": "log"}}]}}"#
            )
        };
        let records = solve(&grid("", r#""field": "pretrain.alpha", "from": 3.0, "to": 0.05"#))?;
        rows.extend(records.iter().filter_map(|record| pretraining(activation, record)));
        let lora = r#""lora": {"alpha": 3.0, "lambda": 0.5},"#;
        let records = solve(&grid(lora, r#""field": "lora.alpha", "from": 10.0, "to": 0.3"#))?;
        rows.extend(records.iter().filter_map(|record| finetuning(activation, record)));
    }
    write_csv(&arguments.out, "learning_curves", &rows)?;
    for row in rows.iter().filter(|row| row.reliable) {
        fact(row.bound_test < row.test * (1.0 + 1e-2), "no training is better than the bound")?;
    }

    let mut panels = Vec::new();
    for (stage, x) in
        [("pretrain", "pre-training data alpha = N/D^2"), ("lora", "fine-tuning data alpha' = N'/D")]
    {
        for (name, value, bound) in [
            (
                "test error",
                (|row: &Row| row.test) as fn(&Row) -> f64,
                (|row: &Row| row.bound_test) as fn(&Row) -> f64,
            ),
            ("alignment", |row: &Row| row.alignment, |row: &Row| row.bound_alignment),
        ] {
            let mut plots = Vec::new();
            for (activation, colour) in ["linear", "softmax"].into_iter().zip(COLOURS) {
                let dots = |value: fn(&Row) -> f64, judged: bool| -> Vec<Dot> {
                    let here = rows.iter().filter(|row| row.activation == activation && row.stage == stage);
                    here.map(|row| Dot { x: row.alpha, y: value(row), reliable: row.reliable || !judged })
                        .collect()
                };
                plots.extend(curve(&dots(value, true), colour, activation, false));
                plots.extend(curve(&dots(bound, false), colour, &format!("{activation}, bound"), true));
            }
            let legend = if name == "alignment" {
                LegendPosition::InsideBottomRight
            } else {
                LegendPosition::InsideTopRight
            };
            let title = if stage == "pretrain" { "pre-training" } else { "fine-tuning" };
            let (plots, layout) = log_panel(plots, title, x, name, legend);
            // The axis leaves room for the markers.
            let highest = rows.iter().filter(|row| row.stage == stage).map(value).fold(0.0, f64::max);
            panels.push((plots, layout.with_y_axis_max(1.1 * highest)));
        }
    }
    save(
        &arguments,
        "learning_curves",
        "Learning curves and the Bayes-optimal bound (hollow: not reliable)",
        2,
        panels,
    )
}
