//! What is fixed before any training: the attention layer, its activation, the noise and the teacher.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::channel;
use crate::check;
use crate::error::Error;
use crate::spectrum::{Discrete, TeacherSpectrum, Wishart};

/// The attention non-linearity `sigma` that acts on the centred logits `h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Activation {
    /// `sigma(h) = h / T`.
    Linear,
    /// Row-wise softmax of the logits, `sigma(h)_ab = exp(b h_ab) / sum_c exp(b h_ac)` with inverse temperature `b`.
    Softmax,
}

impl fmt::Display for Activation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Linear => "linear",
            Self::Softmax => "softmax",
        })
    }
}

/// The law of the teacher's spectrum `s* = S*/sqrt(D)`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Teacher {
    /// `S* = P0^{-1/2} W* W*^T` with `W*` a `D x P0` standard Gaussian matrix, `P0 = kappa0 D`.
    Wishart {
        /// Width of the teacher, `kappa0 = P0/D`, in [`Wishart::WIDTHS`] (1e-5 to 1e6).
        kappa0: f64,
    },
    /// A list of eigenvalues of `s*`, in any order, each of the same weight: those of a measured matrix, for example.
    Spectrum {
        /// 1 to 10,000 numbers, finite and >= 0, not all of them 0. They fix `Q0` and `tr s*`: nothing is rescaled.
        eigenvalues: Vec<f64>,
    },
    /// Eigenvalues `s_i` proportional to `i^(-exponent)`, `i = 1, ..., dimension`, scaled to `Q0 = 1`.
    PowerLaw {
        /// Decay of the spectrum; 0 to 100.
        exponent: f64,
        /// Number of eigenvalues; 1 to 10,000.
        dimension: usize,
    },
}

impl Teacher {
    /// The spectrum of this teacher, behind the trait that the solvers use.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] if a parameter is out of range (see [`Wishart::new`], [`Discrete::new`],
    /// [`Discrete::power_law`]).
    pub fn spectrum(&self) -> Result<Box<dyn TeacherSpectrum>, Error> {
        Ok(match self {
            Self::Wishart { kappa0 } => Box::new(Wishart::new(*kappa0)?),
            Self::Spectrum { eigenvalues } => Box::new(Discrete::new(eigenvalues)?),
            Self::PowerLaw { exponent, dimension } => Box::new(Discrete::power_law(*exponent, *dimension)?),
        })
    }

    /// The checks of [`Self::spectrum`] alone: grids are validated point by point, with up to 10,000 eigenvalues at each.
    fn validate(&self) -> Result<(), Error> {
        match self {
            Self::Wishart { kappa0 } => Wishart::new(*kappa0).map(drop),
            Self::Spectrum { eigenvalues } => Discrete::check(eigenvalues),
            Self::PowerLaw { exponent, dimension } => Discrete::check_power_law(*exponent, *dimension),
        }
    }
}

/// One attention layer: `yhat = sigma(h(S)) X` on sequences of `tokens` tokens, `h(S) = D^{-1}(X S X^T - Tr S I)`,
/// with labels `y = sigma(h(S*) + sqrt(delta) xi) X`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Number of tokens `T` per sequence: 1 to 8, 2 to 8 for softmax (one token attends to itself only).
    pub tokens: usize,
    /// The non-linearity `sigma`.
    pub activation: Activation,
    /// Variance `Delta >= 0` of the label noise on the diagonal of the logits (`Delta/2` off the diagonal).
    pub delta: f64,
    /// What multiplies the logits in the softmax: 1e-6 to 1e6, and 1 if not given. Softmax only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inverse_temperature: Option<f64>,
    /// The teacher of the pre-training stage; not needed when the frozen weights are given by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher: Option<Teacher>,
}

impl Model {
    /// The largest number of tokens.
    pub const MAX_TOKENS: usize = 8;

    /// A layer with linear attention and no teacher.
    #[must_use]
    pub fn linear(tokens: usize, delta: f64) -> Self {
        Self { tokens, activation: Activation::Linear, delta, inverse_temperature: None, teacher: None }
    }

    /// A layer with softmax attention, inverse temperature 1 and no teacher.
    #[must_use]
    pub fn softmax(tokens: usize, delta: f64) -> Self {
        Self { activation: Activation::Softmax, ..Self::linear(tokens, delta) }
    }

    /// The same layer, taught by `teacher`.
    #[must_use]
    pub fn with_teacher(self, teacher: Teacher) -> Self {
        Self { teacher: Some(teacher), ..self }
    }

    /// Checks every field.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] names the first field that is out of range: `model.tokens` (1 to 8 for linear, 2 to 8 for
    /// softmax), `model.delta` (finite, >= 0), `model.inverse_temperature` (1e-6 to 1e6),
    /// a parameter of `model.teacher`. [`Error::Conflict`] for an inverse temperature of linear attention.
    pub fn validate(&self) -> Result<(), Error> {
        let fewest = match self.activation {
            Activation::Linear => 1,
            Activation::Softmax => 2,
        };
        check::integer("model.tokens", self.tokens, fewest, Self::MAX_TOKENS)?;
        check::non_negative("model.delta", self.delta)?;
        if let Some(inverse_temperature) = self.inverse_temperature {
            if self.activation == Activation::Linear {
                return Err(Error::Conflict {
                    field: "model.inverse_temperature",
                    with: "the linear activation",
                });
            }
            if !(1e-6..=1e6).contains(&inverse_temperature) {
                let allowed = "between 1e-6 and 1e6";
                return Err(Error::invalid("model.inverse_temperature", inverse_temperature, allowed));
            }
        }
        self.teacher.as_ref().map_or(Ok(()), Teacher::validate)
    }

    /// Number `K'` of coordinates of the logits that the activation can see: `K = T(T+1)/2` for linear attention, `K - 1` for
    /// softmax, which is flat along `11^T/T`.
    #[must_use]
    pub fn observed_coordinates(&self) -> f64 {
        let all = channel::dimension(self.tokens);
        match self.activation {
            Activation::Linear => all as f64,
            Activation::Softmax => all.saturating_sub(1) as f64,
        }
    }

    /// What multiplies the logits.
    pub(crate) fn logit_scale(&self) -> f64 {
        self.inverse_temperature.unwrap_or(1.0)
    }

    /// The validated spectrum of the teacher.
    pub(crate) fn teacher_spectrum(&self) -> Result<Box<dyn TeacherSpectrum>, Error> {
        self.teacher
            .as_ref()
            .ok_or(Error::MissingField {
                field: "model.teacher",
                reason: "pre-training needs the law of the teacher",
            })?
            .spectrum()
    }
}
