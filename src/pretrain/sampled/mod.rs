//! Attention with an activation that is not linear: the output channel is an average over proximal points, by
//! quasi-Monte-Carlo. What depends on the activation is behind the trait [`PretrainingLosses`], which each kernel
//! of `losses::matrix` implements.
//!
//! The inverse temperature `b` multiplies all logits, and the variance of a logit is `c Q` (see [`crate::Attention`]). With overlaps and `V`
//! multiplied by `b^2 c/2`, the output channel is that of logits of variance `2 Q`, and its averages are multiplied by
//! `b^2 c^2 alpha` to be conjugates.

mod equations;
mod starts;

use super::solution::{PretrainingErrors, PretrainingOrder, PretrainingSolution};
use super::training::Pretraining;
use super::validity::PretrainingValidity;
use crate::attention::Attention;
use crate::error::Error;
use crate::losses::matrix::{
    AtZero, Label, LabelErrors, LogitAverages, MatrixOverlaps, PretrainingLosses, general, rows, softmax,
    term,
};
use crate::model::{Model, Specialisation};
use crate::observables;
use crate::options::Options;
use crate::parallel;
use crate::spectrum::TeacherMatrix;
use crate::state_evolution::{Run, Solved, Tuning, mean};
use crate::status::Status;
use crate::std_error::{Named, StdError, standard_error};
use crate::threshold::Threshold;
use equations::SampledEquations;
use starts::PretrainingStarts;

/// Largest standard deviation of the label's logits, per coordinate, for which a fixed point is searched.
/// Beyond it the softmax is a step function, and the pull towards `omega` in the proximal problem is much
/// weaker than the steps. The descents then end before they reach a proximal point. The limit decides where
/// no numbers are given, and no number depends on it.
const STEEPEST: f64 = 1e5;

/// The averages over the losses, by the kernel for the activation.
fn output_channel(
    model: &Model,
    label: Label,
    options: &Options,
    tuning: &Tuning,
) -> Result<Box<dyn PretrainingLosses>, Error> {
    match (model.specialisation(), model.attention()) {
        (Specialisation::Softmax, Attention::Tied) => softmax::losses(model.tokens(), label, options, tuning),
        (Specialisation::Softmax, Attention::Cross) => rows::losses(model, label, options, tuning),
        (Specialisation::Linear | Specialisation::General, _) => {
            general::losses(model, label, options, tuning)
        }
    }
}

fn equations<'a>(model: &Model, training: &Pretraining, teacher: TeacherMatrix<'a>) -> SampledEquations<'a> {
    let steepness = model.inverse_temperature() * model.inverse_temperature();
    SampledEquations::new(teacher, training, steepness, model.observed_coordinates(), model.delta())
}

pub(super) fn lambda_collapse(
    model: &Model,
    training: &Pretraining,
    options: &Options,
    teacher: TeacherMatrix<'_>,
) -> Result<Threshold, Error> {
    let equations = equations(model, training, teacher);
    let zero = parallel::in_pool(|| {
        Ok(output_channel(model, equations.label, options, &Tuning::default())?.at_zero())
    })?;
    let threshold = |zero: &AtZero| equations.collapse_ridge(zero) / training.kappa().sqrt();
    Ok(Threshold::new(threshold(&mean(&zero)), standard_error(zero.iter().map(threshold))))
}

pub(super) fn solve(
    model: &Model,
    training: &Pretraining,
    options: &Options,
    teacher: TeacherMatrix<'_>,
    mut run: Run<'_, PretrainingSolution>,
) -> Result<PretrainingSolution, Error> {
    parallel::in_pool(|| {
        let equations = equations(model, training, teacher);
        let mut channel = output_channel(model, equations.label, options, &run.tuning)?;
        let zero = channel.at_zero();
        let collapse = equations.collapse_ridge(&mean(&zero));
        if collapse <= equations.ridge {
            return Ok(collapsed(&equations, channel.as_ref(), &zero));
        }
        if is_steep(&equations.label) {
            return Ok(PretrainingSolution::without_numbers(&teacher, 0));
        }
        let warm = run.previous.map(|solution| equations.point(&solution.order));
        let found = PretrainingStarts::new(channel.as_mut(), equations, options, warm)
            .accompanied(run.tuning, run.observer())
            .run(collapse)?;
        let Some(found) = found else {
            return Ok(PretrainingSolution::without_numbers(&teacher, 0));
        };
        let equations = SampledEquations { divergence: found.divergence, ..equations };
        solution(&equations, channel.as_ref(), &found.solved).checked_rank(training)
    })
}

