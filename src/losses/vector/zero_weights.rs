//! The losses at weights that vanish altogether, `w = 0`.
//!
//! There `l' = const + chi^T G chi + ...` for every sample, with curvature `H0 = G + G^T`, and the proximal
//! point is linear in a small `omega`: `g = -R omega` with `R = H0 (I + v H0)^{-1}`. All averages are functions of
//! the response `v` alone.

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

/// The samples of one scramble.
pub(crate) struct Curvatures {
    /// All eigenvalues of all samples.
    pub(crate) curvatures: Vec<Curvature>,
    /// Mean of `l'`.
    pub(crate) loss: f64,
    /// Mean of `dl'/dq = -tr G`.
    pub(crate) centring: f64,
    /// Number of samples.
    pub(crate) count: f64,
}

/// The averages at `w = 0`, in units of `q0`.
pub(crate) struct ZeroWeights {
    samples: Vec<Curvatures>,
    /// `1/|smallest eigenvalue of H0|`. At larger responses, the proximal point of some sample is not 0.
    largest_response: f64,
    /// Whether enough samples contribute to the averages.
    resolved: bool,
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

/// Smallest number of curvatures that contribute to the averages, `(sum |c|)^2 / sum c^2`, with which the
/// averages mean something. A very steep activation is flat at nearly all nodes, and the few others decide.
/// At ordinary steepness, the number is about half of all curvatures, of which there are at least 128.
const SMALLEST_EVIDENCE: f64 = 16.0;

impl Curvatures {
    /// The averages at the response `v`.
    pub(crate) fn moments(&self, v: f64) -> Moments {
        let [mut trace, mut star, mut square] = [0.0; 3];
        for &Curvature { value, star2 } in &self.curvatures {
            let r = value / (1.0 + v * value);
            trace += r;
            star += r * star2;
            square += (v * r) * (v * r);
        }
        let mut sums = [0.0; COUNT];
        sums[term::DIVERGENCE_OMEGA] = -trace / self.count;
        sums[term::CENTRING] = self.centring;
        sums[term::LOSS] = self.loss;
        sums[term::REPLICON] = square / self.count;
        sums[term::STABILITY] = -star / self.count;
        Moments::from_sums(sums)
    }
}

impl ZeroWeights {
    /// Whether the averages mean something.
    pub(crate) fn is_resolved(&self) -> bool {
        self.resolved
    }

    pub(crate) fn new(samples: Vec<Curvatures>) -> Self {
        let (mut sum, mut square) = (0.0, 0.0);
        for curvature in samples.iter().flat_map(|samples| &samples.curvatures) {
            sum += curvature.value.abs();
            square += curvature.value * curvature.value;
        }
        let resolved = sum * sum >= SMALLEST_EVIDENCE * square && square > 0.0;
        let lowest =
            samples.iter().flat_map(|samples| &samples.curvatures).fold(0.0, |m: f64, c| m.min(c.value));
        let largest_response = if lowest < 0.0 { -1.0 / lowest } else { f64::INFINITY };
        Self { samples, largest_response, resolved }
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
