//! The common parts of the figures: command line, colours, panels, files.

#![allow(dead_code, reason = "every example compiles its own copy and uses a part of it")]

pub mod notation;

use std::error::Error;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use clap::Parser;
use kuva::backend::png::PngBackend;
use kuva::backend::svg::SvgBackend;
use kuva::plot::legend::LegendPosition;
use kuva::plot::scatter::MarkerShape;
use kuva::plot::{LinePlot, ScatterPlot};
use kuva::render::figure::Figure;
use kuva::render::layout::{Layout, TickFormat};
use kuva::render::plots::Plot;
use kuva::render::render::{Primitive, Scene};
use lora_asymptotics::Scenario;
use lora_asymptotics::simulate::{Estimate, Laboratory, Size, Stage, compare};
use lora_asymptotics::sweep::{Record, Shard, Sweep};
use serde::Serialize;

/// Arguments of all figures.
#[derive(Parser)]
pub struct Arguments {
    /// More points, more nodes: for publication.
    #[arg(long)]
    pub full: bool,
    /// Trains networks of finite size, too, where the figure has markers for them.
    #[arg(long)]
    pub simulate: bool,
    /// Writes a PNG, too.
    #[arg(long)]
    pub png: bool,
    /// Folder for the CSV and the SVG.
    #[arg(long, default_value = "target/figures")]
    pub out: PathBuf,
}

/// The colours (Okabe-Ito) can be told apart by the colour-blind.
pub const COLOURS: [&str; 6] = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"];
pub const GREY: &str = "#777777";
pub const BLACK: &str = "#000000";

/// A point of a curve. Its marker is hollow if replica symmetry cannot be trusted there.
#[derive(Debug, Clone, Copy)]
pub struct Dot {
    pub x: f64,
    pub y: f64,
    pub reliable: bool,
}

/// A curve, with hollow markers where it cannot be trusted.
pub fn curve(dots: &[Dot], colour: &str, legend: &str, dashed: bool) -> Vec<Plot> {
    let line: Vec<(f64, f64)> = dots.iter().map(|dot| (dot.x, dot.y)).collect();
    let line = LinePlot::new().with_data(line).with_color(colour).with_stroke_width(2.0);
    let line = if legend.is_empty() { line } else { line.with_legend(legend) };
    let mut plots = vec![Plot::Line(if dashed { line.with_dashed() } else { line })];
    let hollow: Vec<(f64, f64)> = dots.iter().filter(|dot| !dot.reliable).map(|dot| (dot.x, dot.y)).collect();
    if !hollow.is_empty() {
        plots.push(Plot::Scatter(
            ScatterPlot::new()
                .with_data(hollow)
                .with_color(colour)
                .with_size(5.0)
                .with_marker_opacity(0.0)
                .with_marker_stroke_width(1.5),
        ));
    }
    plots
}

/// A smooth curve of many points, dotted where it cannot be trusted.
pub fn smooth(dots: &[Dot], colour: &str, legend: &str, dashed: bool) -> Vec<Plot> {
    let mut legend = legend;
    let mut plots = Vec::new();
    // Pieces of one kind end where the next ones begin.
    let mut first = 0;
    while first + 1 < dots.len() {
        let reliable = |k: usize| dots[k].reliable && dots[k + 1].reliable;
        let last =
            (first..dots.len() - 1).find(|k| reliable(*k) != reliable(first)).unwrap_or(dots.len() - 1);
        let line: Vec<(f64, f64)> = dots[first..=last].iter().map(|dot| (dot.x, dot.y)).collect();
        let line = LinePlot::new().with_data(line).with_color(colour).with_stroke_width(2.0);
        let line = match (reliable(first), dashed) {
            (false, _) => line.with_dotted(),
            (true, true) => line.with_dashed(),
            (true, false) => line,
        };
        // Only a reliable piece stands for the curve in the legend.
        let named = reliable(first) && !legend.is_empty();
        plots.push(Plot::Line(if named { line.with_legend(std::mem::take(&mut legend)) } else { line }));
        first = last;
    }
    plots
}

/// A marker for an optimum.
pub fn mark(x: f64, y: f64, colour: &str) -> Plot {
    let star = ScatterPlot::new().with_data(vec![(x, y)]).with_color(colour).with_size(7.0);
    Plot::Scatter(star.with_marker(MarkerShape::Diamond))
}

