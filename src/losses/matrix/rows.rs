//! Softmax in cross-attention: the rows of the logits are independent and alike, and so are their proximal problems. One row of `T - 1`
//! coordinates stands for all.
//!
//! For two tokens a row has one coordinate, and the averages over its two normals are taken by a product rule instead of samples: nodes of
//! equal spacing, which for smooth functions converge faster than any power of the spacing (L. N. Trefethen, J. A. C. Weideman, SIAM Rev. 56,
//! 385 (2014)).

use super::averages::{COUNT, Label, MatrixOverlaps, PretrainingLosses};
use super::general::LabelledLayer;
use super::nodes::{MatrixKernel, MatrixNodes, MeanOverBlocks};
use crate::channel::ProxSearch;
use crate::channel::general::{CoordinateBasis, batch_size};
use crate::error::Error;
use crate::lanes::{LANES, Lane};
use crate::model::Model;
use crate::options::Options;
use crate::quadrature::normal_density;
use crate::state_evolution::Tuning;

/// Distance at which the normals of the product rule are cut.
const REACH: f64 = 8.5;

/// Deviation of the label's logits, times the inverse temperature, from which on samples, which have error bars, take the place of the product rule.
const STEEPEST: f64 = 4.0;
/// Least `log2_nodes` of the product rule. The spacing is 0.27, at which the averages have errors below 1e-6 up to that steepness.
const LEAST_LOG2_NODES: usize = 12;

/// The losses of an activation that acts on rows, and on all rows alike.
pub(crate) fn losses(
    model: &Model,
    label: Label,
    options: &Options,
    tuning: &Tuning,
) -> Result<Box<dyn PretrainingLosses>, Error> {
    let tokens = model.tokens();
    let basis = CoordinateBasis::one_row(tokens, model.activation().unseen());
    let copies = tokens as f64;
    let steepness = label.deviation();
    if basis.dimension() > 1 || steepness.is_nan() || steepness > STEEPEST {
        let size = batch_size(tokens, basis.dimension());
        let row = LabelledLayer::new(model, basis, copies, label, size);
        return Ok(Box::new(MatrixNodes::sampled(row, label, options, tuning)?));
    }
    // The samples of a block of this size are in lanes of their own, so that each can have its weight.
    let row = LabelledLayer::new(model, basis, copies, label, LANES);
    let options = options.with_scrambles(1)?;
    let options = options.with_log2_nodes(options.log2_nodes().max(LEAST_LOG2_NODES))?;
    let LatticeRule { columns, weights } = LatticeRule::new(options.log2_nodes());
    let rule = Weighted { kernel: row, weights };
    let copy = |_: &_, _, own: &mut Vec<Vec<f64>>| {
        own.clone_from(&columns);
        Ok(())
    };
    Ok(Box::new(MatrixNodes::new(rule, label, &options, tuning, copy)?))
}

/// Nodes for averages over two normals.
struct LatticeRule {
    columns: Vec<Vec<f64>>,
    /// The weights of the nodes, whose mean is 1.
    weights: Vec<f64>,
}

impl LatticeRule {
    /// The first `2^k` nodes are a product rule themselves, with a wider spacing: the positions along both directions are the reversed even
    /// and odd bits of the number of the node.
    fn new(log2_nodes: usize) -> Self {
        let mut columns = vec![Vec::new(); 2];
        let mut weights = Vec::with_capacity(1 << log2_nodes);
        for node in 0..1_usize << log2_nodes {
            let mut weight = 1.0;
            for (direction, column) in columns.iter_mut().enumerate() {
                let (mut position, mut spacing) = (0.0, 1.0);
                for bit in (direction..log2_nodes).step_by(2) {
                    spacing *= 0.5;
                    position += if (node >> bit) & 1 == 1 { spacing } else { 0.0 };
                }
                let x = REACH * (2.0 * position + spacing - 1.0);
                weight *= 2.0 * REACH * normal_density(x);
                column.push(x);
            }
            weights.push(weight);
        }
        Self { columns, weights }
    }
}

