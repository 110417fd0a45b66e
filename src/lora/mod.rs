//! Fine-tuning on `N' = alpha' D` sequences with a rank-one perturbation of the frozen weights: the global minimum of
//!
//! ```text
//! L'(w) = sum_mu |sigma(beta h(S-hat) + h1(w)) X - y'_mu|_F^2 / D + lambda' |w|^2
//! ```
//!
//! over `w` in `R^D`, for labels made by a perturbation `w*` with entries of variance `q0`, in the limit of large `D`.
//!
//! The order parameters are `q = |w-hat|^2/D`, `m = w-hat.w*/D` and the linear response `v`. The *output channel* averages
//! the proximal point `chi_p = argmin l'(chi; q) + |chi - omega|^2/(2v)`, `g = (chi_p - omega)/v`, over the frozen
//! logits and the Gaussian fields of each token, `(chi*, omega) ~ N(0, [[q0, m], [m, q]])`:
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
//! The treatment is replica symmetric, and the loss is not convex: see [`Validity`] for when to trust a solution.
//! Source: arXiv:2606.05899.

mod bayes;
mod label_noise;
mod linear;
mod moments;
mod report;
mod ridge;
mod softmax;
mod starts;
mod units;
mod validity;
mod weak_recovery;
mod zero_weights;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Number, check};
use crate::fixed_point::Status;
use crate::memory::Averages;
use crate::model::{Activation, Model};
use crate::nullable::number;
use crate::observables;
use crate::options::Options;
use crate::state_evolution::Run;
use crate::std_error::StdError;
use crate::threshold::Threshold;

pub use crate::validity::Verdict;
pub use bayes::{
    BayesBranch, BayesBranches, BayesCurve, BayesErrors, BayesOrder, BayesSolution, bayes_optimal,
};
#[cfg(feature = "simulate")]
pub(crate) use bayes::{Denoiser, denoiser};
pub use validity::Validity;
pub use weak_recovery::{WeakRecovery, WeakRecoveryThreshold};

use starts::Starts;

/// What fine-tuning sees of the frozen weights: the overlaps that fix the joint law of the true logits `h*` and the frozen
/// logits `h`, `N(0, 2 [[Q0, M], [M, Q]])` per orthonormal coordinate on new sequences.
///
/// Made by [`pretrain::Solution::freeze`](crate::pretrain::Solution::freeze), or by hand from measured overlaps, see [`Frozen::new`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Frozen {
    /// `Q0 = |S*|_F^2/D^2` of the true weights; > 0.
    pub q0: f64,
    /// `Q = |S-hat|_F^2/D^2` of the frozen weights, before recalibration; >= 0.
    pub q: f64,
    /// `M = Tr(S-hat S*)/D^2`; `0 <= M <= sqrt(Q Q0)`.
    pub m: f64,
    /// `V >= 0`, the linear response of the pre-training. It matters on reused sequences only, and must be given there: 0 for frozen
    /// weights that do not know those sequences.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v: Option<f64>,
}

impl Frozen {
    /// Frozen weights with the given overlaps, for fine-tuning on fresh or selected sequences.
    #[must_use]
    pub const fn new(q0: f64, q: f64, m: f64) -> Self {
        Self { q0, q, m, v: None }
    }

    /// The same, with the linear response `V` of the pre-training, as fine-tuning on reused sequences needs it.
    #[must_use]
    pub const fn with_response(self, v: f64) -> Self {
        Self { v: Some(v), ..self }
    }

    /// Checks every field.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] names the first field that is out of range.
    pub fn validate(&self) -> Result<(), Error> {
        check::positive("frozen.q0", self.q0)?;
        check::non_negative("frozen.q", self.q)?;
        check::non_negative("frozen.m", self.m)?;
        if let Some(v) = self.v {
            check::non_negative("frozen.v", v)?;
        }
        // Overlaps of a solved pre-training, or typed in with all their digits, may touch the bound.
        let bound = observables::largest_overlap(self.q, self.q0);
        if !observables::is_possible(self.m, bound) {
            return Err(Error::invalid("frozen.m", self.m, format!("<= sqrt(q q0) = {}", Number(bound))));
        }
        Ok(())
    }

