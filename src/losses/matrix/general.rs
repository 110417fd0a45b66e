//! The kernel of any activation, on batches of samples with sizes known at run time.

use std::sync::Arc;

use super::averages::{COUNT, Label, MatrixOverlaps, PretrainingLosses, term};
use super::nodes::{MatrixKernel, MatrixNodes, MeanOverBlocks};
use crate::activation::{Activation, Evaluated};
use crate::channel::ProxSearch;
use crate::channel::general::{
    CoordinateBasis, LastPoints, LocalExpansion, Prox, add_squared_differences, attention, batch_size,
    inverse,
};
use crate::error::Error;
use crate::lanes::{LANES, Lane};
use crate::losses::batch::{combine, gather, matrices};
use crate::model::Model;
use crate::options::Options;
use crate::state_evolution::Tuning;

/// A batch of samples, one after the other in every list.
pub(super) struct MatrixBlock {
    /// The coordinates of `z_1` and `z_2`.
    normals: [Vec<f64>; 2],
    /// The logits of the label, and their attention.
    label: Vec<f64>,
    y: Vec<f64>,
}

/// What all samples have in common.
pub(super) struct LabelledLayer {
    activation: Arc<dyn Activation>,
    tokens: usize,
    basis: CoordinateBasis,
    /// The number of groups of coordinates, like those of the basis, that make up the logits.
    copies: f64,
    label: Label,
    /// Number of samples of a batch.
    size: usize,
}

/// The losses of any activation.
pub(crate) fn losses(
    model: &Model,
    label: Label,
    options: &Options,
    tuning: &Tuning,
) -> Result<Box<dyn PretrainingLosses>, Error> {
    let tokens = model.tokens();
    let basis = CoordinateBasis::new(tokens, model.attention(), model.activation().unseen());
    let size = batch_size(tokens, basis.dimension());
    let kernel = LabelledLayer::new(model, basis, 1.0, label, size);
    Ok(Box::new(MatrixNodes::sampled(kernel, label, options, tuning)?))
}

impl LabelledLayer {
    /// The layer of a model, of whose logits `copies` groups are like those of `basis`, in batches of `size` samples.
    pub(super) fn new(model: &Model, basis: CoordinateBasis, copies: f64, label: Label, size: usize) -> Self {
        Self { activation: model.shared_activation(), tokens: model.tokens(), basis, copies, label, size }
    }

    /// The logits `a z_1 + b z_2` of all samples of a block.
    fn logits(&self, normals: &[Vec<f64>; 2], a: f64, b: f64) -> Vec<f64> {
        matrices(&self.basis, self.tokens, &combine(&normals[0], &normals[1], a, b), 1.0)
    }

    /// The derivatives of the label's attention along every coordinate: a list of matrices, one per sample,
    /// for each coordinate.
    fn label_images(&self, block: &MatrixBlock) -> Vec<Vec<f64>> {
        let at = Evaluated { tokens: self.tokens, logits: &block.label, attention: &block.y };
        let along = |unit: &[f64]| {
            let direction = unit.repeat(block.y.len() / unit.len());
            let mut image = vec![0.0; block.y.len()];
            self.activation.derivative(&at, &direction, &mut image);
            image
        };
        self.basis.matrices().map(along).collect()
    }

    /// The pointwise divergences `div_omega g = -tr(A Hess l)/(2V)` and `div_t g = -tr(A X)/(2V)` of sample
    /// `s` at its proximal point, and `|dg/domega|_F^2 = |A/(2V) - 1|_F^2/(2V)^2`, with
    /// `A = (Hess l + 1/(2V))^{-1}` and `X_jk = -2 <d sigma(h)/dh_j, d sigma(t)/dt_k>` the derivative of
    /// `grad l` in the label's logits `t`.
    fn derivatives(&self, found: &LocalExpansion, images: &[Vec<f64>], s: usize, stiff: f64) -> [f64; 3] {
        let (n, square) = (self.basis.dimension(), self.tokens * self.tokens);
        let Some(response) = inverse(&found.hessian[s * n * n..(s + 1) * n * n], n) else {
            return [f64::NAN; 3];
        };
        let own = &found.images[s * n * square..(s + 1) * n * square];
        let (mut omega, mut label, mut norm2) = (0.0, 0.0, 0.0);
        for (j, row) in response.chunks_exact(n).enumerate() {
            let other = &images[j][s * square..(s + 1) * square];
            for (k, (entry, own)) in row.iter().zip(own.chunks_exact(square)).enumerate() {
                let identity = if j == k { 1.0 } else { 0.0 };
                let derivative = (entry * stiff - identity) * stiff;
                omega += identity * derivative;
                norm2 += derivative * derivative;
                let product: f64 = own.iter().zip(other).map(|(x, y)| x * y).sum();
                label += 2.0 * stiff * entry * product;
            }
        }
        [omega, label, norm2]
    }
}

