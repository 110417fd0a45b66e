//! The frozen logits and the label's logits of a block of nodes, drawn from their joint law.

use crate::channel::{MatrixProx, coordinates, matrices, softmax_row};
use crate::fields::{JointLaw, Normals, Sequences};
use crate::lanes::{LANES, Lane};
use crate::losses::block::centred_matrices;

/// A symmetric matrix of logits for every sample of a block.
pub(super) type Logits<const T: usize> = [[Lane; T]; T];

/// Recalibrated frozen logits and label logits of the training law, for a block of nodes beginning with
/// `first`.
pub(super) fn training_logits<const T: usize, const K: usize>(
    law: &JointLaw,
    normals: &Normals<'_>,
    first: usize,
) -> (Logits<T>, Logits<T>) {
    let mut frozen = frozen_logits::<T>(law, normals, first);
    for l in 0..LANES {
        if let Some(shrinkage) = law.shrinkage(normals, first + l) {
            for logit in frozen.iter_mut().flatten() {
                logit[l] *= shrinkage;
            }
        }
    }
    let label = label_logits(law, normals, first, &frozen);
    if law.sequences == Sequences::Reused {
        frozen = trained::<T, K>(law, &frozen, &label);
    }
    (scaled(&frozen, law.beta), label)
}

fn frozen_logits<const T: usize>(law: &JointLaw, normals: &Normals<'_>, first: usize) -> Logits<T> {
    scaled(&centred_matrices(normals.frozen, first), law.frozen)
}

fn label_logits<const T: usize>(
    law: &JointLaw,
    normals: &Normals<'_>,
    first: usize,
    frozen: &Logits<T>,
) -> Logits<T> {
    let mut label = centred_matrices::<T>(normals.label, first);
    for a in 0..T {
        for b in 0..T {
            for l in 0..LANES {
                label[a][b][l] = law.label(frozen[a][b][l], label[a][b][l]);
            }
        }
    }
    label
}

/// The trained logits on a sequence of the pre-training, whose frozen logits as a new sequence are `omega`.
fn trained<const T: usize, const K: usize>(
    law: &JointLaw,
    omega: &Logits<T>,
    label: &Logits<T>,
) -> Logits<T> {
    let y = std::array::from_fn(|a| softmax_row(&label[a]));
    let prox = MatrixProx::<T, K> { omega: coordinates(omega), y: &y, v: law.response };
    let none = [[f64::NAN; LANES]; K];
    matrices(&prox.global(&coordinates(label), &none).h)
}

fn scaled<const T: usize>(logits: &Logits<T>, factor: f64) -> Logits<T> {
    logits.map(|row| row.map(|lane| lane.map(|x| factor * x)))
}
