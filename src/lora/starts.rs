//! The starts of the state evolution of fine-tuning, and the choice among the fixed points that they lead to.

use super::overlap_limits::OverlapLimits;
use super::ridge::{Ridge, SMALLEST_S2};
use super::solution::Branch;
use super::validity::FinetuningValidity;
use super::zero_weights;
use crate::divergence::Divergence;
use crate::error::Error;
use crate::fixed_point::Observer;
use crate::losses::vector::{COUNT, FinetuningLosses, Moments, VectorOverlaps};
use crate::options::{Options, Start};
use crate::state_evolution::{Attempt, Pass, Solved, StateEvolution, Tuning};
use crate::status::Status;
use crate::verdict::Verdict;

/// Residual below which a point is near enough to the fixed point without overlap to tell whether an overlap grows there.
pub(super) const NEARBY: f64 = 0.05;

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
    limits: OverlapLimits,
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
        let evolution = StateEvolution::new(losses, ridge, options);
        Self { evolution, guess, limits: OverlapLimits::default(), warm: None }
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
            None => match self.attempt_without_overlap(&informed)? {
                Some(attempt) => {
                    let solved = self.evolution.refine(attempt)?;
                    self.found(solved, Branch::Uninformed)
                }
                None => return Ok(informed),
            },
        };
        if nothing.status == Status::Interrupted {
            return Ok(FoundVector { status: Status::Interrupted, ..informed });
        }
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
        if found.point.q() < self.limits.gone
            && let Some(vanished) = self.vanished(Branch::Informed)
        {
            return Ok(vanished);
        }
        let (limits, vanishes) = (self.limits, self.vanishes(&found.point));
        let settled = found.status == Status::Converged && !vanishes;
        let believed = found.residual <= limits.close && limits.is_strong(found.point.m, found.point.q());
        if settled || believed {
            return Ok(found);
        }
        // Without a fixed point at m > 0 the overlap is lost, and m = 0 is the result if it is stable.
        let nothing = self.nothing(Branch::Informed)?;
        let solved = nothing.status.is_success() || nothing.status == Status::NoiseLimited;
        Ok(if vanishes || (nothing.is_stable() && solved) { nothing } else { found })
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
        (reliable && self.limits.is_strong(found.point.m, found.point.q())).then_some(found)
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
        Ok(if self.vanishes(&found.point) { nothing } else { found })
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
        let finest = self.evolution.output.levels().saturating_sub(1);
        for (level, share) in zero_weights::CLEARLY_BELOW.into_iter().enumerate() {
            let few = self.evolution.output.zero_weights(level.min(finest))?;
            if zero_weights::clearly_unstable(few, &ridge, share) {
                return None;
            }
        }
        let ((point, moments), replicates) =
            zero_weights::stable(self.evolution.output.zero_weights(finest)?, &ridge)?;
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

    /// An attempt at the fixed point without overlap, if that may be stable and have the lower train objective. Few nodes
    /// judge first, and then some more; if these cannot tell either, the finest level decides.
    fn attempt_without_overlap(
        &mut self,
        informed: &FoundVector,
    ) -> Result<Option<Attempt<VectorOverlaps>>, Error> {
        self.evolution.begin();
        self.evolution.input.divergence = self.evolution.output.smooth_divergence();
        let glance = self.evolution.glance(&self.start_of_nothing(), NEARBY)?;
        if glance.status == Status::Interrupted {
            return Ok(Some(glance));
        }
        let replicates = self.replicates(0, &glance.point);
        if self.is_excluded(&glance, &replicates) {
            return Ok(None);
        }
        let attempt = self.evolution.approach(&glance.point)?;
        if attempt.status == Status::Interrupted {
            return Ok(Some(attempt));
        }
        // The finest level decides by a solve.
        for level in 0..self.evolution.output.levels().saturating_sub(1).min(2) {
            self.evolution.output.prepare(level, &attempt.point);
            let nothing = self.replicates(level, &attempt.point);
            if self.is_excluded(&attempt, &nothing) {
                return Ok(None);
            }
            let nothing = self.of_each(&attempt.point, &nothing, Ridge::objective);
            let replicates = self.replicates(level, &informed.point);
            let informed = self.of_each(&informed.point, &replicates, Ridge::objective);
            if !self.limits.may_be_lower(&nothing, &informed) {
                return Ok(None);
            }
        }
        Ok(Some(attempt))
    }

    /// Whether the fixed point without overlap that the attempt is near is unstable, or unreliable by the share of its jumps,
    /// beyond doubt: it is then so at the attempt, too, from whose averages it is judged.
    fn is_excluded(&self, attempt: &Attempt<VectorOverlaps>, replicates: &[Moments]) -> bool {
        if attempt.residual >= NEARBY {
            return false;
        }
        let growths = self.of_each(&attempt.point, replicates, Ridge::growth);
        let shares = self.of_each(&attempt.point, replicates, Ridge::jump_share);
        let least = self.limits.least_share(&shares);
        self.limits.surely_grows(&growths) || self.evolution.input.best_verdict(least) == Verdict::Unreliable
    }

    /// The averages of every replicate at a point, on a cheap level.
    fn replicates(&mut self, level: usize, point: &VectorOverlaps) -> Vec<Moments> {
        self.evolution.output.averages(level, Pass::Fresh, point)
    }

    /// A number for every replicate.
    fn of_each(
        &self,
        point: &VectorOverlaps,
        replicates: &[Moments],
        number: fn(&Ridge, &VectorOverlaps, &Moments) -> f64,
    ) -> Vec<f64> {
        replicates.iter().map(|moments| number(&self.evolution.input, point, moments)).collect()
    }

    fn vanishes(&self, point: &VectorOverlaps) -> bool {
        self.limits.vanishes(point.m, point.q())
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
        Ok(self.found(solved, branch))
    }

    fn found(&self, solved: Solved<VectorOverlaps, Moments>, branch: Branch) -> FoundVector {
        let Solved { point, averages: moments, residual, status, iterations, replicates } = solved;
        let ridge = self.evolution.input;
        FoundVector { point, moments, ridge, branch, status, residual, iterations, replicates }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lora::{Frozen, Training, search};
    use crate::{Model, Options};

    struct Setting {
        model: Model,
        frozen: Frozen,
        training: Training,
        options: Options,
    }

    impl Setting {
        fn new(model: Model, frozen: Frozen, alpha: f64, lambda: f64) -> Self {
            let options = Options::default().with_log2_nodes(8).unwrap().with_scrambles(2).unwrap();
            let options = options.with_max_iterations(200).unwrap();
            Self { model, frozen, training: Training::fresh(alpha, lambda).unwrap(), options }
        }

        fn linear(tokens: usize, noise: f64, alpha: f64, lambda: f64) -> Self {
            let model = Model::linear(tokens, 2.0 * noise).unwrap();
            Self::new(model, Frozen::new(1.0, 1.0, 1.0).unwrap(), alpha, lambda)
        }

        fn softmax(tokens: usize, alpha: f64, lambda: f64) -> Self {
            let model = Model::softmax(tokens, 0.5).unwrap();
            Self::new(model, Frozen::new(2.0, 1.2, 1.1).unwrap(), alpha, lambda)
        }

        /// Both activations on both sides of weak recovery, and softmax attention on both sides of collapse.
        fn all() -> Vec<Self> {
            let mut all = Vec::new();
            for (tokens, noise, alphas) in
                [(1, 0.25, [0.5, 2.0, 3.0]), (2, 1.0, [0.3, 0.75, 1.25]), (3, 0.5, [0.1, 0.3, 0.6])]
            {
                all.extend(alphas.map(|alpha| Self::linear(tokens, noise, alpha, 1.0)));
            }
            // At alpha' = 2 and 5, two tokens collapse at 1.69 and 2.644.
            for (alpha, lambdas) in [(2.0, [1.6, 1.69, 1.75]), (5.0, [0.5, 2.63, 2.7])] {
                all.extend(lambdas.map(|lambda| Self::softmax(2, alpha, lambda)));
            }
            all.extend([1.0, 2.0].map(|alpha| Self::softmax(3, alpha, 0.5)));
            all
        }

        /// The result of a search whose constants `change` has changed.
        fn found(&self, start: Start, change: impl Fn(&mut FinetuningStarts<'_>) + Sync) -> FoundVector {
            search(&self.model, &self.frozen, &self.training, &self.options, |mut search| {
                change(&mut search);
                search.run(start)
            })
            .unwrap()
        }

        fn name(&self) -> String {
            format!("{:?}, {:?}, {:?}", self.model, self.frozen, self.training)
        }
    }

    fn numbers(found: &FoundVector) -> [u64; 3] {
        [found.point.m, found.point.s2, found.point.v].map(f64::to_bits)
    }

    type Change = fn(&mut OverlapLimits) -> &mut f64;

    const LIMITS: [(&str, Change); 7] = [
        ("close", |limits| &mut limits.close),
        ("weak", |limits| &mut limits.weak),
        ("vanishing", |limits| &mut limits.vanishing),
        ("gone", |limits| &mut limits.gone),
        ("excess", |limits| &mut limits.excess),
        ("growth", |limits| &mut limits.growth),
        ("doubt", |limits| &mut limits.doubt),
    ];

    #[test]
    fn the_limits_of_an_overlap_do_not_decide_answers() {
        let mut kinds = std::collections::BTreeMap::new();
        for setting in Setting::all() {
            for start in [Start::Best, Start::Uninformed] {
                let reference = setting.found(start, |_| {});
                let kind = format!("{}, {}, {}", reference.status, reference.branch, reference.point.m > 0.0);
                *kinds.entry(kind).or_insert(0) += 1;
                for (name, limit) in LIMITS {
                    for factor in [0.5, 2.0] {
                        let found = setting.found(start, |search| *limit(&mut search.limits) *= factor);
                        let what = format!("{}, {start:?}, {name} x {factor}", setting.name());
                        assert_eq!(found.status, reference.status, "{what}");
                        assert_eq!(found.branch, reference.branch, "{what}");
                        assert_eq!(numbers(&found), numbers(&reference), "{what}");
                    }
                }
            }
        }
        // The settings contain overlaps, lost overlaps and vanished weights.
        assert!(
            kinds.keys().any(|kind| kind.starts_with("converged") && kind.ends_with("true")),
            "{kinds:?}"
        );
        assert!(
            kinds.keys().any(|kind| kind.starts_with("converged") && kind.ends_with("false")),
            "{kinds:?}"
        );
        assert!(kinds.keys().any(|kind| kind.starts_with("collapsed")), "{kinds:?}");
    }

    #[test]
    fn a_small_overlap_obeys_the_equation_that_the_limits_are_derived_from() {
        for (tokens, noise, alpha, lambda) in [
            (2, 0.25, 0.46, 1.0),
            (2, 0.25, 0.53, 1.0),
            (2, 0.25, 0.7, 1.0),
            (3, 0.5, 0.3, 0.5),
            (3, 0.5, 0.5, 0.5),
        ] {
            // The errors of few nodes do not vanish with the overlap, and would hide the equation.
            let setting = Setting::linear(tokens, noise, alpha, lambda);
            let options = setting.options.with_log2_nodes(12).unwrap().with_scrambles(4).unwrap();
            let setting = Setting { options, ..setting };
            let Setting { model, frozen, training, options } = &setting;
            let nothing = |mut search: FinetuningStarts<'_>| search.without_overlap(alpha);
            let growth = search(model, frozen, training, options, nothing).unwrap().growth();
            let point = setting.found(Start::Informed, |_| {}).point;
            let c = growth.ln() / (point.m * point.m / point.q());
            assert!(growth > 1.0 && (0.2..0.8).contains(&c), "{}: G = {growth}, c = {c}", setting.name());
        }
    }

    /// Both estimators of the divergences are exact on average. Which one is used where jumps are neither rare nor
    /// dominant changes the answer within its error, and not the verdict.
    #[test]
    fn the_share_of_jumps_at_which_the_estimator_changes_does_not_decide_answers() {
        for (tokens, noise, alpha, lambda) in
            [(2, 1.0, 1.0, 0.6), (2, 0.25, 0.6, 0.5), (3, 0.5, 0.45, 0.1), (3, 0.5, 0.3, 0.5)]
        {
            let setting = Setting::linear(tokens, noise, alpha, lambda);
            let options = setting.options.with_log2_nodes(11).unwrap().with_scrambles(16).unwrap();
            let setting = Setting { options, ..setting };
            let [halved, doubled] = [0.5, 2.0].map(|factor| {
                setting.found(Start::Informed, |search| search.evolution.input.by_parts_above *= factor)
            });
            assert_eq!(halved.validity().verdict, doubled.validity().verdict, "{}", setting.name());
            let used = [&halved, &doubled].map(|found| found.ridge.divergence);
            assert_eq!(
                used,
                [Divergence::IntegrationByParts, Divergence::PointwiseAndJump],
                "{}",
                setting.name()
            );
            let error = |found: &FoundVector, of: fn(&VectorOverlaps) -> f64| {
                crate::std_error::standard_error(found.replicates.iter().map(|(point, _)| of(point))).unwrap()
            };
            for of in [|p: &VectorOverlaps| p.m, VectorOverlaps::q, |p: &VectorOverlaps| p.v] {
                let difference = of(&halved.point) - of(&doubled.point);
                let error = error(&halved, of).hypot(error(&doubled, of));
                assert!(difference.abs() < 4.0 * error, "{}: {difference:e} +- {error:e}", setting.name());
            }
        }
    }
}