    /// Checks that the response is there if fine-tuning on `sequences` needs it.
    pub(crate) fn require_response(&self, sequences: &Sequences) -> Result<(), Error> {
        match (sequences, self.v) {
            (Sequences::Reused, None) => Err(Error::MissingField {
                field: "frozen.v",
                reason: "reused sequences need the response of the pre-training (0 if it did not see them)",
            }),
            _ => Ok(()),
        }
    }
}

/// Which coordinates of the frozen logits `z` active selection looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Score {
    /// `|z|_F`, all `T(T+1)/2` coordinates.
    #[default]
    Frobenius,
    /// `|z - <z, u> u|_F` with `u = 11^T/T`, the direction that softmax cannot see.
    Centred,
}

impl fmt::Display for Score {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Frobenius => "frobenius",
            Self::Centred => "centred",
        })
    }
}

/// Active selection: of the fresh sequences at hand, keep those with the smallest scores.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selection {
    /// Fraction kept, in `(0, 1]`.
    pub fraction: f64,
    /// The score.
    #[serde(default)]
    pub score: Score,
}

/// Which sequences fine-tuning is trained on. The test law is always that of new sequences.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Sequences {
    /// New ones.
    #[default]
    Fresh,
    /// A subset of the pre-training sequences, with the same label noise.
    Reused,
    /// Selected among new ones by a score of the frozen logits.
    Active(Selection),
}

/// How the perturbation is trained.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Training {
    /// Number of sequences trained on (after selection), over `D`; > 0.
    pub alpha: f64,
    /// Ridge `lambda'` on `|w|^2`; >= 0.
    pub lambda: f64,
    /// Variance `q0` of the entries of the true perturbation; in [`Training::VARIANCES`].
    #[serde(default = "one")]
    pub q0: f64,
    /// Recalibration of the frozen weights, `S-hat -> beta S-hat`; >= 0.
    #[serde(default = "one")]
    pub beta: f64,
    /// The sequences trained on.
    #[serde(default)]
    pub sequences: Sequences,
}

fn one() -> f64 {
    1.0
}

impl Training {
    /// Range of `q0`: what can be squared without a thought of the range of double precision.
    pub const VARIANCES: [f64; 2] = [1e-100, 1e100];

    /// `alpha D` fresh sequences and ridge `lambda`, with `q0 = 1` and no recalibration.
    #[must_use]
    pub fn new(alpha: f64, lambda: f64) -> Self {
        Self { alpha, lambda, q0: 1.0, beta: 1.0, sequences: Sequences::Fresh }
    }

    /// Checks every field.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] names the first field that is out of range.
    pub fn validate(&self) -> Result<(), Error> {
        check::positive("lora.alpha", self.alpha)?;
        check::non_negative("lora.lambda", self.lambda)?;
        check_variance(self.q0)?;
        check::non_negative("lora.beta", self.beta)?;
        match self.sequences {
            Sequences::Active(Selection { fraction, .. }) if !(fraction > 0.0 && fraction <= 1.0) => {
                Err(Error::invalid("lora.sequences.active.fraction", fraction, "in (0, 1]"))
            }
            _ => Ok(()),
        }
    }
}

/// Checks the variance `lora.q0` of the true perturbation.
fn check_variance(q0: f64) -> Result<(), Error> {
    let [low, high] = Training::VARIANCES;
    if (low..=high).contains(&q0) {
        Ok(())
    } else {
        Err(Error::invalid("lora.q0", q0, format!("between {} and {}", Number(low), Number(high))))
    }
}

/// Order parameters of fine-tuning and their conjugates.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Order {
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

/// Errors per sequence, in the units of the loss.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Errors {
    /// `E'` on new sequences with noisy labels.
    #[serde(deserialize_with = "number")]
    pub test: f64,
    /// The same with the noise removed from the label.
    #[serde(deserialize_with = "number")]
    pub test_clean: f64,
    /// On the training sequences.
    #[serde(deserialize_with = "number")]
    pub train: f64,
    /// The frozen baseline: `E'` at `w = 0`.
    #[serde(deserialize_with = "number")]
    pub frozen: f64,
}

