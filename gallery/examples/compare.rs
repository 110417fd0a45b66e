//! Trains the real network at finite size, and compares its measurements with the prediction.
//!
//! ```text
//! cargo run --release -p gallery --example compare                              # some seconds
//! cargo run --release -p gallery --example compare -- experiment.json           # your own
//! cargo run --release -p gallery --example compare -- --print > experiment.json # to begin with
//! cargo run --release -p gallery --example compare -- gallery/examples/data/validation.jsonl  # several, with a summary
//! ```
//!
//! With `"odd": true` in an experiment, networks are trained on weights of both signs, and the odd part of what is measured is compared with the
//! coefficients of `D^{-1/2}` (`simulate::odd_differences`); `gallery/examples/data/odd.jsonl` has four settings.
//!
//! An experiment is `{"name": .., "scenario": .., "laboratory": ..}`: a scenario as `examples/solve.rs` reads
//! it, and the fields of `simulate::Laboratory`. Every instance is written to `records.jsonl` in the folder
//! `--out` as soon as it is finished. Ctrl-C finishes the instances that are running, compares the instances
//! so far, and ends with exit status 130. The same command then continues the experiment. The program also
//! writes `comparison.csv` and `comparison.svg`. Each of several experiments gets its own folder, numbered
//! from 1, and `comparisons.csv` has all their extrapolated observables.

#[path = "../../examples/interrupt/mod.rs"]
mod interrupt;

use std::error::Error;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use interrupt::Interrupt;
use kuva::backend::svg::SvgBackend;
use kuva::plot::legend::LegendPosition;
use kuva::plot::{LinePlot, ScatterPlot};
use kuva::render::figure::Figure;
use kuva::render::layout::{Layout, TickFormat};
use kuva::render::plots::Plot;
use lora_asymptotics::Scenario;
use lora_asymptotics::journal::Journal;
use lora_asymptotics::simulate::{Comparison, Experiment, Laboratory, Row, Size, Stage, odd_differences};
use serde::{Deserialize, Serialize};

#[derive(Parser)]
struct Arguments {
    /// The experiment, as JSON, or several, one after the other; a small one if not given.
    experiments: Option<PathBuf>,
    /// Folder for the results.
    #[arg(long, default_value = "target/compare")]
    out: PathBuf,
    /// Prints the experiment, and ends.
    #[arg(long)]
    print: bool,
}

/// A simulation and its scenario.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    scenario: Scenario,
    #[serde(default)]
    laboratory: Laboratory,
    /// Whether the odd part of trainings on weights of both signs is compared.
    #[serde(default, skip_serializing_if = "is_false")]
    odd: bool,
}

fn is_false(odd: &bool) -> bool {
    !odd
}

/// Both stages of softmax attention, with fine-tuning on sequences of the pre-training.
const SMALL: &str = r#"{
    "model": {"tokens": 2, "activation": "softmax", "delta": 0.5, "teacher": {"wishart": {"kappa0": 0.5}}},
    "pretrain": {"alpha": 0.2, "lambda": 0.05},
    "lora": {"alpha": 5.0, "lambda": 0.3, "sequences": "reused"},
    "options": {"log2_nodes": 13, "tolerance": 1e-7}
}"#;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let descriptions = match &arguments.experiments {
        Some(path) => read(&fs::read_to_string(path)?)?,
        None => vec![small()?],
    };
    if arguments.print {
        for description in &descriptions {
            println!("{}", serde_json::to_string_pretty(description)?);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let interrupt = Interrupt::listen(|| {})?;
    let several = descriptions.len() > 1;
    let mut compared = Vec::new();
    for (index, description) in descriptions.iter().enumerate() {
        let number = (index + 1).to_string();
        let folder = if several { arguments.out.join(&number) } else { arguments.out.clone() };
        let name = description.name.clone().unwrap_or(number);
        if several {
            println!("{name}");
        }
        if description.odd {
            compare_odd(description, &folder)?;
        } else {
            compared.push((name, compare(description, &folder, &interrupt)?));
        }
        if interrupt.is_set() {
            break;
        }
    }
    if compared.len() > 1 {
        summarise(&compared);
        let path = arguments.out.join("comparisons.csv");
        write_table(&path, &compared)?;
        println!("written: {}", path.display());
    }
    Ok(if interrupt.is_set() { ExitCode::from(interrupt::STATUS) } else { ExitCode::SUCCESS })
}

/// One experiment, or several of them.
fn read(text: &str) -> Result<Vec<Description>, serde_json::Error> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    serde_json::Deserializer::from_str(text).into_iter().collect()
}

fn small() -> Result<Description, lora_asymptotics::Error> {
    let sizes = vec![Size::new(30, 192), Size::new(60, 96), Size::new(90, 64)];
    let laboratory = Laboratory { sizes, test_sequences: 1024, ..Laboratory::default() };
    Ok(Description { name: None, scenario: Scenario::from_json(SMALL)?, laboratory, odd: false })
}

