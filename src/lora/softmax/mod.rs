//! Softmax attention, rank one.
//!
//! The averages run over `2K' + 2T` Gaussians: the frozen logits, the label's logits given those, `chi*` and
//! `omega`. Here `K' = K - 1`, since softmax does not see `u = 11^T/T`. `chi` is in units of `sqrt(q0)`. The
//! inverse temperature `b` multiplies all logits, so that `chi chi^T` enters with the factor `b q0`.

mod fields;
mod nodes;
mod prox;
mod test_law;

use super::channel::LossChannel;
use super::losses::Losses;
use super::moments::Point;
use super::report::Reporter;
use super::ridge::{JumpGauge, Ridge};
use super::solution::Solution;
use super::starts::{Found, Guess, Starts};
use super::training::Training;
use super::units::Units;
use crate::divergence::Divergence;
use crate::error::Error;
use crate::frozen::Frozen;
use crate::model::Model;
use crate::observables;
use crate::options::Options;
use crate::state_evolution::{Run, Tuning};
use crate::std_error::standard_error;
use crate::threshold::Threshold;
use fields::Fields;
use nodes::Nodes;
use test_law::TestAverages;

/// One problem, for a number of tokens known at run time.
struct Problem<'a> {
    model: &'a Model,
    training: &'a Training,
    options: &'a Options,
    units: Units,
    fields: Fields,
    /// Inverse temperature times `q0`.
    coupling: f64,
    /// Standard deviation of the part of the label's logits that the frozen weights leave unexplained.
    noise: f64,
}

impl<'a> Problem<'a> {
    fn new(model: &'a Model, frozen: &Frozen, training: &'a Training, options: &'a Options) -> Self {
        let units = Units { q0: training.q0(), loss: 1.0 };
        let effective = observables::effective_noise(&frozen.overlaps(), model.delta(), training.beta());
        Self {
            model,
            training,
            options,
            units,
            fields: Fields::new(model, frozen, training),
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
        }
    }

    fn channel(&self, tuning: &Tuning) -> Result<Box<dyn Losses>, Error> {
        let Self { fields, coupling, options, .. } = self;
        let tokens = self.model.tokens();
        Ok(match tokens {
            2 => Box::new(Nodes::<2>::new::<3>(fields, *coupling, options, tuning)?),
            3 => Box::new(Nodes::<3>::new::<6>(fields, *coupling, options, tuning)?),
            4 => Box::new(Nodes::<4>::new::<10>(fields, *coupling, options, tuning)?),
            5 => Box::new(Nodes::<5>::new::<15>(fields, *coupling, options, tuning)?),
            6 => Box::new(Nodes::<6>::new::<21>(fields, *coupling, options, tuning)?),
            7 => Box::new(Nodes::<7>::new::<28>(fields, *coupling, options, tuning)?),
            8 => Box::new(Nodes::<8>::new::<36>(fields, *coupling, options, tuning)?),
            _ => return Err(unknown(tokens)),
        })
    }

    /// Returns the result of `run` on the search for fixed points.
    fn search<R>(
        &self,
        company: &mut Run<'_, Solution>,
        run: impl FnOnce(Starts<'_>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let warm = company.previous.and_then(|solution| self.units.point(&solution.order));
        let mut channel = self.channel(&company.tuning)?;
        // The softmax saturates if the coupling is large.
        let saturation = self.coupling / (1.0 + self.coupling);
        let curvature = self.model.observed_coordinates() * saturation * saturation;
        let guess = Guess { noise: self.noise, curvature };
        run(Starts::new(self.ridge(), guess, self.options, channel.as_mut())
            .starting_from(warm)
            .accompanied(company.tuning, company.observer()))
    }

    fn test_errors(&self, found: &Found) -> Result<TestAverages, Error> {
        let own: Vec<Point> = found.replicates.iter().map(|(point, _)| *point).collect();
        let tokens = self.model.tokens();
        let averages = match tokens {
            2 => TestAverages::new::<2>,
            3 => TestAverages::new::<3>,
            4 => TestAverages::new::<4>,
            5 => TestAverages::new::<5>,
            6 => TestAverages::new::<6>,
            7 => TestAverages::new::<7>,
            8 => TestAverages::new::<8>,
            _ => return Err(unknown(tokens)),
        };
        averages(&self.fields, self.coupling, self.options, &found.point, &own)
    }
}

fn unknown(tokens: usize) -> Error {
    Error::invalid("model.tokens", tokens, "between 2 and 8")
}

pub(super) fn solve(
    model: &Model,
    frozen: &Frozen,
    training: &Training,
    options: &Options,
    mut run: Run<'_, Solution>,
) -> Result<Solution, Error> {
    let problem = Problem::new(model, frozen, training, options);
    // The thread pool is entered once, and not at each of the many short parallel loops.
    rayon_core::scope(|_| {
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
    training: &Training,
    options: &Options,
    run: impl FnOnce(Starts<'_>) -> Result<R, Error> + Send,
) -> Result<R, Error> {
    let problem = Problem::new(model, frozen, training, options);
    rayon_core::scope(|_| problem.search(&mut Run::default(), run))
}

/// The output channel by itself.
pub(super) fn loss_channel(
    model: &Model,
    frozen: &Frozen,
    training: &Training,
    options: &Options,
) -> Result<LossChannel, Error> {
    let problem = Problem::new(model, frozen, training, options);
    let losses = problem.channel(&Tuning::default())?;
    Ok(LossChannel::new(losses, problem.ridge(), problem.units))
}

/// `lambda'_c`, or `None` if there is no such ridge.
pub(super) fn lambda_collapse(
    model: &Model,
    frozen: &Frozen,
    training: &Training,
    options: &Options,
) -> Result<Option<Threshold>, Error> {
    let problem = Problem::new(model, frozen, training, options);
    let mut channel = problem.channel(&Tuning::default())?;
    let ridge = problem.ridge();
    let critical = channel.zero_weights().and_then(|zero| zero.critical_ridge(&ridge));
    let unit = problem.units.stiffness();
    Ok(critical.map(|(common, own)| {
        Threshold::new(unit * common, standard_error(own.iter().map(|lambda| unit * lambda)))
    }))
}
