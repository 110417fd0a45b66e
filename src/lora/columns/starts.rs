//! The starts of the state evolution of several columns, and the choice among the fixed points that they lead to.
//!
//! Every column may keep its overlap with the truth, lose it (`m = 0`), or vanish altogether.

use super::ridge::ColumnRidge;
use crate::attention::Attention;
use crate::error::Error;
use crate::fixed_point::Observer;
use crate::lora::overlap_limits::OverlapLimits;
use crate::lora::ridge::SMALLEST_S2;
use crate::lora::solution::Branch;
use crate::lora::starts::{Guess, NEARBY};
use crate::lora::validity::FinetuningValidity;
use crate::losses::vector::VectorOverlaps;
use crate::losses::vector::columns::{ColumnMoments, ColumnNodes, ColumnOverlaps, is_zero};
use crate::options::{Options, Start};
use crate::state_evolution::{Averages, OutputChannel, Pass, Solved, StateEvolution, Tuning};
use crate::status::Status;
use crate::verdict::Verdict;

/// `q` of a column in excess of the truth at the start, in units of the largest true variance.
const EXCESS: f64 = 0.1;

/// A fixed point in units of the largest true variance, with the properties that are known of it.
#[derive(Clone)]
pub(super) struct FoundColumns {
    pub(super) point: ColumnOverlaps,
    pub(super) moments: ColumnMoments,
    pub(super) ridge: ColumnRidge,
    pub(super) branch: Branch,
    pub(super) status: Status,
    pub(super) residual: f64,
    pub(super) iterations: usize,
    /// Fixed point and averages of every replicate by itself, to first order.
    pub(super) replicates: Vec<(ColumnOverlaps, ColumnMoments)>,
}

impl FoundColumns {
    pub(super) fn validity(&self) -> FinetuningValidity {
        self.ridge.validity(&self.point, &self.moments)
    }

    fn objective(&self) -> f64 {
        self.ridge.objective(&self.point, &self.moments)
    }

    fn solved(&self) -> bool {
        self.status.is_success() || self.status == Status::NoiseLimited
    }

    fn has_overlap(&self) -> bool {
        self.point.groups.iter().any(|own| own.m > 0.0)
    }
}

/// Takes the overlap of a column away, and leaves its norm.
fn without_overlap(own: &mut VectorOverlaps) {
    *own = VectorOverlaps { m: 0.0, s2: own.q(), v: own.v };
}

/// The state evolution of several columns, and its starts.
pub(super) struct ColumnStarts<'a> {
    evolution: StateEvolution<'a, ColumnNodes, ColumnRidge>,
    guess: Guess,
    limits: OverlapLimits,
    /// A solution of a similar problem.
    warm: Option<ColumnOverlaps>,
}

impl<'a> ColumnStarts<'a> {
    pub(super) fn new(
        ridge: ColumnRidge,
        guess: Guess,
        options: &Options,
        nodes: &'a mut ColumnNodes,
    ) -> Self {
        let evolution = StateEvolution::new(nodes, ridge, options);
        Self { evolution, guess, limits: OverlapLimits::default(), warm: None }
    }

    /// Looks for an overlap near `warm` before all other starts.
    pub(super) fn starting_from(self, warm: Option<ColumnOverlaps>) -> Self {
        Self { warm, ..self }
    }

    /// Shows every iterate to `observer`, and searches with the constants of `tuning`.
    pub(super) fn accompanied(self, tuning: Tuning, observer: Option<&'a mut dyn Observer>) -> Self {
        Self { evolution: self.evolution.accompanied(tuning, observer), ..self }
    }

    pub(super) fn run(mut self, start: Start) -> Result<FoundColumns, Error> {
        match start {
            Start::Informed => self.informed(),
            Start::Uninformed => self.uninformed(),
            Start::Best => self.best(),
        }
    }

    /// The informed fixed point, unless the one without any overlap has the lower train objective.
    fn best(&mut self) -> Result<FoundColumns, Error> {
        let informed = self.informed()?;
        let settled = !informed.has_overlap()
            || matches!(informed.status, Status::Interrupted | Status::NonFinite)
            || informed.validity().verdict == Verdict::Unreliable;
        if settled || !self.nothing_may_be_better(&informed)? {
            return Ok(informed);
        }
        let nothing = self.settle(&self.without_overlap(), Branch::Uninformed)?;
        let growth = nothing.ridge.growth(&nothing.point, &nothing.moments);
        let stable = self.learning().zip(growth).all(|(learns, growth)| !learns || growth <= 1.0);
        let trusted =
            nothing.status.is_success() && stable && nothing.validity().verdict != Verdict::Unreliable;
        Ok(if trusted && nothing.objective() < informed.objective() { nothing } else { informed })
    }

