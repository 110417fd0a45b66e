//! The search for a fixed point of two channels: approach, climb over the levels, confirmation, status, error
//! bars.

use std::ops::ControlFlow;

use super::channels::{Averages, InputChannel, OutputChannel, Overlaps, Pass, mean};
use super::sensitivity::{Sensitivity, standard_error_of_image};
use super::tuning::{Effort, Tuning};
use crate::error::Error;
use crate::fixed_point::{self, Coordinate, Halt, Iterate, JudgedImage, Observer, Problem, Report, max_norm};
use crate::options::Options;
use crate::status::Status;
use crate::std_error::standard_error;

/// The result of an approach on the cheapest level.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Attempt<P> {
    /// The iterate with the smallest residual.
    pub point: P,
    /// Its undamped residual on the cheapest level.
    pub residual: f64,
    /// How the iteration ended.
    pub status: Status,
}

/// Largest logarithmic distance of the fixed point of a replicate from the common one.
const LARGEST_SHIFT: f64 = 3.0;

/// How often the iteration goes on after a fresh evaluation has found other proximal points.
const CORRECTIONS: usize = 4;

/// Factor on the residual in a step or a correction above which it has not paid.
const PAYS: f64 = 0.5;

/// A solved state evolution.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Solved<P, A> {
    /// The point returned.
    pub point: P,
    /// The averages at that point, over all replicates.
    pub averages: A,
    /// The undamped residual at that point, in logarithms of the coordinates.
    pub residual: f64,
    /// How the solve ended.
    pub status: Status,
    /// Evaluations of the map in the iterations that led to this point, on any level.
    pub iterations: usize,
    /// The fixed point of every replicate by itself and the averages there, to first order; see
    /// [`Solved::standard_error`]. The list is empty if the solve was interrupted, or ended so far from a
    /// fixed point that no slopes were measured.
    pub replicates: Vec<(P, A)>,
}

impl<P, A> Solved<P, A> {
    /// The standard error of a function of the point and its averages, from the spread over the replicates. It is
    /// `None` for fewer than two replicates, and where it is not finite.
    pub fn standard_error(&self, quantity: impl Fn(&P, &A) -> f64) -> Option<f64> {
        let values: Vec<f64> =
            self.replicates.iter().map(|(point, averages)| quantity(point, averages)).collect();
        standard_error(values.into_iter())
    }
}

/// The search for a point that an output channel and an input channel map to itself.
pub struct StateEvolution<'a, O: ?Sized, I> {
    /// The output channel, which describes the losses.
    pub output: &'a mut O,
    /// The input channel, which describes the weights.
    pub input: I,
    options: Options,
    tuning: Tuning,
    observer: Option<&'a mut dyn Observer>,
    iterations: usize,
}

