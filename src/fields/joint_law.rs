//! The joint law of the frozen logits and of the label's logits, on new sequences and on the training
//! sequences.
//!
//! All logits are multiplied by the inverse temperature, and live in the coordinates that the activation can
//! see: `K' = K - 1` for softmax, `T^2 - T` in cross-attention. Let `z` be the frozen logits before recalibration and
//! `t = z* + sqrt(Delta) xi` those of the label. On new sequences, per coordinate, `z ~ N(0, c Q)` and
//! `t | z ~ N((M/Q) z, c (Q0 - M^2/Q) + Delta)`, with `c = 2` for tied and `c = 1` for cross-attention. On reused sequences `z` is replaced by the proximal point of
//! pre-training for the same label. On actively selected sequences `z` is conditioned on a ball.
//!
//! The numbers of the law are the same for every kernel. How a kernel lays out its logits is its own affair.

use super::selection::Score;
use super::sequences::{FieldParameters, Sequences};
use crate::attention::Attention;
use crate::channel::NormalPair;
use crate::frozen::{Frozen, TrueLogits};
use crate::model::Model;

/// The parameters of the joint law.
#[derive(Clone, Copy)]
pub(crate) struct JointLaw {
    pub(crate) attention: Attention,
    tokens: usize,
    /// Number of coordinates that the activation sees.
    seen: usize,
    /// Standard deviation of `z`.
    pub(crate) frozen: f64,
    /// `M/Q`.
    slope: f64,
    /// Standard deviation of `t` given `z`.
    label: f64,
    /// The law of `z*` given `z` and `t`: its slope in `t - E[t|z]`, and its standard deviation.
    clean: [f64; 2],
    /// The factor of the frozen logits in fine-tuning.
    pub(crate) beta: f64,
    /// `V` of pre-training, for reused sequences.
    pub(crate) response: f64,
    pub(crate) sequences: Sequences,
}

/// The law of the label's logits given the recalibrated frozen logits `z`, per coordinate: `N(slope z, label)`, with `z ~ N(0, frozen)`.
#[derive(Clone, Copy)]
pub(crate) struct LogitRegression {
    pub(crate) slope: f64,
    pub(crate) frozen: f64,
    pub(crate) label: f64,
}

/// Columns of standard normals for the logits of a scramble: one per coordinate that the activation sees for each field, and one for each
/// coordinate that softmax does not see.
pub(crate) struct Normals<'a> {
    pub(crate) label: &'a [Vec<f64>],
    pub(crate) frozen: &'a [Vec<f64>],
    pub(crate) flat: &'a [Vec<f64>],
}

impl JointLaw {
    pub(crate) fn new(model: &Model, frozen: &Frozen, parameters: &FieldParameters) -> Self {
        let (scale, attention) = (model.inverse_temperature(), model.attention());
        let variance = attention.logit_variance();
        // Validation refuses reused sequences without a response; other sequences do not use it.
        let v = frozen.v().unwrap_or(0.0);
        let TrueLogits { slope, unknown, .. } = frozen.true_logits();
        let rest = variance * unknown;
        let total = rest + model.delta();
        let share = if total > 0.0 { rest / total } else { 1.0 };
        let sequences = match parameters.sequences {
            // If the frozen weights have no response or vanish, reused sequences have the law of new ones.
            Sequences::Reused if v <= 0.0 => Sequences::Fresh,
            other => other,
        };
        Self {
            attention,
            tokens: model.tokens(),
            seen: model.observed_coordinates() as usize,
            frozen: scale * (variance * frozen.q()).sqrt(),
            slope,
            label: scale * total.sqrt(),
            clean: [share, scale * (share * model.delta()).sqrt()],
            beta: parameters.beta,
            response: scale * scale * v,
            sequences,
        }
    }

    /// Number of coordinates that the activation sees.
    pub(crate) fn coordinates(&self) -> usize {
        self.seen
    }

    /// Number of coordinates that the activation does not see, and at least one.
    pub(crate) fn unseen(&self) -> usize {
        self.attention.coordinates(self.tokens).saturating_sub(self.seen).max(1)
    }

    /// Whether the training law needs the coordinates that the activation does not see.
    pub(crate) fn needs_flat(&self) -> bool {
        self.seen < self.attention.coordinates(self.tokens)
            && matches!(self.sequences, Sequences::Active(selection) if selection.score() == Score::Frobenius)
    }

    /// The curvature of the pull of pre-training on its own sequences, `1/(c V)`.
    pub(crate) fn stiffness(&self) -> f64 {
        1.0 / (self.attention.logit_variance() * self.response)
    }

    /// The laws of the recalibrated frozen logits and of the logits of the label on new sequences, with noisy and with noiseless labels.
    pub(crate) fn new_sequences(&self) -> [NormalPair; 2] {
        let Self { frozen, slope, label, clean: [share, deviation], beta, .. } = *self;
        let known = slope * slope * frozen * frozen;
        [label * label, share * share * label * label + deviation * deviation].map(|rest| NormalPair {
            variances: [beta * beta * frozen * frozen, known + rest],
            covariance: beta * slope * frozen * frozen,
        })
    }

    /// The law on new sequences with noiseless labels.
    pub(crate) fn of_noiseless_labels(self) -> Self {
        let [share, deviation] = self.clean;
        Self {
            label: (share * self.label).hypot(deviation),
            clean: [1.0, 0.0],
            sequences: Sequences::Fresh,
            ..self
        }
    }

    /// The logit of the label, given the frozen one and a standard normal.
    #[inline(always)]
    pub(crate) fn label(&self, frozen: f64, normal: f64) -> f64 {
        self.slope * frozen + self.label * normal
    }

    /// The slope of the label's logits in the recalibrated frozen ones, and the variances of the latter and of the label's
    /// logits given them, on new sequences. It is `None` if the recalibrated logits do not tell the frozen ones.
    pub(crate) fn regression(&self) -> Option<LogitRegression> {
        let frozen = (self.beta * self.frozen).powi(2);
        let slope = self.slope / self.beta;
        slope.is_finite().then_some(LogitRegression { slope, frozen, label: self.label * self.label })
    }

    /// The noiseless logit of the label, given the frozen one, the noisy one and a standard normal.
    #[inline(always)]
    pub(crate) fn noiseless(&self, frozen: f64, label: f64, normal: f64) -> f64 {
        let [share, deviation] = self.clean;
        let mean = self.slope * frozen;
        mean + share * (label - mean) + deviation * normal
    }

    /// The factor by which active selection shrinks the frozen logits of a node onto the selected ball;
    /// `None` if the sequences are not selected.
    pub(crate) fn shrinkage(&self, normals: &Normals<'_>, node: usize) -> Option<f64> {
        let Sequences::Active(selection) = self.sequences else { return None };
        let seen: f64 = normals.frozen.iter().map(|column| column[node].powi(2)).sum();
        let unseen: f64 = normals.flat.iter().map(|column| column[node].powi(2)).sum();
        Some(selection.score().shrinkage(self.attention, self.tokens, selection.fraction(), seen + unseen))
    }
}
