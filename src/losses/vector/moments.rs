//! The averages over one evaluation of the output channel, and the order parameters at which they are taken.

use crate::losses::means::Means;
use crate::state_evolution::Overlaps;

/// Averages per sample, by the names of [`term`]. `g = (chi_p - omega)/v`.
pub(crate) type Moments = Means<COUNT>;

/// Number of averages.
pub(crate) const COUNT: usize = 14;

/// The names of the averages: the index at which each term of a sample is added up.
pub(crate) mod term {
    /// The pointwise part of `div_omega g`.
    pub(crate) const DIVERGENCE_OMEGA: usize = 0;
    /// The pointwise part of `div_chi* g`, only if it is used, see
    /// [`FinetuningLosses::smooth_divergence`](crate::losses::vector::FinetuningLosses::smooth_divergence).
    pub(crate) const DIVERGENCE_STAR: usize = 1;
    /// The jump part of `div_omega g`, where it is known in closed form.
    pub(crate) const JUMP_OMEGA: usize = 2;
    /// The jump part of `div_chi* g`, where it is known in closed form.
    pub(crate) const JUMP_STAR: usize = 3;
    /// `|g|^2`.
    pub(crate) const GRADIENT2: usize = 4;
    /// `d l'/dq` at the proximal point.
    pub(crate) const CENTRING: usize = 5;
    /// `g.f`, where `omega = m chi* + s f`.
    pub(crate) const GRADIENT_FREE: usize = 6;
    /// `g.chi*`.
    pub(crate) const GRADIENT_STAR: usize = 7;
    /// `|f|^2`, on the same nodes as the other averages.
    pub(crate) const FREE2: usize = 8;
    /// `f.chi*`, on the same nodes.
    pub(crate) const FREE_STAR: usize = 9;
    /// `|chi*|^2`, on the same nodes.
    pub(crate) const STAR2: usize = 10;
    /// `l'` at the proximal point. This average and those below are taken in complete passes only.
    pub(crate) const LOSS: usize = 11;
    /// `|v dg/domega|_F^2`, pointwise.
    pub(crate) const REPLICON: usize = 12;
    /// `chi*^T (dg/domega) chi*`, including the jumps.
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

/// Largest change of a field in a finite difference, in units of its standard deviation at a given truth.
const FIELD_DIFFERENCE: f64 = 0.2;

impl VectorOverlaps {
    pub(crate) fn q(&self) -> f64 {
        self.m * self.m + self.s2
    }

    /// Standard deviation of `omega` given `chi*`.
    pub(crate) fn deviation(&self) -> f64 {
        self.s2.sqrt()
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

    /// Along `m`, a part of `s/m`.
    fn largest_differences(&self) -> Vec<f64> {
        let free = [f64::INFINITY; 2];
        if self.m > 0.0 {
            vec![FIELD_DIFFERENCE * self.deviation() / self.m, free[0], free[1]]
        } else {
            free.to_vec()
        }
    }
}
