//! The averages over the output channel of any activation by quasi-Monte-Carlo, on batches of samples with
//! sizes known at run time.
//!
//! The logits are multiplied by the inverse temperature, and live in the coordinates that the activation
//! sees. Per coordinate, the logits of the label are `t = s z_1` with `s^2 = 2 Q0 + Delta`, and the field is
//! `omega = (2M/s) z_1 + r z_2` with `r^2 = 2 (Q - M^2/(Q0 + Delta/2))`.

use std::sync::Arc;

use super::averages::{AtZero, COUNT, Label, LogitAverages, MatrixOverlaps, PretrainingLosses, term};
use crate::activation::{Activation, Evaluated};
use crate::channel::general::{CoordinateBasis, Expansion, LastPoints, Prox, attention, batch_size, inverse};
use crate::error::Error;
use crate::lanes::{LANES, Lane, sum_once};
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
pub(super) fn losses(
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

/// `a x + b y`.
fn combine([x, y]: &[Vec<f64>; 2], a: f64, b: f64) -> Vec<f64> {
    x.iter().zip(y).map(|(x, y)| a * x + b * y).collect()
}

impl LabelledLayer {
    /// Standard deviation of the label's logits.
    fn deviation(&self) -> f64 {
        (2.0 * self.label.q0 + self.label.delta).sqrt()
    }

    fn block(&self, columns: &[Vec<f64>], first: usize, size: usize) -> MatrixBlock {
        let seen = self.basis.dimension();
        let [one, two] = [&columns[..seen], &columns[seen..]].map(|columns| -> Vec<f64> {
            (first..first + size).flat_map(|node| columns.iter().map(move |column| column[node])).collect()
        });
        let normals = [one, two];
        let label = self.matrices(&combine(&normals, self.deviation(), 0.0));
        let y = attention(self.activation.as_ref(), self.tokens, &label);
        MatrixBlock { normals, label, y }
    }

    /// The logits with the given coordinates, sample after sample.
    fn matrices(&self, coordinates: &[f64]) -> Vec<f64> {
        let (seen, square) = (self.basis.dimension(), self.tokens * self.tokens);
        let mut matrices = vec![0.0; coordinates.len() / seen * square];
        for (x, matrix) in coordinates.chunks_exact(seen).zip(matrices.chunks_exact_mut(square)) {
            self.basis.add(x.iter().copied(), 1.0, matrix);
        }
        matrices
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
        let omega = combine(&block.normals, 2.0 * point.m / deviation, (2.0 * point.s2).sqrt());
        let stiff = 0.5 / point.v;
        let stiffness = vec![stiff; n];
        let activation = self.activation.as_ref();
        let prox =
            Prox { activation, map: &self.basis, label: &block.y, omega: &omega, stiffness: &stiffness };
        let target = || block.normals[0].iter().map(|z| deviation * z).collect::<Vec<f64>>();
        let found = prox.minima(known, thorough, || prox.between(&target()));
        let images = self.label_images(block);
        for s in 0..prox.count() {
            let l = s % LANES;
            let [divergence_omega, divergence_label, replicon] = self.derivatives(&found, &images, s, stiff);
            sums[term::DIVERGENCE_OMEGA][l] += divergence_omega;
            sums[term::DIVERGENCE_LABEL][l] += divergence_label;
            sums[term::REPLICON][l] += replicon;
            sums[term::LOSS][l] += found.loss[s];
            sums[term::CONTESTED][l] += if known.contested.get(s) == Some(&true) { 1.0 } else { 0.0 };
            let [z1, z2] = &block.normals;
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
    fn derivatives(&self, found: &Expansion, images: &[Vec<f64>], s: usize, stiff: f64) -> [f64; 3] {
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

    fn test_errors(&self, points: &[MatrixOverlaps]) -> Vec<[f64; 2]> {
        let Self { layer, samples, .. } = self;
        let square = layer.tokens * layer.tokens;
        let of_scramble = |(blocks, point): (&[MatrixBlock], &MatrixOverlaps)| {
            let laws = point.test_laws(&layer.label);
            self.means(blocks, |block, sums: &mut [Lane; 2]| {
                for ([deviation, slope, rest], sum) in laws.iter().zip(sums) {
                    let fields = [[*deviation, 0.0], [slope * deviation, *rest]];
                    let [y, p] = fields.map(|[a, b]| {
                        let logits = layer.matrices(&combine(&block.normals, a, b));
                        attention(layer.activation.as_ref(), layer.tokens, &logits)
                    });
                    for (i, (p, y)) in p.iter().zip(&y).enumerate() {
                        sum[i / square % LANES] += (p - y) * (p - y);
                    }
                }
            })
        };
        let scrambles = samples.scrambles().iter().map(|scramble| &scramble.blocks[..]);
        scrambles.zip(points).map(of_scramble).collect()
    }

    fn at_zero(&self) -> Vec<AtZero> {
        let scrambles = self.samples.scrambles().iter();
        let of_scramble = |blocks: &[MatrixBlock]| {
            let [gradient2, divergence_label, stiffness] =
                self.means(blocks, |block, sums| self.layer.add_at_zero(block, sums));
            AtZero { gradient2, divergence_label, stiffness }
        };
        scrambles.map(|scramble| of_scramble(&scramble.blocks)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activation::ActivationName;
    use crate::channel::general::brute_force::missed;

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
            let basis = CoordinateBasis::new(tokens, activation.unseen());
            let seen = basis.dimension();
            let layer = LabelledLayer { activation, tokens, basis, label };
            let normals =
                |seed| ScrambledSobol::new(2 * seen, 10, seed, 0).unwrap().columns(0..2 * seen).unwrap();
            let columns = normals(7);
            // The starts are of the size of the logits of the label.
            let other = normals(8);
            let start = |k: usize| other[..seen].iter().map(|column| layer.deviation() * column[k]).collect();
            let starts: Vec<Vec<f64>> = (0..STARTS).map(start).collect();
            let size = batch_size(tokens, seen);
            for (at, [q, m, v], allowed) in
                [("ridge 0.05", good, 0), ("ridge 0.01", weak, 0), ("far", FAR, 1)]
            {
                let s2 = q - m * m / (label.q0 + 0.5 * label.delta);
                let mut all = 0;
                for first in (0..SAMPLES).step_by(size) {
                    let block = layer.block(&columns, first, size);
                    let omega = combine(&block.normals, 2.0 * m / layer.deviation(), (2.0 * s2).sqrt());
                    let stiffness = vec![0.5 / v; seen];
                    let prox = Prox {
                        activation: layer.activation.as_ref(),
                        map: &layer.basis,
                        label: &block.y,
                        omega: &omega,
                        stiffness: &stiffness,
                    };
                    let target = combine(&block.normals, layer.deviation(), 0.0);
                    let found = prox.minima(&mut LastPoints::default(), true, || prox.between(&target));
                    all += missed(&prox, &found, &starts);
                }
                let name = layer.activation.name();
                assert!(all <= allowed, "T = {tokens}, {name}, {at}: {all} of {SAMPLES} missed");
            }
        }
    }
}
