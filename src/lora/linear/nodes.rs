//! The averages by quasi-Monte-Carlo: nodes in the eigenbasis of their labels, made once and frozen for the solve.

use super::prox::{Block, accumulate};
use crate::channel::eigenbasis;
use crate::divergence::Divergence;
use crate::error::Error;
use crate::lanes::{LANES, Lane, sum_over_blocks};
use crate::lora::label_noise::LabelNoise;
use crate::lora::losses::Losses;
use crate::lora::moments::{Moments, Point};
use crate::memory::MADE_AT_ONCE;
use crate::options::Options;
use crate::parallel;
use crate::quadrature::{ChiQuantile, ScrambledSobol};
use crate::state_evolution::{Levels, OutputChannel, Pass, Tuning};

/// Blocks per unit of parallel work.
const CHUNK: usize = 128;

/// Roots of a block for which none are known: the search starts from a guess.
const NO_ROOTS: Lane = [0.0; LANES];

/// The nodes of one scramble.
struct Scramble<const T: usize> {
    blocks: Vec<Block<T>>,
    /// Secular roots of the last evaluation, to start the next one from.
    roots: Vec<Lane>,
}

/// Quasi-Monte-Carlo averages over several scrambles.
pub(super) struct Nodes<const T: usize> {
    scrambles: Vec<Scramble<T>>,
    levels: Levels,
}

impl<const T: usize> Nodes<T> {
    pub(super) fn new(noise: &LabelNoise, options: &Options, tuning: &Tuning) -> Result<Self, Error> {
        let build = |index: usize| Scramble::new(noise, options, index as u64);
        let scrambles = if options.scrambles() << options.log2_nodes() <= MADE_AT_ONCE {
            parallel::map(options.scrambles(), 1, &build).into_iter().collect::<Result<_, _>>()?
        } else {
            (0..options.scrambles()).map(build).collect::<Result<_, _>>()?
        };
        Ok(Self { scrambles, levels: Levels::up_to(options.log2_nodes(), tuning) })
    }
}

impl<const T: usize> Scramble<T> {
    /// The most important coordinates come first: `chi*`, then the free part of `omega`, then the noise of the label.
    fn new(noise: &LabelNoise, options: &Options, index: u64) -> Result<Self, Error> {
        // If the noise is isotropic, O(T) invariance lets chi* point along the first axis.
        let star_dimensions = if noise.is_isotropic() { 1 } else { T };
        let dimensions = star_dimensions + T + noise.dimensions(T);
        let points = ScrambledSobol::new(dimensions, options.log2_nodes() as u32, options.seed(), index)?;
        let columns: Vec<Vec<f64>> = points.columns(0..dimensions)?;
        let columns = Columns {
            star: &columns[..star_dimensions],
            free: &columns[star_dimensions..star_dimensions + T],
            noise: &columns[star_dimensions + T..],
            radius: ChiQuantile::new(T)?,
        };
        let count = points.nodes() / LANES;
        let blocks = parallel::map(count, CHUNK, &|block| columns.block(noise, block * LANES));
        Ok(Self { blocks, roots: vec![NO_ROOTS; count] })
    }

    fn moments<const FULL: bool>(&mut self, blocks: usize, point: &Point) -> Moments {
        let sums = sum_over_blocks(
            &self.blocks[..blocks],
            &mut self.roots[..blocks],
            #[inline(always)]
            |block, roots, sums| accumulate::<T, FULL>(point, block, roots, sums),
        );
        Moments::from_sums(sums.map(|sum| sum / (blocks * LANES) as f64))
    }
}

/// The standard normals that the nodes are made of, one column per coordinate.
struct Columns<'a> {
    star: &'a [Vec<f64>],
    free: &'a [Vec<f64>],
    noise: &'a [Vec<f64>],
    radius: ChiQuantile,
}

impl Columns<'_> {
    /// The block of nodes that begins with node `first`, in the eigenbases of their labels.
    fn block<const T: usize>(&self, noise: &LabelNoise, first: usize) -> Block<T> {
        let zero = [[0.0; LANES]; T];
        let mut block = Block { b: zero, star: zero, free: zero };
        for l in 0..LANES {
            let star = self.star(first + l);
            let (b, star) = eigenbasis::<T>(self.label(noise, &star, first + l), star);
            for i in 0..T {
                block.b[i][l] = b[i];
                block.star[i][l] = star[i];
                block.free[i][l] = self.free[i][first + l];
            }
        }
        block
    }

    fn star<const T: usize>(&self, node: usize) -> [f64; T] {
        let mut star = [0.0; T];
        match self.star {
            [radial] => star[0] = self.radius.at(radial[node]),
            columns => {
                for (component, column) in star.iter_mut().zip(columns) {
                    *component = column[node];
                }
            }
        }
        star
    }

    /// `chi* chi*^T - I + N`.
    fn label<const T: usize>(&self, noise: &LabelNoise, star: &[f64; T], node: usize) -> [[f64; T]; T] {
        let mut label = noise.sample::<T>(|k| self.noise[k][node]);
        for i in 0..T {
            for j in 0..T {
                label[i][j] += star[i] * star[j];
            }
            label[i][i] -= 1.0;
        }
        label
    }
}

impl<const T: usize> Losses for Nodes<T> {
    fn smooth_divergence(&self) -> Divergence {
        Divergence::PointwiseAndJump
    }
}

impl<const T: usize> OutputChannel for Nodes<T> {
    type Point = Point;
    type Averages = Moments;

    fn levels(&self) -> usize {
        self.levels.count()
    }

    fn resolution(&self) -> f64 {
        // A few nodes in a thousand that change sides.
        1e-3
    }

    fn averages(&mut self, level: usize, pass: Pass, point: &Point) -> Vec<Moments> {
        let blocks = self.levels.nodes(level) / LANES;
        parallel::map_mut(&mut self.scrambles, &|scramble| {
            if pass == Pass::Fresh {
                scramble.roots.fill(NO_ROOTS);
            }
            match pass {
                Pass::Step => scramble.moments::<false>(blocks, point),
                Pass::Complete | Pass::Fresh => scramble.moments::<true>(blocks, point),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Workload;
    use crate::model::Model;

    #[test]
    fn memory_is_foreseen() {
        let kept = size_of::<Block<8>>() + size_of::<Lane>();
        let foreseen = Workload::Finetuning { selected: false }.numbers(&Model::linear(8, 0.5).unwrap()).kept;
        assert_eq!(kept / size_of::<Lane>(), foreseen);
    }
}
