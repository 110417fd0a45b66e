//! The averages by quasi-Monte-Carlo, for any kernel, in logits multiplied by the inverse temperature.
//!
//! Per coordinate, the logits of the label are `t = s z_1` with `s^2 = 2 Q0 + Delta`, and the field is
//! `omega = (2M/s) z_1 + r z_2` with `r^2 = 2 (Q - M^2/(Q0 + Delta/2))`. Only the coordinates that the activation sees
//! are sampled.

use super::averages::{
    AtZero, COUNT, Label, LabelErrors, LogitAverages, MatrixOverlaps, PretrainingLosses, term,
};
use crate::channel::ProxSearch;
use crate::error::Error;
use crate::lanes::Lane;
use crate::options::Options;
use crate::quadrature::ScrambledSobol;
use crate::state_evolution::{OutputChannel, Pass, Samples, Tuning};

/// Adds a number for every sample of a block.
pub(super) type AddBlock<'a, B> = dyn Fn(&B, &mut Lane) + Sync + 'a;

/// The mean over the samples of a replicate.
pub(super) type MeanOverBlocks<'a, B> = dyn Fn(&AddBlock<'_, B>) -> f64 + 'a;

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

    /// Writes the columns of standard normals from which blocks are made: those of `z_1` and then those of `z_2`.
    fn write_columns(&self, points: &ScrambledSobol, columns: &mut [Vec<f64>]) -> Result<(), Error> {
        points.write_normals(0, columns)
    }

    /// The block that begins with node `first`. The columns of standard normals are those of `z_1` and `z_2`.
    fn block(&self, normals: [&[Vec<f64>]; 2], first: usize) -> Self::Block;

    /// Sets how the next pass looks for the proximal points of a block. A kernel that has no cheaper way may try all starts.
    fn plan(memory: &mut Self::Memory, search: ProxSearch);

    /// Whether the last search from several starts found different minima for a sample of the block.
    fn contested(memory: &Self::Memory) -> bool;

    /// Adds the terms of [`LogitAverages`] for every sample of a block to `sums`, with proximal points that are found as
    /// planned, and followed from then on.
    fn accumulate(
        &self,
        point: &MatrixOverlaps,
        block: &Self::Block,
        memory: &mut Self::Memory,
        sums: &mut [Lane; COUNT],
    );

    /// The mean squared difference of the attention between logits `a z_1 + b z_2` with two pairs `[a, b]`, in replicate number
    /// `index`. `mean` gives the mean over the samples of the replicate, of what a function adds for a block.
    fn difference(&self, index: usize, fields: [[f64; 2]; 2], mean: &MeanOverBlocks<'_, Self::Block>) -> f64;

    /// Adds the terms of [`AtZero`] for every sample of a block.
    fn add_at_zero(&self, block: &Self::Block, sums: &mut [Lane; 3]);
}

/// Number of coarse levels at which every proximal point is searched from several starts before it is followed.
const SEARCHED_LEVELS: usize = 2;

/// The nodes of several scrambles.
pub(super) struct MatrixNodes<K: MatrixKernel> {
    kernel: K,
    label: Label,
    samples: Samples<K::Block, K::Memory>,
    /// Whether a sample with several minima was found, so that no start may be left out.
    contested: bool,
    /// Whether the coarse levels have been searched near the present point, without a second minimum in any sample.
    unseen: bool,
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
        Self::new(kernel, label, options, tuning, |kernel, index, columns: &mut Vec<Vec<f64>>| {
            let log2_nodes = options.log2_nodes() as u32;
            columns.resize_with(2 * seen, Vec::new);
            let points = ScrambledSobol::new(2 * seen, log2_nodes, options.seed(), index as u64)?;
            kernel.write_columns(&points, columns)
        })
    }

    /// Nodes whose normals are in the columns that `columns` writes for every scramble.
    pub(super) fn new(
        kernel: K,
        label: Label,
        options: &Options,
        tuning: &Tuning,
        columns: impl Fn(&K, usize, &mut Vec<Vec<f64>>) -> Result<(), Error>,
    ) -> Result<Self, Error> {
        let seen = kernel.seen();
        let columns = |index: usize, own: &mut _| columns(&kernel, index, own);
        let block = |columns: &Vec<Vec<f64>>, first| {
            let (one, two) = columns.split_at(seen);
            kernel.block([one, two], first)
        };
        let samples = Samples::new(options, tuning, kernel.size(), kernel.nothing(), columns, block)?;
        Ok(Self { kernel, label, samples, contested: false, unseen: false })
    }
}

