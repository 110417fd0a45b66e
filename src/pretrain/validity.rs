//! When to trust the replica-symmetric treatment of pre-training: gauges, and the verdict from them. Their
//! mathematics is in `replicon.rs`.

use serde::{Deserialize, Serialize};

use crate::nullable::number;
use crate::verdict::Verdict;

// The limit 1 of the replicon is that of stability, and 0.9 leaves room for its error. In softmax attention the
// fraction of samples with several minima reaches its limits first: no setting of tests/data/verdicts_pretrain.jsonl has a
// replicon above 0.9, so that trained networks tell nothing of the limits of the replicon. Those of the fraction follow from
// two random starts of training: up to 0.001 they end in different minima in 3% of the instances at most, and
// beyond 0.001 in 9% to 81%. Up to 0.01 the trained and the predicted values still agree within four standard errors. Beyond
// 0.01 they agree as well, within errors of 2% of the overlaps, but averages become too noisy to solve for many settings.

/// Largest fraction of samples with several minima, and largest replicon, of a good and of a marginal
/// verdict.
const GOOD: [f64; 2] = [1e-3, 0.9];
const MARGINAL: [f64; 2] = [1e-2, 1.0];

/// Gauges of replica symmetry at the returned fixed point, and the verdict that follows from them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct PretrainingValidity {
    /// Fraction of the samples whose proximal problem has several minima, as far as different starts find
    /// them. The proximal points of these samples may jump, which the replicon does not take into account.
    #[serde(deserialize_with = "number")]
    pub contested: f64,
    /// The replicon `8 alpha E|dg/domega|_F^2 double-int ((f(x)-f(y))/(x-y))^2 rho rho`, without jumps.
    /// Replica symmetry is unstable if it is above 1. `None` for linear attention, whose training is convex:
    /// the replicon is then below 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicon: Option<f64>,
    /// Whether the verdict is good or marginal.
    pub reliable: bool,
    /// The verdict. It is good for linear attention. For every other activation it is good up to a replicon of 0.9
    /// and a fraction of 0.001 with several minima, and marginal up to 1 and 0.01. The limit 1 is that of
    /// stability. The limits of the fraction are calibrated by trained networks: up to 0.001 two random starts of training
    /// end in the same minimum in 97% of the instances or more, and beyond in 19% to 91%. Up to 0.01, trained
    /// and predicted values agree. No trained network had a replicon above 0.9. The verdict is unreliable in any case if
    /// the solve ended neither `converged` nor `collapsed` nor `noise_limited`.
    pub verdict: Verdict,
}

impl PretrainingValidity {
    /// The gauges of convex training, which is exact if it is `solved`.
    pub(super) fn convex(solved: bool) -> Self {
        Self::new(0.0, None, Verdict::of(solved, false))
    }

    /// The gauges of every activation that is not linear.
    pub(super) fn sampled(contested: f64, replicon: f64, solved: bool) -> Self {
        let within = |[most, largest]: [f64; 2]| solved && contested <= most && replicon <= largest;
        Self::new(contested, Some(replicon), Verdict::of(within(GOOD), within(MARGINAL)))
    }

    /// The gauges of a solve that left the finite numbers.
    pub(super) fn none() -> Self {
        Self::new(f64::NAN, None, Verdict::Unreliable)
    }

    fn new(contested: f64, replicon: Option<f64>, verdict: Verdict) -> Self {
        Self { contested, replicon, reliable: verdict.is_reliable(), verdict }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        for (contested, replicon, solved, verdict) in [
            (0.0, 0.3, true, Verdict::Good),
            (0.0, 0.95, true, Verdict::Marginal),
            (0.0, 1.01, true, Verdict::Unreliable),
            (0.005, 0.3, true, Verdict::Marginal),
            (0.02, 0.3, true, Verdict::Unreliable),
            (0.0, f64::NAN, true, Verdict::Unreliable),
            (f64::NAN, 0.3, true, Verdict::Unreliable),
            (0.0, 0.3, false, Verdict::Unreliable),
        ] {
            let validity = PretrainingValidity::sampled(contested, replicon, solved);
            assert_eq!(validity.verdict, verdict, "{validity:?}");
            assert_eq!(validity.reliable, verdict != Verdict::Unreliable);
        }
        assert_eq!(PretrainingValidity::convex(true).verdict, Verdict::Good);
        assert_eq!(PretrainingValidity::convex(false).verdict, Verdict::Unreliable);
        assert!(!PretrainingValidity::none().reliable);
    }
}