    /// The fixed point from a start at near-perfect overlap, or at the overlap of a similar problem.
    fn informed(&mut self) -> Result<FoundColumns, Error> {
        if let Some(warm) = self.warm.take() {
            let found = self.settle(&warm, Branch::Informed)?;
            if found.status == Status::Converged && found.has_overlap() && found.validity().reliable {
                return Ok(found);
            }
        }
        // The start is closer to perfect overlap if the noise and the ridge are small.
        let distance = (10.0 * (self.guess.noise + self.evolution.input.lambda)).min(1.0);
        let v = self.typical_response();
        let of_group = |variance: Option<f64>| match variance {
            Some(variance) => VectorOverlaps {
                m: (1.0 - 0.05 * distance) * variance.sqrt(),
                s2: (0.1 * distance * distance * variance).max(SMALLEST_S2),
                v,
            },
            None => VectorOverlaps { m: 0.0, s2: (EXCESS * distance).max(SMALLEST_S2), v },
        };
        let groups = self.evolution.input.layout.groups();
        let start = ColumnOverlaps { groups: groups.iter().map(|group| of_group(group.variance)).collect() };
        self.settle(&start, Branch::Informed)
    }

    /// The fixed point from a start at vanishing overlap: without overlap if that is stable, else the fixed point to which
    /// small overlaps grow.
    fn uninformed(&mut self) -> Result<FoundColumns, Error> {
        let nothing = self.settle(&self.without_overlap(), Branch::Uninformed)?;
        let growth = nothing.ridge.growth(&nothing.point, &nothing.moments);
        let mut start = nothing.point.clone();
        let mut grows = false;
        for ((own, learns), growth) in start.groups.iter_mut().zip(self.learning()).zip(growth) {
            if learns && growth > 1.0 && !is_zero(own) {
                own.m = 0.1 * own.deviation();
                grows = true;
            }
        }
        if !grows || nothing.status == Status::Interrupted {
            return Ok(nothing);
        }
        self.settle(&start, Branch::Uninformed)
    }

    /// Whether each group has something to learn.
    fn learning(&self) -> impl Iterator<Item = bool> {
        let groups = self.evolution.input.layout.groups().to_vec();
        groups.into_iter().map(|group| group.variance.is_some())
    }

    fn without_overlap(&self) -> ColumnOverlaps {
        let own = VectorOverlaps { m: 0.0, s2: 1.0, v: self.typical_response() };
        ColumnOverlaps { groups: vec![own; self.evolution.input.layout.groups().len()] }
    }

    /// The value of `v` at which `vhat` is most of the largest curvature that the loss can give.
    fn typical_response(&self) -> f64 {
        let ColumnRidge { alpha, lambda, .. } = &self.evolution.input;
        1.0 / (2.0 * lambda + alpha * self.guess.curvature)
    }

    /// Whether the fixed point without overlap may have the lower train objective, judged on few nodes.
    fn nothing_may_be_better(&mut self, informed: &FoundColumns) -> Result<bool, Error> {
        self.evolution.begin();
        let near = self.evolution.glance(&self.without_overlap(), NEARBY)?.point;
        let ridge = self.evolution.input.clone();
        let [nothing, informed] = [&near, &informed.point].map(|point| {
            let replicates = self.evolution.output.averages(0, Pass::Complete, point);
            replicates.iter().map(|moments| ridge.objective(point, moments)).collect::<Vec<_>>()
        });
        Ok(self.limits.may_be_lower(&nothing, &informed))
    }

    /// The fixed point to which an iteration from `start` leads. Columns that lose their overlap on the way go on without
    /// it, and columns that vanish go on at zero, if they are stable there.
    fn settle(&mut self, start: &ColumnOverlaps, branch: Branch) -> Result<FoundColumns, Error> {
        let mut found = self.lead_from(start, branch)?;
        // In every round at least one column loses its overlap or vanishes.
        for _ in 0..2 * start.groups.len() {
            if matches!(found.status, Status::Interrupted | Status::NonFinite) {
                break;
            }
            let mut accepted = None;
            for next in self.reductions(&found) {
                let other = self.solve_from(&next, branch)?;
                if other.status == Status::Interrupted {
                    return Ok(other);
                }
                if other.solved() && other.ridge.zeros_are_stable(&other.point, &other.moments) {
                    accepted = Some(other);
                    break;
                }
            }
            match accepted {
                Some(other) => found = other,
                None => break,
            }
        }
        Ok(found)
    }

