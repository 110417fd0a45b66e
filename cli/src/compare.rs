//! Trained networks beside the prediction.

mod tables;

use std::error::Error;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use lora_asymptotics::Scenario;
use lora_asymptotics::journal::Journal;
use lora_asymptotics::simulate::{Comparison, Experiment, Laboratory, Size, Stage, odd_differences};
use serde::{Deserialize, Serialize};

use crate::Ending;
use crate::input::named;
use crate::interrupt::Interrupt;
use crate::recorder::Recorder;

/// Trains the network itself at finite size, and puts its measurements beside the prediction.
///
/// An experiment is {"name": .., "scenario": .., "laboratory": ..}, with sizes, instances and a seed in the laboratory; `--print` shows
/// one. Every instance is written to records.jsonl in the folder `--out` as soon as it is finished. Ctrl-C finishes the instances that are
/// running, compares the instances so far, and ends; the same command then goes on. comparison.csv and comparison.json have the
/// observables at every size and extrapolated. Each of several experiments gets its own folder, numbered from 1, and
/// comparisons.csv has the extrapolated observables of all.
///
/// With "odd": true in an experiment, networks are trained on weights of both signs, and the odd part of what is measured is compared with
/// the coefficients of D^(-1/2).
#[derive(clap::Args)]
pub struct Arguments {
    /// The experiment, as JSON, or several, one after the other; a small one, of some seconds, if not given.
    experiments: Option<PathBuf>,
    /// Folder for the results.
    #[arg(long, default_value = "compare")]
    out: PathBuf,
    /// Prints the experiment, and ends.
    #[arg(long)]
    print: bool,
}

/// A scenario and the laboratory in which it is tried.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    scenario: Scenario,
    #[serde(default)]
    laboratory: Laboratory,
    /// Whether networks are trained on weights of both signs, and the odd part of what is measured is compared.
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

pub fn run(arguments: &Arguments) -> Result<Ending, Box<dyn Error>> {
    let descriptions = match &arguments.experiments {
        Some(path) => read(path)?,
        None => vec![small()?],
    };
    let mut output = io::stdout().lock();
    if arguments.print {
        for description in &descriptions {
            writeln!(output, "{}", serde_json::to_string_pretty(description)?)?;
        }
        return Ok(Ending::Complete);
    }
    let interrupt = Interrupt::listen(|| {})?;
    let several = descriptions.len() > 1;
    let mut compared = Vec::new();
    for (index, description) in descriptions.iter().enumerate() {
        let number = (index + 1).to_string();
        let folder = if several { arguments.out.join(&number) } else { arguments.out.clone() };
        let name = description.name.clone().unwrap_or(number);
        if several {
            writeln!(output, "{name}")?;
        }
        if description.odd {
            compare_odd(description, &folder, &mut output)?;
        } else {
            compared.push((name, compare(description, &folder, &interrupt, &mut output)?));
        }
        if interrupt.is_set() {
            break;
        }
    }
    if compared.len() > 1 {
        summarise(&compared, &mut output)?;
        let path = arguments.out.join("comparisons.csv");
        tables::all(&path, &compared)?;
        writeln!(output, "written: {}", path.display())?;
    }
    Ok(if interrupt.is_set() { Ending::Interrupted } else { Ending::Complete })
}

/// Reads one experiment, or several of them.
fn read(path: &Path) -> Result<Vec<Description>, Box<dyn Error>> {
    let text = fs::read_to_string(path).map_err(|error| named(path, &error))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    Ok(serde_json::Deserializer::from_str(text).into_iter().collect::<Result<_, _>>()?)
}

fn small() -> Result<Description, lora_asymptotics::Error> {
    let sizes = vec![Size::new(30, 192), Size::new(60, 96), Size::new(90, 64)];
    let laboratory = Laboratory { sizes, test_sequences: 1024, ..Laboratory::default() };
    Ok(Description { name: None, scenario: Scenario::from_json(SMALL)?, laboratory, odd: false })
}

/// Compares the odd parts of trainings on weights of both signs with the coefficients of `D^{-1/2}`.
fn compare_odd(
    description: &Description,
    folder: &Path,
    output: &mut impl Write,
) -> Result<(), Box<dyn Error>> {
    let differences = odd_differences(&description.scenario, &description.laboratory)?;
    write!(output, "{differences}")?;
    writeln!(output, "rms z = {:.2}", differences.rms_z())?;
    fs::create_dir_all(folder)?;
    fs::write(folder.join("odd.json"), serde_json::to_string(&differences)? + "\n")?;
    writeln!(output, "written: odd.json in {}", folder.display())?;
    Ok(())
}

fn compare(
    description: &Description,
    folder: &Path,
    interrupt: &Interrupt,
    output: &mut impl Write,
) -> Result<Comparison, Box<dyn Error>> {
    let experiment = Experiment::new(&description.scenario, &description.laboratory)?;
    let (journal, known) = Journal::open(&folder.join("records.jsonl"), description)?;
    let total = experiment.instances().len();
    let mut recorder = Recorder::new(journal, [known.len(), total], "instances", interrupt)?;
    let measurements = experiment.run_all(known, |measurement| recorder.record(measurement))?;
    recorder.finish()?;

    let comparison = experiment.compare(&measurements);
    write!(output, "{comparison}")?;
    writeln!(output, "rms z = {:.2}, worst |z| = {:.2}", comparison.rms_z(), comparison.worst_z())?;
    if measurements.len() < total {
        let done = measurements.len();
        writeln!(output, "{done} of {total} instances; the same command goes on from there")?;
    }
    let dimensions: Vec<usize> = description.laboratory.sizes.iter().map(|size| size.dimension).collect();
    if dimensions.len() > 1 {
        writeln!(
            output,
            "simulation: extrapolated from {dimensions:?} by a fit of the powers of 1/D in the last column; that in brackets is known"
        )?;
    }
    tables::one(&folder.join("comparison.csv"), &comparison)?;
    fs::write(folder.join("comparison.json"), serde_json::to_string(&comparison)? + "\n")?;
    let folder = folder.display();
    writeln!(output, "written: records.jsonl, comparison.csv and comparison.json in {folder}")?;
    Ok(comparison)
}

/// Prints a line for each experiment, and a line for each stage over all experiments.
fn summarise(compared: &[(String, Comparison)], output: &mut impl Write) -> io::Result<()> {
    writeln!(output, "\n{:62} {:>4} {:>7} {:>7}", "experiment", "rows", "rms z", "worst z")?;
    for (name, comparison) in compared {
        let rows = comparison.rows.len();
        writeln!(output, "{name:62} {rows:4} {:7.2} {:7.2}", comparison.rms_z(), comparison.worst_z())?;
    }
    for (stage, name) in [(Stage::Lora, "all of fine-tuning"), (Stage::Pretrain, "all of pre-training")] {
        let all = compared.iter().flat_map(|(_, comparison)| &comparison.rows);
        let scores: Vec<f64> = all.filter(|row| row.stage == stage).map(|row| row.z).collect();
        if !scores.is_empty() {
            let rms = (scores.iter().map(|z| z * z).sum::<f64>() / scores.len() as f64).sqrt();
            let worst = scores.iter().fold(0.0, |worst: f64, z| worst.max(z.abs()));
            writeln!(output, "{name:62} {:4} {rms:7.2} {worst:7.2}", scores.len())?;
        }
    }
    Ok(())
}
