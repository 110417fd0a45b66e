//! Bayes-optimal fine-tuning at finite size. Approximate message passing with the posterior mean of every
//! sequence is compared with its state evolution.
//!
//! In units with `q0 = 1`, let `Y` be the information of the labels on `chi chi^T` (see
//! [`lora::BayesCurve`]). One iteration leads from `w` of overlap `q` to
//!
//! ```text
//! omega = X w/sqrt(D) - (1 - q) g_before,
//! g     = (E[chi | Y, omega] - omega)/(1 - q),
//! qhat  = (1/D) sum_mu |g_mu|^2,
//! w    <- (qhat w + X^T g/sqrt(D))/(1 + qhat),
//! q    <- qhat/(1 + qhat)
//! ```
//!
//! Source: arXiv:2606.05899; T. Lesieur, F. Krzakala, L. Zdeborova, arXiv:1701.00858, for the channel.

use nalgebra::DMatrix;
use serde::{Deserialize, Serialize};

use super::laboratory::{Counts, Laboratory, Size, check_memory};
use super::random::{self, Purpose, Streams};
use super::sequences::{Corpus, NetworkWeights, Shape, symmetric_noise};
use super::statistics::Estimate;
use crate::check;
use crate::error::Error;
use crate::lora::{self, BayesCurve, Denoiser, Frozen, denoiser};
use crate::model::Model;
use crate::options::Options;
use crate::parallel;
use crate::scenario::{Estimator, Scenario};

/// The settings of message passing.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MessagePassing {
    /// Number of iterations; 1 to 10,000.
    pub iterations: usize,
    /// Overlap `q/q0` of the start with the truth, in `(0, 1)`. A small overlap is an uninformed start, which
    /// finds the algorithmic branch. The overlap cannot be 0, from which message passing would never move.
    pub start: f64,
}

impl Default for MessagePassing {
    fn default() -> Self {
        Self { iterations: 30, start: 0.02 }
    }
}

/// The overlaps after one iteration.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Iteration {
    /// The overlap `w.w*/D`.
    pub m: Estimate,
    /// The norm `|w|^2/D`. A Bayes-optimal algorithm has `q = m` on average.
    pub q: Estimate,
    /// The value of both according to state evolution.
    pub state_evolution: f64,
}

/// The mean trajectory over the instances of one size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Trajectory {
    /// The dimension `D`.
    pub dimension: usize,
    /// Number of instances.
    pub instances: usize,
    /// The overlaps at the start, and after every iteration.
    pub iterations: Vec<Iteration>,
}

/// Runs message passing on synthetic frozen logits, and returns one trajectory per size of the laboratory.
/// Instances run in parallel, each on one thread of the pool in which the function is called.
///
/// ```
/// use lora_asymptotics::simulate::{Laboratory, MessagePassing, Size, message_passing};
/// use lora_asymptotics::{Model, Options, lora};
///
/// let laboratory = Laboratory { sizes: vec![Size::new(200, 4)], ..Laboratory::default() };
/// let frozen = lora::Frozen::new(1.0, 1.0, 1.0)?;
/// let settings = MessagePassing { iterations: 10, start: 0.2 };
/// let options = Options::default().with_log2_nodes(10)?;
/// let found = message_passing(&Model::linear(2, 0.4)?, &frozen, 1.0, 1.0, &settings, &laboratory, &options)?;
/// let last = found[0].iterations[10];
/// assert!((last.m.mean - last.state_evolution).abs() < 0.1);
/// # Ok::<(), lora_asymptotics::Error>(())
/// ```
///
/// # Errors
/// [`Error::InvalidParameter`] for an invalid input, or an experiment that would take too much memory; [`Error::Threads`] if the global
/// thread pool cannot be started.
pub fn message_passing(
    model: &Model,
    frozen: &Frozen,
    alpha: f64,
    q0: f64,
    settings: &MessagePassing,
    laboratory: &Laboratory,
    options: &Options,
) -> Result<Vec<Trajectory>, Error> {
    laboratory.validate()?;
    check::integer("iterations", settings.iterations, 1, 10_000)?;
    if !(settings.start > 0.0 && settings.start < 1.0) {
        return Err(Error::invalid("start", settings.start, "> 0 and < 1"));
    }
    let training = lora::Training::fresh(alpha, 0.0)?.with_variance(q0)?;
    let scenario = Scenario {
        model: model.clone().without_teacher(),
        pretrain: None,
        frozen: Some(*frozen),
        lora: Some(training),
        estimator: Estimator::Erm,
        options: *options,
    };
    scenario.validate()?;
    // Every instance keeps two numbers per iteration.
    let largest = laboratory.sizes.iter().map(|size| size.instances).max().unwrap_or(0);
    let paths = 16.0 * (settings.iterations + 1) as f64 * largest as f64;
    if paths > laboratory.memory_limit as f64 {
        let limit = laboratory.memory_limit;
        let allowed =
            format!("fewer, or laboratory.memory_limit = {limit} larger: {paths:.3e} bytes are needed");
        return Err(Error::invalid("iterations", settings.iterations, allowed));
    }
    check_memory(&scenario, laboratory, true, parallel::threads()?)?;
    let curve = BayesCurve::new(&scenario.model, frozen, q0, options)?;
    let predicted = curve.state_evolution(alpha, settings.start * q0, settings.iterations)?;
    let of_size = |size: &Size| {
        let Size { dimension, instances } = *size;
        let [count, _] = Counts::new(&scenario, dimension, true)?.finetuning().unwrap_or_default();
        let one = |instance: usize| {
            let streams = Streams { seed: laboratory.seed, dimension, instance };
            Planted::new(&scenario.model, curve.relative_noise(), count, &streams)?.run(settings)
        };
        let paths = parallel::flat(instances, &one).into_iter().collect::<Result<Vec<_>, Error>>()?;
        let estimate = |step: usize, which: usize| {
            Estimate::of(&paths.iter().map(|path| q0 * path[step][which]).collect::<Vec<_>>())
        };
        let iterations = predicted.iter().enumerate().map(|(step, q)| Iteration {
            m: estimate(step, 0),
            q: estimate(step, 1),
            state_evolution: *q,
        });
        Ok(Trajectory { dimension, instances, iterations: iterations.collect() })
    };
    laboratory.sizes.iter().map(of_size).collect()
}

