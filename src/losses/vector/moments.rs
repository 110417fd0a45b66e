//! The averages over one evaluation of the output channel, and the order parameters at which they are taken.

use crate::state_evolution::{Averages, Overlaps};

/// Number of averages.
pub(crate) const COUNT: usize = 14;

/// The index at which each term of a sample is added up, see [`Moments`].
pub(crate) mod term {
    pub(crate) const DIVERGENCE_OMEGA: usize = 0;
    pub(crate) const DIVERGENCE_STAR: usize = 1;
    pub(crate) const JUMP_OMEGA: usize = 2;
    pub(crate) const JUMP_STAR: usize = 3;
    pub(crate) const GRADIENT2: usize = 4;
    pub(crate) const CENTRING: usize = 5;
    pub(crate) const GRADIENT_FREE: usize = 6;
    pub(crate) const GRADIENT_STAR: usize = 7;
    pub(crate) const FREE2: usize = 8;
    pub(crate) const FREE_STAR: usize = 9;
    pub(crate) const STAR2: usize = 10;
    pub(crate) const LOSS: usize = 11;
    pub(crate) const REPLICON: usize = 12;
    pub(crate) const STABILITY: usize = 13;
}

/// Order parameters in units of `q0`: `m`, the variance `s2 = q - m^2` of `omega` given `chi*`, and `v`. In
/// these coordinates `m^2 <= q` holds automatically.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct VectorOverlaps {
    pub(crate) m: f64,
    pub(crate) s2: f64,
    pub(crate) v: f64,
}

impl VectorOverlaps {
    pub(crate) fn q(&self) -> f64 {
        self.m * self.m + self.s2
    }

    /// Standard deviation of `omega` given `chi*`.
    pub(crate) fn deviation(&self) -> f64 {
        self.s2.sqrt()
    }
}

/// Averages per sample. `g = (chi_p - omega)/v`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Moments {
    /// Pointwise parts of `div_omega g` and `div_chi* g`. The second is present only if it is used, see
    /// [`FinetuningLosses::smooth_divergence`](super::channel::FinetuningLosses::smooth_divergence).
    pub(crate) pointwise: [f64; 2],
    /// Jump parts of the same divergences, where they are known in closed form.
    pub(crate) jump: [f64; 2],
    /// `|g|^2`.
    pub(crate) gradient2: f64,
    /// `d l'/dq` at the proximal point.
    pub(crate) centring: f64,
    /// `g.f` and `g.chi*`, where `omega = m chi* + s f`.
    pub(crate) overlaps: [f64; 2],
    /// `|f|^2`, `f.chi*` and `|chi*|^2` on the same nodes as the other averages.
    pub(crate) seconds: [f64; 3],
    /// `l'` at the proximal point. This average and those below are taken in complete passes only.
    pub(crate) loss: f64,
    /// `|v dg/domega|_F^2`, pointwise.
    pub(crate) replicon: f64,
    /// `chi*^T (dg/domega) chi*`, including the jumps.
    pub(crate) stability: f64,
}

impl Moments {
    /// The averages from the sums over samples, in the order of [`term`].
    pub(crate) fn from_sums(s: [f64; COUNT]) -> Self {
        Self {
            pointwise: [s[term::DIVERGENCE_OMEGA], s[term::DIVERGENCE_STAR]],
            jump: [s[term::JUMP_OMEGA], s[term::JUMP_STAR]],
            gradient2: s[term::GRADIENT2],
            centring: s[term::CENTRING],
            overlaps: [s[term::GRADIENT_FREE], s[term::GRADIENT_STAR]],
            seconds: [s[term::FREE2], s[term::FREE_STAR], s[term::STAR2]],
            loss: s[term::LOSS],
            replicon: s[term::REPLICON],
            stability: s[term::STABILITY],
        }
    }
}

impl Averages for Moments {
    fn terms(&self) -> Vec<f64> {
        let Self { pointwise: [a, b], jump: [c, d], overlaps: [e, f], seconds: [g, h, i], .. } = *self;
        let Self { gradient2, centring, loss, replicon, stability, .. } = *self;
        vec![a, b, c, d, gradient2, centring, e, f, g, h, i, loss, replicon, stability]
    }

    fn from_terms(terms: &[f64]) -> Self {
        let mut sums = [f64::NAN; COUNT];
        for (sum, term) in sums.iter_mut().zip(terms) {
            *sum = *term;
        }
        Self::from_sums(sums)
    }
}

impl Overlaps for VectorOverlaps {
    /// `(m, s2, v)`, or `(s2, v)` at `m = 0`, because `m` then stays 0.
    fn coordinates(&self) -> Vec<f64> {
        let Self { m, s2, v } = *self;
        if m > 0.0 { vec![m, s2, v] } else { vec![s2, v] }
    }

    fn at(&self, coordinates: &[f64]) -> Self {
        match *coordinates {
            [m, s2, v] => Self { m, s2, v },
            [s2, v] => Self { m: 0.0, s2, v },
            _ => Self { m: f64::NAN, s2: f64::NAN, v: f64::NAN },
        }
    }
}
