//! The averages over the output channel of any activation by quasi-Monte-Carlo, on batches of samples with
//! sizes known at run time.
//!
//! The logits are multiplied by the inverse temperature, and live in the coordinates that the activation
//! sees. Per coordinate, the logits of the label are `t = s z_1` with `s^2 = 2 Q0 + Delta`, and the field is
//! `omega = (2M/s) z_1 + r z_2` with `r^2 = 2 (Q - M^2/(Q0 + Delta/2))`.

use std::sync::Arc;

use super::averages::{
    AtZero, COUNT, Label, LabelErrors, LogitAverages, MatrixOverlaps, PretrainingLosses, term,
};
use crate::activation::{Activation, Evaluated};
use crate::channel::general::{
    CoordinateBasis, LastPoints, LocalExpansion, Prox, attention, batch_size, inverse,
};
use crate::error::Error;
use crate::lanes::{LANES, Lane, sum_once};
use crate::losses::batch::{add_squared_differences, combine, gather, matrices};
use crate::model::Model;
use crate::options::Options;
use crate::quadrature::ScrambledSobol;
use crate::state_evolution::{OutputChannel, Pass, Samples, Tuning};

/// A batch of samples, one after the other in every list.
struct MatrixBlock {
    /// The coordinates of `z_1` and `z_2`.
    normals: [Vec<f64>; 2],
    /// The logits of the label, and their attention.
    label: Vec<f64>,
    y: Vec<f64>,
}

/// What all samples have in common.
struct LabelledLayer {
    activation: Arc<dyn Activation>,
    tokens: usize,
    basis: CoordinateBasis,
    label: Label,
}

/// The nodes of several scrambles.
struct MatrixNodes {
    layer: LabelledLayer,
    samples: Samples<MatrixBlock, LastPoints>,
    size: usize,
}

/// The losses of any activation.
pub(crate) fn losses(
    model: &Model,
    label: Label,
    options: &Options,
    tuning: &Tuning,
) -> Result<Box<dyn PretrainingLosses>, Error> {
    let (tokens, activation) = (model.tokens(), model.shared_activation());
    let basis = CoordinateBasis::new(tokens, activation.unseen());
    let seen = basis.dimension();
    let layer = LabelledLayer { activation, tokens, basis, label };
    let size = batch_size(tokens, seen);
    let columns = |index: usize| {
        ScrambledSobol::new(2 * seen, options.log2_nodes() as u32, options.seed(), index as u64)?
            .columns(0..2 * seen)
    };
    let block = |columns: &Vec<Vec<f64>>, first| layer.block(columns, first, size);
    let samples = Samples::new(options, tuning, size, LastPoints::default(), columns, block)?;
    Ok(Box::new(MatrixNodes { layer, samples, size }))
}

impl LabelledLayer {
    /// Standard deviation of the label's logits.
    fn deviation(&self) -> f64 {
        (2.0 * self.label.q0 + self.label.delta).sqrt()
    }

    fn block(&self, columns: &[Vec<f64>], first: usize, size: usize) -> MatrixBlock {
        let seen = self.basis.dimension();
        let normals = [&columns[..seen], &columns[seen..]].map(|columns| gather(columns, first, size));
        let label = self.logits(&normals, self.deviation(), 0.0);
        let y = attention(self.activation.as_ref(), self.tokens, &label);
        MatrixBlock { normals, label, y }
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

    /// Adds the terms of [`LogitAverages`] for every sample of a block to `sums`.
    fn accumulate(
        &self,
        point: &MatrixOverlaps,
        thorough: bool,
        block: &MatrixBlock,
        known: &mut LastPoints,
        sums: &mut [Lane; COUNT],
    ) {
        let n = self.basis.dimension();
        let deviation = self.deviation();
        let [z1, z2] = &block.normals;
        let omega = combine(z1, z2, 2.0 * point.m / deviation, (2.0 * point.s2).sqrt());
        let stiff = 0.5 / point.v;
        let stiffness = vec![stiff; n];
        let activation = self.activation.as_ref();
        let prox =
            Prox { activation, map: &self.basis, label: &block.y, omega: &omega, stiffness: &stiffness };
        let target = || block.normals[0].iter().map(|z| deviation * z).collect::<Vec<f64>>();
        let found = prox.minima(known, thorough, |samples| prox.between(samples, &target()));
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

    /// The sums of the terms of [`AtZero`] over the samples of a block.
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

impl MatrixNodes {
    fn evaluate(
        &mut self,
        level: usize,
        pass: Pass,
        thorough: bool,
        point: &MatrixOverlaps,
    ) -> Vec<LogitAverages> {
        let layer = &self.layer;
        let means = self.samples.means(level, pass, |block, known, sums| {
            layer.accumulate(point, thorough, block, known, sums);
        });
        means.into_iter().map(LogitAverages::from_sums).collect()
    }

    /// The means over the nodes of one scramble of terms that `add` adds for one block.
    fn means<const COUNT: usize>(
        &self,
        blocks: &[MatrixBlock],
        add: impl Fn(&MatrixBlock, &mut [Lane; COUNT]) + Sync,
    ) -> [f64; COUNT] {
        let sums = sum_once(blocks.len(), self.size, |block, sums| add(&blocks[block], sums));
        sums.map(|sum| sum / (blocks.len() * self.size) as f64)
    }
}

impl OutputChannel for MatrixNodes {
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

impl PretrainingLosses for MatrixNodes {
    fn scrambles(&self) -> usize {
        self.samples.scrambles().len()
    }

    fn test_errors(&self, points: &[MatrixOverlaps]) -> Vec<LabelErrors> {
        let Self { layer, samples, .. } = self;
        let of_scramble = |(blocks, point): (&[MatrixBlock], &MatrixOverlaps)| {
            let laws = point.test_laws(&layer.label);
            LabelErrors::from_sums(self.means(blocks, |block, sums: &mut [Lane; 2]| {
                for ([deviation, slope, rest], sum) in laws.iter().zip(sums) {
                    let fields = [[*deviation, 0.0], [slope * deviation, *rest]];
                    let [y, p] = fields.map(|[a, b]| {
                        let logits = layer.logits(&block.normals, a, b);
                        attention(layer.activation.as_ref(), layer.tokens, &logits)
                    });
                    add_squared_differences(layer.tokens, &p, &y, sum);
                }
            }))
        };
        let scrambles = samples.scrambles().iter().map(|scramble| &scramble.blocks[..]);
        scrambles.zip(points).map(of_scramble).collect()
    }

    fn at_zero(&self) -> Vec<AtZero> {
        let scrambles = self.samples.scrambles().iter();
        let of_scramble = |blocks: &[MatrixBlock]| {
            AtZero::from_sums(self.means(blocks, |block, sums| self.layer.add_at_zero(block, sums)))
        };
        scrambles.map(|scramble| of_scramble(&scramble.blocks)).collect()
    }
}
