//! The bound at any number of sequences: one table of `G(q)`, and the fixed points that are solved on it.

use super::kernel::{Column, Kernel};
use super::linear::LinearKernel;
use super::noiseless::Noiseless;
use super::softmax::{self, Many, SoftmaxKernel, Two};
use super::solution::{
    BayesBranch, BayesBranches, FinetuningBayesErrors, FinetuningBayesOrder, FinetuningBayesSolution,
};
use super::table::{KernelLevel, PosteriorOverlap, PosteriorTable, overlaps};
use crate::activation::Unseen;
use crate::channel::{LogitsLaw, TwoReplicas, with_tokens};
use crate::check;
use crate::error::{Error, Number};
use crate::frozen::{Frozen, TrueLogits};
use crate::lora::fit;
use crate::lora::variances::check_variance;
use crate::memory::Workload;
use crate::model::{Model, Specialisation};
use crate::observables;
use crate::options::Options;
use crate::parallel;
use crate::quadrature::{ChiQuantile, ScrambledSobol};
use crate::roots;
use crate::status::Status;
use crate::std_error::{StdError, standard_error};
use crate::threshold::Threshold;
/// Largest `log2` of the number of nodes of the table. Single roots are refined on all nodes. With one token
/// a sample is cheap, and the spinodals need the resolution. With softmax attention and three tokens or more
/// a sample is a double integral.
const TABLE_LOG2_NODES: usize = 10;
const ONE_TOKEN_LOG2_NODES: usize = 13;
const DOUBLE_INTEGRAL_LOG2_NODES: usize = 8;
/// Effective noise `d`, in units of `q0^2`, below which a channel is treated as noiseless. The noise hides the size
/// of `chi` where `chi^2` is below `sqrt(d)`, that is for one token with a probability of order `d^(1/4)`, and makes an error
/// of order `sqrt(d)` there, and of order `d/chi^2` beyond. It therefore lowers `q` by `d^(3/4)`, which is 3e-8 at this limit
/// and less for several tokens. This is far below the error of the table.
const NOISELESS: f64 = 1e-10;

/// The curve `G(q)` for one activation, number of tokens and effective noise. It is tabulated once, and
/// solved for any `alpha'`.
///
/// The table takes up to `2^10` nodes per scramble (`2^13` for one token, `2^8` for softmax attention with
/// three tokens or more), and is interpolated to about 1e-6. If the options have more nodes,
/// [`BayesCurve::solve`] refines the roots of the table on all of them. Otherwise a solve takes microseconds
/// for linear attention. For every other activation the errors are averages over nodes, which take longer.
pub struct BayesCurve {
    model: Model,
    options: Options,
    /// Variance `q0` of the entries of the perturbation.
    q0: f64,
    /// Variance of the logits that the frozen weights explain, `M^2/Q`, and the rest of `Q0`, which they
    /// leave unknown.
    known: f64,
    unknown: f64,
    /// Effective noise, in units of `q0^2`.
    #[cfg(feature = "simulate")]
    noise: f64,
    table: PosteriorTable,
    replicas: Option<Box<dyn TwoReplicas>>,
}

impl BayesCurve {
    /// Tabulates the curve for perturbations of variance `q0` on top of frozen weights. The bound holds for
    /// every algorithm that sees the frozen weights only through their logits. For Bayes-optimal frozen
    /// weights, with `Q = M = Q_BO`, it is the bound for any algorithm. Neither recalibration nor a selection
    /// of sequences by the frozen logits changes the bound. It does not apply to reused sequences, because
    /// pre-training has seen their label noise.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] for an invalid input, among them an activation that is not invertible;
    /// [`Error::TooMuchMemory`] for more nodes than 2 GiB can hold; [`Error::Threads`] if the global thread pool
    /// cannot be started.
    pub fn new(model: &Model, frozen: &Frozen, q0: f64, options: &Options) -> Result<Self, Error> {
        check_variance(q0)?;
        fit::require_same_attention(model, frozen)?;
        fit::require_tied(model, "a Bayes-optimal estimator of fine-tuning")?;
        model.require_invertible()?;
        Workload::FinetuningBound.check(model, options)?;
        let TrueLogits { known, unknown, .. } = frozen.true_logits();
        let relative = (unknown + 0.5 * model.delta()) / q0 / q0;
        if !relative.is_finite() {
            return Err(Error::invalid(
                "lora.q0",
                q0,
                "not so small that the noise is infinite in units of q0^2",
            ));
        }
        let noise = if relative < NOISELESS { 0.0 } else { relative };
        let (table, replicas) = parallel::in_pool(|| {
            let most = match (model.activation().unseen(), model.tokens()) {
                (Unseen::RowShifts, 3..) => DOUBLE_INTEGRAL_LOG2_NODES,
                (_, 1) => ONE_TOKEN_LOG2_NODES,
                _ => TABLE_LOG2_NODES,
            };
            let coarse = level(model, noise, options.log2_nodes().min(most), options)?;
            let finer = options.log2_nodes() > most;
            let fine = if finer { Some(level(model, noise, options.log2_nodes(), options)?) } else { None };
            let table = PosteriorTable::new(model.tokens(), noise, &coarse, fine);
            let replicas = match model.specialisation() {
                Specialisation::Linear => None,
                Specialisation::Softmax | Specialisation::General => Some(model.two_replicas(true, options)?),
            };
            Ok((table, replicas))
        })?;
        Ok(Self {
            model: model.clone(),
            options: *options,
            q0,
            known,
            unknown,
            #[cfg(feature = "simulate")]
            noise,
            table,
            replicas,
        })
    }

