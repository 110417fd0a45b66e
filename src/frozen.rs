//! The frozen weights as fine-tuning uses them. Neither stage owns them: pre-training makes them, and
//! fine-tuning takes them.

use serde::{Deserialize, Serialize};

use crate::attention::Attention;
use crate::check;
use crate::error::{Error, Number};
use crate::observables::{self, WeightOverlaps};

/// The overlaps of the frozen weights. They fix the joint law of the true logits `h*` and the frozen logits
/// `h` on new sequences, `N(0, 2 [[Q0, M], [M, Q]])` per orthonormal coordinate, or `N(0, [[Q0, M], [M, Q]])` in each of
/// the `T^2` coordinates of cross-attention (see [`Attention`]). A value of this type always has possible overlaps.
///
/// Frozen weights are made by [`pretrain::Solution::freeze`](crate::pretrain::Solution::freeze), or by hand
/// from measured overlaps with [`Frozen::new`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "FrozenFields", into = "FrozenFields")]
pub struct Frozen(FrozenFields);

/// Frozen weights as they are read and written.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename = "Frozen")]
pub(crate) struct FrozenFields {
    q0: f64,
    q: f64,
    m: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    v: Option<f64>,
    /// `None` where nothing was said, and for tied attention.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    attention: Option<Attention>,
}

impl FrozenFields {
    /// Takes the attention of the model, unless the fields have their own.
    #[cfg(feature = "scenario")]
    pub(crate) fn of_model(self, attention: Attention) -> Self {
        Self { attention: self.attention.or(Some(attention)), ..self }
    }
}

impl TryFrom<FrozenFields> for Frozen {
    type Error = Error;

    fn try_from(fields: FrozenFields) -> Result<Self, Error> {
        let FrozenFields { q0, q, m, v, .. } = fields;
        check::positive("frozen.q0", q0)?;
        check::non_negative("frozen.q", q)?;
        check::non_negative("frozen.m", m)?;
        if let Some(v) = v {
            check::non_negative("frozen.v", v)?;
        }
        // The overlaps of a solved pre-training, or overlaps typed in with all their digits, may be at the
        // bound.
        let bound = observables::largest_overlap(q, q0);
        if !observables::is_possible(m, bound) {
            return Err(Error::invalid("frozen.m", m, format!("<= sqrt(q q0) = {}", Number(bound))));
        }
        Ok(Self(FrozenFields {
            attention: fields.attention.filter(|attention| !attention.is_tied()),
            ..fields
        }))
    }
}

impl From<Frozen> for FrozenFields {
    fn from(Frozen(fields): Frozen) -> Self {
        fields
    }
}

impl Frozen {
    /// Frozen weights with the given overlaps, for fine-tuning on fresh or selected sequences. They are those of tied
    /// attention, until [`Frozen::with_attention`] says otherwise.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] unless `q0 > 0`, `q >= 0` and `0 <= m <= sqrt(q q0)`, all of them finite.
    pub fn new(q0: f64, q: f64, m: f64) -> Result<Self, Error> {
        FrozenFields { q0, q, m, v: None, attention: None }.try_into()
    }

    /// Sets the linear response `V` of the pre-training, which fine-tuning on reused sequences needs. It is 0
    /// for frozen weights that do not know those sequences.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] unless `v` is finite and >= 0.
    pub fn with_response(self, v: f64) -> Result<Self, Error> {
        FrozenFields { v: Some(v), ..self.0 }.try_into()
    }

    /// The same overlaps as those of another kind of attention, which tells what the variance of a logit is.
    #[must_use]
    pub fn with_attention(self, attention: Attention) -> Self {
        Self(FrozenFields { attention: Some(attention).filter(|attention| !attention.is_tied()), ..self.0 })
    }

    /// Whose attention the overlaps describe.
    #[must_use]
    pub fn attention(&self) -> Attention {
        self.0.attention.unwrap_or_default()
    }

    /// `Q0 = |S*|_F^2/D^2` of the true weights; > 0.
    #[must_use]
    pub fn q0(&self) -> f64 {
        self.0.q0
    }

    /// `Q = |S-hat|_F^2/D^2` of the frozen weights, before recalibration; >= 0.
    #[must_use]
    pub fn q(&self) -> f64 {
        self.0.q
    }

    /// `M = Tr(S-hat^T S*)/D^2`; `0 <= M <= sqrt(Q Q0)`.
    #[must_use]
    pub fn m(&self) -> f64 {
        self.0.m
    }

    /// `V >= 0`, the linear response of the pre-training, if it is known. It matters on reused sequences only.
    #[must_use]
    pub fn v(&self) -> Option<f64> {
        self.0.v
    }

    /// The overlaps `[Q0, Q, M]`.
    #[must_use]
    pub fn overlaps(&self) -> WeightOverlaps {
        let FrozenFields { q0, q, m, .. } = self.0;
        WeightOverlaps { q0, q, m }
    }

    /// The law of the true logits, given the frozen ones.
    pub(crate) fn true_logits(&self) -> TrueLogits {
        let FrozenFields { q0, q, m, .. } = self.0;
        let slope = if q > 0.0 { m / q } else { 0.0 };
        // The overlaps may be typed in with all their digits, and rounding may then make the known part
        // larger than Q0.
        let known = (m * slope).min(q0);
        TrueLogits { slope, known, unknown: q0 - known }
    }
}

/// The law of the true logits `h*` on new sequences, given the frozen logits `h`: `N(slope h, c unknown)` per orthonormal coordinate, with
/// `c` the variance of a logit in units of `Q` ([`Attention::logit_variance`]).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct TrueLogits {
    /// The slope `M/Q`; 0 without frozen weights.
    pub(crate) slope: f64,
    /// The part `M^2/Q` of `Q0` that the frozen weights explain.
    pub(crate) known: f64,
    /// The part `Q0 - M^2/Q` of `Q0` that the frozen weights do not explain.
    pub(crate) unknown: f64,
}
