//! The outcome of a scenario.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::skipped::Skipped;
use super::wire::{BoundWire, OutcomeWire, StageWire, VERSION};
use crate::{lora, pretrain};

/// The outcome of a scenario, with one entry per stage that was asked for.
///
/// In JSON, an outcome begins with the version of its schema, [`Outcome::VERSION`]. If a scenario asks for the
/// Bayes-optimal estimator alone, its stages are written under `pretrain` and `lora`. A stage that was skipped
/// is written as such in its place. A reader ignores fields that it does not know, and refuses other versions.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(into = "OutcomeWire")]
#[non_exhaustive]
pub struct Outcome {
    /// The pre-training stage.
    pub pretrain: Option<pretrain::Solution>,
    /// The fine-tuning stage; absent if it was skipped.
    pub lora: Option<lora::Solution>,
    /// Why the fine-tuning stage was skipped, if it was.
    pub lora_skipped: Option<Skipped>,
    /// The Bayes-optimal stages, if they were asked for.
    pub bayes_optimal: Option<Bound>,
}

/// The Bayes-optimal stages. Fine-tuning is on top of Bayes-optimal pre-training, or of the frozen weights that were given.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(from = "BoundWire", into = "BoundWire")]
#[non_exhaustive]
pub struct Bound {
    /// The pre-training stage.
    pub pretrain: Option<pretrain::BayesSolution>,
    /// The fine-tuning stage; absent if it was skipped.
    pub lora: Option<lora::BayesSolution>,
    /// Why the fine-tuning stage was skipped, if it was.
    pub lora_skipped: Option<Skipped>,
}

impl Outcome {
    /// Version of the JSON schema of outcomes.
    pub const VERSION: u32 = VERSION;
}

impl<'de> Deserialize<'de> for Outcome {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read(Value::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// Reads an outcome from a value of JSON. This function is compiled once, whereas code that reads the fields directly would be compiled in
/// every package and for every kind of reader again.
fn read(value: Value) -> Result<Outcome, String> {
    let wire: OutcomeWire = serde_json::from_value(value).map_err(|error| error.to_string())?;
    wire.try_into()
}

impl From<Bound> for BoundWire {
    fn from(Bound { pretrain, lora, lora_skipped }: Bound) -> Self {
        Self {
            pretrain,
            lora: lora.map(StageWire::BayesOptimal).or_else(|| StageWire::skipped(lora_skipped)),
        }
    }
}

impl From<BoundWire> for Bound {
    fn from(BoundWire { pretrain, lora }: BoundWire) -> Self {
        let (_, lora, lora_skipped) = StageWire::split(lora);
        Self { pretrain, lora, lora_skipped }
    }
}

impl From<Outcome> for OutcomeWire {
    fn from(Outcome { pretrain, lora, lora_skipped, bayes_optimal }: Outcome) -> Self {
        let version = Outcome::VERSION;
        match bayes_optimal {
            Some(bound) if pretrain.is_none() && lora.is_none() && lora_skipped.is_none() => Self {
                version,
                pretrain: bound.pretrain.map(StageWire::BayesOptimal),
                lora: bound
                    .lora
                    .map(StageWire::BayesOptimal)
                    .or_else(|| StageWire::skipped(bound.lora_skipped)),
                bayes_optimal: None,
            },
            bayes_optimal => Self {
                version,
                pretrain: pretrain.map(StageWire::Erm),
                lora: lora.map(StageWire::Erm).or_else(|| StageWire::skipped(lora_skipped)),
                bayes_optimal: bayes_optimal.map(BoundWire::from),
            },
        }
    }
}

impl TryFrom<OutcomeWire> for Outcome {
    type Error = String;

    fn try_from(wire: OutcomeWire) -> Result<Self, String> {
        if wire.version != Self::VERSION {
            return Err(format!("version {} of the outcome: must be {}", wire.version, Self::VERSION));
        }
        let (pretrain, pretrain_bound, _) = StageWire::split(wire.pretrain);
        let (lora, lora_bound, skipped) = StageWire::split(wire.lora);
        // Both stages of an outcome belong to the same estimator.
        let alone = pretrain_bound.is_some() || lora_bound.is_some();
        let (lora_skipped, bound_skipped) = if alone { (None, skipped) } else { (skipped, None) };
        let bound = alone.then_some(Bound {
            pretrain: pretrain_bound,
            lora: lora_bound,
            lora_skipped: bound_skipped,
        });
        Ok(Self {
            pretrain,
            lora,
            lora_skipped,
            bayes_optimal: wire.bayes_optimal.map(Bound::from).or(bound),
        })
    }
}
