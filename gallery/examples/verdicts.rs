//! The figure compares predictions with trained networks, in settings from good to unreliable ones, against the gauges from which the verdict
//! follows. The networks were trained in forty settings, which are in `data/verdicts.jsonl`. They were chosen by their gauges alone, after the
//! limits of the verdicts had been set. What the training gave is in `data/verdicts.csv`, which is the `comparisons.csv` of
//!
//! ```text
//! lora-asymptotics compare gallery/examples/data/verdicts.jsonl --out target/verdicts
//! ```
//!
//! Only the theory is solved again for the figure, and the example ends with an error if a deviation is larger than its verdict allows. With
//! `--full`, the 61 settings from which the limits had been read, of `tests/data/verdicts_lora.jsonl`, are drawn, too, as crosses:
//!
//! ```text
//! cargo run --release -p gallery --example verdicts             # some seconds
//! cargo run --release -p gallery --example verdicts -- --full   # more nodes: the figure and the table of docs/verdicts.md
//! ```

mod common;

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;

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

/// A line of the settings. What it does not name here is how the networks were trained.
#[derive(Deserialize)]
struct Line {
    name: String,
    scenario: Scenario,
    /// The results of training, in the settings that the limits were read from.
    #[serde(default)]
    trained: BTreeMap<String, TrainedValue>,
}

#[derive(Clone, Copy, Deserialize)]
struct TrainedValue {
    value: f64,
    std: f64,
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
    trained: f64,
    /// The prediction minus the trained value.
    off: f64,
    /// The combined standard error of both.
    std_error: f64,
}

impl Deviation {
    const NONE: Self = Self { trained: f64::NAN, off: f64::NAN, std_error: f64::NAN };

    /// The deviation and its standard error, over the trained value.
    fn relative(self) -> [f64; 2] {
        [self.off / self.trained, self.std_error / self.trained.abs()]
    }

    fn z(self) -> f64 {
        self.off / self.std_error
    }
}

/// A setting with its gauges and its deviations.
struct Setting {
    name: String,
    tokens: usize,
    linear: bool,
    /// Whether the limits were read from this setting.
    earlier: bool,
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
    trained: f64,
    off: f64,
    std_error: f64,
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
    fn new(line: Line, log2_nodes: usize, earlier: bool) -> Result<Self, Box<dyn Error>> {
        let Line { name, scenario, trained } = line;
        let options = Options::default().with_log2_nodes(log2_nodes)?.with_scrambles(4)?;
        let options = options.with_max_iterations(400)?;
        let stage = Scenario { options, ..scenario.clone() }.solve()?.lora.ok_or("no fine-tuning")?;
        let mut deviations = [Deviation::NONE; OBSERVABLES.len()];
        for (observable, deviation) in OBSERVABLES.into_iter().zip(&mut deviations) {
            let TrainedValue { value, std } = *trained.get(observable).ok_or("not trained")?;
            let [predicted, own] = predicted(&stage, observable);
            *deviation = Deviation { trained: value, off: predicted - value, std_error: own.hypot(std) };
        }
        Ok(Self {
            name,
            tokens: scenario.model.tokens(),
            linear: scenario.model.activation().name() == "linear",
            earlier,
            verdict: stage.validity.verdict,
            jump: stage.validity.jump,
            replicon: stage.validity.replicon,
            deviations,
        })
    }

    fn of(&self, observable: &str) -> Deviation {
        let at = OBSERVABLES.iter().position(|one| *one == observable);
        at.map_or(Deviation::NONE, |at| self.deviations[at])
    }

