//! Fixed points `x = F(x)` of small systems of self-consistent equations.
//!
//! State evolutions are iterated maps of a handful of order parameters. This module iterates any such map, given
//! as a closure on arrays `[f64; N]` or on `Vec<f64>`, by Picard iteration, damped iteration or Anderson acceleration,
//! in linear or logarithmic coordinates. The solvers of this crate use it, and other programs can use it as
//! well:
//!
//! ```
//! use lora_asymptotics::fixed_point::{self, Coordinate, Options, Problem, Status};
//!
//! // The magnetisation of a mean-field magnet, m = tanh(m / t), at temperature t = 0.9.
//! let options = Options { tolerance: 1e-13, ..Options::default() };
//! let problem = Problem::new([0.5], Coordinate::Log);
//! let report = fixed_point::solve(&problem, &options, |&[m]| [(m / 0.9).tanh()])?;
//! assert_eq!(report.status, Status::Converged);
//! assert!((report.point[0] - 0.525_429_512_658).abs() < 1e-11);
//! # Ok::<(), lora_asymptotics::Error>(())
//! ```
//!
//! The iteration has these properties:
//! - It stops on the *undamped* residual `max_i |F(x)_i - x_i|`, in the coordinates iterated on; neither damping nor
//!   a small step can fake convergence.
//! - It returns the iterate with the smallest residual it has seen, together with that residual.
//! - A residual that stops improving leads to one fall-back to damped iteration, then to [`Status::Stalled`].
//! - NaN and infinities never count as success: the iteration steps back towards the best iterate a few times, then
//!   gives up with [`Status::NonFinite`].

mod anderson;
mod iteration;
mod observer;
mod problem;
mod tolerance;

pub use crate::status::Status;
pub(crate) use iteration::max_norm;
pub(crate) use iteration::{Halt, JudgedImage, solve_judged};
pub use iteration::{IterationOptions as Options, Method, Report, solve, solve_observed};
pub use observer::{History, Iterate, Observer, Unobserved};
pub use problem::{Coordinate, Problem, Secant, Vector};
pub(crate) use tolerance::Tolerance;
