//! Fine-tuning of weights with several columns: one triple `(q_k, m_k, v_k)` for every group of equal columns.
//!
//! `ridge.rs` is the input channel, which is that of rank one for each group; `starts.rs` the starts and the columns whose
//! overlap is lost or that vanish; `report.rs` the observables.

mod report;
mod ridge;
mod starts;

use super::problem::{FieldLaw, FinetuningProblem};
use super::solution::{FinetuningColumn, FinetuningSolution};
use super::zero_weights::{critical_ridge, noise_edge};
use crate::attention::Attention;
use crate::divergence::Divergence;
use crate::error::Error;
use crate::losses::vector::columns::{
    self, ColumnLayout, ColumnNodes, ColumnOverlaps, FactorSide, FieldSource,
};
use crate::losses::vector::general::PerturbedLayer;
use crate::losses::vector::{ReplicatedErrors, VectorOverlaps, linear};
use crate::model::Specialisation;
use crate::observables;
use crate::parallel;
use crate::state_evolution::{Run, Tuning};
use crate::threshold::Threshold;
use report::ColumnReporter;
use ridge::ColumnRidge;
use starts::{ColumnStarts, FoundColumns};

/// Solves a problem with several columns.
pub(super) fn solve(
    problem: &FinetuningProblem<'_>,
    run: Run<'_, FinetuningSolution>,
) -> Result<FinetuningSolution, Error> {
    parallel::in_pool(|| ColumnProblem::new(problem).solve(run))
}

/// The ridges of collapse and of the noise edge for two factors with one column each; see
/// [`lambda_collapse`](super::lambda_collapse) and [`lambda_noise_edge`](super::lambda_noise_edge).
pub(super) fn critical_ridges(problem: &FinetuningProblem<'_>) -> Result<[Option<Threshold>; 2], Error> {
    parallel::in_pool(|| ColumnProblem::new(problem).critical_ridges())
}

/// A problem of fine-tuning with the layout of its columns.
struct ColumnProblem<'a> {
    problem: &'a FinetuningProblem<'a>,
    layout: ColumnLayout,
}

impl<'a> ColumnProblem<'a> {
    fn new(problem: &'a FinetuningProblem<'a>) -> Self {
        let training = problem.training;
        let (rank, variances) = (training.rank(), training.variances());
        let layout = match problem.model.attention() {
            Attention::Tied => ColumnLayout::new(rank, variances),
            // The loss of linear attention does not change when the logits are transposed.
            Attention::Cross => {
                let symmetric = problem.model.specialisation() == Specialisation::Linear;
                ColumnLayout::of_factors(rank, variances, symmetric)
            }
        };
        Self { problem, layout }
    }

    fn layer(&self) -> PerturbedLayer {
        let model = self.problem.model;
        let coupling = match &self.problem.fields {
            FieldLaw::Difference(_) => 1.0,
            FieldLaw::Joint { coupling, .. } => *coupling,
        };
        PerturbedLayer {
            attention: model.attention(),
            activation: model.shared_activation(),
            tokens: model.tokens(),
            coupling,
            truth: self.layout.all_truth(),
            rank: self.layout.columns(),
            form: model.known_derivatives(),
        }
    }

    fn ridge(&self) -> ColumnRidge {
        let FinetuningProblem { model, training, units, fields, .. } = self.problem;
        ColumnRidge {
            layout: self.layout.clone(),
            tokens: model.tokens() as f64,
            // In cross-attention, the coordinates that are seen are those of every row.
            key_tokens: model.observed_coordinates() / model.tokens() as f64,
            alpha: training.alpha(),
            lambda: units.scaled_ridge(training.ridge()),
            // For softmax, the pointwise derivative by chi* has more noise than integration by parts.
            divergence: match fields {
                FieldLaw::Difference(_) => Divergence::PointwiseAndJump,
                FieldLaw::Joint { .. } => Divergence::IntegrationByParts,
            },
            linear: matches!(fields, FieldLaw::Difference(_)),
        }
    }

    fn nodes(&self, tuning: &Tuning) -> Result<ColumnNodes, Error> {
        let FinetuningProblem { fields, options, .. } = self.problem;
        let source = match fields {
            FieldLaw::Difference(noise) => FieldSource::Difference(noise),
            FieldLaw::Joint { law, .. } => FieldSource::Joint(law),
        };
        ColumnNodes::new(self.layer(), self.layout.clone(), source, options, tuning)
    }

    fn critical_ridges(&self) -> Result<[Option<Threshold>; 2], Error> {
        let zero = self.nodes(&Tuning::default())?.zero_weights();
        let ridge = self.ridge().of_column(0, Divergence::PointwiseAndJump);
        let edge = noise_edge(&zero, &ridge);
        // Below the noise edge the weights vanish nowhere, so that there is no collapse with an overlap.
        let above = |critical: &(f64, Vec<f64>)| edge.as_ref().is_none_or(|edge| critical.0 > edge.value);
        let critical = critical_ridge(&zero, &ridge).filter(above);
        let critical = critical.map(|critical| self.problem.threshold(critical));
        Ok([critical, edge.map(|edge| self.problem.noise_threshold(edge))])
    }

