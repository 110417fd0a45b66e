//! The averages over one evaluation of the output channel, and the order parameters at which they are taken.

use crate::losses::means::Means;
use crate::state_evolution::{OutputChannel, Overlaps};

/// Averages per sample, by the names of [`term`]. `z_1` and `z_2` are the standard normals of the label's logits and of
/// the rest of `omega`.
pub(crate) type LogitAverages = Means<COUNT>;

/// Number of averages.
pub(crate) const COUNT: usize = 11;

/// The names of the averages: the index at which each term of a sample is added up.
pub(crate) mod term {
    /// Pointwise `div_omega g`.
    pub(crate) const DIVERGENCE_OMEGA: usize = 0;
    /// Pointwise `div_t g`, where `t` are the label's logits.
    pub(crate) const DIVERGENCE_LABEL: usize = 1;
    /// `g.z_1`.
    pub(crate) const GRADIENT_LABEL: usize = 2;
    /// `g.z_2`.
    pub(crate) const GRADIENT_FREE: usize = 3;
    /// `|z_1|^2`, on the same nodes as the other averages.
    pub(crate) const LABEL2: usize = 4;
    /// `z_1.z_2`, on the same nodes.
    pub(crate) const LABEL_FREE: usize = 5;
    /// `|z_2|^2`, on the same nodes.
    pub(crate) const FREE2: usize = 6;
    /// `|g|^2`.
    pub(crate) const GRADIENT2: usize = 7;
    /// The loss at the proximal point.
    pub(crate) const LOSS: usize = 8;
    /// Fraction of the samples whose starts led to different minima.
    pub(crate) const CONTESTED: usize = 9;
    /// `|dg/domega|_F^2`, pointwise.
    pub(crate) const REPLICON: usize = 10;
}

/// `E|g|^2`, `E div_t g` and `-E div_omega g` at `Q = M = V = 0`, where `g = -grad l(0)`.
pub(crate) type AtZero = Means<3>;

/// Test error with noisy and with noiseless labels.
pub(crate) type LabelErrors = Means<2>;

/// The scaled overlaps of the label, fixed for the solve.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Label {
    pub(crate) q0: f64,
    pub(crate) delta: f64,
}

impl Label {
    /// Half the variance of a logit of the label, `Q0 + Delta/2`.
    pub(crate) fn norm(&self) -> f64 {
        self.q0 + 0.5 * self.delta
    }

    /// Standard deviation of a logit of the label.
    pub(crate) fn deviation(&self) -> f64 {
        (2.0 * self.q0 + self.delta).sqrt()
    }
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
        self.s2 + self.m * (self.m / label.norm())
    }

    /// The laws of label and output on new sequences, first for noisy and then for noiseless labels: the
    /// standard deviation of the label's logits, the slope of the output's logits in them, and the standard
    /// deviation of the rest.
    pub(crate) fn test_laws(&self, label: &Label) -> [[f64; 3]; 2] {
        let q = self.norm(label);
        [label.norm(), label.q0].map(|norm| {
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

/// The losses of pre-training.
pub(crate) trait PretrainingLosses:
    OutputChannel<Point = MatrixOverlaps, Averages = LogitAverages>
{
    /// The number of scrambles.
    fn scrambles(&self) -> usize;

    /// The errors on new sequences. There is one entry per scramble, each at its own point.
    fn test_errors(&self, points: &[MatrixOverlaps]) -> Vec<LabelErrors>;

    /// The averages at zero weights, one entry per scramble.
    fn at_zero(&self) -> Vec<AtZero>;
}
