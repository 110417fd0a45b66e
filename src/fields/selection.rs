//! Active selection: the score of a sequence, the fraction of sequences that is kept, and the law of the
//! selected ones.
//!
//! The frozen logits of new sequences are isotropic Gaussians in the scored coordinates. Keeping the
//! sequences with the smallest scores conditions these Gaussians on a ball.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::attention::Attention;
use crate::channel;
use crate::error::Error;
use crate::quadrature::{chi_square_cdf, chi_square_quantile};

/// The coordinates of the frozen logits `z` that enter the score of active selection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Score {
    /// `|z|_F`, all coordinates: `T(T+1)/2` of tied attention, `T^2` of cross-attention.
    #[default]
    Frobenius,
    /// `|z - <z, u> u|_F` with `u = 11^T/T`, the direction that softmax cannot see. It is for tied attention only.
    Centred,
}

impl fmt::Display for Score {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Frobenius => "frobenius",
            Self::Centred => "centred",
        })
    }
}

/// Active selection keeps the sequences with the smallest scores among the available fresh ones.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "SelectionFields", into = "SelectionFields")]
pub struct Selection(SelectionFields);

/// A selection of the sequences with the smallest scores.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename = "Selection")]
pub(crate) struct SelectionFields {
    /// Fraction kept; above 0, at most 1.
    fraction: f64,
    /// The score.
    #[serde(default)]
    score: Score,
}

impl TryFrom<SelectionFields> for Selection {
    type Error = Error;

    fn try_from(fields: SelectionFields) -> Result<Self, Error> {
        let SelectionFields { fraction, .. } = fields;
        if fraction > 0.0 && fraction <= 1.0 {
            Ok(Self(fields))
        } else {
            Err(Error::invalid("lora.sequences.active.fraction", fraction, "in (0, 1]"))
        }
    }
}

impl From<Selection> for SelectionFields {
    fn from(Selection(fields): Selection) -> Self {
        fields
    }
}

impl Selection {
    /// Keeps the given fraction of the sequences, those with the smallest scores.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] unless the fraction is in `(0, 1]`.
    pub fn new(fraction: f64, score: Score) -> Result<Self, Error> {
        SelectionFields { fraction, score }.try_into()
    }

    /// Fraction kept, in `(0, 1]`.
    #[must_use]
    pub fn fraction(&self) -> f64 {
        self.0.fraction
    }

    /// The score.
    #[must_use]
    pub fn score(&self) -> Score {
        self.0.score
    }
}

impl Score {
    /// Number of coordinates of the logits that enter the score.
    pub(super) fn coordinates(self, attention: Attention, tokens: usize) -> usize {
        match self {
            Self::Frobenius => attention.coordinates(tokens),
            Self::Centred => attention.coordinates(tokens) - 1,
        }
    }

    /// Turns independent standard normals into a sample conditioned on the ball of probability `fraction` in
    /// the scored coordinates. The direction of the sample is kept, and the radius is mapped by its quantile. The centred score is
    /// that of tied attention.
    pub(crate) fn condition(self, attention: Attention, tokens: usize, fraction: f64, z: &mut [f64]) {
        let flat = match self {
            Self::Frobenius => 0.0,
            Self::Centred => z.iter().enumerate().map(|(k, x)| x * channel::flat_direction(tokens, k)).sum(),
        };
        let radius2: f64 = z.iter().map(|x| x * x).sum::<f64>() - flat * flat;
        let scale = self.shrinkage(attention, tokens, fraction, radius2);
        for (k, x) in z.iter_mut().enumerate() {
            let across = if flat == 0.0 { 0.0 } else { flat * channel::flat_direction(tokens, k) };
            *x = scale * (*x - across) + across;
        }
    }

    /// The factor that conditions a standard Gaussian sample on the ball of probability `fraction` in the
    /// scored coordinates. It multiplies these coordinates, whose squared norm is `radius2`.
    pub(super) fn shrinkage(self, attention: Attention, tokens: usize, fraction: f64, radius2: f64) -> f64 {
        if radius2 <= 0.0 {
            return 1.0;
        }
        let degrees = self.coordinates(attention, tokens);
        (chi_square_quantile(degrees, fraction * chi_square_cdf(degrees, radius2)) / radius2).sqrt()
    }
}
