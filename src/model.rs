//! The model of the attention layer, which is fixed before any training: activation, noise and teacher.

use std::fmt;
use std::sync::Arc;

use serde::ser::{Error as _, Serializer};
use serde::{Deserialize, Serialize};

use crate::activation::{Activation, ActivationName, Unseen};
use crate::attention::Attention;
use crate::channel::general::{GeneralReplicas, KnownDerivatives};
use crate::channel::{SoftmaxReplicas, TwoReplicas, UnperturbedReplicas};
use crate::check;
use crate::error::Error;
use crate::options::Options;
use crate::spectrum::{
    Discrete, Implausible, TeacherMatrix, TeacherSpectrum, Wishart, WishartProduct, implausible,
};

/// The law of the teacher's spectrum `s* = S*/sqrt(D)`: of its eigenvalues for tied attention, and of its singular values for
/// cross-attention.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "TeacherFields", into = "TeacherFields")]
#[non_exhaustive]
pub enum Teacher {
    /// `S* = P0^{-1/2} W* W*^T` with `W*` a `D x P0` standard Gaussian matrix, `P0 = kappa0 D`. For cross-attention it is the product
    /// `P0^{-1/2} U* V*^T` of two independent matrices of that kind, and `Q0 = 1`.
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
    /// A list of singular values of `s*`, in any order, each of the same weight, for cross-attention. They can be
    /// those of `W_Q^T W_K` of a measured head.
    SingularValues {
        /// 1 to 10,000 numbers, finite and >= 0, not all of them 0. They fix `Q0`, because nothing is rescaled.
        singular_values: Vec<f64>,
    },
    /// Eigenvalues, or singular values for cross-attention, `s_i` proportional to `i^(-exponent)`, `i = 1, ..., dimension`, scaled to `Q0 = 1`.
    PowerLaw {
        /// Decay of the spectrum; 0 to 100.
        exponent: f64,
        /// Number of eigenvalues; 1 to 10,000.
        dimension: usize,
    },
}

/// The law of the teacher's spectrum.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case", deny_unknown_fields, rename = "Teacher")]
enum TeacherFields {
    /// `S* = P0^{-1/2} W* W*^T`, or the product of two Gaussian matrices for cross-attention.
    Wishart {
        /// Width of the teacher, `P0/D`; 1e-5 to 1e6.
        kappa0: f64,
    },
    /// A list of numbers of the same weight, which are not rescaled.
    Spectrum {
        /// Eigenvalues of `S*/sqrt(D)`, for tied attention.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        eigenvalues: Option<Vec<f64>>,
        /// Singular values of `S*/sqrt(D)`, for cross-attention.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        singular_values: Option<Vec<f64>>,
    },
    /// Numbers proportional to `i^(-exponent)`, scaled to `Q0 = 1`.
    PowerLaw {
        /// Decay of the spectrum; 0 to 100.
        exponent: f64,
        /// Number of eigenvalues, or of singular values; 1 to 10,000.
        dimension: usize,
    },
}

impl TryFrom<TeacherFields> for Teacher {
    type Error = Error;

    fn try_from(fields: TeacherFields) -> Result<Self, Error> {
        Ok(match fields {
            TeacherFields::Wishart { kappa0 } => Self::Wishart { kappa0 },
            TeacherFields::Spectrum { eigenvalues: Some(eigenvalues), singular_values: None } => {
                Self::Spectrum { eigenvalues }
            }
            TeacherFields::Spectrum { eigenvalues: None, singular_values: Some(singular_values) } => {
                Self::SingularValues { singular_values }
            }
            TeacherFields::Spectrum { eigenvalues: Some(_), singular_values: Some(_) } => {
                return Err(Error::Conflict { field: SINGULAR_VALUES, with: EIGENVALUES });
            }
            TeacherFields::Spectrum { eigenvalues: None, singular_values: None } => {
                let reason =
                    "a spectrum is a list of eigenvalues or, for cross-attention, of singular_values";
                return Err(Error::MissingField { field: EIGENVALUES, reason });
            }
            TeacherFields::PowerLaw { exponent, dimension } => Self::PowerLaw { exponent, dimension },
        })
    }
}

