//! The search for the fixed points: two starts, a ladder of accuracy levels, and the choice between the results.

use super::moments::{COUNT, Moments, OutputChannel, Point};
use super::ridge::{Ridge, SMALLEST_S2};
use super::solution::Branch;
use super::validity::Validity;
use crate::divergence::Divergence;
use crate::error::Error;
use crate::fixed_point::{self, Coordinate, Method, Problem, Report, Sensitivity, Status, max_norm, noise};
use crate::options::{Options, Start};
use crate::verdict::Verdict;

/// Residual at which the first, the middle levels hand over to the next.
const FIRST_TOLERANCE: f64 = 1e-4;
const MIDDLE_TOLERANCE: f64 = 1e-6;
/// Residual of the first level that is no cause for alarm: its own jumps may keep it from the tolerance.
const CLOSE: f64 = 1e-2;
/// Residual of the first level beyond which finer ones will not help.
const HOPELESS: f64 = 0.1;
/// `m^2/q` below which an iterate is on its way to `m = 0`.
const VANISHING: f64 = 1e-10;
/// `m^2/q` below which an iteration that has stalled may be slowly losing its overlap.
const WEAK: f64 = 0.01;
/// `q` below which the weights may be about to vanish altogether.
const GONE: f64 = 1e-4;
/// Share of the jumps in `vhat` above which integration by parts has the smaller error.
const JUMPS_DOMINATE: f64 = 0.13;

/// A fixed point in units of `q0`, and what is known about it.
pub(super) struct Found {
    pub(super) point: Point,
    pub(super) moments: Moments,
    pub(super) ridge: Ridge,
    pub(super) branch: Branch,
    pub(super) status: Status,
    pub(super) residual: f64,
    pub(super) iterations: usize,
    /// Fixed point and averages of every scramble by itself, to first order.
    pub(super) replicates: Vec<(Point, Moments)>,
}

impl Found {
    pub(super) fn validity(&self) -> Validity {
        self.ridge.validity(&self.point, &self.moments)
    }

    /// At `m = 0`: what a small overlap is multiplied by in one iteration.
    pub(super) fn growth(&self) -> f64 {
        self.ridge.growth(&self.point, &self.moments)
    }

    /// At `m = 0`: whether a small overlap shrinks.
    fn is_stable(&self) -> bool {
        self.growth() <= 1.0
    }

    fn objective(&self) -> f64 {
        self.ridge.objective(&self.point, &self.moments)
    }
}

/// What the starts are made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Guess {
    /// Standard deviation of what the frozen weights leave of the label's logits.
    pub(super) noise: f64,
    /// Typical `vhat/alpha'`.
    pub(super) curvature: f64,
}

/// The point with coordinates `(m, s2, v)`, or `(s2, v)` at `m = 0`.
fn point_at<const N: usize>(x: &[f64; N]) -> Point {
    Point { m: if N == 3 { x[0] } else { 0.0 }, s2: x[N - 2], v: x[N - 1] }
}

fn coordinates<const N: usize>(point: &Point) -> [f64; N] {
    let all = [point.m, point.s2, point.v];
    std::array::from_fn(|i| all[3 - N + i])
}

/// How long to iterate.
#[derive(Clone, Copy)]
struct Effort {
    tolerance: f64,
    evaluations: usize,
    patience: usize,
}

pub(super) struct Search<'a> {
    channel: &'a mut dyn OutputChannel,
    ridge: Ridge,
    guess: Guess,
    options: &'a Options,
    /// A solution of a similar problem.
    warm: Option<Point>,
    /// Iterations spent on the fixed point in hand.
    iterations: usize,
}

/// A point, evaluated once more at the finest level without any memory of proximal points.
struct Confirmed<const N: usize> {
    /// Undamped residual.
    residual: f64,
    replicates: Vec<Moments>,
    moments: Moments,
    /// Distances of the images of every replicate from the common one.
    differences: Vec<[f64; N]>,
}

impl<'a> Search<'a> {
    pub(super) fn new(
        ridge: Ridge,
        guess: Guess,
        options: &'a Options,
        channel: &'a mut dyn OutputChannel,
    ) -> Self {
        Self { channel, ridge, guess, options, warm: None, iterations: 0 }
    }

    /// Looks for an overlap near `warm` first.
    pub(super) fn starting_from(self, warm: Option<Point>) -> Self {
        Self { warm, ..self }
    }

