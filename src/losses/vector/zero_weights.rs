//! The losses at weights that vanish altogether, `w = 0`.
//!
//! There `l' = const + chi^T G chi + ...` for every sample, with curvature `H0 = G + G^T`, and the proximal
//! point is linear in a small `omega`: `g = -R omega` with `R = H0 (I + v H0)^{-1}`. All averages are functions of
//! the response `v` alone.
//!
//! With two factors, `b = a = 0`, the curvature is `H0 = [[0, G], [G^T, 0]]` with `G` the derivative of the loss by the logits, and both factors
//! have the same response. With the singular values `g` of `G`, the blocks of `R` are `R_bb = -v G G^T (1 - v^2 G G^T)^{-1}`, which is
//! diagonal with the entries `-v g^2/(1 - v^2 g^2)`, `R_aa` with the same entries, and `R_ba` with `g/(1 - v^2 g^2)`.

use std::collections::BTreeMap;

use super::moments::{COUNT, Moments, term};
use crate::state_evolution::mean;

/// One eigenvalue of `H0` for one sample, and the square of the component of `chi*` along it, in units of
/// `q0`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Curvature {
    pub(crate) value: f64,
    pub(crate) star2: f64,
}

/// One singular value of `G` for one sample, and the components of `chi*` and `psi*` along its singular vectors, in units of the root of
/// `q0`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SingularCurvature {
    pub(crate) value: f64,
    pub(crate) star: [f64; 2],
}

/// The curvatures of all samples.
#[derive(Clone)]
pub(crate) enum CurvatureList {
    /// The eigenvalues of `H0`, for a single factor.
    Single(Vec<Curvature>),
    /// The singular values of `G`, for two factors.
    Factors(Vec<SingularCurvature>),
}

impl CurvatureList {
    fn values(&self) -> Vec<f64> {
        match self {
            Self::Single(all) => all.iter().map(|curvature| curvature.value).collect(),
            // The eigenvalues of H0 come in pairs of opposite sign.
            Self::Factors(all) => all.iter().map(|curvature| -curvature.value).collect(),
        }
    }
}

/// The samples of one scramble.
#[derive(Clone)]
pub(crate) struct Curvatures {
    pub(crate) curvatures: CurvatureList,
    /// Mean of `l'`.
    pub(crate) loss: f64,
    /// Mean of `dl'/dq = -tr G`.
    pub(crate) centring: f64,
    /// Number of samples.
    pub(crate) count: f64,
    /// Share of the curvatures that may be left out because their samples have no minimum at zero weights.
    pub(crate) dropped: f64,
}

/// The averages at `w = 0`, in units of `q0`.
pub(crate) struct ZeroWeights {
    samples: Vec<Curvatures>,
    /// `1/|smallest eigenvalue of H0|`. At larger responses, the proximal point of some sample is not 0.
    largest_response: f64,
    /// Whether enough samples contribute to the averages.
    resolved: bool,
    /// Whether the loss is bounded, so that no curvature is left out.
    bounded: bool,
}

/// The averages on the nodes of the levels at which they were asked for.
#[derive(Default)]
pub(crate) struct ZeroWeightsByLevel(BTreeMap<usize, ZeroWeights>);

impl ZeroWeightsByLevel {
    /// The averages on the nodes of a level, which are made if they are not there. `samples` gives the curvatures of
    /// every scramble.
    pub(crate) fn at(&mut self, level: usize, samples: impl FnOnce() -> Vec<Curvatures>) -> &ZeroWeights {
        self.0.entry(level).or_insert_with(|| ZeroWeights::new(samples()))
    }
}

/// Largest `v g` of a sample that contributes to the averages of two factors if the loss is not bounded. Closer to 1, a single sample decides them.
const LARGEST_SHARE: f64 = 0.97;

/// Smallest number of curvatures that contribute to the averages, `(sum |c|)^2 / sum c^2`, with which the
/// averages mean something. A very steep activation is flat at nearly all nodes, and the few others decide.
/// At ordinary steepness, the number is about half of all curvatures, of which there are at least 128.
const SMALLEST_EVIDENCE: f64 = 16.0;

