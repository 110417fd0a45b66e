//! The averages by quasi-Monte-Carlo. The nodes are made once, in the eigenbasis of their labels, and stay
//! fixed during the solve.
//!
//! What decides the error is how smooth the integrands are as functions of the uniforms of a node. There are two rules.
//!
//! - The free part of `omega` is drawn in the basis of `chi*`, and then rotated to the eigenbasis of the label. Its law
//!   is the same in both, but only in a fixed basis are the integrands smooth where two eigenvalues meet. Drawn in the
//!   eigenbasis, it made the standard errors 1.6 times larger for two tokens, and 6 to 8 times for three and four.
//! - The normals are drawn with a standard deviation somewhat above 1, and each node has the ratio of the densities as
//!   its weight ([`stretch`]). The integrands, powers of unbounded fields, then vanish at the ends of the uniforms.

use super::prox::{EigenbasisBlock, SUMS, accumulate, normalised};
use crate::channel::eigenbases;
use crate::divergence::Divergence;
use crate::error::Error;
use crate::fields::LabelNoise;
use crate::lanes::{self, LANES, Lane};
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
        let radius = ChiQuantile::new(T)?;
        let columns = |index, columns: &mut EigenbasisColumns| columns.write(T, noise, options, index as u64);
        let block = |columns: &EigenbasisColumns, first| columns.block(noise, &radius, first);
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
            |block, roots, sums: &mut [Lane; SUMS]| accumulate::<T, FULL>(point, block, roots, sums),
        );
        means.into_iter().map(normalised).collect()
    }
}

/// The standard deviation of the normals of a node with the given number of dimensions.
///
/// A larger one makes the integrands smoother at the ends of the uniforms, and the weights more unequal. For two tokens
/// (six dimensions), at (alpha', lambda') = (3, .3), (3, .05) and (1.5, .3), and at a label noise of 1.6 and of .3, the errors
/// of q and of the test error are least, or a tenth above their least, between 1.02 and 1.05; at 1 they are 1.0 to 1.9
/// times as large. For three and four tokens they are least between 1 and 1.02. With this rule the weights of all numbers of
/// tokens have a standard deviation of a tenth or less.
fn stretch(dimensions: usize) -> f64 {
    1.0 + 0.2 / dimensions as f64
}

/// The normals from which the nodes are made, one column per coordinate.
#[derive(Default)]
struct EigenbasisColumns {
    star: Vec<Vec<f64>>,
    free: Vec<Vec<f64>>,
    noise: Vec<Vec<f64>>,
    stretch: f64,
}

impl EigenbasisColumns {
    /// The most important coordinates come first: `chi*`, then the free part of `omega`, then the noise of
    /// the label.
    fn write(
        &mut self,
        tokens: usize,
        noise: &LabelNoise,
        options: &Options,
        index: u64,
    ) -> Result<(), Error> {
        // If the noise is isotropic, chi* may point along the first axis by O(T) invariance.
        let free = if noise.is_isotropic() { 1 } else { tokens };
        let widths = [free, tokens, noise.dimensions(tokens)];
        let dimensions = widths.iter().sum();
        let points = ScrambledSobol::new(dimensions, options.log2_nodes() as u32, options.seed(), index)?;
        self.stretch = stretch(dimensions);
        points.write_groups([&mut self.star, &mut self.free, &mut self.noise], widths)
    }

    /// The block of nodes that begins with node `first`, in the eigenbases of their labels.
    fn block<const T: usize>(
        &self,
        noise: &LabelNoise,
        radius: &ChiQuantile,
        first: usize,
    ) -> EigenbasisBlock<T> {
        let mut label = [[[0.0; LANES]; T]; T];
        for l in 0..LANES {
            let own = noise.sample::<T>(|k| self.stretch * self.noise[k][first + l]);
            for i in 0..T {
                for j in 0..T {
                    label[i][j][l] = own[i][j];
                }
            }
        }
        let free = std::array::from_fn(|i| self.stretched(&self.free[i], first));
        let mut vectors = [self.star(radius, first), free];
        let weight = self.weight(first);
        lanes::wide(
            #[inline(always)]
            || {
                // The label is chi* chi*^T - I + N.
                for i in 0..T {
                    for l in 0..LANES {
                        for j in 0..T {
                            label[i][j][l] += vectors[0][i][l] * vectors[0][j][l];
                        }
                        label[i][i][l] -= 1.0;
                    }
                }
                let b = eigenbases(&mut label, &mut vectors);
                let [star, free] = vectors;
                EigenbasisBlock { weight, b, star, free }
            },
        )
    }

    fn stretched(&self, column: &[f64], first: usize) -> Lane {
        lanes::load(column, first).map(|normal| self.stretch * normal)
    }

    fn star<const T: usize>(&self, radius: &ChiQuantile, first: usize) -> [Lane; T] {
        let mut star = [[0.0; LANES]; T];
        match &self.star[..] {
            [radial] => {
                star[0] = self.stretched(radial, first);
                star[0].iter_mut().for_each(|x| *x = radius.at(*x));
            }
            columns => {
                for (component, column) in star.iter_mut().zip(columns) {
                    *component = self.stretched(column, first);
                }
            }
        }
        star
    }

    /// The ratio of the standard normal density to that of the nodes, up to a factor that all nodes have.
    fn weight(&self, first: usize) -> Lane {
        let mut squares = [0.0; LANES];
        for column in self.star.iter().chain(&self.free).chain(&self.noise) {
            for (square, x) in squares.iter_mut().zip(&column[first..first + LANES]) {
                *square += x * x;
            }
        }
        let excess = self.stretch * self.stretch - 1.0;
        squares.iter_mut().for_each(|square| *square *= -0.5 * excess);
        lanes::exp(&squares)
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
            // The secular equation has one root, so that what was found from the root of another point needs no second search.
            Pass::Complete | Pass::Fresh => self.moments::<true>(level, Pass::Complete, point),
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
        let foreseen = Workload::Finetuning { selected: false, reused: false }
            .numbers(&Model::linear(8, 0.5).unwrap())
            .kept;
        assert_eq!(kept / size_of::<Lane>(), foreseen);
    }
}
