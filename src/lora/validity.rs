//! When to trust replica symmetry: practical gauges, calibrated on finite-size simulation.

use serde::{Deserialize, Serialize};

#[cfg(feature = "scenario")]
use super::bayes::FinetuningBayesSolution;
use crate::nullable::number;
use crate::verdict::Verdict;

// The limits are practical ones. They were calibrated by training networks at D = 300 to 400, and tests/verdicts.rs
// compares them with 61 settings of tests/data/verdicts_lora.jsonl (the table is in docs/verdicts.md). Up to the limits of
// a good verdict, all predictions agree with training within four standard errors. Up to those of a marginal verdict, the
// alignment is off by 0.04 at most. All predictions that are off by more are beyond. Forty more settings, trained afterwards, support
// the limits (gallery/examples/verdicts.rs): the one marginal alignment that is off by more, by 0.065, is so by 1.7 standard errors.

/// Largest share of the jumps `J` of a good and of a marginal verdict, for linear attention.
const LARGEST_JUMP: [f64; 2] = [0.02, 0.13];
/// Largest replicon of a good and of a marginal verdict, for sampled activations.
const LARGEST_REPLICON: [f64; 2] = [0.9, 1.2];
/// Smallest ratio of `vhat` to its pointwise value of a good and of a marginal verdict, for sampled activations.
const SMALLEST_RATIO: [f64; 2] = [0.95, 0.9];

/// Largest replicon, and smallest ratio of `vhat` to its pointwise value, of a good and of a marginal verdict for two factors. In trainings
/// of 24 settings at D = 300 to 450, all predictions up to a replicon of 0.61 and a ratio of 0.99 agreed with training (root mean square of z
/// 1.1); in those with a replicon of 0.7 to 1 or a ratio of 0.95 to 0.985 the alignment was off by 2 to 8%, and by more beyond.
const LARGEST_REPLICON_OF_FACTORS: [f64; 2] = [0.65, 1.0];
/// See [`LARGEST_REPLICON_OF_FACTORS`].
const SMALLEST_RATIO_OF_FACTORS: [f64; 2] = [0.985, 0.95];

/// Gauges of replica symmetry at the returned fixed point, and the verdict that follows from them.
///
/// The proximal operator jumps, so that the replicon is formally infinite. The gauges below are therefore
/// practical ones.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct FinetuningValidity {
    /// `J = alpha' (jump part of div_omega g)/|vhat|`: the share of the response that comes from jumps.
    #[serde(deserialize_with = "number")]
    pub jump: f64,
    /// `alpha' v^2 E|dg/domega|_F^2`, the replicon without the jumps.
    #[serde(deserialize_with = "number")]
    pub replicon: f64,
    /// Whether the verdict is good or marginal.
    pub reliable: bool,
    /// The verdict. For linear attention it follows from `J`: good up to 0.02, marginal up to 0.13. For
    /// every other activation it follows from the replicon and from `1/(1 + J)`, the ratio of `vhat` to its
    /// pointwise value. It is good if the replicon is at most 0.9 and the ratio at least 0.95, and marginal
    /// if the replicon is at most 1.2 and the ratio at least 0.9. It is unreliable in any case if the solve
    /// ended neither `converged` nor `collapsed` nor `noise_limited`. For linear attention it is also
    /// unreliable if there are jumps and `vhat` is not positive, which happens where the ridge has all but
    /// suppressed the weights. For two factors (cross-attention), it follows from the replicon and the ratio for every activation: good if the
    /// replicon is at most 0.65 and the ratio at least 0.985, marginal if the replicon is at most 1 and the ratio at least 0.95. Their `J` is at
    /// most a hundred times the share of the samples with two minima. Linear attention with two factors is unreliable, whatever the gauges, for one token
    /// at `alpha' < 8`, and where all columns vanish at `alpha' T^2 < 6`: rare samples decide there.
    pub verdict: Verdict,
    /// Whether the alignment is above that of the information-theoretic branch of the Bayes-optimal bound, by
    /// more than four standard errors. No estimator can exceed that bound, so that replica symmetry does not
    /// hold in this case, whatever the verdict. `None` if the bound was not asked for, or if one of the two
    /// has no alignment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub above_bound: Option<bool>,
}

