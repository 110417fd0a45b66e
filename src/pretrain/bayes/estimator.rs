//! The estimator on a given number of sequences, and its threshold of perfect recovery.

use super::solution::{PretrainingBayesErrors, PretrainingBayesOrder, PretrainingBayesSolution};
use crate::attention::Attention;
use crate::channel::LogitsLaw;
use crate::check;
use crate::error::Error;
use crate::memory::Workload;
use crate::model::{Model, Specialisation};
use crate::observables;
use crate::options::Options;
use crate::parallel;
use crate::pretrain::linear_error::linear_error;
use crate::roots::{self, End};
use crate::spectrum::{Posterior, TeacherSpectrum};
use crate::status::Status;
use crate::std_error::{StdError, standard_error};

/// Largest `snr = sqrt(Qhat)` that is tried. Without label noise, `Qhat` diverges at the threshold of perfect
/// recovery.
const LARGEST_SNR: f64 = 1e12;

/// `alpha_c = (1 - sum_i p_i^2)/(c K')`, where the sum runs over the atoms `p_i` of the teacher's spectrum, and `c` is 2 for tied attention
/// and 1 for cross-attention, whose spectrum has the singular values and their negatives.
/// Above this number of sequences (in units of `D^2`) the Bayes-optimal estimator recovers `S*` perfectly if
/// the labels have no noise. For a Wishart teacher `alpha_c` is `(kappa0 - kappa0^2/2)/K'` if `kappa0 <= 1`,
/// else `1/(2K')`; it is `(2 kappa0 - kappa0^2)/K'` or `1/K'` for cross-attention. It does not depend on `model.delta`. It is infinite if the activation sees no coordinate
/// of the logits.
///
/// # Errors
/// [`Error::InvalidParameter`] for an activation that is not invertible; [`Error::MissingField`] for a model
/// without a teacher.
pub fn alpha_perfect_recovery(model: &Model) -> Result<f64, Error> {
    model.require_invertible()?;
    Ok(perfect_recovery(model, model.teacher_spectrum()?.as_ref()))
}

fn perfect_recovery(model: &Model, teacher: &dyn TeacherSpectrum) -> f64 {
    teacher.orbit_dimension() / model.attention().logit_variance() / model.observed_coordinates()
}

/// The Bayes-optimal estimator on `alpha D^2` sequences. The order parameters are exact to 1e-11 or better.
/// The least errors are in closed form for linear attention, by quadrature for softmax with two or three tokens, and averages by
/// quasi-Monte-Carlo otherwise.
/// Of the options, nodes, scrambles and seed matter for these averages, and the tolerance matters for
/// the status.
///
/// ```
/// use lora_asymptotics::{Model, Options, Teacher, pretrain};
///
/// let model = Model::linear(1, 0.5)?.with_teacher(Teacher::Wishart { kappa0: 1.0 })?;
/// let bound = pretrain::bayes_optimal(&model, 0.5, &Options::default())?;
/// assert!((bound.order.q - 1.688_747_016_180_254_7).abs() < 1e-11);
/// # Ok::<(), lora_asymptotics::Error>(())
/// ```
///
/// # Errors
/// [`Error::InvalidParameter`] or [`Error::MissingField`] for an invalid input, among them an
/// activation that is not invertible; [`Error::TooMuchMemory`] for more nodes than 2 GiB can hold; [`Error::Threads`] if the
/// global thread pool cannot be started (not for linear attention).
pub fn bayes_optimal(
    model: &Model,
    alpha: f64,
    options: &Options,
) -> Result<PretrainingBayesSolution, Error> {
    check::positive("pretrain.alpha", alpha)?;
    Workload::PretrainingBound.check(model, options)?;
    let teacher = model.teacher_spectrum()?;
    let (q0, variance) = (teacher.second_moment(), teacher.variance());
    let variance_per_logit = model.attention().logit_variance();
    let alpha_c = (model.delta() <= 0.0).then(|| perfect_recovery(model, teacher.as_ref()));
    let found = if alpha_c.is_some_and(|threshold| alpha >= threshold) || variance <= 0.0 {
        // Nothing is left to learn: all of s* is known, from the data or from the start.
        SnrRoot { snr: f64::INFINITY, overlap: q0, mse: 0.0, residual: 0.0, evaluations: 0 }
    } else {
        search(
            teacher.as_ref(),
            variance_per_logit * alpha * model.observed_coordinates(),
            model.delta() / variance_per_logit,
        )
    };
    let (errors, std_error) = errors(model, &found, options)?;
    let status = if ![found.overlap, found.mse, errors.test, errors.test_clean].iter().all(|x| x.is_finite())
    {
        Status::NonFinite
    } else if found.residual <= options.accuracy().aim(0.0) {
        Status::Converged
    } else {
        Status::Stalled
    };
    Ok(PretrainingBayesSolution {
        attention: model.attention(),
        order: PretrainingBayesOrder { q: found.overlap, q_hat: found.snr * found.snr },
        q0,
        errors,
        alignment: observables::alignment(found.overlap, found.overlap, q0),
        alpha_c,
        status,
        residual: found.residual,
        iterations: found.evaluations,
        std_error,
    })
}

