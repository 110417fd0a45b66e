//! Prescriptions: the ridge, the recalibration, or the split of a budget of data at which an error is
//! smallest.
//!
//! A single variable is scanned and then refined by Brent's method. Several variables at once are searched by
//! the simplex method of Nelder and Mead. The number of learned columns is an integer: all other variables are
//! searched at each of its values. The search is in logarithms of ridges and of the recalibration,
//! within bounds. Every solve begins with the solution of the last one. All solves use the same nodes for
//! their averages, so that the error of the averages hardly moves an optimum. A bound on this effect is
//! reported as `uncertainty`. By default the tolerance of a solve is matched to the noise of its averages, which leaves the
//! landscape rough by about a twentieth of a standard error; a `tolerance` in the options makes it smooth.
//!
//! ```
//! use lora_asymptotics::Scenario;
//! use lora_asymptotics::optimize::{Parameter, Settings, Target, Variable, minimize};
//!
//! let scenario = Scenario::from_json(r#"{
//!     "model": {"tokens": 3, "activation": "linear", "delta": 0.5, "teacher": {"wishart": {"kappa0": 1.0}}},
//!     "pretrain": {"alpha": 0.1, "lambda": 0.1}
//! }"#)?;
//! let ridge = Variable::new(Parameter::PretrainLambda, 1e-3, 1.0)?;
//! let best = minimize(&scenario, Target::PretrainTest, &[ridge], &Settings::default())?;
//! println!("lambda = {:.4}: E = {:.4}", best.found[0].value, best.value);
//! # assert!(best.found[0].at_bound.is_none());
//! # Ok::<(), lora_asymptotics::Error>(())
//! ```

use std::cell::{Cell, RefCell};
use std::ops::RangeInclusive;

use argmin::core::{ArgminError, CostFunction, Executor, State};
use argmin::solver::brent::BrentOpt;
use argmin::solver::neldermead::NelderMead;
use serde::{Deserialize, Serialize};

use crate::check;
use crate::error::{Error, Number};
use crate::fields::effective_noise;
use crate::lora::Training as Finetuning;
use crate::scenario::{Estimator, Outcome, Scenario};

/// The quantity to optimise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Target {
    /// The test error `E` of pre-training, which is minimised.
    PretrainTest,
    /// The test error `E'` of fine-tuning, which is minimised.
    LoraTest,
    /// The alignment `o_w` of fine-tuning, which is maximised.
    LoraAlignment,
    /// The test error on the task of pre-training after fine-tuning, which is minimised. It has an optimum in the
    /// parameters of pre-training and in the recalibration.
    LoraForgetting,
    /// The effective noise `Delta_eff = Delta/2 + Q0 - 2 beta M + beta^2 Q` on new sequences, which is
    /// minimised. Linear fine-tuning on fresh sequences depends on pre-training through it only. For every
    /// other activation it is a guide and not exact.
    EffectiveNoise,
}

impl Target {
    fn is_better(self, value: f64, than: f64) -> bool {
        match self {
            Self::LoraAlignment => value > than,
            Self::PretrainTest | Self::LoraTest | Self::LoraForgetting | Self::EffectiveNoise => value < than,
        }
    }

    /// Whether the quantity is one of fine-tuning.
    fn is_of_finetuning(self) -> bool {
        matches!(self, Self::LoraTest | Self::LoraAlignment | Self::LoraForgetting)
    }
}

/// A parameter that may be optimised.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Parameter {
    /// `lambda`, the ridge of pre-training.
    PretrainLambda,
    /// `lambda'`, the ridge of fine-tuning.
    LoraLambda,
    /// `beta`, the recalibration. For the least effective noise it is [`optimal_recalibration`](crate::observables::optimal_recalibration).
    Beta,
    /// The number of columns that fine-tuning learns, a whole number of at most [`Finetuning::MAX_RANK`].
    Rank,
    /// The share of a budget `alpha + price alpha' = total` that is spent on fine-tuning.
    FinetuningShare {
        /// The budget, in units of `alpha`.
        total: f64,
        /// The cost of a unit of `alpha'`, in units of `alpha`.
        price: f64,
    },
}