/// Half the variance, per coordinate, of what the frozen weights leave of the label's logits (linear attention).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EffectiveNoise {
    /// On the training sequences; `None` where it is not a scalar (selection by the centred score).
    pub train: Option<f64>,
    /// On new sequences.
    #[serde(deserialize_with = "number")]
    pub test: f64,
}

/// Which estimator gave the divergences of `g`. Both are exact on average; the better one is chosen by regime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Divergence {
    /// The Jacobian of the proximal point, plus the surface terms where it jumps: least noise where jumps are rare.
    PointwiseAndJump,
    /// Gaussian integration by parts: where jumps dominate.
    IntegrationByParts,
}

impl fmt::Display for Divergence {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::PointwiseAndJump => "pointwise_and_jump",
            Self::IntegrationByParts => "integration_by_parts",
        })
    }
}

/// Which start the returned fixed point was reached from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Branch {
    /// From near-perfect overlap.
    Informed,
    /// From vanishing overlap.
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
#[non_exhaustive]
pub struct Solution {
    /// Order parameters and conjugates.
    pub order: Order,
    /// Train objective `L'/D = alpha' (train error) + lambda' q`.
    #[serde(deserialize_with = "number")]
    pub objective: f64,
    /// Test and train errors, and the frozen baseline.
    pub errors: Errors,
    /// `o_w = m/sqrt(q q0)`.
    #[serde(deserialize_with = "number")]
    pub alignment: f64,
    /// `Delta_eff`; `None` where pre-training does not enter through an effective noise alone.
    pub effective_noise: Option<EffectiveNoise>,
    /// Whether to trust replica symmetry here.
    pub validity: Validity,
    /// How the divergences were computed.
    pub divergence: Divergence,
    /// The start from which this fixed point was reached.
    pub branch: Branch,
    /// How the solve ended.
    pub status: Status,
    /// Undamped residual, in the logarithms of `m` (unless 0), `q - m^2/q0` and `v`: evaluated once more at the returned point, on all
    /// nodes and without any memory of proximal points found before.
    #[serde(deserialize_with = "number")]
    pub residual: f64,
    /// Iterations, at any number of nodes.
    pub iterations: usize,
    /// Standard errors, from independent scrambles; absent for `T = 1`, which is done by quadrature, to about 1e-7.
    pub std_error: StdError,
}

impl Solution {
    /// The solution, if it is one.
    ///
    /// # Errors
    /// [`Error::NotConverged`] unless the status is converged or collapsed.
    pub fn into_converged(self) -> Result<Self, Error> {
        let Order { q, m, v, .. } = self.order;
        let point = format!("(q, m, v) = ({}, {}, {})", Number(q), Number(m), Number(v));
        Error::unless_converged("lora", self.status, self.residual, self.iterations, point)?;
        Ok(self)
    }
}

/// The smallest ridge `lambda'_c` at which `w = 0` is stable against an overlap with the truth, so that fine-tuning
/// collapses: with `H0` the curvature of the loss of a sample at `w = 0`, `R = H0 (I + v H0)^{-1}`, and
/// `eta0 = alpha' E[dl'/dq]` there,
///
/// ```text
/// alpha' E[tr R - chi*^T R chi*/q0] = 1/v,
/// lambda'_c = -(alpha'/2) E[chi*^T R chi*]/q0 - eta0
/// ```
///
/// `None` where the first equation has no root (little data), and for linear attention, whose loss is not bounded. The
/// `lambda` of `training` is not used.
///
/// # Errors
/// [`Error::InvalidParameter`] or [`Error::MissingField`] for an invalid input; [`Error::TooMuchMemory`] for more nodes than 2 GiB can
/// hold.
pub fn lambda_collapse(
    model: &Model,
    frozen: &Frozen,
    training: &Training,
    options: &Options,
) -> Result<Option<Threshold>, Error> {
    validate(model, frozen, training, options)?;
    match model.activation {
        Activation::Linear => Ok(None),
        Activation::Softmax => softmax::lambda_collapse(model, frozen, training, options),
    }
}