    fn solve(&self, mut run: Run<'_, FinetuningSolution>) -> Result<FinetuningSolution, Error> {
        let FinetuningProblem { options, units, .. } = self.problem;
        let warm = run.previous.and_then(|solution| self.continued(solution));
        let mut nodes = self.nodes(&run.tuning)?;
        let mut guess = self.problem.guess();
        // True columns that cannot be learned are noise.
        let hidden = self.layout.truth().iter().skip(self.layout.rank());
        guess.noise += hidden.sum::<f64>();
        let found = ColumnStarts::new(self.ridge(), guess, options, &mut nodes)
            .starting_from(warm)
            .accompanied(run.tuning, run.observer())
            .run(options.start())?;
        let errors = self.test_errors(&found)?;
        let reporter = ColumnReporter {
            layout: &self.layout,
            units: *units,
            effective_noise: self.problem.effective_noise(),
        };
        Ok(reporter.solution(&found, &errors))
    }

    /// The point of a solution with as many columns, as a start.
    fn continued(&self, solution: &FinetuningSolution) -> Option<ColumnOverlaps> {
        if solution.columns.len() != self.layout.rank() {
            return None;
        }
        let units = self.problem.units;
        let numbers: Vec<usize> = self.layout.group_of_column().collect();
        let of_group = |(number, group): (usize, &columns::ColumnGroup)| {
            let column = numbers.iter().position(|own| *own == number)? % self.layout.rank();
            let first = match (solution.columns.get(column)?, group.factor) {
                (FinetuningColumn::Tied(own), FactorSide::Single) => own,
                (FinetuningColumn::Factors { b, .. }, FactorSide::Both | FactorSide::Queries) => b,
                (FinetuningColumn::Factors { a, .. }, FactorSide::Keys) => a,
                _ => return None,
            };
            let m = group.variance.map_or(0.0, |variance| first.m / variance.sqrt());
            let point = units.scaled(first.q, m, first.v);
            let usable = [point.s2, point.v].iter().all(|x| x.is_finite() && *x > 0.0) && point.m >= 0.0;
            usable.then_some(point)
        };
        let groups: Option<Vec<VectorOverlaps>> =
            self.layout.groups().iter().enumerate().map(of_group).collect();
        groups.map(|groups| ColumnOverlaps { groups })
    }

    /// The errors on new sequences.
    fn test_errors(&self, found: &FoundColumns) -> Result<ReplicatedErrors, Error> {
        let own: Vec<ColumnOverlaps> = found.replicates.iter().map(|(point, _)| point.clone()).collect();
        let FinetuningProblem { model, training, frozen, options, fields, .. } = self.problem;
        match fields {
            FieldLaw::Difference(_) => {
                let unexplained = observables::unexplained(&frozen.overlaps(), training.beta());
                let (tokens, delta) = (model.tokens(), model.delta());
                // The error depends on the Frobenius norms as that of rank one on the scalars.
                let q0 = training.q0();
                let unit = self.problem.training.unit() / q0;
                let norms = |point: &ColumnOverlaps| {
                    let [q, m] = self.layout.norms(point);
                    VectorOverlaps { m: unit * m, s2: unit * q - unit * m * unit * m, v: f64::NAN }
                };
                let closed =
                    linear::ClosedForm { attention: model.attention(), tokens, q0, delta, unexplained };
                let own: Vec<VectorOverlaps> = own.iter().map(norms).collect();
                Ok(closed.errors(&norms(&found.point), &own))
            }
            FieldLaw::Joint { law, .. } => {
                columns::test_errors(&self.layer(), &self.layout, law, options, &found.point, &own)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lora::training::Finetuning;
    use crate::model::Model;
    use crate::{Frozen, Options};
    use std::sync::Arc;

    /// With one column, the kernel of columns and the general kernel of rank one see the same nodes.
    #[test]
    fn one_column_is_rank_one() {
        let activation = Arc::new(crate::activation::Softmax);
        let model = Model::with_activation(2, 0.5, activation).unwrap();
        let frozen = Frozen::new(2.0, 1.2, 1.1).unwrap().with_response(0.7).unwrap();
        let fresh = Finetuning::fresh(8.0, 0.3).unwrap().with_variance(1.3).unwrap();
        let selected = crate::lora::Selection::new(0.3, crate::lora::Score::Frobenius).unwrap();
        for training in [fresh, fresh.reused().recalibrated(0.9).unwrap(), fresh.active(selected)] {
            let options = Options::default().with_log2_nodes(9).unwrap().with_tolerance(1e-10).unwrap();
            let problem = FinetuningProblem::new(&model, &frozen, &training, &options);
            let [one, columns] =
                [problem.solve(None, Run::default()), solve(&problem, Run::default())].map(Result::unwrap);
            let numbers = |solution: &FinetuningSolution| {
                let (order, errors) = (solution.order, solution.errors);
                let validity = &solution.validity;
                [order.q, order.m, order.v, order.q_hat, order.m_hat, order.v_hat, solution.objective]
                    .into_iter()
                    .chain([errors.test, errors.test_clean, errors.train, errors.frozen, solution.alignment])
                    .chain([validity.jump, validity.replicon, order.eta])
                    .chain([solution.std_error.q, solution.std_error.test].map(Option::unwrap))
                    .collect::<Vec<_>>()
            };
            assert_eq!(one.validity.verdict, columns.validity.verdict);
            for (a, b) in numbers(&one).iter().zip(numbers(&columns)) {
                approx::assert_relative_eq!(*a, b, max_relative = 1e-6);
            }
        }
    }
}
