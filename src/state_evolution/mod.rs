//! State evolutions: self-consistent equations for a handful of order parameters, whose averages may be sampled.
//!
//! A high-dimensional estimation problem is described by *overlaps* (norms, alignments with the truth, linear responses). Two
//! channels close the equations for them:
//!
//! - The [`OutputChannel`] describes the losses. It averages proximal points over Gaussian fields whose
//!   covariance is fixed by the overlaps, and returns [`Averages`]. The averages may be closed forms, or
//!   quasi-Monte-Carlo averages in several independent replicates, at several levels of accuracy.
//! - The [`InputChannel`] describes the weights. It turns averages back into overlaps: a ridge, a spectral
//!   soft threshold, a posterior mean.
//!
//! [`StateEvolution`] finds a point that the two channels map to itself. It approaches the fixed point on the
//! cheapest level, measures the slopes of the map, and climbs the levels with quasi-Newton steps. It then
//! evaluates the residual once more at the point that it returns, on all nodes and without the memory of
//! earlier passes. It also gives every replicate a fixed point and averages of its own, to first order. The
//! spread over the replicates gives the standard error of any function of overlaps and averages.
//!
//! [`GaussianNodes`] makes the nodes of averages that are sampled, with their replicates and levels.
//!
//! Both stages of this crate are such state evolutions. Other state evolutions can be solved in the same way:
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

mod channels;
mod evolution;
mod gaussian_nodes;
mod levels;
mod run;
mod samples;
mod sensitivity;
mod tuning;

pub(crate) use channels::mean;
pub use channels::{Averages, InputChannel, OutputChannel, Overlaps, Pass};
pub use evolution::{Attempt, Solved, StateEvolution};
pub use gaussian_nodes::GaussianNodes;
pub use run::Run;
pub(crate) use samples::{Samples, check_memory};
pub use tuning::{Effort, Tuning};