/// A parameter, and the bounds within which it is searched.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "VariableWire")]
pub struct Variable {
    parameter: Parameter,
    low: f64,
    high: f64,
}

/// A variable as it is read, before its bounds are checked.
#[derive(Deserialize)]
struct VariableWire {
    parameter: Parameter,
    low: f64,
    high: f64,
}

impl TryFrom<VariableWire> for Variable {
    type Error = Error;

    fn try_from(VariableWire { parameter, low, high }: VariableWire) -> Result<Self, Error> {
        Self::new(parameter, low, high)
    }
}

impl Variable {
    /// # Errors
    /// [`Error::InvalidParameter`] unless `0 < low < high`, both finite, and for a share `high < 1`; for a rank, unless both are whole
    /// numbers up to [`Finetuning::MAX_RANK`]; and for a budget or a price that is not finite and > 0.
    pub fn new(parameter: Parameter, low: f64, high: f64) -> Result<Self, Error> {
        check::positive("variable.low", low)?;
        check::positive("variable.high", high)?;
        if low >= high {
            return Err(Error::invalid("variable.low", low, format!("< variable.high = {}", Number(high))));
        }
        if let Parameter::FinetuningShare { total, price } = parameter {
            check::positive("variable.total", total)?;
            check::positive("variable.price", price)?;
            if high >= 1.0 {
                return Err(Error::invalid("variable.high", high, "< 1 for a share"));
            }
        }
        if parameter == Parameter::Rank {
            let largest = Finetuning::MAX_RANK as f64;
            let whole = |value: f64| value.trunc().total_cmp(&value).is_eq() && value <= largest;
            for (field, value) in [("variable.low", low), ("variable.high", high)] {
                if !whole(value) {
                    let allowed = format!("a whole number between 1 and {largest} for a rank");
                    return Err(Error::invalid(field, value, allowed));
                }
            }
        }
        Ok(Self { parameter, low, high })
    }

    /// The ranks to try, if the variable is the rank.
    fn ranks(&self) -> Option<RangeInclusive<usize>> {
        (self.parameter == Parameter::Rank).then_some(self.low as usize..=self.high as usize)
    }

    /// The coordinate of the search: the logarithm of the value, or for a share the logarithm of the odds.
    fn coordinate(&self, value: f64) -> f64 {
        match self.parameter {
            Parameter::FinetuningShare { .. } => (value / (1.0 - value)).ln(),
            _ => value.ln(),
        }
    }

    fn value(&self, coordinate: f64) -> f64 {
        let [low, high] = self.ends();
        // The bounds are returned as they were given, without rounding.
        if coordinate <= low {
            return self.low;
        }
        if coordinate >= high {
            return self.high;
        }
        match self.parameter {
            Parameter::FinetuningShare { .. } => 1.0 / (1.0 + (-coordinate).exp()),
            _ => coordinate.exp(),
        }
    }

    fn ends(&self) -> [f64; 2] {
        [self.low, self.high].map(|value| self.coordinate(value))
    }

    fn set(&self, scenario: &mut Scenario, value: f64) -> Result<(), Error> {
        match (self.parameter, &mut scenario.pretrain, &mut scenario.lora) {
            (Parameter::PretrainLambda, Some(first), _) => *first = first.with_lambda(value)?,
            (Parameter::LoraLambda, _, Some(second)) => *second = second.with_lambda(value)?,
            (Parameter::Beta, _, Some(second)) => *second = second.recalibrated(value)?,
            (Parameter::Rank, _, Some(second)) => *second = second.with_rank(value as usize)?,
            (Parameter::FinetuningShare { total, price }, Some(first), Some(second)) => {
                *first = first.with_alpha((1.0 - value) * total)?;
                *second = second.with_alpha(value * total / price)?;
            }
            // Such a variable is refused before the search.
            _ => {}
        }
        Ok(())
    }

    fn needs(&self) -> [bool; 2] {
        match self.parameter {
            Parameter::PretrainLambda => [true, false],
            Parameter::LoraLambda | Parameter::Beta | Parameter::Rank => [false, true],
            Parameter::FinetuningShare { .. } => [true, true],
        }
    }
}