/// Measured points with error bars: `(x, mean, standard error)`.
pub fn measured(points: &[(f64, f64, f64)], colour: &str, legend: &str) -> Plot {
    let scatter = ScatterPlot::new()
        .with_data(points.iter().map(|(x, y, _)| (*x, *y)).collect::<Vec<_>>())
        .with_y_err(points.iter().map(|(.., error)| *error).collect::<Vec<_>>())
        .with_color(colour)
        .with_size(4.0);
    Plot::Scatter(if legend.is_empty() { scatter } else { scatter.with_legend(legend) })
}

/// A panel with a logarithmic abscissa.
pub fn log_panel(
    plots: Vec<Plot>,
    title: &str,
    x: &str,
    y: &str,
    legend: LegendPosition,
) -> (Vec<Plot>, Layout) {
    let layout = Layout::auto_from_plots(&plots)
        .with_title(title)
        .with_x_label(x)
        .with_y_label(y)
        .with_legend_position(legend)
        .with_log_x()
        .with_x_tick_format(TickFormat::Sci);
    (plots, layout)
}

/// A panel with a logarithmic abscissa from `from` to `to`, with powers of ten at its ticks.
pub fn decades(
    plots: Vec<Plot>,
    [from, to]: [f64; 2],
    title: &str,
    [x, y]: [&str; 2],
    legend: LegendPosition,
) -> (Vec<Plot>, Layout) {
    let (plots, layout) = log_panel(plots, title, x, y, legend);
    let format = TickFormat::Custom(Arc::new(notation::power_of_ten));
    (plots, layout.with_x_axis_min(from).with_x_axis_max(to).with_x_tick_format(format))
}

/// Writes a figure made of panels, row after row.
pub fn save(
    arguments: &Arguments,
    name: &str,
    title: &str,
    columns: usize,
    panels: Vec<(Vec<Plot>, Layout)>,
) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(&arguments.out)?;
    let rows = panels.len().div_ceil(columns);
    let (plots, layouts) = panels.into_iter().unzip();
    // A single column is wide enough for its title.
    let (width, height) = if columns == 1 { (820.0, 480.0) } else { (500.0, 380.0) };
    let figure = Figure::new(rows, columns)
        .with_cell_size(width, height)
        .with_plots(plots)
        .with_layouts(layouts)
        .with_title(title);
    let scene = figure.render();
    let svg = notation::typeset(&SvgBackend.render_scene(&scene));
    fs::write(arguments.out.join(format!("{name}.svg")), svg)?;
    if arguments.png {
        let image = PngBackend::new().with_scale(2.0).render_scene(&in_plain_text(scene))?;
        fs::write(arguments.out.join(format!("{name}.png")), image)?;
    }
    println!("written: {name}.csv and {name}.svg in {}", arguments.out.display());
    Ok(())
}

/// A scene whose texts are plain, because the picture of pixels has no styles in a text.
fn in_plain_text(mut scene: Scene) -> Scene {
    for element in &mut scene.elements {
        if let Primitive::Text { content, .. } = element {
            *content = notation::plain(content);
        }
    }
    scene
}

/// Writes a table.
pub fn write_csv<R: Serialize>(folder: &Path, name: &str, rows: &[R]) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(folder)?;
    let mut table = csv::Writer::from_path(folder.join(format!("{name}.csv")))?;
    for row in rows {
        table.serialize(row)?;
    }
    Ok(table.flush()?)
}

/// Ends the example with an error if a statement of the theory about its figure does not hold.
pub fn fact(holds: bool, what: &str) -> Result<(), Box<dyn Error>> {
    if holds { Ok(()) } else { Err(format!("not so: {what}").into()) }
}

/// A panel with linear axes.
pub fn panel(plots: Vec<Plot>, title: &str, x: &str, y: &str, legend: LegendPosition) -> (Vec<Plot>, Layout) {
    let layout = Layout::auto_from_plots(&plots)
        .with_title(title)
        .with_x_label(x)
        .with_y_label(y)
        .with_legend_position(legend);
    (plots, layout)
}

/// `E'`, `o_w` and the error on the task of pre-training, of networks trained at one dimension, with standard errors. The networks are trained in
/// both stages, or, with frozen weights given by hand, in the second stage only.
#[derive(Debug, Clone, Copy)]
pub struct Trained {
    pub dimension: usize,
    pub test: Estimate,
    pub alignment: Estimate,
    pub forgetting: Estimate,
}

