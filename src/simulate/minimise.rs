//! Training: L-BFGS on the actual loss, from a given start.

use std::cell::RefCell;

use argmin::core::{CostFunction, Executor, Gradient, State};
use argmin::solver::linesearch::MoreThuenteLineSearch;
use argmin::solver::quasinewton::LBFGS;

/// A function to minimise, with its gradient.
pub(super) trait Objective {
    fn evaluate(&self, w: &[f64]) -> (f64, Vec<f64>);
}

/// Pairs of steps that L-BFGS remembers.
pub(super) const MEMORY: usize = 10;
/// A line search that fails, as it does near rounding, is followed by a steepest descent: so many times.
const MAX_RESTARTS: usize = 5;

/// Where training ended.
#[derive(Debug, Clone)]
pub(super) struct Minimum {
    pub(super) w: Vec<f64>,
    pub(super) objective: f64,
    /// Root mean square of the entries of the gradient.
    pub(super) gradient: f64,
    pub(super) iterations: usize,
    pub(super) converged: bool,
}

/// When training ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stopping {
    pub(super) gradient_tolerance: f64,
    pub(super) max_iterations: usize,
}

/// A point with its objective and gradient.
#[derive(Clone)]
struct Evaluated {
    w: Vec<f64>,
    objective: f64,
    gradient: Vec<f64>,
}

impl Evaluated {
    fn new(objective: &impl Objective, w: &[f64]) -> Self {
        let (value, gradient) = objective.evaluate(w);
        Self { w: w.to_vec(), objective: value, gradient }
    }

    /// Root mean square of the entries of the gradient.
    fn slope(&self) -> f64 {
        (self.gradient.iter().map(|x| x * x).sum::<f64>() / self.gradient.len() as f64).sqrt()
    }

    /// Whether this is the better end of a descent. Where rounding hides which objective is the lower, the gradient tells.
    fn improves_on(&self, other: &Self) -> bool {
        let rounding = 1e-13 * other.objective.abs();
        let lower = self.objective < other.objective - rounding;
        lower || (self.objective <= other.objective + rounding && self.slope() < other.slope())
    }
}

/// The objective as argmin wants it. Objective and gradient are asked for one after the other, and cost the same products.
struct Problem<'a, F> {
    objective: &'a F,
    last: RefCell<Evaluated>,
    /// Kept here, since argmin drops its state where a line search fails.
    best: RefCell<Evaluated>,
}

impl<'a, F: Objective> Problem<'a, F> {
    fn new(objective: &'a F, start: &[f64]) -> Self {
        let at_start = Evaluated::new(objective, start);
        Self { objective, last: RefCell::new(at_start.clone()), best: RefCell::new(at_start) }
    }

    fn at<R>(&self, w: &[f64], read: impl FnOnce(&Evaluated) -> R) -> R {
        let mut last = self.last.borrow_mut();
        if last.w != w {
            *last = Evaluated::new(self.objective, w);
            let mut best = self.best.borrow_mut();
            if last.improves_on(&best) {
                *best = last.clone();
            }
        }
        read(&last)
    }
}

impl<F: Objective> CostFunction for &Problem<'_, F> {
    type Param = Vec<f64>;
    type Output = f64;

    fn cost(&self, w: &Vec<f64>) -> Result<f64, argmin::core::Error> {
        Ok(self.at(w, |known| known.objective))
    }
}

impl<F: Objective> Gradient for &Problem<'_, F> {
    type Param = Vec<f64>;
    type Gradient = Vec<f64>;

    fn gradient(&self, w: &Vec<f64>) -> Result<Vec<f64>, argmin::core::Error> {
        Ok(self.at(w, |known| known.gradient.clone()))
    }
}

/// Downhill from `start` to a minimum.
pub(super) fn minimise(objective: &impl Objective, start: &[f64], stopping: Stopping) -> Minimum {
    let problem = Problem::new(objective, start);
    let tolerance = stopping.gradient_tolerance * (start.len() as f64).sqrt();
    let mut iterations = 0;
    for _ in 0..=MAX_RESTARTS {
        let here = problem.best.borrow().clone();
        let left = stopping.max_iterations.saturating_sub(iterations);
        if left == 0 || here.slope() <= stopping.gradient_tolerance {
            break;
        }
        let solver = LBFGS::new(MoreThuenteLineSearch::new(), MEMORY)
            .with_tolerance_grad(tolerance)
            .and_then(|solver| solver.with_tolerance_cost(0.0));
        let Ok(solver) = solver else { break };
        let executor = Executor::new(&problem, solver)
            .configure(|state| state.param(here.w.clone()).max_iters(left as u64));
        iterations += match executor.run() {
            Ok(result) => usize::try_from(result.state.get_iter()).unwrap_or(left).max(1),
            Err(_) => 1,
        };
        if problem.best.borrow().w == here.w {
            break;
        }
    }
    let best = problem.best.into_inner();
    let gradient = best.slope();
    Minimum {
        converged: gradient <= stopping.gradient_tolerance,
        w: best.w,
        objective: best.objective,
        gradient,
        iterations,
    }
}
