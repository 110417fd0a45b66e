//! The step from a fixed point in units of `q0` to a solution with its observables and standard errors.

use super::ridge::Conjugates;
use super::solution::{
    EffectiveNoise, FinetuningColumn, FinetuningErrors, FinetuningOrder, FinetuningSolution,
};
use super::starts::FoundVector;
use super::units::Units;
use crate::losses::vector::{Moments, ReplicatedErrors, TestErrors, VectorOverlaps, term};
use crate::observables;
use crate::status::Status;
use crate::std_error::{Named, StdError};

/// The inputs of the observables besides the fixed point.
pub(super) struct Reporter {
    pub(super) units: Units,
    pub(super) effective_noise: Option<EffectiveNoise>,
}

impl Reporter {
    pub(super) fn solution(&self, found: &FoundVector, errors: &ReplicatedErrors) -> FinetuningSolution {
        let mut solution = self.observe(found, &found.point, &found.moments, &errors.common);
        conclude(&mut solution, |solution| {
            let own: Vec<Named> = found
                .replicates
                .iter()
                .zip(&errors.own)
                .map(|((point, moments), errors)| self.observe(found, point, moments, errors).named())
                .collect();
            solution.std_error = StdError::over(&own);
        });
        solution
    }

    /// The solution with the given point, averages and errors on new sequences, without standard errors.
    fn observe(
        &self,
        found: &FoundVector,
        point: &VectorOverlaps,
        moments: &Moments,
        errors: &TestErrors,
    ) -> FinetuningSolution {
        let ridge = &found.ridge;
        let Units { q0, loss } = self.units;
        let Conjugates { v_hat, m_hat, q_hat, eta } = self.units.physical(&ridge.conjugates(point, moments));
        let TestErrors { test, test_clean, frozen, forgetting } = *errors;
        FinetuningSolution {
            order: FinetuningOrder {
                q: q0 * point.q(),
                m: q0 * point.m,
                v: point.v / self.units.stiffness(),
                q_hat,
                m_hat,
                v_hat,
                eta,
            },
            columns: Vec::new(),
            objective: loss * ridge.objective(point, moments),
            errors: FinetuningErrors {
                test,
                test_clean,
                train: loss * moments[term::LOSS],
                frozen,
                forgetting,
            },
            alignment: observables::alignment(point.m, point.q(), 1.0),
            cosines: Vec::new(),
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

/// Lets `add_errors` set the standard errors of a solution near a fixed point. Away from one, neither the gauges nor the error
/// bars mean anything, and if there are no numbers no part of the solution remains.
pub(super) fn conclude(solution: &mut FinetuningSolution, add_errors: impl FnOnce(&mut FinetuningSolution)) {
    if solution.has_error_bars() {
        add_errors(solution);
    } else {
        solution.validity.distrust();
    }
    if solution.status == Status::NonFinite || !solution.named().has_numbers() {
        erase(solution);
    }
}

/// Sets all numbers of a solution to NaN, so that no part of it remains.
fn erase(solution: &mut FinetuningSolution) {
    let nan = f64::NAN;
    solution.status = Status::NonFinite;
    solution.order = FinetuningOrder { q: nan, m: nan, v: nan, q_hat: nan, m_hat: nan, v_hat: nan, eta: nan };
    solution.columns.iter_mut().for_each(FinetuningColumn::erase);
    solution.cosines.iter_mut().for_each(|cosine| *cosine = nan);
    solution.objective = nan;
    solution.errors =
        FinetuningErrors { test: nan, test_clean: nan, train: nan, frozen: nan, forgetting: nan };
    solution.alignment = nan;
    solution.residual = nan;
    solution.effective_noise = None;
    solution.finite_size = None;
    solution.std_error = StdError::default();
    solution.validity.erase();
}
