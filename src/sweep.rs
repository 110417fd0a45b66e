//! Grids of scenarios. They are solved in rows along the innermost axis, where each point begins with the
//! solution of the one before, and are streamed in order.
//!
//! Rows do not depend on each other, nor on other processes. A grid can therefore be cut into shards, for any
//! number of processes or machines. The lines of all shards, one shard after the other, are those of one run,
//! to the last byte.
//!
//! ```
//! use std::ops::ControlFlow;
//! use lora_asymptotics::sweep::{Shard, Sweep};
//!
//! let sweep = Sweep::from_json(r#"{
//!     "scenario": {"model": {"tokens": 2, "activation": "linear", "delta": 0.5, "teacher": {"wishart": {"kappa0": 0.5}}},
//!                  "pretrain": {"alpha": 0.2, "lambda": 0.1}},
//!     "axes": [{"field": "model.delta", "values": [0.1, 0.5]},
//!              {"field": "pretrain.lambda", "from": 0.01, "to": 1.0, "count": 5, "scale": "log"}]
//! }"#)?;
//! let mut errors = Vec::new();
//! sweep.run(Shard::WHOLE, 0, |record| {
//!     errors.extend(record.outcome.as_ref().and_then(|outcome| outcome.pretrain.as_ref()).map(|stage| stage.errors.test));
//!     ControlFlow::Continue(())
//! })?;
//! assert_eq!(errors.len(), 10);
//! # Ok::<(), lora_asymptotics::Error>(())
//! ```

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::check;
use crate::error::Error;
use crate::json;
use crate::parallel;
use crate::scenario::{Outcome, Scenario, ScenarioFields};
use crate::status::Status;

/// Largest number of points of a grid.
const MAX_POINTS: usize = 100_000_000;

/// The spacing of the values of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Scale {
    /// The differences are equal.
    #[default]
    Linear,
    /// The ratios are equal.
    Log,
}

/// The values of one field of the scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "AxisWire", into = "AxisWire")]
pub struct Axis {
    field: String,
    values: Vec<f64>,
}

/// An axis in the form in which it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AxisWire {
    field: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    values: Option<Vec<f64>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    to: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    count: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scale: Option<Scale>,
}

impl AxisWire {
    /// The number of values, whether they are given one by one or as a range.
    fn count(&self) -> usize {
        self.values.as_ref().map(Vec::len).or(self.count).unwrap_or(0)
    }
}

/// Refuses a grid without axes, or with too many points, given the number of values of every axis.
fn check_points(counts: impl ExactSizeIterator<Item = usize>) -> Result<(), Error> {
    let axes = counts.len();
    let points = counts.into_iter().try_fold(1_usize, |product, count| product.checked_mul(count.max(1)));
    if axes == 0 {
        return Err(Error::invalid("axes", axes, "at least one"));
    }
    if points.is_none_or(|points| points > MAX_POINTS) {
        let given =
            points.map_or_else(|| "more points than can be counted".to_owned(), |n| format!("{n} points"));
        return Err(Error::invalid("axes", given, format!("at most {MAX_POINTS} points")));
    }
    Ok(())
}

impl TryFrom<AxisWire> for Axis {
    type Error = Error;

    fn try_from(wire: AxisWire) -> Result<Self, Error> {
        match wire {
            AxisWire { field, values: Some(values), from: None, to: None, count: None, scale: None } => {
                Self::list(field, values)
            }
            AxisWire { field, values: None, from: Some(from), to: Some(to), count: Some(count), scale } => {
                Self::range(field, from, to, count, scale.unwrap_or_default())
            }
            AxisWire { values: Some(_), .. } => {
                Err(Error::Conflict { field: "axes.from", with: "axes.values" })
            }
            AxisWire { .. } => Err(Error::MissingField {
                field: "axes.values",
                reason: "give values, or from, to and count",
            }),
        }
    }
}

impl From<Axis> for AxisWire {
    fn from(Axis { field, values }: Axis) -> Self {
        Self { field, values: Some(values), from: None, to: None, count: None, scale: None }
    }
}

impl Axis {
    /// An axis with the given values, in the given order. The field is a path of the JSON schema:
    /// `"lora.lambda"`, `"model.teacher.wishart.kappa0"`.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] for an empty list, or a value that is not finite.
    pub fn list(field: impl Into<String>, values: Vec<f64>) -> Result<Self, Error> {
        if values.is_empty() || !values.iter().all(|x| x.is_finite()) {
            return Err(Error::invalid("axes.values", format!("{values:?}"), "finite numbers, at least one"));
        }
        Ok(Self { field: field.into(), values })
    }

