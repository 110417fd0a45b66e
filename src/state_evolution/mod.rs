//! State evolutions: self-consistent equations for a handful of order parameters, whose averages may be sampled.
//!
//! A high-dimensional estimation problem is described by *overlaps* (norms, alignments with the truth, linear responses). Two
//! channels close the equations for them:
//!
//! - The [`OutputChannel`] is about the losses. It averages proximal points over Gaussian fields whose covariance the overlaps
//!   fix, and returns [`Averages`]. Closed forms are averages, too; quasi-Monte-Carlo averages come in several independent
//!   replicates, at several levels of accuracy.
//! - The [`InputChannel`] is about the weights. It turns averages back into overlaps: a ridge, a spectral soft threshold, a
//!   posterior mean.
//!
//! [`StateEvolution`] finds a point that the two map to itself. It approaches the fixed point on the cheapest level, measures the
//! slopes of the map, climbs the levels with quasi-Newton steps, evaluates the residual once more at the point that it returns
//! (on all nodes and without the memory of earlier passes), and gives every replicate a fixed point and averages of its own, to first
//! order. Standard errors of anything that is a function of overlaps and averages are spreads over the replicates.
//!
//! Both stages of this crate are such state evolutions. Yours may be another one:
//!
//! ```
//! use lora_asymptotics::Options;
//! use lora_asymptotics::state_evolution::{Averages, InputChannel, OutputChannel, Overlaps, Pass, StateEvolution};
//!
//! /// Ridge regression on `n = alpha d` samples with noise `delta` and unit signal: the mean square error and the response.
//! #[derive(Clone, PartialEq)]
//! struct Errors { mse: f64, response: f64 }
//!
//! impl Overlaps for Errors {
//!     fn coordinates(&self) -> Vec<f64> { vec![self.mse, self.response] }
//!     fn at(&self, x: &[f64]) -> Self { Self { mse: x[0], response: x[1] } }
//! }
//!
//! /// The squared loss: `E g^2` and `-E g'` of `g = (y - omega)/(1 + V)`.
//! #[derive(Clone)]
//! struct Squared { gradient2: f64, stiffness: f64 }
//!
//! impl Averages for Squared {
//!     fn terms(&self) -> Vec<f64> { vec![self.gradient2, self.stiffness] }
//!     fn from_terms(t: &[f64]) -> Self { Self { gradient2: t[0], stiffness: t[1] } }
//! }
//!
//! struct Loss { delta: f64 }
//!
//! impl OutputChannel for Loss {
//!     type Point = Errors;
//!     type Averages = Squared;
//!     fn averages(&mut self, _level: usize, _pass: Pass, at: &Errors) -> Vec<Squared> {
//!         let stiffness = 1.0 / (1.0 + at.response);
//!         vec![Squared { gradient2: (self.delta + at.mse) * stiffness * stiffness, stiffness }]
//!     }
//! }
//!
//! struct Ridge { alpha: f64, lambda: f64 }
//!
//! impl InputChannel for Ridge {
//!     type Point = Errors;
//!     type Averages = Squared;
//!     fn image(&self, _at: &Errors, averages: &Squared) -> Errors {
//!         let curvature = self.alpha * averages.stiffness + self.lambda;
//!         let noise = self.alpha * averages.gradient2;
//!         Errors { mse: (self.lambda * self.lambda + noise) / (curvature * curvature), response: 1.0 / curvature }
//!     }
//! }
//!
//! let (alpha, lambda, delta) = (2.0, 0.3, 0.5);
//! let mut loss = Loss { delta };
//! let mut evolution = StateEvolution::new(&mut loss, Ridge { alpha, lambda }, &Options::default());
//! let solved = evolution.solve(&Errors { mse: 1.0, response: 1.0 })?;
//! assert!(solved.status.is_success() && solved.residual < 1e-10);
//! // The response is the Stieltjes transform of the Marchenko-Pastur law: lambda V^2 + (alpha - 1 + lambda) V = 1.
//! let v = solved.point.response;
//! assert!((lambda * v * v + (alpha - 1.0 + lambda) * v - 1.0).abs() < 1e-9);
//! # Ok::<(), lora_asymptotics::Error>(())
//! ```