    pub(super) fn run(mut self, start: Start) -> Result<Found, Error> {
        match start {
            Start::Informed => self.informed(),
            Start::Uninformed => self.uninformed(),
            Start::Best => {
                let informed = self.informed()?;
                let settled = informed.status == Status::NonFinite
                    || informed.point.m <= 0.0
                    || informed.validity().verdict == Verdict::Unreliable;
                if settled {
                    return Ok(informed);
                }
                let nothing = match self.vanished(Branch::Uninformed) {
                    Some(vanished) => vanished,
                    None if self.nothing_may_be_better(&informed)? => {
                        self.ladder(self.start_of_nothing(), Branch::Uninformed)?
                    }
                    None => return Ok(informed),
                };
                // Where it is unstable, or outside the validity of replica symmetry, its objective means nothing.
                let trusted = nothing.status.is_success()
                    && nothing.is_stable()
                    && nothing.validity().verdict != Verdict::Unreliable;
                Ok(if trusted && nothing.objective() < informed.objective() { nothing } else { informed })
            }
        }
    }

    /// The fixed point without overlap, at another amount of data.
    pub(super) fn without_overlap(&mut self, alpha: f64) -> Result<Found, Error> {
        self.ridge.alpha = alpha;
        self.nothing(Branch::Uninformed)
    }

    /// From near-perfect overlap, or from the overlap of a similar problem.
    fn informed(&mut self) -> Result<Found, Error> {
        // From far outside of what solutions are like, the nodes would remember nonsense.
        let v = self.typical_response();
        let plausible = |warm: &Point| {
            warm.m > 1e-3 && warm.q() < 1e2 && warm.s2 > 1e-12 && warm.v > 1e-3 * v && warm.v < 1e3 * v
        };
        if let Some(warm) = self.warm.filter(plausible)
            && let Ok(found) = self.ladder(coordinates::<3>(&warm), Branch::Informed)
        {
            let reliable = found.status == Status::Converged && found.validity().reliable;
            if reliable && found.point.m.powi(2) > WEAK * found.point.q() {
                return Ok(found);
            }
        }
        // Closer to perfect overlap where nothing, or little, stands against it: on the way there, the logarithm of the
        // distance would fall by the same amount in every step.
        let distance = (10.0 * (self.guess.noise + self.ridge.lambda)).min(1.0);
        let m = 1.0 - 0.05 * distance;
        let s2 = (0.1 * distance * distance).max(SMALLEST_S2);
        let found = self.ladder([m, s2, self.typical_response()], Branch::Informed)?;
        if found.point.q() < GONE
            && let Some(vanished) = self.vanished(Branch::Informed)
        {
            return Ok(vanished);
        }
        let settled = found.status == Status::Converged && !vanishes(&found.point);
        if settled || (found.residual <= CLOSE && found.point.m.powi(2) > WEAK * found.point.q()) {
            return Ok(found);
        }
        // Without a fixed point at m > 0 to hold it, the overlap is lost: what is left is m = 0, if it is stable.
        let nothing = self.nothing(Branch::Informed)?;
        let solved = nothing.status.is_success() || nothing.status == Status::NoiseLimited;
        Ok(if vanishes(&found.point) || (nothing.is_stable() && solved) { nothing } else { found })
    }

    /// From vanishing overlap: the fixed point `m = 0` if it is stable, else what a small overlap grows into.
    fn uninformed(&mut self) -> Result<Found, Error> {
        let nothing = self.nothing(Branch::Uninformed)?;
        if nothing.is_stable() {
            return Ok(nothing);
        }
        let Point { s2, v, .. } = nothing.point;
        let found = self.ladder([0.1 * s2.sqrt(), s2, v], Branch::Uninformed)?;
        Ok(if vanishes(&found.point) { nothing } else { found })
    }

    /// The fixed point without overlap: no weights at all if that is stable.
    fn nothing(&mut self, branch: Branch) -> Result<Found, Error> {
        match self.vanished(branch) {
            Some(vanished) => Ok(vanished),
            None => self.ladder(self.start_of_nothing(), branch),
        }
    }

    /// The collapsed solution `w = 0`, where it is stable.
    fn vanished(&mut self, branch: Branch) -> Option<Found> {
        // The proximal point is smooth at w = 0.
        let ridge = Ridge { divergence: Divergence::PointwiseAndJump, ..self.ridge };
        let ((point, moments), replicates) = self.channel.zero_weights()?.stable(&ridge)?;
        Some(Found {
            point,
            moments,
            ridge,
            branch,
            status: Status::Collapsed,
            residual: 0.0,
            iterations: self.iterations,
            replicates,
        })
    }