/// The settings of a search.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Relative accuracy of the parameters; in `[1e-8, 0.1]`.
    pub tolerance: f64,
    /// Number of points of the scan that brackets the optimum of one variable; 3 to 1000.
    pub scan: usize,
    /// Largest number of solves; 10 to 1,000,000.
    pub max_solves: usize,
    /// Whether to leave out points where replica symmetry cannot be trusted, in either stage.
    pub reliable_only: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { tolerance: 1e-4, scan: 9, max_solves: 1000, reliable_only: true }
    }
}

/// A bound of the search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SearchBound {
    /// The smallest value allowed.
    Lower,
    /// The largest value allowed.
    Upper,
}

/// The best value of one variable.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BestValue {
    /// The parameter.
    pub parameter: Parameter,
    /// The best value of the parameter.
    pub value: f64,
    /// The bound at which the best value lies, if any. The optimum is then at the bound or beyond.
    pub at_bound: Option<SearchBound>,
    /// If the parameter changes up or down by a factor of at most 1 plus this number, the target changes by
    /// less than its standard error. It is `None` if the target has no standard error, if the value is at a
    /// bound, or if several variables were searched together.
    pub uncertainty: Option<f64>,
}

/// An optimum.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Optimum {
    /// The variables, in the order given.
    pub found: Vec<BestValue>,
    /// The target at the optimum.
    pub value: f64,
    /// The standard error of the target.
    pub std_error: Option<f64>,
    /// The complete outcome at the optimum.
    pub outcome: Outcome,
    /// Number of scenarios solved.
    pub solves: usize,
    /// Number of scenarios that did not converge, could not be solved, or (see [`Settings::reliable_only`])
    /// could not be trusted.
    pub excluded: usize,
    /// Whether the search reached the tolerance.
    pub converged: bool,
}

/// Finds the values of the variables within their bounds that make the target of a scenario as good as
/// possible.
///
/// # Errors
/// [`Error::InvalidParameter`] for settings out of range, or for no variable. [`Error::Conflict`] if the same
/// variable is given twice, and for the Bayes-optimal estimator, which has no variables.
/// [`Error::MissingField`] for a stage that the target or a variable needs. [`Error::NoOptimum`] if no point
/// could be used. The errors of [`Scenario::solve`].
pub fn minimize(
    scenario: &Scenario,
    target: Target,
    variables: &[Variable],
    settings: &Settings,
) -> Result<Optimum, Error> {
    if !(1e-8..=0.1).contains(&settings.tolerance) {
        return Err(Error::invalid("settings.tolerance", settings.tolerance, "between 1e-8 and 0.1"));
    }
    check::integer("settings.scan", settings.scan, 3, 1000)?;
    check::integer("settings.max_solves", settings.max_solves, 10, 1_000_000)?;
    let search = Minimisation::new(scenario, target, variables, settings)?;
    match variables.iter().position(|variable| variable.ranks().is_some()) {
        Some(place) => search.over_ranks(scenario, variables[place], place),
        None => search.run(scenario),
    }
}

/// Finds the split of a budget `alpha + price alpha' = total` between pre-training and fine-tuning that
/// minimises `E'`. Other variables can be optimised at the same time.
///
/// # Errors
/// The errors of [`Variable::new`] and [`minimize`].
pub fn best_split(
    scenario: &Scenario,
    total: f64,
    price: f64,
    others: &[Variable],
    settings: &Settings,
) -> Result<Optimum, Error> {
    let share = Variable::new(Parameter::FinetuningShare { total, price }, 1e-3, 1.0 - 1e-3)?;
    let variables: Vec<Variable> = std::iter::once(share).chain(others.iter().copied()).collect();
    minimize(scenario, Target::LoraTest, &variables, settings)
}

/// The evaluations so far.
#[derive(Default)]
struct Log {
    solves: usize,
    excluded: usize,
    /// The outcome with which the next solve begins.
    last: Option<Outcome>,
    /// Coordinates, the function to minimise at them, and the standard error of the function.
    points: Vec<(Vec<f64>, f64, Option<f64>)>,
    /// The error that ended the search.
    error: Option<Error>,
}