/// Whether the label's logits are too large for the search in double precision.
fn is_steep(label: &Label) -> bool {
    label.deviation() > STEEPEST
}

/// The collapsed solution, `S-hat = 0`.
fn collapsed(
    equations: &SampledEquations<'_>,
    channel: &dyn PretrainingLosses,
    zero: &[AtZero],
) -> PretrainingSolution {
    let errors = channel.test_errors(&vec![MatrixOverlaps { m: 0.0, s2: 0.0, v: 0.0 }; zero.len()]);
    let observed = |zero: &AtZero, errors: &LabelErrors| {
        let [test, test_clean] = errors.all();
        let [q_hat, m_hat, v_hat] = equations.conjugates_at_zero(zero);
        PretrainingSolution {
            order: PretrainingOrder { q: 0.0, m: 0.0, v: 0.0, q_hat, m_hat, v_hat },
            trace: 0.0,
            rank_fraction: 0.0,
            objective: equations.alpha * test,
            errors: PretrainingErrors { test, test_clean, train: test },
            alignment: 0.0,
            // Weights that stay at zero do not respond, and every proximal point is where its field is.
            validity: PretrainingValidity::sampled(0.0, 0.0, true),
            divergence: Some(equations.divergence),
            status: Status::Collapsed,
            residual: 0.0,
            ..PretrainingSolution::without_numbers(&equations.teacher, 0)
        }
    };
    let own: Vec<Named> =
        zero.iter().zip(&errors).map(|(zero, errors)| observed(zero, errors).named()).collect();
    PretrainingSolution { std_error: StdError::over(&own), ..observed(&mean(zero), &mean(&errors)) }
}

fn solution(
    equations: &SampledEquations<'_>,
    channel: &dyn PretrainingLosses,
    found: &Solved<MatrixOverlaps, LogitAverages>,
) -> PretrainingSolution {
    // The factor of the weights in the replicon takes as long as many iterations, and is computed only once.
    // Its integrand is the square of that of the degrees of freedom V Vhat, so that the factor of a replicate
    // is taken to be proportional to the degrees of freedom of the replicate.
    let freedom = |order: &PretrainingOrder| order.v * order.v_hat;
    let per_freedom = equations
        .integrals(&found.point, &found.averages)
        .map_or(f64::NAN, |image| equations.weights(&image.order) / freedom(&image.order));
    let q0 = equations.teacher.second_moment();
    // Away from a fixed point, neither the gauges nor the error bars mean anything.
    let meaningful = matches!(found.status, Status::Converged | Status::NoiseLimited);
    let observed = |point: &MatrixOverlaps, averages: &LogitAverages, errors: &LabelErrors| {
        let [test, test_clean] = errors.all();
        let image = equations.integrals(point, averages)?;
        let weights = per_freedom * freedom(&image.order);
        let [q, m] = equations.overlaps(point);
        let train = averages[term::LOSS];
        let replicon = equations.replicon(&image.order, averages, weights);
        Some(PretrainingSolution {
            attention: equations.teacher.attention(),
            order: PretrainingOrder { q, m, v: point.v / equations.scale, ..image.order },
            q0,
            trace: image.trace,
            rank_fraction: image.rank_fraction,
            objective: equations.alpha * train + equations.penalty(&image),
            errors: PretrainingErrors { test, test_clean, train },
            alignment: observables::alignment(m, q, q0),
            moments: None,
            validity: PretrainingValidity::sampled(averages[term::CONTESTED], replicon, meaningful),
            divergence: Some(equations.divergence),
            status: found.status,
            residual: found.residual,
            iterations: found.iterations,
            std_error: StdError::default(),
        })
    };
    let errors = mean(&channel.test_errors(&vec![found.point; channel.scrambles()]));
    let common = observed(&found.point, &found.averages, &errors)
        .filter(|common| found.status != Status::NonFinite && common.named().has_numbers());
    let Some(common) = common else {
        return PretrainingSolution::without_numbers(&equations.teacher, found.iterations);
    };
    let own_points: Vec<MatrixOverlaps> = found.replicates.iter().map(|(point, _)| *point).collect();
    let own: Option<Vec<Named>> = found
        .replicates
        .iter()
        .zip(channel.test_errors(&own_points))
        .map(|((point, averages), errors)| Some(observed(point, averages, &errors)?.named()))
        .collect();
    let std_error = own.filter(|_| meaningful).map_or_else(StdError::default, |own| StdError::over(&own));
    PretrainingSolution { std_error, ..common }
}
