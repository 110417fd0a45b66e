//! The figure is a phase diagram of the fine-tuning stage: the alignment `o_w` over the data `alpha'` and the
//! ridge `lambda'`. The region where replica symmetry cannot be trusted is hatched. The parameters are
//! softmax attention, `T = 2`, `(Q0, Q, M, Delta) = (2, 1.2, 1.1, .5)`, fresh sequences. Above the line, LoRA
//! collapses to `w = 0`.
//!
//! ```text
//! cargo run --release -p gallery --example phase_diagram
//! ```

mod common;

use std::error::Error;

use clap::Parser;
use common::{Arguments, COLOURS, GREY, fact, save, solve, write_csv};
use kuva::plot::legend::LegendPosition;
use kuva::plot::scatter::MarkerShape;
use kuva::plot::{LinePlot, ScatterPlot};
use kuva::render::layout::{Layout, TickFormat};
use kuva::render::plots::Plot;
use lora_asymptotics::{Model, Options, lora};
use serde::Serialize;

#[derive(Serialize)]
struct Row {
    lora_alpha: f64,
    lora_lambda: f64,
    alignment: f64,
    test: f64,
    status: String,
    verdict: String,
}

/// Classes of the alignment: their lower ends, colours and names.
const CLASSES: [(f64, &str, &str); 5] = [
    (0.9, "#00366b", "o_w > 0.9"),
    (0.7, "#0072B2", "0.7 to 0.9"),
    (0.4, "#56B4E9", "0.4 to 0.7"),
    (1e-3, "#b9dcf2", "below 0.4"),
    (f64::NEG_INFINITY, "#eeeeee", "none"),
];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let (alphas, lambdas, log2_nodes) = if arguments.full { (40, 40, 12) } else { (11, 9, 9) };
    let records = solve(&format!(
        r#"{{"scenario": {{"model": {{"tokens": 2, "activation": "softmax", "delta": 0.5}},
                          "frozen": {{"q0": 2.0, "q": 1.2, "m": 1.1}}, "lora": {{"alpha": 3.0, "lambda": 0.5}},
                          "options": {{"log2_nodes": {log2_nodes}, "tolerance": 1e-5}}}},
            "axes": [{{"field": "lora.lambda", "from": 0.03, "to": 5.0, "count": {lambdas}, "scale": "log"}},
                     {{"field": "lora.alpha", "from": 15.0, "to": 0.5, "count": {alphas}, "scale": "log"}}]}}"#
    ))?;
    let rows: Vec<Row> = records
        .iter()
        .filter_map(|record| {
            let stage = record.outcome.as_ref()?.lora.as_ref()?;
            Some(Row {
                lora_alpha: record.values[1],
                lora_lambda: record.values[0],
                alignment: stage.alignment,
                test: stage.errors.test,
                status: stage.status.to_string(),
                verdict: stage.validity.verdict.to_string(),
            })
        })
        .collect();
    write_csv(&arguments.out, "phase_diagram", &rows)?;
    let corner = |row: &&Row| row.lora_alpha < 3.0 && row.lora_lambda < 0.06;
    fact(
        rows.iter().filter(corner).all(|row| row.verdict == "unreliable"),
        "little data and ridge is the bad corner",
    )?;

    // The ridge of collapse, if there is one.
    let model = Model::softmax(2, 0.5)?;
    let frozen = lora::Frozen::new(2.0, 1.2, 1.1)?;
    let options = Options::default().with_log2_nodes(12)?;
    let mut boundary = Vec::new();
    for k in 0..30 {
        let alpha = 0.5 * 30_f64.powf(f64::from(k) / 29.0);
        let training = lora::Training::fresh(alpha, 1.0)?;
        if let Some(threshold) = lora::lambda_collapse(&model, &frozen, &training, &options)?
            && threshold.value < 5.0
        {
            boundary.push((alpha, threshold.value));
        }
    }

    let mut plots = Vec::new();
    let squares = |colour: &str, points: Vec<(f64, f64)>| {
        let size = if arguments.full { 5.0 } else { 21.0 };
        ScatterPlot::new()
            .with_data(points)
            .with_color(colour)
            .with_size(size)
            .with_marker(MarkerShape::Square)
    };
    for (class, (from, colour, name)) in CLASSES.iter().enumerate() {
        let to = class.checked_sub(1).map_or(f64::INFINITY, |above| CLASSES[above].0);
        let points: Vec<(f64, f64)> = rows
            .iter()
            .filter(|row| row.alignment >= *from && row.alignment < to)
            .map(|row| (row.lora_alpha, row.lora_lambda))
            .collect();
        if !points.is_empty() {
            plots.push(Plot::Scatter(squares(colour, points).with_legend(*name)));
        }
    }
    let unreliable: Vec<(f64, f64)> = rows
        .iter()
        .filter(|row| row.verdict == "unreliable" && row.status != "collapsed")
        .map(|row| (row.lora_alpha, row.lora_lambda))
        .collect();
    if !unreliable.is_empty() {
        let crosses = ScatterPlot::new().with_data(unreliable).with_color(COLOURS[1]).with_size(5.0);
        plots.push(Plot::Scatter(crosses.with_marker(MarkerShape::Cross).with_legend("not reliable")));
    }
    plots.push(Plot::Line(
        LinePlot::new().with_data(boundary).with_color(GREY).with_stroke_width(3.0).with_legend("lambda'_c"),
    ));
    let layout = Layout::auto_from_plots(&plots)
        .with_x_label("fine-tuning data alpha' = N'/D")
        .with_y_label("ridge lambda'")
        .with_legend_position(LegendPosition::OutsideRightTop)
        .with_x_axis_min(0.4)
        .with_x_axis_max(20.0)
        .with_y_axis_min(0.02)
        .with_y_axis_max(8.0)
        .with_log_x()
        .with_log_y()
        .with_x_tick_format(TickFormat::Sci)
        .with_y_tick_format(TickFormat::Sci);
    save(&arguments, "phase_diagram", "Fine-tuning of softmax attention, T = 2", 1, vec![(plots, layout)])
}
