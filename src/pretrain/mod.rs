//! Pre-training on `N = alpha D^2` sequences: the global minimum of
//!
//! ```text
//! L(W) = sum_mu |yhat_mu(W) - y_mu|_F^2 / D + lambda |W|_F^2
//! ```
//!
//! over `S = P^{-1/2} W W^T`, `W` of shape `D x kappa D`, in the limit of large `D`.
//!
//! The order parameters are `Q = D^{-2}|S-hat|_F^2`, `M = D^{-2} Tr(S-hat S*)` and the linear response `V`. The
//! *output channel* (the loss, through its proximal operator) gives their conjugates,
//! `Vhat = 4 alpha E[-div g]`, `Mhat = 4 alpha E[div_h g]`, `Qhat = 4 alpha E|g|^2`; the *input channel* (the weights)
//! turns those back into `Q, M, V` by a soft threshold of the spectrum of `Mhat s* + sqrt(Qhat) Z`
//! (see [`crate::spectrum`]). For linear attention training is convex and the result exact; for softmax the output channel
//! is an average by quasi-Monte-Carlo, and `std_error` says how good.
//!
//! Source: arXiv:2606.05899.

mod bayes;
mod closed_form;
mod interpolation;
mod learned_spectrum;
mod linear;
mod softmax;
mod validity;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Number, check};
use crate::fixed_point::Status;
use crate::lora::{Divergence, Frozen};
use crate::memory::Averages;
use crate::model::{Activation, Model};
use crate::nullable::number;
use crate::observables;
use crate::options::Options;
use crate::spectrum::TeacherSpectrum;
use crate::state_evolution::Run;
use crate::std_error::StdError;
use crate::threshold::Threshold;

pub use bayes::{BayesErrors, BayesOrder, BayesSolution, alpha_perfect_recovery, bayes_optimal};
use closed_form::Equations;
pub use interpolation::alpha_interp;
pub use learned_spectrum::{Component, LearnedSpectrum, SpectrumTable};
use linear::FixedPoint;
pub use validity::Validity;

/// How the layer is pre-trained.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Training {
    /// Number of sequences over `D^2`; > 0.
    pub alpha: f64,
    /// Ridge on `|W|_F^2`; >= 0, and 0 only above the interpolation threshold.
    pub lambda: f64,
    /// Width of the student, `P/D`; > 0. Below 1, the learned rank fraction must fit.
    #[serde(default = "full_width")]
    pub kappa: f64,
}

fn full_width() -> f64 {
    1.0
}

impl Training {
    /// `alpha D^2` sequences, ridge `lambda`, and a student of full width (`kappa = 1`).
    #[must_use]
    pub fn new(alpha: f64, lambda: f64) -> Self {
        Self { alpha, lambda, kappa: 1.0 }
    }

    /// Checks every field by itself.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] names the first field that is out of range.
    pub fn validate(&self) -> Result<(), Error> {
        check::positive("pretrain.alpha", self.alpha)?;
        check::non_negative("pretrain.lambda", self.lambda)?;
        check::positive("pretrain.kappa", self.kappa)
    }
}

/// Order parameters of pre-training and their conjugates.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// `Q = D^{-2} |S-hat|_F^2`.
    #[serde(deserialize_with = "number")]
    pub q: f64,
    /// `M = D^{-2} Tr(S-hat S*)`.
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
#[non_exhaustive]
pub struct Errors {
    /// `E` on new sequences with noisy labels.
    #[serde(deserialize_with = "number")]
    pub test: f64,
    /// The same with the noise removed from the label.
    #[serde(deserialize_with = "number")]
    pub test_clean: f64,
    /// On the training sequences.
    #[serde(deserialize_with = "number")]
    pub train: f64,
}

/// A solved pre-training stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Solution {
    /// Order parameters and conjugates.
    pub order: Order,
    /// `Q0 = D^{-2} |S*|_F^2`, of the teacher.
    #[serde(deserialize_with = "number")]
    pub q0: f64,
    /// `tr s-hat`, the normalised trace of `S-hat/sqrt(D)`.
    #[serde(deserialize_with = "number")]
    pub trace: f64,
    /// Rank of `S-hat` over `D`.
    #[serde(deserialize_with = "number")]
    pub rank_fraction: f64,
    /// Train objective `L/D^2 = alpha (train error) + lambda sqrt(kappa) tr s-hat`.
    #[serde(deserialize_with = "number")]
    pub objective: f64,
    /// Test and train errors.
    pub errors: Errors,
    /// `o_W = M/sqrt(Q Q0)`; 0 if collapsed.
    #[serde(deserialize_with = "number")]
    pub alignment: f64,
    /// Whether to trust replica symmetry here.
    pub validity: Validity,
    /// How the divergences of `g` were computed; `None` for linear attention, where they are in closed form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub divergence: Option<Divergence>,
    /// How the solve ended.
    pub status: Status,
    /// Undamped residual of the state evolution: in the logarithms of `Q0 - 2M + Q + Delta/2` and `V` for linear attention, of `M`,
    /// `Q - M^2/(Q0 + Delta/2)` and `V` for softmax. It is evaluated once more at the returned point: on the original equations for linear
    /// attention, for softmax on all nodes, from all starts and without any memory of proximal points found before.
    #[serde(deserialize_with = "number")]
    pub residual: f64,
    /// Evaluations of the spectral map.
    pub iterations: usize,
    /// Standard errors, from independent scrambles; all absent for linear attention, which is exact to quadrature.
    pub std_error: StdError,
}

