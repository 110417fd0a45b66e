//! The input channel: the ridge problem of every column, which is that of rank one.

use crate::attention::Attention;
use crate::divergence::Divergence;
use crate::lora::ridge::{Conjugates, JUMPS_DOMINATE, JumpGauge, Ridge, SMALLEST_S2};
use crate::lora::validity::FinetuningValidity;
use crate::losses::vector::columns::{ColumnLayout, ColumnMoments, ColumnOverlaps, FactorSide, is_zero};
use crate::losses::vector::{Moments, VectorOverlaps, term};
use crate::state_evolution::InputChannel;

/// Share of the samples with two minima up to which the pointwise divergence is used, where it is known. By experience,
/// jumps of the proximal point then make up a thousandth of the response.
const CONTESTED: f64 = 2e-5;

/// Largest share of the jumps in the response of two factors, per share of the samples with two minima. The limits of their verdicts are so narrow
/// that the sampling noise of the difference between the two estimators would decide them at few nodes; where hardly any sample has two minima, there
/// are hardly any jumps. In the experience with [`CONTESTED`] the factor is 50; it is less where jumps are frequent.
const LARGEST_JUMP: f64 = 100.0;

/// The parameters that close the equations, in units of the largest true variance.
#[derive(Debug, Clone)]
pub(super) struct ColumnRidge {
    pub(super) layout: ColumnLayout,
    pub(super) tokens: f64,
    /// Number of directions of the tokens along which the activation sees a column of the keys.
    pub(super) key_tokens: f64,
    pub(super) alpha: f64,
    pub(super) lambda: f64,
    pub(super) divergence: Divergence,
    /// Whether the activation is linear.
    pub(super) linear: bool,
}

impl ColumnRidge {
    /// The ridge problem of one column of a group, with an estimator of the divergences.
    pub(super) fn of_column(&self, group: usize, divergence: Divergence) -> Ridge {
        let keys = self.layout.groups()[group].factor == FactorSide::Keys;
        Ridge {
            tokens: if keys { self.key_tokens } else { self.tokens },
            alpha: self.alpha,
            lambda: self.lambda,
            divergence,
            by_parts_above: JUMPS_DOMINATE,
            gauge: JumpGauge::Difference,
        }
    }

    /// The ridge problem of the columns of a group. Columns that vanish have no fields by which one could integrate by parts,
    /// and their proximal points are smooth.
    fn of_group(&self, group: usize, own: &VectorOverlaps) -> Ridge {
        self.of_column(group, if is_zero(own) { Divergence::PointwiseAndJump } else { self.divergence })
    }

    /// The conjugates of every group.
    pub(super) fn conjugates(&self, point: &ColumnOverlaps, moments: &ColumnMoments) -> Vec<Conjugates> {
        let pairs = point.groups.iter().zip(&moments.groups).enumerate();
        pairs.map(|(group, (own, moments))| self.of_group(group, own).conjugates(own, moments)).collect()
    }

    /// The largest share of the jumps in the response of a column: the difference between integration by parts and the
    /// pointwise divergence. It is 0 if no jump was seen, because its sampling noise is then all that is left.
    fn jump_share(&self, point: &ColumnOverlaps, moments: &ColumnMoments) -> f64 {
        if self.divergence == Divergence::PointwiseAndJump && moments.contested <= 0.0 {
            return 0.0;
        }
        let by_parts = |group: usize| self.of_column(group, Divergence::IntegrationByParts);
        let pairs =
            point.groups.iter().zip(&moments.groups).enumerate().filter(|(_, (own, _))| !is_zero(own));
        let shares = pairs.map(|(group, (own, moments))| by_parts(group).jump_share(own, moments));
        // A NaN must not be dropped.
        let share = shares.fold(0.0, |max: f64, x| if x <= max { max } else { x });
        let bound = LARGEST_JUMP * moments.contested;
        if self.layout.attention() == Attention::Cross && bound < share { bound } else { share }
    }

    /// The verdict on replica symmetry.
    pub(super) fn validity(&self, point: &ColumnOverlaps, moments: &ColumnMoments) -> FinetuningValidity {
        let jump = self.jump_share(point, moments);
        let replicon = moments.largest_replicon(self.alpha);
        if self.layout.attention() == Attention::Cross {
            let mut validity = FinetuningValidity::of_factors(jump, replicon);
            if self.linear && self.has_too_little_data_for_factors(point) {
                validity.distrust();
            }
            return validity;
        }
        let responds = self.conjugates(point, moments).iter().all(|conjugates| conjugates.v_hat > 0.0);
        FinetuningValidity::of_columns(jump, replicon, self.linear.then_some(responds))
    }

    /// Whether two factors of linear attention have so little data that the gauges, which see typical samples only, cannot tell. The loss is not
    /// bounded: with one token its rare samples decide below `alpha'` of about 8, and where the weights vanish, the samples that are left out
    /// there are rare only if `alpha' T^2` is large, their share being about `exp(-alpha' T^2)`.
    fn has_too_little_data_for_factors(&self, point: &ColumnOverlaps) -> bool {
        const LEAST_FOR_ONE_TOKEN: f64 = 8.0;
        const LEAST_FOR_VANISHING: f64 = 6.0;
        let one_token = self.tokens < 2.0 && self.alpha < LEAST_FOR_ONE_TOKEN;
        one_token || (point.vanishes() && self.alpha * self.tokens * self.tokens < LEAST_FOR_VANISHING)
    }

