//! Outcomes as they are written.

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::{Bound, Outcome, Skipped};
use crate::{lora, pretrain};

/// An outcome as it is written.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Wire {
    #[serde(default = "first_version")]
    version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pretrain: Option<Stage<pretrain::Solution, pretrain::BayesSolution>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lora: Option<Stage<lora::Solution, lora::BayesSolution>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bayes_optimal: Option<Bound>,
}

/// Bayes-optimal stages as they are written.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct BoundWire {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pretrain: Option<pretrain::BayesSolution>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lora: Option<Stage<Never, lora::BayesSolution>>,
}

/// A solution that no stage has.
#[derive(Clone, Serialize, Deserialize)]
enum Never {}

/// One stage, of either estimator, or its absence.
#[derive(Clone, Serialize)]
#[serde(untagged)]
enum Stage<E, B> {
    Erm(E),
    BayesOptimal(B),
    Skipped(Absence),
}

/// A stage that was skipped.
#[derive(Clone, Serialize, Deserialize)]
struct Absence {
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

/// Of outcomes that do not say.
fn first_version() -> u32 {
    1
}

impl<'de, E: DeserializeOwned, B: DeserializeOwned> Deserialize<'de> for Stage<E, B> {
    /// The status tells whether a stage was skipped, and the objective, which the posterior mean does not have, which estimator it is of. Any
    /// other field that is missing is an error.
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

impl<E, B> Stage<E, B> {
    fn split(this: Option<Self>) -> (Option<E>, Option<B>, Option<Skipped>) {
        match this {
            Some(Self::Erm(solution)) => (Some(solution), None, None),
            Some(Self::BayesOptimal(solution)) => (None, Some(solution), None),
            Some(Self::Skipped(Absence { reason, .. })) => (None, None, Some(reason)),
            None => (None, None, None),
        }
    }

    fn skipped(reason: Option<Skipped>) -> Option<Self> {
        reason.map(|reason| Self::Skipped(reason.into()))
    }
}

impl From<Bound> for BoundWire {
    fn from(Bound { pretrain, lora, lora_skipped }: Bound) -> Self {
        Self { pretrain, lora: lora.map(Stage::BayesOptimal).or_else(|| Stage::skipped(lora_skipped)) }
    }
}

impl From<BoundWire> for Bound {
    fn from(BoundWire { pretrain, lora }: BoundWire) -> Self {
        let (_, lora, lora_skipped) = Stage::split(lora);
        Self { pretrain, lora, lora_skipped }
    }
}

impl From<Outcome> for Wire {
    fn from(Outcome { pretrain, lora, lora_skipped, bayes_optimal }: Outcome) -> Self {
        let version = Outcome::VERSION;
        match bayes_optimal {
            Some(bound) if pretrain.is_none() && lora.is_none() && lora_skipped.is_none() => Self {
                version,
                pretrain: bound.pretrain.map(Stage::BayesOptimal),
                lora: bound.lora.map(Stage::BayesOptimal).or_else(|| Stage::skipped(bound.lora_skipped)),
                bayes_optimal: None,
            },
            bayes_optimal => Self {
                version,
                pretrain: pretrain.map(Stage::Erm),
                lora: lora.map(Stage::Erm).or_else(|| Stage::skipped(lora_skipped)),
                bayes_optimal,
            },
        }
    }
}

impl TryFrom<Wire> for Outcome {
    type Error = String;

    fn try_from(wire: Wire) -> Result<Self, String> {
        if wire.version != Self::VERSION {
            return Err(format!("version {} of the outcome: must be {}", wire.version, Self::VERSION));
        }
        let (pretrain, pretrain_bound, _) = Stage::split(wire.pretrain);
        let (lora, lora_bound, skipped) = Stage::split(wire.lora);
        // Both stages of a line are of the same estimator.
        let alone = pretrain_bound.is_some() || lora_bound.is_some();
        let (lora_skipped, bound_skipped) = if alone { (None, skipped) } else { (skipped, None) };
        let bound = alone.then_some(Bound {
            pretrain: pretrain_bound,
            lora: lora_bound,
            lora_skipped: bound_skipped,
        });
        Ok(Self { pretrain, lora, lora_skipped, bayes_optimal: wire.bayes_optimal.or(bound) })
    }
}
