//! Prescriptions.

use lora_asymptotics::optimize::{Parameter, Settings, Target, Variable, minimize};
use pyo3::prelude::*;
use serde::Deserialize;

use crate::error::{Refusal, raised};
use crate::scenario::{Request, calculate, written};

/// What is optimised, and over which parameters with which bounds.
#[derive(Deserialize)]
struct Search {
    target: Target,
    variables: Vec<(Parameter, f64, f64)>,
    settings: Settings,
}

/// Searches for the best values of parameters. Returns the JSON of the optimum.
#[pyfunction]
pub(crate) fn optimize(
    py: Python<'_>,
    request: Request<'_>,
    search: &str,
    threads: Option<usize>,
) -> PyResult<String> {
    let Search { target, variables, settings } = serde_json::from_str(search).map_err(Refusal::of_text)?;
    let variables = variables.into_iter().map(|(parameter, low, high)| Variable::new(parameter, low, high));
    let variables: Vec<Variable> = variables.collect::<Result<_, _>>().map_err(raised)?;
    calculate(py, &request, threads, move |task| {
        written(&minimize(&task.scenario, target, &variables, &settings)?)
    })
}
