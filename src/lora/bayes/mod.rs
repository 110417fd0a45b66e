//! Bayes-optimal fine-tuning: the best that any algorithm can do with the frozen weights and the fine-tuning
//! data.
//!
//! In units with `q0 = 1`, a sample shows `Y = chi* chi*^T + n` in the `K'` coordinates of the logits that
//! the activation can see, with `n ~ N(0, 2 Delta_BO)`, `Delta_BO = Q0 - Q_BO + Delta/2` and `Q_BO = M^2/Q`.
//! With `omega ~ N(0, q I)`, `chi*|omega ~ N(omega, (1-q) I)` and `g = (E[chi | Y, omega] - omega)/(1-q)`,
//! the equations are
//!
//! ```text
//! qhat = alpha' G(q),    q = qhat/(1 + qhat),
//! G(q) = E|g|^2 = (T (1 - q) - E tr Cov[chi | Y, omega])/(1 - q)^2
//! ```
//!
//! `G` does not depend on `alpha'`. The fixed points are therefore the roots of
//! `alpha'(q) = q/((1-q)G(q)) = alpha'`, and a root is stable where `alpha'(q)` increases. If several fixed
//! points are stable, message passing reaches the smallest. The one with the largest
//! `Phi(q) = (q + ln(1-q))/2 + alpha' int_0^q G/2` is information-theoretically optimal.
//!
//! The posterior of `chi` is not Gaussian, but one contour integral gives its moments (`contour.rs`).
//!
//! Source: arXiv:2606.05899.

mod contour;
mod curve;
#[cfg(feature = "simulate")]
mod denoiser;
mod kernel;
mod linear;
mod noiseless;
mod softmax;
mod solution;
mod table;

pub use curve::{BayesCurve, bayes_optimal};
#[cfg(feature = "simulate")]
pub(crate) use denoiser::{Denoiser, denoiser};
pub use solution::{
    BayesBranch, BayesBranches, FinetuningBayesErrors, FinetuningBayesOrder, FinetuningBayesSolution,
};