impl<K: MatrixKernel> OutputChannel for MatrixNodes<K> {
    type Point = MatrixOverlaps;
    type Averages = LogitAverages;

    fn levels(&self) -> usize {
        self.samples.levels()
    }

    fn averages(&mut self, level: usize, pass: Pass, point: &MatrixOverlaps) -> Vec<LogitAverages> {
        let search = self.search();
        let unseen = self.unseen && search == ProxSearch::Screened;
        let Self { kernel, samples, .. } = self;
        let pass = if pass == Pass::Fresh {
            if !unseen {
                samples.remember(|memory| {
                    *memory = kernel.nothing();
                    K::plan(memory, search);
                });
            }
            Pass::Complete
        } else {
            pass
        };
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

    /// The next evaluation tries several starts of every proximal point, unless it is on a fine level and no sample of the coarse
    /// ones had several minima: nearly all samples of such a problem have one, and the proximal points are followed to the end.
    fn prepare(&mut self, level: usize, _point: &MatrixOverlaps) {
        let search = self.search();
        let searched = level.checked_sub(1).map_or(0, |below| self.samples.nodes(below)) * self.scrambles();
        let enough = ProxSearch::after(self.contested, searched);
        self.unseen = level >= SEARCHED_LEVELS && enough == ProxSearch::Followed;
        let next = if self.unseen { enough } else { search };
        self.samples.remember(|memory| K::plan(memory, next));
    }
}

impl<K: MatrixKernel> MatrixNodes<K> {
    /// The search that the samples seen so far ask for.
    fn search(&mut self) -> ProxSearch {
        let finest = self.samples.levels().saturating_sub(1);
        self.contested |= self.samples.memories(self.samples.nodes(finest)).any(K::contested);
        if self.contested { ProxSearch::Thorough } else { ProxSearch::Screened }
    }
}

impl<K: MatrixKernel> PretrainingLosses for MatrixNodes<K> {
    fn scrambles(&self) -> usize {
        self.samples.scrambles().len()
    }

    fn test_errors(&self, points: &[MatrixOverlaps]) -> Vec<LabelErrors> {
        let Self { kernel, label, samples, .. } = self;
        let of_scramble = |(index, point): (usize, &MatrixOverlaps)| {
            let laws = point.test_laws(label);
            let error = |[deviation, slope, rest]: [f64; 3]| {
                let mean = |add: &AddBlock<'_, K::Block>| -> f64 {
                    let [mean] = samples.means_once(index, |block, [sum]: &mut [Lane; 1]| add(block, sum));
                    mean
                };
                kernel.copies()
                    * kernel.difference(index, [[deviation, 0.0], [slope * deviation, rest]], &mean)
            };
            LabelErrors::from_sums(laws.map(error))
        };
        (0..self.scrambles()).zip(points).map(of_scramble).collect()
    }

    fn at_zero(&self) -> Vec<AtZero> {
        let add = |block: &K::Block, sums: &mut [Lane; 3]| self.kernel.add_at_zero(block, sums);
        let of_scramble = |index| self.samples.means_once(index, add).map(|x| self.kernel.copies() * x);
        (0..self.scrambles()).map(|index| AtZero::from_sums(of_scramble(index))).collect()
    }
}
