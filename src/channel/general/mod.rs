//! The general proximal operator: for any [`Activation`], and for logits that depend in any way on `n`
//! coordinates `x`, the global minimum of
//!
//! ```text
//! |sigma(h(x)) - y|_F^2 + sum_i (stiffness_i/2) (x_i - omega_i)^2
//! ```
//!
//! for a batch of samples. All sizes are known at run time only. The fast kernels of linear attention and of
//! softmax are specialisations, and are tested against this one.
//!
//! In pre-training, `h(x)` are the symmetric logits with coordinates `x` and `stiffness = 1/(2V)`. In
//! fine-tuning, `h(x) = z + b (chi chi^T - tr(q) I)` with `x = chi` and `stiffness = 1/v`.

mod batch;
#[cfg(test)]
pub(crate) mod brute_force;
mod cholesky;
mod closed_form;
mod column_starts;
mod descent;
mod expansion;
mod factor_starts;
mod inverses;
mod jacobi;
mod logits;
mod replicas;
mod search;
mod starts;

pub(crate) use batch::{add_squared_differences, attention, batch_size};
pub(crate) use cholesky::inverse;
pub(crate) use closed_form::KnownDerivatives;
pub(crate) use descent::{Prox, adjoint_derivative};
pub(crate) use expansion::LocalExpansion;
pub(crate) use inverses::inverses;
pub(crate) use logits::{CoordinateBasis, Perturbation};
pub(crate) use replicas::GeneralReplicas;
pub(crate) use search::{LastPoints, Rivals};
