//! The losses of fine-tuning: functions of a vector of `T` fields `chi`, one for each token, by which the perturbation
//! moves the logits.
//!
//! A kernel gives the averages ([`FinetuningLosses`]), and those at weights that vanish (`zero_weights.rs`). The errors
//! on new sequences are averages over the same fields without proximal points (`test_law.rs`), for softmax over one row of
//! the logits (`rows.rs`). There are kernels for linear attention, for softmax, and for any other activation. Perturbations of
//! several columns have kernels of their own (`columns/`).

mod channel;
pub(crate) mod columns;
pub(crate) mod finite_size;
pub(crate) mod general;
pub(crate) mod linear;
mod moments;
pub(crate) mod rows;
pub(crate) mod softmax;
mod test_law;
mod zero_weights;

pub(crate) use channel::FinetuningLosses;
pub(crate) use moments::{COUNT, Moments, VectorOverlaps, term};
pub(crate) use test_law::{ReplicatedErrors, TestErrors};
pub(crate) use zero_weights::ZeroWeights;
