//! Fine-tuning at a finite dimension: the coefficients of `D^{-1/2}` by linear response at the fixed point of the limit.
//!
//! The fixed point `theta = (m, s, v)` with `s^2 = q - m^2/q0` solves `E(theta, eps) = 0` with
//!
//! ```text
//! E = (m r - mhat q0,  s^2 r^2 - qhat,  v r - 1),    r = vhat + 2 lambda' + 2 eta,
//! ```
//!
//! so that its derivative along `eps = D^{-1/2}` is one linear solve, `theta_1 = -(dE/dtheta)^{-1} dE/deps`. All derivatives are averages over the
//! same samples (see [`crate::losses`]). The train objective is the free energy at its stationary point, so that its derivative is
//! `alpha'` times that of the mean minimum at fixed order parameters.

use nalgebra::{DMatrix, DVector};

use super::fit;
use super::solution::FiniteSize;
use super::training::Finetuning;
use super::units::Units;
use crate::error::Error;
use crate::fields::{JointLaw, Sequences};
use crate::frozen::{Frozen, ThirdMoments};
use crate::losses::by_parts;
use crate::losses::vector::VectorOverlaps;
use crate::losses::vector::finite_size::{
    FieldShifts, FirstOrderAverages, TestSlopes, TrainingLaw, direction, moment, test_slopes,
};
use crate::losses::vector::general::PerturbedLayer;
use crate::model::{Model, Specialisation};
use crate::observables::{self, WeightOverlaps};
use crate::options::Options;
use crate::std_error::{Named, StdError};

/// Checks that the coefficients of this training are known, if the options ask for them. The moments of the frozen weights are checked if there are
/// frozen weights yet.
///
/// # Errors
/// [`Error::Conflict`] for cross-attention, for several columns and for selected sequences, and [`Error::MissingField`] if a moment of the frozen weights is not given.
#[cfg(feature = "scenario")]
pub(crate) fn check_finite_size(
    model: &Model,
    training: &Finetuning,
    frozen: Option<&Frozen>,
    options: &Options,
) -> Result<(), Error> {
    if !options.finite_size() {
        return Ok(());
    }
    match frozen {
        Some(frozen) => required_moments(model, training, frozen, options).map(drop),
        None => check_training(model, training),
    }
}

/// The third moments of the frozen weights, if the options ask for the coefficients of this training.
pub(super) fn required_moments(
    model: &Model,
    training: &Finetuning,
    frozen: &Frozen,
    options: &Options,
) -> Result<Option<ThirdMoments>, Error> {
    if !options.finite_size() {
        return Ok(None);
    }
    check_training(model, training)?;
    // Frozen weights without a response do not know the sequences.
    let reused = training.sequences() == Sequences::Reused && frozen.v().is_some_and(|v| v > 0.0);
    frozen.third_moments(reused).map(Some)
}

/// Refuses trainings for which the coefficients are not known.
fn check_training(model: &Model, training: &Finetuning) -> Result<(), Error> {
    fit::require_tied(model, "options.finite_size")?;
    training.require_rank_one("options.finite_size")?;
    match training.sequences() {
        Sequences::Active(_) => {
            Err(Error::Conflict { field: "lora.sequences = active", with: "options.finite_size" })
        }
        Sequences::Fresh | Sequences::Reused => Ok(()),
    }
}

/// `log2` of the number of nodes in a node of the solve: the derivatives have smaller relative errors than differences, and need fewer nodes.
const FEWER_NODES: usize = 1;
/// The same for linear attention, whose solve has a closed form of the proximal point.
const FEWER_NODES_OF_LINEAR: usize = 2;
/// Smallest `log2` of the number of nodes.
const FEWEST: usize = 6;

/// `q/q0` above which the norm of the weights is the unit, in place of that of the truth.
const MUCH_LARGER: f64 = 100.0;

/// A fine-tuning whose coefficients are wanted.
pub(super) struct FiniteSizeProblem<'a> {
    pub(super) model: &'a Model,
    pub(super) frozen: &'a Frozen,
    pub(super) third: &'a ThirdMoments,
    pub(super) training: &'a Finetuning,
    pub(super) options: &'a Options,
}