struct Minimisation<'a> {
    target: Target,
    /// The variables, without the rank.
    variables: Vec<Variable>,
    settings: &'a Settings,
    /// The scenario, without the parts on which the target does not depend.
    reduced: Scenario,
    /// Recalibration at which the effective noise is evaluated, unless the recalibration is a variable.
    beta: f64,
    log: RefCell<Log>,
}

impl<'a> Minimisation<'a> {
    fn new(
        scenario: &Scenario,
        target: Target,
        variables: &[Variable],
        settings: &'a Settings,
    ) -> Result<Self, Error> {
        if variables.is_empty() {
            return Err(Error::invalid("variables", "[]", "one at least"));
        }
        for (index, one) in variables.iter().enumerate() {
            let same = |other: &Variable| {
                std::mem::discriminant(&other.parameter) == std::mem::discriminant(&one.parameter)
            };
            if variables[..index].iter().any(same) {
                return Err(Error::Conflict { field: "variables", with: "one for the same parameter" });
            }
        }
        if scenario.estimator == Estimator::BayesOptimal {
            return Err(Error::Conflict { field: "estimator = bayes_optimal", with: "an optimisation" });
        }
        let needs_pretraining = target == Target::PretrainTest || variables.iter().any(|v| v.needs()[0]);
        let needs_finetuning = target.is_of_finetuning() || variables.iter().any(|v| v.needs()[1]);
        let reason = "the target or a variable needs this stage";
        if needs_pretraining && scenario.pretrain.is_none() {
            return Err(Error::MissingField { field: "pretrain", reason });
        }
        if needs_finetuning && scenario.lora.is_none() {
            return Err(Error::MissingField { field: "lora", reason });
        }
        let mut start = scenario.clone();
        for variable in variables {
            variable.set(&mut start, variable.low)?;
        }
        start.validate()?;
        // A rank that the scenario cannot have is refused before others are searched.
        for variable in variables.iter().filter(|variable| variable.ranks().is_some()) {
            let mut end = start.clone();
            variable.set(&mut end, variable.high)?;
            end.validate()?;
        }
        let mut reduced = Scenario { estimator: Estimator::Erm, ..start };
        let of_finetuning = target.is_of_finetuning();
        let mut log = Log::default();
        if !of_finetuning && reduced.pretrain.is_some() && !variables.iter().any(|v| v.needs()[1]) {
            reduced.lora = None;
        } else if of_finetuning && !variables.iter().any(|v| v.needs()[0]) && reduced.pretrain.is_some() {
            // Only fine-tuning varies, so that pre-training is solved once.
            let base = Scenario { lora: None, ..reduced.clone() }.solve()?;
            log.solves += 1;
            let solution = base.pretrain.map(crate::pretrain::Solution::into_converged).transpose()?;
            if solution.as_ref().is_some_and(|stage| settings.reliable_only && !stage.validity.reliable) {
                // The pre-training is a part of every point, so that no point can be used.
                return Err(Error::NoOptimum { solves: log.solves, excluded: log.solves });
            }
            reduced.frozen = solution.map(|solution| solution.freeze()).transpose()?;
            reduced.pretrain = None;
            reduced.model = reduced.model.without_teacher();
        }
        let beta = scenario.lora.as_ref().map_or(1.0, |training| training.beta());
        let variables = variables.iter().filter(|variable| variable.ranks().is_none()).copied().collect();
        Ok(Self { target, variables, settings, reduced, beta, log: RefCell::new(log) })
    }

    /// Searches all variables but the rank.
    fn run(&self, scenario: &Scenario) -> Result<Optimum, Error> {
        let (point, converged) = match self.variables.as_slice() {
            [] => (Vec::new(), self.evaluate(&[])?.is_finite()),
            [variable] => self.line(variable)?,
            _ => self.simplex()?,
        };
        if self.best().is_none() {
            return Err(self.nothing());
        }
        self.optimum(scenario, &point, converged)
    }

