//! A scenario says what to solve; solving it gives the solution of every stage.

use serde::{Deserialize, Serialize};

use super::estimator::Estimator;
use super::outcome::{Bound, Outcome};
use super::skipped::Skipped;
use crate::attention::Attention;
use crate::error::Error;
use crate::frozen::{Frozen, FrozenFields};
use crate::json::{self, Object};
use crate::lora::{self, LoraFields, Sequences};
use crate::memory::Workload;
use crate::model::{Model, ModelFields};
use crate::options::{Options, OptionsFields};
use crate::pretrain::{self, Parametrisation, PretrainFields};
use crate::state_evolution::Run;

/// One experiment: a pre-training, or frozen weights given by hand, and a fine-tuning on top.
///
/// At least one of `pretrain` and `lora` must be given; `lora` needs `pretrain` or `frozen`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "ScenarioFields")]
pub struct Scenario {
    /// The layer, and its teacher if there is a pre-training.
    pub model: Model,
    /// The pre-training stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pretrain: Option<pretrain::Training>,
    /// Overlaps of the frozen weights, in place of a pre-training and a teacher.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frozen: Option<Frozen>,
    /// The fine-tuning stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<lora::Training>,
    /// The estimator.
    pub estimator: Estimator,
    /// How to solve.
    pub options: Options,
}

/// One experiment: a pre-training, or frozen weights given by hand, and a fine-tuning on top.
#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename = "Scenario")]
pub(crate) struct ScenarioFields {
    /// The layer, and its teacher if there is a pre-training.
    #[serde(deserialize_with = "json::object")]
    model: ModelFields,
    /// The pre-training stage.
    #[serde(default, deserialize_with = "json::optional_object")]
    pretrain: Option<PretrainFields>,
    /// Overlaps of the frozen weights, in place of a pre-training and a teacher.
    #[serde(default, deserialize_with = "json::optional_object")]
    frozen: Option<FrozenFields>,
    /// The fine-tuning stage.
    #[serde(default, deserialize_with = "json::optional_object")]
    lora: Option<LoraFields>,
    /// The estimator.
    #[serde(default)]
    estimator: Estimator,
    /// How to solve.
    #[serde(default, deserialize_with = "json::object")]
    options: OptionsFields,
}

impl TryFrom<ScenarioFields> for Scenario {
    type Error = Error;

    fn try_from(fields: ScenarioFields) -> Result<Self, Error> {
        let ScenarioFields { model, pretrain, frozen, lora, estimator, options } = fields;
        let (model, options) = (Model::try_from(model)?, options.try_into()?);
        let attention = model.attention();
        Ok(Self {
            model,
            pretrain: pretrain.map(TryInto::try_into).transpose()?,
            frozen: frozen.map(|frozen| frozen.of_model(attention).try_into()).transpose()?,
            lora: lora.map(TryInto::try_into).transpose()?,
            estimator,
            options,
        })
    }
}

