//! Bayes-optimal fine-tuning: the best that any algorithm can do with the frozen weights and the fine-tuning data.
//!
//! In units with `q0 = 1`, what is seen of a sample is `Y = chi* chi*^T + n` on the `K'` coordinates of the logits that the
//! activation can see, with `n ~ N(0, 2 Delta_BO)`, `Delta_BO = Q0 - Q_BO + Delta/2` and `Q_BO = M^2/Q`. With
//! `omega ~ N(0, q I)`, `chi*|omega ~ N(omega, (1-q) I)` and `g = (E[chi | Y, omega] - omega)/(1-q)`,
//!
//! ```text
//! qhat = alpha' G(q),    q = qhat/(1 + qhat),
//! G(q) = E|g|^2 = (T (1 - q) - E tr Cov[chi | Y, omega])/(1 - q)^2
//! ```
//!
//! `G` does not depend on `alpha'`: the fixed points are the roots of `alpha'(q) = q/((1-q)G(q)) = alpha'`, stable where it
//! increases. Of several stable ones, the smallest is what message passing reaches, and the largest
//! `Phi(q) = (q + ln(1-q))/2 + alpha' int_0^q G/2` is information-theoretically optimal.
//!
//! The posterior of `chi` is not Gaussian, but its moments are one contour integral away (`contour.rs`).
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
pub use solution::{BayesBranch, BayesBranches, BayesErrors, BayesOrder, BayesSolution};