impl Solution {
    /// The law of the frozen logits that this pre-training hands to fine-tuning.
    ///
    /// Three overlaps carry `Q0 - 2M + Q` to an absolute accuracy of 1e-16 `Q0` only: where the pre-training error is not
    /// far above that (no label noise, much data and hardly any ridge), the effective noise has few digits.
    #[must_use]
    pub fn freeze(&self) -> Frozen {
        Frozen::new(self.q0, self.order.q, self.order.m).with_response(self.order.v)
    }

    /// The solution, if it is one.
    ///
    /// # Errors
    /// [`Error::NotConverged`] unless the status is converged or collapsed.
    pub fn into_converged(self) -> Result<Self, Error> {
        let Order { q, m, v, .. } = self.order;
        let point = format!("(Q, M, V) = ({}, {}, {})", Number(q), Number(m), Number(v));
        Error::unless_converged("pretrain", self.status, self.residual, self.iterations, point)?;
        Ok(self)
    }
}

/// Solves the pre-training stage.
///
/// Linear attention: every order parameter is exact to about 1e-12 relative, over the whole domain; `lambda -> 0` on
/// both sides of the interpolation threshold and the neighbourhood of collapse included. Of the options only
/// `max_iterations` (evaluations of the spectral map; 10 to 20 are typical, some hundreds needed in corners) and
/// `tolerance` matter.
///
/// Softmax attention: `4 x 2^14` nodes by default. The divergences of `g` are pointwise where all starts of the proximal point
/// agree at every node, and by Gaussian integration by parts where a node has several minima.
///
/// ```
/// use lora_asymptotics::{Model, Options, Teacher, pretrain};
///
/// let model = Model::linear(3, 0.5).with_teacher(Teacher::Wishart { kappa0: 1.0 });
/// let solution = pretrain::solve(&model, &pretrain::Training::new(0.1, 0.1), &Options::default())?.into_converged()?;
/// assert!((solution.errors.test - 0.927_399_034_266_594_5).abs() < 1e-12);
/// # Ok::<(), lora_asymptotics::Error>(())
/// ```
///
/// # Errors
/// [`Error::InvalidParameter`] or [`Error::MissingField`] for an invalid input, among them `lambda = 0` at or below the
/// interpolation threshold; [`Error::RankDoesNotFit`] if `kappa` is below the learned rank fraction;
/// [`Error::TooMuchMemory`] for more nodes than 2 GiB can hold (softmax).
pub fn solve(model: &Model, training: &Training, options: &Options) -> Result<Solution, Error> {
    solve_with(model, training, options, Run::default())
}

/// The same, beginning with the solution of a similar problem: faster along an axis of parameters for softmax attention.
/// Linear attention takes microseconds from any start.
///
/// # Errors
/// Those of [`solve`]. Any `previous` will do.
pub fn solve_from(
    model: &Model,
    training: &Training,
    options: &Options,
    previous: &Solution,
) -> Result<Solution, Error> {
    solve_with(model, training, options, Run::default().starting_from(previous))
}

/// The same, with company: a similar solution to begin with, an observer, other constants of the search.
///
/// # Errors
/// Those of [`solve`].
pub fn solve_with(
    model: &Model,
    training: &Training,
    options: &Options,
    run: Run<'_, Solution>,
) -> Result<Solution, Error> {
    model.validate()?;
    training.validate()?;
    options.validate()?;
    Averages::Pretraining.check(model, options)?;
    let teacher = model.teacher_spectrum()?;
    if training.lambda <= 0.0 {
        require_over_determined(model, training)?;
    }
    match model.activation {
        Activation::Linear => solve_linear(model, training, options, teacher.as_ref(), run),
        Activation::Softmax => softmax::solve(model, training, options, teacher.as_ref(), run),
    }
}

