//! Scenarios as Python gives them, and their outcomes.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use lora_asymptotics::state_evolution::Run;
use lora_asymptotics::{Error, Frozen, Outcome, Scenario, pretrain};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::activation::{Failure, PythonActivation, with_activation};
use crate::error::Refusal;
use crate::running::{Ended, Progress, Shared, Stop, pool_of, run};

/// The JSON of a scenario, and the activation of the user, if the scenario has one.
pub(crate) type Request<'py> = (String, Option<Bound<'py, PyAny>>);

/// A scenario that can be solved on another thread.
pub(crate) struct Task {
    pub(crate) scenario: Scenario,
    pub(crate) stop: Stop,
    failure: Failure,
}

impl Task {
    /// Reads a scenario, and checks that its parts fit together.
    pub(crate) fn read(request: &Request<'_>, stop: &Stop) -> PyResult<Result<Self, Refusal>> {
        let task = Self::parse(request, stop)?;
        Ok(task.and_then(|task| task.scenario.validate().map(|()| task).map_err(Refusal::from)))
    }

    /// Reads a scenario whose parts need not make an experiment.
    pub(crate) fn parse((text, activation): &Request<'_>, stop: &Stop) -> PyResult<Result<Self, Refusal>> {
        let failure = Failure::default();
        let own =
            activation.as_ref().map(|object| PythonActivation::new(object, stop, &failure)).transpose()?;
        let scenario = Scenario::from_json(text).map_err(|error| Refusal::of_scenario(error, text));
        let scenario = scenario.and_then(|mut scenario| {
            if let Some(own) = own {
                scenario.model = with_activation(&scenario.model, own)?;
            }
            Ok(scenario)
        });
        Ok(scenario.map(|scenario| Self { scenario, stop: stop.clone(), failure }))
    }

    /// The outcome as JSON.
    fn solve(&self, previous: Option<&Outcome>) -> Result<String, Refusal> {
        let mut watch = self.stop.clone();
        let run = Run::default().observed_by(&mut watch);
        let run = match previous {
            Some(previous) => run.starting_from(previous),
            None => run,
        };
        let outcome = self.scenario.solve_with(run)?;
        written(&outcome)
    }

    /// The exception of an activation of the user, if there was one.
    pub(crate) fn check(&self) -> PyResult<()> {
        self.failure.check()
    }

    /// The pre-training of the scenario, and its solution.
    pub(crate) fn pretrained(&self) -> Result<(pretrain::Training, pretrain::Solution), Error> {
        let reason = "this is a property of the pre-training";
        let training = self.scenario.pretrain.ok_or(Error::MissingField { field: "pretrain", reason })?;
        let mut watch = self.stop.clone();
        let run = Run::default().observed_by(&mut watch);
        let Scenario { model, options, .. } = &self.scenario;
        Ok((training, pretrain::solve_with(model, &training, options, run)?.into_converged()?))
    }

    /// The frozen weights of the scenario, which are those of its pre-training if they are not given.
    pub(crate) fn frozen(&self) -> Result<Frozen, Error> {
        match self.scenario.frozen {
            Some(frozen) => Ok(frozen),
            None => self.pretrained()?.1.freeze(),
        }
    }
}

/// A value of the library as JSON.
pub(crate) fn written(value: &impl serde::Serialize) -> Result<String, Refusal> {
    serde_json::to_string(value).map_err(Refusal::of_text)
}

/// Runs a calculation on a scenario in the background.
pub(crate) fn calculate<R: Send + 'static>(
    py: Python<'_>,
    request: &Request<'_>,
    threads: Option<usize>,
    calculation: impl FnOnce(&Task) -> Result<R, Refusal> + Send + 'static,
) -> PyResult<R> {
    let stop = Stop::default();
    let task = Task::parse(request, &stop)??;
    let work = move || {
        let result = calculation(&task);
        (result, task)
    };
    let (result, task) = run(py, threads, &stop, &Progress::new(None), work)?.complete()?;
    task.check()?;
    Ok(result?)
}

