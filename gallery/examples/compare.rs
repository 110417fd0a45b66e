//! Draws a comparison of trained networks with the theory, as `lora-asymptotics compare` writes it.
//!
//! ```text
//! cargo run --release -p lora-asymptotics-cli -- compare --out target/compare
//! cargo run --release -p gallery --example compare                            # target/compare/comparison.json
//! cargo run --release -p gallery --example compare -- results/comparison.json # another one
//! ```
//!
//! The figure, `comparison.svg`, is written beside the comparison.

use std::error::Error;
use std::fs;
use std::path::PathBuf;

use clap::Parser;
use kuva::backend::svg::SvgBackend;
use kuva::plot::legend::LegendPosition;
use kuva::plot::{LinePlot, ScatterPlot};
use kuva::render::figure::Figure;
use kuva::render::layout::{Layout, TickFormat};
use kuva::render::plots::Plot;
use lora_asymptotics::simulate::{Comparison, Row, Stage};

#[derive(Parser)]
struct Arguments {
    /// The comparison.
    #[arg(default_value = "target/compare/comparison.json")]
    comparison: PathBuf,
}

fn main() -> Result<(), Box<dyn Error>> {
    let Arguments { comparison } = Arguments::parse();
    let picture = picture(&serde_json::from_str(&fs::read_to_string(&comparison)?)?);
    let path = comparison.with_extension("svg");
    fs::write(&path, picture)?;
    println!("written: {}", path.display());
    Ok(())
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
            "Theory (line: limit and D^(-1/2) term), trained networks (blue), fit and limit (orange), with standard errors",
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
    // The fit, if its only other term is that of 1/D.
    if let ([(_, limit, _)], [1.0]) = (&extrapolated[..], &row.extrapolation.powers[..]) {
        let rest = |x: &f64, y: &f64| y - limit - slope * x;
        let sums = measured.iter().fold([0.0; 2], |[xy, xx], (x, y, error)| {
            let square = x.powf(1.0 / power) / error;
            [xy + square * rest(x, y) / error, xx + square * square]
        });
        let fitted = |x: f64| limit + slope * x + sums[0] / sums[1] * x.powf(1.0 / power);
        let curve: Vec<(f64, f64)> =
            (0..=60).map(|k| 1.05 * widest * f64::from(k) / 60.0).map(|x| (x, fitted(x))).collect();
        plots.push(Plot::Line(LinePlot::new().with_data(curve).with_color(ORANGE).with_stroke_width(1.0)));
    }
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
