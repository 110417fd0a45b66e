//! Direct training of linear attention, in closed form: ridge regression on the coordinates of `S`.
//!
//! In the notation of [`equations`](super::equations), with `a = 2c/T^2` and `R = Vhat + 2c lambda`, the equations are
//!
//! ```text
//! V = 1/R,   Vhat = a (c alpha K)/(1 + a V),   M = x Q0,   Q = x^2 (Q0 + E/(c alpha K)),   x = Vhat V,
//! ```
//!
//! since `Mhat = Vhat` and `Qhat = Vhat^2 E/(c alpha K)`. The first two are a quadratic equation with one positive root,
//!
//! ```text
//! 2c lambda a V^2 + (a (c alpha K - 1) + 2c lambda) V = 1,
//! ```
//!
//! and then `E = Q0 - 2M + Q + Delta/c` gives `E (1 - x^2/(c alpha K)) = (1 - x)^2 Q0 + Delta/c`, with `1 - x = 2c lambda V`. At `lambda = 0` it is
//! least squares: `x = 1`, and `E` diverges at the threshold of interpolation, `c alpha K = 1`.

use super::equations::{ConvexEquations, ErrorAndResponse};
use super::report::{Ending, report};
use super::search::ConvexMinimum;
use crate::model::Model;
use crate::pretrain::solution::{PretrainingOrder, PretrainingSolution};
use crate::pretrain::training::Pretraining;
use crate::spectrum::Denoised;
use crate::status::Status;

/// Largest residual, in logarithms, that rounding leaves of the closed form.
const ROUNDING: f64 = 1e-9;

/// The curvature of the ridge, `2c lambda`.
fn curvature(equations: &ConvexEquations<'_>) -> f64 {
    2.0 * equations.logit_variance * equations.ridge
}

/// The positive root of the quadratic equation for `V`.
fn response(equations: &ConvexEquations<'_>) -> f64 {
    let a = 2.0 * equations.logit_variance / equations.tokens_squared;
    let curvature = curvature(equations);
    let slope = a * (equations.budget - 1.0) + curvature;
    let square = a * curvature;
    let root = slope.hypot(2.0 * square.sqrt());
    // The form without a cancellation.
    if slope >= 0.0 { 2.0 / (slope + root) } else { (root - slope) / (2.0 * square) }
}

/// One undamped step `(Q, M, V) -> (Q, M, V)` of the state evolution, given `Q0 - 2M + Q + Delta/c` and `V`.
pub(super) fn step(equations: &ConvexEquations<'_>, noisy_mse: f64, v: f64) -> [f64; 3] {
    let conjugates = equations.conjugates(&ErrorAndResponse { noisy_mse, v });
    let stiffness = conjugates.v_hat + curvature(equations);
    let share = conjugates.v_hat / stiffness;
    let Denoised { norm, overlap, response, .. } = equations.teacher.keep(1.0 / conjugates.tau);
    let size = share * conjugates.tau;
    [size * size * norm, size * overlap, response / stiffness]
}

pub(super) fn solve(
    model: &Model,
    training: &Pretraining,
    equations: &ConvexEquations<'_>,
) -> PretrainingSolution {
    let ConvexEquations { teacher, budget, noise, .. } = *equations;
    let q0 = teacher.second_moment();
    let v = response(equations);
    let v_hat = equations.stiffness_of_nothing() / equations.shrinkage(v);
    // Both are below 1, and their sum is 1.
    let (learned, lost) = (v_hat * v, curvature(equations) * v);
    let noisy_mse = (lost * lost * q0 + noise) / (1.0 - learned * (learned / budget));
    let overfitted = learned * learned * noisy_mse / budget;
    let order = PretrainingOrder {
        q: learned * learned * q0 + overfitted,
        m: learned * q0,
        v,
        q_hat: v_hat * v_hat * noisy_mse / budget,
        m_hat: v_hat,
        v_hat,
    };
    let tau = (noisy_mse / budget).sqrt();
    let Denoised { trace, rank_fraction, .. } = teacher.keep(1.0 / tau);
    let point = ConvexMinimum {
        order,
        trace: learned * tau * trace,
        rank_fraction,
        mse: lost * lost * q0 + overfitted,
    };
    let PretrainingOrder { q, m, v, .. } = order;
    let sound = [q, m, v, v_hat, noisy_mse].iter().all(|x| x.is_finite() && *x > 0.0) && trace.is_finite();
    if !sound {
        return PretrainingSolution::without_numbers(&teacher, 1);
    }
    let image = step(equations, noisy_mse, v);
    let residual = image.iter().zip([q, m, v]).map(|(image, x)| (image / x).ln().abs()).fold(0.0, f64::max);
    let status = if residual < ROUNDING { Status::Converged } else { Status::Stalled };
    let penalty = training.ridge() * q;
    report(model, training, equations, &point, penalty, Ending { status, residual, iterations: 1 })
}
