//! The result of pre-training: order parameters, errors, and the status of the solve.

use serde::{Deserialize, Serialize};

use super::training::Pretraining;
use super::validity::PretrainingValidity;
use crate::attention::Attention;
use crate::divergence::Divergence;
use crate::error::{Error, Number};
use crate::frozen::Frozen;
use crate::nullable::number;
use crate::spectrum::TeacherMatrix;
use crate::status::Status;
use crate::std_error::{Named, StdError};

/// Order parameters of pre-training and their conjugates. The factor `4 alpha` of the conjugates is `alpha` in cross-attention.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PretrainingOrder {
    /// `Q = D^{-2} |S-hat|_F^2`.
    #[serde(deserialize_with = "number")]
    pub q: f64,
    /// `M = D^{-2} Tr(S-hat^T S*)`.
    #[serde(deserialize_with = "number")]
    pub m: f64,
    /// `V`, the linear response of `S-hat`.
    #[serde(deserialize_with = "number")]
    pub v: f64,
    /// `Qhat = 4 alpha E|g|^2`.
    #[serde(deserialize_with = "number")]
    pub q_hat: f64,
    /// `Mhat = 4 alpha E[div_h g]`.
    #[serde(deserialize_with = "number")]
    pub m_hat: f64,
    /// `Vhat = 4 alpha E[-div_omega g]`.
    #[serde(deserialize_with = "number")]
    pub v_hat: f64,
}

/// Errors per sequence, in the units of the loss `|sigma(h) - sigma(h*)|_F^2`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct PretrainingErrors {
    /// `E` on new sequences with noisy labels.
    #[serde(deserialize_with = "number")]
    pub test: f64,
    /// `E` on new sequences with noiseless labels.
    #[serde(deserialize_with = "number")]
    pub test_clean: f64,
    /// Error on the training sequences.
    #[serde(deserialize_with = "number")]
    pub train: f64,
}

/// Normalised traces of the learned weights `s_1 = s-hat` and of the teacher `s_2 = s*`, in units of `sqrt(D)`, beyond the overlaps.
///
/// With `s-hat = f(Y)`, `Y = Mhat s* + sqrt(Qhat) Z` and `f(x) = (x - 2 lambda sqrt(kappa))_+/Vhat` they are integrals over the spectrum of
/// `Y`. Fine-tuning on top of these weights needs them for its [coefficients of `D^{-1/2}`](crate::lora::FiniteSize).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct PretrainingMoments {
    /// `tr s*`. The trace of `s-hat` is the `trace` of the solution.
    pub trace0: f64,
    /// `[k_111, k_112, k_122, k_222]` with `k_ijl = tr(s_i s_j s_l)`.
    pub cubes: [f64; 4],
    /// `[tr(Rbar s-hat), tr(Rbar s*)]`, where `Rbar` is the function `int (f(x) - f(y))/(x - y) rho(y) dy` of the matrix `Y`; its trace
    /// is `V`.
    pub response_traces: [f64; 2],
}

/// A solved pre-training stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct PretrainingSolution {
    /// The attention of the layer.
    #[serde(default, skip_serializing_if = "Attention::is_tied")]
    pub attention: Attention,
    /// Order parameters and conjugates.
    pub order: PretrainingOrder,
    /// `Q0 = D^{-2} |S*|_F^2`, of the teacher.
    #[serde(deserialize_with = "number")]
    pub q0: f64,
    /// `tr s-hat`, the normalised trace of `S-hat/sqrt(D)`. In cross-attention it is the normalised nuclear norm, `int |f| rho`.
    #[serde(deserialize_with = "number")]
    pub trace: f64,
    /// Rank of `S-hat` over `D`.
    #[serde(deserialize_with = "number")]
    pub rank_fraction: f64,
    /// Train objective `L/D^2 = alpha (train error) + lambda sqrt(kappa) tr s-hat`, with `2 lambda sqrt(kappa)` in cross-attention, where both
    /// factors have a ridge. In direct training it is `alpha (train error) + lambda Q`.
    #[serde(deserialize_with = "number")]
    pub objective: f64,
    /// Test and train errors.
    pub errors: PretrainingErrors,
    /// `o_W = M/sqrt(Q Q0)`; 0 if collapsed.
    #[serde(deserialize_with = "number")]
    pub alignment: f64,
    /// Moments beyond the overlaps, for fine-tuning at a finite dimension; `None` unless `options.finite_size` asks for them, and in
    /// cross-attention.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moments: Option<PretrainingMoments>,
    /// Whether replica symmetry can be trusted at this solution.
    pub validity: PretrainingValidity,
    /// How the divergences of `g` were computed; `None` for linear attention, whose divergences are in closed
    /// form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub divergence: Option<Divergence>,
    /// How the solve ended.
    pub status: Status,
    /// Undamped residual of the state evolution. It is taken in the logarithms of `Q0 - 2M + Q + Delta/2` and
    /// `V` for linear attention, and of `M`, `Q - M^2/(Q0 + Delta/2)` and `V` otherwise. It is evaluated
    /// once more at the returned point: on the original equations for linear attention, and otherwise on
    /// all nodes, with proximal points searched from several starts.
    #[serde(deserialize_with = "number")]
    pub residual: f64,
    /// Number of evaluations of the spectral map.
    pub iterations: usize,
    /// Standard errors, from independent scrambles. All are absent for linear attention, which is exact to
    /// quadrature.
    pub std_error: StdError,
}

