//! One step of the state evolution, from the averages over the losses to the order parameters.

use crate::divergence::Divergence;
use crate::losses::by_parts;
use crate::losses::matrix::{AtZero, Label, LogitAverages, MatrixOverlaps, term};
use crate::pretrain::replicon;
use crate::pretrain::solution::PretrainingOrder;
use crate::pretrain::training::{Parametrisation, Pretraining};
use crate::spectrum::{Denoised, TeacherMatrix};
use crate::state_evolution::InputChannel;

/// The parameters that close the equations.
#[derive(Clone, Copy)]
pub(super) struct SampledEquations<'a> {
    pub(super) teacher: TeacherMatrix<'a>,
    pub(super) alpha: f64,
    /// `lambda sqrt(kappa)`; `lambda` in direct training.
    pub(super) ridge: f64,
    pub(super) parametrisation: Parametrisation,
    /// Square of the inverse temperature.
    pub(super) steepness: f64,
    /// Half the variance of a logit times the inverse temperature, in units of `Q`: the ratio of scaled to physical overlaps.
    pub(super) scale: f64,
    /// Number of coordinates that the activation sees.
    pub(super) seen: f64,
    pub(super) label: Label,
    pub(super) divergence: Divergence,
}

/// Order parameters in physical units, and the spectral integrals from which they follow.
pub(super) struct Image {
    pub(super) order: PretrainingOrder,
    pub(super) trace: f64,
    pub(super) rank_fraction: f64,
}

impl<'a> SampledEquations<'a> {
    pub(super) fn new(
        teacher: TeacherMatrix<'a>,
        training: &Pretraining,
        steepness: f64,
        seen: f64,
        delta: f64,
    ) -> Self {
        let scale = 0.5 * teacher.logit_variance() * steepness;
        Self {
            teacher,
            alpha: training.alpha(),
            ridge: training.ridge() * training.kappa().sqrt(),
            parametrisation: training.parametrisation(),
            steepness,
            scale,
            seen,
            label: Label { q0: scale * teacher.second_moment(), delta: steepness * delta },
            divergence: Divergence::PointwiseAndJump,
        }
    }

    /// `c^2 alpha b^2`: what an average over the scaled losses is multiplied by to be a conjugate in physical units.
    fn conjugate_factor(&self) -> f64 {
        let variance = self.teacher.logit_variance();
        variance * variance * self.alpha * self.steepness
    }

    /// `Qhat, Mhat, Vhat` in physical units.
    fn conjugates(&self, point: &MatrixOverlaps, averages: &LogitAverages) -> [f64; 3] {
        let [omega, label] = match self.divergence {
            Divergence::PointwiseAndJump => averages.of([term::DIVERGENCE_OMEGA, term::DIVERGENCE_LABEL]),
            // The least-squares fit is g = A z_2 + B z_1, on the same nodes as the averages.
            Divergence::IntegrationByParts => {
                let overlaps = averages.of([term::GRADIENT_LABEL, term::GRADIENT_FREE]);
                let seconds = averages.of([term::LABEL2, term::LABEL_FREE, term::FREE2]);
                let [b, a] = by_parts::slopes(overlaps, seconds);
                let deviation = self.label.deviation();
                let slope = 2.0 * point.m / (deviation * deviation);
                let omega = self.seen * a / (2.0 * point.s2).sqrt();
                [omega, self.seen * b / deviation - slope * omega]
            }
        };
        let factor = self.conjugate_factor();
        [factor * averages[term::GRADIENT2], factor * label, -factor * omega]
    }

    /// The order parameters to which the averages at `point` lead. The result is `None` if the soft threshold
    /// leaves no eigenvalue, or if a conjugate or an order parameter is not a positive number.
    pub(super) fn integrals(&self, point: &MatrixOverlaps, averages: &LogitAverages) -> Option<Image> {
        let [q_hat, m_hat, v_hat] = self.conjugates(point, averages);
        let stiffness = self.stiffness(v_hat);
        if !(q_hat > 0.0 && stiffness > 0.0 && m_hat > 0.0) {
            return None;
        }
        let noise = q_hat.sqrt();
        let size = noise / stiffness;
        let Denoised { norm, overlap, response, trace, rank_fraction, .. } = match self.parametrisation {
            Parametrisation::Factorised => self.teacher.denoise(m_hat / noise, 2.0 * self.ridge / noise),
            Parametrisation::Direct => self.teacher.keep(m_hat / noise),
        };
        let order = PretrainingOrder {
            q: size * size * norm,
            m: size * overlap,
            v: response / stiffness,
            q_hat,
            m_hat,
            v_hat,
        };
        let sound = [order.q, order.m, order.v].iter().all(|x| x.is_finite() && *x > 0.0);
        sound.then_some(Image { order, trace: size * trace, rank_fraction })
    }