impl FinetuningValidity {
    /// Marks the solution as unreliable, whatever the gauges say.
    pub(super) fn distrust(&mut self) {
        self.verdict = Verdict::Unreliable;
        self.reliable = false;
    }

    /// Erases the gauges, for a solve that left the finite numbers.
    pub(super) fn erase(&mut self) {
        self.distrust();
        self.jump = f64::NAN;
        self.replicon = f64::NAN;
    }

    /// Records whether the alignment is above the bound. The verdict does not change.
    #[cfg(feature = "scenario")]
    pub(crate) fn compare_with_bound(
        &mut self,
        alignment: f64,
        std_error: Option<f64>,
        bound: &FinetuningBayesSolution,
    ) {
        let allowance = 4.0 * std_error.unwrap_or(0.0).hypot(bound.std_error.alignment.unwrap_or(0.0)) + 1e-9;
        let excess = alignment - bound.branches.information_theoretic.alignment;
        self.above_bound = (!excess.is_nan()).then_some(excess > allowance);
    }

    /// The verdict for linear attention; `responds` if `vhat > 0`.
    pub(super) fn linear(jump: f64, replicon: f64, responds: bool) -> Self {
        let [good, marginal] = LARGEST_JUMP.map(|limit| jump <= limit);
        Self::judge(jump, replicon, responds, good, marginal)
    }

    /// The verdict for every activation that is not linear.
    pub(super) fn sampled(jump: f64, replicon: f64) -> Self {
        // The ratio is vhat over its pointwise value. Both may be negative near collapse. If they have
        // opposite signs, jump > 1.
        let ratio = 1.0 / (1.0 + jump);
        let [good, marginal] = [0, 1].map(|i| replicon <= LARGEST_REPLICON[i] && ratio >= SMALLEST_RATIO[i]);
        Self::judge(jump, replicon, true, good, marginal)
    }

    /// The verdict for several columns: that of the gauges of [`Self::sampled`], and for linear attention also that of
    /// [`Self::linear`], for which `responds` tells whether `vhat > 0` in all columns. A column in excess of the truth fits
    /// noise, and only the replicon tells.
    pub(super) fn of_columns(jump: f64, replicon: f64, responds: Option<bool>) -> Self {
        let sampled = Self::sampled(jump, replicon);
        match responds.map(|responds| Self::linear(jump, replicon, responds)) {
            Some(linear) if linear.verdict > sampled.verdict => linear,
            _ => sampled,
        }
    }

    /// The verdict for two factors, whose limits are their own.
    pub(super) fn of_factors(jump: f64, replicon: f64) -> Self {
        let ratio = 1.0 / (1.0 + jump);
        let within =
            |i: usize| replicon <= LARGEST_REPLICON_OF_FACTORS[i] && ratio >= SMALLEST_RATIO_OF_FACTORS[i];
        Self::judge(jump, replicon, true, within(0), within(1))
    }

    fn judge(jump: f64, replicon: f64, responds: bool, good: bool, marginal: bool) -> Self {
        let measured = responds || jump <= 0.0;
        let verdict = Verdict::of(measured && good, measured && marginal);
        Self { jump, replicon, reliable: verdict.is_reliable(), verdict, above_bound: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lora::{Frozen, bayes_optimal};
    use crate::{Model, Options};

    #[test]
    fn more_than_anyone_can_know_is_told_beside_the_verdict() {
        let frozen = Frozen::new(1.0, 1.0, 1.0).unwrap();
        let options = Options::default().with_log2_nodes(8).unwrap();
        let bound = bayes_optimal(&Model::linear(2, 0.4).unwrap(), &frozen, 0.6, 1.0, &options).unwrap();
        let error = bound.std_error.alignment.unwrap();
        for (excess, std_error, above) in [
            (-0.1, None, Some(false)),
            (3.0 * error, None, Some(false)),
            (5.0 * error, None, Some(true)),
            (5.0 * error, Some(3.0 * error), Some(false)),
            (f64::NAN, None, None),
        ] {
            let mut validity = FinetuningValidity::linear(0.0, 0.3, true);
            validity.compare_with_bound(bound.alignment + excess, std_error, &bound);
            assert_eq!(validity.above_bound, above, "{excess}");
            assert_eq!((validity.verdict, validity.reliable), (Verdict::Good, true));
        }
    }
}
