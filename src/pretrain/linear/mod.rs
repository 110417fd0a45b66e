//! Linear attention: the output channel is in closed form, and the fixed point is found by a monotone search.
//!
//! With `c = 2` for tied attention, `c = 1` for cross-attention (see [`crate::Attention`]), and `Vhat = Mhat` the denoiser sees `s* + tau Z` with `tau = sqrt(Qhat)/Vhat`, and thresholds it at
//! `theta = 2 lambda sqrt(kappa)/Vhat = r tau`. The equations of the theory become, as for the LASSO (M.
//! Bayati, A. Montanari, IEEE Trans. Inf. Theory 58, 1997 (2012)),
//!
//! ```text
//! c alpha K tau^2 = Delta/c + mse(tau, r),
//! r tau (c alpha K - D(tau, r)) = lambda sqrt(kappa) T^2/c,
//! ```
//!
//! with `D = V Vhat` the degrees of freedom. At fixed `r` the first equation has one root `tau(r)`, because
//! the mean square error is concave in `tau^2`. Along that root the left side of the second equation grows
//! with `r`, from below zero up to the threshold of collapse. There is therefore one solution at every
//! `lambda`, and the solutions form a smooth path.
//!
//! A quasi-Newton iteration in `(ln tau, ln r)` finds the solution from a rough guess in some ten evaluations
//! of the spectral integrals. If the guess is too rough, the search follows the path from the threshold of
//! collapse. The original equations would take thousands of steps where `V` diverges (`lambda -> 0` below the
//! interpolation threshold), and lose digits there. They are iterated only if both other methods fail.

mod direct;
mod equations;
mod report;
mod search;

use super::solution::PretrainingSolution;
use super::training::{Parametrisation, Pretraining};
use crate::error::Error;
use crate::model::Model;
use crate::options::Options;
use crate::spectrum::TeacherMatrix;
use crate::state_evolution::Run;
use crate::status::Status;
use crate::threshold::Threshold;
use equations::ConvexEquations;
use report::{Ending, report};

/// The smallest ridge at which training collapses. The ridge of `training` is not used.
pub(super) fn lambda_collapse(
    model: &Model,
    training: &Pretraining,
    teacher: TeacherMatrix<'_>,
) -> Threshold {
    let equations = ConvexEquations::new(model, training, teacher, usize::MAX);
    Threshold::exact(equations.collapse_ridge() / training.kappa().sqrt())
}

/// One undamped step `(Q, M, V) -> (Q, M, V)` of the state evolution.
pub(super) fn step(
    model: &Model,
    training: &Pretraining,
    [q, m, v]: [f64; 3],
    teacher: TeacherMatrix<'_>,
) -> [f64; 3] {
    let equations = ConvexEquations::new(model, training, teacher, usize::MAX);
    let noisy_mse = (teacher.second_moment() - 2.0 * m + q).max(0.0) + equations.noise;
    match training.parametrisation() {
        Parametrisation::Factorised => equations.step(noisy_mse, v),
        Parametrisation::Direct => direct::step(&equations, noisy_mse, v),
    }
}

/// The solution on `alpha D^2` sequences. Of the options, only the bound on the iterations and the tolerance
/// matter.
pub(super) fn solve(
    model: &Model,
    training: &Pretraining,
    options: &Options,
    teacher: TeacherMatrix<'_>,
    mut run: Run<'_, PretrainingSolution>,
) -> Result<PretrainingSolution, Error> {
    let equations = ConvexEquations::new(model, training, teacher, options.max_iterations());
    if training.parametrisation() == Parametrisation::Direct {
        return Ok(direct::solve(model, training, &equations));
    }
    let ridge = training.ridge() * training.kappa().sqrt();
    let collapsed = equations.collapse_ridge() <= ridge;
    let point = if collapsed { Some(equations.collapsed()) } else { equations.solve() };
    let iterations = equations.evaluations();
    let Some(point) = point else {
        return Ok(PretrainingSolution::without_numbers(&teacher, iterations));
    };
    let (status, residual) = if collapsed {
        (Status::Collapsed, 0.0)
    } else {
        let solved = equations.certify(&point, options, run.observer())?;
        (solved.status, solved.residual)
    };
    let penalty = teacher.attention().factors() * ridge * point.trace;
    report(model, training, &equations, &point, penalty, Ending { status, residual, iterations })
        .checked_rank(training)
}
