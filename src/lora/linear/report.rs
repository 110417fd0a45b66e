//! From a fixed point in units of `q0` to a solution with its observables and standard errors.

use super::moments::{Moments, Point};
use super::ridge::{Conjugates, Ridge};
use super::search::Found;
use crate::fixed_point::Status;
use crate::lora::label_noise::LabelNoise;
use crate::lora::{EffectiveNoise, Errors, Frozen, Order, Solution, Training};
use crate::model::Model;
use crate::observables;
use crate::std_error::StdError;

/// What the observables need besides the fixed point.
pub(super) struct Reporter {
    tokens: usize,
    q0: f64,
    delta: f64,
    noise: EffectiveNoise,
}

/// Everything that has a standard error.
struct Observed {
    order: Order,
    objective: f64,
    errors: Errors,
    alignment: f64,
}

impl Reporter {
    pub(super) fn new(model: &Model, frozen: &Frozen, training: &Training, noise: &LabelNoise) -> Self {
        let Frozen { q0, q, m, .. } = *frozen;
        let noise = EffectiveNoise {
            train: noise.effective(model.tokens).map(|noise| training.q0 * training.q0 * noise),
            test: observables::effective_noise(q0, q, m, model.delta, training.beta),
        };
        Self { tokens: model.tokens, q0: training.q0, delta: model.delta, noise }
    }

    pub(super) fn solution(&self, found: &Found) -> Solution {
        let Observed { order, objective, errors, alignment } =
            self.observe(&found.ridge, &found.point, &found.moments);
        let numbers = [
            order.q,
            order.m,
            order.v,
            order.q_hat,
            order.m_hat,
            order.v_hat,
            order.eta,
            objective,
            errors.test,
            errors.test_clean,
            errors.train,
            errors.frozen,
            alignment,
        ];
        let finite = numbers.iter().all(|x| x.is_finite());
        let mut solution = Solution {
            order,
            objective,
            errors,
            alignment,
            effective_noise: Some(self.noise),
            validity: found.validity(),
            divergence: found.ridge.divergence,
            branch: found.branch,
            status: found.status,
            residual: found.residual,
            iterations: found.iterations,
            std_error: self.std_error(found),
        };
        if !matches!(found.status, Status::Converged | Status::NoiseLimited) {
            // Neither gauges nor error bars mean anything away from a fixed point.
            solution.validity.distrust();
            solution.std_error = StdError::default();
        }
        if !finite || found.status == Status::NonFinite {
            erase(&mut solution);
        }
        solution
    }

    fn observe(&self, ridge: &Ridge, point: &Point, moments: &Moments) -> Observed {
        let unit = self.q0;
        let Conjugates { v_hat, m_hat, q_hat, eta } = ridge.conjugates(point, moments);
        let (q, m) = (unit * point.q(), unit * point.m);
        let order = Order {
            q,
            m,
            v: point.v / unit,
            q_hat: unit.powi(3) * q_hat,
            m_hat: unit * m_hat,
            v_hat: unit * v_hat,
            eta: unit * eta,
        };
        let error = |noise, q, m| observables::linear_finetuning_error(self.tokens, noise, q, m, unit);
        let clean = (self.noise.test - 0.5 * self.delta).max(0.0);
        Observed {
            order,
            objective: unit * unit * (ridge.alpha * moments.loss + ridge.lambda * point.q()),
            errors: Errors {
                test: error(self.noise.test, q, m),
                test_clean: error(clean, q, m),
                train: unit * unit * moments.loss,
                frozen: error(self.noise.test, 0.0, 0.0),
            },
            alignment: observables::alignment(point.m, point.q(), 1.0),
        }
    }

    fn std_error(&self, found: &Found) -> StdError {
        if found.replicates.len() < 2 {
            return StdError::default();
        }
        let observed: Vec<Observed> = found
            .replicates
            .iter()
            .map(|(point, moments)| self.observe(&found.ridge, point, moments))
            .collect();
        let of = |value: fn(&Observed) -> f64| standard_error(observed.iter().map(value));
        StdError {
            q: of(|o| o.order.q),
            m: of(|o| o.order.m),
            v: of(|o| o.order.v),
            q_hat: of(|o| o.order.q_hat),
            m_hat: of(|o| o.order.m_hat),
            v_hat: of(|o| o.order.v_hat),
            eta: of(|o| o.order.eta),
            objective: of(|o| o.objective),
            test: of(|o| o.errors.test),
            test_clean: of(|o| o.errors.test_clean),
            train: of(|o| o.errors.train),
            // In closed form.
            frozen: None,
            alignment: of(|o| o.alignment),
        }
    }
}

/// Standard deviation of the mean; `None` if it is not finite.
fn standard_error(values: impl ExactSizeIterator<Item = f64> + Clone) -> Option<f64> {
    let count = values.len() as f64;
    let mean = values.clone().sum::<f64>() / count;
    let variance = values.map(|x| (x - mean) * (x - mean)).sum::<f64>() / (count - 1.0);
    Some((variance / count).sqrt()).filter(|error| error.is_finite())
}

/// No number at all rather than some of them.
fn erase(solution: &mut Solution) {
    let nan = f64::NAN;
    solution.status = Status::NonFinite;
    solution.order = Order { q: nan, m: nan, v: nan, q_hat: nan, m_hat: nan, v_hat: nan, eta: nan };
    solution.objective = nan;
    solution.errors = Errors { test: nan, test_clean: nan, train: nan, frozen: nan };
    solution.alignment = nan;
    solution.residual = nan;
    solution.effective_noise = None;
    solution.std_error = StdError::default();
}
