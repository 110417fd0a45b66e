//! Fixed points `x = F(x)` of small systems of self-consistent equations.
//!
//! State evolutions are iterated maps of a handful of order parameters. This module iterates any such map, given
//! as a closure on `[f64; N]`, by Picard iteration, damped iteration or Anderson acceleration, in linear or
//! logarithmic coordinates. It is used by the solvers of this crate and meant for yours:
//!
//! ```
//! use lora_asymptotics::fixed_point::{self, Coordinate, Options, Problem, Status};
//!
//! // The magnetisation of a mean-field magnet, m = tanh(m / t), at temperature t = 0.9.
//! let options = Options { tolerance: 1e-13, ..Options::default() };
//! let problem = Problem::new([0.5], [Coordinate::Log]);
//! let report = fixed_point::solve(&problem, &options, |[m]| [(m / 0.9).tanh()])?;
//! assert_eq!(report.status, Status::Converged);
//! assert!((report.point[0] - 0.525_429_512_658).abs() < 1e-11);
//! # Ok::<(), lora_asymptotics::Error>(())
//! ```
//!
//! What it promises:
//! - It stops on the *undamped* residual `max_i |F(x)_i - x_i|`, in the coordinates iterated on; neither damping nor
//!   a small step can fake convergence.
//! - It returns the iterate with the smallest residual it has seen, together with that residual.
//! - A residual that stops improving leads to one fall-back to damped iteration, then to [`Status::Stalled`].
//! - NaN and infinities never count as success: the iteration steps back towards the best iterate a few times, then
//!   gives up with [`Status::NonFinite`].

mod anderson;
mod sensitivity;
mod tolerance;

use crate::error::Error;
use anderson::Anderson;

pub use crate::status::Status;
pub(crate) use sensitivity::{Sensitivity, noise};
pub(crate) use tolerance::Tolerance;

/// How one component of the vector is iterated on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coordinate {
    /// As it is.
    Linear,
    /// Through its logarithm: for quantities that are positive, and whose relative error matters.
    Log,
}

impl Coordinate {
    fn to_iterated(self, value: f64) -> f64 {
        match self {
            Self::Linear => value,
            Self::Log => value.ln(),
        }
    }

    fn to_physical(self, value: f64) -> f64 {
        match self {
            Self::Linear => value,
            Self::Log => value.exp(),
        }
    }
}

/// The update rule. `r = F(x) - x` is the residual.
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

/// When to stop, and what to record.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// Largest undamped residual of a converged point; finite and >= 0.
    pub tolerance: f64,
    /// Bound on the number of evaluations of the map, at least 1.
    pub max_iterations: usize,
    /// The update rule.
    pub method: Method,
    /// Number of evaluations without a 10% lower residual after which the iteration has stalled, at least 1. An iteration
    /// that has to leave the neighbourhood of an unstable fixed point first needs more of it.
    pub patience: usize,
    /// Whether [`Report::history`] is filled.
    pub record_history: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tolerance: 1e-10,
            max_iterations: 1000,
            method: Method::default(),
            patience: 40,
            record_history: false,
        }
    }
}

impl Options {
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

/// A pair of differences between two iterates, in the coordinates iterated on: what is known about the slope of the
/// residual before the iteration starts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Secant<const N: usize> {
    /// Difference of two points.
    pub step: [f64; N],
    /// Difference of their residuals.
    pub residual_change: [f64; N],
}

/// Where to start, and in which coordinates.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem<const N: usize> {
    /// First iterate (positive where the coordinate is [`Coordinate::Log`]).
    pub start: [f64; N],
    /// The coordinates iterated on.
    pub coordinates: [Coordinate; N],
    /// Known slopes, for Anderson acceleration: finite differences of a cheaper version of the same map, say. With
    /// any, there is no warm-up.
    pub secants: Vec<Secant<N>>,
}

impl<const N: usize> Problem<N> {
    /// A problem without known slopes.
    #[must_use]
    pub fn new(start: [f64; N], coordinates: [Coordinate; N]) -> Self {
        Self { start, coordinates, secants: Vec::new() }
    }

    /// `point` in the coordinates iterated on.
    #[must_use]
    pub fn iterated(&self, point: &[f64; N]) -> [f64; N] {
        std::array::from_fn(|i| self.coordinates[i].to_iterated(point[i]))
    }

    /// The inverse of [`Problem::iterated`].
    #[must_use]
    pub fn physical(&self, iterated: &[f64; N]) -> [f64; N] {
        std::array::from_fn(|i| self.coordinates[i].to_physical(iterated[i]))
    }
}

/// One evaluation of the map.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Iterate<const N: usize> {
    /// The point, in physical coordinates.
    pub point: [f64; N],
    /// Its undamped residual (infinite where the map was not finite).
    pub residual: f64,
}

