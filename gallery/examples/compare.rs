//! Trains the real network at finite size, and puts what it measures beside the prediction.
//!
//! ```text
//! cargo run --release -p gallery --example compare                              # some seconds
//! cargo run --release -p gallery --example compare -- experiment.json           # your own
//! cargo run --release -p gallery --example compare -- --print > experiment.json # to begin with
//! ```
//!
//! An experiment is `{"scenario": .., "laboratory": ..}`: what `examples/solve.rs` reads, and the fields of
//! `simulate::Laboratory`. Every finished instance is written to `records.jsonl` in the folder `--out` at once; Ctrl-C finishes what is
//! running, and shows what there is; the same command goes on from there. Writes `comparison.csv` and `comparison.svg`, too.

use std::error::Error;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use kuva::backend::svg::SvgBackend;
use kuva::plot::legend::LegendPosition;
use kuva::plot::{LinePlot, ScatterPlot};
use kuva::render::figure::Figure;
use kuva::render::layout::{Layout, TickFormat};
use kuva::render::plots::Plot;
use lora_asymptotics::Scenario;
use lora_asymptotics::simulate::{Comparison, Experiment, Laboratory, Measurement, Row, Size, Stage};
use serde::{Deserialize, Serialize};

#[derive(Parser)]
struct Arguments {
    /// The experiment, as JSON; a small one if not given.
    experiment: Option<PathBuf>,
    /// Folder for the results.
    #[arg(long, default_value = "target/compare")]
    out: PathBuf,
    /// Prints the experiment, and ends.
    #[arg(long)]
    print: bool,
}

/// What is simulated.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    scenario: Scenario,
    #[serde(default)]
    laboratory: Laboratory,
}

