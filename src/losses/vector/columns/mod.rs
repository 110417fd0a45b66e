//! The losses of perturbations of several columns: functions of a matrix of `T x r` fields `chi`.
//!
//! With `q0 = diag(q0_k)` all order parameters are diagonal, so that rank `r` is `r` copies of the three scalars of rank one,
//! which are coupled through the proximal point and the centring only (`layout.rs`, `overlaps.rs`). One kernel serves every
//! activation (`nodes.rs`). Linear attention differs in the law of the fields, and the derivatives of linear attention and of
//! softmax are known in closed form.

mod layout;
mod nodes;
mod overlaps;
mod test_errors;
mod zero_weights;

pub(crate) use layout::{ColumnGroup, ColumnLayout, FactorSide};
pub(crate) use nodes::{ColumnNodes, FieldSource};
pub(crate) use overlaps::{ColumnMoments, ColumnOverlaps, is_zero};
pub(crate) use test_errors::test_errors;