    /// An axis with `count` values from one end to the other, both included; `to` may be below `from`.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] for ends that are not finite, whose difference is not finite, or that are
    /// not positive on a logarithmic scale, and for a count of 0 or above 10,000,000.
    pub fn range(
        field: impl Into<String>,
        from: f64,
        to: f64,
        count: usize,
        scale: Scale,
    ) -> Result<Self, Error> {
        check::integer("axes.count", count, 1, 10_000_000)?;
        let positive = from > 0.0 && to > 0.0;
        // If the difference overflowed, the values between the ends would be infinite.
        let bounded = (to - from).is_finite();
        if !(bounded && (positive || scale == Scale::Linear)) {
            let allowed = "finite, with a finite difference, and > 0 on a logarithmic scale";
            return Err(Error::invalid("axes.from", format!("{from} to {to}"), allowed));
        }
        let last = (count - 1).max(1) as f64;
        let at = |k: usize| {
            let share = k as f64 / last;
            match (k, scale) {
                (0, _) => from,
                // The ends are returned as they were given, without rounding.
                (k, _) if k + 1 == count => to,
                (_, Scale::Linear) => from + share * (to - from),
                (_, Scale::Log) => (from.ln() + share * (to.ln() - from.ln())).exp(),
            }
        };
        Ok(Self { field: field.into(), values: (0..count).map(at).collect() })
    }

    /// The path of the field.
    #[must_use]
    pub fn field(&self) -> &str {
        &self.field
    }

    /// The values.
    #[must_use]
    pub fn values(&self) -> &[f64] {
        &self.values
    }
}

/// A grid: the scenario, and the fields that vary. The last axis is the innermost one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "SweepWire")]
pub struct Sweep {
    scenario: Scenario,
    axes: Vec<Axis>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SweepWire {
    #[serde(deserialize_with = "json::object")]
    scenario: ScenarioFields,
    axes: Vec<AxisWire>,
}

impl TryFrom<SweepWire> for Sweep {
    type Error = Error;

    fn try_from(SweepWire { scenario, axes }: SweepWire) -> Result<Self, Error> {
        // The number of points is checked before the values of any range are made, because a short text may
        // describe more values than there is memory for.
        check_points(axes.iter().map(AxisWire::count))?;
        Self::new(scenario.try_into()?, axes.into_iter().map(Axis::try_from).collect::<Result<_, _>>()?)
    }
}

/// The error at a point of the grid.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Failure {
    /// The name of the variant, [`Error::kind`].
    pub kind: String,
    /// The text of the error.
    pub message: String,
}

/// One point of the grid.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Record {
    /// The number of the point. The innermost axis varies fastest.
    pub index: usize,
    /// The values of the fields, in the order of the axes.
    pub values: Vec<f64>,
    /// The outcome, if the point was solved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// The error, if the point was not solved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
}

/// A part of a grid, in whole rows. Parts are contiguous, so that their outputs can be joined. They are
/// counted from 1: the four parts of a grid in four are `"1/4"`, `"2/4"`, `"3/4"` and `"4/4"`.
///
/// ```
/// use lora_asymptotics::sweep::Shard;
///
/// assert_eq!(Shard::new(1, 4)?, "1/4".parse()?);
/// assert_eq!(Shard::new(1, 4)?.to_string(), "1/4");
/// assert!(Shard::new(0, 4).is_err());
/// # Ok::<(), lora_asymptotics::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    part: usize,
    of: usize,
}

impl Shard {
    /// The whole grid.
    pub const WHOLE: Self = Self { part: 1, of: 1 };

    /// Part number `part`, counted from 1, of `of` parts: `Shard::new(1, 4)` is the first of four, `"1/4"`.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] unless `1 <= part <= of`.
    pub fn new(part: usize, of: usize) -> Result<Self, Error> {
        if part >= 1 && part <= of {
            Ok(Self { part, of })
        } else {
            Err(Error::invalid("shard", format!("{part}/{of}"), "i/n with 1 <= i <= n"))
        }
    }

    /// The range of this part among `count` items.
    fn share(self, count: usize) -> Range<usize> {
        let end = |part: usize| (count as u128 * part as u128 / self.of as u128) as usize;
        end(self.part - 1)..end(self.part)
    }
}

impl std::fmt::Display for Shard {
    /// Writes the shard as `"i/n"`.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}/{}", self.part, self.of)
    }
}

impl std::str::FromStr for Shard {
    type Err = Error;

    /// Reads a shard from `"i/n"`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = || Error::invalid("shard", text, "i/n with 1 <= i <= n");
        let (part, of) = text.split_once('/').ok_or_else(invalid)?;
        match (part.trim().parse(), of.trim().parse()) {
            (Ok(part), Ok(of)) => Self::new(part, of),
            _ => Err(invalid()),
        }
    }
}

