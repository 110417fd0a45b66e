//! One experiment end to end, as plain data: the public JSON schema.
//!
//! A [`Scenario`] says what to solve, an [`Outcome`] what came out; both are plain structs that serde turns into JSON with
//! the same names. `examples/solve.rs` maps lines of one to lines of the other.
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

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::lora::{self, Frozen};
use crate::model::Model;
use crate::options::Options;
use crate::pretrain;

/// Which estimator of the weights is studied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Estimator {
    /// Empirical risk minimisation: the global minimum of the regularised train loss.
    #[default]
    Erm,
}

/// One experiment: a pre-training, or frozen weights given by hand, and a fine-tuning on top.
///
/// At least one of `pretrain` and `lora` must be there; `lora` needs `pretrain` or `frozen`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The layer, and its teacher if there is a pre-training.
    pub model: Model,
    /// The pre-training stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pretrain: Option<pretrain::Training>,
    /// Overlaps of the frozen weights, instead of a pre-training and of a teacher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen: Option<Frozen>,
    /// The fine-tuning stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<lora::Training>,
    /// The estimator.
    #[serde(default)]
    pub estimator: Estimator,
    /// How to solve.
    #[serde(default)]
    pub options: Options,
}

/// What a scenario leads to, one entry per stage that was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// The pre-training stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pretrain: Option<pretrain::Solution>,
    /// The fine-tuning stage. Also absent if the pre-training did not converge: there is nothing to fine-tune.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<lora::Solution>,
}

impl Scenario {
    /// Reads a scenario from JSON.
    ///
    /// # Errors
    /// [`Error::Syntax`] for broken JSON, an unknown or a missing field, or a value of the wrong type. Ranges are checked by
    /// [`Scenario::solve`].
    pub fn from_json(text: &str) -> Result<Self, Error> {
        serde_json::from_str(text).map_err(|error| Error::Syntax(error.to_string()))
    }

    /// Checks that the parts fit together, and every field of every part.
    ///
    /// # Errors
    /// [`Error::MissingField`], [`Error::Conflict`] or [`Error::InvalidParameter`].
    pub fn validate(&self) -> Result<(), Error> {
        self.model.validate()?;
        self.options.validate()?;
        match (&self.pretrain, &self.frozen) {
            (Some(_), Some(_)) => return Err(Error::Conflict { field: "frozen", with: "pretrain" }),
            (Some(training), None) => {
                training.validate()?;
                if self.model.teacher.is_none() {
                    let reason = "pre-training needs the law of the teacher";
                    return Err(Error::MissingField { field: "model.teacher", reason });
                }
            }
            (None, Some(frozen)) => {
                if self.model.teacher.is_some() {
                    return Err(Error::Conflict { field: "model.teacher", with: "frozen" });
                }
                frozen.validate()?;
                if self.lora.is_none() {
                    return Err(Error::MissingField {
                        field: "lora",
                        reason: "frozen weights are for fine-tuning",
                    });
                }
            }
            (None, None) => {
                return Err(Error::MissingField {
                    field: "pretrain",
                    reason: "give pretrain, or frozen and lora",
                });
            }
        }
        self.lora.as_ref().map_or(Ok(()), lora::Training::validate)
    }

    /// Solves every stage.
    ///
    /// # Errors
    /// Those of [`Scenario::validate`], [`pretrain::solve`] and [`lora::solve`]. A stage that does not converge is not an
    /// error: see its status.
    pub fn solve(&self) -> Result<Outcome, Error> {
        self.validate()?;
        let pretrain = match &self.pretrain {
            Some(training) => Some(pretrain::solve(&self.model, training, &self.options)?),
            None => None,
        };
        let frozen = match &pretrain {
            Some(solution) => solution.status.is_success().then(|| solution.freeze()),
            None => self.frozen,
        };
        let lora = match (&self.lora, frozen) {
            (Some(training), Some(frozen)) => {
                Some(lora::solve(&self.model, &frozen, training, &self.options)?)
            }
            _ => None,
        };
        Ok(Outcome { pretrain, lora })
    }
}