    /// The points with fewer overlaps and fewer columns at which a search goes on: without those that are being lost, and if
    /// there is no fixed point nearby, without the weakest columns. The list is empty if there is nothing to be left out.
    fn reductions(&self, found: &FoundColumns) -> Vec<ColumnOverlaps> {
        let zero = VectorOverlaps { m: 0.0, s2: 0.0, v: self.typical_response() };
        // The columns of the two factors vanish and lose their overlap together.
        let pairs: Vec<[usize; 2]> = self.evolution.input.layout.pairs().collect();
        let mut next = found.point.clone();
        for pair in &pairs {
            let own = pair.map(|group| found.point.groups[group]);
            if own.iter().any(|own| !is_zero(own) && own.q() < self.limits.gone) {
                pair.iter().for_each(|group| next.groups[*group] = zero);
            } else if own.iter().any(|own| self.limits.vanishes(own.m, own.q())) {
                pair.iter().for_each(|group| without_overlap(&mut next.groups[*group]));
            }
        }
        let mut all = vec![next];
        if !found.solved() {
            let norm =
                |pair: &[usize; 2]| pair.map(|group| found.point.groups[group].q()).iter().sum::<f64>();
            let mut weakest = pairs.clone();
            weakest.sort_by(|a, b| norm(a).total_cmp(&norm(b)));
            // Where all columns vanish, this is seen at once.
            let counts = std::iter::once(weakest.len()).chain(1..weakest.len());
            for count in counts {
                let mut next = found.point.clone();
                weakest[..count].iter().flatten().for_each(|group| next.groups[*group] = zero);
                all.push(next);
            }
            all.push(self.without_weak_overlaps(&found.point));
        }
        // The loss of linear attention is not bounded, so that its weights never vanish altogether. Those of two factors are exponentially
        // small above the ridge of collapse.
        let ColumnRidge { linear, layout, .. } = &self.evolution.input;
        let linear = *linear && layout.attention() == Attention::Tied;
        all.retain(|next| *next != found.point && !(linear && next.vanishes()));
        all.dedup();
        all
    }

    /// The point without the overlaps that may be on their way to zero, in the pairs of columns of the two factors.
    fn without_weak_overlaps(&self, point: &ColumnOverlaps) -> ColumnOverlaps {
        let mut next = point.clone();
        for pair in self.evolution.input.layout.pairs() {
            let weak = |own: &VectorOverlaps| !self.limits.is_strong(own.m, own.q());
            if pair.iter().any(|group| weak(&point.groups[*group])) {
                pair.iter().for_each(|group| without_overlap(&mut next.groups[*group]));
            }
        }
        next
    }

    /// The fixed point to which an iteration from `start` leads. Where an overlap is weak after the approach, the fixed point without it is
    /// solved first, and returned if it is stable: an overlap on its way to zero takes very many steps.
    fn lead_from(&mut self, start: &ColumnOverlaps, branch: Branch) -> Result<FoundColumns, Error> {
        if !StateEvolution::<ColumnNodes, ColumnRidge>::is_start(start) {
            return Ok(self.without_numbers(branch));
        }
        self.evolution.begin();
        let attempt = self.evolution.approach(start)?;
        let without = self.without_weak_overlaps(&attempt.point);
        if attempt.status != Status::Interrupted && without != attempt.point {
            let nothing = self.solve_from(&without, branch)?;
            if nothing.status == Status::Interrupted {
                return Ok(nothing);
            }
            let growth = nothing.ridge.growth(&nothing.point, &nothing.moments);
            let pairs = attempt.point.groups.iter().zip(&without.groups).zip(growth);
            let mut lost = pairs.filter(|((before, after), _)| before != after);
            if nothing.solved() && lost.all(|(_, growth)| growth <= 1.0) {
                return Ok(nothing);
            }
        }
        let solved = self.evolution.refine(attempt)?;
        Ok(self.found(solved, branch))
    }

    fn solve_from(&mut self, start: &ColumnOverlaps, branch: Branch) -> Result<FoundColumns, Error> {
        if !StateEvolution::<ColumnNodes, ColumnRidge>::is_start(start) {
            return Ok(self.without_numbers(branch));
        }
        let solved = self.evolution.solve(start)?;
        Ok(self.found(solved, branch))
    }

    fn found(&self, solved: Solved<ColumnOverlaps, ColumnMoments>, branch: Branch) -> FoundColumns {
        let Solved { point, averages: moments, residual, status, iterations, replicates } = solved;
        let ridge = self.evolution.input.clone();
        let collapsed = status == Status::Converged && point.vanishes();
        let status = if collapsed { Status::Collapsed } else { status };
        FoundColumns { point, moments, ridge, branch, status, residual, iterations, replicates }
    }

    /// The outcome for parameters so extreme that there is no start in double precision.
    fn without_numbers(&self, branch: Branch) -> FoundColumns {
        let nan = f64::NAN;
        let groups = self.evolution.input.layout.groups().len();
        FoundColumns {
            point: ColumnOverlaps { groups: vec![VectorOverlaps { m: nan, s2: nan, v: nan }; groups] },
            moments: ColumnMoments::from_terms(&vec![nan; ColumnMoments::length(groups)]),
            ridge: self.evolution.input.clone(),
            branch,
            status: Status::NonFinite,
            residual: nan,
            iterations: self.evolution.iterations(),
            replicates: Vec::new(),
        }
    }
}
