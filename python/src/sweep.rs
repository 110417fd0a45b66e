//! Grids of scenarios, solved on the threads of this process.

use std::sync::atomic::Ordering;

use lora_asymptotics::Error;
use lora_asymptotics::sweep::{Axis, Record, Shard, Sweep};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::bytes;
use crate::columns::{Columns, Unwritten};
use crate::error::{Refusal, raised};
use crate::running::{Ended, Progress, Shared, Stop, run};
use crate::scenario::{Task, is_interrupt};

/// The path and the values of every axis of a grid, as Python gives them.
pub(crate) type Axes = Vec<(String, Vec<u8>)>;

/// What a grid has given so far.
#[derive(Default)]
pub(crate) struct Table {
    columns: Columns,
    /// The text of the error of every point.
    errors: Vec<Option<String>>,
}

/// A table as Python gets it: the number of points, their columns, and the texts of their errors.
pub(crate) type Answer<'py> = (usize, Bound<'py, PyDict>, Vec<Option<String>>);

impl Table {
    /// Adds the next point.
    pub(crate) fn push(&mut self, record: &Record) -> Result<(), Unwritten> {
        self.errors.push(record.error.as_ref().map(|error| error.message.clone()));
        self.columns.push(record.outcome.as_ref())
    }

    /// The table as Python gets it.
    pub(crate) fn answer<'py>(self, py: Python<'py>) -> PyResult<Answer<'py>> {
        Ok((self.columns.rows(), self.columns.dictionary(py)?, self.errors))
    }
}

impl From<Unwritten> for PyErr {
    fn from(error: Unwritten) -> Self {
        PyRuntimeError::new_err(error.to_string())
    }
}

/// The grid of a scenario and its axes, which is checked in the background: there may be millions of values.
pub(crate) fn grid(py: Python<'_>, text: String, axes: Axes, threads: Option<usize>) -> PyResult<Sweep> {
    let stop = Stop::default();
    let task = Task::parse(&(text, None), &stop)??;
    let axes = axes.into_iter().map(|(field, values)| Axis::list(field, bytes::numbers(&values).collect()));
    let axes: Vec<Axis> = axes.collect::<Result<_, _>>().map_err(raised)?;
    let check = move || {
        let grid = Sweep::new(task.scenario.clone(), axes.clone());
        grid.map_err(|error| unknown_field(&task, &axes, error))
    };
    Ok(run(py, threads, &stop, &Progress::new(None), check)?.complete()??)
}

/// Solves a grid. Returns its table, and whether it was interrupted.
#[pyfunction]
pub(crate) fn sweep<'py>(
    py: Python<'py>,
    text: String,
    axes: Axes,
    threads: Option<usize>,
    progress: Option<Py<PyAny>>,
) -> PyResult<(Answer<'py>, bool)> {
    let stop = Stop::default();
    let grid = grid(py, text, axes, threads)?;
    let progress = Progress::new(progress);
    let table: Shared<Table> = Shared::default();
    let (done, filled, watch) = (progress.done.clone(), table.clone(), stop.clone());
    let work = move || {
        let mut written = Ok(());
        let solved = grid.run(Shard::WHOLE, 0, |record| {
            if let Err(error) = filled.with(|table| table.push(record)) {
                written = Err(error);
            }
            done.fetch_add(1, Ordering::Relaxed);
            watch.flow()
        });
        solved.map(|_| written)
    };
    let interrupted = match run(py, threads, &stop, &progress, work)? {
        Ended::Done(solved) => {
            solved.map_err(raised)??;
            false
        }
        Ended::Interrupted(_, error) => is_interrupt(py, error)?,
    };
    Ok((table.take().answer(py)?, interrupted))
}

/// The exception of a grid. An error of the JSON does not tell the axis from which it comes, which is found by trying each.
fn unknown_field(task: &Task, axes: &[Axis], error: Error) -> Refusal {
    let refused = |axis: &&Axis| Sweep::new(task.scenario.clone(), vec![(*axis).clone()]).is_err();
    let refusal = Refusal::from(error);
    match axes.iter().find(refused).filter(|_| refusal.is_syntax()) {
        Some(axis) => refusal.at(Some(axis.field().to_owned())),
        None => refusal,
    }
}
