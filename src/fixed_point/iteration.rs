//! The update rules, the options and the loop of a fixed-point iteration.

use std::ops::ControlFlow;

use super::anderson::Anderson;
use super::observer::{Iterate, Observer, Unobserved};
use super::problem::{Problem, Secant, Vector, from_fn};
use crate::error::Error;
use crate::status::Status;

/// The update rule. The residual is `r = F(x) - x`.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Method {
    /// `x <- F(x)`.
    Picard,
    /// `x <- x + mixing r`.
    Damped {
        /// Fraction of the step that is taken, in `(0, 1]`.
        mixing: f64,
    },
    /// Anderson acceleration (type II): the damped step from the combination of the last `memory` differences that
    /// minimises the linearised residual. D. G. Anderson, J. ACM 12, 547 (1965).
    Anderson {
        /// Number of differences kept, at least 1. More than `N` are never used at once.
        memory: usize,
        /// Fraction of the residual that is added, in `(0, 1]`.
        mixing: f64,
        /// Number of damped steps before the first accelerated one.
        warmup: usize,
        /// Bound on every component of a step, in the coordinates iterated on.
        max_step: f64,
    },
}

impl Default for Method {
    fn default() -> Self {
        Self::Anderson { memory: 5, mixing: 0.7, warmup: 4, max_step: 0.7 }
    }
}

/// The update rule of an iteration, and when the iteration stops.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct IterationOptions {
    /// Largest undamped residual of a converged point; finite and >= 0.
    pub tolerance: f64,
    /// Bound on the number of evaluations of the map, at least 1.
    pub max_iterations: usize,
    /// The update rule.
    pub method: Method,
    /// Number of evaluations without a 10% lower residual after which the iteration has stalled, at least 1. An
    /// iteration that first has to leave the neighbourhood of an unstable fixed point needs a larger number.
    pub patience: usize,
}

impl Default for IterationOptions {
    fn default() -> Self {
        Self { tolerance: 1e-10, max_iterations: 1000, method: Method::default(), patience: 40 }
    }
}

impl IterationOptions {
    fn validate(&self) -> Result<(), Error> {
        if !(self.tolerance.is_finite() && self.tolerance >= 0.0) {
            return Err(Error::invalid("tolerance", self.tolerance, "finite and >= 0"));
        }
        for (field, value) in [("max_iterations", self.max_iterations), ("patience", self.patience)] {
            if value == 0 {
                return Err(Error::invalid(field, value, ">= 1"));
            }
        }
        let mixing = match self.method {
            Method::Picard => 1.0,
            Method::Damped { mixing } => mixing,
            Method::Anderson { memory: 0, .. } => return Err(Error::invalid("memory", 0, ">= 1")),
            Method::Anderson { max_step, .. } if max_step.is_nan() || max_step <= 0.0 => {
                return Err(Error::invalid("max_step", max_step, "> 0"));
            }
            Method::Anderson { mixing, .. } => mixing,
        };
        if mixing > 0.0 && mixing <= 1.0 {
            Ok(())
        } else {
            Err(Error::invalid("mixing", mixing, "in (0, 1]"))
        }
    }
}

/// The result of an iteration.
#[derive(Debug, Clone, PartialEq)]
pub struct Report<X> {
    /// The iterate with the smallest residual, in physical coordinates.
    pub point: X,
    /// The undamped residual of `point`, `max_i |F(x)_i - x_i|` in the coordinates iterated on.
    pub residual: f64,
    /// Number of evaluations of the map.
    pub iterations: usize,
    /// How the iteration ended.
    pub status: Status,
}

/// The point with the smallest residual so far, in the coordinates iterated on.
struct Best<X> {
    point: X,
    residual: X,
    norm: f64,
}