    /// Searches the other variables at one rank after the other, and returns the best of these optima. A rank at
    /// which no point could be used is left out.
    fn over_ranks(mut self, scenario: &Scenario, rank: Variable, place: usize) -> Result<Optimum, Error> {
        let mut best: Option<(Optimum, f64)> = None;
        let mut converged = true;
        for columns in rank.ranks().into_iter().flatten() {
            if self.log.borrow().solves >= self.settings.max_solves {
                converged = false;
                break;
            }
            let value = columns as f64;
            let mut here = scenario.clone();
            for scenario in [&mut here, &mut self.reduced] {
                rank.set(scenario, value)?;
            }
            // Solutions with another number of columns are no points to begin with.
            let log = self.log.get_mut();
            log.last = None;
            log.points.clear();
            let optimum = match self.run(&here) {
                Ok(optimum) => optimum,
                Err(Error::NoOptimum { .. }) => continue,
                Err(error) => return Err(error),
            };
            converged &= optimum.converged;
            if best.as_ref().is_none_or(|(best, _)| self.target.is_better(optimum.value, best.value)) {
                best = Some((optimum, value));
            }
        }
        let (mut optimum, value) = best.ok_or_else(|| self.nothing())?;
        let at_bound = match value {
            x if x <= rank.low => Some(SearchBound::Lower),
            x if x >= rank.high => Some(SearchBound::Upper),
            _ => None,
        };
        optimum
            .found
            .insert(place, BestValue { parameter: Parameter::Rank, value, at_bound, uncertainty: None });
        let log = self.log.borrow();
        Ok(Optimum { solves: log.solves, excluded: log.excluded, converged, ..optimum })
    }

    fn scenario(&self, scenario: &Scenario, point: &[f64]) -> Result<Scenario, Error> {
        let mut scenario = scenario.clone();
        for (variable, coordinate) in self.variables.iter().zip(point) {
            variable.set(&mut scenario, variable.value(*coordinate))?;
        }
        Ok(scenario)
    }

    /// The function to minimise, and its standard error.
    fn read(&self, scenario: &Scenario, outcome: &Outcome) -> Option<(f64, Option<f64>)> {
        let Outcome { pretrain, lora, .. } = outcome;
        let beta = scenario.lora.as_ref().map_or(self.beta, |training| training.beta());
        let trusted = |reliable: bool| reliable || !self.settings.reliable_only;
        let usable = pretrain
            .as_ref()
            .is_none_or(|stage| stage.status.is_success() && trusted(stage.validity.reliable));
        let finetuned =
            lora.as_ref().filter(|stage| stage.status.is_success() && trusted(stage.validity.reliable));
        match self.target {
            Target::PretrainTest => pretrain.as_ref().map(|stage| (stage.errors.test, stage.std_error.test)),
            Target::LoraTest => finetuned.map(|stage| (stage.errors.test, stage.std_error.test)),
            Target::LoraForgetting => {
                finetuned.map(|stage| (stage.errors.forgetting, stage.std_error.forgetting))
            }
            Target::LoraAlignment => finetuned.map(|stage| (-stage.alignment, stage.std_error.alignment)),
            Target::EffectiveNoise => {
                let frozen = match pretrain {
                    Some(solution) => solution.freeze().ok(),
                    None => scenario.frozen,
                };
                frozen.map(|frozen| {
                    let (attention, delta) = (scenario.model.attention(), scenario.model.delta());
                    (effective_noise(attention, &frozen.overlaps(), delta, beta), None)
                })
            }
        }
        .filter(|(value, _)| usable && value.is_finite())
    }

    /// The function at a point; infinite if the point cannot be used.
    fn evaluate(&self, point: &[f64]) -> Result<f64, Error> {
        let mut log = self.log.borrow_mut();
        log.solves += 1;
        let scenario = self.scenario(&self.reduced, point)?;
        let solved = match &log.last {
            Some(last) => scenario.solve_from(last),
            None => scenario.solve(),
        };
        let outcome = match solved {
            Ok(outcome) => outcome,
            Err(Error::RankDoesNotFit { .. }) => {
                log.excluded += 1;
                return Ok(f64::INFINITY);
            }
            Err(error) => return Err(error),
        };
        let Some((value, std_error)) = self.read(&scenario, &outcome) else {
            log.excluded += 1;
            return Ok(f64::INFINITY);
        };
        log.last = Some(outcome);
        log.points.push((point.to_vec(), value, std_error));
        Ok(value)
    }

