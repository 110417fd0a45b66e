//! The averages over the output channel of softmax by quasi-Monte-Carlo, in logits multiplied by the inverse
//! temperature.
//!
//! Per coordinate, the logits of the label are `t = s z_1` with `s^2 = 2 Q0 + Delta`, and the field is
//! `omega = (2M/s) z_1 + r z_2` with `r^2 = 2 (Q - M^2/(Q0 + Delta/2))`. Only the `K' = K - 1` coordinates
//! that softmax sees are sampled.

use super::averages::{
    AtZero, COUNT, Label, LabelErrors, LogitAverages, MatrixOverlaps, PretrainingLosses, term,
};
use crate::channel::{self, MatrixProx, coordinates, probabilities, softmax_row, with_tokens};
use crate::descent::{LaneMatrix, LaneVector};
use crate::error::Error;
use crate::lanes::{LANES, Lane, sum_once};
use crate::losses::block::{add_squared_difference, centred_matrices};
use crate::options::Options;
use crate::quadrature::ScrambledSobol;
use crate::state_evolution::{OutputChannel, Pass, Samples, Tuning};

/// The losses of softmax for a number of tokens known at run time.
pub(crate) fn losses(
    tokens: usize,
    label: Label,
    options: &Options,
    tuning: &Tuning,
) -> Result<Box<dyn PretrainingLosses>, Error> {
    with_tokens!(tokens, T => {
        const K: usize = channel::dimension(T);
        Ok(Box::new(SoftmaxMatrixNodes::<T, K>::new(label, options, tuning)?))
    })
}

struct LabelBlock<const T: usize, const K: usize> {
    /// Coordinates of `z_1` and `z_2`.
    normals: [LaneVector<K>; 2],
    /// Softmax of the label's logits.
    y: LaneMatrix<T>,
}

/// The last proximal points of a block, and whether its starts led to different minima.
#[derive(Clone)]
struct Known<const K: usize> {
    h: LaneVector<K>,
    contested: bool,
}

impl<const K: usize> Known<K> {
    /// The state before the first evaluation.
    const NOTHING: Self = Self { h: [[f64::NAN; LANES]; K], contested: true };
}

/// The nodes of several scrambles.
struct SoftmaxMatrixNodes<const T: usize, const K: usize> {
    label: Label,
    samples: Samples<LabelBlock<T, K>, Known<K>>,
}

impl<const T: usize, const K: usize> SoftmaxMatrixNodes<T, K> {
    fn new(label: Label, options: &Options, tuning: &Tuning) -> Result<Self, Error> {
        let seen = K - 1;
        let deviation = (2.0 * label.q0 + label.delta).sqrt();
        let columns = |index: usize| {
            ScrambledSobol::new(2 * seen, options.log2_nodes() as u32, options.seed(), index as u64)?
                .columns(0..2 * seen)
        };
        let block = |columns: &Vec<Vec<f64>>, first| {
            let [z1, z2] = [&columns[..seen], &columns[seen..]]
                .map(|columns| coordinates(&centred_matrices::<T>(columns, first)));
            let y = probabilities::<T, K>(&z1.map(|lane| lane.map(|x| deviation * x)));
            LabelBlock { normals: [z1, z2], y }
        };
        Ok(Self { label, samples: Samples::new(options, tuning, LANES, Known::NOTHING, columns, block)? })
    }
}

/// `a x + b y`.
#[inline(always)]
fn combine<const K: usize>([x, y]: &[LaneVector<K>; 2], a: f64, b: f64) -> LaneVector<K> {
    let mut sum = *x;
    for k in 0..K {
        for l in 0..LANES {
            sum[k][l] = a * x[k][l] + b * y[k][l];
        }
    }
    sum
}

/// Adds the terms of [`LogitAverages`] for every sample of a block to `sums`. If `thorough`, all starts of the
/// proximal point are tried; else they are tried only in blocks whose starts led to different minima before.
#[inline(always)]
fn accumulate<const T: usize, const K: usize>(
    label: &Label,
    point: &MatrixOverlaps,
    thorough: bool,
    block: &LabelBlock<T, K>,
    known: &mut Known<K>,
    sums: &mut [Lane; COUNT],
) {
    let deviation = (2.0 * label.q0 + label.delta).sqrt();
    let omega = combine(&block.normals, 2.0 * point.m / deviation, (2.0 * point.s2).sqrt());
    let prox = MatrixProx::<T, K> { omega, y: &block.y, v: point.v };
    let minimum = if thorough || known.contested {
        let t = block.normals[0].map(|lane| lane.map(|x| deviation * x));
        let minimum = prox.global(&t, &known.h);
        known.contested = minimum.contested.iter().sum::<f64>() > 0.0;
        minimum
    } else {
        prox.from(&known.h)
    };
    known.h = minimum.h;
    let [pointwise_omega, pointwise_label, square] = prox.derivatives(&minimum);
    let [z1, z2] = &block.normals;
    for k in 0..K {
        for l in 0..LANES {
            let g = (minimum.h[k][l] - prox.omega[k][l]) / (2.0 * point.v);
            sums[term::GRADIENT_LABEL][l] += g * z1[k][l];
            sums[term::GRADIENT_FREE][l] += g * z2[k][l];
            sums[term::LABEL2][l] += z1[k][l] * z1[k][l];
            sums[term::LABEL_FREE][l] += z1[k][l] * z2[k][l];
            sums[term::FREE2][l] += z2[k][l] * z2[k][l];
            sums[term::GRADIENT2][l] += g * g;
        }
    }
    for l in 0..LANES {
        sums[term::DIVERGENCE_OMEGA][l] += pointwise_omega[l];
        sums[term::DIVERGENCE_LABEL][l] += pointwise_label[l];
        sums[term::LOSS][l] += minimum.local.extra[0][l];
        sums[term::CONTESTED][l] += minimum.contested[l];
        sums[term::REPLICON][l] += square[l];
    }
}

