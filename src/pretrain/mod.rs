//! Pre-training on `N = alpha D^2` sequences: the global minimum of
//!
//! ```text
//! L(W) = sum_mu |yhat_mu(W) - y_mu|_F^2 / D + lambda |W|_F^2
//! ```
//!
//! over `S = P^{-1/2} W W^T`, `W` of shape `D x kappa D`, in the limit of large `D`.
//!
//! The order parameters are `Q = D^{-2}|S-hat|_F^2`, `M = D^{-2} Tr(S-hat S*)` and the linear response `V`.
//! The *output channel* (the loss, through its proximal operator) gives their conjugates,
//! `Vhat = 4 alpha E[-div g]`, `Mhat = 4 alpha E[div_h g]`, `Qhat = 4 alpha E|g|^2`. The *input channel* (the
//! weights) turns the conjugates back into `Q, M, V` by a soft threshold of the spectrum of
//! `Mhat s* + sqrt(Qhat) Z` (see [`crate::spectrum`]). For linear attention training is convex and the result
//! is exact. For every other activation the output channel is an average by quasi-Monte-Carlo, and `std_error`
//! gives its accuracy.
//!
//! # Direct training
//!
//! The weights can be trained without factors ([`Parametrisation::Direct`]): `S` is any symmetric matrix, with the ridge `lambda |S|_F^2` in place of
//! `lambda |W|_F^2`. Per `D^2` the ridge is `lambda Q`, and the input channel minimises `Vhat s^2/4 - Y s/2 + lambda s^2` over every eigenvalue, so that
//! nothing is thresholded, and the weights are a multiple of `Y`, whatever the spectrum of the teacher:
//!
//! ```text
//! s-hat = Y/R,   R = Vhat + 4 lambda,   V = 1/R,   M = Mhat Q0/R,   Q = (Mhat^2 Q0 + Qhat)/R^2,   L/D^2 = alpha (train error) + lambda Q
//! ```
//!
//! The output channel is the same. There is no collapse, and the threshold of interpolation is that of counting ([`alpha_interp_of`]). What factors gain by their ridge,
//! which is a nuclear norm, and by positivity is the difference of the two. Source: this project.
//!
//! # Cross-attention
//!
//! With separate queries and keys ([`crate::Attention::Cross`]) training minimises
//!
//! ```text
//! L(U, V) = sum_mu |(sigma(X_q S X_k^T/D) - sigma_mu) X_k|_F^2 / D + lambda (|U|_F^2 + |V|_F^2)
//! ```
//!
//! over `S = P^{-1/2} U V^T`, where the ridge is `2 lambda sqrt(P)` times the nuclear norm of `S`. The `T^2` logits are independent and have the
//! variance `Q`. The output channel has `alpha` in place of `4 alpha`, and the proximal point minimises
//! `|sigma(h) - sigma(ht)|_F^2 + |h - omega|^2/(2V)`. The weights are the soft threshold `sign(x) (|x| - 2 lambda sqrt(kappa))_+/Vhat` of the singular values of
//! `Mhat s* + sqrt(Qhat) Z`, with `Z` a matrix of independent entries of variance `1/D`: with the law of the singular values and of their negatives for
//! `rho`, the integrals for `Q`, `M` and `V` are those of symmetric weights. For linear attention,
//! `E = Q0 - 2M + Q + Delta`; at `lambda = 0` and `alpha T^2 > 1` least squares gives `M = Q0` and `Q = Q0 + Delta/(alpha T^2 - 1)`. The rows of softmax are
//! independent, so that the averages are over `2 (T - 1)` normals; for two tokens they are taken by a product rule with `2^log2_nodes` nodes, without
//! standard errors. In direct training `R = Vhat + 2 lambda`. The model is that of independent sequences: the equations do not hold for self-attention, where `X_q = X_k`.
//!
//! Source: arXiv:2606.05899 for symmetric weights; F. Benaych-Georges, Probab. Theory Relat. Fields 144, 471 (2009), for the law of singular values.

