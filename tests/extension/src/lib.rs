//! State evolutions that a user of `lora-asymptotics` may write, with the public API and a plain dependency. Two of them
//! have nothing to do with attention.
//!
//! - [`phase_retrieval`]: Bayes-optimal phase retrieval. Its output channel is sampled, so that it has replicates, levels
//!   of accuracy and error bars.
//! - [`lasso`]: regression with an `l1` penalty, in closed form.
//! - [`sparse_lora`]: LoRA with an `l1` penalty. The output channel is the one of the library.
//!
//! The tests compare them with published numbers, with an independent solution of their equations, and with training at
//! finite size.

pub mod lasso;
pub mod phase_retrieval;
pub mod sparse;
pub mod sparse_lora;
pub mod statistics;