/// How an iteration ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Report<const N: usize> {
    /// The iterate with the smallest residual, in physical coordinates.
    pub point: [f64; N],
    /// Its undamped residual, `max_i |F(x)_i - x_i|` in the coordinates iterated on.
    pub residual: f64,
    /// Number of evaluations of the map.
    pub iterations: usize,
    /// How the iteration ended.
    pub status: Status,
    /// Every evaluation in order, if [`Options::record_history`] is set.
    pub history: Vec<Iterate<N>>,
}

/// The best point so far, in the coordinates iterated on.
struct Best<const N: usize> {
    point: [f64; N],
    residual: [f64; N],
    norm: f64,
}

/// Iterates `map` from `problem.start` until `x = map(x)` to `options.tolerance`.
///
/// # Errors
/// [`Error::InvalidParameter`] for options out of range, secants that are not finite, or a start that is not finite in
/// the coordinates iterated on. A solve that does not converge is not an error: see [`Report::status`].
pub fn solve<const N: usize>(
    problem: &Problem<N>,
    options: &Options,
    mut map: impl FnMut([f64; N]) -> [f64; N],
) -> Result<Report<N>, Error> {
    const MAX_RETREATS: usize = 12;
    options.validate()?;
    let mut x = problem.iterated(&problem.start);
    let finite =
        |secant: &Secant<N>| secant.step.iter().chain(&secant.residual_change).all(|c| c.is_finite());
    if !problem.secants.iter().all(finite) {
        return Err(Error::invalid("secants", format!("{:?}", problem.secants), "finite"));
    }
    if !x.iter().all(|c| c.is_finite()) {
        let allowed = "finite, and > 0 in logarithmic coordinates";
        return Err(Error::invalid("start", format!("{:?}", problem.start), allowed));
    }

    let mut history = Vec::new();
    let mut rule = Rule::new(options.method, &problem.secants);
    let mut best = Best { point: x, residual: [0.0; N], norm: f64::INFINITY };
    let mut milestone = f64::INFINITY;
    let mut since_milestone = 0;
    let mut retreats = 0;
    let mut fell_back = false;
    let mut iterations = 0;

    let status = loop {
        if iterations == options.max_iterations {
            break Status::MaxIterations;
        }
        iterations += 1;
        let image = problem.iterated(&map(problem.physical(&x)));
        let residual: [f64; N] = std::array::from_fn(|i| image[i] - x[i]);
        let norm = max_norm(&residual);
        if options.record_history {
            history.push(Iterate { point: problem.physical(&x), residual: norm });
        }
        if norm < best.norm {
            best = Best { point: x, residual, norm };
        }
        if norm <= options.tolerance {
            break Status::Converged;
        }
        if norm.is_infinite() {
            retreats += 1;
            if best.norm.is_infinite() || retreats > MAX_RETREATS {
                break Status::NonFinite;
            }
            rule.forget();
            x = std::array::from_fn(|i| 0.5 * (x[i] + best.point[i]));
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
            rule = Rule::Mix(0.5);
            x = step_from(&best.point, &best.residual, 0.5);
        } else if norm > 10.0 * best.norm && rule.forget() {
            // An extrapolation that went astray: go back, and build the memory anew.
            x = step_from(&best.point, &best.residual, 0.5);
        } else {
            x = rule.next(&x, &residual);
        }
    };
    Ok(Report { point: problem.physical(&best.point), residual: best.norm, iterations, status, history })
}

/// The update rule together with its memory.
enum Rule<const N: usize> {
    Mix(f64),
    Accelerate(Anderson<N>),
}

impl<const N: usize> Rule<N> {
    fn new(method: Method, secants: &[Secant<N>]) -> Self {
        match method {
            Method::Picard => Self::Mix(1.0),
            Method::Damped { mixing } => Self::Mix(mixing),
            Method::Anderson { memory, mixing, warmup, max_step } => {
                Self::Accelerate(Anderson::new(memory, mixing, warmup, max_step, secants))
            }
        }
    }

    fn next(&mut self, x: &[f64; N], residual: &[f64; N]) -> [f64; N] {
        match self {
            Self::Mix(mixing) => step_from(x, residual, *mixing),
            Self::Accelerate(anderson) => anderson.next(x, residual),
        }
    }

    /// Drops the memory; tells whether there was any.
    fn forget(&mut self) -> bool {
        match self {
            Self::Mix(_) => false,
            Self::Accelerate(anderson) => anderson.forget(),
        }
    }
}

fn step_from<const N: usize>(x: &[f64; N], residual: &[f64; N], mixing: f64) -> [f64; N] {
    std::array::from_fn(|i| x[i] + mixing * residual[i])
}

/// The largest absolute component; infinite if any component is not finite.
pub(crate) fn max_norm<const N: usize>(r: &[f64; N]) -> f64 {
    r.iter().fold(0.0, |m, c| if c.is_finite() { c.abs().max(m) } else { f64::INFINITY })
}

#[cfg(test)]
mod tests {
    use super::*;