    /// The threshold `alpha'_c` of weak recovery, where `q = 0` loses stability:
    /// `1/alpha'_c = E|E[chi chi^T | Y] - I|_F^2` at `q = 0`. The standard error is `None` for a single
    /// scramble.
    #[must_use]
    pub fn weak_recovery(&self) -> Threshold {
        let (mean, own) = self.table.weak_recovery();
        Threshold::new(mean, standard_error(own.iter().copied()))
    }

    /// The range of `alpha'` in which two stable fixed points coexist. It lies between the spinodals: the
    /// upper fixed point appears at the lower end, and the lower one vanishes at the upper end. The result is
    /// `None` if there is no such range, or if it is below the resolution of the nodes.
    #[must_use]
    pub fn spinodals(&self) -> Option<[f64; 2]> {
        self.table.spinodals()
    }

    /// The `alpha'` at which the free energies of the two coexisting fixed points are equal. Above this
    /// `alpha'`, the upper fixed point is information-theoretically optimal.
    #[must_use]
    pub fn information_theoretic_jump(&self) -> Option<f64> {
        let [low, high] = self.spinodals()?;
        let advantage = |alpha: f64| match &self.table.stable(alpha)[..] {
            [lower, .., upper] => upper.free_energy - lower.free_energy,
            _ => f64::NAN,
        };
        let inside = 1e-6 * (high - low);
        let ends = [low + inside, high - inside].map(|x| roots::End { x, f: advantage(x) });
        if ends[0].f >= 0.0 {
            return Some(low);
        }
        let root = roots::bracketed(ends[0], ends[1], 1e-9, 1.0, advantage);
        Some(root).filter(|root| root.is_finite())
    }

    /// State evolution of message passing at `alpha' D` sequences, from the overlap `start`. The result is
    /// `q` before the first iteration and after each of the `steps` iterations.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] unless `alpha` is finite and > 0, `start` in `(0, q0)`, and `steps` at
    /// most 1,000,000.
    pub fn state_evolution(&self, alpha: f64, start: f64, steps: usize) -> Result<Vec<f64>, Error> {
        check::positive("lora.alpha", alpha)?;
        if !(start > 0.0 && start < self.q0) {
            return Err(Error::invalid("start", start, format!("> 0 and < q0 = {}", Number(self.q0))));
        }
        check::integer("steps", steps, 0, 1_000_000)?;
        let mut l = (start / (self.q0 - start)).ln();
        let mut trajectory = vec![start];
        for _ in 0..steps {
            l = self.table.log_conjugate(l, alpha);
            trajectory.push(self.q0 * overlaps(l)[0]);
        }
        Ok(trajectory)
    }

    /// `Delta_BO` in units of `q0^2`, as the channel uses it. It is 0 if the channel is treated as noiseless.
    #[cfg(feature = "simulate")]
    pub(crate) fn relative_noise(&self) -> f64 {
        self.noise
    }