mod bayes;
mod error_split;
mod interpolation;
mod learned_spectrum;
mod linear;
mod linear_error;
mod moments;
mod replicon;
mod sampled;
mod solution;
mod training;
mod validity;
mod weights_law;

use crate::activation::Parity;
use crate::check;
use crate::error::{Error, Number};
use crate::memory::Workload;
use crate::model::{Model, Specialisation};
use crate::options::Options;
use crate::state_evolution::Run;
use crate::threshold::Threshold;

// Every type has a name of its own within the crate. From outside, the path tells the stage.
pub use bayes::{
    PretrainingBayesErrors as BayesErrors, PretrainingBayesOrder as BayesOrder,
    PretrainingBayesSolution as BayesSolution, alpha_perfect_recovery, bayes_optimal,
};
pub use error_split::ErrorSplit;
pub use interpolation::{alpha_interp, alpha_interp_of};
pub use learned_spectrum::{Component, LearnedSpectrum, SpectrumTable};
pub use solution::{
    PretrainingErrors as Errors, PretrainingMoments as Moments, PretrainingOrder as Order,
    PretrainingSolution as Solution,
};
#[cfg(feature = "scenario")]
pub(crate) use training::PretrainFields;
pub use training::{Parametrisation, Pretraining as Training};
pub use validity::PretrainingValidity as Validity;

/// Solves the pre-training stage.
///
/// Linear attention: every order parameter is exact to about 1e-12 relative, over the whole domain. The
/// domain includes `lambda -> 0` on both sides of the interpolation threshold and the neighbourhood of
/// collapse. Of the options only `max_iterations` and `tolerance` matter. An iteration is an evaluation of
/// the spectral map: 10 to 20 are typical, and some extreme parameters need several hundred.
///
/// Every other activation: `8 x 2^13` nodes by default, and `8 x 2^12` for tied softmax. The divergences of `g` are pointwise where all starts of
/// the proximal point agree at every node, and by Gaussian integration by parts where a node has several
/// minima.
///
/// ```
/// use lora_asymptotics::{Model, Options, Teacher, pretrain};
///
/// let model = Model::linear(3, 0.5)?.with_teacher(Teacher::Wishart { kappa0: 1.0 })?;
/// let solution = pretrain::solve(&model, &pretrain::Training::new(0.1, 0.1)?, &Options::default())?.into_converged()?;
/// assert!((solution.errors.test - 0.927_399_034_266_594_5).abs() < 1e-12);
/// # Ok::<(), lora_asymptotics::Error>(())
/// ```
///
/// # Errors
/// [`Error::InvalidParameter`] or [`Error::MissingField`] for an invalid input, among them an even activation, and
/// `lambda = 0` at or below the interpolation threshold; [`Error::RankDoesNotFit`] if `kappa` is below the learned rank
/// fraction; [`Error::TooMuchMemory`] for more nodes than 2 GiB can hold, and [`Error::Threads`] if the
/// global thread pool cannot be started (neither for linear
/// attention).
pub fn solve(model: &Model, training: &Training, options: &Options) -> Result<Solution, Error> {
    solve_with(model, training, options, Run::default())
}

/// Solves the pre-training stage like [`solve`], but starts from the solution of a similar problem, which is
/// faster along an axis of parameters unless the attention is linear. Linear attention takes microseconds from
/// any start.
///
/// # Errors
/// The errors of [`solve`]. Every `previous` is allowed.
pub fn solve_from(
    model: &Model,
    training: &Training,
    options: &Options,
    previous: &Solution,
) -> Result<Solution, Error> {
    solve_with(model, training, options, Run::default().starting_from(previous))
}

