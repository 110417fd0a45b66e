//! The nodes of quasi-Monte-Carlo averages, with a memory for each node from pass to pass.

use super::channels::Pass;
use super::levels::Levels;
use super::tuning::Tuning;
use crate::error::Error;
use crate::lanes::{BlocksAndStates, Lane, sum_once, sums_over_blocks, sums_over_groups};
use crate::options::Options;
use crate::parallel;

/// Largest memory, in bytes, of the nodes of one output channel: 2 GiB.
const MEMORY_LIMIT: u64 = 1 << 31;

/// Refuses nodes that take more memory than allowed. A node takes `kept` double-precision numbers as long as the
/// solve lasts, and `passing` more while it is made. `stage` names the average in the error.
///
/// # Errors
/// [`Error::TooMuchMemory`].
pub(crate) fn check_memory(
    stage: &'static str,
    kept: usize,
    passing: usize,
    options: &Options,
) -> Result<(), Error> {
    let (log2_nodes, scrambles) = (options.log2_nodes(), options.scrambles());
    let scramble = 1_usize << log2_nodes;
    let nodes = scrambles * scramble;
    let bytes = (size_of::<f64>() * (kept * nodes + passing * scramble)) as u64;
    if bytes <= MEMORY_LIMIT {
        return Ok(());
    }
    Err(Error::TooMuchMemory { stage, log2_nodes, scrambles, bytes, limit: MEMORY_LIMIT })
}

/// Number of samples per unit of parallel work, when the samples are made.
const CHUNK: usize = 128;

/// The samples of one scramble, in blocks, each with a memory.
pub(crate) struct Scramble<B, M> {
    pub(crate) blocks: Vec<B>,
    memory: Vec<M>,
}

/// The samples of several scrambles. `M` is the memory that a pass leaves of a block for the next pass, such
/// as a proximal point.
pub(crate) struct Samples<B, M> {
    scrambles: Vec<Scramble<B, M>>,
    levels: Levels,
    /// Number of samples of a block.
    size: usize,
    /// The memory of a block before its first pass.
    nothing: M,
}

impl<B: Send + Sync, M: Clone + Send + Sync> Samples<B, M> {
    /// A block has `size` samples, a power of 2 that divides every number of nodes that options allow. `columns` writes the columns from which all blocks of a scramble are made, and `block` makes one block,
    /// beginning with a given node. Scrambles are made one after the other, because the columns of a scramble
    /// may take more memory than its blocks. They are written over those of the scramble before: memory that is returned to
    /// the system and asked for again took a tenth of the time of a solve.
    pub(crate) fn new<C: Default + Sync>(
        options: &Options,
        tuning: &Tuning,
        size: usize,
        nothing: M,
        columns: impl Fn(usize, &mut C) -> Result<(), Error>,
        block: impl Fn(&C, usize) -> B + Sync,
    ) -> Result<Self, Error> {
        let count = (1 << options.log2_nodes()) / size;
        let mut own = C::default();
        let make = |index: usize| -> Result<Scramble<B, M>, Error> {
            columns(index, &mut own)?;
            let blocks = parallel::map(count, CHUNK.div_ceil(size), &|number| block(&own, number * size));
            Ok(Scramble { blocks, memory: vec![nothing.clone(); count] })
        };
        let scrambles = (0..options.scrambles()).map(make).collect::<Result<_, _>>()?;
        Ok(Self {
            scrambles,
            levels: Levels::up_to(options.log2_nodes(), options.scrambles(), tuning, size),
            size,
            nothing,
        })
    }

    /// The number of accuracy levels.
    pub(crate) fn levels(&self) -> usize {
        self.levels.count()
    }

    /// The samples of every scramble.
    pub(crate) fn scrambles(&self) -> &[Scramble<B, M>] {
        &self.scrambles
    }

