//! The model of the attention layer, which is fixed before any training: activation, noise and teacher.

use std::fmt;
use std::sync::Arc;

use serde::ser::Error as _;
use serde::{Deserialize, Serialize, Serializer};

use crate::channel;
use crate::check;
use crate::error::Error;
use crate::spectrum::{Discrete, Implausible, TeacherSpectrum, Wishart, implausible};

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
    /// A list of eigenvalues of `s*`, in any order, each of the same weight. They can be those of a measured
    /// matrix.
    Spectrum {
        /// 1 to 10,000 numbers, finite and >= 0, not all of them 0. They fix `Q0` and `tr s*`, because
        /// nothing is rescaled.
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
    pub fn spectrum(&self) -> Result<Arc<dyn TeacherSpectrum>, Error> {
        Ok(match self {
            Self::Wishart { kappa0 } => Arc::new(Wishart::new(*kappa0)?),
            Self::Spectrum { eigenvalues } => Arc::new(Discrete::new(eigenvalues)?),
            Self::PowerLaw { exponent, dimension } => Arc::new(Discrete::power_law(*exponent, *dimension)?),
        })
    }
}

/// One attention layer: `yhat = sigma(h(S)) X` on sequences of `tokens` tokens,
/// `h(S) = D^{-1}(X S X^T - Tr S I)`, with labels `y = sigma(h(S*) + sqrt(delta) xi) X`. A value of this type
/// is always valid.
///
/// ```
/// use lora_asymptotics::{Model, Teacher};
///
/// let model = Model::softmax(2, 0.5)?.with_inverse_temperature(2.0)?.with_teacher(Teacher::Wishart { kappa0: 0.5 })?;
/// assert_eq!((model.tokens(), model.delta()), (2, 0.5));
/// assert!(Model::softmax(1, 0.5).is_err(), "a single token attends to itself only");
/// # Ok::<(), lora_asymptotics::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "ModelFields")]
pub struct Model {
    tokens: usize,
    activation: Activation,
    delta: f64,
    inverse_temperature: Option<f64>,
    taught: Option<Taught>,
}

/// A teacher with its spectrum, which is costly to build.
#[derive(Clone)]
struct Taught {
    /// `None` for a law of the user's own.
    teacher: Option<Teacher>,
    spectrum: Arc<dyn TeacherSpectrum>,
}

impl fmt::Debug for Taught {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.teacher {
            Some(teacher) => teacher.fmt(formatter),
            None => formatter.write_str(&self.spectrum.name()),
        }
    }
}

impl PartialEq for Taught {
    fn eq(&self, other: &Self) -> bool {
        match (&self.teacher, &other.teacher) {
            (Some(one), Some(other)) => one == other,
            (None, None) => Arc::ptr_eq(&self.spectrum, &other.spectrum),
            _ => false,
        }
    }
}

/// A model in the form in which it is read and written.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename = "Model")]
pub(crate) struct ModelFields {
    tokens: usize,
    activation: Activation,
    delta: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    inverse_temperature: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    teacher: Option<Teacher>,
}

impl TryFrom<ModelFields> for Model {
    type Error = Error;

    fn try_from(fields: ModelFields) -> Result<Self, Error> {
        let ModelFields { tokens, activation, delta, inverse_temperature, teacher } = fields;
        let mut model = Self::new(activation, tokens, delta)?;
        if let Some(inverse_temperature) = inverse_temperature {
            model = model.with_inverse_temperature(inverse_temperature)?;
        }
        match teacher {
            Some(teacher) => model.with_teacher(teacher),
            None => Ok(model),
        }
    }
}

impl Serialize for Model {
    /// Writes the model as it is read.
    ///
    /// # Errors
    /// The teacher is a [`TeacherSpectrum`] of the user's own, which has no written form.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { tokens, activation, delta, inverse_temperature, taught } = self.clone();
        let teacher = match taught {
            None => None,
            Some(Taught { teacher: Some(teacher), .. }) => Some(teacher),
            Some(Taught { teacher: None, spectrum }) => {
                let name = spectrum.name();
                return Err(S::Error::custom(format!(
                    "model.teacher = {name}: must be one of the named teachers to be written, not a spectrum of your own"
                )));
            }
        };
        ModelFields { tokens, activation, delta, inverse_temperature, teacher }.serialize(serializer)
    }
}

impl Model {
    /// The largest number of tokens.
    pub const MAX_TOKENS: usize = 8;

    /// A layer with inverse temperature 1 and no teacher.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] unless `tokens` is 1 to 8, 2 to 8 for softmax (one token attends to itself only), and `delta` finite
    /// and >= 0.
    pub fn new(activation: Activation, tokens: usize, delta: f64) -> Result<Self, Error> {
        let fewest = match activation {
            Activation::Linear => 1,
            Activation::Softmax => 2,
        };
        check::integer("model.tokens", tokens, fewest, Self::MAX_TOKENS)?;
        check::non_negative("model.delta", delta)?;
        Ok(Self { tokens, activation, delta, inverse_temperature: None, taught: None })
    }