    /// Both branches at `alpha' D` sequences.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] unless `alpha` is finite and > 0; [`Error::Threads`] if the global thread pool
    /// cannot be started.
    pub fn solve(&self, alpha: f64) -> Result<FinetuningBayesSolution, Error> {
        check::positive("lora.alpha", alpha)?;
        let stable = self.table.stable(alpha);
        let best = |best: Option<PosteriorOverlap>, next: &PosteriorOverlap| match best {
            Some(best) if best.free_energy >= next.free_energy => Some(best),
            _ => Some(next.clone()),
        };
        let nothing = || self.unsolved();
        let Some((lower, upper)) = stable.first().zip(stable.iter().fold(None, best)) else {
            return Ok(nothing());
        };
        let [(algorithmic, std_error), (information_theoretic, _)] =
            parallel::in_pool(|| Ok([lower, &upper].map(|point| self.branch(point))))?;
        let weak_recovery = self.weak_recovery();
        let [q, v] = overlaps(lower.l);
        let status = if algorithmic.errors.test.is_finite() && lower.residual.is_finite() {
            let reached = lower.residual <= self.options.accuracy().aim(0.0).max(1e-10);
            if reached { Status::Converged } else { Status::NoiseLimited }
        } else {
            return Ok(nothing());
        };
        Ok(FinetuningBayesSolution {
            order: FinetuningBayesOrder { q: algorithmic.q, q_hat: q / v / self.q0 },
            errors: algorithmic.errors,
            alignment: algorithmic.alignment,
            branches: BayesBranches { algorithmic, information_theoretic },
            alpha_c: weak_recovery.value,
            status,
            residual: lower.residual,
            iterations: self.table.evaluations,
            std_error: StdError { alpha_c: weak_recovery.std_error, ..std_error },
        })
    }

    fn branch(&self, point: &PosteriorOverlap) -> (BayesBranch, StdError) {
        let scrambles = point.own.len();
        let errors: Vec<[f64; 3]> = match &self.replicas {
            None => point.own.iter().map(|l| self.linear_errors(overlaps(*l))).collect(),
            Some(replicas) => (0..scrambles)
                .map(|k| self.sampled_errors(replicas.as_ref(), k, overlaps(point.own[k])[0]))
                .collect(),
        };
        let common = match &self.replicas {
            None => self.linear_errors(overlaps(point.l)),
            Some(replicas) => {
                let overlap = overlaps(point.l)[0];
                let all: Vec<_> =
                    (0..scrambles).map(|k| self.sampled_errors(replicas.as_ref(), k, overlap)).collect();
                std::array::from_fn(|i| all.iter().map(|errors| errors[i]).sum::<f64>() / scrambles as f64)
            }
        };
        let [test, test_clean, frozen] = common;
        let [overlap, _] = overlaps(point.l);
        let branch = BayesBranch {
            q: self.q0 * overlap,
            alignment: overlap.sqrt(),
            errors: FinetuningBayesErrors { test, test_clean, frozen },
            free_energy: point.free_energy,
        };
        let positive = |error: Option<f64>| error.filter(|error| *error > 0.0);
        let of_point =
            |f: &dyn Fn([f64; 2]) -> f64| positive(standard_error(point.own.iter().map(|l| f(overlaps(*l)))));
        let of_error = |i: usize| positive(standard_error(errors.iter().map(|errors| errors[i])));
        let std_error = StdError {
            q: of_point(&|[q, _]| self.q0 * q),
            q_hat: of_point(&|[q, v]| q / v / self.q0),
            alignment: of_point(&|[q, _]| q.sqrt()),
            test: of_error(0),
            test_clean: of_error(1),
            frozen: of_error(2),
            ..StdError::default()
        };
        (branch, std_error)
    }

    /// Test, clean and frozen error. They use `1 - q^2 = (1 - q)(1 + q)`, which does not cancel.
    fn linear_errors(&self, [q, v]: [f64; 2]) -> [f64; 3] {
        let noise = 0.5 * self.model.delta();
        let scale = self.q0 * self.q0;
        let error = |noise: f64, weights: f64| {
            observables::linear_pretraining_error(self.model.tokens(), self.unknown + noise + scale * weights)
        };
        [error(noise, v * (1.0 + q)), error(0.0, v * (1.0 + q)), error(noise, 1.0)]
    }

    fn sampled_errors(&self, replicas: &dyn TwoReplicas, scramble: usize, overlap: f64) -> [f64; 3] {
        let error = |noise: f64, overlap: f64| {
            let law = LogitsLaw {
                known: 2.0 * self.known,
                unknown: 2.0 * self.unknown + noise,
                perturbation: self.q0,
                overlap,
            };
            replicas.error(scramble, &law)
        };
        [error(self.model.delta(), overlap), error(0.0, overlap), error(self.model.delta(), 0.0)]
    }