/// Whether an overlap with the truth grows from nothing, at the `alpha'` and `lambda'` of `training`: the stability of the fixed point
/// `m = 0`, with the verdict on replica symmetry there. For phase diagrams.
///
/// # Errors
/// [`Error::InvalidParameter`] or [`Error::MissingField`] for an invalid input; [`Error::TooMuchMemory`] for more nodes than 2 GiB can
/// hold.
pub fn weak_recovery(
    model: &Model,
    frozen: &Frozen,
    training: &Training,
    options: &Options,
) -> Result<WeakRecovery, Error> {
    search(model, frozen, training, options, |mut search| weak_recovery::at(&mut search, training.alpha))
}

/// The threshold `alpha'_c` of weak recovery at the ridge of `training`, searched from its `alpha` on, within a factor `1e4` in
/// either direction; `None` if there is none. Look at the verdict: at small ridges the threshold lies where replica symmetry does
/// not hold.
///
/// # Errors
/// [`Error::InvalidParameter`] or [`Error::MissingField`] for an invalid input; [`Error::TooMuchMemory`] for more nodes than 2 GiB can
/// hold.
pub fn alpha_weak_recovery(
    model: &Model,
    frozen: &Frozen,
    training: &Training,
    options: &Options,
) -> Result<Option<WeakRecoveryThreshold>, Error> {
    search(model, frozen, training, options, |mut search| {
        weak_recovery::threshold(&mut search, training.alpha)
    })
}

/// Checks every input, and that they fit together.
fn validate(model: &Model, frozen: &Frozen, training: &Training, options: &Options) -> Result<(), Error> {
    model.validate()?;
    frozen.validate()?;
    training.validate()?;
    options.validate()?;
    frozen.require_response(&training.sequences)?;
    Averages::Finetuning(training.sequences).check(model, options)
}

/// What `run` makes of the search for fixed points, after validation.
fn search<R: Send>(
    model: &Model,
    frozen: &Frozen,
    training: &Training,
    options: &Options,
    run: impl FnOnce(Starts<'_>) -> Result<R, Error> + Send,
) -> Result<R, Error> {
    validate(model, frozen, training, options)?;
    match model.activation {
        Activation::Linear => linear::search(model, frozen, training, options, run),
        Activation::Softmax => softmax::search(model, frozen, training, options, run),
    }
}

/// Solves the fine-tuning stage on top of frozen weights. The teacher of `model` is not used.
///
/// ```
/// use lora_asymptotics::{Model, Options, lora};
///
/// let model = Model::linear(2, 0.5);
/// let frozen = lora::Frozen::new(1.5, 1.3, 1.25);
/// let solution = lora::solve(&model, &frozen, &lora::Training::new(3.0, 0.2), &Options::default())?.into_converged()?;
/// assert!(solution.validity.reliable);
/// assert!(solution.alignment > 0.9 && solution.errors.test < solution.errors.frozen);
/// # Ok::<(), lora_asymptotics::Error>(())
/// ```
///
/// # Errors
/// [`Error::InvalidParameter`] or [`Error::MissingField`] for an invalid input; [`Error::TooMuchMemory`] for more nodes than 2 GiB can
/// hold.
pub fn solve(
    model: &Model,
    frozen: &Frozen,
    training: &Training,
    options: &Options,
) -> Result<Solution, Error> {
    solve_with(model, frozen, training, options, Run::default())
}

/// The same, beginning with the solution of a similar problem: faster along an axis of parameters. Where that does not
/// lead to a reliable overlap, all starts are tried, as by [`solve`]. Of several fixed points with an overlap, it finds the one
/// that continues the previous one.
///
/// # Errors
/// Those of [`solve`]. Any `previous` will do.
pub fn solve_from(
    model: &Model,
    frozen: &Frozen,
    training: &Training,
    options: &Options,
    previous: &Solution,
) -> Result<Solution, Error> {
    solve_with(model, frozen, training, options, Run::default().starting_from(previous))
}

/// The same, with company: a similar solution to begin with, an observer, other constants of the search.
///
/// # Errors
/// Those of [`solve`].
pub fn solve_with(
    model: &Model,
    frozen: &Frozen,
    training: &Training,
    options: &Options,
    run: Run<'_, Solution>,
) -> Result<Solution, Error> {
    validate(model, frozen, training, options)?;
    match model.activation {
        Activation::Linear => linear::solve(model, frozen, training, options, run),
        Activation::Softmax => softmax::solve(model, frozen, training, options, run),
    }
}
