//! Training by L-BFGS on the actual loss, from a given start.

use std::cell::{Cell, RefCell};

use argmin::core::{ArgminError, CostFunction, Executor, Gradient, State};
use argmin::solver::linesearch::MoreThuenteLineSearch;
use argmin::solver::quasinewton::LBFGS;

/// A function to minimise, with its gradient.
pub(super) trait Objective {
    fn evaluate(&self, w: &[f64]) -> (f64, Vec<f64>);
}

/// Number of pairs of steps that L-BFGS remembers.
pub(super) const MEMORY: usize = 10;
/// Largest number of restarts. A line search may fail near rounding; a steepest descent follows it.
const MAX_RESTARTS: usize = 5;

/// Largest number of evaluations without improvement. A line search takes one or two.
const PATIENCE: usize = 30;

/// The end of a training.
#[derive(Debug, Clone)]
pub(super) struct Minimum {
    pub(super) w: Vec<f64>,
    pub(super) objective: f64,
    /// Root mean square of the entries of the gradient.
    pub(super) gradient: f64,
    pub(super) iterations: usize,
    pub(super) converged: bool,
}

/// The conditions under which training ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stopping {
    pub(super) gradient_tolerance: f64,
    pub(super) max_iterations: usize,
}

/// A point with its objective and gradient.
#[derive(Clone)]
struct EvaluatedObjective {
    w: Vec<f64>,
    objective: f64,
    gradient: Vec<f64>,
}

impl EvaluatedObjective {
    fn new(objective: &impl Objective, w: &[f64]) -> Self {
        let (value, gradient) = objective.evaluate(w);
        Self { w: w.to_vec(), objective: value, gradient }
    }

    /// Root mean square of the entries of the gradient.
    fn slope(&self) -> f64 {
        (self.gradient.iter().map(|x| x * x).sum::<f64>() / self.gradient.len() as f64).sqrt()
    }

    /// Whether this point is a better end of a descent than `other`. If rounding hides which objective is
    /// lower, the gradients decide.
    fn improves_on(&self, other: &Self) -> bool {
        let rounding = 1e-13 * other.objective.abs();
        let lower = self.objective < other.objective - rounding;
        lower || (self.objective <= other.objective + rounding && self.slope() < other.slope())
    }
}

/// The objective in the form that argmin asks for. Argmin evaluates objective and gradient one after the
/// other, but both come from the same products, so that the last evaluation is kept.
struct ArgminProblem<'a, F> {
    objective: &'a F,
    last: RefCell<EvaluatedObjective>,
    /// The best point is kept here, because argmin drops its state if a line search fails.
    best: RefCell<EvaluatedObjective>,
    /// Number of evaluations since the best point was found.
    in_vain: Cell<usize>,
}

impl<'a, F: Objective> ArgminProblem<'a, F> {
    fn new(objective: &'a F, start: &[f64]) -> Self {
        let at_start = EvaluatedObjective::new(objective, start);
        Self {
            objective,
            last: RefCell::new(at_start.clone()),
            best: RefCell::new(at_start),
            in_vain: Cell::new(0),
        }
    }

    /// Reads a quantity from the evaluation at `w`. An error ends the descent, because close to rounding the
    /// line search may reach values that are not finite, or never end.
    fn at<R>(
        &self,
        w: &[f64],
        read: impl FnOnce(&EvaluatedObjective) -> R,
    ) -> Result<R, argmin::core::Error> {
        let mut last = self.last.borrow_mut();
        if last.w != w {
            let in_vain = self.in_vain.get();
            if in_vain >= PATIENCE || !w.iter().all(|x| x.is_finite()) {
                let text = "no further descent".to_owned();
                return Err(ArgminError::ConditionViolated { text }.into());
            }
            self.in_vain.set(in_vain + 1);
            *last = EvaluatedObjective::new(self.objective, w);
            let mut best = self.best.borrow_mut();
            if last.improves_on(&best) {
                *best = last.clone();
                self.in_vain.set(0);
            }
        }
        Ok(read(&last))
    }
}

