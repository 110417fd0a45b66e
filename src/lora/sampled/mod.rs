//! Attention with an activation that is not linear, rank one.
//!
//! The averages run over `2K' + 2T` Gaussians: the frozen logits, the label's logits given those, `chi*` and
//! `omega`. For softmax `K' = K - 1`, since it does not see `u = 11^T/T`. `chi` is in units of `sqrt(q0)`. The
//! inverse temperature `b` multiplies all logits, so that `chi chi^T` enters with the factor `b q0`.
//!
//! What depends on the activation is behind the trait [`FinetuningLosses`] and the averages of the test law, which each
//! kernel gives (softmax: `softmax/`, any other activation: `general/`).

mod general;
mod softmax;
mod test_law;

use super::channel::LossChannel;
use super::losses::FinetuningLosses;
use super::moments::VectorOverlaps;
use super::report::Reporter;
use super::ridge::{JUMPS_DOMINATE, JumpGauge, Ridge};
use super::solution::FinetuningSolution;
use super::starts::{FinetuningStarts, FoundVector, Guess};
use super::training::Finetuning;
use super::units::Units;
use crate::divergence::Divergence;
use crate::error::Error;
use crate::fields::JointLaw;
use crate::frozen::Frozen;
use crate::model::{Model, Specialisation};
use crate::observables;
use crate::options::Options;
use crate::parallel;
use crate::state_evolution::{Run, Tuning};
use crate::std_error::standard_error;
use crate::threshold::Threshold;
use test_law::TestAverages;

/// One problem.
struct SampledProblem<'a> {
    model: &'a Model,
    training: &'a Finetuning,
    options: &'a Options,
    units: Units,
    law: JointLaw,
    /// Inverse temperature times `q0`.
    coupling: f64,
    /// Standard deviation of the part of the label's logits that the frozen weights leave unexplained.
    noise: f64,
}

impl<'a> SampledProblem<'a> {
    fn new(model: &'a Model, frozen: &Frozen, training: &'a Finetuning, options: &'a Options) -> Self {
        let units = Units { q0: training.q0(), loss: 1.0 };
        let effective = observables::effective_noise(&frozen.overlaps(), model.delta(), training.beta());
        Self {
            model,
            training,
            options,
            units,
            law: JointLaw::new(model, frozen, &training.fields()),
            coupling: model.inverse_temperature() * training.q0(),
            noise: (2.0 * effective).sqrt() / training.q0(),
        }
    }

    fn ridge(&self) -> Ridge {
        Ridge {
            tokens: self.model.tokens() as f64,
            alpha: self.training.alpha(),
            lambda: self.units.scaled_ridge(self.training.ridge()),
            divergence: Divergence::IntegrationByParts,
            gauge: JumpGauge::Difference,
            by_parts_above: JUMPS_DOMINATE,
        }
    }

    /// The averages over the losses, by the kernel for the activation.
    fn channel(&self, tuning: &Tuning) -> Result<Box<dyn FinetuningLosses>, Error> {
        let Self { model, law, coupling, options, .. } = self;
        match model.specialisation() {
            Specialisation::Softmax => softmax::losses(model.tokens(), law, *coupling, options, tuning),
            _ => general::losses(model, law, *coupling, options, tuning),
        }
    }

    /// Returns the result of `run` on the search for fixed points.
    fn search<R>(
        &self,
        company: &mut Run<'_, FinetuningSolution>,
        run: impl FnOnce(FinetuningStarts<'_>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let warm = company.previous.and_then(|solution| self.units.point(&solution.order));
        let mut channel = self.channel(&company.tuning)?;
        // The activation saturates if the coupling is large.
        let saturation = self.coupling / (1.0 + self.coupling);
        let curvature = self.model.observed_coordinates() * saturation * saturation;
        let guess = Guess { noise: self.noise, curvature };
        run(FinetuningStarts::new(self.ridge(), guess, self.options, channel.as_mut())
            .starting_from(warm)
            .accompanied(company.tuning, company.observer()))
    }

    fn test_errors(&self, found: &FoundVector) -> Result<TestAverages, Error> {
        let own: Vec<VectorOverlaps> = found.replicates.iter().map(|(point, _)| *point).collect();
        let tokens = self.model.tokens();
        let Self { model, law, coupling, options, .. } = self;
        match model.specialisation() {
            Specialisation::Softmax => {
                softmax::test_errors(tokens, law, *coupling, options, &found.point, &own)
            }
            Specialisation::Linear | Specialisation::General => {
                TestAverages::new(tokens, law, options, &found.point, &own, |columns, points| {
                    general::averages(model.activation(), law, *coupling, columns, points)
                })
            }
        }
    }
}

pub(super) fn solve(
    model: &Model,
    frozen: &Frozen,
    training: &Finetuning,
    options: &Options,
    mut run: Run<'_, FinetuningSolution>,
) -> Result<FinetuningSolution, Error> {
    let problem = SampledProblem::new(model, frozen, training, options);
    parallel::in_pool(|| {
        let found = problem.search(&mut run, |starts| starts.run(options.start()))?;
        let errors = problem.test_errors(&found)?;
        let reporter = Reporter { units: problem.units, effective_noise: None };
        Ok(reporter.solution(&found, &errors))
    })
}

/// Returns the result of `run` on the search for fixed points.
pub(super) fn search<R: Send>(
    model: &Model,
    frozen: &Frozen,
    training: &Finetuning,
    options: &Options,
    run: impl FnOnce(FinetuningStarts<'_>) -> Result<R, Error> + Send,
) -> Result<R, Error> {
    let problem = SampledProblem::new(model, frozen, training, options);
    parallel::in_pool(|| problem.search(&mut Run::default(), run))
}

/// The output channel by itself.
pub(super) fn loss_channel(
    model: &Model,
    frozen: &Frozen,
    training: &Finetuning,
    options: &Options,
) -> Result<LossChannel, Error> {
    let problem = SampledProblem::new(model, frozen, training, options);
    let losses = problem.channel(&Tuning::default())?;
    Ok(LossChannel::new(losses, problem.ridge(), problem.units))
}

/// `lambda'_c`, or `None` if there is no such ridge.
pub(super) fn lambda_collapse(
    model: &Model,
    frozen: &Frozen,
    training: &Finetuning,
    options: &Options,
) -> Result<Option<Threshold>, Error> {
    let problem = SampledProblem::new(model, frozen, training, options);
    let ridge = problem.ridge();
    let critical = parallel::in_pool(|| {
        let mut channel = problem.channel(&Tuning::default())?;
        Ok(channel.zero_weights().and_then(|zero| zero.critical_ridge(&ridge)))
    })?;
    let unit = problem.units.stiffness();
    Ok(critical.map(|(common, own)| {
        Threshold::new(unit * common, standard_error(own.iter().map(|lambda| unit * lambda)))
    }))
}