    /// The function at a point, for argmin. It is an error if the search has to end.
    fn cost(&self, point: &[f64]) -> Result<f64, argmin::core::Error> {
        let stop = || ArgminError::ConditionViolated { text: "the search ends".to_owned() };
        let ended = |log: &Log| log.solves >= self.settings.max_solves || log.error.is_some();
        if ended(&self.log.borrow()) {
            return Err(stop().into());
        }
        self.evaluate(point).map_err(|error| {
            self.log.borrow_mut().error = Some(error);
            stop().into()
        })
    }

    /// The error that ended the search, if one did.
    fn check(&self) -> Result<(), Error> {
        self.log.borrow_mut().error.take().map_or(Ok(()), Err)
    }

    /// The best point so far; `None` if no point could be used.
    fn best(&self) -> Option<(Vec<f64>, f64)> {
        let log = self.log.borrow();
        let points = log.points.iter().map(|(point, value, _)| (point, *value));
        points.reduce(|best, next| if next.1 < best.1 { next } else { best }).map(|(p, v)| (p.clone(), v))
    }

    fn nothing(&self) -> Error {
        let log = self.log.borrow();
        Error::NoOptimum { solves: log.solves, excluded: log.excluded }
    }

    /// Searches one variable: a scan from the upper bound down, along which softmax solutions can be
    /// continued, and Brent's method around the best point.
    fn line(&self, variable: &Variable) -> Result<(Vec<f64>, bool), Error> {
        let [low, high] = variable.ends();
        let count = self.settings.scan;
        let at = |k: usize| low + (high - low) * k as f64 / (count - 1) as f64;
        for k in (0..count).rev() {
            if self.log.borrow().solves >= self.settings.max_solves {
                break;
            }
            self.evaluate(&[at(k)])?;
        }
        let (best, _) = self.best().ok_or_else(|| self.nothing())?;
        let near = ((best[0] - low) / (high - low) * (count - 1) as f64).round() as usize;
        let bracket = [at(near.saturating_sub(1)), at((near + 1).min(count - 1))];
        let solver = BrentOpt::new(bracket[0], bracket[1])
            .set_tolerance(f64::EPSILON.sqrt(), self.settings.tolerance / 3.0);
        let ended = Executor::new(Line(self), solver).configure(|state| state.max_iters(200)).run();
        self.check()?;
        let converged = ended.is_ok_and(|result| result.state.terminated());
        let (best, _) = self.best().ok_or_else(|| self.nothing())?;
        Ok((best, converged))
    }

    /// Searches several variables: a simplex in the box of the bounds, and then another, smaller simplex
    /// around its optimum.
    fn simplex(&self) -> Result<(Vec<f64>, bool), Error> {
        let ends: Vec<[f64; 2]> = self.variables.iter().map(Variable::ends).collect();
        let mut centre: Vec<f64> = ends.iter().map(|[low, high]| 0.5 * (low + high)).collect();
        let mut converged = false;
        for size in [0.25, 0.05] {
            let vertex = |moved: Option<usize>| -> Vec<f64> {
                let mut vertex = centre.clone();
                if let Some(i) = moved {
                    let [low, high] = ends[i];
                    let step = size * (high - low);
                    vertex[i] += if vertex[i] + step <= high { step } else { -step };
                }
                vertex
            };
            let vertices: Vec<Vec<f64>> =
                std::iter::once(None).chain((0..centre.len()).map(Some)).map(vertex).collect();
            let first = self.evaluate(&centre)?;
            let scale = if first.is_finite() { first.abs() } else { 1.0 };
            // Near the optimum, the function is quadratic in the coordinates.
            let spread = (self.settings.tolerance * self.settings.tolerance * scale).max(f64::MIN_POSITIVE);
            let function = Boxed { minimisation: self, vertices: Cell::new(vertices.len()) };
            let Ok(solver) = NelderMead::new(vertices).with_sd_tolerance(spread) else { break };
            let ended = Executor::new(function, solver).configure(|state| state.max_iters(2000)).run();
            self.check()?;
            converged = ended.is_ok_and(|result| result.state.terminated());
            centre = self.best().ok_or_else(|| self.nothing())?.0;
        }
        Ok((centre, converged))
    }

