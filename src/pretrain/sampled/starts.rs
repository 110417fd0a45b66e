//! The starts of the state evolution of sampled pre-training: a guess, or the end of a path that begins at a
//! large ridge.

use super::equations::SampledEquations;
use crate::divergence::Divergence;
use crate::error::Error;
use crate::fixed_point::Observer;
use crate::losses::matrix::{Label, LogitAverages, MatrixOverlaps, PretrainingLosses};
use crate::options::Options;
use crate::state_evolution::{Attempt, Solved, StateEvolution, Tuning};
use crate::status::Status;

/// The constants of the path to a fixed point. They decide where a path begins and how long its steps are, but not
/// where it ends: the last point of a path is refined at the ridge that was asked for, and the status tells whether it is a
/// fixed point there. A unit test doubles and halves each of them.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Path {
    /// Residual below which an approach is close enough for the search to go on.
    close: f64,
    /// Norm of the learned weights, relative to that of the truth and its noise, above which an iteration has run
    /// away. A cold start at a small ridge may end at such a norm, where the activation is saturated. The path from a large
    /// ridge does not come near it.
    runaway: f64,
    /// Ridges, relative to that of collapse, from which a continuation may begin.
    first_ridges: [f64; 4],
    /// Ridge, relative to that of collapse, below which no cold start is tried.
    cold: f64,
    /// Logarithmic step of the ridge below which a path is given up.
    smallest_step: f64,
}

impl Default for Path {
    fn default() -> Self {
        Self {
            close: 1e-2,
            runaway: 25.0,
            first_ridges: [0.5, 0.7, 0.85, 0.95],
            cold: 0.1,
            smallest_step: 0.02,
        }
    }
}

/// The state evolution of sampled pre-training, and its starts.
pub(super) struct PretrainingStarts<'a> {
    evolution: StateEvolution<'a, dyn PretrainingLosses + 'a, SampledEquations<'a>>,
    path: Path,
    /// The solution of a similar problem.
    warm: Option<MatrixOverlaps>,
}

/// Typical scaled order parameters.
struct Sizes {
    m: f64,
    s2: f64,
    v: f64,
}

/// A fixed point, and the estimator of the divergences with which it was found.
pub(super) struct FoundMatrix {
    pub(super) solved: Solved<MatrixOverlaps, LogitAverages>,
    pub(super) divergence: Divergence,
}