    /// The train objective.
    pub(super) fn objective(&self, point: &ColumnOverlaps, moments: &ColumnMoments) -> f64 {
        let loss = moments.groups.first().map_or(f64::NAN, |moments| moments[term::LOSS]);
        self.alpha * loss + self.lambda * self.layout.trace(point)
    }

    /// The growth factor of a small overlap of the columns of every group, at `m = 0`.
    pub(super) fn growth(&self, point: &ColumnOverlaps, moments: &ColumnMoments) -> Vec<f64> {
        let pairs = point.groups.iter().zip(&moments.groups).enumerate();
        let own: Vec<f64> =
            pairs.map(|(group, (own, moments))| self.of_group(group, own).growth(own, moments)).collect();
        if self.layout.attention() == Attention::Tied {
            return own;
        }
        // The overlaps of the two factors drive each other: m_b' = own_b m_b + exchanged_b m_a, and the same for a.
        let conjugates = self.conjugates(point, moments);
        let exchanged = |group: usize| {
            let r = conjugates[group].v_hat + 2.0 * self.lambda;
            self.alpha * moments.exchanged[group] / r
        };
        let of_group = |group: usize| {
            let other = self.layout.partner(group);
            let mean = 0.5 * (own[group] + own[other]);
            let half = 0.5 * (own[group] - own[other]);
            let product = exchanged(group) * exchanged(other);
            mean + (half * half + product).max(0.0).sqrt()
        };
        (0..own.len()).map(of_group).collect()
    }

    /// Whether columns that vanish stay so: neither an overlap nor a norm grows.
    pub(super) fn zeros_are_stable(&self, point: &ColumnOverlaps, moments: &ColumnMoments) -> bool {
        let growth = self.growth(point, moments);
        let zeros = point.groups.iter().zip(&moments.groups).zip(growth).filter(|((own, _), _)| is_zero(own));
        zeros
            .into_iter()
            .all(|((_, moments), growth)| growth <= 1.0 && self.alpha * moments[term::REPLICON] <= 1.0)
    }

    /// `r = vhat + 2 lambda + 2 eta` of columns that vanish.
    fn curvature_at_zero(&self, group: usize, own: &VectorOverlaps, moments: &Moments) -> f64 {
        let Conjugates { v_hat, eta, .. } = self.of_group(group, own).conjugates(own, moments);
        v_hat + 2.0 * self.lambda + 2.0 * eta
    }
}

/// Scales the two factors so that `q_b = q_a`.
///
/// At a fixed point they are equal, because `g_b.chi_p = g_a.psi_p` in every sample and the ridge is the same. The loss does not change under
/// `(b, a) -> (t b, a/t)`, so that only the ridge restores the balance, and the ratio of the two would be the noisiest number of all.
fn balance(groups: &mut [VectorOverlaps], pair: [usize; 2]) {
    let norms = pair.map(|group| groups[group].q());
    let common = norms[0].sqrt() * norms[1].sqrt();
    for (group, q) in pair.into_iter().zip(norms) {
        if q > 0.0 && common.is_finite() {
            let own = &mut groups[group];
            own.m *= (common / q).sqrt();
            own.s2 *= common / q;
        }
    }
}

impl InputChannel for ColumnRidge {
    type Point = ColumnOverlaps;
    type Averages = ColumnMoments;

    fn image(&self, point: &ColumnOverlaps, moments: &ColumnMoments) -> ColumnOverlaps {
        let of_group = |(group, (own, moments)): (usize, (&VectorOverlaps, &Moments))| {
            if !is_zero(own) {
                return self.of_group(group, own).image(own, moments);
            }
            let r = self.curvature_at_zero(group, own, moments);
            if r <= 0.0 { own.retreated() } else { VectorOverlaps { v: 1.0 / r, ..*own } }
        };
        let pairs = point.groups.iter().zip(&moments.groups).enumerate();
        let mut image = ColumnOverlaps { groups: pairs.map(of_group).collect() };
        for [left, right] in self.layout.pairs().filter(|[left, right]| left != right) {
            balance(&mut image.groups, [left, right]);
        }
        image
    }

    /// The divergences are taken by parts if proximal points jump.
    fn reconsider(&mut self, _settled: bool, _point: &ColumnOverlaps, moments: &ColumnMoments) -> bool {
        let by_parts = self.divergence != Divergence::IntegrationByParts && moments.contested > CONTESTED;
        if by_parts {
            self.divergence = Divergence::IntegrationByParts;
        }
        by_parts
    }

    /// Whether the nodes resolve the weights. Weights close to zero come from samples too rare for the nodes.
    fn resolves(&self, point: &ColumnOverlaps) -> bool {
        point.groups.iter().all(|own| is_zero(own) || own.q() > 10.0 * SMALLEST_S2)
    }
}