impl From<Teacher> for TeacherFields {
    fn from(teacher: Teacher) -> Self {
        match teacher {
            Teacher::Wishart { kappa0 } => Self::Wishart { kappa0 },
            Teacher::Spectrum { eigenvalues } => {
                Self::Spectrum { eigenvalues: Some(eigenvalues), singular_values: None }
            }
            Teacher::SingularValues { singular_values } => {
                Self::Spectrum { eigenvalues: None, singular_values: Some(singular_values) }
            }
            Teacher::PowerLaw { exponent, dimension } => Self::PowerLaw { exponent, dimension },
        }
    }
}

/// Paths of the two lists of a teacher.
const EIGENVALUES: &str = "model.teacher.spectrum.eigenvalues";
const SINGULAR_VALUES: &str = "model.teacher.spectrum.singular_values";

impl Teacher {
    /// The law of the eigenvalues of this teacher in tied attention, behind the trait that the solvers use.
    ///
    /// # Errors
    /// The errors of [`Teacher::spectrum_for`].
    pub fn spectrum(&self) -> Result<Arc<dyn TeacherSpectrum>, Error> {
        self.spectrum_for(Attention::Tied)
    }

    /// The spectrum of this teacher: the law of the eigenvalues of `s*` for tied attention, and for cross-attention the law of its
    /// singular values and of their negatives, each with half of the weight.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] if a parameter is out of range (see [`Wishart::new`], [`Discrete::new`],
    /// [`Discrete::power_law`]); [`Error::Conflict`] for eigenvalues in cross-attention, whose matrices are not symmetric, and for
    /// singular values in tied attention.
    pub fn spectrum_for(&self, attention: Attention) -> Result<Arc<dyn TeacherSpectrum>, Error> {
        let conflict = |field, with| Err(Error::Conflict { field, with });
        Ok(match (attention, self) {
            (Attention::Tied, Self::Wishart { kappa0 }) => Arc::new(Wishart::new(*kappa0)?),
            (Attention::Tied, Self::Spectrum { eigenvalues }) => Arc::new(Discrete::new(eigenvalues)?),
            (Attention::Tied, Self::PowerLaw { exponent, dimension }) => {
                Arc::new(Discrete::power_law(*exponent, *dimension)?)
            }
            (Attention::Tied, Self::SingularValues { .. }) => {
                return conflict(SINGULAR_VALUES, "tied attention");
            }
            (Attention::Cross, Self::Spectrum { .. }) => return conflict(EIGENVALUES, "cross-attention"),
            (Attention::Cross, Self::Wishart { kappa0 }) => Arc::new(WishartProduct::new(*kappa0)?),
            (Attention::Cross, Self::SingularValues { singular_values }) => {
                Arc::new(Discrete::singular(singular_values)?)
            }
            (Attention::Cross, Self::PowerLaw { exponent, dimension }) => {
                Arc::new(Discrete::singular_power_law(*exponent, *dimension)?)
            }
        })
    }
}

/// One attention layer: `yhat = sigma(h(S)) X` on sequences of `tokens` tokens,
/// `h(S) = D^{-1}(X S X^T - Tr S I)`, with labels `y = sigma(h(S*) + sqrt(delta) xi) X`. A value of this type
/// is always valid. Queries and keys are tied, unless [`Model::with_attention`] makes them separate: then
/// `h(S) = D^{-1} X_q S X_k^T` with independent sequences `X_q` and `X_k`, labels `y = sigma(h(S*) + sqrt(delta) xi) X_k` and noise
/// with `T^2` independent entries.
///
/// ```
/// use lora_asymptotics::{Model, Teacher};
///
/// let model = Model::softmax(2, 0.5)?.with_inverse_temperature(2.0)?.with_teacher(Teacher::Wishart { kappa0: 0.5 })?;
/// assert_eq!((model.tokens(), model.delta()), (2, 0.5));
/// assert!(Model::softmax(1, 0.5).is_err(), "a single token attends to itself only");
/// # Ok::<(), lora_asymptotics::Error>(())
/// ```
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "ModelFields")]
pub struct Model {
    tokens: usize,
    attention: Attention,
    activation: Arc<dyn Activation>,
    /// The name of the activation in the schema. An activation from outside has none.
    name: Option<ActivationName>,
    delta: f64,
    inverse_temperature: Option<f64>,
    taught: Option<Taught>,
}

