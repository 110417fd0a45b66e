//! The averages over the test law: squared differences of attention, without any proximal point.

use super::fields::test_logits;
use super::nodes::{perturb, weights};
use crate::channel::softmax_row;
use crate::fields::{FieldColumns, JointLaw};
use crate::lanes::{LANES, Lane, sum_once};
use crate::losses::block::add_squared_difference;
use crate::losses::vector::moments::VectorOverlaps;

/// Test and clean error at the first point, the error without any perturbation, and test and clean error at
/// the second point.
pub(super) fn averages<const T: usize>(
    law: &JointLaw,
    coupling: f64,
    columns: &FieldColumns,
    points: [&VectorOverlaps; 2],
) -> [f64; 5] {
    let nodes = columns.nodes();
    let sums = sum_once(nodes / LANES, LANES, |block, sums: &mut [Lane; 5]| {
        let first = block * LANES;
        let [star, free] = weights::<T>(columns, first);
        let [frozen, mut label, mut clean] = test_logits::<T>(law, &columns.logits(), &columns.clean, first);
        perturb(&mut label, &star, 1.0, coupling);
        perturb(&mut clean, &star, 1.0, coupling);
        let outputs = points.map(|point| {
            let deviation = point.deviation();
            let mut chi = star;
            for i in 0..T {
                for l in 0..LANES {
                    chi[i][l] = point.m * star[i][l] + deviation * free[i][l];
                }
            }
            let mut logits = frozen;
            perturb(&mut logits, &chi, point.q(), coupling);
            logits
        });
        for a in 0..T {
            let [noisy, noiseless, still, common, own] =
                [&label[a], &clean[a], &frozen[a], &outputs[0][a], &outputs[1][a]].map(softmax_row);
            let pairs = [
                (&common, &noisy),
                (&common, &noiseless),
                (&still, &noisy),
                (&own, &noisy),
                (&own, &noiseless),
            ];
            for (sum, (x, y)) in sums.iter_mut().zip(pairs) {
                add_squared_difference(x, y, sum);
            }
        }
    });
    sums.map(|sum| sum / nodes as f64)
}
