//! High-dimensional predictions for LoRA: what happens when an attention layer is pre-trained on plenty of data and
//! then adapted, with a low-rank perturbation, on little.
//!
//! # The model, on one page
//!
//! A sequence `X` of `T` tokens is a `T x D` matrix with Gaussian entries, where `T` is fixed and `D` is
//! large. A symmetric `D x D` matrix `S` of attention weights gives centred logits, and a tied attention head
//! with identity values gives the output:
//!
//! ```text
//! h(S) = (X S X^T - Tr(S) I_T)/D,    yhat = sigma(h) X,
//! sigma(h) = h/T (linear)   or   softmax(b h) by rows   or any other, see [`activation`]
//! ```
//!
//! With **cross-attention** ([`Attention::Cross`]) queries and keys have weights of their own and see independent sequences, `h(S) = X_q S X_k^T/D` with any matrix
//! `S = P^(-1/2) U V^T`. What is said of eigenvalues is then true of singular values. Only pre-training is solved.
//!
//! **Pre-training**, on `alpha D^2` sequences: a teacher `S*` of extensive rank labels them,
//! `y = sigma(h(S*) + sqrt(Delta) xi) X`. The student `S = P^(-1/2) W W^T`, with `W` of shape `D x P` and `P = kappa D`, minimises
//! `sum_mu |yhat_mu - y_mu|^2/D + lambda |W|^2`, or, in direct training, `S` is any symmetric matrix with the ridge `lambda |S|_F^2`. The fixed point of `(Q, M, V)` describes it: see [`pretrain`].
//!
//! **Fine-tuning**, on `alpha' D` sequences: the truth moves by a rank-one perturbation `w* w*^T`. With `S-hat` frozen, and possibly
//! recalibrated to `beta S-hat`, LoRA learns `w`, a vector of `D` entries, with ridge `lambda'`. The fixed point of `(q, m, v)`
//! describes it: see [`lora`].
//!
//! The equations are those of O. Duranthon, F. Boncoraglio and L. Zdeborova, *High-Dimensional Theory of LoRA
//! Fine-Tuning in a Solvable Attention Model*, arXiv:2606.05899. They are replica symmetric. Every
//! fine-tuning solution carries gauges that tell whether it can be trusted, see [`lora::Validity`].
//!
//! # Quickstart
//!
//! ```
//! use lora_asymptotics::{Model, Options, Teacher, lora, pretrain};
//!
//! let model = Model::linear(2, 0.5)?.with_teacher(Teacher::Wishart { kappa0: 0.5 })?;
//! let options = Options::default();
//!
//! // Pre-train on 0.2 D^2 sequences, then fine-tune on 3 D of the same ones.
//! let base = pretrain::solve(&model, &pretrain::Training::new(0.2, 0.1)?, &options)?.into_converged()?;
//! let training = lora::Training::fresh(3.0, 0.2)?.reused();
//! let tuned = lora::solve(&model, &base.freeze()?, &training, &options)?.into_converged()?;
//!
//! println!("pre-training: error {:.4}, alignment {:.4}", base.errors.test, base.alignment);
//! println!("fine-tuning:  error {:.4} (frozen {:.4}), alignment {:.4}, {}",
//!     tuned.errors.test, tuned.errors.frozen, tuned.alignment, tuned.validity.verdict);
//! # assert!((tuned.errors.test - 0.7299).abs() < 1e-3);
//! # Ok::<(), lora_asymptotics::Error>(())
//! ```
//!
//! # Notation
//!
//! A star marks the truth, and a hat marks learned weights. `Qhat` is the conjugate of `Q`, and a prime marks
//! quantities of fine-tuning.
//!
//! | paper | here | meaning |
//! |---|---|---|
//! | `T`, `sigma`, `b`, `Delta` | [`Model::tokens`], [`Model::activation`], [`Model::inverse_temperature`], [`Model::delta`] | the layer and its label noise |
//! | `kappa0` | [`Teacher::Wishart`] | width of the teacher, `P0/D`; or any spectrum, [`Teacher::Spectrum`], [`Teacher::PowerLaw`], [`Model::with_teacher_spectrum`] |
//! | `alpha`, `lambda`, `kappa` | [`pretrain::Training`] | sequences over `D^2`, ridge, width of the student; [`pretrain::Parametrisation`] |
//! | `Q0`, `Q`, `M`, `V` | `q0`, [`pretrain::Order`] | norms of true and learned weights, their overlap, response |
//! | `Qhat`, `Mhat`, `Vhat` | `q_hat`, `m_hat`, `v_hat` | conjugates of `Q`, `M`, `V` |
//! | `tr s-hat` | [`pretrain::Solution::trace`] | trace of `S-hat/sqrt(D)`, over `D` |
//! | `E`, `o_W` | [`pretrain::Errors`], `alignment` | pre-training errors, `M/sqrt(Q Q0)` |
//! | `alpha'`, `lambda'`, `q0`, `beta` | [`lora::Training`] | sequences over `D`, ridge, variance of the entries of `w*`, recalibration |
//! | `q`, `m`, `v`, `qhat`, `mhat`, `vhat`, `eta` | [`lora::Order`] | order parameters of fine-tuning, conjugates, ridge shift |
//! | `E'`, `o_w` | [`lora::Errors`], `alignment` | fine-tuning errors, `m/sqrt(q q0)`; `forgetting` is the error that is left on the task of pre-training |
//! | `Delta_eff` | [`lora::EffectiveNoise`] | all that linear fine-tuning sees of pre-training |
//! | `Q_BO`, `q`, `G`, `Phi` | [`pretrain::BayesSolution`], [`lora::BayesSolution`], [`lora::BayesCurve`] | the Bayes-optimal bound |
//!
//! # Prescribe, sweep, check
//!
//! [`optimize`] finds the best ridges, the best recalibration, or the best split of a budget of data.
//! [`sweep`] solves grids of scenarios, in several parts if needed, and [`journal`] lets an interrupted sweep
//! continue. [`lines`] turns lines of scenarios into lines of outcomes. [`simulate`] trains the network
//! itself at finite dimension, and compares its measurements with any prediction.
//!
//! These modules are features of the package, which a plain dependency does not compile: `optimize`, `sweep`,
//! `simulate`, and `scenario` for [`Scenario`] and [`Outcome`] as JSON, which the others need. The feature
//! `full` turns on all of them. Beside them, `schema` derives the JSON Schemas, which `scenario::schema` has as texts without it.
//!
//! # Add your own
//!
//! An [`Activation`], a [`TeacherSpectrum`](spectrum::TeacherSpectrum) and a
//! [`StateEvolution`](state_evolution::StateEvolution) can come from outside, without any feature.
//! [`activation::check`] and [`spectrum::check`] test the first two. The page `docs/add_your_own.md` of the
//! repository has an example of each kind, with its limits.
//!
//! # Threads
//!
//! A function uses the threads of the pool of rayon in which it is called, `pool.install(|| ..)`, or else
//! those of rayon's global pool (all processors, or `RAYON_NUM_THREADS`). No function starts other threads.
//!
//! | what | in parallel | on one thread |
//! |---|---|---|
//! | [`pretrain::solve`] of linear attention, bounds of pre-training of linear attention | | all |
//! | every other solve | the nodes of the averages | the iterations |
//! | [`lines`], [`optimize`] | inside each solve | scenario after scenario |
//! | [`sweep`] | rows; inside each solve if there are fewer rows than threads | every row |
//! | [`simulate`] | instances; inside each instance if there are fewer of them than threads | every instance |
//!
//! Solves inside a parallel loop of the caller are correct. However, a thread that waits inside one solve may
//! begin another solve on top of it, and needs stack for both. Prefer [`sweep`], or give every solve a pool
//! of one thread.
//!
//! # How accurate the numbers are
//!
//! Pre-training of linear attention is convex, and its equations are solved to about 1e-12; where they are
//! not (at extreme parameters), the status tells. All other results are averages over Gaussian fields by
//! scrambled quasi-Monte-Carlo. The field `std_error` has the standard errors of the numbers that it names:
//! 1e-5 to 3e-4 at the default options for fine-tuning of linear attention, in the reliable region, and up to
//! 1e-3 for softmax. The averages for a single token are computed by quadrature, to 1e-7. The [`Status`] of a
//! solve tells whether it has converged.
//!
//! On one platform (processor architecture, operating system, compiler) the same input gives the same bits, on any number of threads.
//! From one platform to another the last digits may differ, because the standard library computes the
//! exponential and the logarithm differently.

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;

