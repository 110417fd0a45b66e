//! The figure compares predictions with trained networks, in settings from good to unreliable ones, against the gauges from which the verdict
//! follows. The networks were trained in forty settings, which are in `data/verdicts.jsonl`. They were chosen by their gauges alone, after the
//! limits of the verdicts had been set. What the training gave is in `data/verdicts.csv`, which is the `comparisons.csv` of
//!
//! ```text
//! lora-asymptotics compare gallery/examples/data/verdicts.jsonl --out target/verdicts
//! ```
//!
//! Only the theory is solved again for the figure, and the example ends with an error if a deviation is larger than its verdict allows:
//!
//! ```text
//! cargo run --release -p gallery --example verdicts             # some seconds
//! cargo run --release -p gallery --example verdicts -- --full   # more nodes, and the table of docs/verdicts.md
//! ```

mod common;

use std::error::Error;

use clap::Parser;
use common::notation::power_of_ten;
use common::{Arguments, COLOURS, GREY, fact, save, write_csv};
use kuva::plot::legend::LegendPosition;
use kuva::plot::scatter::MarkerShape;
use kuva::plot::{LinePlot, ScatterPlot};
use kuva::render::layout::{Layout, TickFormat};
use kuva::render::plots::Plot;
use lora_asymptotics::lora::{self, Verdict};
use lora_asymptotics::{Options, Scenario};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A line of the settings. What it does not name here is how the networks were trained.
#[derive(Deserialize)]
struct Line {
    name: String,
    scenario: Scenario,
}

/// A line of what the training gave: an observable of one setting.
#[derive(Deserialize)]
struct Trained {
    experiment: String,
    observable: String,
    simulation: f64,
    std_error: f64,
}

/// A prediction beside the trained value.
#[derive(Debug, Clone, Copy)]
struct Deviation {
    /// The prediction minus the trained value, over the trained value.
    relative: f64,
    /// The same in combined standard errors.
    z: f64,
}

/// A setting with its gauges and its deviations.
struct Setting {
    name: String,
    tokens: usize,
    linear: bool,
    verdict: Verdict,
    jump: f64,
    replicon: f64,
    deviations: [Deviation; OBSERVABLES.len()],
}

/// The observables of the table.
const OBSERVABLES: [&str; 5] = ["q", "m", "alignment", "test", "objective"];

#[derive(Serialize)]
struct Row {
    setting: String,
    verdict: String,
    jump: f64,
    replicon: f64,
    observable: &'static str,
    relative: f64,
    z: f64,
}

/// The prediction of an observable, with its standard error.
fn predicted(stage: &lora::Solution, observable: &str) -> [f64; 2] {
    let lora::Solution { order, errors, alignment, objective, std_error, .. } = stage;
    let (value, error) = match observable {
        "q" => (order.q, std_error.q),
        "m" => (order.m, std_error.m),
        "alignment" => (*alignment, std_error.alignment),
        "test" => (errors.test, std_error.test),
        _ => (*objective, std_error.objective),
    };
    [value, error.unwrap_or(0.0)]
}

impl Setting {
    fn new(line: Line, trained: &[Trained], log2_nodes: usize) -> Result<Self, Box<dyn Error>> {
        let Line { name, scenario } = line;
        let options = Options::default().with_log2_nodes(log2_nodes)?.with_scrambles(4)?;
        let options = options.with_max_iterations(400)?;
        let stage = Scenario { options, ..scenario.clone() }.solve()?.lora.ok_or("no fine-tuning")?;
        let mut deviations = [Deviation { relative: f64::NAN, z: f64::NAN }; OBSERVABLES.len()];
        for (observable, deviation) in OBSERVABLES.into_iter().zip(&mut deviations) {
            let here = |one: &&Trained| one.experiment == name && one.observable == observable;
            let Trained { simulation, std_error, .. } = trained.iter().find(here).ok_or("not trained")?;
            let [value, own] = predicted(&stage, observable);
            let off = value - simulation;
            *deviation = Deviation { relative: off / simulation, z: off / own.hypot(*std_error) };
        }
        Ok(Self {
            name,
            tokens: scenario.model.tokens(),
            linear: scenario.model.activation().name() == "linear",
            verdict: stage.validity.verdict,
            jump: stage.validity.jump,
            replicon: stage.validity.replicon,
            deviations,
        })
    }

