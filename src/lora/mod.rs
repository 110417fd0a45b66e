//! Fine-tuning on `N' = alpha' D` sequences with a rank-one perturbation of the frozen weights: the global
//! minimum of
//!
//! ```text
//! L'(w) = sum_mu |sigma(beta h(S-hat) + h1(w)) X - y'_mu|_F^2 / D + lambda' |w|^2
//! ```
//!
//! over `w` in `R^D`, for labels made by a perturbation `w*` with entries of variance `q0`, in the limit of
//! large `D`.
//!
//! The order parameters are `q = |w-hat|^2/D`, `m = w-hat.w*/D` and the linear response `v`. The proximal
//! point is `chi_p = argmin l'(chi; q) + |chi - omega|^2/(2v)`, with `g = (chi_p - omega)/v`. The *output
//! channel* averages it over the frozen logits and the Gaussian fields of each token,
//! `(chi*, omega) ~ N(0, [[q0, m], [m, q]])`:
//!
//! ```text
//! vhat = alpha' E[-div_omega g],    mhat = alpha' E[div_chi* g],
//! qhat = alpha' E|g|^2,             eta  = alpha' E[d l'(chi_p; q)/dq],
//! ```
//!
//! and the *input channel* is a ridge problem: with `r = vhat + 2 lambda' + 2 eta`,
//!
//! ```text
//! m = mhat q0/r,    q = (mhat^2 q0 + qhat)/r^2,    v = 1/r
//! ```
//!
//! Weights of several columns, `w` in `R^{D x r}` and `w*` in `R^{D x r0}`, perturb the attention matrix by `w w^T`. Because
//! `w* w*^T` does not change under `w* -> w* O`, the covariance of the true columns is taken diagonal, `q0_k`. Column `k` then
//! learns true column `k`, the one of the `k`-th largest `q0_k`, and the equations above hold for the triple
//! `(q_k, m_k, v_k)` of every column. The columns are coupled through the proximal point, in `R^{T x r}`, and through the
//! centring, which sees `tr q`. True columns beyond `r` stay in the label; learned columns beyond `r0` have `m_k = 0`.
//! Columns are beyond the paper: they follow from its equations in matrix form.
//!
//! # Two factors
//!
//! With cross-attention (`attention = "cross"`), the logits are `h(S) = X_q S X_k^T/D` with all `T^2` entries, and the perturbation is
//! `b a^T` with two factors in `R^{D x r}`, that of the truth `b* a*^T`. `(b, a)` minimises
//!
//! ```text
//! L'(b, a) = sum_mu |sigma(beta z + chi psi^T) - sigma(z* + chi* psi*^T + sqrt(Delta) xi)|_F^2 + lambda' (|b|^2 + |a|^2)
//! ```
//!
//! with `chi = X_q b/sqrt(D)` and `psi = X_k a/sqrt(D)`. The proximal point minimises
//! `l' + |chi - omega_b|^2/(2 v_b) + |psi - omega_a|^2/(2 v_a)` over both, and each factor has the equations above, with `eta = 0` because there is no
//! centring. `q_b = q_a` at every fixed point, as at every stationary point of `L'`; for linear attention `m_b = m_a` and
//! `v_b = v_a`, too. Softmax does not see the part of `psi` along `1`. The equations are those of this project; `docs/two_factors.md` has the
//! comparison with training.
//!
//! The treatment is replica symmetric, and the loss is not convex. [`Validity`] says when to trust a
//! solution.
//! Source: arXiv:2606.05899.

mod bayes;
mod channel;
mod columns;
mod finite_size;
mod fit;
mod overlap_limits;
mod problem;
mod report;
mod ridge;
mod solution;
mod starts;
mod training;
mod units;
mod validity;
mod variances;
mod weak_recovery;
mod zero_weights;

use crate::attention::Attention;
use crate::error::Error;
use crate::model::{Model, Specialisation};
use crate::options::Options;
use crate::state_evolution::Run;
use crate::threshold::Threshold;

