//! Softmax attention: the output channel is an average over proximal points, by quasi-Monte-Carlo.
//!
//! The inverse temperature `b` multiplies all logits: with overlaps and `V` multiplied by `b^2` the output channel is that of
//! `b = 1`, and its conjugates are multiplied by `b^2`.

mod equations;
mod nodes;
mod search;

use super::solution::{Errors, Order, Solution};
use super::training::Training;
use super::validity::Validity;
use crate::error::Error;
use crate::model::Model;
use crate::observables;
use crate::options::Options;
use crate::spectrum::TeacherSpectrum;
use crate::status::Status;
use crate::std_error::{StdError, standard_error};
use crate::threshold::Threshold;
use equations::{Equations, contested, mean};
use nodes::{Label, Nodes, OutputChannel, Point};
use search::{Found, Search};

fn output_channel(tokens: usize, label: Label, options: &Options) -> Result<Box<dyn OutputChannel>, Error> {
    Ok(match tokens {
        2 => Box::new(Nodes::<2, 3>::new(label, options)?),
        3 => Box::new(Nodes::<3, 6>::new(label, options)?),
        4 => Box::new(Nodes::<4, 10>::new(label, options)?),
        5 => Box::new(Nodes::<5, 15>::new(label, options)?),
        6 => Box::new(Nodes::<6, 21>::new(label, options)?),
        7 => Box::new(Nodes::<7, 28>::new(label, options)?),
        8 => Box::new(Nodes::<8, 36>::new(label, options)?),
        _ => return Err(Error::invalid("model.tokens", tokens, "between 2 and 8")),
    })
}

fn equations<'a>(model: &Model, training: &Training, teacher: &'a dyn TeacherSpectrum) -> Equations<'a> {
    let scale = model.inverse_temperature() * model.inverse_temperature();
    Equations::new(teacher, training, scale, model.observed_coordinates(), model.delta())
}

pub(super) fn lambda_collapse(
    model: &Model,
    training: &Training,
    options: &Options,
    teacher: &dyn TeacherSpectrum,
) -> Result<Threshold, Error> {
    let equations = equations(model, training, teacher);
    let zero = output_channel(model.tokens(), equations.label, options)?.at_zero();
    let threshold = |zero: &[f64; 3]| equations.collapse_ridge(zero) / training.kappa().sqrt();
    Ok(Threshold::new(threshold(&mean(&zero)), standard_error(zero.iter().map(threshold))))
}

pub(super) fn solve(
    model: &Model,
    training: &Training,
    options: &Options,
    teacher: &dyn TeacherSpectrum,
    previous: Option<&Order>,
) -> Result<Solution, Error> {
    // Enter the thread pool once, not at each of the many short parallel loops.
    rayon_core::scope(|_| {
        let equations = equations(model, training, teacher);
        let mut channel = output_channel(model.tokens(), equations.label, options)?;
        let zero = channel.at_zero();
        let collapse = equations.collapse_ridge(&mean(&zero));
        if collapse <= equations.ridge {
            return Ok(collapsed(&equations, channel.as_ref(), &zero));
        }
        let warm = previous.map(|order| equations.point(order));
        let mut search = Search { channel: channel.as_mut(), equations, options, warm, iterations: 0 };
        let found = search.run(collapse);
        let Search { equations, iterations, .. } = search;
        let found = match found {
            // The parameters are so extreme that there is no first iterate in double precision.
            Err(Error::InvalidParameter { field: "start", .. }) => {
                return Ok(Solution::without_numbers(teacher.second_moment(), iterations));
            }
            found => found?,
        };
        let solution = solution(&equations, channel.as_ref(), &found, iterations);
        // Only a solution has a learned rank to refuse. The allowance is for rounding.
        let Solution { rank_fraction, .. } = solution;
        if found.status.is_success() && rank_fraction > training.kappa() * (1.0 + 1e-12) {
            return Err(Error::RankDoesNotFit { kappa: training.kappa(), rank_fraction });
        }
        Ok(solution)
    })
}

/// `S-hat = 0`.
fn collapsed(equations: &Equations<'_>, channel: &dyn OutputChannel, zero: &[[f64; 3]]) -> Solution {
    let errors = channel.test_errors(&vec![Point { m: 0.0, s2: 0.0, v: 0.0 }; zero.len()]);
    let observed = |zero: &[f64; 3], [test, test_clean]: [f64; 2]| {
        let [q_hat, m_hat, v_hat] = equations.conjugates_at_zero(zero);
        Observed {
            order: Order { q: 0.0, m: 0.0, v: 0.0, q_hat, m_hat, v_hat },
            trace: 0.0,
            rank_fraction: 0.0,
            objective: equations.alpha * test,
            errors: Errors { test, test_clean, train: test },
            alignment: 0.0,
            // Weights that stay at zero do not respond, and no proximal point is anywhere else.
            gauges: [0.0; 2],
        }
    };
    let own: Vec<Observed> = zero.iter().zip(&errors).map(|(zero, errors)| observed(zero, *errors)).collect();
    Solution {
        status: Status::Collapsed,
        std_error: std_error(&own),
        ..observed(&mean(zero), mean(&errors)).into_solution(equations, true)
    }
}