/// The coefficients at a fixed point, which is given in the units `found_units`.
pub(super) fn coefficients(
    problem: &FiniteSizeProblem<'_>,
    found: &VectorOverlaps,
    found_units: &Units,
) -> Result<FiniteSize, Error> {
    let FiniteSizeProblem { model, frozen, third, training, options } = *problem;
    let fewer = match model.specialisation() {
        Specialisation::Linear => FEWER_NODES_OF_LINEAR,
        Specialisation::Softmax | Specialisation::General => FEWER_NODES,
    };
    let nodes = options.log2_nodes().saturating_sub(fewer).max(FEWEST);
    let options = options.with_log2_nodes(nodes)?;
    let fields = training.fields();
    // The weights may have learned noise that is much larger than the truth. Then they are the scale of the proximal points.
    let scale = if found.q() > MUCH_LARGER { found.q() } else { 1.0 };
    let units = Units { q0: fields.q0 * scale, loss: 1.0 };
    let temperature = model.inverse_temperature();
    let coupling = temperature * units.q0;
    let layer = PerturbedLayer {
        form: model.known_derivatives(),
        truth: vec![1.0 / scale],
        ..PerturbedLayer::of_rank_one(model, coupling)
    };
    let point = VectorOverlaps {
        m: found.m / scale.sqrt(),
        s2: found.s2 / scale,
        v: found.v / found_units.stiffness() * units.stiffness(),
    };
    let law = JointLaw::new(model, frozen, &fields);
    let shifts = FieldShifts::new(frozen, third, model.delta(), temperature);
    let training_law = TrainingLaw { layer: &layer, law: &law, shifts: &shifts, point };
    let linear = model.specialisation() == Specialisation::Linear;
    let clean_shifts = FieldShifts::new(frozen, third, 0.0, temperature);
    let clean_law = law.of_noiseless_labels();
    let mut own = Vec::with_capacity(options.scrambles());
    for scramble in 0..options.scrambles() {
        let averages = training_law.averages(&options, scramble)?;
        let errors = if linear {
            [TestSlopes::default(); 2]
        } else {
            let slopes = |law: &JointLaw, shifts: &FieldShifts| {
                test_slopes(&layer, law, shifts, &point, &options, scramble)
            };
            [slopes(&law, &shifts)?, slopes(&clean_law, &clean_shifts)?]
        };
        own.push((averages, errors));
    }
    let observe = |averages: &FirstOrderAverages, errors: &[TestSlopes; 2]| {
        let equations = FirstOrderEquations {
            alpha: training.alpha(),
            lambda: units.scaled_ridge(training.ridge()),
            tokens: model.tokens() as f64,
            point,
        };
        let [m, s] = equations.response(averages);
        let deviation = point.deviation();
        let q = 2.0 * (point.m * m + deviation * s);
        let objective = training.alpha() * averages.envelope;
        let [test, test_clean] = errors.map(|error| {
            let [eps, along_m, along_s] = error.tuned;
            eps + along_m * m + along_s * s
        });
        let coefficients = FiniteSize {
            q: units.q0 * q,
            m: units.q0 / scale.sqrt() * m,
            alignment: if point.m > 0.0 {
                // The derivative of m/sqrt(m^2 + s^2).
                deviation * (deviation * m - point.m * s) / point.q().powf(1.5)
            } else {
                0.0
            },
            objective,
            test,
            test_clean,
            train: (objective - training.ridge() * units.q0 * q) / training.alpha(),
            frozen: errors[0].frozen,
            std_error: StdError::default(),
        };
        if linear { problem.with_closed_form_errors(coefficients, found) } else { coefficients }
    };
    let named: Vec<Named> = own.iter().map(|(averages, errors)| observe(averages, errors).named()).collect();
    let (averages, errors): (Vec<FirstOrderAverages>, Vec<[TestSlopes; 2]>) = own.into_iter().unzip();
    let mean_error = |k: usize| TestSlopes::mean(&errors.iter().map(|own| own[k]).collect::<Vec<_>>());
    let common = observe(&FirstOrderAverages::mean(&averages), &[mean_error(0), mean_error(1)]);
    Ok(FiniteSize { std_error: StdError::over(&named), ..common })
}