/// Solves the pre-training stage like [`solve`], with the options of `run`: a similar solution to begin with,
/// an observer, and other constants of the search.
///
/// # Errors
/// The errors of [`solve`].
pub fn solve_with(
    model: &Model,
    training: &Training,
    options: &Options,
    run: Run<'_, Solution>,
) -> Result<Solution, Error> {
    let lambda = training.require_ridge()?;
    if model.activation().parity() == Parity::Even {
        let allowed = "an activation that is not even: zero weights are then always stationary, and the overlap has no sign";
        return Err(Error::invalid("model.activation", model.activation().name(), allowed));
    }
    Workload::Pretraining.check(model, options)?;
    let options = &Workload::Pretraining.options(model, options);
    let teacher = model.teacher_spectrum()?;
    let matrix = model.teacher_matrix(teacher.as_ref());
    if lambda <= 0.0 {
        require_over_determined(model, training)?;
    }
    let solution = match model.specialisation() {
        Specialisation::Linear => linear::solve(model, training, options, matrix, run),
        Specialisation::Softmax | Specialisation::General => {
            sampled::solve(model, training, options, matrix, run)
        }
    }?;
    Ok(if options.finite_size() {
        solution.with_moments(model, teacher.as_ref(), training)
    } else {
        solution
    })
}

/// The smallest ridge `lambda_c` at which `S-hat = 0` is stable, so that training collapses to it:
/// `2 lambda_c sqrt(kappa)` is the top edge of the spectrum of `Y` at `Q = M = V = 0`. The `lambda` of
/// `training` is not used. The result is infinite, with a status that says so, if `alpha` is so large that it
/// overflows. It is exact for linear attention. For every other activation it is an average over the nodes of
/// `options`, the same nodes as in [`solve`].
///
/// # Errors
/// [`Error::InvalidParameter`] or [`Error::MissingField`] for an invalid input; [`Error::Conflict`] for direct training, which does not
/// collapse at any ridge; [`Error::Threads`] if the global thread
/// pool cannot be started (not for linear attention).
pub fn lambda_collapse(model: &Model, training: &Training, options: &Options) -> Result<Threshold, Error> {
    training.require_factors("the ridge of collapse")?;
    let teacher = model.teacher_spectrum()?;
    let matrix = model.teacher_matrix(teacher.as_ref());
    match model.specialisation() {
        Specialisation::Linear => Ok(linear::lambda_collapse(model, training, matrix)),
        Specialisation::Softmax | Specialisation::General => {
            let options = Workload::Pretraining.options(model, options);
            sampled::lambda_collapse(model, training, &options, matrix)
        }
    }
}

/// One undamped step `(Q, M, V) -> (Q, M, V)` of the state evolution of linear attention: output channel,
/// then input channel. [`solve`] does not iterate this step but brackets the fixed point instead. The
/// function serves experiments with the iteration, for example by [`crate::fixed_point`].
///
/// # Errors
/// [`Error::InvalidParameter`] or [`Error::MissingField`] for an invalid model or training, or a point that
/// is not finite and non-negative.
pub fn linear_step(model: &Model, training: &Training, [q, m, v]: [f64; 3]) -> Result<[f64; 3], Error> {
    training.require_ridge()?;
    if model.specialisation() != Specialisation::Linear {
        return Err(Error::invalid("model.activation", model.activation().name(), "linear"));
    }
    for (field, value) in [("q", q), ("m", m), ("v", v)] {
        check::non_negative(field, value)?;
    }
    let teacher = model.teacher_spectrum()?;
    Ok(linear::step(model, training, [q, m, v], model.teacher_matrix(teacher.as_ref())))
}

fn require_over_determined(model: &Model, training: &Training) -> Result<(), Error> {
    // Closer to the threshold, rounding decides on which side of it the number of equations is.
    const RESOLVED: f64 = 1.0 + 4.0 * f64::EPSILON;
    let allowed = match alpha_interp_of(model, training.parametrisation())? {
        Some(threshold) if training.alpha() > RESOLVED * threshold.value => return Ok(()),
        Some(threshold) => format!("> 0 at pretrain.alpha <= alpha_interp = {}", Number(threshold.value)),
        None => {
            "> 0 where there is no interpolation threshold (at model.delta = 0, and next to it)".to_owned()
        }
    };
    Err(Error::invalid("pretrain.lambda", training.ridge(), allowed))
}
