//! The step from a fixed point of several columns to a solution with its observables and standard errors.

use super::starts::FoundColumns;
use crate::attention::Attention;
use crate::lora::report::conclude;
use crate::lora::solution::{
    ColumnOrder, EffectiveNoise, FinetuningColumn, FinetuningErrors, FinetuningOrder, FinetuningSolution,
};
use crate::lora::units::Units;
use crate::losses::vector::columns::{ColumnLayout, ColumnMoments, ColumnOverlaps};
use crate::losses::vector::{ReplicatedErrors, TestErrors, term};
use crate::observables;
use crate::std_error::{Named, StdError};

/// The inputs of the observables besides the fixed point.
pub(super) struct ColumnReporter<'a> {
    pub(super) layout: &'a ColumnLayout,
    pub(super) units: Units,
    pub(super) effective_noise: Option<EffectiveNoise>,
}

impl ColumnReporter<'_> {
    pub(super) fn solution(&self, found: &FoundColumns, errors: &ReplicatedErrors) -> FinetuningSolution {
        let mut solution = self.observe(found, &found.point, &found.moments, &errors.common);
        conclude(&mut solution, |solution| {
            let own: Vec<FinetuningSolution> = found
                .replicates
                .iter()
                .zip(&errors.own)
                .map(|((point, moments), errors)| self.observe(found, point, moments, errors))
                .collect();
            solution.std_error =
                StdError::over(&own.iter().map(FinetuningSolution::named).collect::<Vec<_>>());
            for (number, column) in solution.columns.iter_mut().enumerate() {
                for (factor, order) in column.orders_mut().into_iter().enumerate() {
                    let own = own.iter().filter_map(|solution| solution.columns.get(number));
                    let own: Vec<Named> =
                        own.filter_map(|column| Some(named(column.orders().get(factor)?.1))).collect();
                    order.std_error = StdError::over(&own);
                }
            }
        });
        solution
    }

    /// The columns as the schema has them: those of two factors in pairs.
    fn paired(&self, columns: &[ColumnOrder]) -> Vec<FinetuningColumn> {
        match self.layout.attention() {
            Attention::Tied => columns.iter().copied().map(FinetuningColumn::Tied).collect(),
            Attention::Cross => {
                let (left, right) = columns.split_at(self.layout.rank());
                let pairs = left.iter().zip(right);
                pairs.map(|(b, a)| FinetuningColumn::Factors { b: *b, a: *a }).collect()
            }
        }
    }

    /// The solution with the given point, averages and errors on new sequences, without standard errors.
    fn observe(
        &self,
        found: &FoundColumns,
        point: &ColumnOverlaps,
        moments: &ColumnMoments,
        errors: &TestErrors,
    ) -> FinetuningSolution {
        let (ridge, Units { q0, loss }) = (&found.ridge, self.units);
        let conjugates: Vec<_> =
            ridge.conjugates(point, moments).iter().map(|own| self.units.physical(own)).collect();
        let cross = self.layout.attention() == Attention::Cross;
        let mut columns = Vec::with_capacity(self.layout.columns());
        let mut cosines = Vec::with_capacity(self.layout.columns());
        for group in self.layout.group_of_column() {
            let (own, hats, variance) =
                (&point.groups[group], &conjugates[group], self.layout.groups()[group].variance);
            let cosine = variance.map(|_| observables::alignment(own.m, own.q(), 1.0));
            columns.push(ColumnOrder {
                q: q0 * own.q(),
                m: variance.map_or(0.0, |variance| q0 * variance.sqrt() * own.m),
                v: own.v / self.units.stiffness(),
                q_hat: hats.q_hat,
                m_hat: variance.map_or(0.0, |variance| hats.m_hat / variance.sqrt()),
                v_hat: hats.v_hat,
                alignment: cosine.filter(|_| cross),
                std_error: StdError::default(),
            });
            cosines.extend(cosine);
        }
        let mean = |of: fn(&ColumnOrder) -> f64| columns.iter().map(of).sum::<f64>() / columns.len() as f64;
        let [q, m] = self.layout.norms(point);
        let loss_of_sample = moments.groups.first().map_or(f64::NAN, |moments| moments[term::LOSS]);
        let TestErrors { test, test_clean, frozen, forgetting } = *errors;
        FinetuningSolution {
            order: FinetuningOrder {
                q: q0 * q,
                m: q0 * m,
                v: mean(|column| column.v),
                q_hat: mean(|column| column.q_hat),
                m_hat: mean(|column| column.m_hat),
                v_hat: mean(|column| column.v_hat),
                eta: conjugates.first().map_or(f64::NAN, |hats| hats.eta),
            },
            columns: self.paired(&columns),
            objective: loss * ridge.objective(point, moments),
            errors: FinetuningErrors { test, test_clean, train: loss * loss_of_sample, frozen, forgetting },
            // The alignment of a single factor is the root of the cosine between the perturbations.
            alignment: {
                let root = observables::alignment(m, q, self.layout.norm_of_truth());
                if cross { root * root } else { root }
            },
            cosines,
            finite_size: None,
            effective_noise: self.effective_noise,
            validity: ridge.validity(point, moments),
            divergence: ridge.divergence,
            branch: found.branch,
            status: found.status,
            residual: found.residual,
            iterations: found.iterations,
            std_error: StdError::default(),
        }
    }
}

/// The numbers of a column that have standard errors.
fn named(column: &ColumnOrder) -> Named {
    let ColumnOrder { q, m, v, q_hat, m_hat, v_hat, alignment, .. } = *column;
    let [q, m, v, q_hat, m_hat, v_hat] = [q, m, v, q_hat, m_hat, v_hat].map(Some);
    Named { q, m, v, q_hat, m_hat, v_hat, alignment, ..Named::default() }
}