/// Largest mean of a symmetric law, relative to `sqrt(Q0)`. It allows for rounding.
const SYMMETRIC: f64 = 1e-10;

/// The fastest kernels that serve an activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Specialisation {
    /// Closed forms in pre-training, and the secular equation in fine-tuning.
    Linear,
    /// Softmax on blocks of lanes.
    Softmax,
    /// The general proximal channel.
    General,
}

impl PartialEq for Model {
    /// Activations from outside are equal if they are the same object.
    fn eq(&self, other: &Self) -> bool {
        let same = match (self.name, other.name) {
            (Some(own), Some(other)) => own == other,
            (None, None) => Arc::ptr_eq(&self.activation, &other.activation),
            _ => false,
        };
        same && self.tokens == other.tokens
            && self.attention == other.attention
            && self.delta == other.delta
            && self.inverse_temperature == other.inverse_temperature
            && self.taught == other.taught
    }
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

/// One attention layer with its label noise and its teacher.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename = "Model")]
pub(crate) struct ModelFields {
    /// Tokens per sequence; 1 to 8 for linear attention, 2 to 8 otherwise.
    tokens: usize,
    /// The activation.
    activation: ActivationName,
    /// Whether queries and keys have the same weights.
    #[serde(default, skip_serializing_if = "Attention::is_tied")]
    attention: Attention,
    /// Variance of the label noise; >= 0.
    delta: f64,
    /// Factor on the logits, for every activation but the linear one; 1e-6 to 1e6, and 1 if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    inverse_temperature: Option<f64>,
    /// The teacher, which pre-training needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    teacher: Option<TeacherFields>,
}

impl TryFrom<ModelFields> for Model {
    type Error = Error;

    fn try_from(fields: ModelFields) -> Result<Self, Error> {
        let ModelFields { tokens, activation, attention, delta, inverse_temperature, teacher } = fields;
        let mut model = Self::new(activation, tokens, delta)?.with_attention(attention)?;
        if let Some(inverse_temperature) = inverse_temperature {
            model = model.with_inverse_temperature(inverse_temperature)?;
        }
        match teacher {
            Some(teacher) => model.with_teacher(teacher.try_into()?),
            None => Ok(model),
        }
    }
}

impl Serialize for Model {
    /// Writes the model as it is read.
    ///
    /// # Errors
    /// The activation or the teacher comes from outside. Both are code, and cannot be written.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { tokens, attention, delta, inverse_temperature, .. } = *self;
        let activation = self.name.ok_or_else(|| {
            S::Error::custom(format!("the activation `{}` has no name in the schema", self.activation.name()))
        })?;
        let written = |taught: &Taught| {
            let nameless = || {
                S::Error::custom(format!(
                    "the teacher `{}` has no name in the schema",
                    taught.spectrum.name()
                ))
            };
            taught.teacher.clone().ok_or_else(nameless)
        };
        let teacher = self.taught.as_ref().map(written).transpose()?.map(TeacherFields::from);
        ModelFields { tokens, activation, attention, delta, inverse_temperature, teacher }
            .serialize(serializer)
    }
}

impl Model {
    /// The largest number of tokens.
    pub const MAX_TOKENS: usize = 8;

    /// A layer with inverse temperature 1 and no teacher.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] unless `tokens` is 1 to 8 for linear attention, 2 to 8 otherwise (one token
    /// attends to itself only), and `delta` finite and >= 0.
    pub fn new(activation: ActivationName, tokens: usize, delta: f64) -> Result<Self, Error> {
        let model = Self::with_activation(tokens, delta, activation.activation())?;
        Ok(Self { name: Some(activation), ..model })
    }

