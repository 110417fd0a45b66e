//! Trained networks beside the theory.

use std::sync::atomic::Ordering;

use lora_asymptotics::simulate::{Experiment, Laboratory};
use pyo3::prelude::*;

use crate::error::Refusal;
use crate::running::{Progress, Stop, run};
use crate::scenario::{Request, Task, written};

/// Solves a scenario, trains networks, and compares. Returns the JSON of the comparison and of the outcome.
#[pyfunction]
pub(crate) fn compare(
    py: Python<'_>,
    request: Request<'_>,
    laboratory: &str,
    threads: Option<usize>,
    progress: Option<Py<PyAny>>,
) -> PyResult<(String, String)> {
    let stop = Stop::default();
    let task = Task::read(&request, &stop)??;
    let laboratory: Laboratory = serde_json::from_str(laboratory).map_err(Refusal::of_text)?;
    let progress = Progress::new(progress);
    let done = progress.done.clone();
    let work = move || {
        let compare = || -> Result<(String, String), Refusal> {
            let experiment = Experiment::new(&task.scenario, &laboratory)?;
            let measured = experiment.run_all(Vec::new(), |_| {
                done.fetch_add(1, Ordering::Relaxed);
                task.stop.flow()
            })?;
            Ok((written(&experiment.compare(&measured))?, written(experiment.outcome())?))
        };
        (compare(), task)
    };
    let (compared, task) = run(py, threads, &stop, &progress, work)?.complete()?;
    task.check()?;
    Ok(compared?)
}
