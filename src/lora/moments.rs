//! The averages over one evaluation of the output channel, and the order parameters they belong to.

use super::zero_weights::ZeroWeights;
use crate::divergence::Divergence;

/// Number of averages.
pub(super) const COUNT: usize = 14;

/// Order parameters in units of `q0`: `m`, the variance `s2 = q - m^2` of `omega` given `chi*`, and `v`. In these
/// coordinates `m^2 <= q` holds by itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Point {
    pub(super) m: f64,
    pub(super) s2: f64,
    pub(super) v: f64,
}

impl Point {
    pub(super) fn q(&self) -> f64 {
        self.m * self.m + self.s2
    }

    /// Standard deviation of `omega` given `chi*`.
    pub(super) fn deviation(&self) -> f64 {
        self.s2.sqrt()
    }
}

/// Averages per sample. `g = (chi_p - omega)/v`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Moments {
    /// Pointwise parts of `div_omega g` and `div_chi* g` (the latter only if it is used, see
    /// [`OutputChannel::smooth_divergence`]).
    pub(super) pointwise: [f64; 2],
    /// Jump parts of the same, where they are known in closed form.
    pub(super) jump: [f64; 2],
    /// `|g|^2`.
    pub(super) gradient2: f64,
    /// `d l'/dq` at the proximal point.
    pub(super) centring: f64,
    /// `g.f` and `g.chi*`, where `omega = m chi* + s f`.
    pub(super) overlaps: [f64; 2],
    /// `|f|^2`, `f.chi*` and `|chi*|^2` on the very nodes of the average.
    pub(super) seconds: [f64; 3],
    /// `l'` at the proximal point (zero unless asked for, as are those below).
    pub(super) loss: f64,
    /// `|v dg/domega|_F^2`, pointwise.
    pub(super) replicon: f64,
    /// `chi*^T (dg/domega) chi*`, jumps included.
    pub(super) stability: f64,
}

impl Moments {
    /// In the order in which the terms of a sample are stored.
    pub(super) fn from_sums(s: [f64; COUNT]) -> Self {
        Self {
            pointwise: [s[0], s[1]],
            jump: [s[2], s[3]],
            gradient2: s[4],
            centring: s[5],
            overlaps: [s[6], s[7]],
            seconds: [s[8], s[9], s[10]],
            loss: s[11],
            replicon: s[12],
            stability: s[13],
        }
    }

    pub(super) fn to_sums(self) -> [f64; COUNT] {
        let Self { pointwise: [a, b], jump: [c, d], overlaps: [e, f], seconds: [g, h, i], .. } = self;
        let Self { gradient2, centring, loss, replicon, stability, .. } = self;
        [a, b, c, d, gradient2, centring, e, f, g, h, i, loss, replicon, stability]
    }

    /// The mean of several, in order.
    pub(super) fn mean(all: &[Self]) -> Self {
        let mut total = [0.0; COUNT];
        for moments in all {
            for (t, x) in total.iter_mut().zip(moments.to_sums()) {
                *t += x;
            }
        }
        Self::from_sums(total.map(|t| t / all.len() as f64))
    }
}

/// The averages over the losses, at any accuracy level.
pub(super) trait OutputChannel {
    /// Number of accuracy levels, at least 1; each is a refinement of the one before.
    fn levels(&self) -> usize;

    /// The estimator of the divergences with the smaller error where jumps are rare.
    fn smooth_divergence(&self) -> Divergence;

    /// Residual at which jumps of the discretised averages explain a stall, if there are no replicates to tell.
    fn resolution(&self) -> f64;

    /// What decides whether the weights vanish altogether; `None` for a loss that never lets them.
    fn zero_weights(&mut self) -> Option<&ZeroWeights> {
        None
    }

    /// Drops the proximal points of earlier evaluations, which the next one would start from otherwise.
    fn forget(&mut self);

    /// The averages at `point`, one entry per independent replicate. The last three moments are computed only if `full`.
    fn replicates(&mut self, level: usize, point: &Point, full: bool) -> Vec<Moments>;
}
