//! The simulation of a scenario: instances are run one by one or all at once.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::batch::Source;
use super::comparison::{Comparison, Expansion};
use super::factors::PairSource;
use super::instance::Instance;
use super::laboratory::{Counts, FrozenLogits, Laboratory, check_memory};
use super::measurement::Measurement;
use super::random::Streams;
use super::sequences::Shape;
use super::truth::Truth;
use super::{cross, factors, finetuning, pretraining};
use crate::activation::{Parity, Unseen};
use crate::attention::Attention;
use crate::error::Error;
use crate::lora::{self, Frozen};
use crate::parallel;
use crate::pretrain::{self, Parametrisation};
use crate::scenario::{Estimator, Outcome, Scenario};

/// A scenario, its prediction, and a laboratory to check it in.
///
/// Instances can be run in any order, on any machine, and put together afterwards, because each instance
/// depends on its number only.
#[derive(Debug, Clone)]
pub struct Experiment {
    scenario: Scenario,
    laboratory: Laboratory,
    outcome: Outcome,
    pretraining: Option<(Truth, pretrain::Training)>,
    finetuning: Option<lora::Training>,
    /// The overlaps of the frozen weights, if their logits are synthetic.
    law: Option<Frozen>,
}

/// The scenario with the coefficients of `D^{-1/2}` of fine-tuning on trained weights, where they are known. An extrapolation then needs not fit them.
fn with_coefficients(scenario: &Scenario, synthetic: bool) -> Scenario {
    let mut asked = scenario.clone();
    asked.options = scenario.options.with_finite_size(true);
    let known = !synthetic && asked.lora.is_some() && asked.validate().is_ok();
    if known { asked } else { scenario.clone() }
}

impl Experiment {
    /// Checks the scenario, the laboratory and the memory that they need, and solves the theory.
    ///
    /// # Errors
    /// [`Error::Threads`] if the global thread pool cannot be started. The errors of [`Laboratory::validate`]
    /// and [`Scenario::solve`]. [`Error::InvalidParameter`] for a size at which the numbers of sequences are
    /// not integers, or that would take more memory than allowed; this is checked before anything is
    /// allocated. [`Error::MissingField`] or [`Error::InvalidParameter`] for a teacher with a spectrum of your own without
    /// [eigenvalues](crate::spectrum::TeacherSpectrum::eigenvalues) to train with. [`Error::Conflict`] for direct training of cross-attention, and for the Bayes-optimal estimator, which is not trained (see
    /// [`message_passing`](super::message_passing)). [`Error::NotConverged`] if the theory has no prediction.
    pub fn new(scenario: &Scenario, laboratory: &Laboratory) -> Result<Self, Error> {
        laboratory.validate()?;
        scenario.validate()?;
        if scenario.estimator == Estimator::BayesOptimal {
            return Err(Error::Conflict { field: "estimator = bayes_optimal", with: "a laboratory" });
        }
        let direct = scenario.pretrain.is_some_and(|one| one.parametrisation() == Parametrisation::Direct);
        if direct && scenario.model.attention() == Attention::Cross {
            let with = "cross-attention in a laboratory";
            return Err(Error::Conflict { field: "pretrain.parametrisation = direct", with });
        }
        let synthetic = laboratory.frozen == FrozenLogits::Synthetic || scenario.pretrain.is_none();
        if synthetic && scenario.lora.is_none() {
            let reason = "with synthetic frozen logits only the fine-tuning stage is simulated";
            return Err(Error::MissingField { field: "lora", reason });
        }
        check_memory(scenario, laboratory, synthetic, parallel::threads()?)?;
        let pretraining = match &scenario.pretrain {
            Some(training) if !synthetic => {
                let truth = Truth::new(&scenario.model)?;
                laboratory
                    .sizes
                    .iter()
                    .try_for_each(|size| truth.check(scenario.model.attention(), size.dimension))?;
                Some((truth, *training))
            }
            _ => None,
        };
        let mut outcome = with_coefficients(scenario, synthetic).solve()?;
        outcome.pretrain = outcome.pretrain.map(pretrain::Solution::into_converged).transpose()?;
        outcome.lora = outcome.lora.map(lora::Solution::into_converged).transpose()?;
        let law = match &outcome.pretrain {
            Some(solution) => Some(solution.freeze()?),
            None => scenario.frozen,
        };
        Ok(Self {
            scenario: scenario.clone(),
            laboratory: laboratory.clone(),
            outcome,
            pretraining,
            finetuning: scenario.lora,
            law: law.filter(|_| synthetic),
        })
    }