    /// A layer with any activation, inverse temperature 1 and no teacher. Both stages and finite-size training
    /// work as for the activations that have a name in the schema, through the general channel.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] unless `tokens` is 1 to 8 for an activation without inverse temperature
    /// that sees all logits, 2 to 8 otherwise, and `delta` finite and >= 0.
    pub fn with_activation(
        tokens: usize,
        delta: f64,
        activation: Arc<dyn Activation>,
    ) -> Result<Self, Error> {
        let simple = !activation.has_inverse_temperature() && activation.unseen() == Unseen::Nothing;
        check::integer("model.tokens", tokens, if simple { 1 } else { 2 }, Self::MAX_TOKENS)?;
        check::non_negative("model.delta", delta)?;
        Ok(Self {
            tokens,
            attention: Attention::Tied,
            activation,
            name: None,
            delta,
            inverse_temperature: None,
            taught: None,
        })
    }

    /// A layer with linear attention and no teacher.
    ///
    /// # Errors
    /// The errors of [`Model::new`].
    pub fn linear(tokens: usize, delta: f64) -> Result<Self, Error> {
        Self::new(ActivationName::Linear, tokens, delta)
    }

    /// A layer with softmax attention, inverse temperature 1 and no teacher.
    ///
    /// # Errors
    /// The errors of [`Model::new`].
    pub fn softmax(tokens: usize, delta: f64) -> Result<Self, Error> {
        Self::new(ActivationName::Softmax, tokens, delta)
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
        if !self.activation.has_inverse_temperature() {
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

    /// The same layer with another kind of attention. A teacher that the layer has is kept; a spectrum of your own stands
    /// for another law then (see [`Model::with_teacher_spectrum`]).
    ///
    /// # Errors
    /// [`Error::Conflict`] for a list of eigenvalues in cross-attention or of singular values in tied attention.
    pub fn with_attention(self, attention: Attention) -> Result<Self, Error> {
        let model = Self { attention, taught: None, ..self };
        match self.taught {
            Some(Taught { teacher: Some(teacher), .. }) => model.with_teacher(teacher),
            Some(Taught { teacher: None, spectrum }) => model.with_teacher_spectrum(spectrum),
            None => Ok(model),
        }
    }

    /// The same layer with the given teacher. The spectrum of the teacher is built here, once.
    ///
    /// # Errors
    /// The errors of [`Teacher::spectrum`].
    pub fn with_teacher(self, teacher: Teacher) -> Result<Self, Error> {
        let spectrum = teacher.spectrum_for(self.attention)?;
        Ok(Self { taught: Some(Taught { teacher: Some(teacher), spectrum }), ..self })
    }

    /// The same layer with a teacher whose eigenvalues have any law `mu`: an implementation of
    /// [`TeacherSpectrum`] of your own (see [`crate::spectrum`] for an example). Every solver takes it. Training
    /// at finite size needs [`TeacherSpectrum::eigenvalues`]. Such a model cannot be written as JSON, and
    /// is equal to another one only if both have the same `Arc`.
    ///
    /// In cross-attention the law is that of the singular values of `s*` and of their negatives, each with half of the weight, and its mean
    /// is 0.
    ///
    /// The moments are checked here. [`spectrum::check`](crate::spectrum::check) also checks the density, the
    /// transform and the integrals.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] unless `Q0` is between 1e-100 and 1e100, the mean and the variance belong
    /// to it, the orbit dimension is between 0 and 1, and the mean is 0 in cross-attention.
    pub fn with_teacher_spectrum(self, spectrum: Arc<dyn TeacherSpectrum>) -> Result<Self, Error> {
        if let Some(Implausible { field, value, allowed, .. }) = implausible(spectrum.as_ref()) {
            return Err(Error::invalid(field, value, allowed));
        }
        let (mean, largest) = (spectrum.mean(), spectrum.second_moment().sqrt());
        if self.attention == Attention::Cross && mean.abs() > SYMMETRIC * largest {
            let allowed = "0 in cross-attention, whose law has the singular values and their negatives";
            return Err(Error::invalid("model.teacher.mean", mean, allowed));
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

    /// Whether queries and keys are tied or separate.
    #[must_use]
    pub fn attention(&self) -> Attention {
        self.attention
    }

    /// The non-linearity `sigma`.
    #[must_use]
    pub fn activation(&self) -> &dyn Activation {
        self.activation.as_ref()
    }

    /// The non-linearity, shared.
    pub(crate) fn shared_activation(&self) -> Arc<dyn Activation> {
        Arc::clone(&self.activation)
    }

    /// The name of the activation in the schema, if it has one.
    #[must_use]
    pub fn activation_name(&self) -> Option<ActivationName> {
        self.name
    }

    /// The kernels that serve the activation.
    pub(crate) fn specialisation(&self) -> Specialisation {
        match self.name {
            Some(ActivationName::Linear) => Specialisation::Linear,
            Some(ActivationName::Softmax) => Specialisation::Softmax,
            Some(ActivationName::SoftmaxOne | ActivationName::Sigmoid) | None => Specialisation::General,
        }
    }

    /// The activation, if its derivatives are known in closed form.
    pub(crate) fn known_derivatives(&self) -> Option<KnownDerivatives> {
        match self.specialisation() {
            Specialisation::Linear => Some(KnownDerivatives::Linear),
            Specialisation::Softmax => Some(KnownDerivatives::Softmax),
            Specialisation::General => None,
        }
    }

    /// Variance `Delta >= 0` of the label noise in an orthonormal coordinate of the logits: on the diagonal of symmetric logits
    /// (`Delta/2` off the diagonal), or of any logit of cross-attention.
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

    /// Number `K'` of coordinates of the logits that the activation can see: `K = T(T+1)/2`, or `K - 1` for
    /// softmax, which is flat along `11^T/T`. For cross-attention it is `T^2`, or `T^2 - T` for softmax, which is flat along the shifts of
    /// every row.
    #[must_use]
    pub fn observed_coordinates(&self) -> f64 {
        self.attention.seen(self.tokens, self.activation.unseen()) as f64
    }

    /// The matrix of a teacher with the given law, as the training of this layer sees it.
    pub(crate) fn teacher_matrix<'a>(&self, law: &'a dyn TeacherSpectrum) -> TeacherMatrix<'a> {
        TeacherMatrix::new(law, self.attention)
    }

    /// The least errors of an estimator that knows the law of the logits.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] if the activation is not invertible.
    pub(crate) fn two_replicas(
        &self,
        perturbed: bool,
        options: &Options,
    ) -> Result<Box<dyn TwoReplicas>, Error> {
        self.require_invertible()?;
        let (tokens, temperature) = (self.tokens, self.inverse_temperature());
        Ok(match (self.specialisation(), self.attention) {
            (Specialisation::Softmax, Attention::Tied) if perturbed => {
                Box::new(SoftmaxReplicas::new(tokens, temperature, options)?)
            }
            (Specialisation::Softmax, Attention::Tied) => {
                Box::new(UnperturbedReplicas::new(tokens, temperature, options))
            }
            (Specialisation::Softmax, Attention::Cross) if !perturbed => {
                let activation = self.shared_activation();
                Box::new(GeneralReplicas::of_one_row(activation, tokens, temperature, options)?)
            }
            _ => {
                let (activation, logits) = (self.shared_activation(), (self.attention, tokens));
                Box::new(GeneralReplicas::new(activation, logits, temperature, perturbed, options)?)
            }
        })
    }

    /// Checks that the activation determines the logits that it sees, as the Bayes-optimal bounds and the
    /// interpolation threshold assume.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`].
    pub(crate) fn require_invertible(&self) -> Result<(), Error> {
        if self.activation.is_invertible() {
            return Ok(());
        }
        let allowed = "an invertible activation, for a bound or an interpolation threshold";
        Err(Error::invalid("model.activation", self.activation.name(), allowed))
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