    /// The outcome where the numbers leave the range of double precision.
    fn unsolved(&self) -> FinetuningBayesSolution {
        let nan = f64::NAN;
        let errors = FinetuningBayesErrors { test: nan, test_clean: nan, frozen: nan };
        let branch = BayesBranch { q: nan, alignment: nan, errors, free_energy: nan };
        FinetuningBayesSolution {
            order: FinetuningBayesOrder { q: nan, q_hat: nan },
            errors,
            alignment: nan,
            branches: BayesBranches { algorithmic: branch, information_theoretic: branch },
            alpha_c: nan,
            status: Status::NonFinite,
            residual: nan,
            iterations: self.table.evaluations,
            std_error: StdError::default(),
        }
    }
}

/// The Bayes-optimal estimator on `alpha D` sequences, for perturbations of variance `q0`, on top of frozen
/// weights (see [`BayesCurve::new`]). For many values of `alpha`, build a [`BayesCurve`] once and solve on
/// it.
///
/// ```
/// use lora_asymptotics::{Model, Options, lora};
///
/// let frozen = lora::Frozen::new(1.0, 1.0, 1.0)?;
/// let options = Options::default().with_log2_nodes(10)?;
/// let bound = lora::bayes_optimal(&Model::linear(2, 0.2)?, &frozen, 1.0, 1.0, &options)?;
/// assert!((bound.order.q - 0.9465).abs() < 1e-3);
/// # Ok::<(), lora_asymptotics::Error>(())
/// ```
///
/// # Errors
/// The errors of [`BayesCurve::new`].
pub fn bayes_optimal(
    model: &Model,
    frozen: &Frozen,
    alpha: f64,
    q0: f64,
    options: &Options,
) -> Result<FinetuningBayesSolution, Error> {
    check::positive("lora.alpha", alpha)?;
    BayesCurve::new(model, frozen, q0, options)?.solve(alpha)
}

/// One kernel for every scramble.
fn level(model: &Model, noise: f64, log2_nodes: usize, options: &Options) -> Result<KernelLevel, Error> {
    let tokens = model.tokens();
    (0..options.scrambles() as u64)
        .map(|scramble| {
            let columns = |dimensions: usize| -> Result<Vec<Column>, Error> {
                let points = ScrambledSobol::new(dimensions, log2_nodes as u32, options.seed(), scramble)?;
                (0..dimensions).map(|d| points.normals(d)).collect()
            };
            if noise <= 0.0 {
                let across = if tokens > 1 { Some(ChiQuantile::new(tokens - 1)?) } else { None };
                let columns = columns(Noiseless::DIMENSIONS)?;
                let kernel = Noiseless::new(tokens, &ChiQuantile::new(tokens)?, across.as_ref(), &columns);
                return Ok(Box::new(kernel) as Box<dyn Kernel>);
            }
            match model.activation().unseen() {
                Unseen::Nothing => linear_kernel(tokens, noise, &columns),
                Unseen::RowShifts => softmax_kernel(tokens, noise, &columns),
            }
        })
        .collect()
}

fn linear_kernel(
    tokens: usize,
    noise: f64,
    columns: &dyn Fn(usize) -> Result<Vec<Column>, Error>,
) -> Result<Box<dyn Kernel>, Error> {
    let radius = ChiQuantile::new(tokens)?;
    if tokens == 1 {
        return Ok(Box::new(LinearKernel::<1>::new(
            noise,
            &radius,
            &columns(LinearKernel::<1>::DIMENSIONS)?,
        )));
    }
    with_tokens!(tokens, T => {
        Ok(Box::new(LinearKernel::<T>::new(noise, &radius, &columns(LinearKernel::<T>::DIMENSIONS)?)))
    })
}

fn softmax_kernel(
    tokens: usize,
    noise: f64,
    columns: &dyn Fn(usize) -> Result<Vec<Column>, Error>,
) -> Result<Box<dyn Kernel>, Error> {
    let across = tokens.saturating_sub(1);
    let radius = ChiQuantile::new(across)?;
    let columns = columns(softmax::dimensions(across))?;
    Ok(match across {
        1 => Box::new(Two(SoftmaxKernel::new(noise, &radius, &columns))),
        2 => Box::new(Many(SoftmaxKernel::<2>::new(noise, &radius, &columns))),
        3 => Box::new(Many(SoftmaxKernel::<3>::new(noise, &radius, &columns))),
        4 => Box::new(Many(SoftmaxKernel::<4>::new(noise, &radius, &columns))),
        5 => Box::new(Many(SoftmaxKernel::<5>::new(noise, &radius, &columns))),
        6 => Box::new(Many(SoftmaxKernel::<6>::new(noise, &radius, &columns))),
        7 => Box::new(Many(SoftmaxKernel::<7>::new(noise, &radius, &columns))),
        _ => return Err(Error::invalid("model.tokens", tokens, "between 2 and 8")),
    })
}
