//! The measurements on one instance, under the names that the theory gives them.

use serde::{Deserialize, Serialize};

use super::minimise::Minimum;
use crate::nullable::{missing, number, numbers};

/// The start of a training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TrainingStart {
    /// The training starts at a Gaussian vector or matrix.
    Random,
    /// The training starts at the truth.
    Informed,
    /// The training starts along the direction in which the loss at zero weights decreases most.
    Spectral,
}

/// One training, from one start to one minimum.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TrainingRun {
    /// The start of the training.
    pub start: TrainingStart,
    /// The objective at the end of the training, in the units of the theory.
    #[serde(deserialize_with = "number")]
    pub objective: f64,
    /// The alignment with the truth at the end of the training.
    #[serde(deserialize_with = "number")]
    pub alignment: f64,
    /// The root mean square of the entries of the gradient at the end of the training.
    #[serde(deserialize_with = "number")]
    pub gradient: f64,
    /// Number of iterations of L-BFGS.
    pub iterations: usize,
    /// Whether the gradient is below the tolerance.
    pub converged: bool,
}

impl TrainingRun {
    pub(super) fn new(start: TrainingStart, minimum: &Minimum, unit: f64, alignment: f64) -> Self {
        Self {
            start,
            objective: minimum.objective / unit,
            alignment,
            gradient: minimum.gradient,
            iterations: minimum.iterations,
            converged: minimum.converged,
        }
    }
}

/// The run with the lowest objective, and its number.
pub(super) fn lowest<T>(runs: impl Iterator<Item = T>, objective: impl Fn(&T) -> f64) -> Option<T> {
    runs.reduce(|best, next| if objective(&next) < objective(&best) { next } else { best })
}

/// Pre-training of one instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Pretrained {
    /// `Q = |S-hat|_F^2/D^2`.
    #[serde(deserialize_with = "number")]
    pub q: f64,
    /// `M = Tr(S-hat S*)/D^2`.
    #[serde(deserialize_with = "number")]
    pub m: f64,
    /// The normalised trace `tr s-hat`.
    #[serde(deserialize_with = "number")]
    pub trace: f64,
    /// Fraction of eigenvalues above 1e-5 of the largest, in absolute value.
    #[serde(deserialize_with = "number")]
    pub rank_fraction: f64,
    /// The objective `L/D^2`.
    #[serde(deserialize_with = "number")]
    pub objective: f64,
    /// The loss per new sequence.
    #[serde(deserialize_with = "number")]
    pub test: f64,
    /// The loss per new sequence, without noise in the label.
    #[serde(deserialize_with = "number")]
    pub test_clean: f64,
    /// The loss per training sequence.
    #[serde(deserialize_with = "number")]
    pub train: f64,
    /// `o_W = M/sqrt(Q Q0)`, with the `Q0` of this instance.
    #[serde(deserialize_with = "number")]
    pub alignment: f64,
    /// Eigenvalues of `s-hat = S-hat/sqrt(D)`, in increasing order.
    pub eigenvalues: Vec<f64>,
    /// All trainings. The measurements are those of the training of lowest objective.
    pub runs: Vec<TrainingRun>,
}

/// Fine-tuning of one instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Finetuned {
    /// `q = |w-hat|^2/D`; `|w-hat^T w-hat|_F/D` for several columns.
    #[serde(deserialize_with = "number")]
    pub q: f64,
    /// `m = |w-hat.w*|/D`; `|w-hat^T w*|_F/D` for several columns.
    #[serde(deserialize_with = "number")]
    pub m: f64,
    /// The objective `L'/D`.
    #[serde(deserialize_with = "number")]
    pub objective: f64,
    /// The loss per new sequence.
    #[serde(deserialize_with = "number")]
    pub test: f64,
    /// The loss per new sequence, without noise in the label.
    #[serde(deserialize_with = "number")]
    pub test_clean: f64,
    /// The loss per training sequence.
    #[serde(deserialize_with = "number")]
    pub train: f64,
    /// The loss per new sequence at `w = 0`.
    #[serde(deserialize_with = "number")]
    pub frozen: f64,
    /// The loss per new sequence with the labels of pre-training. NaN in a measurement that was written before this number existed.
    #[serde(default = "missing", deserialize_with = "number")]
    pub forgetting: f64,
    /// `o_w = m/sqrt(q q0)`.
    #[serde(deserialize_with = "number")]
    pub alignment: f64,
    /// The cosines of the principal angles between the learned and the true columns, the largest first. Empty where both
    /// perturbations have a single column.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "numbers")]
    pub cosines: Vec<f64>,
    /// All trainings. The measurements are those of the training of lowest objective.
    pub runs: Vec<TrainingRun>,
}

/// One instance: a teacher, its data, the trained weights, and their losses on new sequences.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Measurement {
    /// The dimension `D`.
    pub dimension: usize,
    /// The number of the instance, from 0.
    pub instance: usize,
    /// The pre-training stage, if it was simulated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pretrain: Option<Pretrained>,
    /// The fine-tuning stage, if the scenario has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<Finetuned>,
}

impl Measurement {
    /// The number of trainings that ended before their gradient was below the tolerance.
    #[must_use]
    pub fn unconverged(&self) -> usize {
        let pretrain = self.pretrain.iter().flat_map(|stage| &stage.runs);
        let lora = self.lora.iter().flat_map(|stage| &stage.runs);
        pretrain.chain(lora).filter(|run| !run.converged).count()
    }
}
