//! The errors on new sequences.

use super::layout::ColumnLayout;
use super::nodes::learned_columns;
use super::overlaps::ColumnOverlaps;
use crate::error::Error;
use crate::fields::{FieldColumns, JointLaw};
use crate::losses::vector::general::{LearnedColumns, PerturbedLayer, test_averages};
use crate::losses::vector::test_law::ReplicatedErrors;
use crate::options::Options;

/// The errors of any activation at the common fixed point, and at that of every replicate.
pub(crate) fn test_errors(
    layer: &PerturbedLayer,
    layout: &ColumnLayout,
    law: &JointLaw,
    options: &Options,
    common: &ColumnOverlaps,
    own: &[ColumnOverlaps],
) -> Result<ReplicatedErrors, Error> {
    let widths = [layer.normals(layer.truth.len()), layer.normals(layer.rank)];
    ReplicatedErrors::sampled(options, common, own, |scramble, points| {
        let columns = FieldColumns::new(widths, law, options, scramble, true)?;
        let learned = |point: &ColumnOverlaps| LearnedColumns {
            columns: learned_columns(layout, point),
            trace: layout.centring(point),
        };
        Ok(test_averages(layer, law, &columns, points.map(learned)))
    })
}