    /// A layer with linear attention and no teacher.
    ///
    /// # Errors
    /// The errors of [`Model::new`].
    pub fn linear(tokens: usize, delta: f64) -> Result<Self, Error> {
        Self::new(Activation::Linear, tokens, delta)
    }

    /// A layer with softmax attention, inverse temperature 1 and no teacher.
    ///
    /// # Errors
    /// The errors of [`Model::new`].
    pub fn softmax(tokens: usize, delta: f64) -> Result<Self, Error> {
        Self::new(Activation::Softmax, tokens, delta)
    }

    /// The same layer with another label noise.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] unless `delta` is finite and >= 0.
    pub fn with_delta(self, delta: f64) -> Result<Self, Error> {
        check::non_negative("model.delta", delta)?;
        Ok(Self { delta, ..self })
    }

    /// The same layer with another inverse temperature.
    ///
    /// # Errors
    /// [`Error::Conflict`] for linear attention, [`Error::InvalidParameter`] unless it is between 1e-6 and 1e6.
    pub fn with_inverse_temperature(self, inverse_temperature: f64) -> Result<Self, Error> {
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
        Ok(Self { inverse_temperature: Some(inverse_temperature), ..self })
    }

    /// The same layer with the given teacher. The spectrum of the teacher is built here, once.
    ///
    /// # Errors
    /// The errors of [`Teacher::spectrum`].
    pub fn with_teacher(self, teacher: Teacher) -> Result<Self, Error> {
        let spectrum = teacher.spectrum()?;
        Ok(Self { taught: Some(Taught { teacher: Some(teacher), spectrum }), ..self })
    }

    /// The same layer with a teacher whose eigenvalues have any law `mu`: an implementation of
    /// [`TeacherSpectrum`] of your own (see [`crate::spectrum`] for an example). Every solver takes it. Training
    /// at finite size needs [`TeacherSpectrum::eigenvalues`]. Such a model cannot be written as JSON, and
    /// is equal to another one only if both have the same `Arc`.
    ///
    /// The moments are checked here. [`spectrum::check`](crate::spectrum::check) also checks the density, the
    /// transform and the integrals.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] unless `Q0` is between 1e-100 and 1e100, the mean and the variance belong
    /// to it, and the orbit dimension is between 0 and 1.
    pub fn with_teacher_spectrum(self, spectrum: Arc<dyn TeacherSpectrum>) -> Result<Self, Error> {
        if let Some(Implausible { field, value, allowed, .. }) = implausible(spectrum.as_ref()) {
            return Err(Error::invalid(field, value, allowed));
        }
        Ok(Self { taught: Some(Taught { teacher: None, spectrum }), ..self })
    }

    /// The same layer without a teacher. Fine-tuning on given frozen weights needs no teacher.
    #[must_use]
    pub fn without_teacher(self) -> Self {
        Self { taught: None, ..self }
    }

    /// Number of tokens `T` per sequence.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// The non-linearity `sigma`.
    #[must_use]
    pub fn activation(&self) -> Activation {
        self.activation
    }

    /// Variance `Delta >= 0` of the label noise on the diagonal of the logits (`Delta/2` off the diagonal).
    #[must_use]
    pub fn delta(&self) -> f64 {
        self.delta
    }

    /// The inverse temperature `b`, which multiplies the logits. It is 1 if not given, and for linear
    /// attention.
    #[must_use]
    pub fn inverse_temperature(&self) -> f64 {
        self.inverse_temperature.unwrap_or(1.0)
    }

    /// The teacher of the pre-training stage, if there is one and it has a name. A spectrum of your own
    /// has none: [`Model::teacher_spectrum`] returns it.
    #[must_use]
    pub fn teacher(&self) -> Option<&Teacher> {
        self.taught.as_ref().and_then(|taught| taught.teacher.as_ref())
    }

    /// Whether there is a teacher, with a name or with a spectrum of your own.
    #[must_use]
    pub fn has_teacher(&self) -> bool {
        self.taught.is_some()
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

    /// The spectrum of the teacher.
    ///
    /// # Errors
    /// [`Error::MissingField`] for a model without a teacher.
    pub fn teacher_spectrum(&self) -> Result<Arc<dyn TeacherSpectrum>, Error> {
        self.taught.as_ref().map(|taught| Arc::clone(&taught.spectrum)).ok_or(Error::MissingField {
            field: "model.teacher",
            reason: "pre-training needs the law of the teacher",
        })
    }
}