pub use crate::divergence::Divergence;
pub use crate::fields::{Score, Selection, Sequences};
pub use crate::frozen::Frozen;
pub use crate::verdict::Verdict;
// Every type has a name of its own within the crate. From outside, the path tells the stage.
pub use bayes::{
    BayesBranch, BayesBranches, BayesCurve, FinetuningBayesErrors as BayesErrors,
    FinetuningBayesOrder as BayesOrder, FinetuningBayesSolution as BayesSolution, bayes_optimal,
};
#[cfg(feature = "simulate")]
pub(crate) use bayes::{Denoiser, denoiser};
pub use channel::{ConjugateEstimator, FieldOverlaps, LossAverages, LossChannel};
#[cfg(feature = "scenario")]
pub(crate) use finite_size::check_finite_size;
pub use ridge::Conjugates;
pub use solution::{
    Branch, ColumnOrder, EffectiveNoise, FinetuningColumn as Column, FinetuningErrors as Errors,
    FinetuningOrder as Order, FinetuningSolution as Solution, FiniteSize,
};
pub use training::Finetuning as Training;
#[cfg(feature = "scenario")]
pub(crate) use training::LoraFields;
pub use validity::FinetuningValidity as Validity;
pub use weak_recovery::{WeakRecovery, WeakRecoveryThreshold};

use problem::FinetuningProblem;
use starts::FinetuningStarts;

/// The smallest ridge `lambda'_c` at which `w = 0` is stable against an overlap with the truth, so that
/// fine-tuning collapses. With `H0` the curvature of the loss of a sample at `w = 0`,
/// `R = H0 (I + v H0)^{-1}`, and `eta0 = alpha' E[dl'/dq]` at `w = 0`, the equations are
///
/// ```text
/// alpha' E[tr R - chi*^T R chi*/q0] = 1/v,
/// lambda'_c = -(alpha'/2) E[chi*^T R chi*]/q0 - eta0
/// ```
///
/// The result is `None` if the first equation has no root (little data), and for linear attention and every other
/// activation that is not bounded. The `lambda` of `training` is not used.
///
/// With the two factors of cross-attention, let `G` be the derivative of the loss of a sample by the logits at `b = a = 0`. Both factors have
/// the same response `v`, and with `R_bb = -v G G^T (1 - v^2 G G^T)^{-1}`, `R_aa` the same with `G^T G`, and
/// `R_ba = G (1 - v^2 G^T G)^{-1}`,
///
/// ```text
/// 2 lambda'_c = 1/v - alpha' E tr R_bb,
/// 2 lambda'_c = top eigenvalue of -(alpha'/q0) E [[chi*^T R_bb chi*, chi*^T R_ba psi*], [., psi*^T R_aa psi*]]
/// ```
///
/// The result is `None` if there is no such `v`, or below the noise edge ([`lambda_noise_edge`]), which is then the ridge of collapse. For linear
/// attention, samples with `v s_1(G)` close to 1 are left out. They are exponentially rare, and without them the threshold is sharp:
/// above it the solve says `collapsed`, although strictly the weights are exponentially small. (This project.)
///
/// # Errors
/// [`Error::InvalidParameter`] or [`Error::MissingField`] for an invalid input; [`Error::Conflict`] for a perturbation of several
/// columns; [`Error::TooMuchMemory`] for
/// more nodes than 2 GiB can hold; [`Error::Threads`] if the global thread pool cannot be started.
pub fn lambda_collapse(
    model: &Model,
    frozen: &Frozen,
    training: &Training,
    options: &Options,
) -> Result<Option<Threshold>, Error> {
    training.require_rank_one("a threshold of collapse")?;
    fit::check(model, frozen, training, options)?;
    let problem = FinetuningProblem::new(model, frozen, training, options);
    match (model.attention(), model.specialisation()) {
        (Attention::Cross, _) => Ok(columns::critical_ridges(&problem)?[0]),
        (Attention::Tied, Specialisation::Linear) => Ok(None),
        (Attention::Tied, Specialisation::Softmax | Specialisation::General) => problem.lambda_collapse(),
    }
}