    /// The prediction.
    #[must_use]
    pub fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// The scenario.
    #[must_use]
    pub fn scenario(&self) -> &Scenario {
        &self.scenario
    }

    /// The laboratory.
    #[must_use]
    pub fn laboratory(&self) -> &Laboratory {
        &self.laboratory
    }

    /// Dimension and number of every instance, in the order of the sizes.
    #[must_use]
    pub fn instances(&self) -> Vec<[usize; 2]> {
        let sizes = self.laboratory.sizes.iter();
        sizes.flat_map(|size| (0..size.instances).map(|instance| [size.dimension, instance])).collect()
    }

    /// Runs one instance. On a thread of a pool, the instance stays on that thread, because the caller may
    /// run several instances in parallel. Elsewhere, the instance uses all threads of rayon's global pool.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] if there is no such instance; [`Error::Threads`] if the global pool cannot be started.
    pub fn run(&self, dimension: usize, instance: usize) -> Result<Measurement, Error> {
        if !self.laboratory.sizes.iter().any(|size| size.dimension == dimension && instance < size.instances)
        {
            let given = format!("{instance} at dimension {dimension}");
            return Err(Error::invalid("instance", given, "one of the laboratory"));
        }
        if rayon_core::current_thread_index().is_some() {
            parallel::alone(|| self.measure(dimension, instance))
        } else {
            parallel::threads()?;
            self.measure(dimension, instance)
        }
    }

    fn measure(&self, dimension: usize, instance: usize) -> Result<Measurement, Error> {
        let Self { scenario, laboratory, .. } = self;
        let model = &scenario.model;
        let counts = Counts::new(scenario, dimension, self.law.is_some())?;
        let streams = Streams { seed: laboratory.seed, dimension, instance };
        let shape = Shape { dimension, tokens: model.tokens() };
        let one = Instance { model, laboratory, streams, shape };
        if model.attention() == Attention::Cross {
            return self.measure_factors(&one, &counts);
        }
        let stage = match (&self.pretraining, counts.pretraining()) {
            (Some((teacher, training)), Some(counts)) => {
                Some(pretraining::run(&one, teacher, training, counts)?)
            }
            _ => None,
        };
        let source = match (&stage, self.law) {
            (Some(pretraining::TrainedLayer { teacher, student, data, .. }), _) => {
                Some(Source::Weights { teacher, student, data: Some(data) })
            }
            (None, law) => law.map(Source::Law),
        };
        let lora = match (&self.finetuning, counts.finetuning(), source) {
            (Some(training), Some(counts), Some(source)) => {
                Some(finetuning::run(&one, training, &source, counts))
            }
            _ => None,
        };
        Ok(Measurement { dimension, instance, pretrain: stage.map(|stage| stage.measured), lora })
    }

    /// The stages of one instance with cross-attention.
    fn measure_factors(&self, one: &Instance<'_>, counts: &Counts) -> Result<Measurement, Error> {
        let stage = match (&self.pretraining, counts.pretraining()) {
            (Some((teacher, training)), Some(counts)) => Some(cross::run(one, teacher, training, counts)?),
            _ => None,
        };
        let source = match (&stage, self.law) {
            (Some(trained), _) => Some(PairSource::Weights(trained)),
            (None, law) => law.map(PairSource::Law),
        };
        let lora = match (&self.finetuning, counts.finetuning(), source) {
            (Some(training), Some(counts), Some(source)) => {
                Some(factors::run(one, training, &source, counts))
            }
            _ => None,
        };
        let Streams { dimension, instance, .. } = one.streams;
        Ok(Measurement { dimension, instance, pretrain: stage.map(|stage| stage.measured), lora })
    }

