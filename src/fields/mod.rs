//! The laws of the Gaussian fields over which the losses of fine-tuning are averaged: the frozen logits and the label's
//! logits, on new, reused and selected sequences.
//!
//! Linear attention needs the law of their difference only (`label_noise.rs`), every other activation their joint law
//! (`joint_law.rs`). Nothing here knows how a loss is minimised, or how a fixed point is searched.

mod columns;
mod joint_law;
mod label_noise;
mod selection;
mod sequences;

pub(crate) use columns::FieldColumns;
pub(crate) use joint_law::{JointLaw, Normals};
pub(crate) use label_noise::{LabelNoise, ScalarLaw, effective_noise};
pub use selection::{Score, Selection};
pub use sequences::Sequences;
pub(crate) use sequences::{FieldParameters, SequencesFields};