    fn of(&self, observable: &str) -> Deviation {
        let at = OBSERVABLES.iter().position(|one| *one == observable);
        at.map_or(Deviation { relative: f64::NAN, z: f64::NAN }, |at| self.deviations[at])
    }

    /// A row of the table in `docs/verdicts.md`.
    fn row(&self) -> String {
        let gauge = |x: f64| if x >= 1e-4 { format!("{x:.4}") } else { "0".to_owned() };
        let percent = |observable| format!("{:+.1}%", 100.0 * self.of(observable).relative);
        let scores = OBSERVABLES.map(|observable| format!("{:.1}", self.of(observable).z));
        format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} |",
            self.name,
            self.verdict,
            gauge(self.jump),
            gauge(self.replicon),
            percent("test"),
            percent("q"),
            percent("alignment"),
            scores.join(" | ")
        )
    }
}

fn settings(full: bool) -> Result<Vec<Setting>, Box<dyn Error>> {
    let trained: Vec<Trained> = csv::Reader::from_reader(&include_bytes!("data/verdicts.csv")[..])
        .deserialize()
        .collect::<Result<_, _>>()?;
    let log2_nodes = if full { 12 } else { 10 };
    include_str!("data/verdicts.jsonl")
        .lines()
        .map(|line| Setting::new(serde_json::from_str(line)?, &trained, log2_nodes))
        .collect()
}

/// The limits of a good and of a marginal verdict, in the gauge of an abscissa.
const JUMP: [f64; 2] = [0.02, 0.13];
const REPLICON: [f64; 2] = [0.9, 1.2];
/// Those of `1/(1 + J)`, .95 and .9, as limits of `J`.
const JUMP_OF_SOFTMAX: [f64; 2] = [1.0 / 0.95 - 1.0, 1.0 / 0.9 - 1.0];

/// Smallest share of the jumps that is drawn; smaller ones are drawn there.
const SMALLEST_JUMP: f64 = 1e-4;

/// The gauge at the abscissa of a column of panels.
struct Gauge {
    title: &'static str,
    label: &'static str,
    linear: bool,
    value: fn(&Setting) -> f64,
    limits: [f64; 2],
    axis: [f64; 2],
}

const GAUGES: [Gauge; 3] = [
    Gauge {
        title: "linear",
        label: "share of the jumps `J`",
        linear: true,
        value: |setting| setting.jump.max(SMALLEST_JUMP),
        limits: JUMP,
        axis: [0.7 * SMALLEST_JUMP, 5.0],
    },
    Gauge {
        title: "softmax",
        label: "replicon",
        linear: false,
        value: |setting| setting.replicon,
        limits: REPLICON,
        axis: [0.1, 10.0],
    },
    Gauge {
        title: "softmax",
        label: "share of the jumps `J`",
        linear: false,
        value: |setting| setting.jump.max(SMALLEST_JUMP),
        limits: JUMP_OF_SOFTMAX,
        axis: [0.7 * SMALLEST_JUMP, 5.0],
    },
];

/// The deviation at the ordinate of a row of panels.
struct Measure {
    label: &'static str,
    value: fn(&Setting) -> f64,
    axis: [f64; 2],
}

const MEASURES: [Measure; 3] = [
    Measure {
        label: "relative deviation of `E′`",
        value: |setting| setting.of("test").relative,
        axis: [1e-4, 10.0],
    },
    Measure {
        label: "relative deviation of `q`",
        value: |setting| setting.of("q").relative,
        axis: [1e-4, 10.0],
    },
    Measure {
        label: "largest deviation in standard errors",
        value: |setting| setting.deviations.iter().fold(0.0, |worst, one| one.z.abs().max(worst)),
        axis: [0.1, 300.0],
    },
];

/// Number of standard errors below which a deviation is compatible with none.
const VISIBLE: f64 = 2.0;