    /// A row of the table in `docs/verdicts.md`.
    fn row(&self) -> String {
        let gauge = |x: f64| if x >= 1e-4 { format!("{x:.4}") } else { "0".to_owned() };
        let percent = |observable| format!("{:+.1}%", 100.0 * self.of(observable).relative()[0]);
        let scores = OBSERVABLES.map(|observable| format!("{:.1}", self.of(observable).z()));
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
    let log2_nodes = if full { 11 } else { 10 };
    let mut trained: BTreeMap<String, BTreeMap<String, TrainedValue>> = BTreeMap::new();
    for line in csv::Reader::from_reader(&include_bytes!("data/verdicts.csv")[..]).deserialize() {
        let Trained { experiment, observable, simulation, std_error } = line?;
        let value = TrainedValue { value: simulation, std: std_error };
        trained.entry(experiment).or_default().insert(observable, value);
    }
    let mut settings = Vec::new();
    for (lines, earlier) in [
        (include_str!("data/verdicts.jsonl"), false),
        (include_str!("../../tests/data/verdicts_lora.jsonl"), true),
    ] {
        for line in lines.lines().filter(|_| full || !earlier) {
            let mut line: Line = serde_json::from_str(line)?;
            line.trained.extend(trained.remove(&line.name).unwrap_or_default());
            settings.push(Setting::new(line, log2_nodes, earlier)?);
        }
    }
    Ok(settings)
}

/// The limits of a good and of a marginal verdict, in the gauge of an abscissa.
const JUMP: [f64; 2] = [0.02, 0.13];
const REPLICON: [f64; 2] = [0.9, 1.2];
/// Those of `1/(1 + J)`, .95 and .9, as limits of `J`.
const JUMP_OF_SOFTMAX: [f64; 2] = [1.0 / 0.95 - 1.0, 1.0 / 0.9 - 1.0];

/// Number of combined standard errors within which a good prediction agrees with training.
const AGREEMENT: f64 = 4.0;
/// Largest error of the alignment of a marginal prediction, beyond two standard errors.
const MARGINAL: f64 = 0.04;

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

const SHARE_OF_JUMPS: Gauge = Gauge {
    title: "linear",
    label: "share of the jumps `J`",
    linear: true,
    value: |setting| setting.jump.max(SMALLEST_JUMP),
    limits: JUMP,
    axis: [0.7 * SMALLEST_JUMP, 5.0],
};

const GAUGES: [Gauge; 3] = [
    SHARE_OF_JUMPS,
    Gauge {
        title: "softmax",
        label: "replicon",
        linear: false,
        value: |setting| setting.replicon,
        limits: REPLICON,
        axis: [0.1, 10.0],
    },
    Gauge { title: "softmax", linear: false, limits: JUMP_OF_SOFTMAX, ..SHARE_OF_JUMPS },
];

/// The deviation at the ordinate of a row of panels.
struct Measure {
    label: &'static str,
    /// The deviation and its standard error, if it is drawn.
    value: fn(&Setting) -> [f64; 2],
    axis: [f64; 2],
}

const MEASURES: [Measure; 3] = [
    Measure {
        label: "relative deviation of `E′`",
        value: |setting| setting.of("test").relative(),
        axis: [1e-4, 10.0],
    },
    Measure {
        label: "relative deviation of `q`",
        value: |setting| setting.of("q").relative(),
        axis: [1e-4, 10.0],
    },
    Measure {
        label: "largest deviation in standard errors",
        value: |setting| [setting.deviations.iter().fold(0.0, |worst, one| one.z().abs().max(worst)), 0.0],
        axis: [0.1, 300.0],
    },
];

/// A coordinate of a marker, with its standard error.
type Coordinate<'a> = &'a dyn Fn(&Setting) -> [f64; 2];

/// The markers of the settings in a panel, with error bars that end at the lower end of the panel if the deviation is compatible with none.
fn markers<'a>(
    settings: impl Iterator<Item = &'a Setting>,
    [gauge, measure]: [Coordinate<'_>; 2],
    [low, high]: [f64; 2],
) -> ScatterPlot {
    let mut points = Vec::new();
    let mut errors = Vec::new();
    for setting in settings {
        let [deviation, error] = measure(setting);
        let at = deviation.abs().clamp(low, high);
        points.push((gauge(setting)[0], at));
        errors.push((error.min(at - low), error.min(high - at)));
    }
    let markers = ScatterPlot::new().with_data(points);
    if errors.iter().any(|(below, _)| *below > 0.0) { markers.with_y_err_asymmetric(errors) } else { markers }
}

fn panel(settings: &[Setting], gauge: &Gauge, measure: &Measure, legend: bool) -> (Vec<Plot>, Layout) {
    let mut plots = Vec::new();
    for (limit, colour) in gauge.limits.into_iter().zip([VERDICTS[0].1, VERDICTS[2].1]) {
        let ends = measure.axis.map(|y| (limit, y)).to_vec();
        let line = LinePlot::new().with_data(ends).with_color(colour).with_stroke_width(1.5);
        plots.push(Plot::Line(line.with_dashed()));
    }
    let at = |setting: &Setting| [(gauge.value)(setting), 0.0];
    let without_error = |setting: &Setting| [(measure.value)(setting)[0], 0.0];
    for (verdict, colour) in VERDICTS {
        let here = |one: &&Setting| one.linear == gauge.linear && one.verdict == verdict;
        let earlier = settings.iter().filter(here).filter(|one| one.earlier);
        let crosses = markers(earlier, [&at, &without_error], measure.axis);
        plots.push(Plot::Scatter(crosses.with_color(colour).with_marker(MarkerShape::Cross).with_size(2.5)));
        for (tokens, shape) in SHAPES {
            let new = settings.iter().filter(here).filter(|one| !one.earlier && one.tokens == tokens);
            let new = markers(new, [&at, &measure.value], measure.axis);
            plots.push(Plot::Scatter(new.with_color(colour).with_marker(shape).with_size(4.5)));
        }
    }
    if legend {
        // A point outside of the panel, for the legend only.
        let nowhere = vec![(gauge.axis[1] * 10.0, measure.axis[1] * 10.0)];
        let named = |colour: &str, shape, size, text: &str| {
            let one = ScatterPlot::new().with_data(nowhere.clone()).with_color(colour).with_marker(shape);
            Plot::Scatter(one.with_size(size).with_legend(text))
        };
        plots.extend(
            VERDICTS.map(|(verdict, colour)| named(colour, MarkerShape::Circle, 4.5, &verdict.to_string())),
        );
        plots.extend(SHAPES.map(|(tokens, shape)| named(GREY, shape, 4.5, &format!("`T` = {tokens}"))));
        if settings.iter().any(|setting| setting.earlier) {
            plots.push(named(GREY, MarkerShape::Cross, 2.5, "earlier"));
        }
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
    let new = || settings.iter().filter(|setting| !setting.earlier);
    for setting in new() {
        println!("{}", setting.row());
    }
    let row = |setting: &Setting, observable: &'static str, deviation: Deviation| {
        let Setting { name, verdict, jump, replicon, .. } = setting;
        let Deviation { trained, off, std_error } = deviation;
        let (setting, verdict, z) = (name.clone(), verdict.to_string(), deviation.z());
        Row { setting, verdict, jump: *jump, replicon: *replicon, observable, trained, off, std_error, z }
    };
    let of = |setting: &Setting| -> Vec<Row> {
        OBSERVABLES.into_iter().zip(setting.deviations).map(|(name, one)| row(setting, name, one)).collect()
    };
    let rows: Vec<Row> = settings.iter().flat_map(of).collect();
    write_csv(&arguments.out, "verdicts", &rows)?;
    fact(new().count() == 40, "there are forty settings")?;
    for setting in &settings {
        let off = setting.of("alignment");
        let visible = off.off.abs() - 2.0 * off.std_error;
        match setting.verdict {
            Verdict::Good => {
                let agrees = setting.deviations.iter().all(|one| one.z().abs() < AGREEMENT);
                fact(agrees, &format!("good predictions agree with training: {}", setting.row()))?;
            }
            Verdict::Marginal => {
                fact(
                    visible <= MARGINAL,
                    &format!("marginal predictions are off by some percent: {}", setting.row()),
                )?;
            }
            _ => {}
        }
    }

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
