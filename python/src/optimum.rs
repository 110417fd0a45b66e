//! Prescriptions.

use lora_asymptotics::optimize::{Settings, Target, Variable, minimize};
use pyo3::prelude::*;
use serde::Deserialize;

use crate::error::Refusal;
use crate::scenario::{Request, calculate, written};

/// What is optimised, over what.
#[derive(Deserialize)]
struct Search {
    target: Target,
    variables: Vec<Variable>,
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
    let Search { target, variables, settings } =
        serde_json::from_str(search).map_err(|error| Refusal::of_text(&error))?;
    calculate(py, &request, threads, move |task| {
        written(&minimize(&task.scenario, target, &variables, &settings)?)
    })
}
