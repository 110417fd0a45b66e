//! The learned weights as a function of the matrix `y = snr s* + Z` that their denoiser sees.

use super::solution::PretrainingSolution;
use super::training::{Parametrisation, Pretraining};
use crate::error::Error;
use crate::model::Model;

/// The weights `unit (y - threshold)_+`, or `unit y` in direct training.
#[derive(Debug, Clone, Copy)]
pub(super) struct WeightsLaw {
    /// `Mhat/sqrt(Qhat)`.
    pub(super) snr: f64,
    /// `2 lambda sqrt(kappa)/sqrt(Qhat)`; 0 in direct training, which has no threshold.
    pub(super) threshold: f64,
    /// `sqrt(Qhat)/Vhat`, with the curvature of the ridge added to `Vhat` in direct training.
    pub(super) unit: f64,
}

impl WeightsLaw {
    /// The law for a solution of [`solve`](super::solve) with the same model and training.
    ///
    /// # Errors
    /// [`Error::MissingField`] for a training without a ridge; [`Error::NotConverged`] unless the solution is converged or collapsed;
    /// [`Error::InvalidParameter`] for a solution made by hand whose conjugates are not finite and positive.
    pub(super) fn new(
        model: &Model,
        training: &Pretraining,
        solution: &PretrainingSolution,
    ) -> Result<Self, Error> {
        let solution = solution.clone().into_converged()?;
        let ridge = training.require_ridge()?;
        let noise = solution.order.q_hat.sqrt();
        let snr = solution.order.m_hat / noise;
        let (threshold, stiffness) = match training.parametrisation() {
            Parametrisation::Factorised => {
                (2.0 * ridge * training.kappa().sqrt() / noise, solution.order.v_hat)
            }
            Parametrisation::Direct => {
                (0.0, solution.order.v_hat + 2.0 * model.attention().logit_variance() * ridge)
            }
        };
        let unit = noise / stiffness;
        let meaningful = [snr, threshold, unit].iter().all(|x| x.is_finite() && *x >= 0.0);
        if !(meaningful && unit > 0.0) {
            let allowed = "one with finite positive conjugates";
            return Err(Error::invalid("solution.order", format!("{:?}", solution.order), allowed));
        }
        Ok(Self { snr, threshold, unit })
    }
}
