//! What to solve, and the solution of every stage of it.

use serde::{Deserialize, Serialize};

use super::estimator::Estimator;
use super::outcome::{Bound, Outcome};
use super::skipped::Skipped;
use crate::error::Error;
use crate::frozen::Frozen;
use crate::json;
use crate::lora::{self, Sequences};
use crate::memory::Averages;
use crate::model::Model;
use crate::options::Options;
use crate::pretrain;

/// What of [`pretrain::Training`] a scenario says.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pretraining {
    /// Number of sequences over `D^2`; > 0.
    pub alpha: f64,
    /// Ridge; required for empirical risk minimisation, refused for the Bayes-optimal estimator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lambda: Option<f64>,
    /// Width of the student; 1 if not given. Of no meaning for the Bayes-optimal estimator.
    #[serde(default = "one")]
    pub kappa: f64,
}

/// What of [`lora::Training`] a scenario says.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finetuning {
    /// Number of sequences over `D`; > 0.
    pub alpha: f64,
    /// Ridge; required for empirical risk minimisation, refused for the Bayes-optimal estimator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lambda: Option<f64>,
    /// Variance of the entries of the true perturbation; 1 if not given.
    #[serde(default = "one")]
    pub q0: f64,
    /// Recalibration; 1 if not given. Of no meaning for the Bayes-optimal estimator.
    #[serde(default = "one")]
    pub beta: f64,
    /// The sequences trained on. There is no Bayes-optimal bound for reused ones.
    #[serde(default)]
    pub sequences: Sequences,
}

fn one() -> f64 {
    1.0
}

const NEEDS_RIDGE: &str = "empirical risk minimisation needs a ridge";

impl Pretraining {
    /// The training, given a ridge.
    ///
    /// # Errors
    /// [`Error::MissingField`] without one.
    pub fn training(&self) -> Result<pretrain::Training, Error> {
        let Self { alpha, lambda, kappa } = *self;
        let lambda = lambda.ok_or(Error::MissingField { field: "pretrain.lambda", reason: NEEDS_RIDGE })?;
        Ok(pretrain::Training { alpha, lambda, kappa })
    }
}

impl Finetuning {
    /// The training, given a ridge.
    ///
    /// # Errors
    /// [`Error::MissingField`] without one.
    pub fn training(&self) -> Result<lora::Training, Error> {
        let Self { alpha, lambda, q0, beta, sequences } = *self;
        let lambda = lambda.ok_or(Error::MissingField { field: "lora.lambda", reason: NEEDS_RIDGE })?;
        Ok(lora::Training { alpha, lambda, q0, beta, sequences })
    }
}

impl From<pretrain::Training> for Pretraining {
    fn from(pretrain::Training { alpha, lambda, kappa }: pretrain::Training) -> Self {
        Self { alpha, lambda: Some(lambda), kappa }
    }
}

impl From<lora::Training> for Finetuning {
    fn from(lora::Training { alpha, lambda, q0, beta, sequences }: lora::Training) -> Self {
        Self { alpha, lambda: Some(lambda), q0, beta, sequences }
    }
}

/// One experiment: a pre-training, or frozen weights given by hand, and a fine-tuning on top.
///
/// At least one of `pretrain` and `lora` must be there; `lora` needs `pretrain` or `frozen`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The layer, and its teacher if there is a pre-training.
    pub model: Model,
    /// The pre-training stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pretrain: Option<Pretraining>,
    /// Overlaps of the frozen weights, instead of a pre-training and of a teacher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen: Option<Frozen>,
    /// The fine-tuning stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<Finetuning>,
    /// The estimator.
    #[serde(default)]
    pub estimator: Estimator,
    /// How to solve.
    #[serde(default)]
    pub options: Options,
}

impl Scenario {
    /// Reads a scenario from JSON, with or without a byte order mark.
    ///
    /// # Errors
    /// [`Error::Syntax`] for broken JSON, an unknown or a missing field, or a value of the wrong type. Ranges are checked by
    /// [`Scenario::solve`].
    pub fn from_json(text: &str) -> Result<Self, Error> {
        json::from_json(text)
    }

