//! The frozen logits and the label's logits of a block of nodes, drawn from their joint law.

use crate::channel::MANY_SAMPLES;
use crate::channel::{LowestPoint, MatrixProx, centred_matrices, coordinates, matrices, softmax_row};
use crate::descent::LaneVector;
use crate::fields::{JointLaw, Normals, Sequences};
use crate::lanes::{self, LANES, Lane};
use crate::parallel;

/// A symmetric matrix of logits for every sample of a block.
pub(super) type Logits<const T: usize> = [[Lane; T]; T];

/// A block of samples.
pub(super) struct LogitsBlock<const T: usize> {
    /// Recalibrated frozen logits `z`.
    pub(super) frozen: Logits<T>,
    /// Logits `B` of the label, the perturbation included.
    pub(super) label: Logits<T>,
    /// `sigma(B)`.
    pub(super) y: Logits<T>,
    /// `chi*`.
    pub(super) star: LaneVector<T>,
    /// The part of `omega` that is independent of `chi*`, in units of its standard deviation.
    pub(super) free: LaneVector<T>,
}

/// Recalibrated frozen logits and label logits of the training law, for a block of nodes beginning with
/// `first`. `thorough` tells whether all starts of every proximal point of the pre-training are tried.
#[inline(always)]
pub(super) fn training_logits<const T: usize, const K: usize>(
    law: &JointLaw,
    normals: &Normals<'_>,
    first: usize,
    thorough: bool,
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
        frozen = matrices(&trained::<T, K>(law, &frozen, &label, thorough).h);
    }
    (scaled(&frozen, law.beta), label)
}

#[inline(always)]
fn frozen_logits<const T: usize>(law: &JointLaw, normals: &Normals<'_>, first: usize) -> Logits<T> {
    scaled(&centred(normals.frozen, first), law.frozen)
}

/// The matrices orthogonal to `u` that have the standard normals of consecutive nodes as coordinates.
#[inline(always)]
fn centred<const T: usize>(columns: &[Vec<f64>], first: usize) -> Logits<T> {
    centred_matrices(
        #[inline(always)]
        |k| lanes::load(&columns[k], first),
    )
}

#[inline(always)]
fn label_logits<const T: usize>(
    law: &JointLaw,
    normals: &Normals<'_>,
    first: usize,
    frozen: &Logits<T>,
) -> Logits<T> {
    let mut label: Logits<T> = centred(normals.label, first);
    for a in 0..T {
        for b in 0..T {
            for l in 0..LANES {
                label[a][b][l] = law.label(frozen[a][b][l], label[a][b][l]);
            }
        }
    }
    label
}

/// Whether some of many samples of the pre-training have several minima. A search that leaves out starts sees most of these
/// samples, and is enough where it sees none.
pub(super) fn pretraining_has_second_minima<const T: usize, const K: usize>(
    law: &JointLaw,
    normals: &Normals<'_>,
    nodes: usize,
) -> bool {
    let blocks = MANY_SAMPLES.min(nodes) / LANES;
    let contested = parallel::map(blocks, MANY_SAMPLES / LANES / 8, &|block| {
        let frozen = frozen_logits::<T>(law, normals, block * LANES);
        let label = label_logits(law, normals, block * LANES, &frozen);
        trained::<T, K>(law, &frozen, &label, false).contested.iter().any(|contested| *contested > 0.0)
    });
    contested.contains(&true)
}

/// The proximal points of the pre-training: the trained logits on its sequences, whose frozen logits as new sequences are `omega`.
fn trained<const T: usize, const K: usize>(
    law: &JointLaw,
    omega: &Logits<T>,
    label: &Logits<T>,
    thorough: bool,
) -> LowestPoint<K> {
    let y = std::array::from_fn(|a| softmax_row(&label[a]));
    let prox = MatrixProx::<T, K> { omega: coordinates(omega), y: &y, v: law.response };
    let none = [[f64::NAN; LANES]; K];
    if thorough {
        prox.global(&coordinates(label), &none)
    } else {
        prox.global_screened(&coordinates(label), &none)
    }
}

#[inline(always)]
fn scaled<const T: usize>(logits: &Logits<T>, factor: f64) -> Logits<T> {
    let mut scaled = *logits;
    for a in 0..T {
        for b in 0..T {
            for l in 0..LANES {
                scaled[a][b][l] *= factor;
            }
        }
    }
    scaled
}
