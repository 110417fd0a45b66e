//! The starts of the state evolution of fine-tuning, and the choice among the fixed points that they lead to.

use super::ridge::{Ridge, SMALLEST_S2};
use super::solution::Branch;
use super::validity::FinetuningValidity;
use super::zero_weights;
use crate::divergence::Divergence;
use crate::error::Error;
use crate::fixed_point::Observer;
use crate::losses::vector::{COUNT, FinetuningLosses, Moments, VectorOverlaps};
use crate::options::{Options, Start};
use crate::state_evolution::{Pass, Solved, StateEvolution, Tuning};
use crate::status::Status;
use crate::verdict::Verdict;

/// Largest residual at which the overlap of a solve that did not converge is still believed.
const CLOSE: f64 = 1e-2;
/// `m^2/q` below which an iterate is taken to converge to `m = 0`.
const VANISHING: f64 = 1e-10;
/// `m^2/q` below which an iteration that has stalled may be slowly losing its overlap.
const WEAK: f64 = 0.01;
/// `q` below which the weights may vanish altogether.
const GONE: f64 = 1e-4;
/// Growth of a small overlap in one iteration above which, on every replicate of the cheapest level, the fixed
/// point without overlap is unstable beyond doubt. The standard error of a replicate is a few percent.
const CLEARLY_UNSTABLE: f64 = 1.1;

/// A fixed point in units of `q0`, with the properties that are known of it.
pub(super) struct FoundVector {
    pub(super) point: VectorOverlaps,
    pub(super) moments: Moments,
    pub(super) ridge: Ridge,
    pub(super) branch: Branch,
    pub(super) status: Status,
    pub(super) residual: f64,
    pub(super) iterations: usize,
    /// Fixed point and averages of every replicate by itself, to first order.
    pub(super) replicates: Vec<(VectorOverlaps, Moments)>,
}

impl FoundVector {
    pub(super) fn validity(&self) -> FinetuningValidity {
        self.ridge.validity(&self.point, &self.moments)
    }

    /// The factor on a small overlap in one iteration, at `m = 0`.
    pub(super) fn growth(&self) -> f64 {
        self.ridge.growth(&self.point, &self.moments)
    }

    /// Whether a small overlap shrinks, at `m = 0`.
    fn is_stable(&self) -> bool {
        self.growth() <= 1.0
    }

    fn objective(&self) -> f64 {
        self.ridge.objective(&self.point, &self.moments)
    }
}

/// The estimates from which the starts are made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Guess {
    /// Standard deviation of the part of the label's logits that the frozen weights leave unexplained.
    pub(super) noise: f64,
    /// Typical `vhat/alpha'`.
    pub(super) curvature: f64,
}

/// The state evolution of fine-tuning, and its starts.
pub(super) struct FinetuningStarts<'a> {
    evolution: StateEvolution<'a, dyn FinetuningLosses + 'a, Ridge>,
    guess: Guess,
    /// A solution of a similar problem.
    warm: Option<VectorOverlaps>,
}

