//! The losses at weights that vanish altogether, `w = 0`.
//!
//! There `l' = const + chi^T G chi + ...` for every sample, with curvature `H0 = G + G^T`, and the proximal
//! point is linear in a small `omega`: `g = -R omega` with `R = H0 (I + v H0)^{-1}`. All averages are functions of
//! the response `v` alone.

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
}

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
    pub(crate) fn new(samples: Vec<Curvatures>) -> Self {
        let lowest =
            samples.iter().flat_map(|samples| &samples.curvatures).fold(0.0, |m: f64, c| m.min(c.value));
        let largest_response = if lowest < 0.0 { -1.0 / lowest } else { f64::INFINITY };
        Self { samples, largest_response }
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
