//! The best ridge, recalibration, or split of a budget.

use std::error::Error;
use std::fmt::Write;
use std::path::PathBuf;

use lora_asymptotics::lines;
use lora_asymptotics::optimize::{Optimum, Parameter, SearchBound, Settings, Target, Variable, minimize};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{Ending, answers, explain, refuse_call};

/// Finds the best ridges, the best recalibration, or the best split of a budget of data.
///
/// Every scenario is answered by an optimum as JSON: the values that were found, the target there with its standard error,
/// and the complete outcome.
#[derive(clap::Args)]
pub struct Arguments {
    /// The scenarios, as JSON; standard input if not given.
    scenarios: Option<PathBuf>,
    /// What is optimised: pretrain_test, lora_test, lora_forgetting, effective_noise (least), or lora_alignment (largest).
    #[arg(long, value_parser = named::<Target>)]
    target: Target,
    /// What is varied, and between which bounds: pretrain_lambda, lora_lambda, beta, rank, or finetuning_share (the share of a budget
    /// `--total` that is spent on fine-tuning). It can be given several times.
    #[arg(long, required = true, value_name = "NAME=LOW..HIGH", value_parser = Range::read)]
    over: Vec<Range>,
    /// The budget, alpha + price alpha', of which finetuning_share is the share.
    #[arg(long, requires = "price")]
    total: Option<f64>,
    /// The price of a unit of alpha', in units of alpha.
    #[arg(long, requires = "total")]
    price: Option<f64>,
    /// Relative accuracy of the values that are found.
    #[arg(long, default_value_t = Settings::default().tolerance)]
    tolerance: f64,
    /// Number of points of the scan before the search over one variable.
    #[arg(long, default_value_t = Settings::default().scan)]
    scan: usize,
    /// Largest number of solves per scenario.
    #[arg(long, default_value_t = Settings::default().max_solves)]
    max_solves: usize,
    /// Also takes points where replica symmetry cannot be trusted.
    #[arg(long)]
    unreliable: bool,
    /// Writes a readable table instead.
    #[arg(long)]
    explain: bool,
}

/// The name of a parameter, and its bounds.
#[derive(Clone)]
struct Range {
    name: String,
    low: f64,
    high: f64,
}

impl Range {
    fn read(text: &str) -> Result<Self, String> {
        let parts = text.split_once('=').and_then(|(name, bounds)| {
            let (low, high) = bounds.split_once("..")?;
            Some(Self { name: name.to_owned(), low: low.parse().ok()?, high: high.parse().ok()? })
        });
        parts.ok_or_else(|| "must be NAME=LOW..HIGH, as pretrain_lambda=0.001..1".to_owned())
    }
}

impl Arguments {
    fn variable(&self, Range { name, low, high }: &Range) -> Result<Variable, String> {
        let parameter = match (name.as_str(), self.total, self.price) {
            ("finetuning_share", Some(total), Some(price)) => Parameter::FinetuningShare { total, price },
            ("finetuning_share", ..) => return Err("finetuning_share needs --total and --price".to_owned()),
            (name, ..) => named(name)?,
        };
        Variable::new(parameter, *low, *high).map_err(|error| error.to_string())
    }

    fn settings(&self) -> Settings {
        let Self { tolerance, scan, max_solves, unreliable, .. } = *self;
        Settings { tolerance, scan, max_solves, reliable_only: !unreliable }
    }
}

/// A value by its name in the schema.
fn named<T: DeserializeOwned>(name: &str) -> Result<T, String> {
    serde_json::from_value(Value::from(name)).map_err(|error| error.to_string())
}

pub fn run(arguments: &Arguments) -> Result<Ending, Box<dyn Error>> {
    let variables: Result<Vec<Variable>, String> =
        arguments.over.iter().map(|range| arguments.variable(range)).collect();
    let variables = variables.unwrap_or_else(|reason| refuse_call(reason));
    let settings = arguments.settings();
    let solve = |text: &[u8], answer: &mut Vec<u8>| {
        lines::answer(text, answer, |scenario| minimize(scenario, arguments.target, &variables, &settings))
    };
    let mut first = true;
    let render = |_, answer: Vec<u8>| {
        let begins = std::mem::replace(&mut first, false);
        if arguments.explain { explain(&answer, begins) } else { Ok(answer) }
    };
    answers::write(arguments.scenarios.as_deref(), solve, render)
}

/// An optimum as a readable table: what was found, and then the outcome.
fn explain(answer: &[u8], first: bool) -> Result<Vec<u8>, Box<dyn Error>> {
    let written: Value = serde_json::from_slice(answer)?;
    if written.get("error").is_some() {
        return explain::answer(answer, first);
    }
    let optimum: Optimum = serde_json::from_value(written)?;
    let mut text = if first { String::new() } else { "\n".to_owned() };
    for found in &optimum.found {
        let name = match found.parameter {
            Parameter::FinetuningShare { .. } => Value::from("finetuning_share"),
            parameter => serde_json::to_value(parameter)?,
        };
        write!(text, "{} = {}", name.as_str().unwrap_or_default(), explain::six_digits(found.value))?;
        match (found.at_bound, found.uncertainty) {
            (Some(SearchBound::Lower), _) => {
                text.push_str(", at its lower bound: the optimum is there or beyond")
            }
            (Some(SearchBound::Upper), _) => {
                text.push_str(", at its upper bound: the optimum is there or beyond")
            }
            (None, Some(uncertainty)) => write!(text, ", known to a factor of {:.3}", 1.0 + uncertainty)?,
            (None, None) => {}
        }
        text.push('\n');
    }
    write!(text, "target = {}", explain::six_digits(optimum.value))?;
    if let Some(error) = optimum.std_error {
        write!(text, " +- {error:.1e}")?;
    }
    let ended = if optimum.converged { "converged" } else { "the search did not reach its tolerance" };
    writeln!(text, ", {} solves, {ended}\n", optimum.solves)?;
    let written = serde_json::to_value(&optimum.outcome)?;
    explain::table(&mut text, &optimum.outcome, &written)?;
    Ok(text.into_bytes())
}