/// The smallest ridge `lambda_c` at which `S-hat = 0` is stable, so that training collapses to it:
/// `2 lambda_c sqrt(kappa)` is the top edge of the spectrum of `Y` at `Q = M = V = 0`. The `lambda` of `training` is
/// not used. Infinite, and so labelled, where `alpha` is so large that it overflows. Exact for linear attention; for softmax
/// an average over the nodes of `options`, the same as in [`solve`].
///
/// # Errors
/// [`Error::InvalidParameter`] or [`Error::MissingField`] for an invalid input.
pub fn lambda_collapse(model: &Model, training: &Training, options: &Options) -> Result<Threshold, Error> {
    model.validate()?;
    training.validate()?;
    options.validate()?;
    let teacher = model.teacher_spectrum()?;
    match model.activation {
        Activation::Linear => {
            let equations = Equations::new(model, training, teacher.as_ref(), usize::MAX);
            Ok(Threshold::exact(equations.collapse_ridge() / training.kappa.sqrt()))
        }
        Activation::Softmax => softmax::lambda_collapse(model, training, options, teacher.as_ref()),
    }
}

/// One undamped step `(Q, M, V) -> (Q, M, V)` of the state evolution of linear attention: output channel, then input
/// channel. [`solve`] does not iterate it (it brackets the fixed point instead); it is here for the curious, and for
/// [`crate::fixed_point`].
///
/// # Errors
/// [`Error::InvalidParameter`] or [`Error::MissingField`] for an invalid model or training, or a point that is not
/// finite and non-negative.
pub fn linear_step(model: &Model, training: &Training, [q, m, v]: [f64; 3]) -> Result<[f64; 3], Error> {
    model.validate()?;
    training.validate()?;
    if model.activation != Activation::Linear {
        return Err(Error::invalid("model.activation", "softmax", "linear"));
    }
    for (field, value) in [("q", q), ("m", m), ("v", v)] {
        check::non_negative(field, value)?;
    }
    let teacher = model.teacher_spectrum()?;
    let noisy_mse = (teacher.second_moment() - 2.0 * m + q).max(0.0) + 0.5 * model.delta;
    Ok(Equations::new(model, training, teacher.as_ref(), usize::MAX).step(noisy_mse, v))
}

fn require_over_determined(model: &Model, training: &Training) -> Result<(), Error> {
    let allowed = match alpha_interp(model)? {
        Some(threshold) if training.alpha > threshold.value => return Ok(()),
        Some(threshold) => format!("> 0 at pretrain.alpha <= alpha_interp = {}", Number(threshold.value)),
        None => {
            "> 0 where there is no interpolation threshold (at model.delta = 0, and next to it)".to_owned()
        }
    };
    Err(Error::invalid("pretrain.lambda", training.lambda, allowed))
}

fn solve_linear(
    model: &Model,
    training: &Training,
    options: &Options,
    teacher: &dyn TeacherSpectrum,
    mut run: Run<'_, Solution>,
) -> Result<Solution, Error> {
    let equations = Equations::new(model, training, teacher, options.max_iterations);
    let ridge = training.lambda * training.kappa.sqrt();
    let collapsed = equations.collapse_ridge() <= ridge;
    let point = if collapsed { Some(equations.collapsed()) } else { equations.solve() };
    let iterations = equations.evaluations();
    let Some(point) = point else {
        return Ok(without_numbers(teacher.second_moment(), iterations));
    };
    let (status, residual) = if collapsed {
        (Status::Collapsed, 0.0)
    } else {
        let solved = equations.certify(&point, options, run.observer())?;
        (solved.status, solved.residual)
    };
    let FixedPoint { order, trace, rank_fraction, mse } = point;
    // Only a solution has a learned rank to refuse. The allowance is for rounding.
    if status.is_success() && rank_fraction > training.kappa * (1.0 + 1e-12) {
        return Err(Error::RankDoesNotFit { kappa: training.kappa, rank_fraction });
    }
    let tokens = model.tokens;
    let test = observables::linear_pretraining_error(tokens, mse + 0.5 * model.delta);
    let shrinkage = 1.0 + 4.0 * order.v / (tokens * tokens) as f64;
    let train = test / (shrinkage * shrinkage);
    let q0 = teacher.second_moment();
    Ok(Solution {
        order,
        q0,
        trace,
        rank_fraction,
        objective: training.alpha * train + ridge * trace,
        errors: Errors { test, test_clean: observables::linear_pretraining_error(tokens, mse), train },
        alignment: observables::alignment(order.m, order.q, q0),
        validity: Validity::convex(status.is_success()),
        divergence: None,
        status,
        residual,
        iterations,
        std_error: StdError::default(),
    })
}

/// The outcome of a solve that left the range of double precision.
fn without_numbers(q0: f64, iterations: usize) -> Solution {
    let nan = f64::NAN;
    Solution {
        order: Order { q: nan, m: nan, v: nan, q_hat: nan, m_hat: nan, v_hat: nan },
        q0,
        trace: nan,
        rank_fraction: nan,
        objective: nan,
        errors: Errors { test: nan, test_clean: nan, train: nan },
        alignment: nan,
        validity: Validity::none(),
        divergence: None,
        status: Status::NonFinite,
        residual: nan,
        iterations,
        std_error: StdError::default(),
    }
}