/// Compares the odd parts of trainings on weights of both signs.
fn compare_odd(description: &Description, folder: &Path) -> Result<(), Box<dyn Error>> {
    let differences = odd_differences(&description.scenario, &description.laboratory)?;
    print!("{differences}");
    println!("rms z = {:.2}", differences.rms_z());
    fs::create_dir_all(folder)?;
    fs::write(folder.join("odd.json"), serde_json::to_string(&differences)?)?;
    println!("written: odd.json in {}", folder.display());
    Ok(())
}

fn compare(
    description: &Description,
    folder: &Path,
    interrupt: &Interrupt,
) -> Result<Comparison, Box<dyn Error>> {
    let experiment = Experiment::new(&description.scenario, &description.laboratory)?;
    let (mut journal, known) = Journal::open(&folder.join("records.jsonl"), description)?;
    let total = experiment.instances().len();
    let bar = ProgressBar::new(total as u64).with_style(ProgressStyle::with_template(
        "{wide_bar} {pos}/{len} instances, {eta} left (Ctrl-C stops)",
    )?);
    bar.set_position(known.len() as u64);
    let mut trouble = None;
    let measurements = experiment.run_all(known, |measurement| {
        bar.inc(1);
        if let Err(error) = journal.append(measurement) {
            trouble = Some(error);
            return ControlFlow::Break(());
        }
        if interrupt.is_set() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    bar.finish_and_clear();
    if let Some(error) = trouble {
        return Err(error.into());
    }

    let comparison = experiment.compare(&measurements);
    print!("{comparison}");
    println!("rms z = {:.2}, worst |z| = {:.2}", comparison.rms_z(), comparison.worst_z());
    if measurements.len() < total {
        println!("{} of {total} instances; the same command goes on from there", measurements.len());
    }
    if description.laboratory.sizes.len() > 1 {
        let from = sizes(&description.laboratory);
        println!(
            "simulation: extrapolated from {from:?} by a fit of the powers of 1/D in the last column; that in brackets is known"
        );
    }
    write_csv(&folder.join("comparison.csv"), &comparison)?;
    fs::write(folder.join("comparison.svg"), picture(&comparison))?;
    println!("written: records.jsonl, comparison.csv and comparison.svg in {}", folder.display());
    Ok(comparison)
}

fn sizes(laboratory: &Laboratory) -> Vec<usize> {
    laboratory.sizes.iter().map(|size| size.dimension).collect()
}

/// Prints a line for each experiment, and a line for each stage over all experiments.
fn summarise(compared: &[(String, Comparison)]) {
    println!("\n{:62} {:>4} {:>7} {:>7}", "experiment", "rows", "rms z", "worst z");
    for (name, comparison) in compared {
        let rows = comparison.rows.len();
        println!("{name:62} {rows:4} {:7.2} {:7.2}", comparison.rms_z(), comparison.worst_z());
    }
    for (stage, name) in [(Stage::Lora, "all of fine-tuning"), (Stage::Pretrain, "all of pre-training")] {
        let all = compared.iter().flat_map(|(_, comparison)| &comparison.rows);
        let scores: Vec<f64> = all.filter(|row| row.stage == stage).map(|row| row.z).collect();
        if !scores.is_empty() {
            let rms = (scores.iter().map(|z| z * z).sum::<f64>() / scores.len() as f64).sqrt();
            let worst = scores.iter().fold(0.0, |worst: f64, z| worst.max(z.abs()));
            println!("{name:62} {:4} {rms:7.2} {worst:7.2}", scores.len());
        }
    }
}

/// One line of the table: an observable at one dimension, or, without a dimension, its extrapolation.
#[derive(Serialize)]
struct Line<'a> {
    stage: Stage,
    observable: &'a str,
    dimension: Option<usize>,
    instances: Option<usize>,
    theory: f64,
    theory_std_error: f64,
    simulation: f64,
    std_error: f64,
    z: Option<f64>,
}

fn write_csv(path: &Path, comparison: &Comparison) -> Result<(), Box<dyn Error>> {
    let mut table = csv::Writer::from_path(path)?;
    for Row { stage, observable, theory, simulation, z, sizes, .. } in &comparison.rows {
        let line = Line {
            stage: *stage,
            observable,
            dimension: None,
            instances: None,
            theory: theory.mean,
            theory_std_error: theory.std_error,
            simulation: simulation.mean,
            std_error: simulation.std_error,
            z: Some(*z),
        };
        table.serialize(&line)?;
        for size in sizes {
            table.serialize(Line {
                dimension: Some(size.dimension),
                instances: Some(size.instances),
                simulation: size.estimate.mean,
                std_error: size.estimate.std_error,
                z: None,
                ..line
            })?;
        }
    }
    Ok(table.flush()?)
}

/// One line of the table of several experiments.
#[derive(Serialize)]
struct TableLine<'a> {
    experiment: &'a str,
    stage: Stage,
    observable: &'a str,
    theory: f64,
    theory_std_error: f64,
    simulation: f64,
    std_error: f64,
    z: f64,
}

