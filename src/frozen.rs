//! The frozen weights as fine-tuning sees them. Neither stage owns them: pre-training makes them, fine-tuning takes them.

use serde::{Deserialize, Serialize};

use crate::check;
use crate::error::{Error, Number};
use crate::observables::{self, WeightOverlaps};

/// What fine-tuning sees of the frozen weights: the overlaps that fix the joint law of the true logits `h*` and the frozen
/// logits `h`, `N(0, 2 [[Q0, M], [M, Q]])` per orthonormal coordinate on new sequences.
///
/// Made by [`pretrain::Solution::freeze`](crate::pretrain::Solution::freeze), or by hand from measured overlaps, see [`Frozen::new`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Frozen {
    /// `Q0 = |S*|_F^2/D^2` of the true weights; > 0.
    pub q0: f64,
    /// `Q = |S-hat|_F^2/D^2` of the frozen weights, before recalibration; >= 0.
    pub q: f64,
    /// `M = Tr(S-hat S*)/D^2`; `0 <= M <= sqrt(Q Q0)`.
    pub m: f64,
    /// `V >= 0`, the linear response of the pre-training. It matters on reused sequences only, and must be given there: 0 for frozen
    /// weights that do not know those sequences.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v: Option<f64>,
}

impl Frozen {
    /// Frozen weights with the given overlaps, for fine-tuning on fresh or selected sequences.
    #[must_use]
    pub const fn new(q0: f64, q: f64, m: f64) -> Self {
        Self { q0, q, m, v: None }
    }

    /// The same, with the linear response `V` of the pre-training, as fine-tuning on reused sequences needs it.
    #[must_use]
    pub const fn with_response(self, v: f64) -> Self {
        Self { v: Some(v), ..self }
    }

    /// Checks every field.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] names the first field that is out of range.
    pub fn validate(&self) -> Result<(), Error> {
        check::positive("frozen.q0", self.q0)?;
        check::non_negative("frozen.q", self.q)?;
        check::non_negative("frozen.m", self.m)?;
        if let Some(v) = self.v {
            check::non_negative("frozen.v", v)?;
        }
        // Overlaps of a solved pre-training, or typed in with all their digits, may touch the bound.
        let bound = observables::largest_overlap(self.q, self.q0);
        if !observables::is_possible(self.m, bound) {
            return Err(Error::invalid("frozen.m", self.m, format!("<= sqrt(q q0) = {}", Number(bound))));
        }
        Ok(())
    }

    /// `Q0, Q, M`.
    #[must_use]
    pub fn overlaps(&self) -> WeightOverlaps {
        let Self { q0, q, m, .. } = *self;
        WeightOverlaps { q0, q, m }
    }

    /// The law of the true logits, given the frozen ones.
    pub(crate) fn true_logits(&self) -> TrueLogits {
        let slope = if self.q > 0.0 { self.m / self.q } else { 0.0 };
        // Rounding, of overlaps typed in with all their digits, may leave more than there is.
        let known = (self.m * slope).min(self.q0);
        TrueLogits { slope, known, unknown: self.q0 - known }
    }
}

/// The law of the true logits `h*` on new sequences, given the frozen logits `h`: `N(slope h, 2 unknown)` per orthonormal coordinate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct TrueLogits {
    /// `M/Q`; 0 without frozen weights.
    pub(crate) slope: f64,
    /// `M^2/Q`, the part of `Q0` that the frozen weights explain.
    pub(crate) known: f64,
    /// `Q0 - M^2/Q`, the rest.
    pub(crate) unknown: f64,
}