/// Everything that is reported, and that most of has a standard error.
struct Observed {
    order: Order,
    trace: f64,
    rank_fraction: f64,
    objective: f64,
    errors: Errors,
    alignment: f64,
    /// The fraction of samples with several minima, and the replicon.
    gauges: [f64; 2],
}

impl Observed {
    fn is_finite(&self) -> bool {
        let Order { q, m, v, q_hat, m_hat, v_hat } = self.order;
        let Errors { test, test_clean, train } = self.errors;
        let numbers = [q, m, v, q_hat, m_hat, v_hat, test, test_clean, train, self.objective, self.trace];
        numbers.iter().all(|x| x.is_finite())
    }

    fn into_solution(self, equations: &Equations<'_>, solved: bool) -> Solution {
        let [contested, replicon] = self.gauges;
        Solution {
            order: self.order,
            q0: equations.teacher.second_moment(),
            trace: self.trace,
            rank_fraction: self.rank_fraction,
            objective: self.objective,
            errors: self.errors,
            alignment: self.alignment,
            validity: Validity::softmax(contested, replicon, solved),
            divergence: Some(equations.divergence),
            status: Status::Converged,
            residual: 0.0,
            iterations: 0,
            std_error: StdError::default(),
        }
    }
}

fn solution(
    equations: &Equations<'_>,
    channel: &dyn OutputChannel,
    found: &Found,
    iterations: usize,
) -> Solution {
    let count = found.replicates.len();
    // The part of the weights in the replicon takes as long as many iterations. That of a replicate differs from the common one like the
    // degrees of freedom V Vhat, of which it is the second moment.
    let freedom = |order: &Order| order.v * order.v_hat;
    let per_freedom = equations
        .image(&found.point, &found.averages)
        .map_or(f64::NAN, |image| equations.weights(&image.order) / freedom(&image.order));
    let observed = |point: &Point, averages, [test, test_clean]: [f64; 2]| {
        let image = equations.image(point, averages)?;
        let weights = per_freedom * freedom(&image.order);
        let [q, m] = equations.overlaps(point);
        let train = averages[8];
        Some(Observed {
            order: Order { q, m, v: point.v / equations.scale, ..image.order },
            trace: image.trace,
            rank_fraction: image.rank_fraction,
            objective: equations.alpha * train + equations.ridge * image.trace,
            errors: Errors { test, test_clean, train },
            alignment: observables::alignment(m, q, equations.teacher.second_moment()),
            gauges: [contested(averages), equations.replicon(&image.order, averages, weights)],
        })
    };
    let errors = mean(&channel.test_errors(&vec![found.point; count]));
    let common = observed(&found.point, &found.averages, errors).filter(Observed::is_finite);
    let Some(common) = common.filter(|_| found.status != Status::NonFinite) else {
        return Solution::without_numbers(equations.teacher.second_moment(), iterations);
    };
    let own_points: Vec<Point> = found.replicates.iter().map(|(point, _)| *point).collect();
    let own: Option<Vec<Observed>> = found
        .replicates
        .iter()
        .zip(channel.test_errors(&own_points))
        .map(|((point, averages), errors)| observed(point, averages, errors))
        .collect();
    let meaningful = matches!(found.status, Status::Converged | Status::NoiseLimited);
    Solution {
        status: found.status,
        residual: found.residual,
        iterations,
        std_error: own.filter(|_| meaningful).map_or_else(StdError::default, |own| std_error(&own)),
        ..common.into_solution(equations, meaningful)
    }
}

fn std_error(observed: &[Observed]) -> StdError {
    if observed.len() < 2 {
        return StdError::default();
    }
    let of =
        |value: fn(&Observed) -> f64| standard_error(observed.iter().map(value)).filter(|error| *error > 0.0);
    StdError {
        q: of(|o| o.order.q),
        m: of(|o| o.order.m),
        v: of(|o| o.order.v),
        q_hat: of(|o| o.order.q_hat),
        m_hat: of(|o| o.order.m_hat),
        v_hat: of(|o| o.order.v_hat),
        trace: of(|o| o.trace),
        rank_fraction: of(|o| o.rank_fraction),
        objective: of(|o| o.objective),
        test: of(|o| o.errors.test),
        test_clean: of(|o| o.errors.test_clean),
        train: of(|o| o.errors.train),
        alignment: of(|o| o.alignment),
        contested: of(|o| o.gauges[0]),
        replicon: of(|o| o.gauges[1]),
        ..StdError::default()
    }
}
