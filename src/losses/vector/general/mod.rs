//! The kernel for any activation, on batches of samples with sizes known at run time.

mod fields;
mod nodes;
mod test_errors;

pub(crate) use nodes::losses;
pub(crate) use test_errors::test_errors;
