//! The kernel for any activation, on batches of samples with sizes known at run time.

mod fields;
mod layer;
mod nodes;
mod test_errors;

pub(crate) use fields::{frozen_coordinates, label_coordinates};
pub(crate) use layer::{FieldsBlock, LearnedColumn, PerturbedLayer};
pub(crate) use nodes::losses;
pub(crate) use test_errors::{LearnedColumns, test_averages, test_errors};
