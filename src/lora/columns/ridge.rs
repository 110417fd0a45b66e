//! The input channel: the ridge problem of every column, which is that of rank one.

use crate::divergence::Divergence;
use crate::lora::ridge::{Conjugates, JUMPS_DOMINATE, JumpGauge, Ridge, SMALLEST_S2};
use crate::lora::validity::FinetuningValidity;
use crate::losses::vector::columns::{ColumnLayout, ColumnMoments, ColumnOverlaps, is_zero};
use crate::losses::vector::{Moments, VectorOverlaps, term};
use crate::state_evolution::InputChannel;

/// Share of the samples with two minima up to which the pointwise divergence is used, where it is known. By experience,
/// jumps of the proximal point then make up a thousandth of the response.
const CONTESTED: f64 = 2e-5;

/// The parameters that close the equations, in units of the largest true variance.
#[derive(Debug, Clone)]
pub(super) struct ColumnRidge {
    pub(super) layout: ColumnLayout,
    pub(super) tokens: f64,
    pub(super) alpha: f64,
    pub(super) lambda: f64,
    pub(super) divergence: Divergence,
    /// Whether the activation is linear.
    pub(super) linear: bool,
}

impl ColumnRidge {
    /// The ridge problem of one column, with an estimator of the divergences.
    fn of_column(&self, divergence: Divergence) -> Ridge {
        Ridge {
            tokens: self.tokens,
            alpha: self.alpha,
            lambda: self.lambda,
            divergence,
            by_parts_above: JUMPS_DOMINATE,
            gauge: JumpGauge::Difference,
        }
    }

    /// The ridge problem of the columns of a group. Columns that vanish have no fields by which one could integrate by parts,
    /// and their proximal points are smooth.
    fn of_group(&self, own: &VectorOverlaps) -> Ridge {
        self.of_column(if is_zero(own) { Divergence::PointwiseAndJump } else { self.divergence })
    }

    /// The conjugates of every group.
    pub(super) fn conjugates(&self, point: &ColumnOverlaps, moments: &ColumnMoments) -> Vec<Conjugates> {
        let pairs = point.groups.iter().zip(&moments.groups);
        pairs.map(|(own, moments)| self.of_group(own).conjugates(own, moments)).collect()
    }

    /// The largest share of the jumps in the response of a column: the difference between integration by parts and the
    /// pointwise divergence. It is 0 if no jump was seen, because its sampling noise is then all that is left.
    fn jump_share(&self, point: &ColumnOverlaps, moments: &ColumnMoments) -> f64 {
        if self.divergence == Divergence::PointwiseAndJump && moments.contested <= 0.0 {
            return 0.0;
        }
        let by_parts = self.of_column(Divergence::IntegrationByParts);
        let pairs = point.groups.iter().zip(&moments.groups).filter(|(own, _)| !is_zero(own));
        let shares = pairs.map(|(own, moments)| by_parts.jump_share(own, moments));
        // A NaN must not be dropped.
        shares.fold(0.0, |max: f64, x| if x <= max { max } else { x })
    }

    /// The verdict on replica symmetry.
    pub(super) fn validity(&self, point: &ColumnOverlaps, moments: &ColumnMoments) -> FinetuningValidity {
        let jump = self.jump_share(point, moments);
        let replicon = moments.largest_replicon(self.alpha);
        let responds = self.conjugates(point, moments).iter().all(|conjugates| conjugates.v_hat > 0.0);
        FinetuningValidity::of_columns(jump, replicon, self.linear.then_some(responds))
    }

    /// The train objective.
    pub(super) fn objective(&self, point: &ColumnOverlaps, moments: &ColumnMoments) -> f64 {
        let loss = moments.groups.first().map_or(f64::NAN, |moments| moments[term::LOSS]);
        self.alpha * loss + self.lambda * self.layout.trace(point)
    }

    /// The growth factor of a small overlap of the columns of every group, at `m = 0`.
    pub(super) fn growth(&self, point: &ColumnOverlaps, moments: &ColumnMoments) -> Vec<f64> {
        let pairs = point.groups.iter().zip(&moments.groups);
        pairs.map(|(own, moments)| self.of_group(own).growth(own, moments)).collect()
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
    fn curvature_at_zero(&self, own: &VectorOverlaps, moments: &Moments) -> f64 {
        let Conjugates { v_hat, eta, .. } = self.of_group(own).conjugates(own, moments);
        v_hat + 2.0 * self.lambda + 2.0 * eta
    }
}

impl InputChannel for ColumnRidge {
    type Point = ColumnOverlaps;
    type Averages = ColumnMoments;

    fn image(&self, point: &ColumnOverlaps, moments: &ColumnMoments) -> ColumnOverlaps {
        let of_group = |(own, moments): (&VectorOverlaps, &Moments)| {
            if !is_zero(own) {
                return self.of_group(own).image(own, moments);
            }
            let r = self.curvature_at_zero(own, moments);
            if r <= 0.0 { own.retreated() } else { VectorOverlaps { v: 1.0 / r, ..*own } }
        };
        ColumnOverlaps { groups: point.groups.iter().zip(&moments.groups).map(of_group).collect() }
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
        point.groups.iter().all(|own| is_zero(own) || own.m > 0.0 || own.q() > 10.0 * SMALLEST_S2)
    }
}