impl<F: Objective> CostFunction for &ArgminProblem<'_, F> {
    type Param = Vec<f64>;
    type Output = f64;

    fn cost(&self, w: &Vec<f64>) -> Result<f64, argmin::core::Error> {
        self.at(w, |known| known.objective)
    }
}

impl<F: Objective> Gradient for &ArgminProblem<'_, F> {
    type Param = Vec<f64>;
    type Gradient = Vec<f64>;

    fn gradient(&self, w: &Vec<f64>) -> Result<Vec<f64>, argmin::core::Error> {
        self.at(w, |known| known.gradient.clone())
    }
}

/// Descends from `start` to a minimum.
pub(super) fn minimise(objective: &impl Objective, start: &[f64], stopping: Stopping) -> Minimum {
    let problem = ArgminProblem::new(objective, start);
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
        problem.in_vain.set(0);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The function `sum_i i x_i^2 + (sum_i x_i - 1)^4`, which counts its evaluations.
    struct Bowl {
        size: usize,
        evaluations: Cell<usize>,
        offset: f64,
    }

    impl Objective for Bowl {
        fn evaluate(&self, w: &[f64]) -> (f64, Vec<f64>) {
            self.evaluations.set(self.evaluations.get() + 1);
            let excess = w.iter().sum::<f64>() - 1.0;
            let stiffness = |i: usize| (i + 1) as f64;
            let squares: f64 = w.iter().enumerate().map(|(i, x)| stiffness(i) * x * x).sum();
            let slope = |(i, x): (usize, &f64)| 2.0 * stiffness(i) * x + 4.0 * excess.powi(3);
            (self.offset + squares + excess.powi(4), w.iter().enumerate().map(slope).collect())
        }
    }

    #[test]
    fn a_bowl_is_descended() {
        let bowl = Bowl { size: 20, evaluations: Cell::new(0), offset: 0.0 };
        let stopping = Stopping { gradient_tolerance: 1e-8, max_iterations: 1000 };
        let minimum = minimise(&bowl, &vec![1.0; bowl.size], stopping);
        assert!(minimum.converged && minimum.gradient <= 1e-8, "{minimum:?}");
        let excess: f64 = minimum.w.iter().sum::<f64>() - 1.0;
        for (i, x) in minimum.w.iter().enumerate() {
            assert!((x + 2.0 * excess.powi(3) / (i + 1) as f64).abs() < 1e-7);
        }
        assert!(
            bowl.evaluations.get() < 200,
            "{} evaluations, {} iterations",
            bowl.evaluations.get(),
            minimum.iterations
        );
    }

    #[test]
    fn what_rounding_does_not_allow_ends_and_says_so() {
        // Next to an offset of 1e6, the part of the objective below 1e-10 is lost, and line searches fail.
        for (offset, gradient_tolerance) in [(1e6, 0.0), (0.0, 0.0), (1e6, 1e-12)] {
            let bowl = Bowl { size: 5, evaluations: Cell::new(0), offset };
            let stopping = Stopping { gradient_tolerance, max_iterations: 1000 };
            let minimum = minimise(&bowl, &[1.0; 5], stopping);
            assert_eq!(minimum.converged, minimum.gradient <= gradient_tolerance);
            assert!(minimum.gradient < 1e-3, "{minimum:?}");
            assert!(bowl.evaluations.get() < 1000, "{}", bowl.evaluations.get());
        }
        // One iteration is not enough to converge.
        let bowl = Bowl { size: 5, evaluations: Cell::new(0), offset: 0.0 };
        let stopping = Stopping { gradient_tolerance: 1e-10, max_iterations: 1 };
        assert!(!minimise(&bowl, &[1.0; 5], stopping).converged);
    }
}