#[cfg(doctest)]
#[doc = include_str!("../docs/add_your_own.md")]
struct AddYourOwnExamples;

pub mod activation;
mod attention;
pub mod channel;
mod check;
mod descent;
mod divergence;
pub mod error;
mod fields;
pub mod fixed_point;
mod frozen;
#[cfg(feature = "scenario")]
pub mod journal;
#[cfg(feature = "scenario")]
mod json;
#[cfg(feature = "scenario")]
mod json_words;
mod lanes;
#[cfg(feature = "scenario")]
pub mod lines;
pub mod lora;
mod losses;
mod memory;
pub mod model;
mod nullable;
pub mod observables;
#[cfg(feature = "optimize")]
pub mod optimize;
pub mod options;
mod parallel;
pub mod pretrain;
pub mod quadrature;
mod roots;
#[cfg(feature = "scenario")]
pub mod scenario;
#[cfg(feature = "simulate")]
pub mod simulate;
pub mod spectrum;
pub mod state_evolution;
mod status;
mod std_error;
#[cfg(feature = "sweep")]
pub mod sweep;
mod threshold;
mod verdict;

pub use activation::{Activation, ActivationName};
pub use attention::Attention;
pub use error::Error;
pub use frozen::Frozen;
pub use model::{Model, Teacher};
pub use options::{Options, Start};
#[cfg(feature = "scenario")]
pub use scenario::{Bound, Estimator, Outcome, Quantity, Scenario, Skipped};
pub use status::Status;
pub use std_error::StdError;
pub use threshold::Threshold;
pub use verdict::Verdict;