    const METHODS: [Method; 3] = [
        Method::Picard,
        Method::Damped { mixing: 0.6 },
        Method::Anderson { memory: 5, mixing: 0.7, warmup: 2, max_step: 0.7 },
    ];

    /// A contraction with a known fixed point, (1, 2, 3).
    fn contraction([x, y, z]: [f64; 3]) -> [f64; 3] {
        [
            (0.5 * (x.ln() + (y - 2.0) / 3.0)).exp(),
            2.0 + 0.4 * (z - 3.0) + 0.3 * (y - 2.0),
            3.0 + 0.8 * (x - 1.0),
        ]
    }

    #[test]
    fn every_method_finds_the_fixed_point() {
        for method in METHODS {
            let options = Options { method, tolerance: 1e-13, record_history: true, ..Options::default() };
            let problem =
                Problem::new([4.0, 1.0, 2.0], [Coordinate::Log, Coordinate::Linear, Coordinate::Log]);
            let report = solve(&problem, &options, contraction).unwrap();
            assert_eq!(report.status, Status::Converged, "{method:?}");
            for (value, exact) in report.point.iter().zip([1.0, 2.0, 3.0]) {
                approx::assert_relative_eq!(*value, exact, max_relative = 1e-12);
            }
            assert_eq!(report.history.len(), report.iterations);
            assert!(report.history.iter().all(|h| h.residual >= report.residual));
        }
    }

    #[test]
    fn anderson_needs_fewer_steps_and_solves_a_linear_map_at_once_with_its_slopes() {
        let slow = |[x, y]: [f64; 2]| [1.0 + 0.95 * (x - 1.0) + 0.02 * y, 0.9 * y];
        let count = |method, secants| {
            let options = Options { method, tolerance: 1e-12, ..Options::default() };
            let problem = Problem { secants, ..Problem::new([3.0, 2.0], [Coordinate::Linear; 2]) };
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
    fn damping_cannot_fake_convergence() {
        // A damped step of 1e-6 times the residual is tiny at once; the undamped residual is not.
        let options = Options {
            method: Method::Damped { mixing: 1e-6 },
            tolerance: 1e-5,
            max_iterations: 10,
            ..Options::default()
        };
        let problem = Problem::new([1.0], [Coordinate::Linear]);
        let report = solve(&problem, &options, |[x]| [x + 1.0]).unwrap();
        assert_eq!(report.status, Status::MaxIterations);
        approx::assert_relative_eq!(report.residual, 1.0);
    }

    #[test]
    fn a_map_that_jumps_stalls_and_returns_its_best_iterate() {
        // No fixed point: the map overshoots on both sides of 0.
        for method in METHODS {
            let options = Options { method, tolerance: 1e-12, record_history: true, ..Options::default() };
            let problem = Problem::new([0.3], [Coordinate::Linear]);
            let report = solve(&problem, &options, |[x]| [if x > 0.0 { -1e-3 } else { 1e-3 }]).unwrap();
            assert_eq!(report.status, Status::Stalled, "{method:?}");
            let least = report.history.iter().map(|h| h.residual).fold(f64::INFINITY, f64::min);
            approx::assert_relative_eq!(report.residual, least);
        }
    }

    #[test]
    fn not_a_number_is_never_success() {
        let problem = Problem::new([1.0], [Coordinate::Log]);
        let report = solve(&problem, &Options::default(), |_| [f64::NAN]).unwrap();
        assert_eq!(report.status, Status::NonFinite);
        assert!(report.residual.is_infinite());
        // A map that is finite near its fixed point only: the iteration comes back from the outside.
        let narrow = |[x]: [f64; 1]| [if x < 2.5 { 2.0 - 2.0 * (x - 2.0) } else { f64::NAN }];
        let problem = Problem::new([1.9], [Coordinate::Linear]);
        let report = solve(&problem, &Options::default(), narrow).unwrap();
        assert_eq!(report.status, Status::Converged);
        approx::assert_relative_eq!(report.point[0], 2.0, max_relative = 1e-9);
    }

    #[test]
    fn bad_options_and_starts_are_errors() {
        let problem = Problem::new([1.0], [Coordinate::Log]);
        let bad = [
            Options { tolerance: f64::NAN, ..Options::default() },
            Options { max_iterations: 0, ..Options::default() },
            Options { patience: 0, ..Options::default() },
            Options { method: Method::Damped { mixing: 0.0 }, ..Options::default() },
            Options {
                method: Method::Anderson { memory: 0, mixing: 0.5, warmup: 0, max_step: 1.0 },
                ..Options::default()
            },
            Options {
                method: Method::Anderson { memory: 1, mixing: 0.5, warmup: 0, max_step: f64::NAN },
                ..Options::default()
            },
        ];
        for options in bad {
            assert!(solve(&problem, &options, |x| x).is_err(), "{options:?}");
        }
        let negative = Problem::new([-1.0], [Coordinate::Log]);
        assert!(solve(&negative, &Options::default(), |x| x).is_err());
    }
}
