//! The step from a fixed point of linear attention to a solution with its observables.

use super::equations::ConvexEquations;
use super::search::ConvexMinimum;
use crate::model::Model;
use crate::observables;
use crate::pretrain::linear_error::linear_error;
use crate::pretrain::solution::{PretrainingErrors, PretrainingSolution};
use crate::pretrain::training::Pretraining;
use crate::pretrain::validity::PretrainingValidity;
use crate::status::Status;
use crate::std_error::StdError;

/// How a search ended.
pub(super) struct Ending {
    pub(super) status: Status,
    pub(super) residual: f64,
    pub(super) iterations: usize,
}

/// The observables of a fixed point. `penalty` is the ridge in the objective, in units of `D^2`.
pub(super) fn report(
    model: &Model,
    training: &Pretraining,
    equations: &ConvexEquations<'_>,
    point: &ConvexMinimum,
    penalty: f64,
    ending: Ending,
) -> PretrainingSolution {
    let ConvexMinimum { order, trace, rank_fraction, mse } = *point;
    let error = |mse| linear_error(model, mse);
    let test = error(mse + equations.noise);
    let shrinkage = equations.shrinkage(order.v);
    let train = test / (shrinkage * shrinkage);
    let q0 = equations.teacher.second_moment();
    let Ending { status, residual, iterations } = ending;
    PretrainingSolution {
        attention: equations.teacher.attention(),
        order,
        q0,
        trace,
        rank_fraction,
        objective: training.alpha() * train + penalty,
        errors: PretrainingErrors { test, test_clean: error(mse), train },
        alignment: observables::alignment(order.m, order.q, q0),
        moments: None,
        validity: PretrainingValidity::convex(status.is_success()),
        divergence: None,
        status,
        residual,
        iterations,
        std_error: StdError::default(),
    }
}
