//! The averages over the test law: squared differences of attention, without any proximal point.

use super::fields::{frozen_coordinates, label_coordinates};
use super::layer::{LearnedColumn, PerturbedLayer};
use crate::channel::general::{CoordinateBasis, add_squared_differences, attention, batch_size};
use crate::error::Error;
use crate::fields::{FieldColumns, JointLaw};
use crate::lanes::{Lane, sum_once};
use crate::losses::batch::{gather, matrices};
use crate::losses::vector::moments::VectorOverlaps;
use crate::losses::vector::test_law::{ReplicatedErrors, ScrambleErrors, TestErrors};
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
    let layer = PerturbedLayer::of_rank_one(model, coupling);
    ReplicatedErrors::sampled(options, common, own, |scramble, points| {
        let columns = FieldColumns::new([model.tokens(); 2], law, options, scramble, true)?;
        Ok(test_averages(&layer, law, &columns, points.map(LearnedColumns::single)))
    })
}

/// The learned columns that do not vanish.
pub(crate) struct LearnedColumns {
    pub(crate) columns: Vec<LearnedColumn>,
    /// `tr q`, the centring.
    pub(crate) trace: f64,
}

impl LearnedColumns {
    fn single(point: &VectorOverlaps) -> Self {
        let column = LearnedColumn { number: 0, truth: Some(0), m: point.m, deviation: point.deviation() };
        Self { columns: vec![column], trace: point.q() }
    }
}

/// The errors at both points, over the nodes of one scramble.
pub(crate) fn test_averages(
    layer: &PerturbedLayer,
    law: &JointLaw,
    columns: &FieldColumns,
    points: [LearnedColumns; 2],
) -> ScrambleErrors {
    let (tokens, activation) = (layer.tokens, layer.activation.as_ref());
    let basis = CoordinateBasis::new(tokens, layer.attention, activation.unseen());
    let nodes = columns.nodes();
    let size = batch_size(tokens, tokens);
    let sums = sum_once(nodes / size, size, |block, sums: &mut [Lane; 7]| {
        let first = block * size;
        let [star, free] = [(&columns.star, layer.truth.len()), (&columns.free, layer.rank)]
            .map(|(normals, columns)| layer.normal_fields(normals, columns, first, size));
        let frozen = frozen_coordinates(law, columns, first, size);
        let noisy = label_coordinates(law, columns, first, &frozen);
        let normals = gather(&columns.clean, first, size);
        let clean: Vec<f64> =
            frozen.iter().zip(&noisy).zip(normals).map(|((z, t), x)| law.noiseless(*z, *t, x)).collect();
        let still = matrices(&basis, tokens, &frozen, law.beta);
        let mut logits = [&noisy, &clean].map(|x| matrices(&basis, tokens, x, 1.0));
        let before = attention(activation, tokens, &logits[0]);
        let truth = layer.true_fields(&star);
        for logits in &mut logits {
            layer.perturb(layer.truth.len(), logits, &truth, layer.true_trace());
        }
        let labels = logits.map(|logits| attention(activation, tokens, &logits));
        let outputs = points.each_ref().map(|LearnedColumns { columns, trace }| {
            let mut logits = still.clone();
            if !columns.is_empty() {
                layer.perturb(
                    columns.len(),
                    &mut logits,
                    &layer.learned_fields(columns, &star, &free),
                    *trace,
                );
            }
            attention(activation, tokens, &logits)
        });
        let still = attention(activation, tokens, &still);
        let [noisy, noiseless] = &labels;
        let [common, own] = &outputs;
        let pairs = [
            (common, noisy),
            (common, noiseless),
            (&still, noisy),
            (common, &before),
            (own, noisy),
            (own, noiseless),
            (own, &before),
        ];
        for (sum, (x, y)) in sums.iter_mut().zip(pairs) {
            add_squared_differences(tokens, x, y, sum);
        }
    });
    let [test, test_clean, frozen, forgetting, own @ ..] = sums.map(|sum| sum / nodes as f64);
    ScrambleErrors { common: TestErrors { test, test_clean, frozen, forgetting }, own }
}
