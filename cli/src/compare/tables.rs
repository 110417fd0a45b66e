//! Comparisons as CSV files.

use std::error::Error;
use std::path::Path;

use lora_asymptotics::simulate::{Comparison, Row, Stage};
use serde::Serialize;

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

/// Writes every observable of one experiment, extrapolated and at every size.
pub fn one(path: &Path, comparison: &Comparison) -> Result<(), Box<dyn Error>> {
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

/// Writes the extrapolated observables of several experiments, with six significant digits.
pub fn all(path: &Path, compared: &[(String, Comparison)]) -> Result<(), Box<dyn Error>> {
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
