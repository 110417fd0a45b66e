//! The test errors in closed form.

use crate::attention::Attention;
use crate::losses::vector::moments::VectorOverlaps;
use crate::losses::vector::test_law::{ReplicatedErrors, TestErrors};
use crate::observables::{self, WeightOverlaps};

/// The parameters of the test errors besides the order parameters. The label noise is a separate field, so
/// that the clean error is never computed as a difference.
pub(crate) struct ClosedForm {
    pub(crate) attention: Attention,
    pub(crate) tokens: usize,
    pub(crate) q0: f64,
    pub(crate) delta: f64,
    /// The part of the noiseless label on new sequences that the frozen weights leave unexplained.
    pub(crate) unexplained: f64,
}

impl ClosedForm {
    fn at(&self, point: &VectorOverlaps) -> TestErrors {
        let Self { tokens, q0, unexplained, .. } = *self;
        let noisy = self.delta / self.attention.logit_variance() + unexplained;
        let error = |noise, weights| match self.attention {
            Attention::Tied => observables::linear_finetuning_error(tokens, noise, &weights),
            Attention::Cross => observables::linear_cross_finetuning_error(noise, &weights),
        };
        let tuned = WeightOverlaps { q0, q: q0 * point.q(), m: q0 * point.m };
        let untuned = WeightOverlaps { q0, q: 0.0, m: 0.0 };
        TestErrors {
            test: error(noisy, tuned),
            test_clean: error(unexplained, tuned),
            frozen: error(noisy, untuned),
            // The labels of pre-training have no perturbation.
            forgetting: error(noisy, WeightOverlaps { q0: 0.0, q: tuned.q, m: 0.0 }),
        }
    }

    /// The errors at the common fixed point, and at that of every replicate.
    pub(crate) fn errors(&self, common: &VectorOverlaps, own: &[VectorOverlaps]) -> ReplicatedErrors {
        let own = own.iter().map(|point| self.at(point)).collect();
        ReplicatedErrors { common: self.at(common), own }
    }
}
