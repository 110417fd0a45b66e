//! One problem of fine-tuning, in units with `q0 = 1`: which kernel gives the losses, and what closes the equations.
//!
//! Pre-training enters through the law of the fields alone. Linear attention sees what the frozen weights leave of the
//! label ([`LabelNoise`]), and `q0` is only a unit: `chi` is in units of `sqrt(q0)`, the loss in units of `q0^2`.
//!
//! Every other activation sees the frozen logits and the label's logits given those ([`JointLaw`]). The averages run
//! over `2K' + 2T` Gaussians: these logits, `chi*` and `omega`. For softmax `K' = K - 1`, since it does not see
//! `u = 11^T/T`. The inverse temperature `b` multiplies all logits, so that `chi chi^T` enters with the factor `b q0`.

use super::channel::LossChannel;
use super::finite_size::{self, FiniteSizeProblem};
use super::report::Reporter;
use super::ridge::{JUMPS_DOMINATE, JumpGauge, Ridge};
use super::solution::{EffectiveNoise, FinetuningSolution};
use super::starts::{FinetuningStarts, FoundVector, Guess};
use super::training::Finetuning;
use super::units::Units;
use super::zero_weights::{NoiseEdge, critical_ridge, noise_edge};
use crate::attention::Attention;
use crate::channel;
use crate::error::Error;
use crate::fields::{JointLaw, LabelNoise, effective_noise};
use crate::frozen::{Frozen, ThirdMoments};
use crate::losses::vector::{
    FinetuningLosses, ReplicatedErrors, VectorOverlaps, ZeroWeights, general, linear, rows, softmax,
};
use crate::model::{Model, Specialisation};
use crate::observables;
use crate::options::Options;
use crate::parallel;
use crate::state_evolution::{Run, Tuning};
use crate::status::Status;
use crate::std_error::standard_error;
use crate::threshold::Threshold;

/// The inputs of [`solve`](super::solve), and what follows from them.
pub(super) struct FinetuningProblem<'a> {
    pub(super) model: &'a Model,
    pub(super) frozen: &'a Frozen,
    pub(super) training: &'a Finetuning,
    pub(super) options: Options,
    pub(super) units: Units,
    pub(super) fields: FieldLaw,
}

/// The law of the logits.
pub(super) enum FieldLaw {
    /// Linear attention.
    Difference(LabelNoise),
    /// Any other activation. `coupling` is the inverse temperature times `q0`.
    Joint { law: JointLaw, coupling: f64 },
}

impl<'a> FinetuningProblem<'a> {
    pub(super) fn new(
        model: &'a Model,
        frozen: &'a Frozen,
        training: &'a Finetuning,
        options: &'a Options,
    ) -> Self {
        let q0 = training.unit();
        let (loss, fields) = match model.specialisation() {
            Specialisation::Linear => {
                (q0 * q0, FieldLaw::Difference(LabelNoise::new(model, frozen, &training.fields())))
            }
            Specialisation::Softmax | Specialisation::General => {
                let law = JointLaw::new(model, frozen, &training.fields());
                (1.0, FieldLaw::Joint { law, coupling: model.inverse_temperature() * q0 })
            }
        };
        let options = training.workload(model.attention()).options(model, options);
        Self { model, frozen, training, options, units: Units { q0, loss }, fields }
    }

    /// The averages over the losses, by the kernel for the activation.
    fn losses(&self, tuning: &Tuning) -> Result<Box<dyn FinetuningLosses>, Error> {
        let (tokens, options) = (self.model.tokens(), &self.options);
        match (&self.fields, self.model.specialisation()) {
            (FieldLaw::Difference(noise), _) => linear::losses(tokens, noise, options, tuning),
            (FieldLaw::Joint { law, coupling }, Specialisation::Softmax) => {
                softmax::losses(tokens, law, *coupling, options, tuning)
            }
            (FieldLaw::Joint { law, coupling }, Specialisation::Linear | Specialisation::General) => {
                general::losses(self.model, law, *coupling, options, tuning)
            }
        }
    }

