//! One experiment end to end, as plain data: the public JSON schema.
//!
//! A [`Scenario`] says what to solve, and an [`Outcome`] holds the solutions. Both are plain structs that serde
//! turns into JSON with the same names. The command `lora-asymptotics solve` reads scenarios line by line and writes one
//! outcome for each. [`schema`] has the JSON Schemas of both. The activation of a scenario in JSON is one of the names of
//! [`ActivationName`](crate::ActivationName). A [`Scenario`] made in Rust may have any activation and any teacher, but
//! writing one that comes from outside is an error.
//!
//! ```
//! use lora_asymptotics::Scenario;
//!
//! let scenario = Scenario::from_json(r#"{
//!     "model":    {"tokens": 3, "activation": "linear", "delta": 0.5, "teacher": {"wishart": {"kappa0": 1.0}}},
//!     "pretrain": {"alpha": 0.1, "lambda": 0.1},
//!     "lora":     {"alpha": 3.0, "lambda": 0.5, "sequences": "reused"},
//!     "options":  {"log2_nodes": 10}
//! }"#)?;
//! let outcome = scenario.solve()?;
//! let errors = outcome.lora.map(|lora| lora.errors);
//! assert!(errors.is_some_and(|errors| errors.test < errors.frozen));
//! # Ok::<(), lora_asymptotics::Error>(())
//! ```

mod estimator;
mod experiment;
mod outcome;
mod rows;
pub mod schema;
mod skipped;
mod wire;

pub use estimator::Estimator;
pub use experiment::Scenario;
#[cfg(feature = "sweep")]
pub(crate) use experiment::ScenarioFields;
pub use outcome::{Bound, Outcome};
pub use rows::Quantity;
pub use skipped::Skipped;
