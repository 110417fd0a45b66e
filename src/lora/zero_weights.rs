//! Collapse: the ridge is so strong that the learned perturbation vanishes altogether, `w = 0`.
//!
//! There `l' = const + chi^T G chi + ...` for every sample, with curvature `H0 = G + G^T`, and the proximal
//! point is linear in a small `omega`: `g = -R omega` with `R = H0 (I + v H0)^{-1}`. With
//! `eta0 = -alpha' E tr G`, the response at `w = 0` obeys
//!
//! ```text
//! 1/v = alpha' E tr R + 2 lambda' + 2 eta0
//! ```
//!
//! The weights `w = 0` are stable if neither an overlap nor a norm grows:
//! `-alpha' E[chi*^T R chi*]/q0 <= 2 (lambda' + eta0)` and `alpha' v^2 E tr R^2 <= 1`. At the threshold
//! `lambda'_c` the first condition holds with equality. Bounded losses (softmax) have such a threshold, and
//! unbounded ones (linear attention) do not.

use super::moments::{Moments, VectorOverlaps};
use super::ridge::Ridge;
use crate::roots;
use crate::state_evolution::mean;

/// Ratio of consecutive values of `v` in the search for the first root.
const SCAN: f64 = 1.25;
/// End of that search, as a fraction of the largest response. Closer to the pole, a single sample decides the
/// averages.
const POLE: f64 = 0.97;
/// Start of that search, as a fraction of the smaller of its end and the typical response.
const FIRST: f64 = 1e-5;

/// One eigenvalue of `H0` for one sample, and the square of the component of `chi*` along it, in units of
/// `q0`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Curvature {
    pub(super) value: f64,
    pub(super) star2: f64,
}

/// The samples of one scramble.
pub(super) struct Curvatures {
    /// All eigenvalues of all samples.
    pub(super) curvatures: Vec<Curvature>,
    /// Mean of `l'`.
    pub(super) loss: f64,
    /// Mean of `dl'/dq = -tr G`.
    pub(super) centring: f64,
    /// Number of samples.
    pub(super) count: f64,
}

/// The averages at `w = 0`, in units of `q0`.
pub(super) struct ZeroWeights {
    samples: Vec<Curvatures>,
    /// `1/|smallest eigenvalue of H0|`. At larger responses, the proximal point of some sample is not 0.
    largest_response: f64,
}

impl Curvatures {
    fn moments(&self, v: f64) -> Moments {
        let [mut trace, mut star, mut square] = [0.0; 3];
        for &Curvature { value, star2 } in &self.curvatures {
            let r = value / (1.0 + v * value);
            trace += r;
            star += r * star2;
            square += (v * r) * (v * r);
        }
        Moments {
            pointwise: [-trace / self.count, 0.0],
            centring: self.centring,
            loss: self.loss,
            replicon: square / self.count,
            stability: -star / self.count,
            ..Moments::default()
        }
    }
}

impl ZeroWeights {
    pub(super) fn new(samples: Vec<Curvatures>) -> Self {
        let lowest =
            samples.iter().flat_map(|samples| &samples.curvatures).fold(0.0, |m: f64, c| m.min(c.value));
        let largest_response = if lowest < 0.0 { -1.0 / lowest } else { f64::INFINITY };
        Self { samples, largest_response }
    }

    /// The response and the averages at `w = 0`, if `w = 0` is stable: the common ones, and those of every
    /// replicate by itself.
    #[allow(clippy::type_complexity, reason = "a pair, and many of the same")]
    pub(super) fn stable(
        &self,
        ridge: &Ridge,
    ) -> Option<((VectorOverlaps, Moments), Vec<(VectorOverlaps, Moments)>)> {
        let v = self.response(|moments| total_curvature(ridge, moments))?;
        let moments = self.mean(v);
        let point = at_zero(v);
        let stable = ridge.growth(&point, &moments) <= 1.0 && ridge.alpha * moments.replicon <= 1.0;
        stable.then(|| ((point, moments), self.replicates(v, |moments| total_curvature(ridge, moments))))
    }

    /// The response of every replicate by itself, to first order in its distance from the common one, and the
    /// averages there.
    fn replicates(&self, v: f64, curvature: impl Fn(&Moments) -> f64) -> Vec<(VectorOverlaps, Moments)> {
        let excess = |v: f64, moments: &Moments| v * curvature(moments) - 1.0;
        let step = 1e-5 * v;
        let slope = (excess(v + step, &self.mean(v + step)) - excess(v, &self.mean(v))) / step;
        self.samples
            .iter()
            .map(|samples| {
                let own = v - excess(v, &samples.moments(v)) / slope;
                (at_zero(own), samples.moments(own))
            })
            .collect()
    }

    /// The smallest ridge at which `w = 0` is stable against an overlap, in the same units as `ridge`, and
    /// that of every replicate by itself. The `lambda` of `ridge` is not used. The result is `None` if there
    /// is no such threshold.
    pub(super) fn critical_ridge(&self, ridge: &Ridge) -> Option<(f64, Vec<f64>)> {
        let alpha = ridge.alpha;
        let curvature = |moments: &Moments| alpha * (moments.stability - moments.pointwise[0]);
        let critical = |moments: &Moments| alpha * (0.5 * moments.stability - moments.centring);
        let v = self.response(curvature)?;
        let own = self.replicates(v, curvature);
        Some((critical(&self.mean(v)), own.iter().map(|(_, moments)| critical(moments)).collect()))
    }

    /// The smallest `v` with `v curvature(averages at v) = 1`.
    fn response(&self, curvature: impl Fn(&Moments) -> f64) -> Option<f64> {
        let excess = |v: f64| v * curvature(&self.mean(v)) - 1.0;
        // If no curvature is negative, 1/v is of the order of the typical curvature.
        let scale = 1.0 / curvature(&self.mean(0.0)).abs();
        let end = (POLE * self.largest_response).min(1e6 * scale);
        let mut below = FIRST * end.min(scale);
        let mut f = excess(below);
        while below < end {
            let next = (SCAN * below).min(end);
            let above = excess(next);
            if f < 0.0 && above >= 0.0 {
                let (a, b) = (roots::End { x: below, f }, roots::End { x: next, f: above });
                return Some(roots::bracketed(a, b, 1e-14, next, excess));
            }
            (below, f) = (next, above);
        }
        None
    }

    fn mean(&self, v: f64) -> Moments {
        mean(&self.samples.iter().map(|samples| samples.moments(v)).collect::<Vec<_>>())
    }
}

fn at_zero(v: f64) -> VectorOverlaps {
    VectorOverlaps { m: 0.0, s2: 0.0, v }
}

/// `r = vhat + 2 lambda + 2 eta` at `w = 0`.
fn total_curvature(ridge: &Ridge, moments: &Moments) -> f64 {
    ridge.alpha * (2.0 * moments.centring - moments.pointwise[0]) + 2.0 * ridge.lambda
}