    fn ridge(&self, losses: &dyn FinetuningLosses) -> Ridge {
        Ridge {
            tokens: self.model.tokens() as f64,
            alpha: self.training.alpha(),
            lambda: self.units.scaled_ridge(self.training.ridge()),
            divergence: losses.smooth_divergence(),
            by_parts_above: JUMPS_DOMINATE,
            gauge: match self.fields {
                FieldLaw::Difference(_) => JumpGauge::Surface,
                FieldLaw::Joint { .. } => JumpGauge::Difference,
            },
        }
    }

    /// The variance, per coordinate and over that of a logit, of what the frozen weights leave of the label's logits of new sequences.
    fn noise_of_new_sequences(&self) -> f64 {
        let Self { model, frozen, training, .. } = self;
        effective_noise(model.attention(), &frozen.overlaps(), model.delta(), training.beta())
    }

    pub(super) fn guess(&self) -> Guess {
        match &self.fields {
            FieldLaw::Difference(noise) => {
                let tokens = self.model.tokens() as f64;
                // This is the average curvature of the loss at the truth. The jumps leave a fraction of some
                // 0.6 of it.
                let curvature = match self.model.attention() {
                    Attention::Tied => {
                        0.6 * 8.0 * channel::dimension(self.model.tokens()) as f64 / (tokens * tokens)
                    }
                    Attention::Cross => 0.6 * 2.0,
                };
                Guess { noise: noise.deviation(), curvature }
            }
            FieldLaw::Joint { coupling, .. } => {
                // The activation saturates if the coupling is large.
                let saturation = coupling / (1.0 + coupling);
                Guess {
                    noise: (self.model.attention().logit_variance() * self.noise_of_new_sequences()).sqrt()
                        / self.units.q0,
                    curvature: self.model.observed_coordinates() * saturation * saturation,
                }
            }
        }
    }

