//! The figure compares activations at the same quality of pre-training: the test error `E'`, divided by that
//! of the frozen weights, and the alignment `o_w` against the fine-tuning data `alpha'`. The frozen weights
//! have `(Q0, Q, M) = (2, 1.2, 1.1)`, and the other parameters are `T = 3`, `Delta = .5`, `lambda' = .3`.
//!
//! ```text
//! cargo run --release -p gallery --example activations -- --simulate --full
//! ```

mod common;

use std::error::Error;

use clap::Parser;
use common::{
    Arguments, COLOURS, Dot, Trained, curve, fact, log_panel, measured, save, solve, train, write_csv,
};
use kuva::plot::legend::LegendPosition;
use lora_asymptotics::sweep::{Record, Sweep};
use serde::Serialize;

const ACTIVATIONS: [&str; 4] = ["linear", "sigmoid", "softmax_one", "softmax"];

/// The values of `alpha'` at which networks are trained.
const MARKED: [f64; 4] = [1.5, 2.5, 4.0, 7.0];

#[derive(Serialize)]
struct Row {
    activation: &'static str,
    lora_alpha: f64,
    alignment: f64,
    alignment_std_error: f64,
    test: f64,
    test_std_error: f64,
    frozen: f64,
    verdict: String,
}

impl Row {
    fn new(activation: &'static str, record: &Record) -> Option<Self> {
        let stage = record.outcome.as_ref()?.lora.as_ref()?;
        Some(Self {
            activation,
            lora_alpha: record.values[0],
            alignment: stage.alignment,
            alignment_std_error: stage.std_error.alignment.unwrap_or(0.0),
            test: stage.errors.test,
            test_std_error: stage.std_error.test.unwrap_or(0.0),
            frozen: stage.errors.frozen,
            verdict: stage.validity.verdict.to_string(),
        })
    }

    /// The test error in units of that of the frozen weights.
    fn relative(&self) -> f64 {
        self.test / self.frozen
    }
}

/// Results of networks trained in the second stage.
#[derive(Serialize)]
struct Marker {
    activation: &'static str,
    lora_alpha: f64,
    dimension: usize,
    alignment: f64,
    alignment_std_error: f64,
    test: f64,
    test_std_error: f64,
    /// The prediction for the frozen weights.
    frozen: f64,
}

/// The grid of one activation, from much data to little.
fn grid(activation: &str, full: bool) -> String {
    let (count, log2_nodes, scrambles) = if full { (81, 13, 4) } else { (41, 10, 2) };
    format!(
        r#"{{"scenario": {{"model": {{"tokens": 3, "activation": "{activation}", "delta": 0.5}},
                          "frozen": {{"q0": 2.0, "q": 1.2, "m": 1.1}}, "lora": {{"alpha": 3.0, "lambda": 0.3}},
                          "options": {{"log2_nodes": {log2_nodes}, "scrambles": {scrambles}, "tolerance": 1e-5}}}},
            "axes": [{{"field": "lora.alpha", "from": 8.0, "to": 1.0, "count": {count}, "scale": "log"}}]}}"#
    )
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let mut rows = Vec::new();
    for activation in ACTIVATIONS {
        let records = solve(&grid(activation, arguments.full))?;
        rows.extend(records.iter().filter_map(|record| Row::new(activation, record)));
    }
    write_csv(&arguments.out, "activations", &rows)?;
    // The activations are in the order of how much they tell about the logits.
    for pair in ACTIVATIONS.windows(2) {
        let of = |name: &str| rows.iter().filter(|row| row.activation == name).collect::<Vec<_>>();
        for (more, less) in of(pair[0]).into_iter().zip(of(pair[1])) {
            let reliable = [more, less].iter().all(|row| row.verdict != "unreliable");
            let ordered = more.alignment > less.alignment && more.relative() < less.relative();
            fact(ordered || !reliable, &format!("{} is better than {}", pair[0], pair[1]))?;
        }
    }
    let mut markers = Vec::new();
    if arguments.simulate {
        for activation in ACTIVATIONS {
            // The error of the frozen weights does not depend on alpha'.
            let here = rows.iter().find(|row| row.activation == activation);
            for alpha in MARKED {
                let scenario = Sweep::from_json(&grid(activation, arguments.full))?.at(&[alpha])?;
                if let Some(Trained { dimension, test, alignment, .. }) = train(&scenario, arguments.full)? {
                    markers.push(Marker {
                        activation,
                        lora_alpha: alpha,
                        dimension,
                        alignment: alignment.mean,
                        alignment_std_error: alignment.std_error,
                        test: test.mean,
                        test_std_error: test.std_error,
                        frozen: here.map_or(f64::NAN, |row| row.frozen),
                    });
                }
            }
        }
        write_csv(&arguments.out, "activations_trained", &markers)?;
    }

    let mut panels = Vec::new();
    for (name, legend, value, marked) in [
        (
            "test error E' / E'(w = 0)",
            LegendPosition::InsideTopRight,
            Row::relative as fn(&Row) -> f64,
            (|one: &Marker| [one.test, one.test_std_error].map(|x| x / one.frozen))
                as fn(&Marker) -> [f64; 2],
        ),
        (
            "alignment o_w",
            LegendPosition::InsideBottomRight,
            |row: &Row| row.alignment,
            |one: &Marker| [one.alignment, one.alignment_std_error],
        ),
    ] {
        let mut plots = Vec::new();
        for (activation, colour) in ACTIVATIONS.into_iter().zip(COLOURS) {
            let here: Vec<&Row> = rows.iter().filter(|row| row.activation == activation).collect();
            let dot =
                |row: &&Row| Dot { x: row.lora_alpha, y: value(row), reliable: row.verdict != "unreliable" };
            plots.extend(curve(&here.iter().map(dot).collect::<Vec<_>>(), colour, activation, false));
            let points: Vec<(f64, f64, f64)> = markers
                .iter()
                .filter(|one| one.activation == activation)
                .map(|one| {
                    let [mean, error] = marked(one);
                    (one.lora_alpha, mean, error)
                })
                .collect();
            if !points.is_empty() {
                plots.push(measured(&points, colour, ""));
            }
        }
        panels.push(log_panel(plots, "", "fine-tuning data alpha' = N'/D", name, legend));
    }
    let mut title = "Activations on the same frozen weights (hollow: not reliable".to_owned();
    if let Some(one) = markers.first() {
        title += &format!("; dots: networks trained at D = {}", one.dimension);
    }
    save(&arguments, "activations", &(title + ")"), 2, panels)
}