    /// Checks that the parts fit together, and every field of every part.
    ///
    /// # Errors
    /// [`Error::MissingField`], [`Error::Conflict`], [`Error::InvalidParameter`] or [`Error::TooMuchMemory`].
    pub fn validate(&self) -> Result<(), Error> {
        self.model.validate()?;
        self.options.validate()?;
        self.check_memory()?;
        match (&self.pretrain, &self.frozen) {
            (Some(_), Some(_)) => return Err(Error::Conflict { field: "frozen", with: "pretrain" }),
            (Some(pretraining), None) => {
                match self.estimator {
                    Estimator::Erm | Estimator::Both => pretraining.training()?.validate()?,
                    Estimator::BayesOptimal => {
                        refuse_ridge("pretrain.lambda", pretraining.lambda)?;
                        Pretraining { lambda: Some(0.0), ..*pretraining }.training()?.validate()?;
                    }
                }
                if self.model.teacher.is_none() {
                    let reason = "pre-training needs the law of the teacher";
                    return Err(Error::MissingField { field: "model.teacher", reason });
                }
            }
            (None, Some(frozen)) => {
                if self.model.teacher.is_some() {
                    return Err(Error::Conflict { field: "model.teacher", with: "frozen" });
                }
                frozen.validate()?;
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
        let Some(finetuning) = &self.lora else { return Ok(()) };
        match self.estimator {
            Estimator::Erm => {
                finetuning.training()?.validate()?;
                return self.frozen.map_or(Ok(()), |frozen| finetuning.sequences.check_response(&frozen));
            }
            Estimator::Both => finetuning.training()?.validate()?,
            Estimator::BayesOptimal => {
                refuse_ridge("lora.lambda", finetuning.lambda)?;
                Finetuning { lambda: Some(0.0), ..*finetuning }.training()?.validate()?;
            }
        }
        match finetuning.sequences {
            Sequences::Reused => {
                Err(Error::Conflict { field: "lora.sequences = reused", with: "a Bayes-optimal estimator" })
            }
            Sequences::Fresh | Sequences::Active(_) => Ok(()),
        }
    }

    /// Refuses more nodes than there may be memory for, in any of the stages. Model and options are valid.
    fn check_memory(&self) -> Result<(), Error> {
        let Self { pretrain, lora, estimator, model, options, .. } = self;
        let pretraining = pretrain.map(|_| [Averages::Pretraining, Averages::PretrainingBound]);
        let finetuning = lora.map(|lora| [lora.sequences.averages(), Averages::FinetuningBound]);
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
    /// If both estimators are asked for, [`lora::Validity::above_bound`] tells whether the alignment of fine-tuning is above that of the
    /// information-theoretic branch of the bound, which is outside the validity of replica symmetry.
    ///
    /// # Errors
    /// Those of [`Scenario::validate`], [`pretrain::solve`], [`lora::solve`], [`pretrain::bayes_optimal`] and
    /// [`lora::bayes_optimal`]. A stage that does not converge is not an error: see its status.
    pub fn solve(&self) -> Result<Outcome, Error> {
        self.solve_with(None)
    }

    /// The same, beginning with the outcome of a similar scenario (see [`pretrain::solve_from`] and [`lora::solve_from`]).
    ///
    /// # Errors
    /// Those of [`Scenario::solve`]. Any `previous` will do.
    pub fn solve_from(&self, previous: &Outcome) -> Result<Outcome, Error> {
        self.solve_with(Some(previous))
    }

    fn solve_with(&self, previous: Option<&Outcome>) -> Result<Outcome, Error> {
        self.validate()?;
        let mut outcome = match self.estimator {
            Estimator::Erm | Estimator::Both => self.erm(previous)?,
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

    fn erm(&self, previous: Option<&Outcome>) -> Result<Outcome, Error> {
        let Self { model, options, .. } = self;
        let solved_before = previous.and_then(|outcome| outcome.pretrain.as_ref());
        let pretrain = match (&self.pretrain, solved_before) {
            (Some(pretraining), Some(before)) => {
                Some(pretrain::solve_from(model, &pretraining.training()?, options, before)?)
            }
            (Some(pretraining), None) => Some(pretrain::solve(model, &pretraining.training()?, options)?),
            (None, _) => None,
        };
        let frozen = match &pretrain {
            Some(solution) => solution.status.is_success().then(|| solution.freeze()),
            None => self.frozen,
        };
        let solved_before = previous.and_then(|outcome| outcome.lora.as_ref());
        let mut outcome = Outcome { pretrain, ..Outcome::default() };
        match (&self.lora, frozen) {
            (Some(finetuning), Some(frozen)) => {
                let training = finetuning.training()?;
                outcome.lora = Some(match solved_before {
                    Some(before) => lora::solve_from(model, &frozen, &training, options, before)?,
                    None => lora::solve(model, &frozen, &training, options)?,
                });
            }
            (Some(_), None) => outcome.lora_skipped = Some(Skipped::PretrainNotConverged),
            (None, _) => {}
        }
        Ok(outcome)
    }

    fn bound(&self) -> Result<Bound, Error> {
        let pretrain = match &self.pretrain {
            Some(pretraining) => {
                Some(pretrain::bayes_optimal(&self.model, pretraining.alpha, &self.options)?)
            }
            None => None,
        };
        let frozen = match &pretrain {
            Some(solution) => solution.status.is_success().then(|| solution.freeze()),
            None => self.frozen,
        };
        let mut bound = Bound { pretrain, ..Bound::default() };
        match (&self.lora, frozen) {
            (Some(finetuning), Some(frozen)) => {
                let Finetuning { alpha, q0, .. } = *finetuning;
                bound.lora = Some(lora::bayes_optimal(&self.model, &frozen, alpha, q0, &self.options)?);
            }
            (Some(_), None) => bound.lora_skipped = Some(Skipped::PretrainNotConverged),
            (None, _) => {}
        }
        Ok(bound)
    }
}

/// The Bayes-optimal estimator has no ridge.
fn refuse_ridge(field: &'static str, lambda: Option<f64>) -> Result<(), Error> {
    match lambda {
        Some(_) => Err(Error::Conflict { field, with: "estimator = bayes_optimal" }),
        None => Ok(()),
    }
}
