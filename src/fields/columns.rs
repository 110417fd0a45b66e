//! The columns of standard normals from which the nodes of one scramble are made.

use super::joint_law::{JointLaw, Normals};
use crate::error::Error;
use crate::options::Options;
use crate::quadrature::ScrambledSobol;

/// The columns of one scramble. The most important ones come first.
pub(crate) struct FieldColumns {
    /// `chi*`, one column per token and true column of the perturbation; those of a token follow each other.
    pub(crate) star: Vec<Vec<f64>>,
    /// The part of `omega` that is independent of `chi*`, one column per token and learned column of the perturbation.
    pub(crate) free: Vec<Vec<f64>>,
    label: Vec<Vec<f64>>,
    frozen: Vec<Vec<f64>>,
    /// The difference between noisy and noiseless labels, for the test law only.
    pub(crate) clean: Vec<Vec<f64>>,
    flat: Vec<Vec<f64>>,
}

impl FieldColumns {
    /// The columns of scramble number `scramble`, of the test law or of the training law.
    pub(crate) fn new(
        tokens: usize,
        law: &JointLaw,
        options: &Options,
        scramble: usize,
        test: bool,
    ) -> Result<Self, Error> {
        Self::of_widths([tokens; 2], law, options, scramble, test)
    }

    /// The same for perturbations of several columns, which have `star` fields `chi*` and `free` fields `omega` in all.
    pub(crate) fn of_widths(
        [star, free]: [usize; 2],
        law: &JointLaw,
        options: &Options,
        scramble: usize,
        test: bool,
    ) -> Result<Self, Error> {
        let seen = law.coordinates();
        let dimensions = star + free + 3 * seen + law.unseen();
        let points =
            ScrambledSobol::new(dimensions, options.log2_nodes() as u32, options.seed(), scramble as u64)?;
        let next = std::cell::Cell::new(0);
        let take = |count: usize, wanted: bool| -> Result<Vec<Vec<f64>>, Error> {
            let first = next.replace(next.get() + count);
            let end = if wanted { first + count } else { first };
            points.columns(first..end)
        };
        Ok(Self {
            star: take(star, true)?,
            free: take(free, true)?,
            label: take(seen, true)?,
            frozen: take(seen, true)?,
            clean: take(seen, test)?,
            flat: take(law.unseen(), !test && law.needs_flat())?,
        })
    }

    pub(crate) fn logits(&self) -> Normals<'_> {
        Normals { label: &self.label, frozen: &self.frozen, flat: &self.flat }
    }

    /// Number of nodes.
    pub(crate) fn nodes(&self) -> usize {
        self.star.first().map_or(0, Vec::len)
    }
}