    /// What `Y` is divided by to be weights: `Vhat`, and in direct training the curvature of the ridge on top.
    fn stiffness(&self, v_hat: f64) -> f64 {
        match self.parametrisation {
            Parametrisation::Factorised => v_hat,
            Parametrisation::Direct => v_hat + 2.0 * self.teacher.logit_variance() * self.ridge,
        }
    }

    /// The ridge in the objective, in units of `D^2`.
    pub(super) fn penalty(&self, image: &Image) -> f64 {
        match self.parametrisation {
            Parametrisation::Factorised => self.teacher.attention().factors() * self.ridge * image.trace,
            Parametrisation::Direct => self.ridge * image.order.q,
        }
    }

    /// The factor of the weights in the replicon of a fixed point (see [`crate::pretrain::Validity`]).
    pub(super) fn weights(&self, order: &PretrainingOrder) -> f64 {
        match self.parametrisation {
            Parametrisation::Factorised => replicon::weights(self.teacher, self.ridge, order),
            // The slope of the weights is 1/stiffness everywhere, in units of 1/Vhat.
            Parametrisation::Direct => (order.v_hat / self.stiffness(order.v_hat)).powi(2),
        }
    }

    /// The replicon of a fixed point with these conjugates, given the factor of the weights.
    pub(super) fn replicon(&self, order: &PretrainingOrder, averages: &LogitAverages, weights: f64) -> f64 {
        // The derivative of g was taken with respect to scaled logits.
        let square = self.steepness * self.steepness * averages[term::REPLICON];
        replicon::replicon(self.alpha, self.teacher.logit_variance(), order, square, weights)
    }

    /// The point that corresponds to the given physical order parameters.
    pub(super) fn point(&self, order: &PretrainingOrder) -> MatrixOverlaps {
        let (q, m) = (self.scale * order.q, self.scale * order.m);
        let norm = self.label.norm();
        // At perfect recovery, only rounding is left of s2.
        MatrixOverlaps { m, s2: (q - m * (m / norm)).max(1e-15 * q), v: self.scale * order.v }
    }

    /// Physical `Q` and `M` at a point.
    pub(super) fn overlaps(&self, point: &MatrixOverlaps) -> [f64; 2] {
        [point.norm(&self.label) / self.scale, point.m / self.scale]
    }

    /// The smallest `lambda sqrt(kappa)` at which `S-hat = 0` is stable, given the averages there. It is half
    /// the top edge of `Y`. Direct training does not collapse at any ridge. In its place, the search for a fixed point takes a ridge above its own
    /// that is larger by the one at which half of the signal would be learned if `Mhat` stayed what it is at zero weights.
    pub(super) fn collapse_ridge(&self, zero: &AtZero) -> f64 {
        let [q_hat, m_hat, _] = self.conjugates_at_zero(zero);
        match self.parametrisation {
            Parametrisation::Factorised => {
                let noise = q_hat.sqrt();
                0.5 * noise * self.teacher.top_edge(m_hat / noise)
            }
            Parametrisation::Direct => self.ridge + 0.5 * m_hat.abs() / self.teacher.logit_variance(),
        }
    }

    /// `Qhat, Mhat, Vhat` at zero weights, in physical units.
    pub(super) fn conjugates_at_zero(&self, zero: &AtZero) -> [f64; 3] {
        zero.all().map(|x| self.conjugate_factor() * x)
    }
}

impl InputChannel for SampledEquations<'_> {
    type Point = MatrixOverlaps;
    type Averages = LogitAverages;

    /// The image under one step. If the soft threshold leaves no eigenvalue after an overshoot, the image is
    /// a step back towards small weights.
    fn image(&self, at: &MatrixOverlaps, averages: &LogitAverages) -> MatrixOverlaps {
        match self.integrals(at, averages) {
            Some(image) => self.point(&image.order),
            None => {
                let [m, s2, v] =
                    [(at.m, -0.5_f64), (at.s2, -1.0), (at.v, -0.5)].map(|(x, step)| x * step.exp());
                MatrixOverlaps { m, s2, v }
            }
        }
    }

    /// At the end, the divergences are taken by parts if a sample has several minima, since its proximal
    /// point may jump between them.
    fn reconsider(&mut self, settled: bool, _at: &MatrixOverlaps, averages: &LogitAverages) -> bool {
        let by_parts =
            settled && self.divergence == Divergence::PointwiseAndJump && averages[term::CONTESTED] > 0.0;
        if by_parts {
            self.divergence = Divergence::IntegrationByParts;
        }
        by_parts
    }
}
