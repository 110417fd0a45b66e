//! The step from a fixed point in units of `q0` to a solution with its observables and standard errors.

use super::moments::{Moments, Point};
use super::ridge::{Conjugates, Ridge};
use super::solution::{EffectiveNoise, Errors, Order, Solution};
use super::starts::Found;
use super::units::Units;
use super::validity::Validity;
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
    fn errors(&self, common: &Point, own: &[Point]) -> (TestErrors, Vec<TestErrors>);
}

/// The inputs of the observables besides the fixed point.
pub(super) struct Reporter {
    pub(super) units: Units,
    pub(super) effective_noise: Option<EffectiveNoise>,
}

/// All results that have a standard error.
struct Observed {
    order: Order,
    objective: f64,
    errors: Errors,
    alignment: f64,
    validity: Validity,
}

impl Reporter {
    pub(super) fn solution(&self, found: &Found, law: &impl TestLaw) -> Solution {
        let own: Vec<Point> = found.replicates.iter().map(|(point, _)| *point).collect();
        let (errors, own_errors) = law.errors(&found.point, &own);
        let std_error = self.std_error(found, &own_errors);
        let Observed { order, objective, errors, alignment, validity } =
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
        let Errors { test, test_clean, train, frozen } = errors;
        let finite = numbers.iter().chain(&[test, test_clean, train, frozen]).all(|x| x.is_finite());
        let mut solution = Solution {
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

    fn observe(&self, ridge: &Ridge, point: &Point, moments: &Moments, errors: TestErrors) -> Observed {
        let Units { q0, loss } = self.units;
        let Conjugates { v_hat, m_hat, q_hat, eta } = self.units.physical(&ridge.conjugates(point, moments));
        let TestErrors { test, test_clean, frozen } = errors;
        Observed {
            order: Order {
                q: q0 * point.q(),
                m: q0 * point.m,
                v: point.v / self.units.stiffness(),
                q_hat,
                m_hat,
                v_hat,
                eta,
            },
            objective: loss * ridge.objective(point, moments),
            errors: Errors { test, test_clean, train: loss * moments.loss, frozen },
            alignment: observables::alignment(point.m, point.q(), 1.0),
            validity: ridge.validity(point, moments),
        }
    }

    fn std_error(&self, found: &Found, errors: &[TestErrors]) -> StdError {
        let observed: Vec<Named> = found
            .replicates
            .iter()
            .zip(errors)
            .map(|((point, moments), errors)| self.observe(&found.ridge, point, moments, *errors).named())
            .collect();
        StdError::over(&observed)
    }
}

impl Observed {
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
fn erase(solution: &mut Solution) {
    let nan = f64::NAN;
    solution.status = Status::NonFinite;
    solution.order = Order { q: nan, m: nan, v: nan, q_hat: nan, m_hat: nan, v_hat: nan, eta: nan };
    solution.objective = nan;
    solution.errors = Errors { test: nan, test_clean: nan, train: nan, frozen: nan };
    solution.alignment = nan;
    solution.residual = nan;
    solution.effective_noise = None;
    solution.std_error = StdError::default();
    solution.validity.erase();
}
