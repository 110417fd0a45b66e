//! The errors on new sequences: averages over the test law, without any proximal point.

use super::fields::Fields;
use super::nodes::{Columns, perturb};
use crate::channel::softmax_row;
use crate::error::Error;
use crate::lanes::{LANES, Lane, sum_once};
use crate::lora::moments::Point;
use crate::lora::report::{TestErrors, TestLaw};
use crate::options::Options;

/// The errors at every replicate's own fixed point and at the common one, each by the nodes of the replicate.
pub(super) struct TestAverages {
    common: TestErrors,
    own: Vec<TestErrors>,
}

impl TestAverages {
    /// `common` is the common fixed point. `own` has the fixed point of every replicate; it may be shorter
    /// than the list of replicates.
    pub(super) fn new<const T: usize>(
        fields: &Fields,
        coupling: f64,
        options: &Options,
        common: &Point,
        own: &[Point],
    ) -> Result<Self, Error> {
        let count = options.scrambles() as f64;
        let mut all = [0.0; 3];
        let mut errors = Vec::with_capacity(own.len());
        for index in 0..options.scrambles() {
            let columns = Columns::new(T, fields, options, index, true)?;
            let own = own.get(index);
            let [test, test_clean, frozen, own_test, own_clean] =
                averages::<T>(fields, coupling, &columns, [common, own.unwrap_or(common)]);
            for (sum, x) in all.iter_mut().zip([test, test_clean, frozen]) {
                *sum += x / count;
            }
            if own.is_some() {
                errors.push(TestErrors { test: own_test, test_clean: own_clean, frozen });
            }
        }
        let [test, test_clean, frozen] = all;
        Ok(Self { common: TestErrors { test, test_clean, frozen }, own: errors })
    }
}

impl TestLaw for TestAverages {
    fn errors(&self, _common: &Point, _own: &[Point]) -> (TestErrors, Vec<TestErrors>) {
        (self.common, self.own.clone())
    }
}

/// Test and clean error at the first point, the error without any perturbation, and test and clean error at
/// the second point.
fn averages<const T: usize>(
    fields: &Fields,
    coupling: f64,
    columns: &Columns,
    points: [&Point; 2],
) -> [f64; 5] {
    let nodes = columns.nodes();
    let sums = sum_once(nodes / LANES, |block, sums: &mut [Lane; 5]| {
        let first = block * LANES;
        let [star, free] = columns.weights::<T>(first);
        let [frozen, mut label, mut clean] = fields.test::<T>(&columns.logits(), &columns.clean, first);
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
                for b in 0..T {
                    for l in 0..LANES {
                        sum[l] += (x[b][l] - y[b][l]).powi(2);
                    }
                }
            }
        }
    });
    sums.map(|sum| sum / nodes as f64)
}