/// Checks a scenario without solving it.
#[pyfunction]
pub(crate) fn check(request: Request<'_>) -> PyResult<()> {
    Task::read(&request, &Stop::default())??;
    Ok(())
}

/// Solves a scenario. Returns the JSON of its outcome.
#[pyfunction]
pub(crate) fn solve(
    py: Python<'_>,
    request: Request<'_>,
    previous: Option<&str>,
    threads: Option<usize>,
) -> PyResult<String> {
    let previous: Option<Outcome> =
        previous.map(serde_json::from_str).transpose().map_err(Refusal::of_text)?;
    calculate(py, &request, threads, move |task| task.solve(previous.as_ref()))
}

/// Solves several scenarios. Returns the JSON of every outcome, an exception in the place of each that has none, and `None` in
/// the place of those that were not solved because of an interruption; and whether there was one.
#[pyfunction]
pub(crate) fn solve_many<'py>(
    py: Python<'py>,
    requests: Vec<Request<'py>>,
    threads: Option<usize>,
    progress: Option<Py<PyAny>>,
) -> PyResult<(Vec<Option<Bound<'py, PyAny>>>, bool)> {
    let stop = Stop::default();
    let mut tasks = Vec::with_capacity(requests.len());
    for request in &requests {
        tasks.push(Task::read(request, &stop)?);
    }
    let count = tasks.len();
    let progress = Progress::new(progress);
    let solved: Shared<BTreeMap<usize, Result<String, Refusal>>> = Shared::default();
    let (done, answers, watch) = (progress.done.clone(), solved.clone(), stop.clone());
    let work = move || {
        in_turn(count, &|place| {
            let task = tasks[place].as_ref();
            let answer = task.map_err(Clone::clone).and_then(|task| task.solve(None));
            let failure = task.map_or(Ok(()), Task::check);
            // The scenarios in hand at an interruption end with iterates that are no solutions.
            if !watch.is_requested() {
                answers.with(|answers| answers.insert(place, answer));
                done.fetch_add(1, Ordering::Relaxed);
            }
            failure.and(Ok(watch.flow()))
        })
    };
    let interrupted = match run(py, threads, &stop, &progress, work)? {
        Ended::Done(ended) => {
            ended?;
            false
        }
        Ended::Interrupted(_, error) => is_interrupt(py, error)?,
    };
    let mut answers = solved.take();
    let mut found = Vec::with_capacity(count);
    for place in 0..count {
        found.push(match answers.remove(&place) {
            Some(Ok(text)) => Some(text.into_pyobject(py)?.into_any()),
            Some(Err(refusal)) => Some(refusal.exception(py)?),
            None => None,
        });
    }
    Ok((found, interrupted))
}

/// Whether an interruption was Ctrl-C, after which results so far are returned. Other exceptions are raised.
pub(crate) fn is_interrupt(py: Python<'_>, error: PyErr) -> PyResult<bool> {
    if error.is_instance_of::<pyo3::exceptions::PyKeyboardInterrupt>(py) { Ok(true) } else { Err(error) }
}

/// Calls `solve` for the numbers up to `count`, until one of the calls breaks or fails. Every thread takes one number after the
/// other, in a pool of its own, so that no solve begins on top of another. Where there are fewer numbers than threads, the
/// calls follow each other, with all threads for each.
fn in_turn(count: usize, solve: &(dyn Fn(usize) -> PyResult<ControlFlow<()>> + Sync)) -> PyResult<()> {
    let threads = rayon_core::current_num_threads();
    let next = AtomicUsize::new(0);
    let take = || -> PyResult<()> {
        loop {
            let place = next.fetch_add(1, Ordering::Relaxed);
            if place >= count || solve(place)?.is_break() {
                return Ok(());
            }
        }
    };
    if count < threads || threads == 1 {
        return take();
    }
    let alone = || pool_of(1)?.install(take);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(alone)).collect();
        let ended = workers.into_iter().map(|worker| {
            let lost = || PyRuntimeError::new_err("the solver ended without a result: please report this");
            worker.join().map_err(|_| lost()).and_then(|ended| ended)
        });
        ended.collect::<Vec<PyResult<()>>>().into_iter().collect()
    })
}
