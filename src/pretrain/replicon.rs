//! The stability of replica symmetry in pre-training.
//!
//! Linear attention is convex in `S = P^{-1/2} W W^T`, and its treatment is exact. Softmax attention is not
//! convex. The state evolution describes the global minimum as long as two copies of the message-passing
//! iteration that start next to each other, with the same data, come together again. In orthonormal
//! coordinates (`n = D^2/2` for `S` and `K` for the logits) the iteration is that of a generalised linear
//! model with `2 alpha n` samples and sensing coefficients of variance `1/n`:
//!
//! - A small difference of the fields `omega`, of variance `e` per coordinate, makes a difference of `g` of
//!   mean square `e E|dg/domega|_F^2` per sample. This makes a difference of variance
//!   `2 alpha E|dg/domega|_F^2 e` in the fields `B` of the weights.
//! - The weights are `S = sqrt(D) f(Y)` with `Y = 2B/sqrt(D)`. In the eigenbasis of `Y` the derivative of `f`
//!   multiplies the component `(a, b)` by the divided difference of `f`. The variance per coordinate of the
//!   difference of `S`, and of the difference of `omega` that follows from it, is therefore that of `B` times
//!   `4 double-int ((f(x) - f(y))/(x - y))^2 rho rho`.
//!
//! The product of both factors is the replicon, and replica symmetry is unstable if it is above 1:
//!
//! ```text
//! 8 alpha E|dg/domega|_F^2 double-int ((f(x) - f(y))/(x - y))^2 rho(x) rho(y) dx dy
//! ```
//!
//! In cross-attention, `S` has `n = D^2` coordinates, there are `alpha n` samples, and `Y = B/sqrt(D)`. The basis is that of the singular vectors, in
//! which the mean square of the derivative is the same double integral over the symmetrised law of singular values, and the factor 8
//! becomes 1: in general it is `c^3` with `c` the variance of a logit in units of `Q`.
//!
//! (Without the squares, the same product is `V Vhat`.) For linear attention the replicon is the double
//! integral of the soft threshold of unit slope over `2 alpha K`. It is below `D/(2 alpha K) < 1` with
//! `D = V Vhat` the degrees of freedom, which is stable, as a convex problem must be. If the proximal point
//! jumps, the formula contains the smooth part only.

use super::solution::PretrainingOrder;
use crate::spectrum::TeacherMatrix;

/// The replicon at a fixed point, with `square = E|dg/domega|_F^2` and `weights` the double integral of the
/// soft threshold of unit slope. `logit_variance` is `c` of [`crate::Attention`].
pub(super) fn replicon(
    alpha: f64,
    logit_variance: f64,
    order: &PretrainingOrder,
    square: f64,
    weights: f64,
) -> f64 {
    logit_variance.powi(3) * alpha * (square / order.v_hat) * (weights / order.v_hat)
}

/// The double integral of the soft threshold of unit slope, with `ridge = lambda sqrt(kappa)`.
pub(super) fn weights(teacher: TeacherMatrix<'_>, ridge: f64, order: &PretrainingOrder) -> f64 {
    let noise = order.q_hat.sqrt();
    teacher.squared_response(order.m_hat / noise, 2.0 * ridge / noise)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pretrain::solve;
    use crate::pretrain::training::Pretraining;
    use crate::{Model, Options, Teacher, channel};

    #[test]
    fn convex_training_is_stable() {
        let mut largest: f64 = 0.0;
        for teacher in [
            Teacher::Wishart { kappa0: 0.3 },
            Teacher::Wishart { kappa0: 1.0 },
            Teacher::Spectrum { eigenvalues: vec![0.0, 0.0, 1.0, 2.5] },
            Teacher::PowerLaw { exponent: 1.25, dimension: 30 },
        ] {
            for (tokens, delta) in [(1, 0.5), (2, 0.1), (4, 1.0)] {
                let model = Model::linear(tokens, delta).unwrap().with_teacher(teacher.clone()).unwrap();
                let spectrum = model.teacher_spectrum().unwrap();
                let matrix = TeacherMatrix::new(spectrum.as_ref(), model.attention());
                for alpha in [0.02, 0.1, 0.5, 3.0] {
                    for lambda in [1e-4, 1e-2, 0.3] {
                        let training = Pretraining::new(alpha, lambda).unwrap();
                        let solution = solve(&model, &training, &Options::default()).unwrap();
                        if solution.status != crate::fixed_point::Status::Converged {
                            continue;
                        }
                        let order = &solution.order;
                        // Here dg/domega = -c in all K coordinates, with c = Vhat/(4 alpha K).
                        let coordinates = channel::dimension(tokens) as f64;
                        let c = order.v_hat / (4.0 * alpha * coordinates);
                        let square = coordinates * c * c;
                        let replicon = replicon(alpha, 2.0, order, square, weights(matrix, lambda, order));
                        let bound = order.v * order.v_hat / (2.0 * alpha * coordinates);
                        let what = format!("{teacher:?} T = {tokens}, {alpha}, {lambda}: {replicon} {bound}");
                        assert!(replicon > 0.0 && replicon < bound * (1.0 + 1e-4), "{what}");
                        assert!(bound < 1.0 + 1e-9, "{what}");
                        largest = largest.max(replicon);
                    }
                }
            }
        }
        // The cases come close to the bound: near interpolation the replicon is not far below 1.
        assert!(largest > 0.8, "{largest}");
    }
}
