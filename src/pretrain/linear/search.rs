//! The search for the fixed point of linear attention.

use super::equations::{ConvexEquations, DenoiserInput, ErrorAndResponse, SquareLosses, ThresholdedWeights};
use crate::error::Error;
use crate::fixed_point::{self, Coordinate, Method, Observer, Problem, Secant};
use crate::options::Options;
use crate::pretrain::solution::PretrainingOrder;
use crate::spectrum::Denoised;
use crate::state_evolution::{Solved, StateEvolution};
use crate::status::Status;

/// The searches end at the rounding errors. The tolerance is out of reach, and the best iterate is returned.
const SEARCH: fixed_point::Options = fixed_point::Options {
    tolerance: 2e-15,
    max_iterations: 60,
    method: Method::Anderson { memory: 3, mixing: 1.0, warmup: 1, max_step: 0.5 },
    patience: 4,
};
/// Largest residual, in logarithms, of an accepted fixed point. Rounding leaves 1e-15 to 1e-13.
const ACCEPTED: f64 = 1e-11;

/// A fixed point, with the spectral integrals from which it follows.
pub(super) struct ConvexMinimum {
    pub(super) order: PretrainingOrder,
    pub(super) trace: f64,
    pub(super) rank_fraction: f64,
    /// `Q0 - 2M + Q`, computed without cancellation.
    pub(super) mse: f64,
}