impl Curvatures {
    /// The averages at the response `v`.
    pub(crate) fn moments(&self, v: f64) -> Moments {
        let [trace, star, square] = match &self.curvatures {
            CurvatureList::Single(all) => {
                let [mut trace, mut star, mut square] = [0.0; 3];
                for &Curvature { value, star2 } in all {
                    let r = value / (1.0 + v * value);
                    trace += r;
                    star += r * star2;
                    square += (v * r) * (v * r);
                }
                [trace, star, square]
            }
            CurvatureList::Factors(all) => {
                of_factors(all, v, if self.dropped > 0.0 { LARGEST_SHARE } else { 1.0 })
            }
        };
        let mut sums = [0.0; COUNT];
        sums[term::DIVERGENCE_OMEGA] = -trace / self.count;
        sums[term::CENTRING] = self.centring;
        sums[term::LOSS] = self.loss;
        sums[term::REPLICON] = square / self.count;
        sums[term::STABILITY] = -star / self.count;
        Moments::from_sums(sums)
    }
}

/// `tr R_bb`, minus the top eigenvalue of `-[[chi*^T R_bb chi*, chi*^T R_ba psi*], [., psi*^T R_aa psi*]]`, and `v^2 (|R_bb|^2 + |R_ba|^2)`, summed
/// over the samples. Samples with `v g >= largest` are left out: their proximal point is not 0. There are some if the activation is not bounded.
fn of_factors(all: &[SingularCurvature], v: f64, largest: f64) -> [f64; 3] {
    let [mut trace, mut square] = [0.0; 2];
    let mut form = [0.0; 3];
    for &SingularCurvature { value, star: [chi, psi] } in all {
        if v * value >= largest {
            continue;
        }
        let stability = 1.0 - (v * value) * (v * value);
        let (same, exchanged) = (-v * value * value / stability, value / stability);
        trace += same;
        square += v * v * (same * same + exchanged * exchanged);
        form[0] += same * chi * chi;
        form[1] += exchanged * chi * psi;
        form[2] += same * psi * psi;
    }
    let [b, exchanged, a] = form;
    let top = -0.5 * (b + a) + (0.25 * (b - a) * (b - a) + exchanged * exchanged).sqrt();
    [trace, -top, square]
}

impl ZeroWeights {
    /// Whether the averages mean something.
    pub(crate) fn is_resolved(&self) -> bool {
        self.resolved
    }

    pub(crate) fn new(samples: Vec<Curvatures>) -> Self {
        let (mut sum, mut square) = (0.0, 0.0);
        let mut values: Vec<f64> = samples.iter().flat_map(|samples| samples.curvatures.values()).collect();
        for value in &values {
            sum += value.abs();
            square += value * value;
        }
        let resolved = sum * sum >= SMALLEST_EVIDENCE * square && square > 0.0;
        let dropped = samples.iter().map(|samples| samples.dropped).fold(0.0, f64::max);
        let lowest = if dropped > 0.0 {
            let rank = (dropped * values.len() as f64) as usize;
            values.sort_unstable_by(f64::total_cmp);
            values.get(rank).map_or(0.0, |value| value.min(0.0))
        } else {
            values.iter().fold(0.0, |m: f64, value| m.min(*value))
        };
        let largest_response = if lowest < 0.0 { -1.0 / lowest } else { f64::INFINITY };
        Self { samples, largest_response, resolved, bounded: dropped <= 0.0 }
    }

    /// Whether the loss is bounded, so that there is a steepest one.
    pub(crate) fn is_bounded(&self) -> bool {
        self.bounded
    }

    /// The averages over every replicate by itself.
    pub(crate) fn separate(&self) -> Vec<Self> {
        self.samples.iter().map(|samples| Self::new(vec![samples.clone()])).collect()
    }

    /// The response at which the proximal point of some sample is no longer 0.
    pub(crate) fn largest_response(&self) -> f64 {
        self.largest_response
    }

    /// The averages at the response `v`, over all replicates.
    pub(crate) fn mean(&self, v: f64) -> Moments {
        mean(&self.samples.iter().map(|samples| samples.moments(v)).collect::<Vec<_>>())
    }

    /// The samples of every replicate.
    pub(crate) fn replicates(&self) -> &[Curvatures] {
        &self.samples
    }
}
