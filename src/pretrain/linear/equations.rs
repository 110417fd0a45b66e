//! The state evolution of linear attention in the two numbers that its output channel depends on.
//!
//! With `c` the variance of a logit in units of `Q` (2 for tied attention and 1 for cross-attention), `E = Q0 - 2M + Q + Delta/c` and the
//! response `V`, the output channel is in closed form,
//!
//! ```text
//! Vhat = Mhat = c^2 alpha K b,   Qhat = c^3 alpha K b^2 E,   b = (2/T^2)/(1 + 2 c V/T^2),
//! ```
//!
//! and the input channel gives `E` and `V` back by integrals over the spectrum, without forming a difference
//! of `Q0`, `M` and `Q`.

use std::cell::Cell;

use crate::model::Model;
use crate::pretrain::training::Pretraining;
use crate::spectrum::{Denoised, TeacherMatrix};
use crate::state_evolution::{Averages, InputChannel, OutputChannel, Overlaps, Pass};

/// The parameters of the equations.
pub(super) struct ConvexEquations<'a> {
    pub(super) teacher: TeacherMatrix<'a>,
    /// `c alpha K`: labels per degree of freedom of a symmetric matrix, `D^2/2`, or of any matrix, `D^2`.
    pub(super) budget: f64,
    /// `Delta/c`.
    pub(super) noise: f64,
    /// `c`.
    pub(super) logit_variance: f64,
    pub(super) tokens_squared: f64,
    /// `lambda sqrt(kappa)`.
    pub(super) ridge: f64,
    pub(super) max_evaluations: usize,
    pub(super) evaluations: Cell<usize>,
}

impl<'a> ConvexEquations<'a> {
    pub(super) fn new(
        model: &Model,
        training: &Pretraining,
        teacher: TeacherMatrix<'a>,
        max_evaluations: usize,
    ) -> Self {
        let tokens = model.tokens() as f64;
        let logit_variance = teacher.logit_variance();
        Self {
            teacher,
            budget: logit_variance * training.alpha() * model.attention().coordinates(model.tokens()) as f64,
            noise: model.delta() / logit_variance,
            logit_variance,
            tokens_squared: tokens * tokens,
            ridge: training.ridge() * training.kappa().sqrt(),
            max_evaluations,
            evaluations: Cell::new(0),
        }
    }

    pub(super) fn evaluations(&self) -> usize {
        self.evaluations.get()
    }

    pub(super) fn denoise(&self, tau: f64, r: f64) -> Denoised {
        self.evaluations.set(self.evaluations.get() + 1);
        self.teacher.denoise(1.0 / tau, r)
    }

    /// `tau` at `Q = M = V = 0`.
    pub(super) fn tau_of_nothing(&self) -> f64 {
        ((self.teacher.second_moment() + self.noise) / self.budget).sqrt()
    }

    /// `Vhat` at `V = 0`.
    pub(super) fn stiffness_of_nothing(&self) -> f64 {
        2.0 * self.logit_variance * self.budget / self.tokens_squared
    }

    /// `Vhat` at `V`.
    fn stiffness(&self, v: f64) -> f64 {
        self.stiffness_of_nothing() / self.shrinkage(v)
    }

    /// `1 + 2 c V/T^2`, by which the residual of a training sequence is smaller than that of a new one.
    pub(super) fn shrinkage(&self, v: f64) -> f64 {
        1.0 + 2.0 * self.logit_variance * v / self.tokens_squared
    }

    /// `r tau (c alpha K - D)` at the fixed point, `lambda sqrt(kappa) T^2/c`.
    pub(super) fn target(&self) -> f64 {
        self.ridge * self.tokens_squared / self.logit_variance
    }

    /// The output channel.
    pub(super) fn conjugates(&self, point: &ErrorAndResponse) -> DenoiserInput {
        DenoiserInput { v_hat: self.stiffness(point.v), tau: (point.noisy_mse / self.budget).sqrt() }
    }

    /// The integrals of the input channel.
    pub(super) fn denoised(&self, conjugates: &DenoiserInput) -> Denoised {
        let DenoiserInput { v_hat, tau } = *conjugates;
        self.denoise(tau, 2.0 * self.ridge / (v_hat * tau))
    }

    /// One undamped step `(Q, M, V) -> (Q, M, V)` of the state evolution, given `Q0 - 2M + Q + Delta/c` and
    /// `V`.
    pub(super) fn step(&self, noisy_mse: f64, v: f64) -> [f64; 3] {
        let conjugates = self.conjugates(&ErrorAndResponse { noisy_mse, v });
        let Denoised { norm, overlap, response, .. } = self.denoised(&conjugates);
        let DenoiserInput { v_hat, tau } = conjugates;
        [tau * tau * norm, tau * overlap, response / v_hat]
    }
}

/// Order parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct ErrorAndResponse {
    /// `Q0 - 2M + Q + Delta/c`.
    pub(super) noisy_mse: f64,
    /// `V`.
    pub(super) v: f64,
}

impl Overlaps for ErrorAndResponse {
    fn coordinates(&self) -> Vec<f64> {
        vec![self.noisy_mse, self.v]
    }

    fn at(&self, coordinates: &[f64]) -> Self {
        match *coordinates {
            [noisy_mse, v] => Self { noisy_mse, v },
            _ => Self { noisy_mse: f64::NAN, v: f64::NAN },
        }
    }
}

/// The numbers that the input channel takes from the output channel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct DenoiserInput {
    /// `Vhat`, which equals `Mhat`.
    pub(super) v_hat: f64,
    /// `sqrt(Qhat)/Vhat`: the noise through which the denoiser sees `s*`.
    pub(super) tau: f64,
}

impl Averages for DenoiserInput {
    fn terms(&self) -> Vec<f64> {
        vec![self.v_hat, self.tau]
    }

    fn from_terms(terms: &[f64]) -> Self {
        match *terms {
            [v_hat, tau] => Self { v_hat, tau },
            _ => Self { v_hat: f64::NAN, tau: f64::NAN },
        }
    }
}

/// The output channel. There is a single replicate, because nothing is sampled.
pub(super) struct SquareLosses<'e, 'a>(pub(super) &'e ConvexEquations<'a>);

impl OutputChannel for SquareLosses<'_, '_> {
    type Point = ErrorAndResponse;
    type Averages = DenoiserInput;

    fn averages(&mut self, _level: usize, _pass: Pass, point: &ErrorAndResponse) -> Vec<DenoiserInput> {
        vec![self.0.conjugates(point)]
    }
}

/// The input channel: the soft threshold of the spectrum.
pub(super) struct ThresholdedWeights<'e, 'a>(pub(super) &'e ConvexEquations<'a>);

impl InputChannel for ThresholdedWeights<'_, '_> {
    type Point = ErrorAndResponse;
    type Averages = DenoiserInput;

    fn image(&self, _at: &ErrorAndResponse, conjugates: &DenoiserInput) -> ErrorAndResponse {
        let Denoised { risk, response, .. } = self.0.denoised(conjugates);
        let DenoiserInput { v_hat, tau } = *conjugates;
        ErrorAndResponse { noisy_mse: self.0.noise + tau * tau * risk, v: response / v_hat }
    }
}