impl Sweep {
    /// Checks that there are axes, that their fields are numbers of the scenario, and that every value is
    /// valid in the scenario, with the other axes at their first values.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] for no axis, too many points, or a value out of range; [`Error::Syntax`]
    /// for a field that does not exist; the errors of [`Scenario::validate`].
    pub fn new(scenario: Scenario, axes: Vec<Axis>) -> Result<Self, Error> {
        let sweep = Self { scenario, axes };
        check_points(sweep.axes.iter().map(|axis| axis.values.len()))?;
        // The first point of the grid is checked, and from there every value of every axis.
        let first: Vec<f64> = sweep.axes.iter().map(|axis| axis.values[0]).collect();
        for (which, axis) in sweep.axes.iter().enumerate() {
            for value in &axis.values {
                let mut values = first.clone();
                values[which] = *value;
                sweep.at(&values)?.validate()?;
            }
        }
        Ok(sweep)
    }

    /// Reads a grid from JSON, with or without a byte order mark.
    ///
    /// # Errors
    /// [`Error::Syntax`] for broken JSON, an unknown field, or anything that [`Sweep::new`] refuses.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        json::from_json(text)
    }

    /// The axes.
    #[must_use]
    pub fn axes(&self) -> &[Axis] {
        &self.axes
    }

    /// Number of points.
    #[must_use]
    pub fn points(&self) -> usize {
        self.axes.iter().map(|axis| axis.values.len()).product()
    }

    /// Number of points in a row, which is the number of values of the innermost axis.
    #[must_use]
    pub fn row_length(&self) -> usize {
        self.axes.last().map_or(1, |axis| axis.values.len())
    }

    /// The numbers of the points of a shard.
    #[must_use]
    pub fn indices(&self, shard: Shard) -> Range<usize> {
        let length = self.row_length();
        let Range { start, end } = shard.share(self.points() / length);
        start * length..end * length
    }

    /// The number of points of a shard that an interrupted run has left in `records`, in whole rows.
    /// [`Sweep::run`] takes it as `done`. Records after the first one that is out of order do not count.
    #[must_use]
    pub fn finished(&self, shard: Shard, records: &[Record]) -> usize {
        let in_order =
            records.iter().zip(self.indices(shard)).take_while(|(record, index)| record.index == *index);
        let length = self.row_length();
        in_order.count() / length * length
    }

    /// The values of the axes at a point.
    #[must_use]
    pub fn values(&self, index: usize) -> Vec<f64> {
        let mut rest = index;
        let mut values: Vec<f64> = self
            .axes
            .iter()
            .rev()
            .map(|axis| {
                let value = axis.values[rest % axis.values.len()];
                rest /= axis.values.len();
                value
            })
            .collect();
        values.reverse();
        values
    }

    /// The scenario with the given values of the axes. An axis without a value keeps the value of the
    /// scenario.
    ///
    /// # Errors
    /// [`Error::Syntax`] for a field that does not exist; [`Error::InvalidParameter`] for a value that is not
    /// finite.
    pub fn at(&self, values: &[f64]) -> Result<Scenario, Error> {
        // JSON has no such numbers, and would read them as a field that was left out.
        if let Some(value) = values.iter().find(|value| !value.is_finite()) {
            return Err(Error::invalid("axes.values", *value, "finite"));
        }
        let mut scenario = serde_json::to_value(&self.scenario)?;
        for (axis, value) in self.axes.iter().zip(values) {
            set(&mut scenario, &axis.field, *value)?;
        }
        Scenario::from_value(scenario)
    }

    /// Solves the points of a shard after the first `done` ones (rounded down to whole rows). Each point is
    /// given to `emit`, one at a time and in order, as soon as it and all points before it are solved. `emit`
    /// may end the run. The function returns the number of points emitted. An error at a point is emitted as
    /// a record.
    ///
    /// The function uses the threads of the pool that it is called in, `pool.install(|| sweep.run(..))`, or
    /// else those of rayon's global pool. Rows are solved in parallel, each on one thread. If there are fewer
    /// rows than threads, they are solved one after the other, each point on all threads. `emit` is called on
    /// a thread of the pool, and must not run parallel loops of its own there, because they might begin
    /// another row on top of the call. Solves of this library inside `emit` are serial.
    ///
    /// # Errors
    /// [`Error::Threads`] if the global pool cannot be started.
    pub fn run(
        &self,
        shard: Shard,
        done: usize,
        emit: impl FnMut(&Record) -> ControlFlow<()> + Send,
    ) -> Result<usize, Error> {
        let threads = parallel::threads()?;
        let length = self.row_length();
        let Range { start, end } = self.indices(shard);
        let first = start.saturating_add(done / length * length).min(end);
        let rows = (end - first) / length;
        let stream =
            Mutex::new(InOrder { emit, next: 0, waiting: BTreeMap::new(), emitted: 0, stopped: false });
        let (next_row, stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
        let solve_rows = || {
            loop {
                let row = next_row.fetch_add(1, Ordering::Relaxed);
                if row >= rows || stopped.load(Ordering::Relaxed) {
                    return;
                }
                let mut previous: Option<Outcome> = None;
                for column in 0..length {
                    if stopped.load(Ordering::Relaxed) {
                        return;
                    }
                    let record = self.solve(first + row * length + column, previous.as_ref());
                    previous = record.outcome.clone().filter(is_usable);
                    let mut stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
                    if stream.push(row, record, column + 1 == length).is_break() {
                        stopped.store(true, Ordering::Relaxed);
                    }
                }
            }
        };
        if rows < threads {
            solve_rows();
        } else {
            parallel::flat(threads, &|_| solve_rows());
        }
        let stream = stream.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(stream.emitted)
    }

    fn solve(&self, index: usize, previous: Option<&Outcome>) -> Record {
        let values = self.values(index);
        let solved = self.at(&values).and_then(|scenario| match previous {
            Some(previous) => scenario.solve_from(previous),
            None => scenario.solve(),
        });
        match solved {
            Ok(outcome) => Record { index, values, outcome: Some(outcome), error: None },
            Err(error) => {
                let failure = Failure { kind: error.kind().to_owned(), message: error.to_string() };
                Record { index, values, outcome: None, error: Some(failure) }
            }
        }
    }
}