/// One instance, in units with `q0 = 1`.
struct Planted {
    sequences: Corpus,
    star: DMatrix<f64>,
    start: DMatrix<f64>,
    denoiser: Box<dyn Denoiser>,
}

impl Planted {
    /// The frozen logits explain all but `noise` of the label's logits. The explained part is known, and need
    /// not be drawn.
    fn new(model: &Model, noise: f64, count: usize, streams: &Streams) -> Result<Self, Error> {
        let (dimension, tokens) = (streams.dimension, model.tokens());
        let star = random::normalised(&mut streams.stream(Purpose::Perturbation), dimension, 1);
        let rng = &mut streams.stream(Purpose::MessagePassing);
        let sequences = Corpus::sample(rng, Shape { dimension, tokens }, count);
        let mut observed = sequences.logits(&NetworkWeights { factor: star.clone(), scale: 1.0 });
        let unknown = symmetric_noise(rng, tokens, count, 2.0 * noise);
        for (i, (y, n)) in observed.iter_mut().zip(unknown).enumerate() {
            // h1(w*) is centred: |w*|^2/D = 1 is subtracted on the diagonal.
            let diagonal = i % (tokens * tokens) % (tokens + 1) == 0;
            *y += n + if diagonal { 1.0 } else { 0.0 };
        }
        let denoiser = denoiser(model.activation().unseen(), tokens, noise, &observed)?;
        let start = random::normalised(rng, dimension, 1);
        Ok(Self { sequences, star, start, denoiser })
    }

    /// `m` and `q` at the start and after every iteration.
    fn run(&self, settings: &MessagePassing) -> Result<Vec<[f64; 2]>, Error> {
        let d = self.sequences.dimension() as f64;
        let root = d.sqrt();
        let mut q = settings.start;
        let mut w = &self.star * q + &self.start * (q * (1.0 - q)).sqrt();
        let mut g = vec![0.0; self.sequences.tokens * self.sequences.count()];
        let overlaps = |w: &DMatrix<f64>| [w.dot(&self.star) / d, w.norm_squared() / d];
        let mut path = vec![overlaps(&w)];
        for _ in 0..settings.iterations {
            // Perfect recovery is only reached up to rounding.
            let v = (1.0 - q).max(1e-12);
            let projected = self.sequences.project(&w);
            let omega: Vec<f64> = projected.iter().zip(&g).map(|(x, g)| x / root - v * g).collect();
            let means = self.denoiser.means(&omega, v);
            g = means.iter().zip(&omega).map(|(mean, omega)| (mean - omega) / v).collect();
            let q_hat = g.iter().map(|g| g * g).sum::<f64>() / d;
            let pulled = self.sequences.pull(&g);
            w = (w * q_hat + pulled / root) / (1.0 + q_hat);
            q = q_hat / (1.0 + q_hat);
            path.push(overlaps(&w));
        }
        Ok(path)
    }
}
