//! How the layer is pre-trained: the amount of data, the ridge, and what is trained: factors of some width, or the weights themselves.

use serde::{Deserialize, Serialize};

use crate::check;
use crate::error::Error;

/// What the parameters of training are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Parametrisation {
    /// Factors of the weights, `S = P^{-1/2} W W^T` with the ridge `lambda |W|_F^2`, which is a nuclear norm of `S` at its minimum over the
    /// factors (in cross-attention, `S = P^{-1/2} U V^T` with a ridge on both).
    #[default]
    Factorised,
    /// The weights `S` themselves, with the ridge `lambda |S|_F^2`: any symmetric matrix, or in cross-attention any matrix. Beyond the paper.
    Direct,
}

impl Parametrisation {
    /// Whether this is the default.
    fn is_factorised(&self) -> bool {
        *self == Self::Factorised
    }
}

/// How the layer is pre-trained. Every value of this type is valid by itself; whether the ridge may be 0
/// depends on the model.
///
/// ```
/// use lora_asymptotics::pretrain::Training;
///
/// let training = Training::new(0.2, 0.1)?.with_width(0.5)?;
/// assert_eq!((training.alpha(), training.lambda(), training.kappa()), (0.2, Some(0.1), 0.5));
/// assert!(Training::new(0.2, -0.1).is_err());
/// # Ok::<(), lora_asymptotics::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "PretrainFields")]
pub struct Pretraining {
    alpha: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    lambda: Option<f64>,
    /// Direct training has no width.
    #[serde(rename = "kappa", skip_serializing_if = "Option::is_none")]
    width: Option<f64>,
    #[serde(skip_serializing_if = "Parametrisation::is_factorised")]
    parametrisation: Parametrisation,
}

/// How the layer is pre-trained: the amount of data, the ridge, and the width of the student.
#[derive(Debug, Clone, Copy, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename = "Training")]
#[cfg_attr(feature = "schema", schemars(rename = "Pretraining"))]
pub(crate) struct PretrainFields {
    /// Number of sequences over `D^2`; > 0.
    alpha: f64,
    /// Ridge; >= 0. Empirical risk minimisation needs it, and the Bayes-optimal estimator refuses it.
    #[serde(default)]
    lambda: Option<f64>,
    /// Width of the student over `D`; > 0, and 1 if it is left out. Direct training has none.
    #[serde(default)]
    kappa: Option<f64>,
    /// Which parameters the ridge shrinks.
    #[serde(default)]
    parametrisation: Parametrisation,
}

/// The width of a student that can learn every matrix.
const FULL_WIDTH: f64 = 1.0;

impl TryFrom<PretrainFields> for Pretraining {
    type Error = Error;

    fn try_from(fields: PretrainFields) -> Result<Self, Error> {
        let PretrainFields { alpha, lambda, kappa, parametrisation } = fields;
        let mut training = Self::without_ridge(alpha)?;
        if let Some(lambda) = lambda {
            training = training.with_lambda(lambda)?;
        }
        if parametrisation == Parametrisation::Direct {
            training = training.direct();
        }
        match kappa {
            Some(kappa) => training.with_width(kappa),
            None => Ok(training),
        }
    }
}

impl Pretraining {
    /// `alpha D^2` sequences, ridge `lambda`, and a student of full width (`kappa = 1`).
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] unless `alpha` is finite and > 0, and `lambda` finite and >= 0.
    pub fn new(alpha: f64, lambda: f64) -> Result<Self, Error> {
        Self::without_ridge(alpha)?.with_lambda(lambda)
    }

    /// A training on `alpha D^2` sequences without a ridge, for results that do not depend on it: the
    /// Bayes-optimal estimator, and the threshold of collapse.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] unless `alpha` is finite and > 0.
    pub fn without_ridge(alpha: f64) -> Result<Self, Error> {
        check::positive("pretrain.alpha", alpha)?;
        let (width, parametrisation) = (Some(FULL_WIDTH), Parametrisation::Factorised);
        Ok(Self { alpha, lambda: None, width, parametrisation })
    }

    /// The same training on another number of sequences.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] unless `alpha` is finite and > 0.
    pub fn with_alpha(self, alpha: f64) -> Result<Self, Error> {
        check::positive("pretrain.alpha", alpha)?;
        Ok(Self { alpha, ..self })
    }

    /// The same training with another ridge.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] unless `lambda` is finite and >= 0.
    pub fn with_lambda(self, lambda: f64) -> Result<Self, Error> {
        check::non_negative("pretrain.lambda", lambda)?;
        Ok(Self { lambda: Some(lambda), ..self })
    }

    /// The same training of a student of width `kappa D`.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] unless `kappa` is finite and > 0; [`Error::Conflict`] for [direct](Self::direct) training, which has no
    /// width.
    pub fn with_width(self, kappa: f64) -> Result<Self, Error> {
        check::positive("pretrain.kappa", kappa)?;
        self.require_factors("pretrain.kappa")?;
        Ok(Self { width: Some(kappa), ..self })
    }

    /// The same training of the weights `S` themselves, with the ridge `lambda |S|_F^2` (see [`Parametrisation::Direct`]). The width is
    /// dropped, because there is no factor that could have one.
    #[must_use]
    pub fn direct(self) -> Self {
        Self { width: None, parametrisation: Parametrisation::Direct, ..self }
    }

    /// Number of sequences over `D^2`; > 0.
    #[must_use]
    pub fn alpha(&self) -> f64 {
        self.alpha
    }

    /// Ridge on `|W|_F^2`, or on `|S|_F^2` in direct training; >= 0, and 0 only above the interpolation threshold. Empirical risk minimisation
    /// requires it, and the Bayes-optimal estimator refuses it.
    #[must_use]
    pub fn lambda(&self) -> Option<f64> {
        self.lambda
    }

    /// Width of the student, `P/D`; > 0. If it is below 1, the learned rank fraction must not exceed it. The
    /// Bayes-optimal estimator does not use it. It is 1 in direct training, which can learn every matrix.
    #[must_use]
    pub fn kappa(&self) -> f64 {
        self.width.unwrap_or(FULL_WIDTH)
    }

    /// What the parameters of the training are.
    #[must_use]
    pub fn parametrisation(&self) -> Parametrisation {
        self.parametrisation
    }

    /// Refuses direct training for something that only factors have.
    pub(crate) fn require_factors(&self, field: &'static str) -> Result<(), Error> {
        match self.parametrisation {
            Parametrisation::Factorised => Ok(()),
            Parametrisation::Direct => {
                Err(Error::Conflict { field, with: "pretrain.parametrisation = direct" })
            }
        }
    }

    /// The ridge, for a solver that needs one. A missing ridge is an error.
    pub(crate) fn require_ridge(&self) -> Result<f64, Error> {
        check::ridge("pretrain.lambda", self.lambda)
    }

    /// The ridge, for a solver that has required one already, or whose answer does not depend on it.
    pub(crate) fn ridge(&self) -> f64 {
        self.lambda.unwrap_or(0.0)
    }
}
