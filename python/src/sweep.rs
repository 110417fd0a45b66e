//! Grids of scenarios.

use std::sync::atomic::Ordering;

use lora_asymptotics::Error;
use lora_asymptotics::sweep::{Axis, Shard, Sweep};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::bytes;
use crate::columns::Columns;
use crate::error::{Refusal, raised};
use crate::running::{Ended, Progress, Shared, Stop, run};
use crate::scenario::{Task, is_interrupt};

/// What a grid has given so far.
#[derive(Default)]
struct Table {
    columns: Columns,
    /// The text of the error of every point.
    errors: Vec<Option<String>>,
}

/// A grid as Python gets it: the number of points, their columns, the texts of their errors, and whether it was interrupted.
type Answer<'py> = (usize, Bound<'py, PyDict>, Vec<Option<String>>, bool);

/// Solves a grid, given as a scenario and the path and the values of every axis.
#[pyfunction]
pub(crate) fn sweep<'py>(
    py: Python<'py>,
    text: String,
    axes: Vec<(String, Vec<u8>)>,
    threads: Option<usize>,
    progress: Option<Py<PyAny>>,
) -> PyResult<Answer<'py>> {
    let stop = Stop::default();
    let task = Task::parse(&(text, None), &stop)??;
    let axes = axes.into_iter().map(|(field, values)| Axis::list(field, bytes::numbers(&values).collect()));
    let axes: Vec<Axis> = axes.collect::<Result<_, _>>().map_err(raised)?;
    let grid = Sweep::new(task.scenario.clone(), axes.clone())
        .map_err(|error| unknown_field(&task, &axes, error))?;
    let progress = Progress::new(progress);
    let table: Shared<Table> = Shared::default();
    let (done, filled) = (progress.done.clone(), table.clone());
    let work = move || {
        let mut unwritten = Ok(());
        let solved = grid.run(Shard::WHOLE, 0, |record| {
            filled.with(|table| {
                if let Err(error) = table.columns.push(record.outcome.as_ref()) {
                    unwritten = Err(error);
                }
                table.errors.push(record.error.as_ref().map(|error| error.message.clone()));
            });
            done.fetch_add(1, Ordering::Relaxed);
            task.stop.flow()
        });
        solved.map(|_| unwritten)
    };
    let interrupted = match run(py, threads, &stop, &progress, work)? {
        Ended::Done(solved) => {
            let unwritten = solved.map_err(raised)?;
            unwritten.map_err(|error| pyo3::exceptions::PyRuntimeError::new_err(error.to_string()))?;
            false
        }
        Ended::Interrupted(_, error) => is_interrupt(py, error)?,
    };
    let Table { columns, errors } = table.take();
    Ok((columns.rows(), columns.dictionary(py)?, errors, interrupted))
}

/// The exception of a grid. An error of the JSON does not tell the axis from which it comes, which is found by trying each.
fn unknown_field(task: &Task, axes: &[Axis], error: Error) -> PyErr {
    let refused = |axis: &&Axis| Sweep::new(task.scenario.clone(), vec![(*axis).clone()]).is_err();
    let refusal = Refusal::from(error);
    match axes.iter().find(refused).filter(|_| refusal.is_syntax()) {
        Some(axis) => refusal.at(Some(axis.field().to_owned())).into(),
        None => refusal.into(),
    }
}