/// Trains networks for a scenario.
pub fn train(scenario: &Scenario, full: bool) -> Result<Option<Trained>, lora_asymptotics::Error> {
    let (dimension, instances) = match (scenario.frozen, full) {
        (None, false) => (60, 16),
        (None, true) => (150, 20),
        (Some(_), false) => (200, 16),
        (Some(_), true) => (400, 20),
    };
    let sizes = vec![Size::new(dimension, instances)];
    let laboratory = Laboratory { sizes, random_starts: 0, ..Laboratory::default() };
    // The prediction beside the trained networks is not drawn. It has to converge, and where samples have several
    // minima it does so only roughly.
    let options = scenario.options.with_tolerance(scenario.options.tolerance().unwrap_or(0.0).max(1e-2))?;
    let comparison = compare(&Scenario { options, ..scenario.clone() }, &laboratory)?;
    let of = |name: &str| comparison.row(Stage::Lora, name).map(|row| row.simulation);
    let all = of("test").zip(of("alignment")).zip(of("forgetting"));
    Ok(all.map(|((test, alignment), forgetting)| Trained { dimension, test, alignment, forgetting }))
}

/// A measurement on trained networks, extrapolated to infinite dimension, beside its prediction.
#[derive(Debug, Clone, Serialize)]
pub struct Point {
    /// The panel, the curve and the place in the figure.
    pub panel: String,
    pub curve: String,
    pub x: f64,
    pub observable: &'static str,
    pub trained: f64,
    pub std_error: f64,
    pub theory: f64,
    pub z: f64,
}

/// The points on one curve, with error bars.
pub fn points_of(points: &[Point], [panel, curve]: [&str; 2], observable: &str) -> Vec<(f64, f64, f64)> {
    let here =
        |point: &&Point| point.panel == panel && point.curve == curve && point.observable == observable;
    points.iter().filter(here).map(|point| (point.x, point.trained, point.std_error)).collect()
}

/// Writes the table of the points, and checks them against the theory.
pub fn write_points(folder: &Path, name: &str, points: &[Point]) -> Result<(), Box<dyn Error>> {
    write_csv(folder, name, points)?;
    for point in points {
        let Point { panel, curve, x, observable, z, .. } = point;
        fact(z.abs() < 4.0, &format!("{observable} at {x} on {panel}, {curve} is as predicted: z = {z:.1}"))?;
    }
    Ok(())
}

/// Trains networks for a scenario at three dimensions and extrapolates `E'` and `o_w`. On weights that were trained themselves, the term of
/// order `D^{-1/2}` is that of the theory, and that of order `1/D` is fitted. With frozen weights given by hand, only the second one exists.
pub fn extrapolate(
    scenario: &Scenario,
    [panel, curve]: [&str; 2],
    x: f64,
) -> Result<[Point; 2], Box<dyn Error>> {
    let sizes = match scenario.frozen {
        None => [(40, 72), (60, 48), (90, 32)],
        Some(_) => [(100, 48), (150, 32), (300, 16)],
    };
    let sizes = sizes.map(|(dimension, instances)| Size::new(dimension, instances)).to_vec();
    let laboratory = Laboratory { sizes, random_starts: 0, test_sequences: 1024, ..Laboratory::default() };
    let comparison = compare(scenario, &laboratory)?;
    let of = |observable: &'static str| {
        let row = comparison.row(Stage::Lora, observable).ok_or("no fine-tuning")?;
        let Estimate { mean, std_error, .. } = row.simulation;
        println!("{panel}, {curve}, {x}: {observable} {mean:.4} +- {std_error:.4}, z = {:.2}", row.z);
        Ok::<_, Box<dyn Error>>(Point {
            panel: panel.to_owned(),
            curve: curve.to_owned(),
            x,
            observable,
            trained: mean,
            std_error,
            theory: row.theory.mean,
            z: row.z,
        })
    };
    Ok([of("test")?, of("alignment")?])
}

/// Solves a grid given as JSON, and returns all records.
pub fn solve(grid: &str) -> Result<Vec<Record>, lora_asymptotics::Error> {
    let records = Mutex::new(Vec::new());
    Sweep::from_json(grid)?.run(Shard::WHOLE, 0, |record| {
        if let Ok(mut records) = records.lock() {
            records.push(record.clone());
        }
        ControlFlow::Continue(())
    })?;
    Ok(records.into_inner().unwrap_or_default())
}
