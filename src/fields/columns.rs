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
        let points = points([star, free], law, options, scramble)?;
        let vectors = [points.columns(0..star)?, points.columns(star..star + free)?];
        Self::with_vectors(vectors, law, &points, test)
    }

    /// The columns of the training law in a fundamental domain of the symmetries of softmax: no average changes if the tokens are renamed in all fields,
    /// or if `chi*` and `omega` change their sign. Nodes that fill only one of the `2 T!` equal parts of the space are as many times
    /// denser. The components of `chi*` are in decreasing order, and those of `f` have a positive sum.
    pub(crate) fn of_equivalent_tokens(
        tokens: usize,
        law: &JointLaw,
        options: &Options,
        scramble: usize,
    ) -> Result<Self, Error> {
        let points = points([tokens; 2], law, options, scramble)?;
        let star = points.sorted_normals(0..tokens)?;
        let mut free = vec![points.positive_normals(tokens)?];
        free.extend(points.columns(tokens + 1..2 * tokens)?);
        reflect_to_ones(&mut free);
        Self::with_vectors([star, free], law, &points, false)
    }

    /// The columns with those of `chi*` and `f`, which are the first of the points.
    fn with_vectors(
        [star, free]: [Vec<Vec<f64>>; 2],
        law: &JointLaw,
        points: &ScrambledSobol,
        test: bool,
    ) -> Result<Self, Error> {
        let seen = law.coordinates();
        let next = std::cell::Cell::new(star.len() + free.len());
        let take = |count: usize, wanted: bool| -> Result<Vec<Vec<f64>>, Error> {
            let first = next.replace(next.get() + count);
            let end = if wanted { first + count } else { first };
            points.columns(first..end)
        };
        Ok(Self {
            star,
            free,
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
