//! Simulating a scenario: instances, one by one or all at once.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::batch::Source;
use super::comparison::{Comparison, Expansion};
use super::instance::Instance;
use super::laboratory::{Counts, FrozenLogits, Laboratory, check_memory};
use super::measurement::Measurement;
use super::random::Streams;
use super::sequences::Shape;
use super::{finetuning, pretraining};
use crate::error::Error;
use crate::lora::{self, Frozen};
use crate::model::Teacher;
use crate::parallel;
use crate::pretrain;
use crate::scenario::{Estimator, Outcome, Scenario};

/// A scenario, its prediction, and a laboratory to check it in.
///
/// Instances can be run in any order, on any machine, and put together afterwards: each depends on its number only.
#[derive(Debug, Clone)]
pub struct Experiment {
    scenario: Scenario,
    laboratory: Laboratory,
    outcome: Outcome,
    pretraining: Option<(Teacher, pretrain::Training)>,
    finetuning: Option<lora::Training>,
    /// Overlaps of the frozen weights, where their logits are synthetic.
    law: Option<Frozen>,
}

impl Experiment {
    /// Checks everything, memory included, and solves the theory.
    ///
    /// # Errors
    /// [`Error::Threads`] if the global thread pool cannot be started. Those of [`Laboratory::validate`] and [`Scenario::solve`]. [`Error::InvalidParameter`] for a size at which the numbers of
    /// sequences are not integers, or that would take more memory than allowed: before anything is allocated.
    /// [`Error::Conflict`] for the Bayes-optimal estimator, which is not trained (see
    /// [`message_passing`](super::message_passing)). [`Error::NotConverged`] if the theory has no prediction.
    pub fn new(scenario: &Scenario, laboratory: &Laboratory) -> Result<Self, Error> {
        laboratory.validate()?;
        scenario.validate()?;
        if scenario.estimator == Estimator::BayesOptimal {
            return Err(Error::Conflict { field: "estimator = bayes_optimal", with: "a laboratory" });
        }
        let synthetic = laboratory.frozen == FrozenLogits::Synthetic || scenario.pretrain.is_none();
        if synthetic && scenario.lora.is_none() {
            let reason = "with synthetic frozen logits only the fine-tuning stage is simulated";
            return Err(Error::MissingField { field: "lora", reason });
        }
        check_memory(scenario, laboratory, synthetic, parallel::threads()?)?;
        let mut outcome = scenario.solve()?;
        outcome.pretrain = outcome.pretrain.map(pretrain::Solution::into_converged).transpose()?;
        outcome.lora = outcome.lora.map(lora::Solution::into_converged).transpose()?;
        let law = match &outcome.pretrain {
            Some(solution) => Some(solution.freeze()?),
            None => scenario.frozen,
        };
        let pretraining = match (scenario.model.teacher(), &scenario.pretrain) {
            (Some(teacher), Some(training)) if !synthetic => Some((teacher.clone(), *training)),
            _ => None,
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

    /// Dimension and number of every instance: first all of the first size.
    #[must_use]
    pub fn instances(&self) -> Vec<[usize; 2]> {
        let sizes = self.laboratory.sizes.iter();
        sizes.flat_map(|size| (0..size.instances).map(|instance| [size.dimension, instance])).collect()
    }

    /// One instance. On a thread of a pool, it stays on that thread: the caller is taken to run several of them. Elsewhere, it uses
    /// all threads of rayon's global pool.
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
        let stage = match (&self.pretraining, counts.pretraining()) {
            (Some((teacher, training)), Some(counts)) => {
                Some(pretraining::run(&one, teacher, training, counts)?)
            }
            _ => None,
        };
        let source = match (&stage, self.law) {
            (Some(pretraining::Stage { teacher, student, data, .. }), _) => {
                Some(Source::Weights { teacher, student, data })
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

    /// All instances that are not among `known`, and those, in the order of [`Experiment::instances`]. `progress` is called
    /// after each new one, one at a time, and may stop the experiment: what was running is finished then, nothing new is begun,
    /// and what there is is returned.
    ///
    /// The threads are those of the pool that this is called in, or else those of rayon's global one. Instances run in parallel, each
    /// on one thread; where there are fewer than threads, one after the other, each on all threads. `progress` is called on a
    /// thread of the pool, and must not run parallel loops of its own there.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] if so many instances at the same time would take more memory than allowed; [`Error::Threads`] if
    /// the global pool cannot be started.
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
            // A panic of the caller's closure on another thread is reported there.
            let mut report = progress.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            // Another instance on top of this call would wait for the lock for ever.
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

    /// The prediction beside what was measured.
    #[must_use]
    pub fn compare(&self, measurements: &[Measurement]) -> Comparison {
        self.compare_to(&self.outcome, measurements)
    }

    /// Any prediction beside what was measured.
    #[must_use]
    pub fn compare_to(&self, outcome: &Outcome, measurements: &[Measurement]) -> Comparison {
        let order = self.laboratory.order();
        let integer = Expansion { power: 1.0, order };
        // With trained weights, h(S) and chi chi^T share the sequences: corrections of order D^{-1/2}.
        let half_integer = Expansion { power: 0.5, order: 2 * order };
        let lora = if self.law.is_some() { integer } else { half_integer };
        let spectrum = self.pretraining.as_ref().and_then(|(_, training)| {
            let solution = outcome.pretrain.as_ref()?;
            pretrain::LearnedSpectrum::new(&self.scenario.model, training, solution).ok()
        });
        Comparison::new(outcome, spectrum.as_ref(), measurements, [integer, lora])
    }
}