/// The ridge at which the norm of vanishing weights begins to grow without any overlap with the truth, the noise edge:
/// `alpha' v^2 E tr R^2 = 1` with `1/v = alpha' E tr R + 2 lambda' + 2 eta0`, in the notation of [`lambda_collapse`]. With two factors it is
/// `alpha' v^2 E(|R_bb|^2 + |R_ba|^2) = 1` with `1/v = alpha' E tr R_bb + 2 lambda'`.
///
/// Where `lambda_collapse` is above it, the weights collapse there, out of a state with an overlap. Where there is no such threshold, they
/// collapse at the noise edge, out of a state without overlap.
///
/// With little data the equation has no root up to the response at which the steepest sample is not at zero weights any more, and the edge is the
/// ridge at that response. It is that of the nodes: with more of them there are steeper samples. The
/// status is then `noise_limited`, and the standard error contains the difference between all nodes and those of one scramble.
///
/// The result is `None` for linear attention and every other activation whose loss is not bounded, with a single factor or with little data, because
/// there is no steepest sample. (This project.)
///
/// # Errors
/// The errors of [`lambda_collapse`].
pub fn lambda_noise_edge(
    model: &Model,
    frozen: &Frozen,
    training: &Training,
    options: &Options,
) -> Result<Option<Threshold>, Error> {
    training.require_rank_one("a noise edge")?;
    fit::check(model, frozen, training, options)?;
    let problem = FinetuningProblem::new(model, frozen, training, options);
    match (model.attention(), model.specialisation()) {
        (Attention::Cross, _) => Ok(columns::critical_ridges(&problem)?[1]),
        (Attention::Tied, Specialisation::Linear) => Ok(None),
        (Attention::Tied, Specialisation::Softmax | Specialisation::General) => problem.lambda_noise_edge(),
    }
}

/// Whether an overlap with the truth grows from a vanishing one, at the `alpha'` and `lambda'` of `training`.
/// The answer is the stability of the fixed point `m = 0`, with the verdict on replica symmetry at that
/// point. It serves phase diagrams.
///
/// # Errors
/// [`Error::InvalidParameter`] or [`Error::MissingField`] for an invalid input; [`Error::Conflict`] for a perturbation of several
/// columns; [`Error::TooMuchMemory`] for
/// more nodes than 2 GiB can hold; [`Error::Threads`] if the global thread pool cannot be started.
pub fn weak_recovery(
    model: &Model,
    frozen: &Frozen,
    training: &Training,
    options: &Options,
) -> Result<WeakRecovery, Error> {
    search(model, frozen, training, options, |mut search| weak_recovery::at(&mut search, training.alpha()))
}

/// The threshold `alpha'_c` of weak recovery at the ridge of `training`. The search starts at the `alpha` of
/// `training` and covers a factor `1e4` in either direction; the result is `None` if there is no threshold in
/// that range. Check the verdict: at small ridges the threshold lies where replica symmetry does not hold.
///
/// # Errors
/// [`Error::InvalidParameter`] or [`Error::MissingField`] for an invalid input; [`Error::Conflict`] for a perturbation of several
/// columns; [`Error::TooMuchMemory`] for
/// more nodes than 2 GiB can hold; [`Error::Threads`] if the global thread pool cannot be started.
pub fn alpha_weak_recovery(
    model: &Model,
    frozen: &Frozen,
    training: &Training,
    options: &Options,
) -> Result<Option<WeakRecoveryThreshold>, Error> {
    search(model, frozen, training, options, |mut search| {
        weak_recovery::threshold(&mut search, training.alpha())
    })
}