/// Writes the table of several experiments, with six significant digits.
fn write_table(path: &Path, compared: &[(String, Comparison)]) -> Result<(), Box<dyn Error>> {
    let mut table = csv::Writer::from_path(path)?;
    for (experiment, comparison) in compared {
        for Row { stage, observable, theory, simulation, z, .. } in &comparison.rows {
            table.serialize(TableLine {
                experiment,
                stage: *stage,
                observable,
                theory: rounded(theory.mean),
                theory_std_error: rounded(theory.std_error),
                simulation: rounded(simulation.mean),
                std_error: rounded(simulation.std_error),
                z: rounded(*z),
            })?;
        }
    }
    Ok(table.flush()?)
}

/// A number with six significant digits.
fn rounded(x: f64) -> f64 {
    format!("{x:.5e}").parse().unwrap_or(x)
}

/// The colours (Okabe-Ito) can be told apart by the colour-blind.
const BLUE: &str = "#0072B2";
const ORANGE: &str = "#D55E00";
const GREY: &str = "#777777";

/// One panel per observable: the measurements against `1/D`, or against `D^{-1/2}` where the theory has the coefficient, their extrapolation at 0, and
/// the prediction.
fn picture(comparison: &Comparison) -> String {
    let names = ["objective", "test", "train", "alignment"];
    let shown: Vec<&Row> = [Stage::Pretrain, Stage::Lora]
        .into_iter()
        .flat_map(|stage| names.iter().filter_map(move |name| comparison.row(stage, name)))
        .collect();
    let panels: Vec<(Vec<Plot>, Layout)> = shown.iter().map(|row| panel(row)).collect();
    let columns = names.len();
    let (plots, layouts) = panels.into_iter().unzip();
    let figure = Figure::new(shown.len().div_ceil(columns).max(1), columns)
        .with_plots(plots)
        .with_layouts(layouts)
        .with_title(
            "Theory (line: limit and D^(-1/2) term), trained networks (blue), and their limit (orange), with standard errors",
        );
    SvgBackend.render_scene(&figure.render())
}

fn panel(row: &Row) -> (Vec<Plot>, Layout) {
    let slope = row.coefficient.map_or(0.0, |coefficient| coefficient.mean);
    let (power, label) = if row.coefficient.is_some() { (0.5, "1/√D") } else { (1.0, "1/D") };
    let abscissa = |dimension: f64| dimension.powf(-power);
    let measured: Vec<(f64, f64, f64)> = row
        .sizes
        .iter()
        .map(|size| (abscissa(size.dimension as f64), size.estimate.mean, size.estimate.std_error))
        .collect();
    let mut extrapolated = vec![(0.0, row.simulation.mean, row.simulation.std_error)];
    extrapolated.retain(|(_, mean, _)| measured.len() > 1 && mean.is_finite());
    let widest = measured.iter().map(|point| point.0).fold(0.0, f64::max);
    let scatter = |points: &[(f64, f64, f64)], color: &str| {
        Plot::Scatter(
            ScatterPlot::new()
                .with_data(points.iter().map(|(x, y, _)| (*x, *y)).collect::<Vec<_>>())
                .with_y_err(points.iter().map(|(.., error)| *error).collect::<Vec<_>>())
                .with_size(4.0)
                .with_color(color),
        )
    };
    let end = row.theory.mean + 1.05 * widest * slope;
    let theory = vec![(0.0, row.theory.mean), (1.05 * widest, end)];
    let ends = measured.iter().chain(&extrapolated).flat_map(|(_, y, error)| [y - error, y + error]);
    let (low, high) = ends.fold((row.theory.mean.min(end), row.theory.mean.max(end)), |(low, high), y| {
        (low.min(y), high.max(y))
    });
    // There are enough decimals to tell the ticks apart.
    let decimals = (1.0 - (high - low).log10().floor()).clamp(0.0, 9.0) as usize;
    let mut plots =
        vec![Plot::Line(LinePlot::new().with_data(theory).with_color(GREY).with_stroke_width(2.0))];
    plots.push(scatter(&measured, BLUE));
    plots.push(scatter(&extrapolated, ORANGE));
    let layout = Layout::auto_from_plots(&plots)
        .with_title(format!("{}: {}", row.stage, row.observable))
        .with_x_label(label)
        .with_x_tick_format(TickFormat::Fixed(if power < 1.0 { 2 } else { 3 }))
        .with_x_axis_min(-0.06 * widest)
        .with_x_axis_max(1.06 * widest)
        .with_y_tick_format(TickFormat::Fixed(decimals))
        .with_legend_position(LegendPosition::InsideTopRight);
    (plots, layout)
}
