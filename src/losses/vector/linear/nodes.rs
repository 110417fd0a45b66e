//! The averages by quasi-Monte-Carlo. The nodes are made once, in the eigenbasis of their labels, and stay
//! fixed during the solve.

use super::prox::{EigenbasisBlock, accumulate};
use crate::channel::eigenbasis;
use crate::divergence::Divergence;
use crate::error::Error;
use crate::fields::LabelNoise;
use crate::lanes::{LANES, Lane};
use crate::losses::vector::channel::FinetuningLosses;
use crate::losses::vector::moments::{Moments, VectorOverlaps};
use crate::options::Options;
use crate::quadrature::{ChiQuantile, ScrambledSobol};
use crate::state_evolution::{OutputChannel, Pass, Samples, Tuning};

/// The roots of a block for which none are known yet. The search then starts from a guess.
const NO_ROOTS: Lane = [0.0; LANES];

/// Quasi-Monte-Carlo averages over several scrambles. The secular roots of a block are remembered as starts
/// of the next search.
pub(super) struct SecularNodes<const T: usize> {
    samples: Samples<EigenbasisBlock<T>, Lane>,
}

impl<const T: usize> SecularNodes<T> {
    pub(super) fn new(noise: &LabelNoise, options: &Options, tuning: &Tuning) -> Result<Self, Error> {
        let columns = |index| EigenbasisColumns::new(T, noise, options, index as u64);
        let block = |columns: &EigenbasisColumns, first| columns.block(noise, first);
        Ok(Self { samples: Samples::new(options, tuning, LANES, NO_ROOTS, columns, block)? })
    }

    fn moments<const FULL: bool>(
        &mut self,
        level: usize,
        pass: Pass,
        point: &VectorOverlaps,
    ) -> Vec<Moments> {
        let means = self.samples.means(
            level,
            pass,
            #[inline(always)]
            |block, roots, sums| accumulate::<T, FULL>(point, block, roots, sums),
        );
        means.into_iter().map(Moments::from_sums).collect()
    }
}

/// The standard normals from which the nodes are made, one column per coordinate.
struct EigenbasisColumns {
    star: Vec<Vec<f64>>,
    free: Vec<Vec<f64>>,
    noise: Vec<Vec<f64>>,
    radius: ChiQuantile,
}

impl EigenbasisColumns {
    /// The most important coordinates come first: `chi*`, then the free part of `omega`, then the noise of
    /// the label.
    fn new(tokens: usize, noise: &LabelNoise, options: &Options, index: u64) -> Result<Self, Error> {
        // If the noise is isotropic, chi* may point along the first axis by O(T) invariance.
        let free = if noise.is_isotropic() { 1 } else { tokens };
        let rest = free + tokens;
        let dimensions = rest + noise.dimensions(tokens);
        let points = ScrambledSobol::new(dimensions, options.log2_nodes() as u32, options.seed(), index)?;
        Ok(Self {
            star: points.columns(0..free)?,
            free: points.columns(free..rest)?,
            noise: points.columns(rest..dimensions)?,
            radius: ChiQuantile::new(tokens)?,
        })
    }

    /// The block of nodes that begins with node `first`, in the eigenbases of their labels.
    fn block<const T: usize>(&self, noise: &LabelNoise, first: usize) -> EigenbasisBlock<T> {
        let zero = [[0.0; LANES]; T];
        let mut block = EigenbasisBlock { b: zero, star: zero, free: zero };
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
        match &self.star[..] {
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

impl<const T: usize> FinetuningLosses for SecularNodes<T> {
    fn smooth_divergence(&self) -> Divergence {
        Divergence::PointwiseAndJump
    }
}

impl<const T: usize> OutputChannel for SecularNodes<T> {
    type Point = VectorOverlaps;
    type Averages = Moments;

    fn levels(&self) -> usize {
        self.samples.levels()
    }

    fn resolution(&self) -> f64 {
        // Between two evaluations, a few nodes in a thousand may change from one minimum to another.
        1e-3
    }

    fn averages(&mut self, level: usize, pass: Pass, point: &VectorOverlaps) -> Vec<Moments> {
        match pass {
            Pass::Step => self.moments::<false>(level, pass, point),
            Pass::Complete | Pass::Fresh => self.moments::<true>(level, pass, point),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Workload;
    use crate::model::Model;

    #[test]
    fn memory_is_foreseen() {
        let kept = size_of::<EigenbasisBlock<8>>() + size_of::<Lane>();
        let foreseen = Workload::Finetuning { selected: false }.numbers(&Model::linear(8, 0.5).unwrap()).kept;
        assert_eq!(kept / size_of::<Lane>(), foreseen);
    }
}