mod evolution;
mod levels;
mod run;
mod samples;
mod sensitivity;
mod tuning;

pub use evolution::{Attempt, Solved, StateEvolution};
pub(crate) use levels::Levels;
pub use run::Run;
pub(crate) use samples::Samples;
pub use tuning::{Effort, Tuning};

/// Order parameters as positive coordinates, which are iterated in logarithms.
///
/// Choose coordinates in which every vector of positive numbers is a possible point: `(m, q - m^2/q0, v)` rather than `(q, m, v)`,
/// so that `m^2 <= q q0` holds by itself.
pub trait Overlaps: Clone + PartialEq {
    /// The coordinates of this point, all > 0.
    fn coordinates(&self) -> Vec<f64>;

    /// The point with other coordinates, as many as [`Overlaps::coordinates`] gives. What is not among the coordinates (an overlap
    /// that vanishes by symmetry) is kept.
    fn at(&self, coordinates: &[f64]) -> Self;
}

/// Averages over the losses at one point: a vector of numbers with names.
pub trait Averages: Clone {
    /// All numbers, in an order of your own.
    fn terms(&self) -> Vec<f64>;

    /// The inverse of [`Averages::terms`].
    fn from_terms(terms: &[f64]) -> Self;
}

/// The mean of the averages of several replicates, in their order. There must be at least one.
pub(crate) fn mean<A: Averages>(all: &[A]) -> A {
    let mut total = vec![0.0; all.first().map_or(0, |averages| averages.terms().len())];
    for averages in all {
        for (t, x) in total.iter_mut().zip(averages.terms()) {
            *t += x;
        }
    }
    for t in &mut total {
        *t /= all.len() as f64;
    }
    A::from_terms(&total)
}

/// What one evaluation of an output channel is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// One step of the map. Averages that the map does not need may be left out, and proximal points may be followed from those of
    /// the pass before.
    Step,
    /// All averages. Proximal points may be followed from those of the pass before.
    Complete,
    /// All averages, and every proximal point from scratch: nothing that an earlier pass left behind may be used.
    Fresh,
}

/// The losses: averages of proximal points over Gaussian fields.
pub trait OutputChannel {
    /// The order parameters.
    type Point: Overlaps;
    /// What is averaged.
    type Averages: Averages;

    /// The number of accuracy levels, at least 1; each level refines the one before. Level 0 is the cheapest.
    fn levels(&self) -> usize {
        1
    }

    /// The averages at `point`, one entry per independent replicate: at least one, and as many at every level.
    fn averages(&mut self, level: usize, pass: Pass, point: &Self::Point) -> Vec<Self::Averages>;

    /// Called before an iteration at another level, or far from the last point, begins at `point`: whoever follows proximal points
    /// from pass to pass may look for them anew.
    fn prepare(&mut self, _level: usize, _point: &Self::Point) {}

    /// The residual at which jumps of the sampled averages explain a stall, where there is a single replicate, whose spread cannot
    /// tell.
    fn resolution(&self) -> f64 {
        0.0
    }
}

/// The weights: from averages back to order parameters.
pub trait InputChannel {
    /// The order parameters.
    type Point: Overlaps;
    /// What is averaged.
    type Averages: Averages;

    /// The order parameters that the averages at `at` lead to. Where the averages make no sense, as they may far from any fixed point,
    /// return a point some distance from `at`, in the direction that mends it: such a step cannot be mistaken for convergence.
    fn image(&self, at: &Self::Point, averages: &Self::Averages) -> Self::Point;

    /// Called with the averages at the end of the approach and, once more (`settled`), at the end of the solve: the channel may change the
    /// estimators that it uses. Returns whether it has, in which case that part of the solve is repeated.
    fn reconsider(&mut self, _settled: bool, _at: &Self::Point, _averages: &Self::Averages) -> bool {
        false
    }

    /// Whether the nodes resolve a fixed point at `at`. Where they do not, the status is `noise_limited` instead of `converged`.
    fn resolves(&self, _at: &Self::Point) -> bool {
        true
    }
}
