//! Moments of the learned weights beyond the overlaps, for fine-tuning at a finite dimension.

use serde::{Deserialize, Serialize};

use super::solution::PretrainingSolution;
use super::training::{Parametrisation, Pretraining};
use crate::attention::Attention;
use crate::model::Model;
use crate::spectrum::{MixedTraces, TeacherSpectrum, mixed_traces};
use crate::status::Status;

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

impl PretrainingSolution {
    /// The same solution with its moments, for tied attention, trained factors and a point with numbers.
    pub(super) fn with_moments(
        self,
        model: &Model,
        teacher: &dyn TeacherSpectrum,
        training: &Pretraining,
    ) -> Self {
        let direct = training.parametrisation() == Parametrisation::Direct;
        if direct || model.attention() != Attention::Tied || self.status == Status::NonFinite {
            return self;
        }
        let order = self.order;
        let noise = order.q_hat.sqrt();
        let threshold = 2.0 * training.ridge() * training.kappa().sqrt();
        let traces = mixed_traces(teacher, order.m_hat / noise, threshold / noise);
        let MixedTraces { hhh, hhs, hss, sss, response_h, response_s } = traces;
        // The traces are those of the threshold with unit slope, of a matrix in units of its noise.
        let unit = noise / order.v_hat;
        let response = 1.0 / order.v_hat;
        let moments = PretrainingMoments {
            trace0: teacher.mean(),
            cubes: [unit.powi(3) * hhh, unit * unit * hhs, unit * hss, sss],
            response_traces: [unit * response * response_h, response * response_s],
        };
        let numbers = moments.cubes.iter().chain(&moments.response_traces);
        let finite = numbers.copied().chain([moments.trace0]).all(f64::is_finite);
        Self { moments: finite.then_some(moments), ..self }
    }
}
