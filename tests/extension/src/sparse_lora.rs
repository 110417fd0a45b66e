//! LoRA with a penalty `lambda1 |w|_1 + lambda2 |w|^2` on the perturbation, for a truth with Gauss-Bernoulli entries.
//!
//! The losses are those of the library. A coordinate of the weights sees them through the conjugates:
//!
//! ```text
//! w = argmin r w^2/2 - h w + lambda1 |w| = ST(h; lambda1)/r,
//! h = mhat w* + sqrt(qhat) z,     r = vhat + 2 eta + 2 lambda2,
//! q = E w^2,     m = E w w*,     v = E dw/dh = P(|h| > lambda1)/r
//! ```
//!
//! The shift `eta` is a ridge, because the losses depend on `|w|^2` through the centring of the logits. At `lambda1 = 0` these
//! are the equations of [`lora::solve`], for any density.

use lora_asymptotics::lora::{self, ConjugateEstimator, Conjugates, FieldOverlaps, LossAverages};
use lora_asymptotics::state_evolution::{InputChannel, Solved, StateEvolution};
use lora_asymptotics::{Error, Frozen, Model, Options};

use crate::sparse::{GaussBernoulli, Thresholded};

/// The penalty `lambda1 |w|_1 + lambda2 |w|^2`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Penalty {
    /// The strength of the `l1` norm.
    pub lambda1: f64,
    /// The strength of the ridge.
    pub lambda2: f64,
}

/// The input channel: a soft threshold for every coordinate.
#[derive(Debug, Clone, Copy)]
pub struct ElasticNet {
    estimator: ConjugateEstimator,
    truth: GaussBernoulli,
    penalty: Penalty,
}

impl ElasticNet {
    /// The curvature `r`, and the averages of `r w`.
    fn weights(&self, hat: &Conjugates) -> (f64, Thresholded) {
        let r = hat.v_hat + 2.0 * hat.eta + 2.0 * self.penalty.lambda2;
        (r, self.truth.soft_threshold(hat.m_hat, hat.q_hat, self.penalty.lambda1))
    }
}

impl InputChannel for ElasticNet {
    type Point = FieldOverlaps;
    type Averages = LossAverages;

    fn image(&self, at: &FieldOverlaps, averages: &LossAverages) -> FieldOverlaps {
        let (r, x) = self.weights(&self.estimator.conjugates(at, averages));
        if r <= 0.0 {
            return at.retreated();
        }
        at.moved_to(x.square / (r * r), x.overlap / r, x.active / r)
    }

    fn reconsider(&mut self, settled: bool, at: &FieldOverlaps, averages: &LossAverages) -> bool {
        self.estimator.reconsider(settled, at, averages)
    }
}

/// What is observed of the trained weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Observed {
    /// `q = |w-hat|^2/D`.
    pub q: f64,
    /// `m = w-hat.w*/D`.
    pub m: f64,
    /// The mean of `|w-hat|` over the coordinates.
    pub magnitude: f64,
    /// The fraction of coordinates that are not zero.
    pub active: f64,
    /// The train objective over `D`.
    pub objective: f64,
}

/// A solved problem.
pub struct Solution {
    /// The fixed point.
    pub solved: Solved<FieldOverlaps, LossAverages>,
    /// What is observed there.
    pub observed: Observed,
    /// Standard errors of what is observed; NaN if there are none.
    pub errors: Observed,
    /// Whether replica symmetry can be trusted.
    pub validity: lora::Validity,
}

/// Solves fine-tuning with the given penalty, from a start at a large overlap. The ridge of `training` is not used, and its
/// `q0` must be the variance of `truth`.
///
/// # Errors
/// Those of [`lora::loss_channel`] and of [`StateEvolution::solve`].
pub fn solve(
    model: &Model,
    frozen: &Frozen,
    training: &lora::Training,
    truth: GaussBernoulli,
    penalty: Penalty,
    options: &Options,
) -> Result<Solution, Error> {
    let mut losses = lora::loss_channel(model, frozen, training, options)?;
    let q0 = training.q0();
    let start = losses.overlaps(q0, 0.9 * q0, 0.2 / training.alpha())?;
    let weights = ElasticNet { estimator: losses.estimator(), truth, penalty };
    let mut evolution = StateEvolution::new(&mut losses, weights, options);
    let solved = evolution.solve(&start)?;
    let weights = evolution.input;
    let observe = |at: &FieldOverlaps, averages: &LossAverages| {
        let (r, x) = weights.weights(&weights.estimator.conjugates(at, averages));
        let magnitude = x.magnitude / r;
        let cost = penalty.lambda1 * magnitude + penalty.lambda2 * at.q();
        let objective = training.alpha() * weights.estimator.train_error(averages) + cost;
        Observed { q: at.q(), m: at.m(), magnitude, active: x.active, objective }
    };
    let error = |quantity: fn(&Observed) -> f64| {
        solved.standard_error(|at, averages| quantity(&observe(at, averages))).unwrap_or(f64::NAN)
    };
    let errors = Observed {
        q: error(|o| o.q),
        m: error(|o| o.m),
        magnitude: error(|o| o.magnitude),
        active: error(|o| o.active),
        objective: error(|o| o.objective),
    };
    let observed = observe(&solved.point, &solved.averages);
    // The response of a coordinate is 1/r if it is not zero, and else 0.
    let (r, x) = weights.weights(&weights.estimator.conjugates(&solved.point, &solved.averages));
    let validity = weights.estimator.validity(&solved.point, &solved.averages, x.active / (r * r));
    Ok(Solution { solved, observed, errors, validity })
}