/// The output channel of fine-tuning by itself, for a state evolution with an input channel of your own: another
/// regulariser of the weights, or another law of the truth. Every law of the entries of `w*` with mean zero and
/// variance `q0` gives this output channel, because the fields of many entries are Gaussian. The ridge of
/// `training` and the teacher of `model` are not used.
///
/// [`solve`] also recognises weights that vanish altogether. A state evolution with this channel does not: where a
/// penalty makes all weights vanish, as it can for a bounded activation, its iteration ends without a fixed point.
///
/// [`LossChannel`] has an example.
///
/// # Errors
/// [`Error::InvalidParameter`] or [`Error::MissingField`] for an invalid input; [`Error::Conflict`] for a perturbation of several
/// columns; [`Error::TooMuchMemory`] for
/// more nodes than 2 GiB can hold; [`Error::Threads`] if the global thread pool cannot be started.
pub fn loss_channel(
    model: &Model,
    frozen: &Frozen,
    training: &Training,
    options: &Options,
) -> Result<LossChannel, Error> {
    training.require_rank_one("an output channel by itself")?;
    fit::require_tied(model, "an output channel by itself")?;
    fit::check(model, frozen, training, options)?;
    FinetuningProblem::new(model, frozen, training, options).loss_channel()
}

/// Validates the inputs, and returns the result of `run` on the search for fixed points.
fn search<R: Send>(
    model: &Model,
    frozen: &Frozen,
    training: &Training,
    options: &Options,
    run: impl FnOnce(FinetuningStarts<'_>) -> Result<R, Error> + Send,
) -> Result<R, Error> {
    training.require_ridge()?;
    training.require_rank_one("weak recovery")?;
    fit::require_tied(model, "weak recovery")?;
    fit::check(model, frozen, training, options)?;
    FinetuningProblem::new(model, frozen, training, options).search(run)
}

/// Solves the fine-tuning stage on top of frozen weights. The teacher of `model` is not used.
///
/// ```
/// use lora_asymptotics::{Model, Options, lora};
///
/// let model = Model::linear(2, 0.5)?;
/// let frozen = lora::Frozen::new(1.5, 1.3, 1.25)?;
/// let solution = lora::solve(&model, &frozen, &lora::Training::fresh(3.0, 0.2)?, &Options::default())?.into_converged()?;
/// assert!(solution.validity.reliable);
/// assert!(solution.alignment > 0.9 && solution.errors.test < solution.errors.frozen);
/// # Ok::<(), lora_asymptotics::Error>(())
/// ```
///
/// # Errors
/// [`Error::InvalidParameter`] or [`Error::MissingField`] for an invalid input; [`Error::TooMuchMemory`] for
/// more nodes than 2 GiB can hold; [`Error::Threads`] if the global thread pool cannot be started. If the options ask for
/// [`FiniteSize`], [`Error::Conflict`] for selected sequences and for several columns, and [`Error::MissingField`] unless `frozen` has its third moments.
pub fn solve(
    model: &Model,
    frozen: &Frozen,
    training: &Training,
    options: &Options,
) -> Result<Solution, Error> {
    solve_with(model, frozen, training, options, Run::default())
}

/// Solves the fine-tuning stage like [`solve`], but starts from the solution of a similar problem, which is
/// faster along an axis of parameters. If that start does not lead to a reliable overlap, all starts of
/// [`solve`] are tried. Of several fixed points with an overlap, the search finds the one that continues the
/// previous one.
///
/// # Errors
/// The errors of [`solve`]. Every `previous` is allowed.
pub fn solve_from(
    model: &Model,
    frozen: &Frozen,
    training: &Training,
    options: &Options,
    previous: &Solution,
) -> Result<Solution, Error> {
    solve_with(model, frozen, training, options, Run::default().starting_from(previous))
}

/// Solves the fine-tuning stage like [`solve`], with the options of `run`: a similar solution to begin with,
/// an observer, and other constants of the search.
///
/// # Errors
/// The errors of [`solve`].
pub fn solve_with(
    model: &Model,
    frozen: &Frozen,
    training: &Training,
    options: &Options,
    run: Run<'_, Solution>,
) -> Result<Solution, Error> {
    training.require_ridge()?;
    fit::check(model, frozen, training, options)?;
    let third = finite_size::required_moments(model, training, frozen, options)?;
    let problem = FinetuningProblem::new(model, frozen, training, options);
    let single = training.is_rank_one() && model.attention() == Attention::Tied;
    if single { problem.solve(third.as_ref(), run) } else { columns::solve(&problem, run) }
}
