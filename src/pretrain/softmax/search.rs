//! The search for the fixed point: a ladder of accuracy levels, and continuation in the ridge.

use super::equations::{Equations, contested, mean};
use super::nodes::{Averages, COUNT, Label, OutputChannel, Point};
use crate::divergence::Divergence;
use crate::error::Error;
use crate::fixed_point::{self, Coordinate, Method, Problem, Report, Sensitivity, Status, max_norm, noise};
use crate::options::Options;

/// Residual at which the first, the middle levels hand over to the next.
const FIRST_TOLERANCE: f64 = 1e-4;
const MIDDLE_TOLERANCE: f64 = 1e-6;
/// Residual of the first level that is close enough to go on.
const CLOSE: f64 = 1e-2;
/// Norm of the learned weights, over that of the truth and its noise, beyond which an iteration has run away.
const RUNAWAY: f64 = 25.0;
/// Ridge, over that of collapse, below which a cold start is not tried.
const COLD: f64 = 0.1;

/// A fixed point in scaled units.
pub(super) struct Found {
    pub(super) point: Point,
    pub(super) averages: Averages,
    pub(super) status: Status,
    pub(super) residual: f64,
    /// Fixed point and averages of every scramble by itself, to first order.
    pub(super) replicates: Vec<(Point, Averages)>,
}

pub(super) struct Search<'a, 'b> {
    pub(super) channel: &'a mut dyn OutputChannel,
    pub(super) equations: Equations<'b>,
    pub(super) options: &'a Options,
    /// The solution of a similar problem.
    pub(super) warm: Option<Point>,
    pub(super) iterations: usize,
}

impl Search<'_, '_> {
    /// `collapse` is the ridge of collapse, above the one of the equations.
    pub(super) fn run(&mut self, collapse: f64) -> Result<Found, Error> {
        let start = self.start(collapse)?;
        let found = self.ladder(start)?;
        let smooth = self.equations.divergence == Divergence::PointwiseAndJump;
        if smooth && contested(&found.averages) > 0.0 {
            // A single sample with several minima may jump between them.
            self.equations.divergence = Divergence::IntegrationByParts;
            return self.ladder(found.point);
        }
        Ok(found)
    }

    /// The neighbourhood of the fixed point, at the cheapest level.
    fn start(&mut self, collapse: f64) -> Result<Point, Error> {
        let target = self.equations.ridge;
        // From far outside of what solutions are like, the nodes would remember nonsense.
        let Label { q0, delta } = self.equations.label;
        let norm = q0 + 0.5 * delta;
        let plausible = |warm: &Point| {
            let within = |x: f64, unit: f64, factor: f64| x > unit / factor && x < unit * factor;
            within(warm.m, q0, 1e3) && within(warm.s2, norm, 1e6) && within(warm.v, self.equations.scale, 1e4)
        };
        if let Some(warm) = self.warm.filter(plausible)
            && let Ok(report) = self.approach(warm)
            && self.acceptable(&report)
        {
            return Ok(point_at(&report.point));
        }
        if target > COLD * collapse {
            let report = self.approach(self.guess(target / collapse))?;
            if self.acceptable(&report) {
                return Ok(point_at(&report.point));
            }
        }
        self.continue_to(target, collapse)
    }

    /// A first guess at a ridge `closeness` times that of collapse.
    fn guess(&self, closeness: f64) -> Point {
        let shrink = 1.0 - closeness;
        let label = self.equations.label;
        let norm = label.q0 + 0.5 * label.delta;
        let m = 0.6 * label.q0 * shrink;
        Point { m, s2: (0.25 * m * m / norm).max(0.1 * norm * shrink * shrink), v: self.equations.scale }
    }

    /// Continuation in the ridge, downwards; the steps adapt. If the path cannot be followed, its last point: the residual
    /// will tell.
    fn continue_to(&mut self, target: f64, collapse: f64) -> Result<Point, Error> {
        const SMALLEST_STEP: f64 = 0.02;
        let (mut position, mut point) = (0.0, self.guess(0.5));
        for closeness in [0.5_f64, 0.7, 0.85, 0.95] {
            position = (closeness.max(target / collapse) * collapse).ln();
            let report = self.approach_at(position.exp(), self.guess(closeness))?;
            point = point_at(&report.point);
            if self.acceptable(&report) {
                break;
            }
        }
        // A ridge of zero is the end of the path like any other small one.
        let end = target.max(1e-6 * collapse).ln();
        let mut step: f64 = 1.0;
        while position > end && step > SMALLEST_STEP && self.iterations < self.options.max_iterations() {
            let next = (position - step).max(end);
            let report = self.approach_at(next.exp(), point)?;
            if self.acceptable(&report) {
                point = point_at(&report.point);
                position = next;
                step *= 1.5;
            } else {
                step *= 0.4;
            }
        }
        Ok(point)
    }

    fn acceptable(&self, report: &Report<3>) -> bool {
        let label = self.equations.label;
        let [q, _] = self.equations.overlaps(&point_at(&report.point));
        report.residual <= CLOSE && q * self.equations.scale < RUNAWAY * (label.q0 + label.delta)
    }

    fn approach_at(&mut self, ridge: f64, start: Point) -> Result<Report<3>, Error> {
        let wanted = std::mem::replace(&mut self.equations.ridge, ridge);
        let report = self.approach(start);
        self.equations.ridge = wanted;
        report
    }