    fn optimum(&self, scenario: &Scenario, point: &[f64], converged: bool) -> Result<Optimum, Error> {
        let full = self.scenario(scenario, point)?;
        let outcome = match &self.log.borrow().last {
            Some(last) => full.solve_from(last)?,
            None => full.solve()?,
        };
        let mut log = self.log.borrow_mut();
        log.solves += 1;
        let (value, std_error) = self.read(&full, &outcome).unwrap_or((f64::NAN, None));
        let alone = self.variables.len() == 1;
        let found = self.variables.iter().zip(point).map(|(variable, coordinate)| {
            let [low, high] = variable.ends();
            let close = self.settings.tolerance;
            let at_bound = match *coordinate {
                x if x - low <= close => Some(SearchBound::Lower),
                x if high - x <= close => Some(SearchBound::Upper),
                _ => None,
            };
            let uncertainty = std_error
                .filter(|_| alone && at_bound.is_none())
                .and_then(|error| half_width(&log.points, *coordinate, error))
                .map(f64::exp_m1);
            BestValue {
                parameter: variable.parameter,
                value: variable.value(*coordinate),
                at_bound,
                uncertainty,
            }
        });
        let value = if self.target == Target::LoraAlignment { -value } else { value };
        Ok(Optimum {
            found: found.collect(),
            value,
            std_error,
            solves: log.solves,
            excluded: log.excluded,
            outcome,
            converged,
        })
    }
}

/// The distance from the minimum at which the function has risen by `error`. The function is taken to be the
/// parabola through the minimum and the nearest points on either side that are clearly above it.
fn half_width(points: &[(Vec<f64>, f64, Option<f64>)], minimum: f64, error: f64) -> Option<f64> {
    let at_minimum = points.iter().find(|(x, ..)| x[0].to_bits() == minimum.to_bits())?.1;
    let curvature = |side: f64| {
        let clearly = points.iter().filter(|(x, f, _)| {
            let distance = side * (x[0] - minimum);
            distance > 1e-2 && *f - at_minimum > 1e-9 * at_minimum.abs()
        });
        let nearest = clearly
            .min_by(|(x, ..), (y, ..)| (side * (x[0] - minimum)).total_cmp(&(side * (y[0] - minimum))))?;
        Some((nearest.1 - at_minimum) / (nearest.0[0] - minimum).powi(2))
    };
    let steepness = 0.5 * (curvature(1.0)? + curvature(-1.0)?);
    Some((error / steepness).sqrt())
}

/// The function of one variable, for argmin.
struct Line<'a>(&'a Minimisation<'a>);

impl CostFunction for Line<'_> {
    type Param = f64;
    type Output = f64;

    fn cost(&self, x: &f64) -> Result<f64, argmin::core::Error> {
        // Brent's method needs finite numbers. A point that cannot be used gets a large one.
        self.0.cost(&[*x]).map(|value| if value.is_finite() { value } else { 1e100 })
    }
}

/// The function of several variables, for argmin. Outside the box it is the function at the nearest point of
/// the surface, plus a term that grows with the distance.
struct Boxed<'a> {
    minimisation: &'a Minimisation<'a>,
    /// Number of vertices of the first simplex that have not been asked for yet.
    vertices: Cell<usize>,
}

impl CostFunction for Boxed<'_> {
    type Param = Vec<f64>;
    type Output = f64;

    fn cost(&self, x: &Vec<f64>) -> Result<f64, argmin::core::Error> {
        let mut outside = 0.0;
        let inside: Vec<f64> = self
            .minimisation
            .variables
            .iter()
            .zip(x)
            .map(|(variable, x)| {
                let [low, high] = variable.ends();
                let nearest = x.clamp(low, high);
                outside += (x - nearest).abs();
                nearest
            })
            .collect();
        let left = self.vertices.get();
        self.vertices.set(left.saturating_sub(1));
        let value = match self.minimisation.cost(&inside) {
            // The solver panics if a vertex of its first simplex has no value. It ends at its first step instead.
            Err(_) if left > 0 => f64::INFINITY,
            value => value?,
        };
        Ok(if value.is_finite() { value + (1.0 + value.abs()) * outside } else { 1e100 * (1.0 + outside) })
    }
}
