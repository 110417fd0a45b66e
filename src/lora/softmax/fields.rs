//! The joint law of the frozen logits and of the label's logits, on new sequences and on the training
//! sequences.
//!
//! All logits are multiplied by the inverse temperature, and live in the `K' = K - 1` coordinates that
//! softmax can see. Let `z` be the frozen logits before recalibration and `t = z* + sqrt(Delta) xi` those of
//! the label. On new sequences, per coordinate, `z ~ N(0, 2Q)` and
//! `t | z ~ N((M/Q) z, 2(Q0 - M^2/Q) + Delta)`. On reused sequences `z` is replaced by the proximal point of
//! pre-training for the same label. On actively selected sequences `z` is conditioned on a ball.

use crate::channel::{self, MatrixProx, coordinates, matrices, softmax_row};
use crate::frozen::{Frozen, TrueLogits};
use crate::lanes::{LANES, Lane};
use crate::lora::selection::{Score, Selection};
use crate::lora::training::{Sequences, Training};
use crate::model::Model;

/// A symmetric matrix of logits for every sample of a block.
pub(super) type Logits<const T: usize> = [[Lane; T]; T];

/// The parameters of the joint law.
pub(super) struct Fields {
    tokens: usize,
    /// Standard deviation of `z`.
    frozen: f64,
    /// `M/Q`.
    slope: f64,
    /// Standard deviation of `t` given `z`.
    label: f64,
    /// The law of `z*` given `z` and `t`: its slope in `t - E[t|z]`, and its standard deviation.
    clean: [f64; 2],
    beta: f64,
    /// `V` of pre-training, for reused sequences.
    response: f64,
    sequences: Sequences,
}

/// Columns of standard normals. There are `K'` columns for each field, and one more for the coordinate that
/// softmax does not see.
pub(super) struct Normals<'a> {
    pub(super) label: &'a [Vec<f64>],
    pub(super) frozen: &'a [Vec<f64>],
    pub(super) flat: Option<&'a Vec<f64>>,
}

impl Fields {
    pub(super) fn new(model: &Model, frozen: &Frozen, training: &Training) -> Self {
        let scale = model.inverse_temperature();
        // Validation refuses reused sequences without a response; other sequences do not use it.
        let v = frozen.v().unwrap_or(0.0);
        let TrueLogits { slope, unknown, .. } = frozen.true_logits();
        let rest = 2.0 * unknown;
        let total = rest + model.delta();
        let share = if total > 0.0 { rest / total } else { 1.0 };
        let sequences = match training.sequences() {
            // If the frozen weights have no response or vanish, reused sequences have the law of new ones.
            Sequences::Reused if v <= 0.0 => Sequences::Fresh,
            other => other,
        };
        Self {
            tokens: model.tokens(),
            frozen: scale * (2.0 * frozen.q()).sqrt(),
            slope,
            label: scale * total.sqrt(),
            clean: [share, scale * (share * model.delta()).sqrt()],
            beta: training.beta(),
            response: scale * scale * v,
            sequences,
        }
    }

    /// Number of coordinates that softmax sees.
    pub(super) fn coordinates(&self) -> usize {
        channel::dimension(self.tokens) - 1
    }

    /// Whether the training law needs the coordinate that softmax does not see.
    pub(super) fn needs_flat(&self) -> bool {
        matches!(self.sequences, Sequences::Active(selection) if selection.score() == Score::Frobenius)
    }

    /// Recalibrated frozen logits and label logits of the training law, for a block of nodes beginning with
    /// `first`.
    pub(super) fn training<const T: usize, const K: usize>(
        &self,
        normals: &Normals<'_>,
        first: usize,
    ) -> (Logits<T>, Logits<T>) {
        let mut frozen = self.frozen_logits::<T>(normals, first);
        if let Sequences::Active(selection) = self.sequences {
            self.select(&mut frozen, selection, normals, first);
        }
        let label = self.label_logits(normals, first, &frozen);
        if self.sequences == Sequences::Reused {
            frozen = self.trained::<T, K>(&frozen, &label);
        }
        (scaled(&frozen, self.beta), label)
    }

    /// Recalibrated frozen logits, label logits and noiseless label logits of new sequences. The standard
    /// normals `clean` make the difference between noisy and noiseless label logits.
    pub(super) fn test<const T: usize>(
        &self,
        normals: &Normals<'_>,
        clean: &[Vec<f64>],
        first: usize,
    ) -> [Logits<T>; 3] {
        let frozen = self.frozen_logits::<T>(normals, first);
        let label = self.label_logits(normals, first, &frozen);
        let spread = gather::<T>(clean, first);
        let [share, deviation] = self.clean;
        let mut noiseless = label;
        for a in 0..T {
            for b in 0..T {
                for l in 0..LANES {
                    let mean = self.slope * frozen[a][b][l];
                    noiseless[a][b][l] = mean + share * (label[a][b][l] - mean) + deviation * spread[a][b][l];
                }
            }
        }
        [scaled(&frozen, self.beta), label, noiseless]
    }

    fn frozen_logits<const T: usize>(&self, normals: &Normals<'_>, first: usize) -> Logits<T> {
        scaled(&gather(normals.frozen, first), self.frozen)
    }

    fn label_logits<const T: usize>(
        &self,
        normals: &Normals<'_>,
        first: usize,
        frozen: &Logits<T>,
    ) -> Logits<T> {
        let mut label = gather::<T>(normals.label, first);
        for a in 0..T {
            for b in 0..T {
                for l in 0..LANES {
                    label[a][b][l] = self.slope * frozen[a][b][l] + self.label * label[a][b][l];
                }
            }
        }
        label
    }

    /// Conditions the frozen logits on the selected ball.
    fn select<const T: usize>(
        &self,
        frozen: &mut Logits<T>,
        selection: Selection,
        normals: &Normals<'_>,
        first: usize,
    ) {
        for l in 0..LANES {
            let seen: f64 = normals.frozen.iter().map(|column| column[first + l].powi(2)).sum();
            let unseen = normals.flat.map_or(0.0, |column| column[first + l].powi(2));
            let shrinkage = selection.score().shrinkage(self.tokens, selection.fraction(), seen + unseen);
            for logit in frozen.iter_mut().flatten() {
                logit[l] *= shrinkage;
            }
        }
    }

    /// The trained logits on a sequence of the pre-training, whose frozen logits as a new sequence are
    /// `omega`.
    fn trained<const T: usize, const K: usize>(&self, omega: &Logits<T>, label: &Logits<T>) -> Logits<T> {
        let y = std::array::from_fn(|a| softmax_row(&label[a]));
        let prox = MatrixProx::<T, K> { omega: coordinates(omega), y: &y, v: self.response };
        let none = [[f64::NAN; LANES]; K];
        matrices(&prox.global(&coordinates(label), &none).h)
    }
}

/// The matrices orthogonal to `u` that have the given standard normals as coordinates.
fn gather<const T: usize>(columns: &[Vec<f64>], first: usize) -> Logits<T> {
    let mut block = [[[0.0; LANES]; T]; T];
    for l in 0..LANES {
        let matrix = channel::centred_from_coordinates::<T>(|k| columns[k][first + l]);
        for a in 0..T {
            for b in 0..T {
                block[a][b][l] = matrix[a][b];
            }
        }
    }
    block
}

fn scaled<const T: usize>(logits: &Logits<T>, factor: f64) -> Logits<T> {
    logits.map(|row| row.map(|lane| lane.map(|x| factor * x)))
}
