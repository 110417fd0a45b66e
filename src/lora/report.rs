//! The step from a fixed point in units of `q0` to a solution with its observables and standard errors.

use super::moments::{Moments, VectorOverlaps};
use super::ridge::{Ridge, VectorConjugates};
use super::solution::{EffectiveNoise, FinetuningErrors, FinetuningOrder, FinetuningSolution};
use super::starts::FoundVector;
use super::units::Units;
use super::validity::FinetuningValidity;
use crate::observables;
use crate::status::Status;
use crate::std_error::{Named, StdError};

/// Errors on new sequences, in the units of the loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct TestErrors {
    pub(super) test: f64,
    pub(super) test_clean: f64,
    pub(super) frozen: f64,
}

/// The law of new sequences.
pub(super) trait TestLaw {
    /// The errors at the common fixed point, and those of every replicate at its own fixed point.
    fn errors(&self, common: &VectorOverlaps, own: &[VectorOverlaps]) -> (TestErrors, Vec<TestErrors>);
}

/// The inputs of the observables besides the fixed point.
pub(super) struct Reporter {
    pub(super) units: Units,
    pub(super) effective_noise: Option<EffectiveNoise>,
}

/// All results that have a standard error.
struct ObservedVector {
    order: FinetuningOrder,
    objective: f64,
    errors: FinetuningErrors,
    alignment: f64,
    validity: FinetuningValidity,
}

impl Reporter {
    pub(super) fn solution(&self, found: &FoundVector, law: &impl TestLaw) -> FinetuningSolution {
        let own: Vec<VectorOverlaps> = found.replicates.iter().map(|(point, _)| *point).collect();
        let (errors, own_errors) = law.errors(&found.point, &own);
        let std_error = self.std_error(found, &own_errors);
        let ObservedVector { order, objective, errors, alignment, validity } =
            self.observe(&found.ridge, &found.point, &found.moments, errors);
        let numbers = [
            order.q,
            order.m,
            order.v,
            order.q_hat,
            order.m_hat,
            order.v_hat,
            order.eta,
            objective,
            alignment,
        ];
        let FinetuningErrors { test, test_clean, train, frozen } = errors;
        let finite = numbers.iter().chain(&[test, test_clean, train, frozen]).all(|x| x.is_finite());
        let mut solution = FinetuningSolution {
            order,
            objective,
            errors,
            alignment,
            effective_noise: self.effective_noise,
            validity,
            divergence: found.ridge.divergence,
            branch: found.branch,
            status: found.status,
            residual: found.residual,
            iterations: found.iterations,
            std_error,
        };
        if !matches!(found.status, Status::Converged | Status::Collapsed | Status::NoiseLimited) {
            // Away from a fixed point, neither the gauges nor the error bars mean anything.
            solution.validity.distrust();
            solution.std_error = StdError::default();
        }
        if !finite || found.status == Status::NonFinite {
            erase(&mut solution);
        }
        solution
    }

    fn observe(
        &self,
        ridge: &Ridge,
        point: &VectorOverlaps,
        moments: &Moments,
        errors: TestErrors,
    ) -> ObservedVector {
        let Units { q0, loss } = self.units;
        let stiffness = self.units.stiffness();
        let VectorConjugates { v_hat, m_hat, q_hat, eta } = ridge.conjugates(point, moments);
        let TestErrors { test, test_clean, frozen } = errors;
        ObservedVector {
            order: FinetuningOrder {
                q: q0 * point.q(),
                m: q0 * point.m,
                v: point.v / stiffness,
                q_hat: loss * stiffness * q_hat,
                m_hat: stiffness * m_hat,
                v_hat: stiffness * v_hat,
                eta: stiffness * eta,
            },
            objective: loss * ridge.objective(point, moments),
            errors: FinetuningErrors { test, test_clean, train: loss * moments.loss, frozen },
            alignment: observables::alignment(point.m, point.q(), 1.0),
            validity: ridge.validity(point, moments),
        }
    }

    fn std_error(&self, found: &FoundVector, errors: &[TestErrors]) -> StdError {
        let observed: Vec<Named> = found
            .replicates
            .iter()
            .zip(errors)
            .map(|((point, moments), errors)| self.observe(&found.ridge, point, moments, *errors).named())
            .collect();
        StdError::over(&observed)
    }
}

impl ObservedVector {
    fn named(&self) -> Named {
        let Self { order, objective, errors, alignment, validity } = self;
        Named {
            q: Some(order.q),
            m: Some(order.m),
            v: Some(order.v),
            q_hat: Some(order.q_hat),
            m_hat: Some(order.m_hat),
            v_hat: Some(order.v_hat),
            eta: Some(order.eta),
            objective: Some(*objective),
            test: Some(errors.test),
            test_clean: Some(errors.test_clean),
            train: Some(errors.train),
            frozen: Some(errors.frozen),
            alignment: Some(*alignment),
            jump: Some(validity.jump),
            replicon: Some(validity.replicon),
            ..Named::default()
        }
    }
}

/// Sets all numbers of a solution to NaN, so that no part of it remains.
fn erase(solution: &mut FinetuningSolution) {
    let nan = f64::NAN;
    solution.status = Status::NonFinite;
    solution.order = FinetuningOrder { q: nan, m: nan, v: nan, q_hat: nan, m_hat: nan, v_hat: nan, eta: nan };
    solution.objective = nan;
    solution.errors = FinetuningErrors { test: nan, test_clean: nan, train: nan, frozen: nan };
    solution.alignment = nan;
    solution.residual = nan;
    solution.effective_noise = None;
    solution.std_error = StdError::default();
    solution.validity.erase();
}