/// Iterates `map` from `problem.start` until `x = map(x)` to `options.tolerance`.
///
/// # Errors
/// [`Error::InvalidParameter`] for options out of range, secants that are not finite, a start that is not finite in
/// the coordinates iterated on, or a map whose image has another length than its argument. A solve that does not
/// converge is not an error: see [`Report::status`].
pub fn solve<X: Vector>(
    problem: &Problem<X>,
    options: &IterationOptions,
    map: impl FnMut(&X) -> X,
) -> Result<Report<X>, Error> {
    solve_observed(problem, options, &mut Unobserved, map)
}

/// Like [`solve`], with an [`Observer`] that is shown every evaluation and may end the iteration. The status is
/// then [`Status::Interrupted`], and the point is the best one so far.
///
/// # Errors
/// The errors of [`solve`].
pub fn solve_observed<X: Vector>(
    problem: &Problem<X>,
    options: &IterationOptions,
    observer: &mut dyn Observer,
    mut map: impl FnMut(&X) -> X,
) -> Result<Report<X>, Error> {
    let judged = |x: &X| JudgedImage { image: map(x), accepted: 0.0, near: 0.0 };
    Ok(solve_judged(problem, options, observer, judged)?.report)
}

/// The image of a point, and the residual at which the point has converged. It may depend on the point: the noise of
/// an average over samples makes steps that are much smaller than the noise pointless.
pub(crate) struct JudgedImage<X> {
    pub(crate) image: X,
    /// The residual that is accepted, in the coordinates iterated on, beside the tolerance of the options.
    pub(crate) accepted: f64,
    /// The residual from which one more step is expected to lead to an accepted one, if the slopes in all directions are known.
    pub(crate) near: f64,
}

/// How an iteration ended.
pub(crate) struct Halt<X> {
    pub(crate) report: Report<X>,
    /// The point to which the next step leads, if the iteration ended near enough for it. The map has not been evaluated
    /// there, and the residual of the report belongs to the point before the step.
    pub(crate) ahead: Option<X>,
}

impl<X> Halt<X> {
    /// The point at which the search goes on.
    pub(crate) fn end(self) -> X {
        self.ahead.unwrap_or(self.report.point)
    }
}

/// Like [`solve_observed`], for a map that tells which residual is accepted. The iteration may end one step early.
pub(crate) fn solve_judged<X: Vector>(
    problem: &Problem<X>,
    options: &IterationOptions,
    observer: &mut dyn Observer,
    mut map: impl FnMut(&X) -> JudgedImage<X>,
) -> Result<Halt<X>, Error> {
    const MAX_RETREATS: usize = 12;
    options.validate()?;
    problem.validate()?;
    let mut x = problem.iterated(&problem.start);
    let dimension = x.as_ref().len();

    let mut rule = SteppingRule::new(options.method, &problem.secants);
    let mut best = Best { point: x.clone(), residual: from_fn(&x, |_| 0.0), norm: f64::INFINITY };
    let mut milestone = f64::INFINITY;
    let mut since_milestone = 0;
    let mut retreats = 0;
    let mut fell_back = false;
    let mut iterations = 0;
    let mut ahead = None;

    let status = loop {
        if iterations == options.max_iterations {
            break Status::MaxIterations;
        }
        iterations += 1;
        let point = problem.physical(&x);
        let JudgedImage { image, accepted, near } = map(&point);
        if image.as_ref().len() != dimension {
            let allowed = format!("{dimension}, as long as the start");
            return Err(Error::invalid("length of the image", image.as_ref().len(), allowed));
        }
        let image = problem.iterated(&image);
        let residual = from_fn(&x, |i| image.as_ref()[i] - x.as_ref()[i]);
        let norm = max_norm(residual.as_ref());
        if norm < best.norm {
            best = Best { point: x.clone(), residual: residual.clone(), norm };
        }
        let iterate = Iterate { point: point.as_ref(), residual: norm, iteration: iterations };
        if observer.iterate(&iterate) == ControlFlow::Break(()) {
            break Status::Interrupted;
        }
        if norm <= options.tolerance || norm <= accepted {
            break Status::Converged;
        }
        if norm <= near && rule.knows_slopes(dimension) {
            ahead = Some(problem.physical(&rule.next(&x, &residual)));
            break Status::Converged;
        }
        if norm.is_infinite() {
            retreats += 1;
            if best.norm.is_infinite() || retreats > MAX_RETREATS {
                break Status::NonFinite;
            }
            rule.forget();
            x = from_fn(&x, |i| 0.5 * (x.as_ref()[i] + best.point.as_ref()[i]));
            continue;
        }
        if norm < 0.9 * milestone {
            milestone = norm;
            since_milestone = 0;
        } else {
            since_milestone += 1;
        }
        if since_milestone >= options.patience {
            if fell_back {
                break Status::Stalled;
            }
            fell_back = true;
            since_milestone = 0;
            rule = SteppingRule::Mix(0.5);
            x = step_from(&best.point, &best.residual, 0.5);
        } else if norm > 10.0 * best.norm && rule.forget() {
            // The extrapolation went astray: the iteration returns to the best point and builds a new memory.
            x = step_from(&best.point, &best.residual, 0.5);
        } else {
            x = rule.next(&x, &residual);
        }
    };
    let report = Report { point: problem.physical(&best.point), residual: best.norm, iterations, status };
    Ok(Halt { report, ahead })
}

