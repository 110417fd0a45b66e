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
//! `lambda'_c` the first condition holds with equality. Bounded activations (softmax) have such a threshold, and
//! unbounded ones (linear attention) do not.
//!
//! With two factors, `chi*^T R chi*` is replaced by the quadratic form of `(chi*, psi*)` along its most unstable direction, and `tr R` by that of one
//! factor. There is no centring. The loss of linear attention is not bounded there either, but the samples that would keep the weights from vanishing
//! are so rare that the threshold is sharp: with them, the weights are exponentially small above it.

use super::ridge::Ridge;
use crate::losses::vector::{Moments, VectorOverlaps, ZeroWeights, term};
use crate::roots;

/// Ratio of consecutive values of `v` in the search for the first root.
const SCAN: f64 = 1.25;
/// End of that search, as a fraction of the largest response. Closer to the pole, a single sample decides the
/// averages.
const POLE: f64 = 0.97;
/// End of the search for the noise edge where the averages may be decided by a single sample.
const AT_POLE: f64 = 1.0 - 1e-12;
/// Start of that search, as a fraction of the smaller of its end and the typical response.
const FIRST: f64 = 1e-5;

/// The response and the averages at `w = 0`, if `w = 0` is stable: the common ones, and those of every
/// replicate by itself.
#[allow(clippy::type_complexity, reason = "a pair, and many of the same")]
pub(super) fn stable(
    zero: &ZeroWeights,
    ridge: &Ridge,
) -> Option<((VectorOverlaps, Moments), Vec<(VectorOverlaps, Moments)>)> {
    let v = response(zero, |moments| total_curvature(ridge, moments))?;
    let moments = zero.mean(v);
    let point = at_zero(v);
    let stable = ridge.growth(&point, &moments) <= 1.0 && ridge.alpha * moments[term::REPLICON] <= 1.0;
    stable.then(|| ((point, moments), replicates(zero, v, |moments| total_curvature(ridge, moments))))
}

/// Shares of `lambda'_c` below which the averages over the nodes of the two cheap levels show that `w = 0` is unstable. There
/// `lambda'_c` has standard errors of a tenth and of a few percent.
pub(super) const CLEARLY_BELOW: [f64; 2] = [0.4, 0.7];

/// Whether a few nodes tell that the ridge is below a share of `lambda'_c`, so that `w = 0` is unstable.
pub(super) fn clearly_unstable(few: &ZeroWeights, ridge: &Ridge, share: f64) -> bool {
    critical_ridge(few, ridge).is_some_and(|(critical, _)| ridge.lambda < share * critical)
}

