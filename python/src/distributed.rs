//! Grids whose rows are solved by several processes, and collected by one.

use std::io;
use std::path::{Path, PathBuf};

use lora_asymptotics::journal::{Journal, JournalError};
use lora_asymptotics::sweep::{Record, Shard, Sweep};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::columns::Unwritten;
use crate::error::Refusal;
use crate::running::{Progress, Stop, run};
use crate::sweep::{Answer, Axes, Table, grid};

/// A grid, of which any row is solved by itself.
#[pyclass(frozen)]
pub(crate) struct Grid(Sweep);

#[pymethods]
impl Grid {
    #[new]
    fn new(py: Python<'_>, text: String, axes: Axes) -> PyResult<Self> {
        Ok(Self(grid(py, text, axes, Some(1))?))
    }

    /// The records of `count` rows from number `first` on, on one thread, as lines of JSON.
    fn solve(&self, py: Python<'_>, first: usize, count: usize) -> PyResult<String> {
        let (sweep, stop) = (self.0.clone(), Stop::default());
        let rows = rows(&sweep);
        let watch = stop.clone();
        let work = move || -> Result<String, Refusal> {
            let mut lines = Lines::default();
            for row in first..(first + count).min(rows) {
                sweep.run(Shard::new(row + 1, rows)?, 0, |record| {
                    lines.push(record);
                    watch.flow()
                })?;
            }
            lines.complete()
        };
        Ok(run(py, Some(1), &stop, &Progress::new(None), work)?.complete()??)
    }
}

/// Number of rows of a grid.
fn rows(sweep: &Sweep) -> usize {
    sweep.points() / sweep.row_length()
}

/// Records as lines of JSON.
#[derive(Default)]
struct Lines {
    text: Vec<u8>,
    failure: Option<serde_json::Error>,
}

impl Lines {
    fn push(&mut self, record: &Record) {
        if let Err(error) = serde_json::to_writer(&mut self.text, record) {
            self.failure.get_or_insert(error);
        }
        self.text.push(b'\n');
    }

    fn complete(self) -> Result<String, Refusal> {
        match self.failure {
            Some(error) => Err(Refusal::of_text(error)),
            None => Ok(String::from_utf8_lossy(&self.text).into_owned()),
        }
    }
}

/// The records of a grid so far, in a table, and in a journal if there is one. The journal is that of the command
/// `lora-asymptotics sweep`, which can continue it.
#[pyclass]
pub(crate) struct Records {
    journal: Option<Journal>,
    table: Table,
    points: usize,
}

#[pymethods]
impl Records {
    /// Begins with the whole rows that the journal holds, which are read in the background: there may be millions of points.
    #[new]
    fn new(py: Python<'_>, text: String, axes: Axes, journal: Option<PathBuf>) -> PyResult<Self> {
        let sweep = grid(py, text, axes, None)?;
        let Some(path) = journal else {
            return Ok(Self { journal: None, table: Table::default(), points: 0 });
        };
        let stop = Stop::default();
        let watch = stop.clone();
        let work = move || Self::resumed(&sweep, &path, &watch);
        Ok(run(py, None, &stop, &Progress::new(None), work)?.complete()?.map_err(refused)??)
    }

    /// Number of points that are there.
    #[getter]
    fn points(&self) -> usize {
        self.points
    }

    /// Adds the lines of the rows that come next.
    fn add(&mut self, lines: &str) -> PyResult<()> {
        for line in lines.lines() {
            let record: Record = serde_json::from_str(line).map_err(Refusal::of_text)?;
            if record.index != self.points {
                let told = format!("point {} came in the place of point {}", record.index, self.points);
                return Err(PyRuntimeError::new_err(told));
            }
            if let Some(journal) = &mut self.journal {
                journal.append(&record).map_err(refused)?;
            }
            self.keep(&record)?;
        }
        Ok(())
    }

    /// The table, which is then empty.
    fn take<'py>(&mut self, py: Python<'py>) -> PyResult<Answer<'py>> {
        std::mem::take(&mut self.table).answer(py)
    }
}

impl Records {
    /// The whole rows of a journal, which is cut after them.
    fn resumed(sweep: &Sweep, path: &Path, stop: &Stop) -> Result<Result<Self, Unwritten>, JournalError> {
        let (mut journal, mut found) = Journal::open::<Record>(path, &(sweep, Shard::WHOLE.to_string()))?;
        found.truncate(sweep.finished(Shard::WHOLE, &found));
        // Work that was left behind at Ctrl-C may not be alone with the file.
        if !stop.is_requested() {
            journal.truncate(found.len())?;
        }
        let mut records = Self { journal: Some(journal), table: Table::default(), points: 0 };
        let kept = found.into_iter().try_for_each(|record| records.keep(&record));
        Ok(kept.map(|()| records))
    }

    fn keep(&mut self, record: &Record) -> Result<(), Unwritten> {
        self.points += 1;
        self.table.push(record)
    }
}

/// The exception of a journal: that of the operating system, or a refusal of what the file holds.
fn refused(error: JournalError) -> PyErr {
    let message = error.to_string();
    match error {
        JournalError::Io { source, .. } => io::Error::new(source.kind(), message).into(),
        _ => Refusal::of_journal(message).into(),
    }
}
