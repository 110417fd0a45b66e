//! The figure shows the spectrum of the learned weights `S-hat/sqrt(D)`: the density of the positive
//! eigenvalues for several pre-training ridges, and that of the truth. With `--simulate` it also shows the
//! eigenvalues of trained networks. The parameters are softmax attention, `T = 2`, `alpha = .2`,
//! `Delta = .5`, `kappa0 = .5`, `kappa = 1`.
//!
//! ```text
//! cargo run --release -p gallery --example learned_spectrum -- --simulate
//! ```

mod common;

use std::error::Error;
use std::ops::ControlFlow;

use clap::Parser;
use common::{Arguments, COLOURS, fact, panel, save, write_csv};
use kuva::plot::LinePlot;
use kuva::plot::legend::LegendPosition;
use kuva::render::plots::Plot;
use lora_asymptotics::pretrain::{self, LearnedSpectrum, Training};
use lora_asymptotics::simulate::{Experiment, Laboratory, Size};
use lora_asymptotics::{Estimator, Model, Options, Scenario, Teacher};
use serde::Serialize;

const RIDGES: [f64; 3] = [0.02, 0.1, 0.3];
/// Width of a bin of the histogram of trained eigenvalues.
const BIN: f64 = 0.15;

#[derive(Serialize)]
struct Row {
    lambda: f64,
    eigenvalue: f64,
    density: f64,
}

/// Steps of the histogram of the positive eigenvalues of trained networks.
fn trained(
    model: &Model,
    training: Training,
    full: bool,
) -> Result<Vec<(f64, f64)>, lora_asymptotics::Error> {
    let scenario = Scenario {
        model: model.clone(),
        pretrain: Some(training),
        frozen: None,
        lora: None,
        estimator: Estimator::Erm,
        options: Options::default().with_log2_nodes(10)?.with_tolerance(1e-6)?,
    };
    let (dimension, instances) = if full { (150, 20) } else { (60, 16) };
    let laboratory = Laboratory {
        sizes: vec![Size::new(dimension, instances)],
        test_sequences: 1,
        ..Laboratory::default()
    };
    let experiment = Experiment::new(&scenario, &laboratory)?;
    let measured = experiment.run_all(Vec::new(), |_| ControlFlow::Continue(()))?;
    let eigenvalues: Vec<f64> =
        measured.into_iter().filter_map(|one| one.pretrain).flat_map(|stage| stage.eigenvalues).collect();
    let top = eigenvalues.iter().fold(0.0_f64, |top, s| top.max(*s));
    let bins = (top / BIN).ceil() as usize;
    let mut steps = Vec::new();
    for bin in 0..bins {
        let (from, to) = (BIN * bin as f64, BIN * (bin + 1) as f64);
        // Eigenvalues that are not learned are positive only by rounding.
        let inside = eigenvalues.iter().filter(|s| **s > from.max(1e-4) && **s <= to).count();
        let density = inside as f64 / eigenvalues.len() as f64 / BIN;
        steps.extend([(from, density), (to, density)]);
    }
    Ok(steps)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let model = Model::softmax(2, 0.5)?.with_teacher(Teacher::Wishart { kappa0: 0.5 })?;
    let options = Options::default().with_log2_nodes(if arguments.full { 14 } else { 12 })?;
    let mut rows = Vec::new();
    let mut plots = Vec::new();
    for (lambda, colour) in RIDGES.into_iter().zip(COLOURS) {
        let training = Training::new(0.2, lambda)?;
        let solution =
            pretrain::solve(&model, &training, &options.with_tolerance(1e-7)?)?.into_converged()?;
        let spectrum = LearnedSpectrum::new(&model, &training, &solution)?;
        let table = spectrum.table(400)?;
        let points: Vec<(f64, f64)> =
            table.eigenvalues.iter().copied().zip(table.density.iter().copied()).collect();
        let mass: f64 =
            points.windows(2).map(|pair| 0.5 * (pair[0].1 + pair[1].1) * (pair[1].0 - pair[0].0)).sum();
        fact((mass + spectrum.atom() - 1.0).abs() < 1e-2, "density and atom add up to one")?;
        rows.extend(points.iter().map(|(eigenvalue, density)| Row {
            lambda,
            eigenvalue: *eigenvalue,
            density: *density,
        }));
        let legend = format!("lambda = {lambda}, atom {:.2}", spectrum.atom());
        let line = LinePlot::new().with_data(points).with_color(colour).with_stroke_width(2.0);
        plots.push(Plot::Line(line.with_legend(legend)));
        if arguments.simulate {
            let steps = trained(&model, training, arguments.full)?;
            let histogram = LinePlot::new().with_data(steps).with_color(colour).with_stroke_width(1.0);
            plots.push(Plot::Line(histogram.with_dashed()));
        }
    }
    write_csv(&arguments.out, "learned_spectrum", &rows)?;
    let panel = panel(
        plots,
        "softmax, T = 2, alpha = 0.2",
        "learned eigenvalue of S/sqrt(D)",
        "density without the atom at 0",
        LegendPosition::InsideTopRight,
    );
    save(
        &arguments,
        "learned_spectrum",
        "Spectrum of the learned weights (dashed: trained networks)",
        1,
        vec![panel],
    )
}