impl ConvexEquations<'_> {
    /// The smallest `lambda sqrt(kappa)` at which `S-hat = 0` is stable. It is half the top edge of `Y` at
    /// `Q = M = V = 0`.
    pub(super) fn collapse_ridge(&self) -> f64 {
        let tau = self.tau_of_nothing();
        0.5 * tau * self.stiffness_of_nothing() * self.teacher.top_edge(1.0 / tau)
    }

    pub(super) fn collapsed(&self) -> ConvexMinimum {
        let v_hat = self.stiffness_of_nothing();
        let tau = self.tau_of_nothing();
        let order =
            PretrainingOrder { q: 0.0, m: 0.0, v: 0.0, q_hat: (tau * v_hat).powi(2), m_hat: v_hat, v_hat };
        ConvexMinimum { order, trace: 0.0, rank_fraction: 0.0, mse: self.teacher.second_moment() }
    }

    /// The fixed point below the threshold of collapse, or the point closest to it that was found. The result
    /// is `None` if the numbers leave the range of double precision.
    pub(super) fn solve(&self) -> Option<ConvexMinimum> {
        let target = self.target();
        if target > 0.0 {
            let guess = self.guess(target);
            let found = self.refine(guess, target).map_or_else(|| self.continue_to(target, guess), Ok);
            let [tau, r] = found.unwrap_or_else(|closest| self.iterate(target).unwrap_or(closest));
            self.fixed_point(tau, r)
        } else {
            self.fixed_point(self.ridgeless()?, 0.0)
        }
    }

    /// A first `(tau, r)`, without any evaluation of the spectral integrals.
    fn guess(&self, target: f64) -> [f64; 2] {
        let tau = self.tau_of_nothing();
        let edge = self.teacher.top_edge(1.0 / tau);
        // Without degrees of freedom, r tau c alpha K would equal the target. Collapse reaches this value at
        // the edge.
        let closeness = (target / (edge * tau * self.budget)).min(1.0);
        if closeness > 0.2 {
            return [tau * (0.5 + 0.5 * closeness), edge * closeness.sqrt()];
        }
        // Far from collapse there are as many degrees of freedom as those of noise without a threshold, 1/2 for eigenvalues and 1 for singular
        // values, or, if labels are scarce, nearly as many as the labels allow. The error is estimated from the threshold and the noise.
        let most = 1.0 / self.logit_variance;
        let degrees = (0.6 * self.budget).min(most);
        let threshold = target / (self.budget - degrees);
        let signal = self.teacher.second_moment();
        let error = self.noise + (threshold * threshold).min(signal);
        let tau = tau.min((error / (self.budget - 0.75).max(0.2 * self.budget)).sqrt());
        let scarce = 2.0 * (1.0 - (self.budget / most).min(1.0).powf(0.4));
        [tau, (threshold / tau).max(scarce)]
    }

    /// Both equations as logarithms, whose zero is the fixed point.
    fn residual(&self, [tau, r]: [f64; 2], target: f64) -> [f64; 2] {
        let denoised = self.denoise(tau, r);
        // The logarithm is not that of c alpha K - D, which is singular where the labels are interpolated.
        [self.noise_residual(tau, &denoised), ((denoised.response + target / (r * tau)) / self.budget).ln()]
    }

    fn noise_residual(&self, tau: f64, denoised: &Denoised) -> f64 {
        0.5 * ((self.noise / (tau * tau) + denoised.risk) / self.budget).ln()
    }

    /// Quasi-Newton iteration on both equations at once. It converges to rounding in some ten evaluations if
    /// the start is close enough, else the result is `None`.
    fn refine(&self, start: [f64; 2], target: f64) -> Option<[f64; 2]> {
        const STEP: f64 = 1e-6;
        // The four evaluations are the finite differences below and one iteration.
        if self.evaluations() + 4 > self.max_evaluations {
            return None;
        }
        let mut problem = Problem::new(start, Coordinate::Log);
        let here = self.residual(start, target);
        for axis in 0..2 {
            let mut moved = start;
            moved[axis] *= STEP.exp();
            let there = self.residual(moved, target);
            let mut step = [0.0; 2];
            step[axis] = STEP;
            problem.secants.push(Secant { step, residual_change: [there[0] - here[0], there[1] - here[1]] });
        }
        let options = fixed_point::Options {
            max_iterations: 60.min(self.max_evaluations.saturating_sub(self.evaluations() + 3)).max(1),
            method: Method::Anderson { memory: 3, mixing: 1.0, warmup: 0, max_step: 0.5 },
            ..SEARCH
        };
        let report = fixed_point::solve(&problem, &options, |x| {
            let f = self.residual(*x, target);
            [x[0] * f[0].exp(), x[1] * f[1].exp()]
        });
        report.ok().filter(|report| report.residual < ACCEPTED).map(|report| report.point)
    }

    /// Continuation in the ridge, from close to collapse, where the solution is known, down to `target`, with
    /// steps that adapt. The path is unique and smooth, since training is convex. If the path cannot be
    /// followed to its end, the error is its last point or, if it has none, `guess`.
    fn continue_to(&self, target: f64, guess: [f64; 2]) -> Result<[f64; 2], [f64; 2]> {
        const SMALLEST_STEP: f64 = 1e-3;
        let tau = self.tau_of_nothing();
        let edge = self.teacher.top_edge(1.0 / tau);
        let mut position = (edge * tau * self.budget).ln();
        let end = target.ln();
        let mut here = [tau, edge];
        let mut slope = [0.0, 1.0];
        let mut step: f64 = 0.1;
        let mut moving = false;
        while position > end {
            if self.evaluations() + 4 > self.max_evaluations || step < SMALLEST_STEP {
                return Err(if moving { here } else { guess });
            }
            let next = (position - step).max(end);
            let moved = next - position;
            let guess = [0, 1].map(|i| here[i] * (slope[i] * moved).exp());
            match self.refine(guess, next.exp()) {
                Some(found) => {
                    slope = [0, 1].map(|i| (found[i] / here[i]).ln() / moved);
                    here = found;
                    position = next;
                    step *= 2.0;
                    moving = true;
                }
                None => step *= 0.25,
            }
        }
        Ok(here)
    }

    /// The iteration of the state evolution itself. It needs no path, but it is slow where `V` diverges. It
    /// also loses digits there, which [`Self::refine`] restores if it can. The result is `None` if the
    /// iteration does not converge within the evaluations that are left.
    fn iterate(&self, target: f64) -> Option<[f64; 2]> {
        let start = ErrorAndResponse {
            noisy_mse: 0.5 * self.teacher.second_moment() + self.noise,
            v: 0.25 * self.tokens_squared,
        };
        // The evaluations that measure slopes and the residual do not count as iterations.
        const MEASURED: usize = 8;
        let max_iterations = self.max_evaluations.checked_sub(self.evaluations() + MEASURED)?.max(1);
        let options = Options::default().with_max_iterations(max_iterations).ok()?;
        let solved = StateEvolution::new(&mut SquareLosses(self), ThresholdedWeights(self), &options)
            .solve(&start)
            .ok()?;
        let DenoiserInput { v_hat, tau } = self.conjugates(&solved.point);
        let point = [tau, 2.0 * self.ridge / (v_hat * tau)];
        solved.status.is_success().then(|| self.refine(point, target).unwrap_or(point))
    }

    /// The status and the residual of a fixed point. They are computed from the original equations, which the
    /// search did not use.
    pub(super) fn certify(
        &self,
        point: &ConvexMinimum,
        options: &Options,
        observer: Option<&mut dyn Observer>,
    ) -> Result<Solved<ErrorAndResponse, DenoiserInput>, Error> {
        let evaluations = self.evaluations();
        let ended =
            if evaluations + 4 > self.max_evaluations { Status::MaxIterations } else { Status::Stalled };
        let at = ErrorAndResponse { noisy_mse: point.mse + self.noise, v: point.order.v };
        let mut losses = SquareLosses(self);
        let mut evolution = StateEvolution::new(&mut losses, ThresholdedWeights(self), options);
        if let Some(observer) = observer {
            evolution = evolution.observed_by(observer);
        }
        evolution.certify(&at, ended, evaluations)
    }

    /// `tau` at zero ridge, above the interpolation threshold: the root of the first equation alone, at
    /// `r = 0`. If the evaluations do not suffice, the result is the best iterate.
    fn ridgeless(&self) -> Option<f64> {
        let start = (self.noise / self.budget).sqrt();
        // One evaluation is left over for the fixed point itself.
        let allowed = self.max_evaluations.saturating_sub(1);
        if allowed == 0 {
            return Some(start);
        }
        let problem = Problem::new([start], Coordinate::Log);
        let options = fixed_point::Options { max_iterations: allowed, ..SEARCH };
        let report = fixed_point::solve(&problem, &options, |&[tau]| {
            [tau * self.noise_residual(tau, &self.denoise(tau, 0.0)).exp()]
        });
        report.ok().filter(|report| report.residual.is_finite()).map(|report| report.point[0])
    }

    fn fixed_point(&self, tau: f64, r: f64) -> Option<ConvexMinimum> {
        let denoised = self.denoise(tau, r);
        // The form theta = 2 lambda sqrt(kappa)/Vhat keeps its digits where c alpha K - D loses them.
        let v_hat = if self.ridge > 0.0 {
            2.0 * self.ridge / (r * tau)
        } else {
            2.0 * self.logit_variance * (self.budget - denoised.response) / self.tokens_squared
        };
        let order = PretrainingOrder {
            q: tau * tau * denoised.norm,
            m: tau * denoised.overlap,
            v: denoised.response / v_hat,
            q_hat: (v_hat * tau).powi(2),
            m_hat: v_hat,
            v_hat,
        };
        let point = ConvexMinimum {
            order,
            trace: tau * denoised.trace,
            rank_fraction: denoised.rank_fraction,
            mse: tau * tau * denoised.risk,
        };
        let PretrainingOrder { q, m, v, q_hat, .. } = order;
        let sound = [q, m, v, q_hat, v_hat, point.mse].iter().all(|x| x.is_finite() && *x > 0.0);
        let bounded = m <= (q.sqrt() * self.teacher.second_moment().sqrt()) * (1.0 + 1e-12);
        (sound && bounded).then_some(point)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::Attention;
    use crate::model::Model;
    use crate::pretrain::training::Pretraining;
    use crate::spectrum::{Discrete, TeacherMatrix, TeacherSpectrum, Wishart};

    /// The iteration, which is the last resort, gives the same result as the search.
    #[test]
    fn iterated_steps_end_in_the_same_fixed_point() {
        let listed = Discrete::new(&[0.0, 0.1, 0.1, 0.9, 1.0, 2.5]).unwrap();
        let power_law = Discrete::power_law(2.0, 100).unwrap();
        let wishart = Wishart::new(0.5).unwrap();
        for teacher in [&listed as &dyn TeacherSpectrum, &power_law, &wishart] {
            for (tokens, delta, alpha, lambda) in
                [(4, 0.0, 0.18, 0.07), (2, 0.01, 0.4, 0.1), (1, 0.5, 1.5, 0.2)]
            {
                let model = Model::linear(tokens, delta).unwrap();
                let equations = ConvexEquations::new(
                    &model,
                    &Pretraining::new(alpha, lambda).unwrap(),
                    TeacherMatrix::new(teacher, Attention::Tied),
                    1000,
                );
                let target = equations.target();
                let [tau, r] = equations.iterate(target).unwrap();
                let iterated = equations.fixed_point(tau, r).unwrap().order;
                let found = equations.solve().unwrap().order;
                for (a, b) in [(iterated.q, found.q), (iterated.m, found.m), (iterated.v, found.v)] {
                    approx::assert_relative_eq!(a, b, max_relative = 1e-10);
                }
            }
        }
    }

    #[test]
    fn iterated_steps_need_evaluations() {
        let wishart = Wishart::new(0.5).unwrap();
        for max_evaluations in [0, 1, 2, 5, 12] {
            let equations = ConvexEquations::new(
                &Model::linear(2, 0.1).unwrap(),
                &Pretraining::new(0.4, 0.1).unwrap(),
                TeacherMatrix::new(&wishart, Attention::Tied),
                max_evaluations,
            );
            assert_eq!(equations.iterate(0.2), None);
            assert!(equations.evaluations() <= max_evaluations);
        }
    }
}
