//! The averages over one evaluation of the output channel, and the order parameters at which they are taken.

use crate::state_evolution::{Averages, Overlaps};

/// Number of averages.
pub(super) const COUNT: usize = 14;

/// The index at which each term of a sample is added up, see [`Moments`].
pub(super) mod term {
    pub(in crate::lora) const DIVERGENCE_OMEGA: usize = 0;
    pub(in crate::lora) const DIVERGENCE_STAR: usize = 1;
    pub(in crate::lora) const JUMP_OMEGA: usize = 2;
    pub(in crate::lora) const JUMP_STAR: usize = 3;
    pub(in crate::lora) const GRADIENT2: usize = 4;
    pub(in crate::lora) const CENTRING: usize = 5;
    pub(in crate::lora) const GRADIENT_FREE: usize = 6;
    pub(in crate::lora) const GRADIENT_STAR: usize = 7;
    pub(in crate::lora) const FREE2: usize = 8;
    pub(in crate::lora) const FREE_STAR: usize = 9;
    pub(in crate::lora) const STAR2: usize = 10;
    pub(in crate::lora) const LOSS: usize = 11;
    pub(in crate::lora) const REPLICON: usize = 12;
    pub(in crate::lora) const STABILITY: usize = 13;
}

/// Order parameters in units of `q0`: `m`, the variance `s2 = q - m^2` of `omega` given `chi*`, and `v`. In
/// these coordinates `m^2 <= q` holds automatically.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct VectorOverlaps {
    pub(super) m: f64,
    pub(super) s2: f64,
    pub(super) v: f64,
}

impl VectorOverlaps {
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
    /// Pointwise parts of `div_omega g` and `div_chi* g`. The second is present only if it is used, see
    /// [`FinetuningLosses::smooth_divergence`](super::losses::Losses::smooth_divergence).
    pub(super) pointwise: [f64; 2],
    /// Jump parts of the same divergences, where they are known in closed form.
    pub(super) jump: [f64; 2],
    /// `|g|^2`.
    pub(super) gradient2: f64,
    /// `d l'/dq` at the proximal point.
    pub(super) centring: f64,
    /// `g.f` and `g.chi*`, where `omega = m chi* + s f`.
    pub(super) overlaps: [f64; 2],
    /// `|f|^2`, `f.chi*` and `|chi*|^2` on the same nodes as the other averages.
    pub(super) seconds: [f64; 3],
    /// `l'` at the proximal point. This average and those below are taken in complete passes only.
    pub(super) loss: f64,
    /// `|v dg/domega|_F^2`, pointwise.
    pub(super) replicon: f64,
    /// `chi*^T (dg/domega) chi*`, including the jumps.
    pub(super) stability: f64,
}

impl Moments {
    /// The averages from the sums over samples, in the order of [`term`].
    pub(super) fn from_sums(s: [f64; COUNT]) -> Self {
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
