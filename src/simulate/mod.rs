//! A finite-size laboratory. It trains the real network on actual sequences, and compares its measurements
//! with the prediction.
//!
//! Sequences `X` of `T` tokens in `D` dimensions, a teacher, and label noise are drawn exactly as the model says. Pre-training
//! minimises `sum_mu D^{-1}|yhat_mu - y_mu|_F^2 + lambda |W|_F^2` over `W` of shape `D x P`, and fine-tuning
//! `sum_mu D^{-1}|sigma(beta h(S-hat) + h1(w)) X - y'_mu|_F^2 + lambda' |w|^2` over `w`, by L-BFGS with gradients by matrix
//! products. With cross-attention, pre-training minimises `sum_mu D^{-1}|(sigma(X_q S X_k^T/D) - sigma_mu) X_k|_F^2 + lambda (|U|^2 + |V|^2)` over
//! `S = P^{-1/2} U V^T`, with independent queries `X_q` and keys `X_k`. The simulation does not use the equations of the theory.
//!
//! ```
//! use lora_asymptotics::Scenario;
//! use lora_asymptotics::simulate::{self, Laboratory, Size};
//!
//! let scenario = Scenario::from_json(r#"{
//!     "model":  {"tokens": 2, "activation": "linear", "delta": 0.5},
//!     "frozen": {"q0": 2.0, "q": 1.2, "m": 1.1},
//!     "lora":   {"alpha": 3.0, "lambda": 1.0}
//! }"#)?;
//! let laboratory = Laboratory { sizes: vec![Size::new(100, 4)], ..Laboratory::default() };
//! let comparison = simulate::compare(&scenario, &laboratory)?;
//! println!("{comparison}");
//! # assert_eq!(comparison.unconverged, 0);
//! # Ok::<(), lora_asymptotics::Error>(())
//! ```
//!
//! # Finite size
//!
//! Corrections are of order `1/D` in pre-training (`E` is some 19% too large at `D = 30` and 5% at `D = 120`, for `T = 3`, `alpha =
//! 0.1`), and `D^{-1/2}` in fine-tuning on trained weights, because `h(S)` and `h1(w)` share the sequences. The coefficients of `D^{-1/2}` in fine-tuning are
//! predicted ([`lora::FiniteSize`](crate::lora::FiniteSize)), for one column and sequences that are not selected: [`compare`] then fits powers from `1/D` on only, and
//! [`odd_differences`] measures the coefficients themselves. Corrections are of order
//! `D^{-1/2}` in pre-training, too, if the activation is neither odd nor softmax, because `h(S)` and `X X^T` share the sequences (not in cross-attention, where the sign of the queries
//! leaves only integer powers). Give several sizes to
//! extrapolate, or fine-tune with [`FrozenLogits::Synthetic`] logits, where theory and simulation agree at a few hundred
//! dimensions.

mod batch;
mod comparison;
mod cross;
mod direct;
mod experiment;
mod factors;
mod finetuning;
mod instance;
mod laboratory;
mod layer;
mod logits;
mod measurement;
mod message_passing;
mod minimise;
mod odd;
mod pairs;
mod pretraining;
mod principal;
mod random;
mod sequences;
mod statistics;
mod trained;
mod truth;

use std::ops::ControlFlow;

pub use comparison::{AtSize, Comparison, Extrapolation, Row, Stage};
pub use experiment::Experiment;
pub use laboratory::{FrozenLogits, Laboratory, Size};
pub use measurement::{Finetuned, Measurement, Pretrained, TrainingRun as Run, TrainingStart};
pub use message_passing::{Iteration, MessagePassing, Trajectory, message_passing};
pub use odd::{OddDifferences, OddRow, odd_differences};
pub use statistics::{Estimate, extrapolate};

use crate::error::Error;
use crate::scenario::Scenario;

/// Solves a scenario, simulates it, and compares the two.
///
/// # Errors
/// The errors of [`Experiment::new`] and [`Experiment::run_all`].
pub fn compare(scenario: &Scenario, laboratory: &Laboratory) -> Result<Comparison, Error> {
    let experiment = Experiment::new(scenario, laboratory)?;
    let measurements = experiment.run_all(Vec::new(), |_| ControlFlow::Continue(()))?;
    Ok(experiment.compare(&measurements))
}
