//! How the layer is pre-trained: the amount of data, the ridge, and the width of the student.

use serde::{Deserialize, Serialize};

use crate::check;
use crate::error::Error;

/// How the layer is pre-trained.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Training {
    /// Number of sequences over `D^2`; > 0.
    pub alpha: f64,
    /// Ridge on `|W|_F^2`; >= 0, and 0 only above the interpolation threshold.
    pub lambda: f64,
    /// Width of the student, `P/D`; > 0. Below 1, the learned rank fraction must fit.
    #[serde(default = "full_width")]
    pub kappa: f64,
}

fn full_width() -> f64 {
    1.0
}

impl Training {
    /// `alpha D^2` sequences, ridge `lambda`, and a student of full width (`kappa = 1`).
    #[must_use]
    pub fn new(alpha: f64, lambda: f64) -> Self {
        Self { alpha, lambda, kappa: 1.0 }
    }

    /// Checks every field by itself.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] names the first field that is out of range.
    pub fn validate(&self) -> Result<(), Error> {
        check::positive("pretrain.alpha", self.alpha)?;
        check::non_negative("pretrain.lambda", self.lambda)?;
        check::positive("pretrain.kappa", self.kappa)
    }
}