impl<const T: usize, const K: usize> SoftmaxMatrixNodes<T, K> {
    fn evaluate(
        &mut self,
        level: usize,
        pass: Pass,
        thorough: bool,
        point: &MatrixOverlaps,
    ) -> Vec<LogitAverages> {
        let label = self.label;
        let means = self.samples.means(
            level,
            pass,
            #[inline(always)]
            |block, known, sums| accumulate(&label, point, thorough, block, known, sums),
        );
        means.into_iter().map(LogitAverages::from_sums).collect()
    }
}

impl<const T: usize, const K: usize> OutputChannel for SoftmaxMatrixNodes<T, K> {
    type Point = MatrixOverlaps;
    type Averages = LogitAverages;

    fn levels(&self) -> usize {
        self.samples.levels()
    }

    fn averages(&mut self, level: usize, pass: Pass, point: &MatrixOverlaps) -> Vec<LogitAverages> {
        self.evaluate(level, pass, pass == Pass::Fresh, point)
    }

    /// Tries all starts of every proximal point, so that the nodes know which of them have several minima.
    fn prepare(&mut self, level: usize, point: &MatrixOverlaps) {
        self.evaluate(level, Pass::Complete, true, point);
    }
}

impl<const T: usize, const K: usize> PretrainingLosses for SoftmaxMatrixNodes<T, K> {
    fn scrambles(&self) -> usize {
        self.samples.scrambles().len()
    }

    fn test_errors(&self, points: &[MatrixOverlaps]) -> Vec<LabelErrors> {
        self.samples
            .scrambles()
            .iter()
            .zip(points)
            .map(|(scramble, point)| {
                let laws = point.test_laws(&self.label);
                let sums = sum_once(scramble.blocks.len(), LANES, |block, sums: &mut [Lane; 2]| {
                    let block = &scramble.blocks[block];
                    for ([deviation, slope, rest], sum) in laws.iter().zip(sums) {
                        let label = combine(&block.normals, *deviation, 0.0);
                        let output = combine(&block.normals, slope * deviation, *rest);
                        let [y, p] = [label, output].map(|h| probabilities::<T, K>(&h));
                        for a in 0..T {
                            add_squared_difference(&p[a], &y[a], sum);
                        }
                    }
                });
                LabelErrors::from_sums(sums.map(|sum| sum / (scramble.blocks.len() * LANES) as f64))
            })
            .collect()
    }

    fn at_zero(&self) -> Vec<AtZero> {
        let tokens = T as f64;
        let uniform = softmax_row(&[[0.0; LANES]; T])[0];
        self.samples
            .scrambles()
            .iter()
            .map(|scramble| {
                let sums = sum_once(
                    scramble.blocks.len(),
                    LANES,
                    |block, [gradient2, label, stiffness]: &mut [Lane; 3]| {
                        let block = &scramble.blocks[block];
                        // The quadratic pull adds 1/(2V) = 0.5 to the diagonal of the Hessian, and the sum leaves
                        // it out.
                        let prox = MatrixProx::<T, K> { omega: [[0.0; LANES]; K], y: &block.y, v: 1.0 };
                        let curvatures = prox.curvatures(&[[0.0; LANES]; K]);
                        for k in 0..K {
                            for l in 0..LANES {
                                stiffness[l] += curvatures[k][l] - 0.5;
                            }
                        }
                        for a in 0..T {
                            for b in 0..T {
                                for l in 0..LANES {
                                    let (y, transposed) = (block.y[a][b][l], block.y[b][a][l]);
                                    let g = (y + transposed - 2.0 * uniform[l]) / tokens;
                                    gradient2[l] += g * g;
                                    let own = if a == b { 2.0 } else { 1.0 };
                                    label[l] += own / tokens * y * (1.0 - y);
                                }
                            }
                        }
                    },
                );
                AtZero::from_sums(sums.map(|sum| sum / (scramble.blocks.len() * LANES) as f64))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Workload;
    use crate::model::Model;

    #[test]
    fn memory_is_foreseen() {
        let kept = size_of::<LabelBlock<8, 36>>() + size_of::<Known<36>>();
        let foreseen = Workload::Pretraining.numbers(&Model::softmax(8, 0.5).unwrap()).kept;
        // One flag per block counts as one number per node.
        assert_eq!(kept.div_ceil(size_of::<Lane>()), foreseen);
    }
}
