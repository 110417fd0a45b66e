//! Weak recovery by empirical risk minimisation: whether weights without any overlap are stable.
//!
//! `m = 0` is always a fixed point. With `r = vhat + 2 lambda' + 2 eta`, one undamped iteration multiplies a
//! small overlap with the truth by
//!
//! ```text
//! (vhat + alpha' E[chi*^T (dg/domega) chi*]/q0)/r,
//! ```
//!
//! where the expectation includes the jumps of the proximal point. The overlap grows if
//! `alpha' E[chi*^T (dg/domega) chi*]/q0 > 2 (lambda' + eta)`.

use serde::{Deserialize, Serialize};

use super::starts::{FinetuningStarts, FoundVector};
use super::validity::FinetuningValidity;
use crate::error::Error;
use crate::nullable::number;
use crate::roots::{self, End};
use crate::status::Status;
use crate::std_error::standard_error;
use crate::threshold::Threshold;

/// Ratio of consecutive `alpha'` in the search for a threshold.
const STRIDE: f64 = 1.5;
/// Largest number of steps of that search, in either direction.
const MAX_STRIDES: usize = 24;
/// Step in `ln alpha'` in the slope of the growth at a threshold. It is large against the jumps of the
/// averages.
const STEP: f64 = 0.02;
/// Relative accuracy of a threshold. The nodes hardly allow for more.
const ACCURACY: f64 = 1e-6;

/// The stability of the fixed point without overlap.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WeakRecovery {
    /// The factor on a small overlap in one iteration.
    #[serde(deserialize_with = "number")]
    pub growth: f64,
    /// Standard error of the growth, from independent scrambles. `None` for `T = 1`, which is solved by
    /// quadrature, and where there is no estimate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub std_error: Option<f64>,
    /// Whether a small overlap grows. The truth is then found from any start.
    pub recovers: bool,
    /// Whether replica symmetry can be trusted at that fixed point.
    pub validity: FinetuningValidity,
    /// How the solve of that fixed point ended.
    pub status: Status,
}

/// A threshold of weak recovery in `alpha'`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WeakRecoveryThreshold {
    /// `alpha'_c`: above it, an overlap grows from nothing.
    pub alpha: Threshold,
    /// The fixed point at the threshold.
    pub at: WeakRecovery,
}

impl WeakRecovery {
    fn new(found: &FoundVector) -> Self {
        let growth = found.growth();
        let mut validity = found.validity();
        let solved = found.status.is_success() || found.status == Status::NoiseLimited;
        if !solved {
            validity.distrust();
        }
        let own = found.replicates.iter().map(|(point, moments)| found.ridge.growth(point, moments));
        let std_error = standard_error(own).filter(|_| solved);
        Self { growth, std_error, recovers: growth > 1.0, validity, status: found.status }
    }
}

/// The stability at one `alpha'`.
pub(super) fn at(search: &mut FinetuningStarts<'_>, alpha: f64) -> Result<WeakRecovery, Error> {
    Ok(WeakRecovery::new(&search.without_overlap(alpha)?))
}

/// The threshold in `alpha'`, searched from `start` in both directions; `None` if there is none within a
/// factor `1e4`.
pub(super) fn threshold(
    search: &mut FinetuningStarts<'_>,
    start: f64,
) -> Result<Option<WeakRecoveryThreshold>, Error> {
    let mut excess = |log_alpha: f64| -> Result<f64, Error> { Ok(at(search, log_alpha.exp())?.growth.ln()) };
    let mut here = End { x: start.ln(), f: excess(start.ln())? };
    let towards = if here.f > 0.0 { -1.0 } else { 1.0 };
    for _ in 0..MAX_STRIDES {
        let x = here.x + towards * STRIDE.ln();
        let next = End { x, f: excess(x)? };
        if next.f.is_sign_positive() != here.f.is_sign_positive() && next.f.is_finite() && here.f.is_finite()
        {
            // The averages in between are taken on the same nodes, which did not fail before. If one fails,
            // NaN ends the search.
            let root = roots::bracketed(here, next, ACCURACY, 1.0, |x| excess(x).unwrap_or(f64::NAN));
            let slope = (excess(root + STEP)? - excess(root)?) / STEP;
            let (value, at) = (root.exp(), at(search, root.exp())?);
            // The growth at the threshold is 1, so that its error equals the error of its logarithm.
            let std_error = at.std_error.map(|error| value * error / slope.abs()).filter(|x| x.is_finite());
            let alpha = Threshold { value, std_error, status: at.status };
            return Ok(Some(WeakRecoveryThreshold { alpha, at }));
        }
        here = next;
    }
    Ok(None)
}