/// A solution of the equation for `snr = sqrt(Qhat)`.
struct SnrRoot {
    snr: f64,
    overlap: f64,
    /// `Q0 - Q_BO`.
    mse: f64,
    residual: f64,
    evaluations: usize,
}

/// The root of `risk(snr) + snr^2 noise = budget`, with `noise = Delta/c` and `budget = c alpha K'`.
fn search(teacher: &dyn TeacherSpectrum, budget: f64, noise: f64) -> SnrRoot {
    let mut evaluations = 0;
    let mut last: Option<(f64, Posterior)> = None;
    let mut excess = |log_snr: f64| {
        evaluations += 1;
        let snr = log_snr.exp();
        let posterior = teacher.posterior(snr);
        last = Some((snr, posterior));
        ((posterior.risk + snr * snr * noise) / budget).ln()
    };
    // The bound risk <= snr^2 variance gives a lower bound on the root, and snr^2 noise <= budget gives an
    // upper one.
    let lowest = 0.5 * (budget / (teacher.variance() + noise)).ln();
    let highest = (0.5 * (budget / noise).ln()).min(LARGEST_SNR.ln()).max(lowest);
    let mut low = End { x: lowest, f: excess(lowest) };
    let mut step = 0.25;
    let root = loop {
        if low.x >= highest || low.f >= 0.0 {
            break low.x;
        }
        let x = (low.x + step).min(highest);
        let next = End { x, f: excess(x) };
        // The test is not `next.f >= 0` alone, because a NaN would then never end the loop.
        if next.f.is_nan() || next.f >= 0.0 {
            break roots::bracketed(low, next, 1e-15, 1.0, &mut excess);
        }
        low = next;
        step *= 2.0;
    };
    let residual = excess(root).abs();
    let (snr, Posterior { overlap, risk }) =
        last.unwrap_or((f64::NAN, Posterior { overlap: f64::NAN, risk: f64::NAN }));
    SnrRoot { snr, overlap, mse: risk / (snr * snr), residual, evaluations }
}

/// The least errors and their standard errors.
fn errors(
    model: &Model,
    found: &SnrRoot,
    options: &Options,
) -> Result<(PretrainingBayesErrors, StdError), Error> {
    let SnrRoot { overlap, mse, .. } = *found;
    if model.specialisation() == Specialisation::Linear {
        let error = |noise| linear_error(model, mse + noise);
        let noise = model.delta() / model.attention().logit_variance();
        return Ok((
            PretrainingBayesErrors { test: error(noise), test_clean: error(0.0) },
            StdError::default(),
        ));
    }
    let variance = model.attention().logit_variance();
    let law = |noise| LogitsLaw {
        known: variance * overlap,
        unknown: variance * mse + noise,
        perturbation: 0.0,
        overlap: 0.0,
    };
    let [noisy, clean] = [model.delta(), 0.0].map(law);
    if model.specialisation() == Specialisation::Softmax && model.attention() == Attention::Tied {
        // Where the errors are exact, nothing is sampled, and no threads are needed.
        let replicas = model.two_replicas(false, options)?;
        if let Some([test, test_clean]) = replicas.by_quadrature(&[noisy, clean]) {
            return Ok((PretrainingBayesErrors { test, test_clean }, StdError::default()));
        }
    }
    parallel::in_pool(|| {
        let replicas = model.two_replicas(false, options)?;
        let average = |law: &LogitsLaw| {
            let all: Vec<f64> =
                (0..options.scrambles()).map(|scramble| replicas.error(scramble, law)).collect();
            let mean = all.iter().sum::<f64>() / all.len() as f64;
            (mean, standard_error(all.iter().copied()).filter(|error| *error > 0.0))
        };
        let ((test, test_error), (test_clean, clean_error)) = (average(&noisy), average(&clean));
        let std_error = StdError { test: test_error, test_clean: clean_error, ..StdError::default() };
        Ok((PretrainingBayesErrors { test, test_clean }, std_error))
    })
}
