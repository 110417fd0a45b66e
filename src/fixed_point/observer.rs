//! An observer watches an iteration from outside: for progress, for a history, or to cancel it.

use std::ops::ControlFlow;

/// One evaluation of the map, as an [`Observer`] sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Iterate<'a> {
    /// The point, in physical coordinates.
    pub point: &'a [f64],
    /// The undamped residual of the point (infinite where the map was not finite).
    pub residual: f64,
    /// Number of evaluations so far, this one included.
    pub iteration: usize,
}

/// An observer is shown every iterate of a solve, and may end the solve.
///
/// The solvers may call an observer from another thread than the caller's, but never from two at once.
/// A solve that is ended has the status `interrupted` and returns the best iterate so far.
///
/// ```
/// use std::ops::ControlFlow;
/// use lora_asymptotics::fixed_point::{self, Coordinate, Iterate, Observer, Options, Problem, Status};
///
/// struct AtMost(usize);
///
/// impl Observer for AtMost {
///     fn iterate(&mut self, iterate: &Iterate<'_>) -> ControlFlow<()> {
///         if iterate.iteration < self.0 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
///     }
/// }
///
/// let problem = Problem::new([0.5], Coordinate::Log);
/// let report = fixed_point::solve_observed(&problem, &Options::default(), &mut AtMost(3), |[m]| [(m / 0.9).tanh()])?;
/// assert_eq!((report.status, report.iterations), (Status::Interrupted, 3));
/// # Ok::<(), lora_asymptotics::Error>(())
/// ```
pub trait Observer: Send {
    /// Called after every evaluation of the map. [`ControlFlow::Break`] ends the solve.
    fn iterate(&mut self, iterate: &Iterate<'_>) -> ControlFlow<()>;
}

/// An observer that does nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn iterate(&mut self, _: &Iterate<'_>) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// An observer that records every point and its residual, in order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct History {
    /// The points in physical coordinates, each with its undamped residual.
    pub iterates: Vec<(Vec<f64>, f64)>,
}

impl Observer for History {
    fn iterate(&mut self, iterate: &Iterate<'_>) -> ControlFlow<()> {
        self.iterates.push((iterate.point.to_vec(), iterate.residual));
        ControlFlow::Continue(())
    }
}