impl MatrixKernel for LabelledLayer {
    type Block = MatrixBlock;
    type Memory = LastPoints;

    fn seen(&self) -> usize {
        self.basis.dimension()
    }

    fn copies(&self) -> f64 {
        self.copies
    }

    fn size(&self) -> usize {
        self.size
    }

    fn nothing(&self) -> LastPoints {
        LastPoints::default()
    }

    /// New samples are always searched from all starts, and others unless they are followed.
    fn plan(memory: &mut LastPoints, search: ProxSearch) {
        if search != ProxSearch::Followed {
            memory.doubt();
        }
    }

    fn contested(memory: &LastPoints) -> bool {
        memory.contested.contains(&true)
    }

    fn block(&self, normals: [&[Vec<f64>]; 2], first: usize) -> MatrixBlock {
        let normals = normals.map(|columns| gather(columns, first, self.size));
        let label = self.logits(&normals, self.label.deviation(), 0.0);
        let y = attention(self.activation.as_ref(), self.tokens, &label);
        MatrixBlock { normals, label, y }
    }

    fn accumulate(
        &self,
        point: &MatrixOverlaps,
        block: &MatrixBlock,
        known: &mut LastPoints,
        sums: &mut [Lane; COUNT],
    ) {
        let n = self.basis.dimension();
        let deviation = self.label.deviation();
        let [z1, z2] = &block.normals;
        let omega = combine(z1, z2, 2.0 * point.m / deviation, (2.0 * point.s2).sqrt());
        let stiff = 0.5 / point.v;
        let stiffness = vec![stiff; n];
        let activation = self.activation.as_ref();
        let prox =
            Prox { activation, map: &self.basis, label: &block.y, omega: &omega, stiffness: &stiffness };
        let target = || block.normals[0].iter().map(|z| deviation * z).collect::<Vec<f64>>();
        let found = prox.minima(known, |samples| prox.between(samples, &target()));
        let images = self.label_images(block);
        for s in 0..prox.count() {
            let l = s % LANES;
            let [divergence_omega, divergence_label, replicon] = self.derivatives(&found, &images, s, stiff);
            sums[term::DIVERGENCE_OMEGA][l] += divergence_omega;
            sums[term::DIVERGENCE_LABEL][l] += divergence_label;
            sums[term::REPLICON][l] += replicon;
            sums[term::LOSS][l] += found.loss[s];
            sums[term::CONTESTED][l] += if known.contested.get(s) == Some(&true) { 1.0 } else { 0.0 };
            for k in s * n..(s + 1) * n {
                let g = (found.x[k] - omega[k]) * stiff;
                sums[term::GRADIENT_LABEL][l] += g * z1[k];
                sums[term::GRADIENT_FREE][l] += g * z2[k];
                sums[term::LABEL2][l] += z1[k] * z1[k];
                sums[term::LABEL_FREE][l] += z1[k] * z2[k];
                sums[term::FREE2][l] += z2[k] * z2[k];
                sums[term::GRADIENT2][l] += g * g;
            }
        }
    }

    fn difference(
        &self,
        _index: usize,
        fields: [[f64; 2]; 2],
        mean: &MeanOverBlocks<'_, MatrixBlock>,
    ) -> f64 {
        mean(&|block, sum| {
            let [y, p] = fields.map(|[a, b]| {
                attention(self.activation.as_ref(), self.tokens, &self.logits(&block.normals, a, b))
            });
            add_squared_differences(self.tokens, &p, &y, sum);
        })
    }