fn panel(settings: &[Setting], gauge: &Gauge, measure: &Measure, legend: bool) -> (Vec<Plot>, Layout) {
    let mut plots = Vec::new();
    for (limit, colour) in gauge.limits.into_iter().zip([VERDICTS[0].1, VERDICTS[2].1]) {
        let ends = measure.axis.map(|y| (limit, y)).to_vec();
        plots.push(Plot::Line(
            LinePlot::new().with_data(ends).with_color(colour).with_stroke_width(1.5).with_dashed(),
        ));
    }
    for (verdict, colour) in VERDICTS {
        for (tokens, shape) in SHAPES {
            let here =
                |one: &&Setting| one.linear == gauge.linear && one.verdict == verdict && one.tokens == tokens;
            for setting in settings.iter().filter(here) {
                let [low, high] = measure.axis;
                let point = vec![((gauge.value)(setting), (measure.value)(setting).abs().clamp(low, high))];
                let worst = (MEASURES[2].value)(setting);
                let marker = ScatterPlot::new()
                    .with_data(point)
                    .with_color(colour)
                    .with_marker(shape)
                    .with_size(4.5)
                    .with_marker_stroke_width(1.5)
                    .with_marker_opacity(if worst < VISIBLE { 0.0 } else { 1.0 });
                plots.push(Plot::Scatter(marker));
            }
        }
    }
    if legend {
        // Points outside of the panel, for the legend only.
        let nowhere = vec![(gauge.axis[1] * 10.0, measure.axis[1] * 10.0)];
        let named = |colour: &str, shape, text: &str| {
            let one = ScatterPlot::new()
                .with_data(nowhere.clone())
                .with_color(colour)
                .with_marker(shape)
                .with_size(4.5);
            Plot::Scatter(one.with_legend(text))
        };
        plots.extend(
            VERDICTS.map(|(verdict, colour)| named(colour, MarkerShape::Circle, &verdict.to_string())),
        );
        plots.extend(SHAPES.map(|(tokens, shape)| named(GREY, shape, &format!("`T` = {tokens}"))));
    }
    let format = || TickFormat::Custom(Arc::new(power_of_ten));
    let layout = Layout::auto_from_plots(&plots)
        .with_title(gauge.title)
        .with_x_label(gauge.label)
        .with_y_label(measure.label)
        .with_log_scale()
        .with_x_axis_min(gauge.axis[0])
        .with_x_axis_max(gauge.axis[1])
        .with_y_axis_min(measure.axis[0])
        .with_y_axis_max(measure.axis[1])
        .with_x_tick_format(format())
        .with_y_tick_format(format())
        .with_legend_position(LegendPosition::OutsideRightTop);
    (plots, layout)
}

const VERDICTS: [(Verdict, &str); 3] =
    [(Verdict::Good, COLOURS[2]), (Verdict::Marginal, COLOURS[4]), (Verdict::Unreliable, COLOURS[1])];
const SHAPES: [(usize, MarkerShape); 4] = [
    (1, MarkerShape::Circle),
    (2, MarkerShape::Square),
    (3, MarkerShape::Triangle),
    (4, MarkerShape::Diamond),
];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let settings = settings(arguments.full)?;
    for setting in &settings {
        println!("{}", setting.row());
    }
    let rows: Vec<Row> = settings
        .iter()
        .flat_map(|setting| {
            OBSERVABLES.into_iter().zip(setting.deviations).map(|(observable, Deviation { relative, z })| {
                Row {
                    setting: setting.name.clone(),
                    verdict: setting.verdict.to_string(),
                    jump: setting.jump,
                    replicon: setting.replicon,
                    observable,
                    relative,
                    z,
                }
            })
        })
        .collect();
    write_csv(&arguments.out, "verdicts", &rows)?;
    fact(settings.len() == 40, "there are forty settings")?;

    let panels = MEASURES
        .iter()
        .enumerate()
        .flat_map(|(row, measure)| {
            GAUGES.iter().enumerate().map(move |(column, gauge)| (gauge, measure, [row, column] == [0, 2]))
        })
        .map(|(gauge, measure, legend)| panel(&settings, gauge, measure, legend))
        .collect();
    save(
        &arguments,
        "verdicts",
        "Predictions against trained networks, and the limits of the verdicts (dashed)",
        GAUGES.len(),
        panels,
    )
}
