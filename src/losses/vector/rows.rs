//! The errors of softmax on new sequences, as means over one row of the logits.

use crate::channel::{NormalPair, PerturbedPair, RowColumns};
use crate::error::Error;
use crate::fields::JointLaw;
use crate::losses::vector::moments::VectorOverlaps;
use crate::losses::vector::test_law::ReplicatedErrors;
use crate::options::Options;

/// The errors for 2 to 8 tokens. `coupling` is the inverse temperature times `q0`.
pub(crate) fn test_errors(
    tokens: usize,
    law: &JointLaw,
    coupling: f64,
    options: &Options,
    common: &VectorOverlaps,
    own: &[VectorOverlaps],
) -> Result<ReplicatedErrors, Error> {
    let [noisy, clean] = law.new_sequences();
    ReplicatedErrors::sampled(options, common, own, |scramble, [first, second]| {
        let mut columns = None;
        let mut error = |logits: NormalPair, q: f64, m: f64| {
            let chi = NormalPair { variances: [q, 1.0], covariance: m };
            let pair = PerturbedPair { logits, chi, coupling };
            if let Some(error) = pair.by_quadrature(tokens) {
                return Ok(error);
            }
            if columns.is_none() {
                columns = Some(RowColumns::new(tokens, true, options, scramble)?);
            }
            columns.as_ref().map_or(Ok(f64::NAN), |columns| pair.mean(tokens, columns))
        };
        Ok([
            error(noisy, first.q(), first.m)?,
            error(clean, first.q(), first.m)?,
            error(noisy, 0.0, 0.0)?,
            error(noisy, second.q(), second.m)?,
            error(clean, second.q(), second.m)?,
        ])
    })
}
