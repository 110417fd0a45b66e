//! Critical values.

use lora_asymptotics::{Error, lora, pretrain};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::error::Refusal;
use crate::scenario::{Request, Task, calculate, written};

/// Returns the JSON of a threshold of a scenario; `null` where there is none.
#[pyfunction]
pub(crate) fn threshold(
    py: Python<'_>,
    request: Request<'_>,
    which: &str,
    threads: Option<usize>,
) -> PyResult<String> {
    let find = match which {
        "pretrain_collapse" => pretrain_collapse,
        "interpolation" => interpolation,
        "perfect_recovery" => perfect_recovery,
        "lora_collapse" => lora_collapse,
        "weak_recovery" => weak_recovery,
        _ => return Err(PyValueError::new_err(format!("there is no threshold {which}"))),
    };
    calculate(py, &request, threads, find)
}

fn pretraining(task: &Task) -> Result<pretrain::Training, Error> {
    let reason = "this is a threshold of the pre-training";
    task.scenario.pretrain.ok_or(Error::MissingField { field: "pretrain", reason })
}

fn finetuning(task: &Task) -> Result<lora::Training, Error> {
    let reason = "this is a threshold of the fine-tuning";
    task.scenario.lora.ok_or(Error::MissingField { field: "lora", reason })
}

fn pretrain_collapse(task: &Task) -> Result<String, Refusal> {
    let scenario = &task.scenario;
    written(&pretrain::lambda_collapse(&scenario.model, &pretraining(task)?, &scenario.options)?)
}

fn interpolation(task: &Task) -> Result<String, Refusal> {
    written(&pretrain::alpha_interp(&task.scenario.model)?)
}

fn perfect_recovery(task: &Task) -> Result<String, Refusal> {
    written(&pretrain::alpha_perfect_recovery(&task.scenario.model)?)
}

fn lora_collapse(task: &Task) -> Result<String, Refusal> {
    let (training, frozen, scenario) = (finetuning(task)?, task.frozen()?, &task.scenario);
    written(&lora::lambda_collapse(&scenario.model, &frozen, &training, &scenario.options)?)
}

fn weak_recovery(task: &Task) -> Result<String, Refusal> {
    let (training, frozen, scenario) = (finetuning(task)?, task.frozen()?, &task.scenario);
    written(&lora::alpha_weak_recovery(&scenario.model, &frozen, &training, &scenario.options)?)
}
