//! The curvatures of the loss at vanishing weights of two factors, one column each.

use nalgebra::{DMatrix, SVD};

use super::nodes::ColumnNodes;
use crate::losses::vector::general::FieldsBlock;
use crate::losses::vector::zero_weights::{CurvatureList, Curvatures, SingularCurvature, ZeroWeights};
use crate::parallel;

/// Share of the singular values that are left out if the loss is not bounded, where the largest ones come from samples so rare that they
/// matter to no result.
const DROPPED: f64 = 1e-3;

impl ColumnNodes {
    /// The averages at zero weights, over all nodes.
    pub(crate) fn zero_weights(&self) -> ZeroWeights {
        let scrambles = self.samples().scrambles().iter();
        ZeroWeights::new(scrambles.map(|scramble| self.at_zero(&scramble.blocks)).collect())
    }

    fn at_zero(&self, blocks: &[FieldsBlock]) -> Curvatures {
        let layer = self.layer();
        let (n, width) = (layer.tokens, layer.truth.len());
        let parts: Vec<(Vec<SingularCurvature>, [f64; 2])> = parallel::map(blocks.len(), 1, &|number| {
            let block = &blocks[number];
            let local = layer.expansion_at_zero(2, block);
            let mut curvatures = Vec::with_capacity(block.label.len() / n);
            let mut sums = [0.0; 2];
            for (s, slope) in local.slope.chunks_exact(n * n).enumerate() {
                let gradient = DMatrix::from_row_slice(n, n, slope) * layer.coupling;
                let star = &block.star[s * n * width..(s + 1) * n * width];
                curvatures.extend(singular_curvatures(gradient, star, width));
                sums[0] += local.loss[s];
                sums[1] += 1.0;
            }
            (curvatures, sums)
        });
        let [loss, count] = [0, 1].map(|k| parts.iter().map(|(_, sums)| sums[k]).sum::<f64>());
        let curvatures = parts.into_iter().flat_map(|(curvatures, _)| curvatures).collect();
        Curvatures {
            curvatures: CurvatureList::Factors(curvatures),
            loss: loss / count,
            centring: 0.0,
            count,
            dropped: if self.is_linear() { DROPPED } else { 0.0 },
        }
    }
}

/// The singular values of the derivative of the loss by the logits, with the components of the first true columns along their vectors. The list
/// is empty if they are not found, as where the derivative is not finite.
fn singular_curvatures(gradient: DMatrix<f64>, star: &[f64], width: usize) -> Vec<SingularCurvature> {
    const MAX_STEPS: usize = 1000;
    let decomposition = SVD::try_new(gradient, true, true, f64::EPSILON, MAX_STEPS);
    let Some(SVD { u: Some(left), v_t: Some(right), singular_values }) = decomposition else {
        return Vec::new();
    };
    let tokens = left.nrows();
    let along = |i: usize| {
        let sum = |entry: &dyn Fn(usize) -> f64| (0..tokens).map(entry).sum::<f64>();
        let chi = sum(&|a| left[(a, i)] * star[a * width]);
        let psi = sum(&|a| right[(i, a)] * star[a * width + width / 2]);
        SingularCurvature { value: singular_values[i], star: [chi, psi] }
    };
    (0..tokens).map(along).collect()
}
