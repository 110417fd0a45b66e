//! The form in which outcomes are written to JSON.

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::skipped::Skipped;
use crate::{lora, pretrain};

/// An outcome in the form in which it is written.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct OutcomeWire {
    #[serde(default = "first_version")]
    pub(super) version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) pretrain: Option<StageWire<pretrain::Solution, pretrain::BayesSolution>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) lora: Option<StageWire<lora::Solution, lora::BayesSolution>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) bayes_optimal: Option<BoundWire>,
}

/// Bayes-optimal stages in the form in which they are written.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct BoundWire {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) pretrain: Option<pretrain::BayesSolution>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) lora: Option<StageWire<Never, lora::BayesSolution>>,
}

/// The type of a solution that no stage has.
#[derive(Clone, Serialize, Deserialize)]
pub(super) enum Never {}

/// One stage, of either estimator, or its absence.
#[derive(Clone, Serialize)]
#[serde(untagged)]
pub(super) enum StageWire<E, B> {
    Erm(E),
    BayesOptimal(B),
    Skipped(Absence),
}

/// A stage that was skipped.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Absence {
    status: SkippedStatus,
    reason: Skipped,
}

/// The status of a stage that was skipped.
#[derive(Clone, Copy, Serialize, Deserialize)]
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
