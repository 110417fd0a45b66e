//! The curvatures of the loss at vanishing weights of two factors, one column each.

use nalgebra::{DMatrix, DVectorView, SymmetricEigen};

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
                curvatures.extend(singular_curvatures(&gradient, star, width));
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
            dropped: if layer.activation.is_bounded() { 0.0 } else { DROPPED },
        }
    }
}

/// The singular values of the derivative of the loss by the logits, with the components of the first true columns along their vectors. They follow from
/// the eigenvalues of `G^T G`: the singular value decomposition of nalgebra 0.35 has errors of tens of percent for some `2 x 2` matrices of rank one,
/// which are those of softmax of two tokens. The list is empty if there are no eigenvalues, as where the derivative is not finite.
fn singular_curvatures(gradient: &DMatrix<f64>, star: &[f64], width: usize) -> Vec<SingularCurvature> {
    const MAX_STEPS: usize = 1000;
    let component = |vector: &[f64], column: usize| -> f64 {
        vector.iter().enumerate().map(|(a, x)| x * star[a * width + column]).sum()
    };
    let Some(eigen) = SymmetricEigen::try_new(gradient.tr_mul(gradient), f64::EPSILON, MAX_STEPS) else {
        return Vec::new();
    };
    let of_vector = |(square, right): (&f64, DVectorView<'_, f64>)| {
        let value = square.max(0.0).sqrt();
        let image = gradient * right;
        let chi = if value > 0.0 { component(image.as_slice(), 0) / value } else { 0.0 };
        SingularCurvature { value, star: [chi, component(right.as_slice(), width / 2)] }
    };
    eigen.eigenvalues.iter().zip(eigen.eigenvectors.column_iter()).map(of_vector).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_relative_eq;

    /// Matrices of rank one, whose singular value is the product of two norms.
    #[test]
    fn singular_values_of_matrices_of_rank_one() {
        for k in 1..2000 {
            let [x, y] = [(0.37 * f64::from(k)).sin(), (1.71 * f64::from(k)).cos()];
            let gradient = DMatrix::from_row_slice(2, 2, &[x, -x, y, -y]);
            let found = singular_curvatures(&gradient, &[0.3, 1.1, -0.7, 0.4], 2);
            let value = found.iter().map(|own| own.value).fold(0.0, f64::max);
            assert_relative_eq!(value, x.hypot(y) * 2.0_f64.sqrt(), max_relative = 1e-12);
            // The bilinear form of the truth.
            let form: f64 = found.iter().map(|own| own.value * own.star[0] * own.star[1]).sum();
            assert_relative_eq!(form, (0.3 * x - 0.7 * y) * (1.1 - 0.4), epsilon = 1e-12);
        }
    }
}