    fn approach(&mut self, start: Point) -> Result<Report<3>, Error> {
        let method = Method::Anderson { memory: 5, mixing: 0.7, warmup: 4, max_step: 0.7 };
        let problem = problem(start);
        self.channel.replicates(0, &start, true);
        let report = self.iterate(0, FIRST_TOLERANCE, 60, 12, method, &problem)?;
        if report.residual <= CLOSE {
            return Ok(report);
        }
        self.iterate(0, FIRST_TOLERANCE, 60, 20, Method::Damped { mixing: 0.5 }, &problem)
    }

    /// From the neighbourhood of the fixed point to the finest level.
    fn ladder(&mut self, start: Point) -> Result<Found, Error> {
        let finest = self.channel.levels() - 1;
        let cheap = 1.min(finest);
        let mut problem = problem(start);
        self.channel.replicates(cheap, &start, true);
        let x = problem.start;
        let sensitivity = Sensitivity::measure(&x, |x| self.residual_and_averages(cheap, x, false));
        problem.secants = sensitivity.secants();
        let newton = Method::Anderson { memory: 5, mixing: 1.0, warmup: 0, max_step: 0.3 };
        let mut report = None;
        for level in cheap..=finest {
            let tolerance = if level == finest { self.options.accuracy().aim() } else { MIDDLE_TOLERANCE };
            self.channel.replicates(level, &point_at(&problem.start), true);
            let found = self.iterate(level, tolerance, 60, 10, newton, &problem)?;
            problem.start = found.point;
            report = Some(found);
        }
        // The residual that is reported, and whether any sample has several minima.
        let mut replicates = self.confirm(&problem.start);
        let mut residual = self.residual(&problem.start, &mean(&replicates));
        if max_norm(&residual) > self.options.accuracy().aim() {
            let found = self.iterate(finest, self.options.accuracy().aim(), 30, 10, newton, &problem)?;
            problem.start = found.point;
            report = Some(found);
            replicates = self.confirm(&problem.start);
            residual = self.residual(&problem.start, &mean(&replicates));
        }
        let point = point_at(&problem.start);
        let averages = mean(&replicates);
        let differences: Vec<[f64; 3]> = replicates
            .iter()
            .map(|own| {
                let own = self.residual(&problem.start, own);
                std::array::from_fn(|i| own[i] - residual[i])
            })
            .collect();
        let residual = max_norm(&residual);
        let ended = report.map_or(Status::Stalled, |report| report.status);
        let status = self.status(ended, residual, &differences);
        let replicates = replicates
            .into_iter()
            .zip(sensitivity.shifts(&differences))
            .map(|(own, shift)| {
                let moved = std::array::from_fn(|i| problem.start[i] * shift[i].exp());
                (point_at(&moved), sensitivity.moved(own, &shift))
            })
            .collect();
        Ok(Found { point, averages, status, residual, replicates })
    }

    /// The averages at a point as it is reported: at the finest level, from all starts, without any memory of proximal points.
    fn confirm(&mut self, x: &[f64; 3]) -> Vec<Averages> {
        self.channel.forget();
        self.channel.replicates(self.channel.levels() - 1, &point_at(x), true)
    }

    fn status(&self, ended: Status, residual: f64, differences: &[[f64; 3]]) -> Status {
        let tolerance = self.options.accuracy();
        if residual <= tolerance.aim() {
            return Status::Converged;
        }
        if !residual.is_finite() {
            return Status::NonFinite;
        }
        let exhausted = self.iterations >= self.options.max_iterations();
        match ended {
            Status::MaxIterations if exhausted => Status::MaxIterations,
            _ if tolerance.excuses(residual, differences) => Status::Converged,
            _ if differences.len() > 1 && residual <= noise(differences) => Status::NoiseLimited,
            _ => Status::Stalled,
        }
    }

    fn iterate(
        &mut self,
        level: usize,
        tolerance: f64,
        evaluations: usize,
        patience: usize,
        method: Method,
        problem: &Problem<3>,
    ) -> Result<Report<3>, Error> {
        let allowed = self.options.max_iterations().saturating_sub(self.iterations);
        let options = fixed_point::Options {
            tolerance,
            max_iterations: allowed.min(evaluations).max(1),
            method,
            patience,
            record_history: false,
        };
        let report = fixed_point::solve(problem, &options, |x| {
            let (residual, _) = self.residual_and_averages(level, &x, false);
            std::array::from_fn(|i| x[i] * residual[i].exp())
        })?;
        // An evaluation beyond the bound moves nothing: it measures the residual of where the iterations ended.
        self.iterations += report.iterations.min(allowed);
        Ok(report)
    }

    fn residual_and_averages(&mut self, level: usize, x: &[f64; 3], thorough: bool) -> ([f64; 3], Averages) {
        let averages: [f64; COUNT] = mean(&self.channel.replicates(level, &point_at(x), thorough));
        (self.residual(x, &averages), averages)
    }

    /// In logarithms. Where the threshold leaves nothing of an overshoot, a step back towards small weights.
    fn residual(&self, x: &[f64; 3], averages: &Averages) -> [f64; 3] {
        match self.equations.image(&point_at(x), averages) {
            Some(image) => {
                let Point { m, s2, v } = self.equations.point(&image.order);
                [(m / x[0]).ln(), (s2 / x[1]).ln(), (v / x[2]).ln()]
            }
            None => [-0.5, -1.0, -0.5],
        }
    }
}

fn problem(start: Point) -> Problem<3> {
    Problem::new([start.m, start.s2, start.v], [Coordinate::Log; 3])
}

fn point_at(x: &[f64; 3]) -> Point {
    Point { m: x[0], s2: x[1], v: x[2] }
}