/// The response of every replicate by itself, to first order in its distance from the common one, and the
/// averages there.
fn replicates(
    zero: &ZeroWeights,
    v: f64,
    curvature: impl Fn(&Moments) -> f64,
) -> Vec<(VectorOverlaps, Moments)> {
    let excess = |v: f64, moments: &Moments| v * curvature(moments) - 1.0;
    let step = 1e-5 * v;
    let slope = (excess(v + step, &zero.mean(v + step)) - excess(v, &zero.mean(v))) / step;
    zero.replicates()
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
pub(super) fn critical_ridge(zero: &ZeroWeights, ridge: &Ridge) -> Option<(f64, Vec<f64>)> {
    let alpha = ridge.alpha;
    let curvature = |moments: &Moments| alpha * (moments[term::STABILITY] - moments[term::DIVERGENCE_OMEGA]);
    let critical = |moments: &Moments| alpha * (0.5 * moments[term::STABILITY] - moments[term::CENTRING]);
    let v = response(zero, curvature)?;
    let own = replicates(zero, v, curvature);
    Some((critical(&zero.mean(v)), own.iter().map(|(_, moments)| critical(moments)).collect()))
}

/// The smallest `v` with `v curvature(averages at v) = 1`. The result is `None`, too, if so few samples
/// contribute to the averages that these mean nothing.
fn response(zero: &ZeroWeights, curvature: impl Fn(&Moments) -> f64) -> Option<f64> {
    // If no curvature is negative, 1/v is of the order of the typical curvature.
    let scale = 1.0 / curvature(&zero.mean(0.0)).abs();
    first_root(zero, POLE, scale, |v| v * curvature(&zero.mean(v)) - 1.0)
}

/// The smallest `v` at which `excess` becomes positive, below the share `pole` of the response at which the proximal point of some sample is no
/// longer 0. `scale` is the order of magnitude of the root if there is no such response.
fn first_root(zero: &ZeroWeights, pole: f64, scale: f64, excess: impl Fn(f64) -> f64) -> Option<f64> {
    if !zero.is_resolved() {
        return None;
    }
    let end = (pole * zero.largest_response()).min(1e6 * scale);
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

/// The noise edge, in the same units as the ridge that it was asked for with.
pub(super) struct NoiseEdge {
    pub(super) value: f64,
    /// That of every replicate by itself.
    pub(super) own: Vec<f64>,
    /// Whether the few samples with the steepest loss decide it. More nodes have steeper samples, and move it by more than the
    /// replicates differ from each other.
    pub(super) by_few: bool,
}

/// The ridge at which the norm of the weights begins to grow from zero without an overlap, `alpha' v^2 E tr R^2 = 1`. The
/// `lambda` of `ridge` is not used.
///
/// `2 lambda = 1/v - alpha' E tr R - 2 eta0` falls with `v` up to that root. With little data and a bounded loss there is no root below the response
/// `1/|c|` of the steepest loss that is possible, and the edge is the value there: that of the steepest sample of all nodes.
/// If the loss is not bounded, there is no such value, and the result is `None`.
pub(super) fn noise_edge(zero: &ZeroWeights, ridge: &Ridge) -> Option<NoiseEdge> {
    let excess = |zero: &ZeroWeights, v: f64| ridge.alpha * zero.mean(v)[term::REPLICON] - 1.0;
    let root = |zero: &ZeroWeights, pole: f64| {
        let scale = 1.0 / (ridge.alpha * zero.mean(0.0)[term::DIVERGENCE_OMEGA]).abs();
        first_root(zero, pole, scale, |v| excess(zero, v))
    };
    if let Some(v) = root(zero, POLE) {
        let step = 1e-5 * v;
        let slope = (excess(zero, v + step) - excess(zero, v)) / step;
        let own = zero.replicates().iter().map(|samples| {
            let own = v - (ridge.alpha * samples.moments(v)[term::REPLICON] - 1.0) / slope;
            edge_at(ridge, own, &samples.moments(own))
        });
        return Some(NoiseEdge {
            value: edge_at(ridge, v, &zero.mean(v)),
            own: own.collect(),
            by_few: false,
        });
    }
    if !zero.is_bounded() {
        return None;
    }
    let value = |zero: &ZeroWeights| root(zero, AT_POLE).map(|v| edge_at(ridge, v, &zero.mean(v)));
    let own = zero.separate().iter().map(value).collect::<Option<Vec<f64>>>()?;
    Some(NoiseEdge { value: value(zero)?, own, by_few: true })
}

/// The ridge at which `v` is the response of weights that vanish.
fn edge_at(ridge: &Ridge, v: f64, moments: &Moments) -> f64 {
    0.5 / v - ridge.alpha * (moments[term::CENTRING] - 0.5 * moments[term::DIVERGENCE_OMEGA])
}

fn at_zero(v: f64) -> VectorOverlaps {
    VectorOverlaps { m: 0.0, s2: 0.0, v }
}

/// `r = vhat + 2 lambda + 2 eta` at `w = 0`.
fn total_curvature(ridge: &Ridge, moments: &Moments) -> f64 {
    ridge.alpha * (2.0 * moments[term::CENTRING] - moments[term::DIVERGENCE_OMEGA]) + 2.0 * ridge.lambda
}
