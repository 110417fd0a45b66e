//! The result of fine-tuning: order parameters, errors, effective noise, and the status of the solve.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::validity::FinetuningValidity;
use crate::divergence::Divergence;
use crate::error::{Error, Number};
use crate::nullable::{missing, number, numbers};
use crate::status::Status;
use crate::std_error::{Named, StdError};

/// Order parameters of fine-tuning and their conjugates. For weights of several columns these are `q = |q|_F` and `m = |m|_F`, the roots
/// of the sums of the squares over the columns, and the means over the columns of `v` and of the conjugates. For two factors they are
/// `q = sqrt(tr q_b q_a)` and `m = sqrt(tr m_b m_a)`, and the means over the columns of both.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FinetuningOrder {
    /// `q = |w-hat|^2/D`.
    #[serde(deserialize_with = "number")]
    pub q: f64,
    /// `m = w-hat.w*/D >= 0`.
    #[serde(deserialize_with = "number")]
    pub m: f64,
    /// `v`, the linear response of `w-hat`.
    #[serde(deserialize_with = "number")]
    pub v: f64,
    /// `qhat = alpha' E|g|^2`.
    #[serde(deserialize_with = "number")]
    pub q_hat: f64,
    /// `mhat = alpha' E[div_chi* g]`.
    #[serde(deserialize_with = "number")]
    pub m_hat: f64,
    /// `vhat = alpha' E[-div_omega g]`.
    #[serde(deserialize_with = "number")]
    pub v_hat: f64,
    /// `eta = alpha' E[dl'/dq]`: the shift of the ridge, because the centring of `h1(w)` depends on `|w|^2`.
    #[serde(deserialize_with = "number")]
    pub eta: f64,
}

/// Order parameters and conjugates of one column of a factor of the weights, with their standard errors.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ColumnOrder {
    /// `q_k = |w-hat_k|^2/D`.
    #[serde(deserialize_with = "number")]
    pub q: f64,
    /// `m_k = w-hat_k.w*_k/D >= 0`; 0 for a column in excess of the truth.
    #[serde(deserialize_with = "number")]
    pub m: f64,
    /// `v_k`, the linear response.
    #[serde(deserialize_with = "number")]
    pub v: f64,
    /// `qhat_k = alpha' E|g_k|^2`.
    #[serde(deserialize_with = "number")]
    pub q_hat: f64,
    /// `mhat_k = alpha' E[div_chi*_k g_k]`; 0 for a column in excess of the truth.
    #[serde(deserialize_with = "number")]
    pub m_hat: f64,
    /// `vhat_k = alpha' E[-div_omega_k g_k]`.
    #[serde(deserialize_with = "number")]
    pub v_hat: f64,
    /// `m_k/sqrt(q_k q0_k)` of a column of one of two factors that learns a true column: `o_b` or `o_a`. `None` for a single factor, where the
    /// cosines say the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alignment: Option<f64>,
    /// Standard errors, from independent scrambles.
    #[serde(default)]
    pub std_error: StdError,
}

/// One column of the weights.
#[allow(
    clippy::large_enum_variant,
    reason = "there are a few columns at most, and a box would stand in the way of their fields"
)]
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
#[non_exhaustive]
pub enum FinetuningColumn {
    /// A column of `w` in `w w^T`.
    Tied(ColumnOrder),
    /// A column of `b` and one of `a` in `b a^T`, for cross-attention.
    Factors {
        /// The column of `b`, which the queries see.
        b: ColumnOrder,
        /// The column of `a`, which the keys see.
        a: ColumnOrder,
    },
}

/// Errors per sequence, in the units of the loss.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct FinetuningErrors {
    /// `E'` on new sequences with noisy labels.
    #[serde(deserialize_with = "number")]
    pub test: f64,
    /// `E'` on new sequences with noiseless labels.
    #[serde(deserialize_with = "number")]
    pub test_clean: f64,
    /// Error on the training sequences.
    #[serde(deserialize_with = "number")]
    pub train: f64,
    /// The frozen baseline: `E'` at `w = 0`.
    #[serde(deserialize_with = "number")]
    pub frozen: f64,
    /// The test error on the task of pre-training after fine-tuning, with noisy labels that `w*` has no part in:
    ///
    /// ```text
    /// E|sigma(z + chi chi^T - q I) - sigma(h* + sqrt(Delta) xi)|_F^2,    chi ~ N(0, q) independent of (h*, z),
    /// ```
    ///
    /// on the test law of the frozen logits, whatever sequences fine-tuning saw. For linear attention it is
    /// [`linear_forgetting`](crate::observables::linear_forgetting). Where fine-tuning changes nothing, at `q = 0` and `beta = 1`, it is the test
    /// error of the pre-training. NaN in an outcome that was written before this number existed. Source: this project.
    #[serde(default = "missing", deserialize_with = "number")]
    pub forgetting: f64,
}