impl Scenario {
    /// Reads a scenario from JSON, with or without a byte order mark.
    ///
    /// # Errors
    /// [`Error::Syntax`] for broken JSON, an unknown or a missing field, or a value of the wrong type; [`Error::InvalidParameter`] or
    /// [`Error::Conflict`] for a value that is out of range. [`Scenario::validate`] and [`Scenario::solve`] check that the parts fit together.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        json::from_json::<Object<ScenarioFields>>(text)?.0.try_into()
    }

    /// Reads a scenario from a value of JSON, with the errors of [`Scenario::from_json`].
    #[cfg(feature = "sweep")]
    pub(crate) fn from_value(value: serde_json::Value) -> Result<Self, Error> {
        let fields: Result<ScenarioFields, _> = serde_json::from_value(value);
        fields?.try_into()
    }

    /// Checks that the parts fit together.
    ///
    /// # Errors
    /// [`Error::MissingField`] if a part is missing, [`Error::Conflict`] if two parts do not fit together, and
    /// [`Error::TooMuchMemory`] if the nodes would take too much memory.
    pub fn validate(&self) -> Result<(), Error> {
        self.check_memory()?;
        match (&self.pretrain, &self.frozen) {
            (Some(_), Some(_)) => return Err(Error::Conflict { field: "frozen", with: "pretrain" }),
            (Some(training), None) => {
                match self.estimator {
                    Estimator::Erm | Estimator::Both => drop(training.require_ridge()?),
                    Estimator::BayesOptimal => {
                        refuse_ridge("pretrain.lambda", training.lambda())?;
                        if training.parametrisation() == Parametrisation::Direct {
                            let field = "pretrain.parametrisation = direct";
                            return Err(Error::Conflict { field, with: "estimator = bayes_optimal" });
                        }
                    }
                }
                self.model.teacher_spectrum()?;
            }
            (None, Some(_)) => {
                if self.model.has_teacher() {
                    return Err(Error::Conflict { field: "model.teacher", with: "frozen" });
                }
                if self.lora.is_none() {
                    return Err(Error::MissingField {
                        field: "lora",
                        reason: "frozen weights are for fine-tuning",
                    });
                }
            }
            (None, None) => {
                return Err(Error::MissingField {
                    field: "pretrain",
                    reason: "give pretrain, or frozen and lora",
                });
            }
        }
        let Some(training) = &self.lora else { return Ok(()) };
        training.check_attention(self.model.attention())?;
        if self.estimator != Estimator::BayesOptimal {
            lora::check_finite_size(&self.model, training, self.frozen.as_ref(), &self.options)?;
        } else if self.options.finite_size() {
            return Err(Error::Conflict { field: "options.finite_size", with: "estimator = bayes_optimal" });
        }
        match self.estimator {
            Estimator::Erm => {
                training.require_ridge()?;
                return self.frozen.map_or(Ok(()), |frozen| training.sequences().check_response(&frozen));
            }
            Estimator::Both => drop(training.require_ridge()?),
            Estimator::BayesOptimal => refuse_ridge("lora.lambda", training.lambda())?,
        }
        training.require_rank_one("a Bayes-optimal estimator")?;
        if self.model.attention() == Attention::Cross {
            return Err(Error::Conflict {
                field: "model.attention = cross",
                with: "a Bayes-optimal estimator of fine-tuning",
            });
        }
        match training.sequences() {
            Sequences::Reused => {
                Err(Error::Conflict { field: "lora.sequences = reused", with: "a Bayes-optimal estimator" })
            }
            Sequences::Fresh | Sequences::Active(_) => Ok(()),
        }
    }

    /// Refuses numbers of nodes that would take more memory than allowed, in any of the stages. The model and
    /// the options must be valid.
    fn check_memory(&self) -> Result<(), Error> {
        let Self { pretrain, lora, estimator, model, options, .. } = self;
        let pretraining = pretrain.map(|_| [Workload::Pretraining, Workload::PretrainingBound]);
        let finetuning = lora.map(|lora| [lora.workload(model.attention()), Workload::FinetuningBound]);
        for [erm, bound] in pretraining.into_iter().chain(finetuning) {
            if *estimator != Estimator::BayesOptimal {
                erm.check(model, options)?;
            }
            if *estimator != Estimator::Erm {
                bound.check(model, options)?;
            }
        }
        Ok(())
    }

    /// Solves every stage.
    ///
    /// If both estimators are asked for, [`lora::Validity::above_bound`] tells whether the alignment of
    /// fine-tuning is above the information-theoretic branch of the bound. Such an alignment is outside the
    /// validity of replica symmetry.
    ///
    /// # Errors
    /// The errors of [`Scenario::validate`], [`pretrain::solve`], [`lora::solve`], [`pretrain::bayes_optimal`]
    /// and [`lora::bayes_optimal`]. A stage that does not converge is not an error: its status tells.
    pub fn solve(&self) -> Result<Outcome, Error> {
        self.solve_with(Run::default())
    }

    /// Like [`Scenario::solve`], beginning with the outcome of a similar scenario (see [`pretrain::solve_from`]
    /// and [`lora::solve_from`]).
    ///
    /// # Errors
    /// The errors of [`Scenario::solve`]. Any `previous` is accepted.
    pub fn solve_from(&self, previous: &Outcome) -> Result<Outcome, Error> {
        self.solve_with(Run::default().starting_from(previous))
    }

    /// Like [`Scenario::solve`], with optional companions: the outcome of a similar scenario, an observer that is
    /// shown every iterate of both stages and may end them, and other constants of the search. After a
    /// pre-training that was interrupted there is no fine-tuning.
    ///
    /// # Errors
    /// The errors of [`Scenario::solve`].
    pub fn solve_with(&self, run: Run<'_, Outcome>) -> Result<Outcome, Error> {
        self.validate()?;
        let mut outcome = match self.estimator {
            Estimator::Erm | Estimator::Both => self.erm(run)?,
            Estimator::BayesOptimal => Outcome::default(),
        };
        if self.estimator != Estimator::Erm {
            let bound = self.bound()?;
            if let (Some(solution), Some(bound)) = (&mut outcome.lora, &bound.lora) {
                solution.validity.compare_with_bound(solution.alignment, solution.std_error.alignment, bound);
            }
            outcome.bayes_optimal = Some(bound);
        }
        Ok(outcome)
    }

    fn erm(&self, mut run: Run<'_, Outcome>) -> Result<Outcome, Error> {
        let Self { model, options, .. } = self;
        let solved_before = run.previous.and_then(|outcome| outcome.pretrain.as_ref());
        let pretrain = match &self.pretrain {
            Some(training) => {
                Some(pretrain::solve_with(model, training, options, run.for_stage(solved_before))?)
            }
            None => None,
        };
        let frozen = match &pretrain {
            Some(solution) => solution.status.is_success().then(|| solution.freeze()).transpose()?,
            None => self.frozen,
        };
        let solved_before = run.previous.and_then(|outcome| outcome.lora.as_ref());
        let mut outcome = Outcome { pretrain, ..Outcome::default() };
        match (&self.lora, frozen) {
            (Some(training), Some(frozen)) => {
                let run = run.for_stage(solved_before);
                outcome.lora = Some(lora::solve_with(model, &frozen, training, options, run)?);
            }
            (Some(_), None) => outcome.lora_skipped = Some(Skipped::PretrainNotConverged),
            (None, _) => {}
        }
        Ok(outcome)
    }

    fn bound(&self) -> Result<Bound, Error> {
        let pretrain = match &self.pretrain {
            Some(training) => Some(pretrain::bayes_optimal(&self.model, training.alpha(), &self.options)?),
            None => None,
        };
        let frozen = match &pretrain {
            Some(solution) => solution.status.is_success().then(|| solution.freeze()).transpose()?,
            None => self.frozen,
        };
        let mut bound = Bound { pretrain, ..Bound::default() };
        match (&self.lora, frozen) {
            (Some(training), Some(frozen)) => {
                let (alpha, q0) = (training.alpha(), training.q0());
                bound.lora = Some(lora::bayes_optimal(&self.model, &frozen, alpha, q0, &self.options)?);
            }
            (Some(_), None) => bound.lora_skipped = Some(Skipped::PretrainNotConverged),
            (None, _) => {}
        }
        Ok(bound)
    }
}

/// Refuses a ridge, which the Bayes-optimal estimator does not have.
fn refuse_ridge(field: &'static str, lambda: Option<f64>) -> Result<(), Error> {
    match lambda {
        Some(_) => Err(Error::Conflict { field, with: "estimator = bayes_optimal" }),
        None => Ok(()),
    }
}