impl PretrainingSolution {
    /// The law of the frozen logits that fine-tuning takes from this pre-training.
    ///
    /// Three overlaps carry `Q0 - 2M + Q` to an absolute accuracy of 1e-16 `Q0` only. If the pre-training
    /// error is not far above that (no label noise, much data and hardly any ridge), the effective noise has
    /// few digits.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] if the solve left the finite numbers.
    pub fn freeze(&self) -> Result<Frozen, Error> {
        let frozen = Frozen::new(self.q0, self.order.q, self.order.m)?.with_attention(self.attention);
        let frozen = frozen.with_response(self.order.v)?;
        match self.moments {
            // The trace and Q of weights that are nearly a multiple of the identity are at the bound, up to the residual of the solve.
            Some(PretrainingMoments { trace0, cubes, response_traces }) => frozen
                .with_traces(self.trace.min(self.order.q.sqrt()), trace0.min(self.q0.sqrt()))?
                .with_cubes(cubes)?
                .with_response_traces(response_traces),
            None => Ok(frozen),
        }
    }

    /// The outcome of a solve that left the range of double precision.
    pub(super) fn without_numbers(teacher: &TeacherMatrix<'_>, iterations: usize) -> Self {
        let nan = f64::NAN;
        Self {
            attention: teacher.attention(),
            order: PretrainingOrder { q: nan, m: nan, v: nan, q_hat: nan, m_hat: nan, v_hat: nan },
            q0: teacher.second_moment(),
            trace: nan,
            rank_fraction: nan,
            objective: nan,
            errors: PretrainingErrors { test: nan, test_clean: nan, train: nan },
            alignment: nan,
            moments: None,
            validity: PretrainingValidity::none(),
            divergence: None,
            status: Status::NonFinite,
            residual: nan,
            iterations,
            std_error: StdError::default(),
        }
    }

    /// Returns the solution, unless its learned rank does not fit into the width of the student.
    pub(super) fn checked_rank(self, training: &Pretraining) -> Result<Self, Error> {
        let Self { status, rank_fraction, .. } = self;
        // Only a solution has a learned rank that can be too large. The factor allows for rounding.
        if status.is_success() && rank_fraction > training.kappa() * (1.0 + 1e-12) {
            return Err(Error::RankDoesNotFit { kappa: training.kappa(), rank_fraction });
        }
        Ok(self)
    }

    /// The numbers that have standard errors in sampled solutions.
    pub(super) fn named(&self) -> Named {
        let PretrainingOrder { q, m, v, q_hat, m_hat, v_hat } = self.order;
        let PretrainingErrors { test, test_clean, train } = self.errors;
        let [q, m, v, q_hat, m_hat, v_hat] = [q, m, v, q_hat, m_hat, v_hat].map(Some);
        let [test, test_clean, train, objective] = [test, test_clean, train, self.objective].map(Some);
        let [trace, rank_fraction, alignment] = [self.trace, self.rank_fraction, self.alignment].map(Some);
        let (contested, replicon) = (Some(self.validity.contested), self.validity.replicon);
        Named {
            q,
            m,
            v,
            q_hat,
            m_hat,
            v_hat,
            test,
            test_clean,
            train,
            objective,
            trace,
            rank_fraction,
            alignment,
            contested,
            replicon,
            ..Named::default()
        }
    }

    /// Returns the solution if the solve succeeded.
    ///
    /// # Errors
    /// [`Error::NotConverged`] unless the status is converged or collapsed.
    pub fn into_converged(self) -> Result<Self, Error> {
        let PretrainingOrder { q, m, v, .. } = self.order;
        let point = format!("(Q, M, V) = ({}, {}, {})", Number(q), Number(m), Number(v));
        Error::unless_converged("pretrain", self.status, self.residual, self.iterations, point)?;
        Ok(self)
    }
}