impl<'a> FinetuningStarts<'a> {
    pub(super) fn new(
        ridge: Ridge,
        guess: Guess,
        options: &Options,
        losses: &'a mut (dyn FinetuningLosses + 'a),
    ) -> Self {
        Self { evolution: StateEvolution::new(losses, ridge, options), guess, warm: None }
    }

    /// Looks for an overlap near `warm` before all other starts.
    pub(super) fn starting_from(self, warm: Option<VectorOverlaps>) -> Self {
        Self { warm, ..self }
    }

    /// Shows every iterate to `observer`, and searches with the constants of `tuning`.
    pub(super) fn accompanied(self, tuning: Tuning, observer: Option<&'a mut dyn Observer>) -> Self {
        Self { evolution: self.evolution.accompanied(tuning, observer), ..self }
    }

    pub(super) fn run(mut self, start: Start) -> Result<FoundVector, Error> {
        match start {
            Start::Informed => self.informed(),
            Start::Uninformed => self.uninformed(),
            Start::Best => self.best(),
        }
    }

    /// The fixed point without overlap, at another amount of data.
    pub(super) fn without_overlap(&mut self, alpha: f64) -> Result<FoundVector, Error> {
        self.evolution.input.alpha = alpha;
        self.nothing(Branch::Uninformed)
    }

    /// The informed fixed point, unless the one without overlap has the lower train objective.
    fn best(&mut self) -> Result<FoundVector, Error> {
        let informed = self.informed()?;
        let settled = informed.point.m <= 0.0
            || matches!(informed.status, Status::Interrupted | Status::NonFinite)
            || informed.validity().verdict == Verdict::Unreliable;
        if settled {
            return Ok(informed);
        }
        let nothing = match self.vanished(Branch::Uninformed) {
            Some(vanished) => vanished,
            None if self.nothing_may_be_better(&informed)? => {
                self.solve_from(&self.start_of_nothing(), Branch::Uninformed)?
            }
            None => return Ok(informed),
        };
        // If the fixed point is unstable, or if replica symmetry is not valid there, its objective means
        // nothing.
        let trusted = nothing.status.is_success()
            && nothing.is_stable()
            && nothing.validity().verdict != Verdict::Unreliable;
        Ok(if trusted && nothing.objective() < informed.objective() { nothing } else { informed })
    }

    /// The fixed point from a start at near-perfect overlap, or at the overlap of a similar problem.
    fn informed(&mut self) -> Result<FoundVector, Error> {
        if let Some(found) = self.continued() {
            return Ok(found);
        }
        // The start is closer to perfect overlap if the noise and the ridge are small. From a start that is
        // too far away, the logarithm of the distance would fall by the same amount in every step.
        let distance = (10.0 * (self.guess.noise + self.evolution.input.lambda)).min(1.0);
        let start = VectorOverlaps {
            m: 1.0 - 0.05 * distance,
            s2: (0.1 * distance * distance).max(SMALLEST_S2),
            v: self.typical_response(),
        };
        let found = self.solve_from(&start, Branch::Informed)?;
        if found.status == Status::Interrupted {
            return Ok(found);
        }
        if found.point.q() < GONE
            && let Some(vanished) = self.vanished(Branch::Informed)
        {
            return Ok(vanished);
        }
        let settled = found.status == Status::Converged && !vanishes(&found.point);
        if settled || (found.residual <= CLOSE && found.point.m.powi(2) > WEAK * found.point.q()) {
            return Ok(found);
        }
        // Without a fixed point at m > 0 the overlap is lost, and m = 0 is the result if it is stable.
        let nothing = self.nothing(Branch::Informed)?;
        let solved = nothing.status.is_success() || nothing.status == Status::NoiseLimited;
        Ok(if vanishes(&found.point) || (nothing.is_stable() && solved) { nothing } else { found })
    }

    /// The fixed point near that of a similar problem, if it is reliable.
    fn continued(&mut self) -> Option<FoundVector> {
        // A point far outside of the range of solutions would leave useless proximal points in the memory of
        // the nodes.
        let v = self.typical_response();
        let plausible = |warm: &VectorOverlaps| {
            warm.m > 1e-3 && warm.q() < 1e2 && warm.s2 > 1e-12 && warm.v > 1e-3 * v && warm.v < 1e3 * v
        };
        let warm = self.warm.filter(plausible)?;
        let found = self.solve_from(&warm, Branch::Informed).ok()?;
        let reliable = found.status == Status::Converged && found.validity().reliable;
        (reliable && found.point.m.powi(2) > WEAK * found.point.q()).then_some(found)
    }

    /// The fixed point from a start at vanishing overlap. It is `m = 0` if that is stable, else the fixed
    /// point to which a small overlap grows.
    fn uninformed(&mut self) -> Result<FoundVector, Error> {
        let nothing = self.nothing(Branch::Uninformed)?;
        if nothing.is_stable() || nothing.status == Status::Interrupted {
            return Ok(nothing);
        }
        let VectorOverlaps { s2, v, .. } = nothing.point;
        let found = self.solve_from(&VectorOverlaps { m: 0.1 * s2.sqrt(), s2, v }, Branch::Uninformed)?;
        Ok(if vanishes(&found.point) { nothing } else { found })
    }

    /// The fixed point without overlap. It has zero weights if these are stable.
    fn nothing(&mut self, branch: Branch) -> Result<FoundVector, Error> {
        match self.vanished(branch) {
            Some(vanished) => Ok(vanished),
            None => self.solve_from(&self.start_of_nothing(), branch),
        }
    }

    /// The collapsed solution `w = 0`, where it is stable.
    fn vanished(&mut self, branch: Branch) -> Option<FoundVector> {
        // The proximal point is smooth at w = 0.
        let ridge = Ridge { divergence: Divergence::PointwiseAndJump, ..self.evolution.input };
        let ((point, moments), replicates) =
            zero_weights::stable(self.evolution.output.zero_weights()?, &ridge)?;
        Some(FoundVector {
            point,
            moments,
            ridge,
            branch,
            status: Status::Collapsed,
            residual: 0.0,
            iterations: self.evolution.iterations(),
            replicates,
        })
    }

    /// Whether `m = 0` may be stable and have the lower train objective, judged on few nodes. If it may, the
    /// finest level decides.
    fn nothing_may_be_better(&mut self, informed: &FoundVector) -> Result<bool, Error> {
        self.evolution.begin();
        let nothing = self.evolution.approach(&self.start_of_nothing())?.point;
        let ridge = self.evolution.input;
        let mut on_few_nodes = |point| self.evolution.output.averages(0, Pass::Complete, point);
        let averages = on_few_nodes(&nothing);
        if averages.iter().all(|moments| ridge.growth(&nothing, moments) > CLEARLY_UNSTABLE) {
            return Ok(false);
        }
        let averages = [(nothing, averages), (informed.point, on_few_nodes(&informed.point))];
        let [nothing, informed] = averages.map(|(point, replicates)| {
            replicates.iter().map(|moments| ridge.objective(&point, moments)).collect::<Vec<_>>()
        });
        // On the same nodes, the difference of the objectives has a much smaller error than either objective.
        let excess = nothing.iter().zip(&informed).map(|(a, b)| a - b).fold(f64::INFINITY, f64::min);
        let scale = informed.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
        Ok(excess < 0.05 * scale)
    }

    fn start_of_nothing(&self) -> VectorOverlaps {
        VectorOverlaps { m: 0.0, s2: 1.0, v: self.typical_response() }
    }

    /// The value of `v` at which `vhat` is most of the largest curvature that the loss can give.
    fn typical_response(&self) -> f64 {
        let Ridge { alpha, lambda, .. } = self.evolution.input;
        1.0 / (2.0 * lambda + alpha * self.guess.curvature)
    }

    fn solve_from(&mut self, start: &VectorOverlaps, branch: Branch) -> Result<FoundVector, Error> {
        self.evolution.input.divergence = self.evolution.output.smooth_divergence();
        if !StateEvolution::<dyn FinetuningLosses, Ridge>::is_start(start) {
            return Ok(self.without_numbers(branch));
        }
        let solved = self.evolution.solve(start)?;
        let Solved { point, averages: moments, residual, status, iterations, replicates } = solved;
        let ridge = self.evolution.input;
        Ok(FoundVector { point, moments, ridge, branch, status, residual, iterations, replicates })
    }

    /// The outcome for parameters so extreme that there is no start in double precision.
    fn without_numbers(&self, branch: Branch) -> FoundVector {
        let nan = f64::NAN;
        FoundVector {
            point: VectorOverlaps { m: nan, s2: nan, v: nan },
            moments: Moments::from_sums([nan; COUNT]),
            ridge: self.evolution.input,
            branch,
            status: Status::NonFinite,
            residual: nan,
            iterations: self.evolution.iterations(),
            replicates: Vec::new(),
        }
    }
}

fn vanishes(point: &VectorOverlaps) -> bool {
    point.m > 0.0 && point.m * point.m < VANISHING * point.q()
}