/// The update rule together with its memory.
enum SteppingRule<X> {
    Mix(f64),
    Accelerate(Anderson<X>),
}

impl<X: Vector> SteppingRule<X> {
    fn new(method: Method, secants: &[Secant<X>]) -> Self {
        match method {
            Method::Picard => Self::Mix(1.0),
            Method::Damped { mixing } => Self::Mix(mixing),
            Method::Anderson { memory, mixing, warmup, max_step } => {
                Self::Accelerate(Anderson::new(memory, mixing, warmup, max_step, secants))
            }
        }
    }

    fn next(&mut self, x: &X, residual: &X) -> X {
        match self {
            Self::Mix(mixing) => step_from(x, residual, *mixing),
            Self::Accelerate(anderson) => anderson.next(x, residual),
        }
    }

    /// Whether the next step uses slopes in all directions.
    fn knows_slopes(&self, dimension: usize) -> bool {
        match self {
            Self::Mix(_) => false,
            Self::Accelerate(anderson) => anderson.differences() >= dimension,
        }
    }

    /// Drops the memory, and returns whether there was any.
    fn forget(&mut self) -> bool {
        match self {
            Self::Mix(_) => false,
            Self::Accelerate(anderson) => anderson.forget(),
        }
    }
}

fn step_from<X: Vector>(x: &X, residual: &X, mixing: f64) -> X {
    from_fn(x, |i| x.as_ref()[i] + mixing * residual.as_ref()[i])
}

