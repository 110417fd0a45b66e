//! Moments of the learned weights beyond the overlaps, for fine-tuning at a finite dimension.

use super::solution::{PretrainingMoments, PretrainingSolution};
use super::training::{Parametrisation, Pretraining};
use crate::attention::Attention;
use crate::model::Model;
use crate::spectrum::{MixedTraces, TeacherSpectrum, linear_traces, mixed_traces};
use crate::status::Status;

impl PretrainingSolution {
    /// The same solution with its moments, for tied attention and a point with numbers.
    pub(super) fn with_moments(
        self,
        model: &Model,
        teacher: &dyn TeacherSpectrum,
        training: &Pretraining,
    ) -> Self {
        if model.attention() != Attention::Tied || self.status == Status::NonFinite {
            return self;
        }
        let order = self.order;
        let noise = order.q_hat.sqrt();
        let snr = order.m_hat / noise;
        // The traces are those of a function with unit slope, of a matrix in units of its noise. In direct training `f` is linear, with
        // the slope `V`.
        let (traces, stiffness) = match training.parametrisation() {
            Parametrisation::Factorised => {
                let threshold = 2.0 * training.ridge() * training.kappa().sqrt();
                (mixed_traces(teacher, snr, threshold / noise), order.v_hat)
            }
            Parametrisation::Direct => (linear_traces(teacher, snr), 1.0 / order.v),
        };
        let MixedTraces { hhh, hhs, hss, sss, response_h, response_s } = traces;
        let unit = noise / stiffness;
        let response = 1.0 / stiffness;
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
