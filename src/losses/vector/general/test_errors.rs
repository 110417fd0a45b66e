//! The averages over the test law: squared differences of attention, without any proximal point.

use super::fields::{frozen_coordinates, label_coordinates};
use crate::activation::Activation;
use crate::attention::Attention;
use crate::channel::general::{
    CoordinateBasis, Perturbation, add_squared_differences, attention, batch_size,
};
use crate::error::Error;
use crate::fields::{FieldColumns, JointLaw};
use crate::lanes::{Lane, sum_once};
use crate::losses::batch::{combine, gather, matrices};
use crate::losses::vector::moments::VectorOverlaps;
use crate::losses::vector::test_law::ReplicatedErrors;
use crate::model::Model;
use crate::options::Options;

/// The errors of any activation. `coupling` is the inverse temperature times `q0`.
pub(crate) fn test_errors(
    model: &Model,
    law: &JointLaw,
    coupling: f64,
    options: &Options,
    common: &VectorOverlaps,
    own: &[VectorOverlaps],
) -> Result<ReplicatedErrors, Error> {
    ReplicatedErrors::sampled(options, common, own, |scramble, points| {
        let columns = FieldColumns::new(model.tokens(), law, options, scramble, true)?;
        Ok(averages(model.activation(), law, coupling, &columns, points))
    })
}

/// Test and clean error at the first point, the error without any perturbation, and test and clean error at
/// the second point.
fn averages(
    activation: &dyn Activation,
    law: &JointLaw,
    coupling: f64,
    columns: &FieldColumns,
    points: [&VectorOverlaps; 2],
) -> [f64; 5] {
    let tokens = columns.star.len();
    let square = tokens * tokens;
    let basis = CoordinateBasis::new(tokens, Attention::Tied, activation.unseen());
    let nodes = columns.nodes();
    let size = batch_size(tokens, tokens);
    let perturb = |logits: &mut [f64], chi: &[f64], q: f64| {
        let perturbation = Perturbation { tokens, columns: 1, frozen: &[], coupling, trace: q };
        for (chi, logits) in chi.chunks_exact(tokens).zip(logits.chunks_exact_mut(square)) {
            perturbation.add(chi, logits);
        }
    };
    let sums = sum_once(nodes / size, size, |block, sums: &mut [Lane; 5]| {
        let first = block * size;
        let [star, free] = [&columns.star, &columns.free].map(|columns| gather(columns, first, size));
        let frozen = frozen_coordinates(law, columns, first, size);
        let noisy = label_coordinates(law, columns, first, &frozen);
        let normals = gather(&columns.clean, first, size);
        let clean: Vec<f64> =
            frozen.iter().zip(&noisy).zip(normals).map(|((z, t), x)| law.noiseless(*z, *t, x)).collect();
        let still = matrices(&basis, tokens, &frozen, law.beta);
        let mut logits = [&noisy, &clean].map(|x| matrices(&basis, tokens, x, 1.0));
        for logits in &mut logits {
            perturb(logits, &star, 1.0);
        }
        let labels = logits.map(|logits| attention(activation, tokens, &logits));
        let outputs = points.map(|point| {
            let chi = combine(&star, &free, point.m, point.deviation());
            let mut logits = still.clone();
            perturb(&mut logits, &chi, point.q());
            attention(activation, tokens, &logits)
        });
        let still = attention(activation, tokens, &still);
        let [noisy, noiseless] = &labels;
        let [common, own] = &outputs;
        let pairs = [(common, noisy), (common, noiseless), (&still, noisy), (own, noisy), (own, noiseless)];
        for (sum, (x, y)) in sums.iter_mut().zip(pairs) {
            add_squared_differences(tokens, x, y, sum);
        }
    });
    sums.map(|sum| sum / nodes as f64)
}
