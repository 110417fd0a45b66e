//! Bayes-optimal pre-training: the least error that any algorithm can reach on the same data.
//!
//! The `K'` coordinates of the logits that the activation can see act as a Gaussian channel. What the data
//! tell of `S*` is therefore what `s* + Z/sqrt(Qhat)` tells of `s*`, with
//!
//! ```text
//! Qhat = 2 alpha K'/(Q0 - Q_BO + Delta/2),
//! Q0 - Q_BO = (1 - (4 pi^2/3) int rho_y^3)/Qhat,
//! ```
//!
//! where `rho_y` is the spectrum of `y = sqrt(Qhat) s* + Z`. The two equations together are
//! `1 - (4 pi^2/3) int rho_y^3 + Qhat Delta/2 = 2 alpha K'`. The left side grows with `Qhat`, so that there
//! is one root.
//!
//! In cross-attention, `Qhat = alpha K'/(Q0 - Q_BO + Delta)` and `rho_y` is the symmetrised law of the singular values of `y`; the rest is the same.
//!
//! Source: arXiv:2606.05899, arXiv:2506.01582.

mod estimator;
mod solution;

pub use estimator::{alpha_perfect_recovery, bayes_optimal};
pub use solution::{PretrainingBayesErrors, PretrainingBayesOrder, PretrainingBayesSolution};