/// Half the variance, per coordinate, of the part of the label's logits that the frozen weights leave
/// unexplained (linear attention). In cross-attention it is the whole variance, `Delta + Q0 - 2 beta M + beta^2 Q` on new sequences.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct EffectiveNoise {
    /// On the training sequences; `None` if it is not a scalar (selection by the centred score).
    pub train: Option<f64>,
    /// On new sequences.
    #[serde(deserialize_with = "number")]
    pub test: f64,
}

/// The coefficients `x_1` of `D^{-1/2}` of a fine-tuned layer on real frozen weights,
///
/// ```text
/// x(D) = x + x_1 D^{-1/2} + O(1/D),
/// ```
///
/// for a quantity `x` of the solution in the limit. They come from the third joint cumulants of the frozen logits, the perturbation and the Gram matrix of
/// the tokens, which share the same tokens: from `tr s-hat`, `tr s*` and the traces of the cubes of the two. All coefficients change their sign with `(S-hat, S*)`.
/// Frozen logits that are drawn independently of the sequences have no such term.
///
/// Pre-training moves at the order `1/D` itself, so that the overlaps of the frozen weights keep their limits. The `1/D` term of fine-tuning is not
/// predicted: for the alignment and the test error of linear attention it is the larger one below `D` of some hundreds.
/// Source: this project.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct FiniteSize {
    /// The coefficient of `order.q`.
    #[serde(deserialize_with = "number")]
    pub q: f64,
    /// The coefficient of `order.m`.
    #[serde(deserialize_with = "number")]
    pub m: f64,
    /// The coefficient of `alignment`.
    #[serde(deserialize_with = "number")]
    pub alignment: f64,
    /// The coefficient of `objective`.
    #[serde(deserialize_with = "number")]
    pub objective: f64,
    /// The coefficient of `errors.test`.
    #[serde(deserialize_with = "number")]
    pub test: f64,
    /// The coefficient of `errors.test_clean`.
    #[serde(deserialize_with = "number")]
    pub test_clean: f64,
    /// The coefficient of `errors.train`.
    #[serde(deserialize_with = "number")]
    pub train: f64,
    /// The coefficient of `errors.frozen`.
    #[serde(deserialize_with = "number")]
    pub frozen: f64,
    /// Standard errors, from independent scrambles.
    #[serde(default)]
    pub std_error: StdError,
}

impl FiniteSize {
    pub(super) fn named(&self) -> Named {
        let Self { q, m, alignment, objective, test, test_clean, train, frozen, .. } = *self;
        let [q, m, alignment, objective] = [q, m, alignment, objective].map(Some);
        let [test, test_clean, train, frozen] = [test, test_clean, train, frozen].map(Some);
        Named { q, m, alignment, objective, test, test_clean, train, frozen, ..Named::default() }
    }
}

/// The start from which the returned fixed point was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Branch {
    /// The start at near-perfect overlap.
    Informed,
    /// The start at vanishing overlap.
    Uninformed,
}

impl fmt::Display for Branch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Informed => "informed",
            Self::Uninformed => "uninformed",
        })
    }
}