    /// Whether `m = 0` may have the lower train objective, judged on few nodes: the finest level decides if they do not.
    fn nothing_may_be_better(&mut self, informed: &Found) -> Result<bool, Error> {
        self.iterations = 0;
        let problem = Problem::new(self.start_of_nothing(), [Coordinate::Log; 2]);
        let nothing = point_at(&self.approach(&problem)?.point);
        let ridge = self.ridge;
        let [nothing, informed] = [nothing, informed.point].map(|point| {
            let replicates = self.channel.replicates(0, &point, true);
            replicates.iter().map(|moments| ridge.objective(&point, moments)).collect::<Vec<_>>()
        });
        // On the same nodes, the difference has a much smaller error than either.
        let excess = nothing.iter().zip(&informed).map(|(a, b)| a - b).fold(f64::INFINITY, f64::min);
        let scale = informed.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
        Ok(excess < 0.05 * scale)
    }

    fn start_of_nothing(&self) -> [f64; 2] {
        [1.0, self.typical_response()]
    }

    /// `v` where `vhat` is most of what the loss can give.
    fn typical_response(&self) -> f64 {
        1.0 / (2.0 * self.ridge.lambda + self.ridge.alpha * self.guess.curvature)
    }

    fn cheap_level(&self) -> usize {
        1.min(self.channel.levels() - 1)
    }

    /// From a start to the finest level.
    fn ladder<const N: usize>(&mut self, start: [f64; N], branch: Branch) -> Result<Found, Error> {
        self.iterations = 0;
        self.ridge.divergence = self.channel.smooth_divergence();
        if !start.iter().all(|x| x.is_finite() && *x > 0.0) {
            return Ok(self.without_numbers(branch));
        }
        let mut problem = Problem::new(start, [Coordinate::Log; N]);
        let mut report = self.approach(&problem)?;
        let coarse = point_at(&report.point);
        let moments = Moments::mean(&self.channel.replicates(0, &coarse, false));
        if self.ridge.divergence != Divergence::IntegrationByParts
            && self.ridge.jump_share(&coarse, &moments) > JUMPS_DOMINATE
        {
            self.ridge.divergence = Divergence::IntegrationByParts;
            problem.start = report.point;
            report = self.approach(&problem)?;
        }
        let finest = self.channel.levels() - 1;
        let sensitivity = Sensitivity::measure(&report.point, |x| {
            let (residual, moments) = self.residual_and_moments(&problem, x);
            (residual, moments.to_sums())
        });
        if report.residual <= HOPELESS {
            problem.secants = sensitivity.secants();
            for level in 1.min(finest)..=finest {
                problem.start = report.point;
                let tolerance =
                    if level == finest { self.options.accuracy().aim() } else { MIDDLE_TOLERANCE };
                report = self.polish(level, tolerance, &problem)?;
            }
        }
        let mut confirmed = self.confirm(&problem, &report.point);
        if report.status == Status::Converged
            && confirmed.residual > self.options.accuracy().aim()
            && self.iterations < self.options.max_iterations()
        {
            // Fresh starts led to other proximal points than those in memory: once more, from the former.
            problem.start = report.point;
            report = self.polish(finest, self.options.accuracy().aim(), &problem)?;
            confirmed = self.confirm(&problem, &report.point);
        }
        let point = point_at(&report.point);
        let status = self.status(report.status, &point, &confirmed);
        let Confirmed { residual, replicates, moments, differences } = confirmed;
        let replicates = replicates
            .into_iter()
            .zip(sensitivity.shifts(&differences))
            .map(|(own, shift)| {
                let factors = shift.map(f64::exp);
                let own_point = point_at::<N>(&std::array::from_fn(|i| report.point[i] * factors[i]));
                (own_point, Moments::from_sums(sensitivity.moved(own.to_sums(), &shift)))
            })
            .collect();
        Ok(Found {
            point,
            moments,
            ridge: self.ridge,
            branch,
            status,
            residual,
            iterations: self.iterations,
            replicates,
        })
    }

    /// The outcome where the parameters are so extreme that there is no start in double precision.
    fn without_numbers(&self, branch: Branch) -> Found {
        let nan = f64::NAN;
        Found {
            point: Point { m: nan, s2: nan, v: nan },
            moments: Moments::from_sums([nan; COUNT]),
            ridge: self.ridge,
            branch,
            status: Status::NonFinite,
            residual: nan,
            iterations: self.iterations,
            replicates: Vec::new(),
        }
    }

