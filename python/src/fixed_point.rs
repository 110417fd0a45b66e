//! The fixed point of a map that is a function of Python.

use lora_asymptotics::Status;
use lora_asymptotics::fixed_point::{self, Coordinate, Iterate, Method, Observer, Options, Problem};
use pyo3::prelude::*;
use std::ops::ControlFlow;

use crate::error::raised;
use crate::running::Stop;

/// How to iterate, as the Python side has checked it.
#[derive(FromPyObject)]
pub(crate) struct Iteration {
    logarithmic: Vec<bool>,
    tolerance: f64,
    max_iterations: usize,
    patience: usize,
    method: String,
    mixing: f64,
    memory: usize,
    warmup: usize,
    max_step: f64,
}

impl Iteration {
    fn options(&self) -> Options {
        let Self { mixing, memory, warmup, max_step, .. } = *self;
        let method = match self.method.as_str() {
            "picard" => Method::Picard,
            "damped" => Method::Damped { mixing },
            _ => Method::Anderson { memory, mixing, warmup, max_step },
        };
        let Self { tolerance, max_iterations, patience, .. } = *self;
        Options { tolerance, max_iterations, method, patience }
    }
}

/// Records every iterate, and ends the iteration after an exception.
struct Watch {
    stop: Stop,
    history: Vec<(Vec<f64>, f64)>,
}

impl Observer for Watch {
    fn iterate(&mut self, iterate: &Iterate<'_>) -> ControlFlow<()> {
        self.history.push((iterate.point.to_vec(), iterate.residual));
        self.stop.flow()
    }
}

/// A fixed point: the point, its residual, the number of evaluations, the status, and all iterates with their residuals.
type Found = (Vec<f64>, f64, usize, String, Vec<(Vec<f64>, f64)>);

/// Iterates a map from lists to lists on the calling thread.
#[pyfunction(name = "fixed_point")]
pub(crate) fn iterate(
    py: Python<'_>,
    map: &Bound<'_, PyAny>,
    start: Vec<f64>,
    iteration: Iteration,
) -> PyResult<Found> {
    let coordinate = |logarithmic: &bool| if *logarithmic { Coordinate::Log } else { Coordinate::Linear };
    let problem = Problem {
        start,
        coordinates: iteration.logarithmic.iter().map(coordinate).collect(),
        secants: Vec::new(),
    };
    let stop = Stop::default();
    let mut watch = Watch { stop: stop.clone(), history: Vec::new() };
    let mut failure = None;
    let image = |point: &Vec<f64>| {
        let called = py.check_signals().and_then(|()| map.call1((point.clone(),))?.extract::<Vec<f64>>());
        called.unwrap_or_else(|error| {
            failure.get_or_insert(error);
            stop.request();
            vec![f64::NAN; point.len()]
        })
    };
    let found = fixed_point::solve_observed(&problem, &iteration.options(), &mut watch, image);
    if let Some(error) = failure {
        return Err(error);
    }
    let found = found.map_err(raised)?;
    let status: Status = found.status;
    Ok((found.point, found.residual, found.iterations, status.to_string(), watch.history))
}
