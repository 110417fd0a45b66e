//! The kernel of softmax, on blocks of samples with a number of tokens known at compile time. Of the `K` coordinates
//! of the logits, softmax sees `K - 1`.

use super::averages::{COUNT, Label, MatrixOverlaps, PretrainingLosses, term};
use super::nodes::{MatrixKernel, MatrixNodes};
use crate::channel::{self, MatrixProx, coordinates, probabilities, softmax_row, with_tokens};
use crate::descent::{LaneMatrix, LaneVector};
use crate::error::Error;
use crate::lanes::{LANES, Lane};
use crate::losses::block::{add_squared_difference, centred_matrices};
use crate::options::Options;
use crate::state_evolution::Tuning;

/// The losses of softmax for a number of tokens known at run time.
pub(crate) fn losses(
    tokens: usize,
    label: Label,
    options: &Options,
    tuning: &Tuning,
) -> Result<Box<dyn PretrainingLosses>, Error> {
    with_tokens!(tokens, T => {
        const K: usize = channel::dimension(T);
        Ok(Box::new(MatrixNodes::sampled(SoftmaxMatrices::<T, K> { label }, label, options, tuning)?))
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

/// The kernel.
struct SoftmaxMatrices<const T: usize, const K: usize> {
    label: Label,
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

impl<const T: usize, const K: usize> MatrixKernel for SoftmaxMatrices<T, K> {
    type Block = LabelBlock<T, K>;
    type Memory = Known<K>;

    fn seen(&self) -> usize {
        K - 1
    }

    fn size(&self) -> usize {
        LANES
    }

    fn nothing(&self) -> Known<K> {
        Known { h: [[f64::NAN; LANES]; K], contested: true }
    }

    fn doubt(memory: &mut Known<K>) {
        memory.contested = true;
    }

    fn block(&self, normals: [&[Vec<f64>]; 2], first: usize) -> LabelBlock<T, K> {
        let normals = normals.map(|columns| coordinates(&centred_matrices::<T>(columns, first)));
        let y = probabilities::<T, K>(&combine(&normals, self.label.deviation(), 0.0));
        LabelBlock { normals, y }
    }

    #[inline(always)]
    fn accumulate(
        &self,
        point: &MatrixOverlaps,
        block: &LabelBlock<T, K>,
        memory: &mut Known<K>,
        sums: &mut [Lane; COUNT],
    ) {
        let deviation = self.label.deviation();
        let omega = combine(&block.normals, 2.0 * point.m / deviation, (2.0 * point.s2).sqrt());
        let prox = MatrixProx::<T, K> { omega, y: &block.y, v: point.v };
        let minimum = if memory.contested {
            let t = block.normals[0].map(|lane| lane.map(|x| deviation * x));
            let minimum = prox.global(&t, &memory.h);
            memory.contested = minimum.contested.iter().sum::<f64>() > 0.0;
            minimum
        } else {
            prox.from(&memory.h)
        };
        memory.h = minimum.h;
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

    fn add_difference(&self, block: &LabelBlock<T, K>, fields: [[f64; 2]; 2], sum: &mut Lane) {
        let [y, p] = fields.map(|[a, b]| probabilities::<T, K>(&combine(&block.normals, a, b)));
        for a in 0..T {
            add_squared_difference(&p[a], &y[a], sum);
        }
    }

    fn add_at_zero(&self, block: &LabelBlock<T, K>, [gradient2, label, stiffness]: &mut [Lane; 3]) {
        let tokens = T as f64;
        let uniform = softmax_row(&[[0.0; LANES]; T])[0];
        // The quadratic pull adds 1/(2V) = 0.5 to the diagonal of the Hessian, and the sum leaves it out.
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