/// A kernel whose samples have weights.
struct Weighted<K> {
    kernel: K,
    weights: Vec<f64>,
}

/// A block of samples with their weights.
struct WeightedBlock<B> {
    samples: B,
    weights: Lane,
}

/// Adds what `add` gives for the samples of a block, times their weights.
fn add_weighted<const N: usize>(weights: &Lane, sums: &mut [Lane; N], add: impl FnOnce(&mut [Lane; N])) {
    let mut own = [[0.0; LANES]; N];
    add(&mut own);
    for (sum, own) in sums.iter_mut().zip(&own) {
        for l in 0..LANES {
            sum[l] += weights[l] * own[l];
        }
    }
}

impl<K: MatrixKernel> MatrixKernel for Weighted<K> {
    type Block = WeightedBlock<K::Block>;
    type Memory = K::Memory;

    fn seen(&self) -> usize {
        self.kernel.seen()
    }

    fn copies(&self) -> f64 {
        self.kernel.copies()
    }

    fn size(&self) -> usize {
        self.kernel.size()
    }

    fn nothing(&self) -> K::Memory {
        self.kernel.nothing()
    }

    fn block(&self, normals: [&[Vec<f64>]; 2], first: usize) -> WeightedBlock<K::Block> {
        let weights = std::array::from_fn(|l| self.weights[first + l]);
        WeightedBlock { samples: self.kernel.block(normals, first), weights }
    }

    fn plan(memory: &mut K::Memory, search: ProxSearch) {
        K::plan(memory, search);
    }

    fn contested(memory: &K::Memory) -> bool {
        K::contested(memory)
    }

    fn accumulate(
        &self,
        point: &MatrixOverlaps,
        block: &WeightedBlock<K::Block>,
        memory: &mut K::Memory,
        sums: &mut [Lane; COUNT],
    ) {
        add_weighted(&block.weights, sums, |own| self.kernel.accumulate(point, &block.samples, memory, own));
    }

    fn difference(
        &self,
        index: usize,
        fields: [[f64; 2]; 2],
        mean: &MeanOverBlocks<'_, WeightedBlock<K::Block>>,
    ) -> f64 {
        self.kernel.difference(index, fields, &|add| {
            mean(&|block, sum| {
                add_weighted(&block.weights, std::array::from_mut(sum), |[own]| add(&block.samples, own));
            })
        })
    }

    fn add_at_zero(&self, block: &WeightedBlock<K::Block>, sums: &mut [Lane; 3]) {
        add_weighted(&block.weights, sums, |own| self.kernel.add_at_zero(&block.samples, own));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_relative_eq;

    #[test]
    fn every_part_of_the_rule_is_a_rule() {
        let LatticeRule { columns, weights } = LatticeRule::new(12);
        for log2 in [9, 10, 11, 12] {
            let count = 1 << log2;
            let mean = |f: &dyn Fn(f64, f64) -> f64| {
                (0..count).map(|k| weights[k] * f(columns[0][k], columns[1][k])).sum::<f64>()
                    / f64::from(1 << log2)
            };
            // With the spacing h, the moment of degree k has an error of about 2 (2 pi/h)^k exp(-2 pi^2/h^2), and h = 17/16 in one
            // direction of the shortest part. The other parts leave out the tail beyond 8.5 - h.
            let tolerance = match log2 {
                9 => 2e-4,
                12 => 1e-12,
                _ => 1e-9,
            };
            for (moment, exact) in [
                (mean(&|_, _| 1.0), 1.0),
                (mean(&|x, _| x * x), 1.0),
                (mean(&|x, y| x * y), 0.0),
                (mean(&|_, y| y.powi(4)), 3.0),
            ] {
                assert_relative_eq!(moment, exact, epsilon = tolerance);
            }
        }
    }
}
