//! The part of fine-tuning that is odd under a change of the sign of the true and of the frozen weights.

use std::fmt;

use nalgebra::DMatrix;
use serde::{Deserialize, Serialize};

use super::batch::Source;
use super::comparison::{coefficient, finetuning_observables};
use super::finetuning;
use super::instance::Instance;
use super::laboratory::{Counts, Laboratory, check_memory};
use super::measurement::Finetuned;
use super::random::{self, Purpose, Streams};
use super::sequences::{NetworkWeights, Shape};
use super::statistics::Estimate;
use super::truth::Truth;
use crate::error::Error;
use crate::lora::{self, Sequences};
use crate::model::{Model, Specialisation};
use crate::nullable::number;
use crate::observables::gram_factor;
use crate::parallel;
use crate::pretrain::{self, Parametrisation};
use crate::scenario::{Estimator, Scenario};

/// An observable at one dimension, in trainings on weights of both signs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct OddRow {
    /// The dimension `D`.
    pub dimension: usize,
    /// Number of pairs of trainings.
    pub pairs: usize,
    /// The name of the observable, as in the schema.
    pub observable: String,
    /// The coefficient `x_1` of the theory. For the errors of linear attention on new sequences it has the factor of the Gram matrix of the tokens, which is
    /// known at every dimension (see [`linear_error_at`](crate::observables::linear_error_at)).
    pub theory: Estimate,
    /// `sqrt(D) (x(+) - x(-))/2`, which is `x_1 + O(1/D)`.
    pub simulation: Estimate,
    /// `(simulation - theory)`, divided by the two standard errors added in quadrature.
    #[serde(deserialize_with = "number")]
    pub z: f64,
}

/// All observables at all dimensions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct OddDifferences {
    /// One row per dimension and observable.
    pub rows: Vec<OddRow>,
    /// Number of trainings that ended before their gradient was below the tolerance.
    pub unconverged: usize,
}

impl OddDifferences {
    /// Root mean square of `z` over all rows with a standard error, NaN if there is none. Observables of the same pairs are correlated.
    #[must_use]
    pub fn rms_z(&self) -> f64 {
        let scores: Vec<f64> = self.rows.iter().map(|row| row.z).filter(|z| z.is_finite()).collect();
        (scores.iter().map(|z| z * z).sum::<f64>() / scores.len() as f64).sqrt()
    }
}

impl fmt::Display for OddDifferences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:>5} {:>5} {:>11} {:>9} {:>8} {:>9} {:>8} {:>6}",
            "D", "pairs", "observable", "theory", "+-", "odd part", "+-", "z"
        )?;
        for OddRow { dimension, pairs, observable, theory, simulation, z } in &self.rows {
            writeln!(
                f,
                "{dimension:5} {pairs:5} {observable:>11} {:9.4} {:8.4} {:9.4} {:8.4} {z:6.2}",
                theory.mean, theory.std_error, simulation.mean, simulation.std_error
            )?;
        }
        if self.unconverged > 0 {
            writeln!(f, "{} trainings did not converge", self.unconverged)?;
        }
        Ok(())
    }
}

/// Trains on frozen and true weights `(S-hat, S*)` and on `(-S-hat, -S*)`, with the same sequences, perturbation and noise, and compares the odd part
/// of every observable with the coefficients of `D^{-1/2}` (see [`lora::FiniteSize`]), which are its leading order:
///
/// ```text
/// sqrt(D) (x(+) - x(-))/2 = x_1 + O(1/D).
/// ```
///
/// The limit and the `1/D` terms drop out, and so does most of the scatter. The frozen weights are drawn from their law in the limit: `S-hat =
/// sqrt(D) f(Y)` with `Y = Mhat s* + sqrt(Qhat) Z` for a matrix `Z` of the given dimension, without any training. The sizes of the laboratory are the
/// dimensions, with the numbers of pairs of trainings as their instances.
///
/// # Errors
/// [`Error::Conflict`] for the Bayes-optimal estimator, for direct training, and unless fine-tuning is on fresh sequences; [`Error::MissingField`] unless the scenario has both stages. The errors of [`Laboratory::validate`] and [`Scenario::solve`], with
/// [finite_size](crate::Options::finite_size); [`Error::InvalidParameter`] for a size at which the numbers of sequences are not integers, or that would
/// take more memory than allowed; [`Error::NotConverged`] if the theory has no prediction; [`Error::Threads`] if the global thread pool cannot be started.
pub fn odd_differences(scenario: &Scenario, laboratory: &Laboratory) -> Result<OddDifferences, Error> {
    laboratory.validate()?;
    let mut scenario = scenario.clone();
    scenario.options = scenario.options.with_finite_size(true);
    scenario.validate()?;
    if scenario.estimator == Estimator::BayesOptimal {
        return Err(Error::Conflict { field: "estimator = bayes_optimal", with: "a laboratory" });
    }
    let reason =
        "odd differences are those of fine-tuning on weights that are drawn as pre-training would give them";
    let missing = |field| Error::MissingField { field, reason };
    let pretraining = scenario.pretrain.ok_or(missing("pretrain"))?;
    let training = scenario.lora.ok_or(missing("lora"))?;
    if training.sequences() != Sequences::Fresh {
        return Err(Error::Conflict { field: "lora.sequences", with: "odd differences" });
    }
    if pretraining.parametrisation() == Parametrisation::Direct {
        // The weights are drawn as products of factors, and those of direct training have eigenvalues of both signs.
        return Err(Error::Conflict { field: "pretrain.parametrisation = direct", with: "odd differences" });
    }
    check_memory(&scenario, laboratory, true, parallel::threads()?)?;
    let truth = Truth::new(&scenario.model)?;
    for size in &laboratory.sizes {
        Counts::new(&scenario, size.dimension, false)?;
        truth.check(scenario.model.attention(), size.dimension)?;
    }
    let outcome = scenario.solve()?;
    let solution = outcome.pretrain.ok_or(missing("pretrain"))?.into_converged()?;
    let tuned = outcome.lora.ok_or(missing("lora"))?.into_converged()?;
    let law = FrozenLaw { truth, solution: &solution, threshold: threshold(&pretraining) };
    let sizes = laboratory.sizes.iter();
    let wanted: Vec<[usize; 2]> =
        sizes.flat_map(|size| (0..size.instances).map(|pair| [size.dimension, pair])).collect();
    let pair = |index: usize| -> Result<[Finetuned; 2], Error> {
        let [dimension, instance] = wanted[index];
        let counts = Counts::new(&scenario, dimension, true)?.finetuning().unwrap_or_default();
        let one = Instance {
            model: &scenario.model,
            laboratory,
            streams: Streams { seed: laboratory.seed, dimension, instance },
            shape: Shape { dimension, tokens: scenario.model.tokens() },
        };
        let weights = law.draw(&one)?;
        Ok([1.0, -1.0].map(|sign| {
            let [teacher, student] = weights.each_ref().map(|weights| signed(weights, sign));
            let source = Source::Weights { teacher: &teacher, student: &student.into(), data: None };
            finetuning::run(&one, &training, &source, counts)
        }))
    };
    let pairs = parallel::flat(wanted.len(), &pair).into_iter().collect::<Result<Vec<_>, Error>>()?;
    let mut rows = Vec::new();
    for size in &laboratory.sizes {
        let here: Vec<&[Finetuned; 2]> = wanted
            .iter()
            .zip(&pairs)
            .filter(|([d, _], _)| *d == size.dimension)
            .map(|(_, pair)| pair)
            .collect();
        rows.extend(compared(&scenario.model, &tuned, size.dimension, &here));
    }
    let runs = pairs.iter().flatten().flat_map(|one| &one.runs);
    Ok(OddDifferences { rows, unconverged: runs.filter(|run| !run.converged).count() })
}