/// Whether the next point may begin with this outcome.
fn is_usable(outcome: &Outcome) -> bool {
    let pretrain = outcome.pretrain.as_ref().is_none_or(|stage| stage.status == Status::Converged);
    let lora = outcome.lora.as_ref().is_none_or(|stage| stage.status == Status::Converged);
    pretrain && lora
}

/// Puts the results of several workers in order.
struct InOrder<F> {
    emit: F,
    /// The row that is being emitted.
    next: usize,
    /// The rows after the one that is being emitted, as far as they are solved, and whether they are
    /// complete.
    waiting: BTreeMap<usize, (Vec<Record>, bool)>,
    emitted: usize,
    /// Whether `emit` has ended the run. Points that were still being solved are then dropped.
    stopped: bool,
}

impl<F: FnMut(&Record) -> ControlFlow<()>> InOrder<F> {
    fn push(&mut self, row: usize, record: Record, complete: bool) -> ControlFlow<()> {
        if self.stopped {
            return ControlFlow::Break(());
        }
        let entry = self.waiting.entry(row).or_default();
        entry.0.push(record);
        entry.1 = complete;
        while let Some((records, complete)) = self.waiting.get_mut(&self.next) {
            for record in records.drain(..) {
                self.emitted += 1;
                // The stream is locked. Without `alone`, this thread might begin another row on top of this
                // call, which would wait for the lock for ever.
                if parallel::alone(|| (self.emit)(&record)).is_break() {
                    self.stopped = true;
                    return ControlFlow::Break(());
                }
            }
            if !*complete {
                break;
            }
            self.waiting.remove(&self.next);
            self.next += 1;
        }
        ControlFlow::Continue(())
    }
}

/// Sets the number at a path.
fn set(scenario: &mut Value, path: &str, value: f64) -> Result<(), Error> {
    let refused = |reason: &str| Error::Syntax(format!("{path}: {reason}").into());
    let unknown = || refused("no number of the scenario has this name");
    let mut here = scenario;
    let mut names = path.split('.').peekable();
    let mut end = 0;
    while let Some(name) = names.next() {
        end += name.len();
        let object = here.as_object_mut().ok_or_else(unknown)?;
        if names.peek().is_some() {
            let absent = || refused(&format!("the scenario has no `{}`", &path[..end]));
            here = object.get_mut(name).ok_or_else(absent)?;
            // The dot.
            end += 1;
            continue;
        }
        // A number that counts stays an integer. A field that was left out may be given; whether it counts is not known, and every
        // field that does not takes an integer, too.
        let counted = match object.get(name) {
            Some(Value::Number(known)) => known.is_u64(),
            Some(_) => return Err(unknown()),
            None => true,
        };
        let number = if counted && value >= 0.0 && value.fract() == 0.0 && value < 2f64.powi(53) {
            Value::from(value as u64)
        } else {
            Value::from(value)
        };
        object.insert(name.to_owned(), number);
        return Ok(());
    }
    Err(unknown())
}
