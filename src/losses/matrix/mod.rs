//! The losses of pre-training: functions of the `T x T` matrix of logits. (Those of linear attention are in
//! closed form, and stand with their search.)
//!
//! In cross-attention the logits are any `T x T` matrix, whose coordinates the general kernel takes as it takes those of symmetric ones; the rows of softmax
//! are independent then, and one of them is enough.
//!
//! A kernel gives the averages, those at zero weights, and the errors on new sequences ([`PretrainingLosses`]). There
//! are kernels for softmax and for any other activation.

mod averages;
mod domain;
pub(crate) mod general;
mod nodes;
pub(crate) mod rows;
pub(crate) mod softmax;

pub(crate) use averages::{
    AtZero, Label, LabelErrors, LogitAverages, MatrixOverlaps, PretrainingLosses, term,
};
