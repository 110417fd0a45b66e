//! The frozen logits and the label's logits of a block of nodes, drawn from their joint law.

use crate::channel::{LowestPoint, MatrixProx, centred_matrices, coordinates, matrices, softmax_row};
use crate::channel::{MANY_SAMPLES, ProxSearch};
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

/// How the proximal points of the pre-training are found, of which the logits of reused sequences are made.
#[derive(Clone, Copy)]
pub(super) struct PretrainingSolve {
    search: ProxSearch,
    /// Whether their errors may be as large as the noise of averages allows.
    sampled: bool,
}

impl PretrainingSolve {
    /// Sequences that are not reused have none.
    pub(super) const NONE: Self = Self { search: ProxSearch::Followed, sampled: false };
}

/// Recalibrated frozen logits and label logits of the training law, for a block of nodes beginning with
/// `first`.
#[inline(always)]
pub(super) fn training_logits<const T: usize, const K: usize>(
    law: &JointLaw,
    normals: &Normals<'_>,
    first: usize,
    solve: PretrainingSolve,
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
        frozen = matrices(&trained::<T, K>(law, &frozen, &label, solve).h);
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

/// How the proximal points of the pre-training are found. The search is the one that is enough, judged by many samples. A search that leaves out
/// starts sees most of the samples that have several minima.
pub(super) fn pretraining_solve<const T: usize, const K: usize>(
    law: &JointLaw,
    normals: &Normals<'_>,
    nodes: usize,
    sampled: bool,
) -> PretrainingSolve {
    let solve = PretrainingSolve { search: ProxSearch::Screened, sampled };
    let blocks = MANY_SAMPLES.min(nodes) / LANES;
    let contested = parallel::map(blocks, MANY_SAMPLES / LANES / 8, &|block| {
        let frozen = frozen_logits::<T>(law, normals, block * LANES);
        let label = label_logits(law, normals, block * LANES, &frozen);
        let found = trained::<T, K>(law, &frozen, &label, solve);
        found.contested.iter().any(|contested| *contested > 0.0)
    });
    PretrainingSolve { search: ProxSearch::after(contested.contains(&true), blocks * LANES), sampled }
}

/// The proximal points of the pre-training: the trained logits on its sequences, whose frozen logits as new sequences are `omega`.
fn trained<const T: usize, const K: usize>(
    law: &JointLaw,
    omega: &Logits<T>,
    label: &Logits<T>,
    solve: PretrainingSolve,
) -> LowestPoint<K> {
    let y = std::array::from_fn(|a| softmax_row(&label[a]));
    let PretrainingSolve { search, sampled } = solve;
    let prox = MatrixProx::<T, K>::new(coordinates(omega), &y, law.response, sampled);
    prox.minimum(search, &coordinates(label), &[[f64::NAN; LANES]; K])
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