    fn add_at_zero(&self, block: &MatrixBlock, [gradient2, label, stiffness]: &mut [Lane; 3]) {
        let n = self.basis.dimension();
        let square = self.tokens * self.tokens;
        let zero = vec![0.0; block.normals[0].len()];
        let none = vec![0.0; n];
        let activation = self.activation.as_ref();
        let prox = Prox { activation, map: &self.basis, label: &block.y, omega: &zero, stiffness: &none };
        let local = prox.at(zero.clone());
        let images = self.label_images(block);
        for s in 0..prox.count() {
            let l = s % LANES;
            gradient2[l] += local.gradient[s * n..(s + 1) * n].iter().map(|g| g * g).sum::<f64>();
            stiffness[l] += local.hessian[s * n * n..(s + 1) * n * n].iter().step_by(n + 1).sum::<f64>();
            for (k, own) in
                local.images[s * n * square..(s + 1) * n * square].chunks_exact(square).enumerate()
            {
                let other = &images[k][s * square..(s + 1) * square];
                label[l] += 2.0 * own.iter().zip(other).map(|(x, y)| x * y).sum::<f64>();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activation::ActivationName;
    use crate::attention::Attention;
    use crate::channel::general::brute_force::missed;
    use crate::quadrature::ScrambledSobol;

    /// Solutions of pre-training for two tokens, `kappa0 = .5`, `Delta = .5`, `alpha = .25`, or three tokens,
    /// `kappa0 = 1`, `alpha = .15`, as `[Q, M, V]`. The first is at the ridge 0.05, and the second at 0.01.
    const SOLUTIONS: [(usize, ActivationName, [[f64; 3]; 2]); 4] = [
        (2, ActivationName::SoftmaxOne, [[0.539, 0.797, 2.450], [1.197, 1.218, 7.259]]),
        (2, ActivationName::Sigmoid, [[0.576, 0.842, 2.478], [1.230, 1.256, 6.537]]),
        (3, ActivationName::SoftmaxOne, [[0.700, 1.019, 3.354], [1.522, 1.585, 9.810]]),
        (3, ActivationName::Sigmoid, [[0.831, 1.140, 3.532], [1.650, 1.686, 8.407]]),
    ];

    /// A point with a large norm and a large response, far from any solution.
    const FAR: [f64; 3] = [5.0, 1.5, 20.0];

    const SAMPLES: usize = 128;
    const STARTS: usize = 60;

    /// The proximal points of pre-training are compared with the lowest of many minima, on samples of the law.
    #[test]
    fn proximal_points_are_the_lowest_of_many_minima() {
        for (tokens, activation, [good, weak]) in SOLUTIONS {
            let kappa0 = if tokens == 2 { 0.5 } else { 1.0 };
            let label = Label { q0: 1.0 + kappa0, delta: 0.5 };
            let activation = activation.activation();
            let basis = CoordinateBasis::new(tokens, Attention::Tied, activation.unseen());
            let seen = basis.dimension();
            let size = batch_size(tokens, seen);
            let layer = LabelledLayer { activation, tokens, basis, copies: 1.0, label, size };
            let normals =
                |seed| ScrambledSobol::new(2 * seen, 10, seed, 0).unwrap().columns(0..2 * seen).unwrap();
            let columns = normals(7);
            // The starts are of the size of the logits of the label.
            let other = normals(8);
            let start = |k: usize| other[..seen].iter().map(|column| label.deviation() * column[k]).collect();
            let starts: Vec<Vec<f64>> = (0..STARTS).map(start).collect();
            for (at, [q, m, v], allowed) in
                [("ridge 0.05", good, 0), ("ridge 0.01", weak, 0), ("far", FAR, 1)]
            {
                let s2 = q - m * m / (label.q0 + 0.5 * label.delta);
                let mut all = 0;
                for first in (0..SAMPLES).step_by(size) {
                    let block = layer.block([&columns[..seen], &columns[seen..]], first);
                    let [one, two] = &block.normals;
                    let omega = combine(one, two, 2.0 * m / label.deviation(), (2.0 * s2).sqrt());
                    let stiffness = vec![0.5 / v; seen];
                    let prox = Prox {
                        activation: layer.activation.as_ref(),
                        map: &layer.basis,
                        label: &block.y,
                        omega: &omega,
                        stiffness: &stiffness,
                    };
                    let target = combine(one, two, label.deviation(), 0.0);
                    let found =
                        prox.minima(&mut LastPoints::default(), |samples| prox.between(samples, &target));
                    all += missed(&prox, &found, &starts);
                }
                let name = layer.activation.name();
                assert!(all <= allowed, "T = {tokens}, {name}, {at}: {all} of {SAMPLES} missed");
            }
        }
    }
}
