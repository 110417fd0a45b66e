//! The columns of standard normals from which the nodes of one scramble are made.

use super::joint_law::{JointLaw, Normals};
use crate::error::Error;
use crate::options::Options;
use crate::quadrature::ScrambledSobol;

/// The columns of one scramble. The most important ones come first.
#[derive(Default)]
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
    /// The columns of scramble number `scramble`, of the test law or of the training law, for `widths` fields `chi*` and `omega` in all: one
    /// per token and column of the perturbation.
    pub(crate) fn new(
        widths: [usize; 2],
        law: &JointLaw,
        options: &Options,
        scramble: usize,
        test: bool,
    ) -> Result<Self, Error> {
        let mut columns = Self::default();
        columns.write(widths, law, options, scramble, test)?;
        Ok(columns)
    }

    /// Writes these columns over those that there are.
    pub(crate) fn write(
        &mut self,
        widths: [usize; 2],
        law: &JointLaw,
        options: &Options,
        scramble: usize,
        test: bool,
    ) -> Result<(), Error> {
        let points = points(widths, law, options, scramble)?;
        points.write_groups([&mut self.star, &mut self.free], widths)?;
        self.write_logits(law, &points, test)
    }

    /// Writes the columns of the training law in a fundamental domain of the symmetries of softmax: no average changes if the tokens are renamed in all fields,
    /// or if `chi*` and `omega` change their sign. Nodes that fill only one of the `2 T!` equal parts of the space are as many times
    /// denser. The components of `chi*` are in decreasing order, and those of `f` have a positive sum.
    pub(crate) fn write_equivalent_tokens(
        &mut self,
        tokens: usize,
        law: &JointLaw,
        options: &Options,
        scramble: usize,
    ) -> Result<(), Error> {
        let points = points([tokens; 2], law, options, scramble)?;
        self.star.resize_with(tokens, Vec::new);
        self.free.resize_with(tokens, Vec::new);
        points.write_sorted_normals(0, &mut self.star)?;
        if let Some((positive, others)) = self.free.split_first_mut() {
            points.write_positive_normals(tokens, std::slice::from_mut(positive))?;
            points.write_normals(tokens + 1, others)?;
        }
        reflect_to_ones(&mut self.free);
        self.write_logits(law, &points, false)
    }

    /// Writes the columns of the logits. Those of `chi*` and `f` are the first of the points.
    fn write_logits(&mut self, law: &JointLaw, points: &ScrambledSobol, test: bool) -> Result<(), Error> {
        let seen = law.coordinates();
        let Self { star, free, label, frozen, clean, flat } = self;
        let mut next = star.len() + free.len();
        for (columns, count, wanted) in [
            (label, seen, true),
            (frozen, seen, true),
            (clean, seen, test),
            (flat, law.unseen(), !test && law.needs_flat()),
        ] {
            columns.resize_with(if wanted { count } else { 0 }, Vec::new);
            points.write_normals(next, columns)?;
            next += count;
        }
        Ok(())
    }

    pub(crate) fn logits(&self) -> Normals<'_> {
        Normals { label: &self.label, frozen: &self.frozen, flat: &self.flat }
    }

    /// Number of nodes.
    pub(crate) fn nodes(&self) -> usize {
        self.star.first().map_or(0, Vec::len)
    }
}

/// The points of one scramble.
fn points(
    [star, free]: [usize; 2],
    law: &JointLaw,
    options: &Options,
    scramble: usize,
) -> Result<ScrambledSobol, Error> {
    let dimensions = star + free + 3 * law.coordinates() + law.unseen();
    ScrambledSobol::new(dimensions, options.log2_nodes() as u32, options.seed(), scramble as u64)
}

/// Applies the reflection that maps the first axis to the direction of ones.
fn reflect_to_ones(columns: &mut [Vec<f64>]) {
    let Some((first, others)) = columns.split_first_mut() else { return };
    if others.is_empty() {
        return;
    }
    let one = ((1 + others.len()) as f64).sqrt().recip();
    for (node, first) in first.iter_mut().enumerate() {
        let sum: f64 = others.iter().map(|column| column[node]).sum();
        let image = one * (*first + sum);
        let shift = (*first - image) / (1.0 - one);
        for column in &mut *others {
            column[node] += one * shift;
        }
        *first = image;
    }
}