/// The rows of one dimension.
fn compared<'a>(
    model: &'a Model,
    tuned: &'a lora::Solution,
    dimension: usize,
    pairs: &'a [&[Finetuned; 2]],
) -> impl Iterator<Item = OddRow> + 'a {
    let root = (dimension as f64).sqrt();
    finetuning_observables(tuned).into_iter().filter_map(move |(name, _, read)| {
        let Estimate { mean, std_error } = coefficient(tuned, name)?;
        let on_new_sequences = matches!(name, "test" | "test_clean" | "frozen");
        let factor = match model.specialisation() {
            Specialisation::Linear if on_new_sequences => gram_factor(model.tokens(), dimension),
            _ => 1.0,
        };
        let theory = Estimate { mean: factor * mean, std_error: factor * std_error };
        let odd: Vec<f64> =
            pairs.iter().map(|[plus, minus]| 0.5 * root * (read(plus) - read(minus))).collect();
        let simulation = Estimate::of(&odd);
        let z = (simulation.mean - theory.mean) / simulation.std_error.hypot(theory.std_error);
        Some(OddRow { dimension, pairs: odd.len(), observable: name.to_owned(), theory, simulation, z })
    })
}

/// Where the soft threshold of pre-training begins, `2 lambda sqrt(kappa)`.
fn threshold(training: &pretrain::Training) -> f64 {
    2.0 * training.lambda().unwrap_or(0.0) * training.kappa().sqrt()
}

/// Weights with a sign.
fn signed(weights: &NetworkWeights, sign: f64) -> NetworkWeights {
    NetworkWeights { factor: weights.factor.clone(), scale: sign * weights.scale }
}

/// The law of true and frozen weights.
struct FrozenLaw<'a> {
    truth: Truth,
    solution: &'a pretrain::Solution,
    threshold: f64,
}

impl FrozenLaw<'_> {
    /// Draws true and frozen weights.
    fn draw(&self, instance: &Instance<'_>) -> Result<[NetworkWeights; 2], Error> {
        let dimension = instance.shape.dimension;
        let root = (dimension as f64).sqrt();
        let teacher = self.truth.draw(dimension, &mut instance.streams.stream(Purpose::Teacher))?;
        let noise =
            random::gaussian(&mut instance.streams.stream(Purpose::FrozenNoise), dimension, dimension);
        let order = &self.solution.order;
        // (A + A^T)/sqrt(2 D) has the entries of the Gaussian orthogonal ensemble.
        let noise = (&noise + noise.transpose()) * (order.q_hat.sqrt() / (root * 2.0_f64.sqrt()));
        let y = teacher.matrix() * (order.m_hat / root) + noise;
        // The search for the eigenvalues of a matrix with a NaN would never end.
        if !y.iter().all(|entry| entry.is_finite()) {
            return Err(Error::invalid(
                "model.teacher",
                "weights that overflow",
                "weights of finite numbers",
            ));
        }
        let y = y.symmetric_eigen();
        let learned = |y: f64| ((y - self.threshold).max(0.0) / order.v_hat * root).sqrt();
        let scales = y.eigenvalues.map(learned);
        let factor = DMatrix::from_fn(dimension, dimension, |i, k| y.eigenvectors[(i, k)] * scales[k]);
        Ok([teacher, NetworkWeights { factor, scale: 1.0 }])
    }
}