impl<'a> PretrainingStarts<'a> {
    pub(super) fn new(
        losses: &'a mut (dyn PretrainingLosses + 'a),
        equations: SampledEquations<'a>,
        options: &Options,
        warm: Option<MatrixOverlaps>,
    ) -> Self {
        Self { evolution: StateEvolution::new(losses, equations, options), path: Path::default(), warm }
    }

    /// Shows every iterate to `observer`, and searches with the constants of `tuning`.
    pub(super) fn accompanied(self, tuning: Tuning, observer: Option<&'a mut dyn Observer>) -> Self {
        Self { evolution: self.evolution.accompanied(tuning, observer), ..self }
    }

    /// Runs the search. `collapse` is the ridge of collapse, which is above the ridge of the equations. The
    /// result is `None` if the parameters are so extreme that there is no start in double precision.
    pub(super) fn run(mut self, collapse: f64) -> Result<Option<FoundMatrix>, Error> {
        let closeness = self.evolution.input.ridge / collapse;
        let possible = |closeness: f64| {
            StateEvolution::<dyn PretrainingLosses, SampledEquations<'_>>::is_start(&self.guess(closeness))
        };
        if !(self.path.first_ridges.into_iter().all(possible) && possible(closeness)) {
            return Ok(None);
        }
        self.evolution.begin();
        let attempt = self.start(collapse)?;
        let solved = self.evolution.refine(attempt)?;
        Ok(Some(FoundMatrix { solved, divergence: self.evolution.input.divergence }))
    }

    /// A point near the fixed point, found at the cheapest level.
    fn start(&mut self, collapse: f64) -> Result<Attempt<MatrixOverlaps>, Error> {
        let target = self.evolution.input.ridge;
        if let Some(warm) = self.warm.filter(|warm| self.plausible(warm))
            && let Ok(attempt) = self.evolution.approach(&warm)
            && self.acceptable(&attempt)
        {
            return Ok(attempt);
        }
        if target > self.path.cold * collapse {
            let attempt = self.evolution.approach(&self.guess(target / collapse))?;
            if self.acceptable(&attempt) || attempt.status == Status::Interrupted {
                return Ok(attempt);
            }
        }
        self.continue_to(target, collapse)
    }

    /// Whether `warm` is in the range of solutions. A point far outside would leave useless proximal points
    /// in the memory of the nodes.
    fn plausible(&self, warm: &MatrixOverlaps) -> bool {
        let Label { q0, delta } = self.evolution.input.label;
        let Sizes { m, s2, v } = self.sizes();
        let within = |x: f64, low: f64, high: f64| x > low && x < high;
        within(warm.m, m / 1e3, 1e3 * q0)
            && within(warm.s2, s2 / 1e6, 1e6 * (q0 + 0.5 * delta))
            && within(warm.v, v / 1e4, 1e4 * self.evolution.input.scale)
    }

    /// A first guess at a ridge `closeness` times that of collapse.
    fn guess(&self, closeness: f64) -> MatrixOverlaps {
        let shrink = 1.0 - closeness;
        let Label { q0, delta } = self.evolution.input.label;
        let norm = q0 + 0.5 * delta;
        let Sizes { m, s2, v } = self.sizes();
        let m = m * shrink;
        MatrixOverlaps { m, s2: (0.25 * m * m / norm).max(s2 * shrink * shrink), v }
    }

    /// The sizes of solutions far from collapse. At a large inverse temperature the softmax is steep, and
    /// scaled overlaps much smaller than that of the label are enough to fit it. Measured: these overlaps
    /// grow like the inverse temperature, not like its square.
    fn sizes(&self) -> Sizes {
        let SampledEquations { label: Label { q0, delta }, scale, .. } = self.evolution.input;
        let norm = q0 + 0.5 * delta;
        Sizes {
            m: (0.6 * q0).min(3.0 * norm.sqrt()),
            s2: (0.1 * norm).min(10.0),
            v: scale.min(8.0 * scale.sqrt()),
        }
    }

    /// Continuation in the ridge, downwards, with steps that adapt. If the path cannot be followed, the
    /// result is its last point, and the residual will show it.
    fn continue_to(&mut self, target: f64, collapse: f64) -> Result<Attempt<MatrixOverlaps>, Error> {
        let mut position = 0.0;
        let mut here = None;
        for closeness in self.path.first_ridges {
            position = (closeness.max(target / collapse) * collapse).ln();
            let attempt = self.approach_at(position.exp(), &self.guess(closeness))?;
            let end = self.acceptable(&attempt) || attempt.status == Status::Interrupted;
            here = Some(attempt);
            if end {
                break;
            }
        }
        // The list of first ridges is not empty, so that the second case does not occur.
        let mut here = match here {
            Some(attempt) => attempt,
            None => self.approach_at(target, &self.guess(0.5))?,
        };
        // A ridge of zero ends the path at a small positive ridge.
        let end = target.max(1e-6 * collapse).ln();
        let mut step: f64 = 1.0;
        while position > end && step > self.path.smallest_step && here.status != Status::Interrupted {
            let next = (position - step).max(end);
            let attempt = self.approach_at(next.exp(), &here.point)?;
            if attempt.status == Status::Interrupted
                || attempt.status == Status::MaxIterations && attempt.residual.is_infinite()
            {
                return Ok(attempt);
            }
            if self.acceptable(&attempt) {
                here = attempt;
                position = next;
                step *= 1.5;
            } else {
                step *= 0.4;
            }
        }
        Ok(here)
    }

    fn acceptable(&self, attempt: &Attempt<MatrixOverlaps>) -> bool {
        let SampledEquations { label: Label { q0, delta }, scale, .. } = self.evolution.input;
        let [q, _] = self.evolution.input.overlaps(&attempt.point);
        attempt.residual <= self.path.close && q * scale < self.path.runaway * (q0 + delta)
    }

    fn approach_at(&mut self, ridge: f64, start: &MatrixOverlaps) -> Result<Attempt<MatrixOverlaps>, Error> {
        let wanted = std::mem::replace(&mut self.evolution.input.ridge, ridge);
        let attempt = self.evolution.approach(start);
        self.evolution.input.ridge = wanted;
        attempt
    }
}

