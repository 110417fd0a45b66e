//! The test errors in closed form.

use crate::lora::moments::Point;
use crate::lora::report::{TestErrors, TestLaw};
use crate::observables;

/// What they depend on besides the order parameters.
pub(super) struct ClosedForm {
    pub(super) tokens: usize,
    pub(super) q0: f64,
    pub(super) delta: f64,
    /// The effective noise on new sequences.
    pub(super) noise: f64,
}

impl ClosedForm {
    fn at(&self, point: &Point) -> TestErrors {
        let (q, m) = (self.q0 * point.q(), self.q0 * point.m);
        let error = |noise, q, m| observables::linear_finetuning_error(self.tokens, noise, q, m, self.q0);
        let clean = (self.noise - 0.5 * self.delta).max(0.0);
        TestErrors {
            test: error(self.noise, q, m),
            test_clean: error(clean, q, m),
            frozen: error(self.noise, 0.0, 0.0),
        }
    }
}

impl TestLaw for ClosedForm {
    fn errors(&self, common: &Point, own: &[Point]) -> (TestErrors, Vec<TestErrors>) {
        (self.at(common), own.iter().map(|point| self.at(point)).collect())
    }
}