    /// The point `x` as it is reported: at the finest level, with fresh starts of the proximal points.
    fn confirm<const N: usize>(&mut self, problem: &Problem<N>, x: &[f64; N]) -> Confirmed<N> {
        let point = point_at(x);
        self.channel.forget();
        let replicates = self.channel.replicates(self.channel.levels() - 1, &point, true);
        let moments = Moments::mean(&replicates);
        let image = |moments| problem.iterated(&coordinates::<N>(&self.ridge.image(&point, moments)));
        let (here, common) = (problem.iterated(x), image(&moments));
        let from = |a: [f64; N], b: [f64; N]| std::array::from_fn(|i| a[i] - b[i]);
        let differences = replicates.iter().map(|own| from(image(own), common)).collect();
        Confirmed { residual: max_norm(&from(common, here)), replicates, moments, differences }
    }

    /// From a start into the neighbourhood of a fixed point, at the cheapest level: accelerated, or, where that fails,
    /// slowly, the way the dynamics flows.
    fn approach<const N: usize>(&mut self, problem: &Problem<N>) -> Result<Report<N>, Error> {
        let accelerated = Method::Anderson { memory: 5, mixing: 0.7, warmup: 5, max_step: 0.7 };
        let effort = Effort { tolerance: FIRST_TOLERANCE, evaluations: 300, patience: 20 };
        let report = self.iterate(0, effort, accelerated, problem)?;
        if report.residual <= CLOSE {
            return Ok(report);
        }
        let slow = self.iterate(0, effort, Method::Damped { mixing: 0.4 }, problem)?;
        Ok(if slow.residual < report.residual { slow } else { report })
    }

    /// From the neighbourhood of a fixed point, whose slopes are known, to the fixed point of another level.
    fn polish<const N: usize>(
        &mut self,
        level: usize,
        tolerance: f64,
        problem: &Problem<N>,
    ) -> Result<Report<N>, Error> {
        let newton = Method::Anderson { memory: 5, mixing: 1.0, warmup: 0, max_step: 0.3 };
        self.iterate(level, Effort { tolerance, evaluations: 60, patience: 10 }, newton, problem)
    }

    fn iterate<const N: usize>(
        &mut self,
        level: usize,
        effort: Effort,
        method: Method,
        problem: &Problem<N>,
    ) -> Result<Report<N>, Error> {
        let allowed = self.options.max_iterations().saturating_sub(self.iterations);
        let options = fixed_point::Options {
            tolerance: effort.tolerance,
            max_iterations: allowed.min(effort.evaluations).max(1),
            method,
            patience: effort.patience,
            record_history: false,
        };
        let report = fixed_point::solve(problem, &options, |x| {
            let point = point_at(&x);
            let moments = Moments::mean(&self.channel.replicates(level, &point, false));
            coordinates(&self.ridge.image(&point, &moments))
        })?;
        // An evaluation beyond the bound moves nothing: it measures the residual of where the iterations ended.
        self.iterations += report.iterations.min(allowed);
        Ok(report)
    }

    /// The undamped residual at `x`, in logarithms, and the averages, at the cheap level.
    fn residual_and_moments<const N: usize>(
        &mut self,
        problem: &Problem<N>,
        x: &[f64; N],
    ) -> ([f64; N], Moments) {
        let point = point_at(x);
        let moments = Moments::mean(&self.channel.replicates(self.cheap_level(), &point, true));
        let image = problem.iterated(&coordinates(&self.ridge.image(&point, &moments)));
        let here = problem.iterated(x);
        (std::array::from_fn(|i| image[i] - here[i]), moments)
    }

    /// How the search ended. Only the confirmed residual decides whether it converged.
    fn status<const N: usize>(&self, ended: Status, point: &Point, confirmed: &Confirmed<N>) -> Status {
        if !(point.m.is_finite() && point.s2.is_finite() && point.v.is_finite()) {
            return Status::NonFinite;
        }
        let Confirmed { residual, differences, .. } = confirmed;
        let noise = if differences.len() > 1 { noise(differences) } else { self.channel.resolution() };
        // Weights that vanish do so exponentially in the ridge, from samples too rare for the nodes.
        let unresolved = point.m <= 0.0 && point.q() <= 10.0 * SMALLEST_S2;
        match ended {
            _ if *residual <= self.options.accuracy().aim() && unresolved => Status::NoiseLimited,
            _ if *residual <= self.options.accuracy().aim() => Status::Converged,
            Status::Converged | Status::Stalled if *residual <= noise => Status::NoiseLimited,
            // The bound on one level's effort, not the caller's.
            Status::MaxIterations if self.iterations >= self.options.max_iterations() => {
                Status::MaxIterations
            }
            Status::Converged | Status::MaxIterations => Status::Stalled,
            status => status,
        }
    }
}

fn vanishes(point: &Point) -> bool {
    point.m > 0.0 && point.m * point.m < VANISHING * point.q()
}
