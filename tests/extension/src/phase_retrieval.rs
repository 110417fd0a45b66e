//! Bayes-optimal real phase retrieval: `n = alpha d` samples `y = |z| + sqrt(delta) n` with `z = w*.x/sqrt(d)`, for Gaussian
//! inputs `x` and weights `w*`.
//!
//! Message passing and the posterior mean have the overlap `q = w-hat.w*/d = |w-hat|^2/d`. Given the field
//! `omega ~ N(0, q)` of the learned weights, the true field is `z ~ N(omega, 1 - q)`, and
//!
//! ```text
//! g = (E[z | y, omega] - omega)/(1 - q),     q/(1 - q) = alpha E g^2
//! ```
//!
//! Source: J. Barbier, F. Krzakala, N. Macris, L. Miolane and L. Zdeborova, PNAS 116, 5451 (2019), arXiv:1708.03395.

use lora_asymptotics::fixed_point::Observer;
use lora_asymptotics::quadrature::normal_cdf;
use lora_asymptotics::state_evolution::{
    Averages, Effort, GaussianNodes, InputChannel, OutputChannel, Overlaps, Pass, Solved, StateEvolution,
    Tuning,
};
use lora_asymptotics::{Error, Options};

/// The overlap as `q/(1 - q)`, which may be any positive number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Odds(pub f64);

impl Odds {
    /// The overlap `q`.
    #[must_use]
    pub fn overlap(&self) -> f64 {
        self.0 / (1.0 + self.0)
    }
}

impl Overlaps for Odds {
    fn coordinates(&self) -> Vec<f64> {
        vec![self.0]
    }

    fn at(&self, coordinates: &[f64]) -> Self {
        Self(coordinates[0])
    }
}

/// `E g^2`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Information(pub f64);

impl Averages for Information {
    fn terms(&self) -> Vec<f64> {
        vec![self.0]
    }

    fn from_terms(terms: &[f64]) -> Self {
        Self(terms[0])
    }
}

/// The output channel: noisy magnitudes.
pub struct Magnitudes {
    delta: f64,
    nodes: GaussianNodes<3>,
}

impl Magnitudes {
    /// Magnitudes with noise of variance `delta >= 0`.
    ///
    /// # Errors
    /// Those of [`GaussianNodes::new`].
    pub fn new(delta: f64, options: &Options) -> Result<Self, Error> {
        Ok(Self { delta, nodes: GaussianNodes::new(options, &many_nodes())? })
    }
}

/// `E[z | y, omega]`: a mixture of the Gaussians `z ~ N(omega, v)` seen through `y = z` and through `y = -z`, each on its
/// half-line. The densities of the two at `z = 0` are equal, and cancel in the mean.
fn posterior_mean(y: f64, omega: f64, v: f64, delta: f64) -> f64 {
    let total = v + delta;
    let deviation = (v * delta / total).sqrt();
    let tilt = omega * y / total;
    let [right, left] = [y, -y].map(|seen| (omega * delta + seen * v) / total);
    let weight_right = (tilt - tilt.abs()).exp() * normal_cdf(right / deviation);
    let weight_left = (-tilt - tilt.abs()).exp() * normal_cdf(-left / deviation);
    (weight_right * right + weight_left * left) / (weight_right + weight_left)
}

impl OutputChannel for Magnitudes {
    type Point = Odds;
    type Averages = Information;

    fn levels(&self) -> usize {
        self.nodes.levels()
    }

    fn averages(&mut self, level: usize, _pass: Pass, at: &Odds) -> Vec<Information> {
        let (q, v, delta) = (at.overlap(), 1.0 / (1.0 + at.0), self.delta);
        let means = self.nodes.means(level, |[field, rest, noise]| {
            let omega = q.sqrt() * field;
            let y = (omega + v.sqrt() * rest).abs() + delta.sqrt() * noise;
            let g = (posterior_mean(y, omega, v, delta) - omega) / v;
            [g * g]
        });
        means.into_iter().map(|[gradient2]| Information(gradient2)).collect()
    }
}

/// The input channel: the posterior mean of Gaussian weights, from `alpha d` samples.
pub struct GaussianWeights {
    /// Samples over dimensions.
    pub alpha: f64,
}

impl InputChannel for GaussianWeights {
    type Point = Odds;
    type Averages = Information;

    fn image(&self, _at: &Odds, averages: &Information) -> Odds {
        Odds(self.alpha * averages.0)
    }
}

/// The constants with which nodes are made.
fn many_nodes() -> Tuning {
    let mut tuning = Tuning::default();
    tuning.coarse_nodes = MANY_NODES;
    tuning
}

/// Numbers of nodes of the cheap levels, for all replicates together.
const MANY_NODES: [usize; 2] = [1 << 13, 1 << 15];

/// An approach that follows message passing step by step, because an accelerated one may jump over a fixed point. It gives
/// up after `patience` steps without progress. The overlap grows slowly where a fixed point has just vanished.
#[must_use]
pub fn step_by_step(patience: usize) -> Tuning {
    let mut tuning = many_nodes();
    tuning.approach = Effort { evaluations: 1000, patience, ..tuning.detour };
    // The overlap changes fast next to perfect recovery, where the slopes need small steps and many nodes. The magnitudes have no
    // jumps that would forbid small steps.
    tuning.difference = 1e-2;
    tuning
}

/// The fixed point to which message passing leads from an overlap with the given odds.
///
/// # Errors
/// Those of [`StateEvolution::solve`].
pub fn solve<O: OutputChannel<Point = Odds, Averages = Information>>(
    output: &mut O,
    alpha: f64,
    start: Odds,
    options: &Options,
    tuning: Tuning,
    observer: &mut dyn Observer,
) -> Result<Solved<Odds, Information>, Error> {
    StateEvolution::new(output, GaussianWeights { alpha }, options)
        .with_tuning(tuning)
        .observed_by(observer)
        .solve(&start)
}