    /// Runs all instances that are not among `known`, and returns all of them, in the order of
    /// [`Experiment::instances`]. `progress` is called after each new instance, one call at a time, and may
    /// stop the experiment. Instances that are running are then finished, no new ones are begun, and the
    /// measurements so far are returned.
    ///
    /// The function uses the threads of the pool that it is called in, or else those of rayon's global pool.
    /// Instances run in parallel, each on one thread. If there are fewer instances than threads, they run one
    /// after the other, each on all threads. `progress` is called on a thread of the pool, and must not run
    /// parallel loops of its own there.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] if the instances that run at the same time would take more memory than
    /// allowed; [`Error::Threads`] if the global pool cannot be started.
    pub fn run_all(
        &self,
        known: Vec<Measurement>,
        progress: impl FnMut(&Measurement) -> ControlFlow<()> + Send,
    ) -> Result<Vec<Measurement>, Error> {
        let threads = parallel::threads()?;
        check_memory(&self.scenario, &self.laboratory, self.law.is_some(), threads)?;
        let wanted = self.instances();
        let position = |of: &Measurement| wanted.iter().position(|id| *id == [of.dimension, of.instance]);
        let mut all: Vec<(usize, Measurement)> =
            known.into_iter().filter_map(|one| position(&one).map(|at| (at, one))).collect();
        all.sort_by_key(|(at, _)| *at);
        all.dedup_by_key(|(at, _)| *at);
        let done: HashSet<usize> = all.iter().map(|(at, _)| *at).collect();
        let progress = Mutex::new(progress);
        let stopped = AtomicBool::new(false);
        let missing: Vec<usize> = (0..wanted.len()).filter(|at| !done.contains(at)).collect();
        let measure = |at: usize| {
            if stopped.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let [dimension, instance] = wanted[at];
            let measurement = self.measure(dimension, instance).inspect_err(|_| {
                stopped.store(true, Ordering::Relaxed);
            })?;
            // If the caller's closure panics on another thread, the panic is reported there.
            let mut report = progress.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            // Without `alone`, this thread might begin another instance on top of this call, which would wait
            // for the lock for ever.
            if parallel::alone(|| report(&measurement)).is_break() {
                stopped.store(true, Ordering::Relaxed);
            }
            Ok(Some((at, measurement)))
        };
        let new: Vec<Result<Option<(usize, Measurement)>, Error>> = if missing.len() < threads {
            missing.into_iter().map(measure).collect()
        } else {
            parallel::flat(missing.len(), &|index| measure(missing[index]))
        };
        let new = new.into_iter().collect::<Result<Vec<_>, Error>>()?;
        all.extend(new.into_iter().flatten());
        all.sort_by_key(|(at, _)| *at);
        Ok(all.into_iter().map(|(_, measurement)| measurement).collect())
    }

    /// Compares the prediction of the scenario with measurements.
    #[must_use]
    pub fn compare(&self, measurements: &[Measurement]) -> Comparison {
        self.compare_to(&self.outcome, measurements)
    }

    /// Compares any prediction with measurements.
    #[must_use]
    pub fn compare_to(&self, outcome: &Outcome, measurements: &[Measurement]) -> Comparison {
        let order = self.laboratory.order();
        let integer = Expansion::integer(order);
        // With trained weights, h(S) and chi chi^T share the sequences, which gives corrections of order
        // D^{-1/2}. In pre-training, h(S) and X X^T share them, but the corrections vanish if sigma is odd.
        let half_integer = Expansion::half_integer(order);
        // In cross-attention only the product of the queries and the keys has such corrections, and its law is even in both.
        let cross = self.scenario.model.attention() == Attention::Cross;
        let lora = if self.law.is_some() || cross { integer } else { half_integer };
        // For softmax of two tokens, an exchange of the tokens takes the place of the sign, and for more tokens the
        // corrections are too small to be measured.
        // In cross-attention, a change of the sign of the queries alone takes its place.
        let activation = self.scenario.model.activation();
        let odd = activation.parity() == Parity::Odd || activation.unseen() == Unseen::RowShifts || cross;
        let pretraining = if odd { integer } else { half_integer };
        let spectrum = self.pretraining.as_ref().and_then(|(_, training)| {
            let solution = outcome.pretrain.as_ref()?;
            pretrain::LearnedSpectrum::new(&self.scenario.model, training, solution).ok()
        });
        Comparison::new(outcome, spectrum.as_ref(), measurements, [pretraining, lora])
    }
}
