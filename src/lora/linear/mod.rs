//! Linear attention, rank one.
//!
//! Pre-training enters only through the law of `N` (see [`LabelNoise`]), and `q0` only as a unit.
//! Everything in this module is therefore in units with `q0 = 1`: `chi` in units of `sqrt(q0)`, the loss in
//! units of `q0^2`.

mod nodes;
mod product;
mod prox;
mod test_errors;

use super::channel::LossChannel;
use super::losses::FinetuningLosses;
use super::report::Reporter;
use super::ridge::{JUMPS_DOMINATE, JumpGauge, Ridge};
use super::solution::{EffectiveNoise, FinetuningSolution};
use super::starts::{FinetuningStarts, Guess};
use super::training::Finetuning;
use super::units::Units;
use crate::channel::{self, with_tokens};
use crate::error::Error;
use crate::fields::LabelNoise;
use crate::frozen::Frozen;
use crate::model::Model;
use crate::observables;
use crate::options::Options;
use crate::parallel;
use crate::state_evolution::{Run, Tuning};
use nodes::SecularNodes;
use product::ProductRule;
use test_errors::ClosedForm;

/// One problem.
struct LinearProblem<'a> {
    model: &'a Model,
    training: &'a Finetuning,
    options: &'a Options,
    units: Units,
    noise: LabelNoise,
}

impl<'a> LinearProblem<'a> {
    fn new(model: &'a Model, frozen: &Frozen, training: &'a Finetuning, options: &'a Options) -> Self {
        let units = Units { q0: training.q0(), loss: training.q0() * training.q0() };
        Self { model, training, options, units, noise: LabelNoise::new(model, frozen, &training.fields()) }
    }

    fn ridge(&self, channel: &dyn FinetuningLosses) -> Ridge {
        Ridge {
            tokens: self.model.tokens() as f64,
            alpha: self.training.alpha(),
            lambda: self.units.scaled_ridge(self.training.ridge()),
            divergence: channel.smooth_divergence(),
            gauge: JumpGauge::Surface,
            by_parts_above: JUMPS_DOMINATE,
        }
    }

    /// Returns the result of `run` on the state evolution and its starts.
    fn search<R: Send>(
        &self,
        company: &mut Run<'_, FinetuningSolution>,
        run: impl FnOnce(FinetuningStarts<'_>) -> Result<R, Error> + Send,
    ) -> Result<R, Error> {
        let warm = company.previous.and_then(|solution| self.units.point(&solution.order));
        let tokens = self.model.tokens() as f64;
        parallel::in_pool(|| {
            let mut channel =
                output_channel(self.model.tokens(), &self.noise, self.options, &company.tuning)?;
            let ridge = self.ridge(channel.as_ref());
            // This is the average curvature of the loss at the truth. The jumps leave a fraction of some 0.6
            // of it.
            let curvature = 0.6 * 8.0 * channel::dimension(self.model.tokens()) as f64 / (tokens * tokens);
            let guess = Guess { noise: self.noise.deviation(), curvature };
            run(FinetuningStarts::new(ridge, guess, self.options, channel.as_mut())
                .starting_from(warm)
                .accompanied(company.tuning, company.observer()))
        })
    }
}

pub(super) fn solve(
    model: &Model,
    frozen: &Frozen,
    training: &Finetuning,
    options: &Options,
    mut run: Run<'_, FinetuningSolution>,
) -> Result<FinetuningSolution, Error> {
    let problem = LinearProblem::new(model, frozen, training, options);
    let found = problem.search(&mut run, |starts| starts.run(options.start()))?;
    let LinearProblem { units, noise, .. } = problem;
    let effective = EffectiveNoise {
        train: noise.effective(model.tokens()).map(|noise| units.loss * noise),
        test: observables::effective_noise(&frozen.overlaps(), model.delta(), training.beta()),
    };
    let errors = ClosedForm {
        tokens: model.tokens(),
        q0: training.q0(),
        delta: model.delta(),
        unexplained: observables::unexplained(&frozen.overlaps(), training.beta()),
    };
    let reporter = Reporter { units, effective_noise: Some(effective) };
    Ok(reporter.solution(&found, &errors))
}

/// Returns the result of `run` on the state evolution and its starts.
pub(super) fn search<R: Send>(
    model: &Model,
    frozen: &Frozen,
    training: &Finetuning,
    options: &Options,
    run: impl FnOnce(FinetuningStarts<'_>) -> Result<R, Error> + Send,
) -> Result<R, Error> {
    LinearProblem::new(model, frozen, training, options).search(&mut Run::default(), run)
}

/// The output channel by itself.
pub(super) fn loss_channel(
    model: &Model,
    frozen: &Frozen,
    training: &Finetuning,
    options: &Options,
) -> Result<LossChannel, Error> {
    let problem = LinearProblem::new(model, frozen, training, options);
    let losses = output_channel(model.tokens(), &problem.noise, options, &Tuning::default())?;
    let ridge = problem.ridge(losses.as_ref());
    Ok(LossChannel::new(losses, ridge, problem.units))
}

fn output_channel(
    tokens: usize,
    noise: &LabelNoise,
    options: &Options,
    tuning: &Tuning,
) -> Result<Box<dyn FinetuningLosses>, Error> {
    if tokens == 1 {
        return Ok(Box::new(ProductRule::new(noise)));
    }
    with_tokens!(tokens, T => Ok(Box::new(SecularNodes::<T>::new(noise, options, tuning)?)))
}