    /// Returns the result of `run` on the search for fixed points.
    fn search_with<R>(
        &self,
        company: &mut Run<'_, FinetuningSolution>,
        run: impl FnOnce(FinetuningStarts<'_>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let warm = company.previous.and_then(|solution| self.units.point(&solution.order));
        let mut losses = self.losses(&company.tuning)?;
        let ridge = self.ridge(losses.as_ref());
        run(FinetuningStarts::new(ridge, self.guess(), &self.options, losses.as_mut())
            .starting_from(warm)
            .accompanied(company.tuning, company.observer()))
    }

    /// Returns the result of `run` on the search for fixed points.
    pub(super) fn search<R: Send>(
        &self,
        run: impl FnOnce(FinetuningStarts<'_>) -> Result<R, Error> + Send,
    ) -> Result<R, Error> {
        parallel::in_pool(|| self.search_with(&mut Run::default(), run))
    }

    /// The solution; with its coefficients of `D^{-1/2}` if there are third moments of the frozen weights.
    pub(super) fn solve(
        &self,
        third: Option<&ThirdMoments>,
        mut run: Run<'_, FinetuningSolution>,
    ) -> Result<FinetuningSolution, Error> {
        parallel::in_pool(|| {
            let found = self.search_with(&mut run, |starts| starts.run(self.options.start()))?;
            let errors = self.test_errors(&found)?;
            let reporter = Reporter { units: self.units, effective_noise: self.effective_noise() };
            let mut solution = reporter.solution(&found, &errors);
            if let Some(third) = third
                && solution.has_error_bars()
            {
                let Self { model, frozen, training, options, .. } = self;
                let problem = FiniteSizeProblem { model, frozen, third, training, options };
                solution.finite_size = Some(finite_size::coefficients(&problem, &found.point, &self.units)?);
            }
            Ok(solution)
        })
    }

    pub(super) fn effective_noise(&self) -> Option<EffectiveNoise> {
        let FieldLaw::Difference(noise) = &self.fields else { return None };
        let train = noise.effective(self.model.tokens()).map(|noise| self.units.loss * noise);
        Some(EffectiveNoise { train, test: self.noise_of_new_sequences() })
    }

    /// The errors on new sequences.
    fn test_errors(&self, found: &FoundVector) -> Result<ReplicatedErrors, Error> {
        let own: Vec<VectorOverlaps> = found.replicates.iter().map(|(point, _)| *point).collect();
        let Self { model, training, options, .. } = self;
        let tokens = model.tokens();
        match (&self.fields, model.specialisation()) {
            (FieldLaw::Difference(_), _) => {
                let unexplained = observables::unexplained(&self.frozen.overlaps(), training.beta());
                let (q0, delta) = (training.q0(), model.delta());
                let closed =
                    linear::ClosedForm { attention: model.attention(), tokens, q0, delta, unexplained };
                Ok(closed.errors(&found.point, &own))
            }
            (FieldLaw::Joint { law, coupling }, Specialisation::Softmax) => {
                rows::test_errors(tokens, law, *coupling, options, &found.point, &own)
            }
            (FieldLaw::Joint { law, coupling }, Specialisation::Linear | Specialisation::General) => {
                general::test_errors(model, law, *coupling, options, &found.point, &own)
            }
        }
    }

    /// The output channel by itself.
    pub(super) fn loss_channel(&self) -> Result<LossChannel, Error> {
        parallel::threads()?;
        let losses = self.losses(&Tuning::default())?;
        let ridge = self.ridge(losses.as_ref());
        Ok(LossChannel::new(losses, ridge, self.units))
    }

    /// `lambda'_c`, or `None` if there is no such ridge.
    pub(super) fn lambda_collapse(&self) -> Result<Option<Threshold>, Error> {
        let critical = parallel::in_pool(|| self.at_zero_weights(critical_ridge))?;
        Ok(critical.flatten().map(|critical| self.threshold(critical)))
    }

    /// The ridge of the noise edge, or `None` if there is no such ridge.
    pub(super) fn lambda_noise_edge(&self) -> Result<Option<Threshold>, Error> {
        let edge = parallel::in_pool(|| self.at_zero_weights(noise_edge))?;
        Ok(edge.flatten().map(|edge| self.noise_threshold(edge)))
    }

    /// A ridge and that of every replicate by itself, in physical units.
    pub(super) fn threshold(&self, (common, own): (f64, Vec<f64>)) -> Threshold {
        let unit = self.units.stiffness();
        Threshold::new(unit * common, standard_error(own.iter().map(|lambda| unit * lambda)))
    }

    /// The noise edge in physical units. Where few samples decide it, it moves with the number of nodes, and its error contains the distance from the
    /// mean over the replicates, which have fewer nodes each.
    pub(super) fn noise_threshold(&self, edge: NoiseEdge) -> Threshold {
        let NoiseEdge { value, own, by_few } = edge;
        let mean = own.iter().sum::<f64>() / own.len() as f64;
        let threshold = self.threshold((value, own));
        if !by_few {
            return threshold;
        }
        let moved = self.units.stiffness() * (value - mean);
        Threshold {
            std_error: threshold.std_error.map(|error| error.hypot(moved)),
            status: Status::NoiseLimited,
            ..threshold
        }
    }

    /// Applies `of` to the averages at zero weights, if there are such.
    fn at_zero_weights<R>(&self, of: impl Fn(&ZeroWeights, &Ridge) -> R) -> Result<Option<R>, Error> {
        let mut losses = self.losses(&Tuning::default())?;
        let ridge = self.ridge(losses.as_ref());
        let finest = losses.levels().saturating_sub(1);
        Ok(losses.zero_weights(finest).map(|zero| of(zero, &ridge)))
    }
}
