//! The derivatives of the errors on new sequences.

use super::products::{add_both, add_identity, add_product, inner};
use super::shifts::FieldShifts;
use crate::activation::Evaluated;
use crate::attention::Attention;
use crate::channel::general::{CoordinateBasis, attention, batch_size};
use crate::error::Error;
use crate::fields::{FieldColumns, JointLaw};
use crate::losses::batch::{combine, gather, matrices};
use crate::losses::vector::general::{PerturbedLayer, frozen_coordinates, label_coordinates};
use crate::losses::vector::moments::VectorOverlaps;
use crate::options::Options;
use crate::parallel;

/// The derivatives of an error on new sequences, in units of `q0`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TestSlopes {
    /// Of the error of the fine-tuned layer along `eps`, `m` and `s`.
    pub(crate) tuned: [f64; 3],
    /// Of the error without a perturbation along `eps`.
    pub(crate) frozen: f64,
}

impl TestSlopes {
    /// The mean of some derivatives.
    pub(crate) fn mean(all: &[Self]) -> Self {
        let share = 1.0 / all.len() as f64;
        let mut total = Self::default();
        for own in all {
            total.tuned.iter_mut().zip(own.tuned).for_each(|(total, own)| *total += share * own);
            total.frozen += share * own.frozen;
        }
        total
    }
}

/// The derivatives of the error on new sequences with the labels of `law`, over the nodes of one scramble.
pub(crate) fn test_slopes(
    layer: &PerturbedLayer,
    law: &JointLaw,
    shifts: &FieldShifts,
    point: &VectorOverlaps,
    options: &Options,
    scramble: usize,
) -> Result<TestSlopes, Error> {
    let columns = FieldColumns::new([layer.tokens; 2], law, options, scramble, false)?;
    let size = batch_size(layer.tokens, layer.tokens);
    let batches: Vec<TestSlopes> = parallel::map(columns.nodes() / size, 1, &|batch| {
        of_batch(layer, law, shifts, point, &columns, batch * size, size)
    });
    Ok(TestSlopes::mean(&batches))
}

fn of_batch(
    layer: &PerturbedLayer,
    law: &JointLaw,
    shifts: &FieldShifts,
    point: &VectorOverlaps,
    columns: &FieldColumns,
    first: usize,
    size: usize,
) -> TestSlopes {
    let (n, activation) = (layer.tokens, layer.activation.as_ref());
    let square = n * n;
    let basis = CoordinateBasis::new(n, Attention::Tied, activation.unseen());
    let [star, free] = [&columns.star, &columns.free].map(|columns| gather(columns, first, size));
    let frozen = frozen_coordinates(law, columns, first, size);
    let target = label_coordinates(law, columns, first, &frozen);
    let observed = [&frozen, &target].map(|x| matrices(&basis, n, x, 1.0));
    let observed = [observed[0].as_slice(), observed[1].as_slice()];
    let gram = shifts.gram(observed);
    let z: Vec<f64> = observed[0].iter().map(|x| law.beta * x).collect();
    let block = layer.labelled(z, observed[1].to_vec(), star, free);
    let at_label = Evaluated { tokens: n, logits: &block.label, attention: &block.y };
    // The residual, the gradient in the logits, and the derivative of the error along eps, of every sample.
    let along_eps = |logits: &[f64], directions: &[&[f64]]| -> (Vec<f64>, f64) {
        let attention = attention(activation, n, logits);
        let residual: Vec<f64> = attention.iter().zip(&block.y).map(|(s, y)| s - y).collect();
        let twice: Vec<f64> = residual.iter().map(|r| 2.0 * r).collect();
        let mut slope = vec![0.0; logits.len()];
        activation.adjoint(&Evaluated { tokens: n, logits, attention: &attention }, &twice, &mut slope);
        let [of_frozen, of_label] = [0, 1].map(|i| shifts.shift(i, n, observed, directions));
        let mut label = vec![0.0; logits.len()];
        activation.derivative(&at_label, &of_label, &mut label);
        let mut weighted = vec![0.0; logits.len()];
        for (s, weighted) in weighted.chunks_exact_mut(square).enumerate() {
            let own = s * square..(s + 1) * square;
            add_product(n, 1.0, &residual[own.clone()], &gram[own], weighted);
        }
        let total =
            law.beta * inner(&slope, &of_frozen) - inner(&twice, &label) + inner(&residual, &weighted);
        (slope, total)
    };
    let omega = combine(&block.star, &block.free, point.m, point.deviation());
    let mut logits = block.frozen.clone();
    layer.perturb(1, &mut logits, &omega, point.q());
    let both = [block.star.as_slice(), block.free.as_slice()];
    let (slope, eps) = along_eps(&logits, if point.s2 > 0.0 { &both } else { &both[..1] });
    let mut tuned = [eps, 0.0, 0.0];
    for (s, slope) in slope.chunks_exact(square).enumerate() {
        let own = s * n..(s + 1) * n;
        for (k, (along, size)) in
            [(&block.star, point.m), (&block.free, point.deviation())].into_iter().enumerate()
        {
            let mut change = vec![0.0; square];
            add_both(layer.coupling, &along[own.clone()], &omega[own.clone()], &mut change);
            add_identity(n, -2.0 * layer.coupling * size, &mut change);
            tuned[k + 1] += inner(slope, &change);
        }
    }
    let (_, frozen) = along_eps(&block.frozen, &both[..1]);
    let share = 1.0 / size as f64;
    TestSlopes { tuned: tuned.map(|x| share * x), frozen: share * frozen }
}
