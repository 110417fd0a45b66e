//! What a user of `lora-asymptotics` may add, with the public API and a plain dependency. Two of the state evolutions have
//! nothing to do with attention.
//!
//! - [`activations`]: a smoothed hard threshold with and without second derivatives, rows over their norms, squares.
//! - [`semicircle`]: a teacher with the spectrum of a noisy multiple of the identity.
//! - [`phase_retrieval`]: Bayes-optimal phase retrieval. Its output channel is sampled, so that it has replicates, levels
//!   of accuracy and error bars.
//! - [`lasso`]: regression with an `l1` penalty, in closed form.
//! - [`sparse_lora`]: LoRA with an `l1` penalty. The output channel is the one of the library.
//!
//! The tests compare them with published numbers, with an independent solution of their equations, and with training at
//! finite size.

pub mod activations;
pub mod lasso;
pub mod phase_retrieval;
pub mod semicircle;
pub mod sparse;
pub mod sparse_lora;
pub mod statistics;
