//! The averages by quasi-Monte-Carlo, for any kernel, in logits multiplied by the inverse temperature.
//!
//! Per coordinate, the logits of the label are `t = s z_1` with `s^2 = 2 Q0 + Delta`, and the field is
//! `omega = (2M/s) z_1 + r z_2` with `r^2 = 2 (Q - M^2/(Q0 + Delta/2))`. Only the coordinates that the activation sees
//! are sampled.

use super::averages::{
    AtZero, COUNT, Label, LabelErrors, LogitAverages, MatrixOverlaps, PretrainingLosses, term,
};
use crate::error::Error;
use crate::lanes::Lane;
use crate::options::Options;
use crate::quadrature::ScrambledSobol;
use crate::state_evolution::{OutputChannel, Pass, Samples, Tuning};

/// What a kernel does with a block of samples.
pub(super) trait MatrixKernel: Sync {
    /// The samples of a block.
    type Block: Send + Sync;
    /// What is remembered of a block from pass to pass.
    type Memory: Clone + Send + Sync;

    /// Number of coordinates that the activation sees.
    fn seen(&self) -> usize;

    /// The number of groups of coordinates, independent and alike, of which the kernel knows one.
    fn copies(&self) -> f64 {
        1.0
    }

    /// Number of samples of a block.
    fn size(&self) -> usize;

    /// The memory of a block before its first pass.
    fn nothing(&self) -> Self::Memory;

    /// The block that begins with node `first`. The columns of standard normals are those of `z_1` and `z_2`.
    fn block(&self, normals: [&[Vec<f64>]; 2], first: usize) -> Self::Block;

    /// Lets the next pass try all starts of every proximal point.
    fn doubt(memory: &mut Self::Memory);

    /// Adds the terms of [`LogitAverages`] for every sample of a block to `sums`. Proximal points are followed from
    /// those of the pass before. All starts are tried in the first pass, after [`MatrixKernel::doubt`], and where
    /// they led to different minima before.
    fn accumulate(
        &self,
        point: &MatrixOverlaps,
        block: &Self::Block,
        memory: &mut Self::Memory,
        sums: &mut [Lane; COUNT],
    );

    /// Adds the squared difference of the attention for every sample, between logits `a z_1 + b z_2` with two pairs
    /// `[a, b]`.
    fn add_difference(&self, block: &Self::Block, fields: [[f64; 2]; 2], sum: &mut Lane);

    /// Adds the terms of [`AtZero`] for every sample of a block.
    fn add_at_zero(&self, block: &Self::Block, sums: &mut [Lane; 3]);
}

/// The nodes of several scrambles.
pub(super) struct MatrixNodes<K: MatrixKernel> {
    kernel: K,
    label: Label,
    samples: Samples<K::Block, K::Memory>,
}

impl<K: MatrixKernel> MatrixNodes<K> {
    /// The nodes of scrambled Sobol sequences.
    pub(super) fn sampled(
        kernel: K,
        label: Label,
        options: &Options,
        tuning: &Tuning,
    ) -> Result<Self, Error> {
        let seen = kernel.seen();
        Self::new(kernel, label, options, tuning, |index| {
            ScrambledSobol::new(2 * seen, options.log2_nodes() as u32, options.seed(), index as u64)?
                .columns(0..2 * seen)
        })
    }

    /// Nodes whose normals are in the columns of every scramble.
    pub(super) fn new(
        kernel: K,
        label: Label,
        options: &Options,
        tuning: &Tuning,
        columns: impl Fn(usize) -> Result<Vec<Vec<f64>>, Error>,
    ) -> Result<Self, Error> {
        let seen = kernel.seen();
        let block = |columns: &Vec<Vec<f64>>, first| {
            let (one, two) = columns.split_at(seen);
            kernel.block([one, two], first)
        };
        let samples = Samples::new(options, tuning, kernel.size(), kernel.nothing(), columns, block)?;
        Ok(Self { kernel, label, samples })
    }
}

impl<K: MatrixKernel> OutputChannel for MatrixNodes<K> {
    type Point = MatrixOverlaps;
    type Averages = LogitAverages;

    fn levels(&self) -> usize {
        self.samples.levels()
    }

    fn averages(&mut self, level: usize, pass: Pass, point: &MatrixOverlaps) -> Vec<LogitAverages> {
        let Self { kernel, samples, .. } = self;
        let means = samples.means(
            level,
            pass,
            #[inline(always)]
            |block, memory, sums| kernel.accumulate(point, block, memory, sums),
        );
        let copies = kernel.copies();
        let of_all = |means: [f64; COUNT]| {
            let mut all = means.map(|x| copies * x);
            // A sample is contested if one of its groups is.
            all[term::CONTESTED] = if copies > 1.0 {
                1.0 - (1.0 - means[term::CONTESTED]).powf(copies)
            } else {
                means[term::CONTESTED]
            };
            LogitAverages::from_sums(all)
        };
        means.into_iter().map(of_all).collect()
    }

    /// The next evaluation tries all starts of every proximal point.
    fn prepare(&mut self, _level: usize, _point: &MatrixOverlaps) {
        self.samples.remember(K::doubt);
    }
}

impl<K: MatrixKernel> PretrainingLosses for MatrixNodes<K> {
    fn scrambles(&self) -> usize {
        self.samples.scrambles().len()
    }

    fn test_errors(&self, points: &[MatrixOverlaps]) -> Vec<LabelErrors> {
        let Self { kernel, label, samples } = self;
        let of_scramble = |(index, point): (usize, &MatrixOverlaps)| {
            let laws = point.test_laws(label);
            let means = samples.means_once(index, |block, sums| {
                for ([deviation, slope, rest], sum) in laws.iter().zip(sums) {
                    kernel.add_difference(block, [[*deviation, 0.0], [slope * deviation, *rest]], sum);
                }
            });
            LabelErrors::from_sums(means.map(|x| kernel.copies() * x))
        };
        (0..self.scrambles()).zip(points).map(of_scramble).collect()
    }

    fn at_zero(&self) -> Vec<AtZero> {
        let add = |block: &K::Block, sums: &mut [Lane; 3]| self.kernel.add_at_zero(block, sums);
        let of_scramble = |index| self.samples.means_once(index, add).map(|x| self.kernel.copies() * x);
        (0..self.scrambles()).map(|index| AtZero::from_sums(of_scramble(index))).collect()
    }
}
