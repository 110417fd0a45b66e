//! When to trust the replica-symmetric treatment of pre-training: gauges and what they say. Their mathematics is in `replicon.rs`.

use serde::{Deserialize, Serialize};

use crate::nullable::number;
use crate::verdict::Verdict;

/// Largest fraction of samples with several minima, and largest replicon, of a good and of a marginal verdict.
const GOOD: [f64; 2] = [1e-3, 0.9];
const MARGINAL: [f64; 2] = [1e-2, 1.0];

/// Gauges of replica symmetry at the returned fixed point, and what they say.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Validity {
    /// Fraction of the samples whose proximal problem has several minima, as far as different starts find them: their proximal points may jump,
    /// and the replicon knows nothing of that.
    #[serde(deserialize_with = "number")]
    pub contested: f64,
    /// The replicon `8 alpha E|dg/domega|_F^2 double-int ((f(x)-f(y))/(x-y))^2 rho rho`, away from jumps; replica symmetry is unstable above 1.
    /// `None` for linear attention, whose training is convex: it is below 1 there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicon: Option<f64>,
    /// Whether the verdict is good or marginal.
    pub reliable: bool,
    /// The verdict. Good for linear attention. For softmax good up to a replicon of 0.9 and a fraction of 0.001 with several minima, marginal up to
    /// 1 and 0.01. The limit 1 is that of stability; the others are those of fine-tuning, where second minima are as rare in reliable
    /// settings, and no result of a calibration by trained networks. Unreliable in any case if the
    /// solve ended neither `converged` nor `collapsed` nor `noise_limited`.
    pub verdict: Verdict,
}

impl Validity {
    /// Of convex training: exact if it is `solved`.
    pub(super) fn convex(solved: bool) -> Self {
        Self::new(0.0, None, Verdict::of(solved, false))
    }

    /// Of softmax attention.
    pub(super) fn softmax(contested: f64, replicon: f64, solved: bool) -> Self {
        let within = |[most, largest]: [f64; 2]| solved && contested <= most && replicon <= largest;
        Self::new(contested, Some(replicon), Verdict::of(within(GOOD), within(MARGINAL)))
    }

    /// Of a solve that left the finite numbers.
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
            let validity = Validity::softmax(contested, replicon, solved);
            assert_eq!(validity.verdict, verdict, "{validity:?}");
            assert_eq!(validity.reliable, verdict != Verdict::Unreliable);
        }
        assert_eq!(Validity::convex(true).verdict, Verdict::Good);
        assert_eq!(Validity::convex(false).verdict, Verdict::Unreliable);
        assert!(!Validity::none().reliable);
    }
}
