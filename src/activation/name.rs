//! The activations that have a name in the schema.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::linear::Linear;
use super::sigmoid::Sigmoid;
use super::softmax::{Softmax, SoftmaxOne};
use super::traits::Activation;

/// An activation of this crate, by its name in the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ActivationName {
    /// [`Linear`], `sigma(h) = h/T`.
    Linear,
    /// [`Softmax`] by rows.
    Softmax,
    /// [`SoftmaxOne`], softmax with a one added to the denominator.
    SoftmaxOne,
    /// [`Sigmoid`] of every logit, with the bias `-ln T`.
    Sigmoid,
}

impl ActivationName {
    /// The activation of this name.
    #[must_use]
    pub fn activation(self) -> Arc<dyn Activation> {
        match self {
            Self::Linear => Arc::new(Linear),
            Self::Softmax => Arc::new(Softmax),
            Self::SoftmaxOne => Arc::new(SoftmaxOne),
            Self::Sigmoid => Arc::new(Sigmoid::default()),
        }
    }
}

impl fmt::Display for ActivationName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.activation().name())
    }
}