/// Both stages of softmax attention, fine-tuned on sequences of the pre-training.
const SMALL: &str = r#"{
    "model": {"tokens": 2, "activation": "softmax", "delta": 0.5, "teacher": {"wishart": {"kappa0": 0.5}}},
    "pretrain": {"alpha": 0.2, "lambda": 0.05},
    "lora": {"alpha": 5.0, "lambda": 0.3, "sequences": "reused"},
    "options": {"log2_nodes": 13, "tolerance": 1e-7}
}"#;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let description = match &arguments.experiment {
        Some(path) => serde_json::from_str(&fs::read_to_string(path)?)?,
        None => small()?,
    };
    if arguments.print {
        println!("{}", serde_json::to_string_pretty(&description)?);
        return Ok(());
    }
    let experiment = Experiment::new(&description.scenario, &description.laboratory)?;
    fs::create_dir_all(&arguments.out)?;
    let mut records = Records::open(&arguments.out.join("records.jsonl"), &description)?;
    let known = std::mem::take(&mut records.known);

    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed))?;
    let total = experiment.instances().len();
    let bar = ProgressBar::new(total as u64).with_style(ProgressStyle::with_template(
        "{wide_bar} {pos}/{len} instances, {eta} left (Ctrl-C stops)",
    )?);
    bar.set_position(known.len() as u64);
    let measurements = experiment.run_all(known, |measurement| {
        bar.inc(1);
        if let Err(error) = records.append(measurement) {
            eprintln!("cannot write the records: {error}");
            return ControlFlow::Break(());
        }
        if interrupted.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    bar.finish_and_clear();

    let comparison = experiment.compare(&measurements);
    print!("{comparison}");
    println!("rms z = {:.2}, worst |z| = {:.2}", comparison.rms_z(), comparison.worst_z());
    if measurements.len() < total {
        println!("{} of {total} instances; the same command goes on from there", measurements.len());
    }
    if description.laboratory.sizes.len() > 1 {
        println!("simulation: extrapolated from {:?}", sizes(&description.laboratory));
    }
    write_csv(&arguments.out.join("comparison.csv"), &comparison)?;
    fs::write(arguments.out.join("comparison.svg"), picture(&comparison))?;
    println!("written: records.jsonl, comparison.csv and comparison.svg in {}", arguments.out.display());
    Ok(())
}

fn small() -> Result<Description, lora_asymptotics::Error> {
    let size = |dimension, instances| Size { dimension, instances };
    let sizes = vec![size(30, 192), size(60, 96), size(90, 64)];
    let laboratory = Laboratory { sizes, test_sequences: 1024, ..Laboratory::default() };
    Ok(Description { scenario: Scenario::from_json(SMALL)?, laboratory })
}

fn sizes(laboratory: &Laboratory) -> Vec<usize> {
    laboratory.sizes.iter().map(|size| size.dimension).collect()
}

/// The file of finished instances: a line that says which experiment, and one line per instance.
struct Records {
    file: BufWriter<File>,
    known: Vec<Measurement>,
}

impl Records {
    fn open(path: &Path, description: &Description) -> Result<Self, Box<dyn Error>> {
        let text = if path.exists() { fs::read_to_string(path)? } else { String::new() };
        let mut lines = text.lines();
        if let Some(first) = lines.next()
            && serde_json::from_str::<Description>(first).ok().as_ref() != Some(description)
        {
            let path = path.display();
            return Err(format!("{path} is of another experiment: remove it, or choose another --out").into());
        }
        // A line that was being written when the process was killed is left out.
        let known: Vec<Measurement> = lines.filter_map(|line| serde_json::from_str(line).ok()).collect();
        // Written anew under another name first: nothing is lost if this is interrupted.
        let fresh = path.with_extension("new");
        let mut file = BufWriter::new(File::create(&fresh)?);
        writeln!(file, "{}", serde_json::to_string(description)?)?;
        for one in &known {
            writeln!(file, "{}", serde_json::to_string(one)?)?;
        }
        file.flush()?;
        fs::rename(&fresh, path)?;
        Ok(Self { file, known })
    }

    fn append(&mut self, measurement: &Measurement) -> Result<(), Box<dyn Error>> {
        writeln!(self.file, "{}", serde_json::to_string(measurement)?)?;
        Ok(self.file.flush()?)
    }
}

/// One line of the table: an observable at one dimension, or (no dimension) extrapolated.
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
    for Row { stage, observable, theory, simulation, z, sizes } in &comparison.rows {
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

/// Okabe-Ito: colour-blind safe.
const BLUE: &str = "#0072B2";
const ORANGE: &str = "#D55E00";
const GREY: &str = "#777777";

/// One panel per observable: measured against `1/D`, the extrapolation at 0, and the prediction.
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
            "Theory (line), trained networks (blue) and their extrapolation (orange), with standard errors",
        );
    SvgBackend.render_scene(&figure.render())
}

fn panel(row: &Row) -> (Vec<Plot>, Layout) {
    let measured: Vec<(f64, f64, f64)> = row
        .sizes
        .iter()
        .map(|size| (1.0 / size.dimension as f64, size.estimate.mean, size.estimate.std_error))
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
    let theory = vec![(0.0, row.theory.mean), (1.05 * widest, row.theory.mean)];
    let ends = measured.iter().chain(&extrapolated).flat_map(|(_, y, error)| [y - error, y + error]);
    let (low, high) =
        ends.fold((row.theory.mean, row.theory.mean), |(low, high), y| (low.min(y), high.max(y)));
    // Enough decimals to tell the ticks apart.
    let decimals = (1.0 - (high - low).log10().floor()).clamp(0.0, 9.0) as usize;
    let mut plots =
        vec![Plot::Line(LinePlot::new().with_data(theory).with_color(GREY).with_stroke_width(2.0))];
    plots.push(scatter(&measured, BLUE));
    plots.push(scatter(&extrapolated, ORANGE));
    let stage = match row.stage {
        Stage::Pretrain => "pre-training",
        Stage::Lora => "fine-tuning",
    };
    let layout = Layout::auto_from_plots(&plots)
        .with_title(format!("{stage}: {}", row.observable))
        .with_x_label("1/D")
        .with_x_tick_format(TickFormat::Fixed(3))
        .with_x_axis_min(-0.06 * widest)
        .with_x_axis_max(1.06 * widest)
        .with_y_tick_format(TickFormat::Fixed(decimals))
        .with_legend_position(LegendPosition::InsideTopRight);
    (plots, layout)
}
