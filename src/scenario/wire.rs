//! The form in which outcomes are written to JSON.

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::skipped::Skipped;
use crate::{lora, pretrain};

/// Version of the schema of outcomes.
pub(super) const VERSION: u32 = 1;

/// The outcome of a scenario, with one entry per stage that was asked for. Numbers are null where a solve left the range of
/// double precision.
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "Outcome"))]
pub(super) struct OutcomeWire {
    /// Version of the schema.
    #[serde(default = "first_version")]
    #[cfg_attr(feature = "schema", schemars(extend("const" = VERSION)))]
    pub(super) version: u32,
    /// The pre-training stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) pretrain: Option<StageWire<pretrain::Solution, pretrain::BayesSolution>>,
    /// The fine-tuning stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) lora: Option<StageWire<lora::Solution, lora::BayesSolution>>,
    /// The Bayes-optimal stages, if both estimators were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) bayes_optimal: Option<BoundWire>,
}

/// The Bayes-optimal stages. Fine-tuning is on top of Bayes-optimal pre-training, or of the frozen weights that were given.
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "Bound"))]
pub(super) struct BoundWire {
    /// The pre-training stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) pretrain: Option<pretrain::BayesSolution>,
    /// The fine-tuning stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) lora: Option<StageWire<Never, lora::BayesSolution>>,
}

/// The type of a solution that no stage has.
#[derive(Clone, Serialize, Deserialize)]
pub(super) enum Never {}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Never {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Never".into()
    }

    /// No value has this type.
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        false.into()
    }
}

/// One stage, of either estimator, or its absence.
#[derive(Clone, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(inline))]
#[serde(untagged)]
pub(super) enum StageWire<E, B> {
    /// Empirical risk minimisation.
    Erm(E),
    /// The posterior mean.
    BayesOptimal(B),
    /// No solution.
    Skipped(Absence),
}

/// A stage that was skipped.
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub(super) struct Absence {
    /// It says that the stage was skipped.
    status: SkippedStatus,
    /// The reason.
    reason: Skipped,
}

/// The status of a stage that was skipped.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
enum SkippedStatus {
    Skipped,
}

impl From<Skipped> for Absence {
    fn from(reason: Skipped) -> Self {
        Self { status: SkippedStatus::Skipped, reason }
    }
}

/// The version of outcomes that do not state one.
fn first_version() -> u32 {
    1
}

impl<'de, E: DeserializeOwned, B: DeserializeOwned> Deserialize<'de> for StageWire<E, B> {
    /// The status tells whether a stage was skipped. The objective tells the estimator, because the posterior
    /// mean has no objective. Any other field that is missing is an error.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let stage = if value.get("status").is_some_and(|status| status == "skipped") {
            serde_json::from_value(value).map(Self::Skipped)
        } else if value.get("objective").is_some() {
            serde_json::from_value(value).map(Self::Erm)
        } else {
            serde_json::from_value(value).map(Self::BayesOptimal)
        };
        stage.map_err(D::Error::custom)
    }
}

impl<E, B> StageWire<E, B> {
    pub(super) fn split(this: Option<Self>) -> (Option<E>, Option<B>, Option<Skipped>) {
        match this {
            Some(Self::Erm(solution)) => (Some(solution), None, None),
            Some(Self::BayesOptimal(solution)) => (None, Some(solution), None),
            Some(Self::Skipped(Absence { reason, .. })) => (None, None, Some(reason)),
            None => (None, None, None),
        }
    }

    pub(super) fn skipped(reason: Option<Skipped>) -> Option<Self> {
        reason.map(|reason| Self::Skipped(reason.into()))
    }
}