/// A solved fine-tuning stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct FinetuningSolution {
    /// Order parameters and conjugates.
    pub order: FinetuningOrder,
    /// Every column of the weights, in decreasing order of the true variance that it learns. Empty where both the learned and the true
    /// perturbation have a single column of a single factor, which `order` describes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<FinetuningColumn>,
    /// Train objective `L'/D = alpha' (train error) + lambda' tr q`, with `tr (q_b + q_a)` for two factors.
    #[serde(deserialize_with = "number")]
    pub objective: f64,
    /// Test and train errors, and the frozen baseline.
    pub errors: FinetuningErrors,
    /// `o_w = m/sqrt(q q0)`. For several columns it is `|m|_F/sqrt(|q|_F |q0|_F)`, the root of the cosine between `w w^T` and
    /// `w* w*^T`. For two factors it is `tr m_b m_a/(sqrt(tr q_b q_a) |q0|_F)`, the cosine between `b a^T` and `b* a*^T`, which is `o_b o_a` for
    /// one column.
    #[serde(deserialize_with = "number")]
    pub alignment: f64,
    /// The cosines `m_k/sqrt(q_k q0_k)` of the principal angles between the learned and the true columns, one for every column
    /// that learns a true one; for two factors, those of `b` and then those of `a`. Empty where `columns` is.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "numbers")]
    pub cosines: Vec<f64>,
    /// The coefficients of `D^{-1/2}`; `None` unless [`Options::finite_size`](crate::Options::finite_size) asks for them and the solve ended
    /// near a fixed point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finite_size: Option<FiniteSize>,
    /// `Delta_eff`; `None` if pre-training does not enter through an effective noise alone.
    pub effective_noise: Option<EffectiveNoise>,
    /// Whether replica symmetry can be trusted at this solution.
    pub validity: FinetuningValidity,
    /// How the divergences were computed.
    pub divergence: Divergence,
    /// The start from which this fixed point was reached.
    pub branch: Branch,
    /// How the solve ended.
    pub status: Status,
    /// Undamped residual, in the logarithms of `m` (unless 0), `q - m^2/q0` and `v`. It is evaluated once
    /// more at the returned point, on all nodes. There, all starts are tried for the proximal points, unless searches of
    /// many samples on a cheap level have found no second minimum at all.
    #[serde(deserialize_with = "number")]
    pub residual: f64,
    /// Number of iterations, summed over all numbers of nodes.
    pub iterations: usize,
    /// Standard errors, from independent scrambles. They are absent for `T = 1`, which is solved by
    /// quadrature to about 1e-7.
    pub std_error: StdError,
}

impl FinetuningColumn {
    /// Sets all numbers to NaN.
    pub(super) fn erase(&mut self) {
        match self {
            Self::Tied(order) => order.erase(),
            Self::Factors { b, a } => [b, a].into_iter().for_each(ColumnOrder::erase),
        }
    }

    /// The order parameters of the column, or of its two factors.
    pub(super) fn orders_mut(&mut self) -> Vec<&mut ColumnOrder> {
        match self {
            Self::Tied(order) => vec![order],
            Self::Factors { b, a } => vec![b, a],
        }
    }

    /// The order parameters of the column, or of its two factors, by their names in the schema.
    pub(crate) fn orders(&self) -> Vec<(&'static str, &ColumnOrder)> {
        match self {
            Self::Tied(order) => vec![("", order)],
            Self::Factors { b, a } => vec![("b.", b), ("a.", a)],
        }
    }
}

impl ColumnOrder {
    /// Sets all numbers to NaN.
    fn erase(&mut self) {
        let nan = f64::NAN;
        let alignment = self.alignment.map(|_| nan);
        let std_error = StdError::default();
        *self = Self { q: nan, m: nan, v: nan, q_hat: nan, m_hat: nan, v_hat: nan, alignment, std_error };
    }
}

impl FinetuningSolution {
    /// The numbers that have standard errors.
    pub(super) fn named(&self) -> Named {
        let FinetuningOrder { q, m, v, q_hat, m_hat, v_hat, eta } = self.order;
        let FinetuningErrors { test, test_clean, train, frozen, forgetting } = self.errors;
        let [q, m, v, q_hat, m_hat, v_hat, eta] = [q, m, v, q_hat, m_hat, v_hat, eta].map(Some);
        let [test, test_clean, train, frozen, forgetting] =
            [test, test_clean, train, frozen, forgetting].map(Some);
        let [objective, alignment] = [self.objective, self.alignment].map(Some);
        let [jump, replicon] = [self.validity.jump, self.validity.replicon].map(Some);
        Named {
            q,
            m,
            v,
            q_hat,
            m_hat,
            v_hat,
            eta,
            test,
            test_clean,
            train,
            frozen,
            forgetting,
            objective,
            alignment,
            jump,
            replicon,
            ..Named::default()
        }
    }

    /// Whether the solve ended near a fixed point. Away from one, error bars and derivatives mean nothing.
    pub(super) fn has_error_bars(&self) -> bool {
        matches!(self.status, Status::Converged | Status::Collapsed | Status::NoiseLimited)
    }

    /// Returns the solution if the solve succeeded.
    ///
    /// # Errors
    /// [`Error::NotConverged`] unless the status is converged or collapsed.
    pub fn into_converged(self) -> Result<Self, Error> {
        let FinetuningOrder { q, m, v, .. } = self.order;
        let point = format!("(q, m, v) = ({}, {}, {})", Number(q), Number(m), Number(v));
        Error::unless_converged("lora", self.status, self.residual, self.iterations, point)?;
        Ok(self)
    }
}