#[cfg(test)]
mod tests {
    use super::super::{equations, output_channel};
    use super::*;
    use crate::pretrain::training::Pretraining;
    use crate::state_evolution::mean;
    use crate::{Model, Teacher};

    /// The result of a search whose constants `change` has changed.
    fn found(model: &Model, training: &Pretraining, change: impl Fn(&mut Path)) -> FoundMatrix {
        // The default tolerance is matched to the noise, which is far above the differences that are looked for.
        let options = Options::default().with_log2_nodes(9).unwrap().with_tolerance(1e-9).unwrap();
        let teacher = model.teacher_spectrum().unwrap();
        let equations = equations(model, training, model.teacher_matrix(teacher.as_ref()));
        let mut channel = output_channel(model, equations.label, &options, &Tuning::default()).unwrap();
        let collapse = equations.collapse_ridge(&mean(&channel.at_zero()));
        let mut starts = PretrainingStarts::new(channel.as_mut(), equations, &options, None);
        change(&mut starts.path);
        starts.run(collapse).unwrap().unwrap()
    }

    type Change = fn(&mut Path, f64);

    const CONSTANTS: [(&str, Change); 5] = [
        ("close", |path, factor| path.close *= factor),
        ("runaway", |path, factor| path.runaway *= factor),
        // The ridges stay below that of collapse.
        ("first_ridges", |path, factor| path.first_ridges = path.first_ridges.map(|x| x.powf(factor))),
        ("cold", |path, factor| path.cold *= factor),
        ("smallest_step", |path, factor| path.smallest_step *= factor),
    ];

    #[test]
    fn the_constants_of_the_path_do_not_decide_answers() {
        let wishart = |tokens, kappa0| {
            Model::softmax(tokens, 0.5).unwrap().with_teacher(Teacher::Wishart { kappa0 }).unwrap()
        };
        let cold = wishart(2, 0.5).with_inverse_temperature(3.0).unwrap();
        for (model, alpha, lambda) in [
            (wishart(2, 0.5), 0.1, 0.3),
            (wishart(2, 0.5), 0.1, 0.003),
            (wishart(2, 0.5), 0.2, 0.05),
            (wishart(2, 0.5), 0.4, 0.001),
            (wishart(3, 1.0), 0.1, 0.1),
            (wishart(3, 1.0), 0.1, 0.003),
            (cold.clone(), 0.1, 0.1),
            (cold.clone(), 0.2, 0.1),
        ] {
            let training = Pretraining::new(alpha, lambda).unwrap();
            let reference = found(&model, &training, |_| {});
            assert_eq!(reference.solved.status, Status::Converged, "{model:?}, {training:?}");
            for (name, change) in CONSTANTS {
                for factor in [0.5, 2.0] {
                    let other = found(&model, &training, |path| change(path, factor));
                    let what = format!("{model:?}, {training:?}, {name} x {factor}");
                    assert_eq!(other.solved.status, Status::Converged, "{what}");
                    assert_eq!(other.divergence, reference.divergence, "{what}");
                    for of in [|p: &MatrixOverlaps| p.m, |p: &MatrixOverlaps| p.s2, |p: &MatrixOverlaps| p.v]
                    {
                        // The fixed point is on the same nodes, so that the change is far less than a standard error.
                        let error = reference.solved.standard_error(|point, _| of(point)).unwrap();
                        let [x, y] = [&other, &reference].map(|found| of(&found.solved.point));
                        assert!((x - y).abs() < 1e-3 * error, "{what}: {x} against {y} +- {error}");
                    }
                }
            }
        }
    }
}