impl<'a, O, I> StateEvolution<'a, O, I>
where
    O: OutputChannel + ?Sized,
    I: InputChannel<Point = O::Point, Averages = O::Averages>,
{
    /// A search with the given channels. It uses the options `tolerance` and `max_iterations`; nodes,
    /// scrambles and seed are options of the output channel.
    pub fn new(output: &'a mut O, input: I, options: &Options) -> Self {
        Self { output, input, options: *options, tuning: Tuning::default(), observer: None, iterations: 0 }
    }

    /// Sets an observer that is shown every evaluation of the map, on any level, and may end the solve.
    #[must_use]
    pub fn observed_by(mut self, observer: &'a mut dyn Observer) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Sets other constants of the search.
    #[must_use]
    pub fn with_tuning(mut self, tuning: Tuning) -> Self {
        self.tuning = tuning;
        self
    }

    /// Sets the constants of the search, and the observer if there is one.
    pub(crate) fn accompanied(self, tuning: Tuning, observer: Option<&'a mut dyn Observer>) -> Self {
        let evolution = self.with_tuning(tuning);
        match observer {
            Some(observer) => evolution.observed_by(observer),
            None => evolution,
        }
    }

    /// The fixed point to which an iteration from `start` leads.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] for invalid options, a start whose coordinates are not positive, or averages and images of varying
    /// length. A solve that does not converge is not an error: see [`Solved::status`].
    pub fn solve(&mut self, start: &O::Point) -> Result<Solved<O::Point, O::Averages>, Error> {
        self.begin();
        let attempt = self.approach(start)?;
        self.refine(attempt)
    }

    /// Whether the search can begin at a point: all coordinates of the point must be finite and positive.
    #[must_use]
    pub fn is_start(point: &O::Point) -> bool {
        point.coordinates().iter().all(|x| x.is_finite() && *x > 0.0)
    }

    /// Resets the count of iterations to zero.
    pub fn begin(&mut self) {
        self.iterations = 0;
    }

    /// The number of iterations since [`StateEvolution::begin`].
    #[must_use]
    pub fn iterations(&self) -> usize {
        self.iterations
    }

    /// Iterates from a start into the neighbourhood of a fixed point, on the cheapest level. The iteration is
    /// accelerated, and if that fails, a slow iteration follows, unless the output channel will end the search early anyway.
    ///
    /// # Errors
    /// The errors of [`StateEvolution::solve`].
    pub fn approach(&mut self, start: &O::Point) -> Result<Attempt<O::Point>, Error> {
        let Tuning { approach, detour, first_tolerance, share, close, .. } = self.tuning;
        self.output.prepare(0, start);
        let problem = Problem::new(start.coordinates(), Coordinate::Log);
        let aim = |error: f64| Aim::strict(first_tolerance.max(share * error));
        let mut report = self.iterate(0, approach, aim, start, &problem, None)?.report;
        let failed = report.residual > close && report.status != Status::Interrupted;
        if failed && !self.is_cut_short_at(&start.at(&report.point)) {
            self.output.prepare(0, start);
            let slow = self.iterate(0, detour, aim, start, &problem, None)?.report;
            if slow.residual < report.residual || slow.status == Status::Interrupted {
                report = slow;
            }
        }
        Ok(Attempt { point: start.at(&report.point), residual: report.residual, status: report.status })
    }

    /// A few accelerated steps from a start towards a fixed point, on the cheapest level, until the residual is below `near`. They tell
    /// what kind of fixed point lies ahead, and are not meant to be refined.
    pub(crate) fn glance(&mut self, start: &O::Point, near: f64) -> Result<Attempt<O::Point>, Error> {
        const EVALUATIONS: usize = 12;
        let Tuning { approach, .. } = self.tuning;
        self.output.prepare(0, start);
        let problem = Problem::new(start.coordinates(), Coordinate::Log);
        let effort = Effort { evaluations: EVALUATIONS, ..approach };
        let report = self.iterate(0, effort, |_| Aim::strict(near), start, &problem, None)?.report;
        Ok(Attempt { point: start.at(&report.point), residual: report.residual, status: report.status })
    }

    /// Iterates from the neighbourhood of a fixed point to the fixed point on the last level, and computes
    /// its error bars.
    ///
    /// # Errors
    /// The errors of [`StateEvolution::solve`].
    pub fn refine(&mut self, mut attempt: Attempt<O::Point>) -> Result<Solved<O::Point, O::Averages>, Error> {
        if attempt.status == Status::Interrupted {
            return self.interrupted(&attempt);
        }
        let averages = mean(&self.replicates(0, Pass::Complete, &attempt.point)?);
        if self.input.reconsider(false, &attempt.point, &averages) {
            attempt = self.approach(&attempt.point)?;
        }
        let solved = self.climb(attempt)?;
        if solved.status != Status::Interrupted
            && self.input.reconsider(true, &solved.point, &solved.averages)
        {
            let Solved { point, residual, status, .. } = solved;
            return self.climb(Attempt { point, residual, status });
        }
        Ok(solved)
    }

    /// The residual and the status of a point that was found in another way, after `iterations` evaluations,
    /// the last of which `ended` the search. The point has no replicates.
    pub(crate) fn certify(
        &mut self,
        point: &O::Point,
        ended: Status,
        iterations: usize,
    ) -> Result<Solved<O::Point, O::Averages>, Error> {
        // If the bound ended the search, a few evaluations may be left, too few for its next step. They are
        // not used.
        self.iterations =
            if ended == Status::MaxIterations { self.options.max_iterations() } else { iterations };
        let settled = self.settle(point)?;
        let status = self.status(&settled, ended);
        let Settled { point, averages, residual, .. } = settled;
        if let Some(observer) = &mut self.observer {
            // The solve is over, so that the observer can no longer end it.
            let _ =
                observer.iterate(&Iterate { point: &point.coordinates(), residual, iteration: iterations });
        }
        Ok(Solved { point, averages, residual, status, iterations, replicates: Vec::new() })
    }

    /// Climbs from level to level, with the slopes of a cheap level.
    fn climb(&mut self, attempt: Attempt<O::Point>) -> Result<Solved<O::Point, O::Averages>, Error> {
        let Tuning { polish, middle_tolerance, share, leap, hopeless, difference, rough_difference, .. } =
            self.tuning;
        let accuracy = self.options.accuracy();
        let final_leap = if accuracy.allows_a_leap() { leap } else { 1.0 };
        let template = attempt.point;
        let cheap = self.output.levels().saturating_sub(1).min(1);
        self.output.prepare(cheap, &template);
        let finest = self.last_level();
        let mut problem = Problem::new(template.coordinates(), Coordinate::Log);
        let mut ended = attempt.status;
        let mut residual = attempt.residual;
        let mut sensitivity = None;
        if attempt.residual <= hopeless {
            let own = self.replicates(cheap, Pass::Complete, &template)?;
            let slopes = self.slopes(cheap, &template, &mean(&own), difference)?;
            problem.secants = slopes.secants();
            sensitivity = Some(slopes);
            let mut known = Some(Evaluation::of(&self.input, &template, &own));
            for level in cheap..=finest {
                if level > cheap {
                    self.output.prepare(level, &template.at(&problem.start));
                }
                let aim = |error: f64| {
                    if level == finest {
                        Aim::within(accuracy.aim(error), final_leap, difference, error)
                    } else {
                        Aim::within(middle_tolerance.max(share * error), leap, difference, error)
                    }
                };
                let ending = self.iterate(level, polish, aim, &template, &problem, known.take())?;
                ended = ending.report.status;
                residual = ending.report.residual;
                problem.start = ending.end();
                if ended == Status::Interrupted {
                    let point = template.at(&problem.start);
                    return self.interrupted(&Attempt { point, residual, status: ended });
                }
            }
        }
        let mut settled = self.settle(&template.at(&problem.start))?;
        // Where the residual is NaN or hopelessly large, there is no fixed point nearby whose error bars the slopes could give. The corrections
        // use these slopes, too.
        if sensitivity.is_some() && settled.residual <= hopeless && self.output.is_rough() {
            let averages = mean(&self.replicates(cheap, Pass::Complete, &settled.point)?);
            let slopes = self.slopes(cheap, &settled.point, &averages, rough_difference)?;
            problem.secants = slopes.secants();
            sensitivity = Some(slopes);
        }
        for _ in 0..CORRECTIONS {
            if ended != Status::Converged || settled.residual <= accuracy.aim(settled.standard_error()) {
                break;
            }
            // The last step led less far than expected, or some of the proximal points that were followed from pass to pass were not
            // the right ones. After a step that has hardly helped, the end of the next one is evaluated before it is believed.
            let trusted = settled.residual < PAYS * residual;
            residual = settled.residual;
            let leap = if trusted { final_leap } else { 1.0 };
            let aim = |error: f64| Aim::within(accuracy.aim(error), leap, difference, error);
            problem.start = settled.point.coordinates();
            let known = Evaluation::of(&self.input, &settled.point, &settled.replicates);
            let ending = self.iterate(finest, polish, aim, &template, &problem, Some(known))?;
            ended = ending.report.status;
            if ended == Status::Interrupted {
                break;
            }
            let next = self.settle(&template.at(&ending.end()))?;
            // Where the averages jump from point to point, further corrections do not help either.
            let pays = trusted || next.residual < PAYS * residual;
            if next.residual < residual {
                settled = next;
            }
            if !pays {
                break;
            }
        }
        Ok(self.conclude(settled, ended, sensitivity.as_ref()))
    }

    /// The slopes at a point on a level, where the averages are known, from differences over a logarithmic step.
    fn slopes(
        &mut self,
        level: usize,
        point: &O::Point,
        averages: &O::Averages,
        difference: f64,
    ) -> Result<Sensitivity, Error> {
        let steps = point.largest_differences().into_iter().map(|largest| difference.min(largest)).collect();
        let base = (self.residual(point, averages)?, averages.terms());
        Sensitivity::measure(&point.coordinates(), steps, base, |x| {
            let there = point.at(x);
            let averages = mean(&self.replicates(level, Pass::Complete, &there)?);
            Ok((self.residual(&there, &averages)?, averages.terms()))
        })
    }

    /// The level on which the search ends.
    fn last_level(&self) -> usize {
        self.output.levels_to_climb().min(self.output.levels()).saturating_sub(1)
    }

    /// Whether the search ends before the finest level.
    fn is_cut_short(&self) -> bool {
        self.last_level() + 1 < self.output.levels()
    }

    /// Whether a search that went on from a point of the cheapest level would end before the finest level.
    fn is_cut_short_at(&mut self, point: &O::Point) -> bool {
        let has_a_choice = self.output.levels() > 2;
        if has_a_choice {
            self.output.prepare(1, point);
        }
        has_a_choice && self.is_cut_short()
    }

    /// Evaluates everything at a point that is to be returned, from scratch on the last level.
    fn settle(&mut self, point: &O::Point) -> Result<Settled<O::Point, O::Averages>, Error> {
        let finest = self.last_level();
        let replicates = self.replicates(finest, Pass::Fresh, point)?;
        let averages = mean(&replicates);
        let residual = self.residual(point, &averages)?;
        let differences = differences(&self.input, point, &replicates, &residual)?;
        let residual = max_norm(&residual);
        Ok(Settled { point: point.clone(), averages, residual, replicates, differences })
    }

    fn conclude(
        &self,
        settled: Settled<O::Point, O::Averages>,
        ended: Status,
        sensitivity: Option<&Sensitivity>,
    ) -> Solved<O::Point, O::Averages> {
        let status = self.status(&settled, ended);
        let Settled { point, averages, residual, replicates, differences } = settled;
        let moved = |sensitivity: &Sensitivity| {
            let shifts = sensitivity.shifts(&differences);
            if shifts.iter().flatten().any(|shift| shift.abs() > LARGEST_SHIFT) {
                // The replicates disagree so much that a linear response says nothing of their fixed points.
                return Vec::new();
            }
            let coordinates = point.coordinates();
            let own = replicates.iter().zip(shifts).map(|(own, shift)| {
                let moved: Vec<f64> =
                    coordinates.iter().zip(&shift).map(|(x, shift)| x * shift.exp()).collect();
                (point.at(&moved), O::Averages::from_terms(&sensitivity.moved(own.terms(), &shift)))
            });
            own.collect()
        };
        let replicates = sensitivity.map_or_else(Vec::new, moved);
        Solved { point, averages, residual, status, iterations: self.iterations, replicates }
    }

    /// The status of the solve, given the status of its last iteration.
    fn status(&self, settled: &Settled<O::Point, O::Averages>, ended: Status) -> Status {
        let Settled { point, residual, .. } = settled;
        if !(residual.is_finite() && point.coordinates().iter().all(|x| x.is_finite())) {
            return Status::NonFinite;
        }
        let estimated = settled.standard_error();
        if *residual <= self.options.accuracy().aim(estimated) {
            return if self.input.resolves(point) { Status::Converged } else { Status::NoiseLimited };
        }
        // The bound is three standard errors. A larger residual cannot be explained by noise, and is a stall.
        let jumps = if estimated.is_nan() { self.output.resolution() } else { 3.0 * estimated };
        match ended {
            Status::Interrupted => Status::Interrupted,
            Status::MaxIterations if self.iterations >= self.options.max_iterations() => {
                Status::MaxIterations
            }
            _ if *residual <= jumps.min(self.tuning.hopeless) => Status::NoiseLimited,
            _ => Status::Stalled,
        }
    }

    /// The best point so far, with averages from the cheapest level and without error bars.
    fn interrupted(&mut self, attempt: &Attempt<O::Point>) -> Result<Solved<O::Point, O::Averages>, Error> {
        Ok(Solved {
            point: attempt.point.clone(),
            averages: mean(&self.replicates(0, Pass::Complete, &attempt.point)?),
            residual: attempt.residual,
            status: Status::Interrupted,
            iterations: self.iterations,
            replicates: Vec::new(),
        })
    }

    /// The averages of all replicates at a point. It is an error if there are none.
    fn replicates(&mut self, level: usize, pass: Pass, point: &O::Point) -> Result<Vec<O::Averages>, Error> {
        let replicates = self.output.averages(level, pass, point);
        if replicates.is_empty() {
            Err(Error::invalid("replicates", 0_usize, ">= 1"))
        } else {
            Ok(replicates)
        }
    }

    /// The undamped residual at `point`, in logarithms.
    fn residual(&self, point: &O::Point, averages: &O::Averages) -> Result<Vec<f64>, Error> {
        logarithmic_residual(&point.coordinates(), &self.input.image(point, averages).coordinates())
    }

    /// Iterates on a level. `aim` tells when the iteration may end, given the standard error of the image, which is NaN if it
    /// is unknown. `known` is the evaluation of the start, if there is one.
    fn iterate(
        &mut self,
        level: usize,
        effort: Effort,
        aim: impl Fn(f64) -> Aim,
        template: &O::Point,
        problem: &Problem<Vec<f64>>,
        mut known: Option<Evaluation>,
    ) -> Result<Halt<Vec<f64>>, Error> {
        let Self { output, input, observer, iterations, options, .. } = self;
        let allowed = options.max_iterations().saturating_sub(*iterations);
        if allowed == 0 {
            let report = Report {
                point: problem.start.clone(),
                residual: f64::INFINITY,
                iterations: 0,
                status: Status::MaxIterations,
            };
            return Ok(Halt { report, ahead: None });
        }
        let limits = fixed_point::Options {
            tolerance: 0.0,
            max_iterations: allowed.min(effort.evaluations),
            method: effort.method,
            patience: effort.patience,
        };
        let mut counted = Counted {
            observer: observer.as_mut().map(|o| &mut **o as &mut dyn Observer),
            before: *iterations,
        };
        let ending = fixed_point::solve_judged(problem, &limits, &mut counted, |x| {
            let Evaluation { image, error } = known.take().unwrap_or_else(|| {
                let point = template.at(x);
                Evaluation::of(input, &point, &output.averages(level, Pass::Step, &point))
            });
            let Aim { accepted, near } = aim(error);
            JudgedImage { image, accepted, near }
        })?;
        *iterations += ending.report.iterations;
        Ok(ending)
    }
}

/// When an iteration ends: see [`JudgedImage`].
#[derive(Clone, Copy)]
struct Aim {
    accepted: f64,
    near: f64,
}

impl Aim {
    /// No step is left out.
    fn strict(accepted: f64) -> Self {
        Self { accepted, near: accepted }
    }

    /// The last step is left out from a residual of `leap` times the accepted one, if there is noise, of the given standard error. It
    /// must not lead much farther than `far`, the distance over which the slopes are known.
    fn within(accepted: f64, leap: f64, far: f64, error: f64) -> Self {
        let near = if error.is_finite() { (leap * accepted).min(far) } else { accepted };
        Self { accepted, near }
    }
}

/// What the iteration needs to know of a point: the coordinates of its image, and their standard error.
struct Evaluation {
    image: Vec<f64>,
    error: f64,
}

impl Evaluation {
    /// The evaluation from the averages of all replicates. Without any, the image has no coordinates.
    fn of<I: InputChannel>(input: &I, point: &I::Point, replicates: &[I::Averages]) -> Self {
        if replicates.is_empty() {
            return Self { image: Vec::new(), error: f64::NAN };
        }
        let image = input.image(point, &mean(replicates)).coordinates();
        // An image of the wrong length is refused by the iteration.
        let error = logarithmic_residual(&point.coordinates(), &image)
            .and_then(|residual| differences(input, point, replicates, &residual))
            .map_or(f64::NAN, |differences| standard_error_of_image(&differences));
        Self { image, error }
    }
}

/// The undamped residual in logarithms of a point with the given coordinates, from those of its image.
fn logarithmic_residual(here: &[f64], image: &[f64]) -> Result<Vec<f64>, Error> {
    if image.len() != here.len() {
        let allowed = format!("{}, as long as the point", here.len());
        return Err(Error::invalid("length of the image", image.len(), allowed));
    }
    Ok(image.iter().zip(here).map(|(image, x)| image.ln() - x.ln()).collect())
}

/// The residual of every replicate by itself, minus the residual `common` of all replicates together.
fn differences<I: InputChannel>(
    input: &I,
    point: &I::Point,
    replicates: &[I::Averages],
    common: &[f64],
) -> Result<Vec<Vec<f64>>, Error> {
    let here = point.coordinates();
    let difference = |own: &I::Averages| -> Result<Vec<f64>, Error> {
        let own = logarithmic_residual(&here, &input.image(point, own).coordinates())?;
        Ok(own.iter().zip(common).map(|(own, common)| own - common).collect())
    };
    replicates.iter().map(difference).collect()
}

/// The quantities at the point that is to be returned.
struct Settled<P, A> {
    point: P,
    averages: A,
    residual: f64,
    replicates: Vec<A>,
    /// The residual of every replicate by itself, minus the residual of all replicates together.
    differences: Vec<Vec<f64>>,
}

impl<P, A> Settled<P, A> {
    /// The standard error of the image, in its noisiest coordinate; NaN for a single replicate.
    fn standard_error(&self) -> f64 {
        standard_error_of_image(&self.differences)
    }
}

/// An observer that shows another observer the number of iterations of the whole solve.
struct Counted<'a> {
    observer: Option<&'a mut dyn Observer>,
    before: usize,
}

impl Observer for Counted<'_> {
    fn iterate(&mut self, iterate: &Iterate<'_>) -> ControlFlow<()> {
        match &mut self.observer {
            Some(observer) => {
                observer.iterate(&Iterate { iteration: self.before + iterate.iteration, ..*iterate })
            }
            None => ControlFlow::Continue(()),
        }
    }
}