    /// The blocks of every scramble, as many as a level has.
    pub(crate) fn blocks(&self, level: usize) -> impl Iterator<Item = &[B]> {
        let blocks = self.levels.nodes(level) / self.size;
        self.scrambles.iter().map(move |scramble| &scramble.blocks[..blocks])
    }

    /// The memory of every block of the first `nodes` nodes of each scramble.
    pub(crate) fn memories(&self, nodes: usize) -> impl Iterator<Item = &M> {
        let blocks = nodes / self.size;
        self.scrambles.iter().flat_map(move |scramble| &scramble.memory[..blocks])
    }

    /// Changes the memory of every block.
    pub(crate) fn remember(&mut self, change: impl Fn(&mut M)) {
        for memory in self.scrambles.iter_mut().flat_map(|scramble| &mut scramble.memory) {
            change(memory);
        }
    }

    /// The means of `COUNT` terms over the samples of a level, with one entry per scramble. `add` adds the
    /// terms of one block to the sums; it should be `#[inline(always)]`. A fresh pass begins without memory.
    pub(crate) fn means<const COUNT: usize>(
        &mut self,
        level: usize,
        pass: Pass,
        add: impl Fn(&B, &mut M, &mut [Lane; COUNT]) + Sync,
    ) -> Vec<[f64; COUNT]> {
        if pass == Pass::Fresh {
            for scramble in &mut self.scrambles {
                scramble.memory.fill(self.nothing.clone());
            }
        }
        let size = self.size;
        let sums = sums_over_blocks(
            self.lists(self.levels.nodes(level)),
            size,
            #[inline(always)]
            |block, memory, sums| add(block, memory, sums),
        );
        self.divided(self.levels.nodes(level), sums)
    }

    /// The number of nodes of each scramble on a level.
    pub(crate) fn nodes(&self, level: usize) -> usize {
        self.levels.nodes(level)
    }

    /// The sums of `COUNT` terms over every `samples` consecutive samples of the first `nodes` nodes of each scramble. `add` adds the
    /// terms of some consecutive blocks, with the instruction set that it chooses, and decides what the purpose of the pass means for
    /// their memory.
    pub(crate) fn sums_of_groups<const COUNT: usize>(
        &mut self,
        nodes: usize,
        samples: usize,
        add: impl Fn(&[B], &mut [M], &mut [Lane; COUNT]) + Sync,
    ) -> Vec<Vec<[f64; COUNT]>> {
        let size = self.size;
        sums_over_groups(
            self.lists(nodes),
            size,
            samples,
            #[inline(always)]
            |blocks, memories, sums| add(blocks, memories, sums),
        )
    }

    /// The blocks of the first `nodes` nodes with their memories, for every scramble.
    fn lists(&mut self, nodes: usize) -> Vec<BlocksAndStates<'_, B, M>> {
        let blocks = nodes / self.size;
        self.scrambles
            .iter_mut()
            .map(|scramble| (&scramble.blocks[..blocks], &mut scramble.memory[..blocks]))
            .collect()
    }

    /// The means over the samples of the first `nodes` nodes, from the sums over their blocks.
    pub(crate) fn divided<const COUNT: usize>(
        &self,
        nodes: usize,
        sums: Vec<[f64; COUNT]>,
    ) -> Vec<[f64; COUNT]> {
        let samples = (nodes / self.size * self.size) as f64;
        sums.into_iter().map(|sums| sums.map(|sum| sum / samples)).collect()
    }

    /// The means of `COUNT` terms over all samples of scramble number `index`, for averages that are taken once in a
    /// solve. The memory of the samples is neither used nor changed.
    pub(crate) fn means_once<const COUNT: usize>(
        &self,
        index: usize,
        add: impl Fn(&B, &mut [Lane; COUNT]) + Sync,
    ) -> [f64; COUNT] {
        let blocks = &self.scrambles[index].blocks;
        let sums = sum_once(blocks.len(), self.size, |block, sums| add(&blocks[block], sums));
        sums.map(|sum| sum / (blocks.len() * self.size) as f64)
    }
}
