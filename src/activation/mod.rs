//! Attention non-linearities `sigma`, which turn the `T x T` logits `h` into the `T x T` attention matrix.
//!
//! A layer is `yhat = sigma(b h(S)) X` with an inverse temperature `b`, and its loss on a sequence is
//! `|sigma(b h) - sigma(b t)|_F^2`, where `t` are the logits of the label. Both stages of training need the
//! values of `sigma` and its derivatives, and nothing else. A type that implements [`Activation`] can
//! therefore be pre-trained, fine-tuned and trained at finite size like those of this crate
//! ([`Linear`], [`Softmax`], [`SoftmaxOne`], [`Sigmoid`]). Test your own with [`check`].
//!
//! ```
//! use std::sync::Arc;
//! use lora_asymptotics::activation::{self, Activation, Evaluated, Parity};
//! use lora_asymptotics::{Frozen, Model, Options, lora};
//!
//! /// `sigma(h)_ab = tanh(h_ab)/T`.
//! #[derive(Debug)]
//! struct Tanh;
//!
//! impl Activation for Tanh {
//!     fn name(&self) -> &str {
//!         "tanh"
//!     }
//!     fn attention(&self, tokens: usize, logits: &[f64], attention: &mut [f64]) {
//!         for (a, h) in attention.iter_mut().zip(logits) {
//!             *a = h.tanh() / tokens as f64;
//!         }
//!     }
//!     fn derivative(&self, at: &Evaluated<'_>, direction: &[f64], image: &mut [f64]) {
//!         let t = at.tokens as f64;
//!         for ((i, a), d) in image.iter_mut().zip(at.attention).zip(direction) {
//!             *i = (1.0 / t - t * a * a) * d;
//!         }
//!     }
//!     fn parity(&self) -> Parity {
//!         Parity::Odd
//!     }
//! }
//!
//! activation::check(&Tanh, 2)?;
//! let model = Model::with_activation(2, 0.5, Arc::new(Tanh))?;
//! let options = Options::default().with_log2_nodes(8)?;
//! let solution = lora::solve(&model, &Frozen::new(2.0, 1.2, 1.1)?, &lora::Training::fresh(8.0, 0.1)?, &options)?;
//! assert!(solution.status.is_success() && solution.alignment > 0.5);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod check;
mod linear;
mod name;
mod rows;
mod sigmoid;
mod softmax;
mod traits;

pub use check::{Disagreement, check};
pub use linear::Linear;
pub use name::ActivationName;
pub use sigmoid::Sigmoid;
pub use softmax::{Softmax, SoftmaxOne};
pub use traits::{Activation, Evaluated, Parity, Unseen};