impl FiniteSizeProblem<'_> {
    /// The coefficients with those of the errors of linear attention on new sequences in closed form.
    fn with_closed_form_errors(&self, coefficients: FiniteSize, point: &VectorOverlaps) -> FiniteSize {
        let q0 = self.training.unit();
        let tuned = WeightOverlaps { q0, q: q0 * point.q(), m: q0 * point.m };
        let untuned = WeightOverlaps { q0, q: 0.0, m: 0.0 };
        let trace = self.third.traces[1] - self.training.beta() * self.third.traces[0];
        let error = |weights: &WeightOverlaps, [q, m]: [f64; 2]| {
            observables::linear_finetuning_error_slope(self.model.tokens(), trace, weights, [q, m])
        };
        let test = error(&tuned, [coefficients.q, coefficients.m]);
        FiniteSize { test, test_clean: test, frozen: error(&untuned, [0.0; 2]), ..coefficients }
    }
}

/// The equations of the fixed point, in units of `q0` or of `q`, whichever is the unit of the averages.
struct FirstOrderEquations {
    alpha: f64,
    lambda: f64,
    tokens: f64,
    point: VectorOverlaps,
}

impl FirstOrderEquations {
    /// The derivatives of `m` and `s` along `eps`. Both are 0 for weights that vanish, and that of `m` is for weights without an overlap, because the
    /// equations do not change under `m -> -m`.
    fn response(&self, averages: &FirstOrderAverages) -> [f64; 2] {
        let unknown: &[usize] = if self.point.s2 <= 0.0 {
            return [0.0; 2];
        } else if self.point.m > 0.0 {
            &[direction::M, direction::S, direction::V]
        } else {
            &[direction::S, direction::V]
        };
        let slopes: Vec<[f64; 3]> = unknown.iter().map(|d| self.slopes(averages, *d)).collect();
        let eps = self.slopes(averages, direction::EPS);
        // Without an overlap, the first equation is empty.
        let first = 3 - unknown.len();
        let matrix = DMatrix::from_fn(unknown.len(), unknown.len(), |i, j| slopes[j][first + i]);
        let force = DVector::from_fn(unknown.len(), |i, _| -eps[first + i]);
        let solved = matrix.lu().solve(&force);
        let of = |wanted: usize| match (unknown.iter().position(|d| *d == wanted), &solved) {
            (Some(position), Some(solved)) => solved[position],
            (Some(_), None) => f64::NAN,
            (None, _) => 0.0,
        };
        [of(direction::M), of(direction::S)]
    }

    /// The derivatives of the three equations along a direction.
    fn slopes(&self, averages: &FirstOrderAverages, along: usize) -> [f64; 3] {
        let Self { alpha, tokens, point, .. } = *self;
        let VectorOverlaps { m, v, .. } = point;
        let s = point.deviation();
        let change = |d: usize| if along == d { 1.0 } else { 0.0 };
        let fit = |moments: &[f64; moment::COUNT]| {
            by_parts::slopes([moments[moment::FREE], moments[moment::STAR]], averages.seconds)
        };
        let [free, _] = fit(&averages.moments);
        let slopes = &averages.slopes[along];
        let [d_free, d_star] = fit(slopes);
        // The slope of g along omega at fixed chi*, and its change.
        let omega = free / s;
        let d_omega = (d_free - omega * change(direction::S)) / s;
        let d_v_hat = -alpha * tokens * d_omega;
        let d_m_hat = alpha * tokens * (d_star - m * d_omega - omega * change(direction::M));
        let d_r = d_v_hat + 2.0 * alpha * slopes[moment::CENTRING];
        let r = self.curvature(omega, averages);
        [
            r * change(direction::M) + m * d_r - d_m_hat,
            2.0 * s * r * r * change(direction::S) + 2.0 * s * s * r * d_r
                - alpha * slopes[moment::GRADIENT2],
            r * change(direction::V) + v * d_r,
        ]
    }

    /// `r`, from the averages rather than from `1/v`, so that the error of the averages cancels in part.
    fn curvature(&self, omega: f64, averages: &FirstOrderAverages) -> f64 {
        let v_hat = -self.alpha * self.tokens * omega;
        v_hat + 2.0 * self.lambda + 2.0 * self.alpha * averages.moments[moment::CENTRING]
    }
}
