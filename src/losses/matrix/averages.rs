//! The averages over one evaluation of the output channel, and the order parameters at which they are taken.

use crate::state_evolution::{self, OutputChannel, Overlaps};

/// Number of averages.
pub(crate) const COUNT: usize = 11;

/// The index at which each term of a sample is added up, see [`LogitAverages`].
pub(crate) mod term {
    pub(crate) const DIVERGENCE_OMEGA: usize = 0;
    pub(crate) const DIVERGENCE_LABEL: usize = 1;
    pub(crate) const GRADIENT_LABEL: usize = 2;
    pub(crate) const GRADIENT_FREE: usize = 3;
    pub(crate) const LABEL2: usize = 4;
    pub(crate) const LABEL_FREE: usize = 5;
    pub(crate) const FREE2: usize = 6;
    pub(crate) const GRADIENT2: usize = 7;
    pub(crate) const LOSS: usize = 8;
    pub(crate) const CONTESTED: usize = 9;
    pub(crate) const REPLICON: usize = 10;
}

/// The scaled overlaps of the label, fixed for the solve.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Label {
    pub(crate) q0: f64,
    pub(crate) delta: f64,
}

/// Scaled order parameters: `M`, `S2 = Q - M^2/(Q0 + Delta/2)`, and `V`. With `S2` as a coordinate, the
/// covariance is automatically positive.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct MatrixOverlaps {
    pub(crate) m: f64,
    pub(crate) s2: f64,
    pub(crate) v: f64,
}

impl MatrixOverlaps {
    /// The scaled `Q`.
    pub(crate) fn norm(&self, label: &Label) -> f64 {
        self.s2 + self.m * (self.m / (label.q0 + 0.5 * label.delta))
    }
}

impl MatrixOverlaps {
    /// The laws of label and output on new sequences, first for noisy and then for noiseless labels: the
    /// standard deviation of the label's logits, the slope of the output's logits in them, and the standard
    /// deviation of the rest.
    pub(crate) fn test_laws(&self, label: &Label) -> [[f64; 3]; 2] {
        let q = self.norm(label);
        [label.q0 + 0.5 * label.delta, label.q0].map(|norm| {
            let slope = if norm > 0.0 { self.m / norm } else { 0.0 };
            [(2.0 * norm).sqrt(), slope, (2.0 * (q - self.m * slope).max(0.0)).sqrt()]
        })
    }
}

impl Overlaps for MatrixOverlaps {
    fn coordinates(&self) -> Vec<f64> {
        vec![self.m, self.s2, self.v]
    }

    fn at(&self, coordinates: &[f64]) -> Self {
        match *coordinates {
            [m, s2, v] => Self { m, s2, v },
            _ => Self { m: f64::NAN, s2: f64::NAN, v: f64::NAN },
        }
    }
}

/// Averages per sample. `z_1` and `z_2` are the standard normals of the label's logits and of the rest of
/// `omega`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct LogitAverages {
    /// Pointwise `div_omega g`.
    pub(crate) divergence_omega: f64,
    /// Pointwise `div_t g`, where `t` are the label's logits.
    pub(crate) divergence_label: f64,
    /// `g.z_1` and `g.z_2`.
    pub(crate) overlaps: [f64; 2],
    /// `|z_1|^2`, `z_1.z_2` and `|z_2|^2` on the same nodes as the other averages.
    pub(crate) seconds: [f64; 3],
    /// `|g|^2`.
    pub(crate) gradient2: f64,
    /// The loss at the proximal point.
    pub(crate) loss: f64,
    /// Fraction of the samples whose starts led to different minima.
    pub(crate) contested: f64,
    /// `|dg/domega|_F^2`, pointwise.
    pub(crate) replicon: f64,
}

impl LogitAverages {
    /// The averages from the sums over samples, in the order of [`term`].
    pub(crate) fn from_sums(s: [f64; COUNT]) -> Self {
        Self {
            divergence_omega: s[term::DIVERGENCE_OMEGA],
            divergence_label: s[term::DIVERGENCE_LABEL],
            overlaps: [s[term::GRADIENT_LABEL], s[term::GRADIENT_FREE]],
            seconds: [s[term::LABEL2], s[term::LABEL_FREE], s[term::FREE2]],
            gradient2: s[term::GRADIENT2],
            loss: s[term::LOSS],
            contested: s[term::CONTESTED],
            replicon: s[term::REPLICON],
        }
    }
}

impl state_evolution::Averages for LogitAverages {
    fn terms(&self) -> Vec<f64> {
        let Self { divergence_omega, divergence_label, overlaps: [a, b], seconds: [c, d, e], .. } = *self;
        let Self { gradient2, loss, contested, replicon, .. } = *self;
        vec![divergence_omega, divergence_label, a, b, c, d, e, gradient2, loss, contested, replicon]
    }

    fn from_terms(terms: &[f64]) -> Self {
        let mut sums = [f64::NAN; COUNT];
        for (sum, term) in sums.iter_mut().zip(terms) {
            *sum = *term;
        }
        Self::from_sums(sums)
    }
}

/// `E|g|^2`, `E div_t g` and `-E div_omega g` at `Q = M = V = 0`, where `g = -grad l(0)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct AtZero {
    pub(crate) gradient2: f64,
    pub(crate) divergence_label: f64,
    pub(crate) stiffness: f64,
}

impl state_evolution::Averages for AtZero {
    fn terms(&self) -> Vec<f64> {
        vec![self.gradient2, self.divergence_label, self.stiffness]
    }

    fn from_terms(terms: &[f64]) -> Self {
        match *terms {
            [gradient2, divergence_label, stiffness] => Self { gradient2, divergence_label, stiffness },
            _ => Self { gradient2: f64::NAN, divergence_label: f64::NAN, stiffness: f64::NAN },
        }
    }
}

/// The losses of pre-training.
pub(crate) trait PretrainingLosses:
    OutputChannel<Point = MatrixOverlaps, Averages = LogitAverages>
{
    /// The number of scrambles.
    fn scrambles(&self) -> usize;

    /// Test error with noisy and with noiseless labels. There is one entry per scramble, each at its own
    /// point.
    fn test_errors(&self, points: &[MatrixOverlaps]) -> Vec<[f64; 2]>;

    /// The averages at zero weights, one entry per scramble.
    fn at_zero(&self) -> Vec<AtZero>;
}
