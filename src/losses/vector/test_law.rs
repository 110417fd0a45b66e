//! The errors on new sequences. No proximal point is needed for them.

use crate::error::Error;
use crate::options::Options;

/// Errors on new sequences, in the units of the loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct TestErrors {
    pub(crate) test: f64,
    pub(crate) test_clean: f64,
    pub(crate) frozen: f64,
    /// The error on the task of pre-training.
    pub(crate) forgetting: f64,
}

/// The errors of one scramble at two points, of which the second is the fixed point of the scramble.
pub(crate) struct ScrambleErrors {
    /// The errors at the first point.
    pub(crate) common: TestErrors,
    /// Test error, clean error and error on the task of pre-training at the second point.
    pub(crate) own: [f64; 3],
}

/// The errors at the common fixed point, and those of every replicate at its own fixed point.
pub(crate) struct ReplicatedErrors {
    pub(crate) common: TestErrors,
    pub(crate) own: Vec<TestErrors>,
}

impl ReplicatedErrors {
    /// Averages over the nodes of the test law: each replicate has its own nodes, and the common errors are the means
    /// over all of them.
    ///
    /// `common` is the common fixed point. `own` has the fixed point of every replicate; it may be shorter
    /// than the list of replicates. `averages` gives the errors at two points, over the nodes of the scramble with the given number.
    pub(crate) fn sampled<P>(
        options: &Options,
        common: &P,
        own: &[P],
        averages: impl Fn(usize, [&P; 2]) -> Result<ScrambleErrors, Error>,
    ) -> Result<Self, Error> {
        let count = options.scrambles() as f64;
        let mut all = [0.0; 4];
        let mut errors = Vec::with_capacity(own.len());
        for index in 0..options.scrambles() {
            let own = own.get(index);
            let ScrambleErrors { common: TestErrors { test, test_clean, frozen, forgetting }, own: moved } =
                averages(index, [common, own.unwrap_or(common)])?;
            for (sum, x) in all.iter_mut().zip([test, test_clean, frozen, forgetting]) {
                *sum += x / count;
            }
            if own.is_some() {
                let [test, test_clean, forgetting] = moved;
                errors.push(TestErrors { test, test_clean, frozen, forgetting });
            }
        }
        let [test, test_clean, frozen, forgetting] = all;
        Ok(Self { common: TestErrors { test, test_clean, frozen, forgetting }, own: errors })
    }
}