/// The largest absolute component; infinite if any component is not finite.
pub(crate) fn max_norm(r: &[f64]) -> f64 {
    r.iter().fold(0.0, |m, c| if c.is_finite() { c.abs().max(m) } else { f64::INFINITY })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixed_point::{Coordinate, History};

    const METHODS: [Method; 3] = [
        Method::Picard,
        Method::Damped { mixing: 0.6 },
        Method::Anderson { memory: 5, mixing: 0.7, warmup: 2, max_step: 0.7 },
    ];

    /// A contraction with a known fixed point, (1, 2, 3).
    fn contraction(&[x, y, z]: &[f64; 3]) -> [f64; 3] {
        [
            (0.5 * (x.ln() + (y - 2.0) / 3.0)).exp(),
            2.0 + 0.4 * (z - 3.0) + 0.3 * (y - 2.0),
            3.0 + 0.8 * (x - 1.0),
        ]
    }

    #[test]
    fn every_method_finds_the_fixed_point() {
        for method in METHODS {
            let options = IterationOptions { method, tolerance: 1e-13, ..IterationOptions::default() };
            let problem = Problem {
                coordinates: vec![Coordinate::Log, Coordinate::Linear, Coordinate::Log],
                ..Problem::new([4.0, 1.0, 2.0], Coordinate::Log)
            };
            let mut history = History::default();
            let report = solve_observed(&problem, &options, &mut history, contraction).unwrap();
            assert_eq!(report.status, Status::Converged, "{method:?}");
            for (value, exact) in report.point.iter().zip([1.0, 2.0, 3.0]) {
                approx::assert_relative_eq!(*value, exact, max_relative = 1e-12);
            }
            assert_eq!(history.iterates.len(), report.iterations);
            assert!(history.iterates.iter().all(|(_, residual)| *residual >= report.residual));
        }
    }

    #[test]
    fn anderson_needs_fewer_steps_and_solves_a_linear_map_at_once_with_its_slopes() {
        let slow = |[x, y]: &[f64; 2]| [1.0 + 0.95 * (x - 1.0) + 0.02 * y, 0.9 * y];
        let count = |method, secants| {
            let options = IterationOptions { method, tolerance: 1e-12, ..IterationOptions::default() };
            let problem = Problem { secants, ..Problem::new([3.0, 2.0], Coordinate::Linear) };
            let report = solve(&problem, &options, slow).unwrap();
            assert_eq!(report.status, Status::Converged);
            report.iterations
        };
        let far = Method::Anderson { memory: 5, mixing: 0.7, warmup: 2, max_step: 10.0 };
        assert!(10 * count(far, vec![]) < count(Method::Picard, vec![]));
        let slopes = vec![
            Secant { step: [1.0, 0.0], residual_change: [-0.05, 0.0] },
            Secant { step: [0.0, 1.0], residual_change: [0.02, -0.1] },
        ];
        assert_eq!(count(far, slopes), 2);
    }

    #[test]
    fn an_iteration_with_slopes_may_end_one_step_early() {
        let map = |&[x]: &[f64; 1]| [1.0 + 0.9 * (x - 1.0)];
        let judged = |x: &[f64; 1]| JudgedImage { image: map(x), accepted: 1e-9, near: 0.3 };
        let slope = Secant { step: [1.0], residual_change: [-0.1] };
        let options = IterationOptions {
            method: Method::Anderson { memory: 2, mixing: 1.0, warmup: 0, max_step: 10.0 },
            tolerance: 0.0,
            ..IterationOptions::default()
        };
        let ended = |secants| {
            let problem = Problem { secants, ..Problem::new([3.0], Coordinate::Linear) };
            solve_judged(&problem, &options, &mut Unobserved, judged).unwrap()
        };
        // The residual of the start is -0.2.
        let Halt { report, ahead } = ended(vec![slope]);
        assert_eq!((report.status, report.iterations, report.point), (Status::Converged, 1, [3.0]));
        approx::assert_relative_eq!(report.residual, 0.2, max_relative = 1e-12);
        approx::assert_relative_eq!(ahead.unwrap()[0], 1.0, max_relative = 1e-12);
        // Without a slope, the first step is a guess, and its end is evaluated.
        assert!(ended(vec![]).ahead.is_none());
    }

    #[test]
    fn damping_cannot_fake_convergence() {
        // A damped step of 1e-6 times the residual is tiny at once; the undamped residual is not.
        let options = IterationOptions {
            method: Method::Damped { mixing: 1e-6 },
            tolerance: 1e-5,
            max_iterations: 10,
            ..IterationOptions::default()
        };
        let problem = Problem::new([1.0], Coordinate::Linear);
        let report = solve(&problem, &options, |[x]| [x + 1.0]).unwrap();
        assert_eq!(report.status, Status::MaxIterations);
        approx::assert_relative_eq!(report.residual, 1.0);
    }

    #[test]
    fn a_map_that_jumps_stalls_and_returns_its_best_iterate() {
        // No fixed point: the map overshoots on both sides of 0.
        for method in METHODS {
            let options = IterationOptions { method, tolerance: 1e-12, ..IterationOptions::default() };
            let problem = Problem::new([0.3], Coordinate::Linear);
            let mut history = History::default();
            let map = |[x]: &[f64; 1]| [if *x > 0.0 { -1e-3 } else { 1e-3 }];
            let report = solve_observed(&problem, &options, &mut history, map).unwrap();
            assert_eq!(report.status, Status::Stalled, "{method:?}");
            let residuals = history.iterates.iter().map(|(_, residual)| *residual);
            let least = residuals.fold(f64::INFINITY, f64::min);
            approx::assert_relative_eq!(report.residual, least);
        }
    }

    #[test]
    fn not_a_number_is_never_success() {
        let problem = Problem::new([1.0], Coordinate::Log);
        let report = solve(&problem, &IterationOptions::default(), |_| [f64::NAN]).unwrap();
        assert_eq!(report.status, Status::NonFinite);
        assert!(report.residual.is_infinite());
        // A map that is finite near its fixed point only: the iteration comes back from the outside.
        let narrow = |&[x]: &[f64; 1]| [if x < 2.5 { 2.0 - 2.0 * (x - 2.0) } else { f64::NAN }];
        let problem = Problem::new([1.9], Coordinate::Linear);
        let report = solve(&problem, &IterationOptions::default(), narrow).unwrap();
        assert_eq!(report.status, Status::Converged);
        approx::assert_relative_eq!(report.point[0], 2.0, max_relative = 1e-9);
    }

    #[test]
    fn bad_options_and_starts_are_errors() {
        let problem = Problem::new([1.0], Coordinate::Log);
        let bad = [
            IterationOptions { tolerance: f64::NAN, ..IterationOptions::default() },
            IterationOptions { max_iterations: 0, ..IterationOptions::default() },
            IterationOptions { patience: 0, ..IterationOptions::default() },
            IterationOptions { method: Method::Damped { mixing: 0.0 }, ..IterationOptions::default() },
            IterationOptions {
                method: Method::Anderson { memory: 0, mixing: 0.5, warmup: 0, max_step: 1.0 },
                ..IterationOptions::default()
            },
            IterationOptions {
                method: Method::Anderson { memory: 1, mixing: 0.5, warmup: 0, max_step: f64::NAN },
                ..IterationOptions::default()
            },
        ];
        for options in bad {
            assert!(solve(&problem, &options, |x| *x).is_err(), "{options:?}");
        }
        let negative = Problem::new([-1.0], Coordinate::Log);
        assert!(solve(&negative, &IterationOptions::default(), |x| *x).is_err());
        let mut mixed = Problem::new(vec![1.0, 2.0], Coordinate::Log);
        assert!(
            solve(&mixed, &IterationOptions::default(), |x| x[..1].to_vec()).is_err(),
            "an image of another length"
        );
        mixed.coordinates = vec![Coordinate::Log; 3];
        assert!(solve(&mixed, &IterationOptions::default(), Vec::clone).is_err());
    }

    #[test]
    fn arrays_and_vectors_go_the_same_way() {
        let map = |x: &[f64]| [(0.5 * x[1].ln()).exp(), 1.0 + 0.3 * x[0]];
        let array = Problem::new([4.0, 1.0], Coordinate::Log);
        let vector = Problem::new(vec![4.0, 1.0], Coordinate::Log);
        let options = IterationOptions::default();
        let from_array = solve(&array, &options, |x| map(x)).unwrap();
        let from_vector = solve(&vector, &options, |x| map(x).to_vec()).unwrap();
        assert_eq!(from_array.point.to_vec(), from_vector.point);
        assert_eq!(from_array.iterations, from_vector.iterations);
    }
}
