//! The public interface of the state-evolution engine: observers, interruption, constants of the search.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::ops::ControlFlow;

use lora_asymptotics::fixed_point::{History, Iterate, Method, Observer, Status};
use lora_asymptotics::lora::{self, Frozen};
use lora_asymptotics::pretrain;
use lora_asymptotics::state_evolution::{
    Averages, Effort, InputChannel, OutputChannel, Overlaps, Pass, Run, StateEvolution, Tuning,
};
use lora_asymptotics::{Model, Options, Teacher};

/// Ends a solve after the given number of iterations.
struct AtMost(usize);

impl Observer for AtMost {
    fn iterate(&mut self, iterate: &Iterate<'_>) -> ControlFlow<()> {
        if iterate.iteration < self.0 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }
}

/// One stage of one activation.
#[allow(clippy::large_enum_variant, reason = "there are a few of them")]
enum Stage {
    Pretrain(Model, pretrain::Training),
    Lora(Model, Frozen, lora::Training),
}

/// The result of a solve: `q`, `m`, `v` and the test error with their standard errors, the status, the
/// iterations.
struct Answer {
    numbers: [f64; 4],
    errors: [Option<f64>; 4],
    status: Status,
    iterations: usize,
    reliable: bool,
}

impl Stage {
    fn all() -> Vec<(&'static str, Self)> {
        let wishart = |model: Model| model.with_teacher(Teacher::Wishart { kappa0: 0.5 }).unwrap();
        let frozen = Frozen::new(2.0, 1.2, 1.1).unwrap();
        vec![
            (
                "softmax pre-training",
                Self::Pretrain(
                    wishart(Model::softmax(2, 0.5).unwrap()),
                    pretrain::Training::new(0.2, 0.05).unwrap(),
                ),
            ),
            (
                "linear fine-tuning",
                Self::Lora(Model::linear(2, 0.5).unwrap(), frozen, lora::Training::fresh(3.0, 0.3).unwrap()),
            ),
            (
                "softmax fine-tuning",
                Self::Lora(Model::softmax(2, 0.5).unwrap(), frozen, lora::Training::fresh(5.0, 0.5).unwrap()),
            ),
        ]
    }

    fn solve(&self, observer: Option<&mut dyn Observer>, tuning: Tuning) -> Answer {
        let options = Options::default().with_log2_nodes(10).unwrap().with_scrambles(8).unwrap();
        // By default the fixed point would be found to a part of its standard error only.
        let options = options.with_tolerance(1e-9).unwrap();
        match self {
            Self::Pretrain(model, training) => {
                let run = company(observer, tuning);
                let solution = pretrain::solve_with(model, training, &options, run).unwrap();
                let (order, errors) = (solution.order, solution.std_error);
                Answer {
                    numbers: [order.q, order.m, order.v, solution.errors.test],
                    errors: [errors.q, errors.m, errors.v, errors.test],
                    status: solution.status,
                    iterations: solution.iterations,
                    reliable: solution.validity.reliable,
                }
            }
            Self::Lora(model, frozen, training) => {
                let run = company(observer, tuning);
                let solution = lora::solve_with(model, frozen, training, &options, run).unwrap();
                let (order, errors) = (solution.order, solution.std_error);
                Answer {
                    numbers: [order.q, order.m, order.v, solution.errors.test],
                    errors: [errors.q, errors.m, errors.v, errors.test],
                    status: solution.status,
                    iterations: solution.iterations,
                    reliable: solution.validity.reliable,
                }
            }
        }
    }
}

fn company<S>(observer: Option<&mut dyn Observer>, tuning: Tuning) -> Run<'_, S> {
    let run = Run::default().tuned(tuning);
    match observer {
        Some(observer) => run.observed_by(observer),
        None => run,
    }
}

#[test]
fn an_observer_sees_every_iterate_and_changes_nothing() {
    for (name, stage) in Stage::all() {
        let mut history = History::default();
        let observed = stage.solve(Some(&mut history), Tuning::default());
        let alone = stage.solve(None, Tuning::default());
        assert_eq!(observed.numbers.map(f64::to_bits), alone.numbers.map(f64::to_bits), "{name}");
        assert!(history.iterates.len() >= observed.iterations, "{name}");
        assert!(history.iterates.iter().all(|(point, residual)| !point.is_empty() && *residual >= 0.0));
    }
}

#[test]
fn an_observer_ends_a_solve_with_the_best_iterate_so_far() {
    for (name, stage) in Stage::all() {
        for most in [1, 3] {
            let answer = stage.solve(Some(&mut AtMost(most)), Tuning::default());
            assert_eq!((answer.status, answer.iterations), (Status::Interrupted, most), "{name}");
            assert!(answer.numbers.iter().all(|x| *x > 0.0 && x.is_finite()), "{name}");
            assert!(!answer.reliable && answer.errors == [None; 4], "{name}");
        }
    }
}

/// Every constant of the default tuning is doubled and halved.
fn variations() -> Vec<(String, Tuning)> {
    let mut all = Vec::new();
    for factor in [0.5, 2.0] {
        let times = |n: usize| (n as f64 * factor) as usize;
        // A mixing or a damping of more than 1 is not allowed.
        let stretched = |method: Method| match method {
            Method::Damped { mixing } => Method::Damped { mixing: (mixing * factor).min(1.0) },
            Method::Anderson { memory, mixing, warmup, max_step } => Method::Anderson {
                memory: times(memory),
                mixing: (mixing * factor).min(1.0),
                warmup: times(warmup),
                max_step: max_step * factor,
            },
            other => other,
        };
        let effort = |effort: Effort| Effort {
            method: stretched(effort.method),
            evaluations: times(effort.evaluations),
            patience: times(effort.patience),
        };
        let default = Tuning::default();
        let mut add = |name: &str, change: &dyn Fn(&mut Tuning)| {
            let mut tuning = default;
            change(&mut tuning);
            all.push((format!("{name} x {factor}"), tuning));
        };
        add("coarse_nodes", &|t| t.coarse_nodes = t.coarse_nodes.map(times));
        add("approach", &|t| t.approach = effort(t.approach));
        add("detour", &|t| t.detour = effort(t.detour));
        add("polish", &|t| t.polish = effort(t.polish));
        add("first_tolerance", &|t| t.first_tolerance *= factor);
        add("middle_tolerance", &|t| t.middle_tolerance *= factor);
        add("share", &|t| t.share *= factor);
        add("leap", &|t| t.leap *= factor);
        add("close", &|t| t.close *= factor);
        add("hopeless", &|t| t.hopeless *= factor);
        add("difference", &|t| t.difference *= factor);
        add("rough_difference", &|t| t.rough_difference *= factor);
    }
    all
}

#[test]
fn every_constant_of_the_tuning_is_varied() {
    let listing = format!("{:#?}", Tuning::default());
    // The fields of the structure itself are indented by four spaces.
    let fields = listing.lines().filter(|line| line.starts_with("    ") && !line.starts_with("     "));
    let fields: Vec<&str> = fields.filter_map(|line| Some(line.trim().split_once(": ")?.0)).collect();
    let changes: Vec<String> = variations().into_iter().map(|(change, _)| change).collect();
    let expected: Vec<String> =
        ["0.5", "2"].iter().flat_map(|x| fields.iter().map(move |field| format!("{field} x {x}"))).collect();
    assert_eq!(changes, expected);
    assert!(variations().iter().all(|(_, tuning)| *tuning != Tuning::default()));
}

#[test]
fn constants_that_steer_the_speed_do_not_decide_answers() {
    for (name, stage) in Stage::all() {
        let reference = stage.solve(None, Tuning::default());
        assert_eq!(reference.status, Status::Converged, "{name}");
        for (change, tuning) in variations() {
            let answer = stage.solve(None, tuning);
            assert_eq!(answer.status, Status::Converged, "{name}, {change}");
            for ((x, y), error) in answer.numbers.iter().zip(reference.numbers).zip(reference.errors) {
                // The change is far less than a standard error, because the fixed point is on the same nodes. The control variates
                // of softmax fine-tuning are fitted at the fixed point of the coarse nodes, which is some standard errors away.
                let error = error.unwrap();
                let part = if name == "softmax fine-tuning" { 0.1 } else { 1e-3 };
                assert!((x - y).abs() < part * error, "{name}, {change}: {x} against {y} +- {error}");
            }
        }
    }
}

/// A positive number, as a point and as an average.
#[derive(Clone, PartialEq, Debug)]
struct Number(f64);

impl Overlaps for Number {
    fn coordinates(&self) -> Vec<f64> {
        vec![self.0]
    }

    fn at(&self, coordinates: &[f64]) -> Self {
        Self(coordinates[0])
    }
}

impl Averages for Number {
    fn terms(&self) -> Vec<f64> {
        vec![self.0]
    }

    fn from_terms(terms: &[f64]) -> Self {
        Self(terms[0])
    }
}

/// The logarithm `u` of the number goes to `u/2`, plus a ripple that `rough_difference` averages over, plus a different shift for every replicate.
struct Ripple {
    rough: bool,
}

impl Ripple {
    const SHIFTS: [f64; 4] = [0.01, 0.02, -0.01, -0.02];
    /// Standard error of the mean of the shifts.
    const ERROR: f64 = 0.009_128_709_291_752_768;
}

impl OutputChannel for Ripple {
    type Point = Number;
    type Averages = Number;

    fn levels(&self) -> usize {
        2
    }

    fn averages(&mut self, _level: usize, _pass: Pass, point: &Number) -> Vec<Number> {
        let u = point.0.ln();
        let wave = std::f64::consts::TAU / Tuning::default().rough_difference;
        let image = 0.5 * u + 0.4 / wave * (wave * u).sin();
        Self::SHIFTS.map(|shift| Number(image + shift)).to_vec()
    }

    fn is_rough(&self) -> bool {
        self.rough
    }
}

struct Exponential;

impl InputChannel for Exponential {
    type Point = Number;
    type Averages = Number;

    fn image(&self, _at: &Number, averages: &Number) -> Number {
        Number(averages.0.exp())
    }
}

#[test]
fn error_bars_of_a_rough_channel_are_from_slopes_over_a_longer_distance() {
    let error = |rough| {
        let mut output = Ripple { rough };
        let mut evolution = StateEvolution::new(&mut output, Exponential, &Options::default());
        let solved = evolution.solve(&Number(1.3)).unwrap();
        assert_eq!(solved.status, Status::Converged);
        // The residual is at most a twentieth of the standard error, and the slope of the map at u = 0 is 9/10.
        assert!(solved.point.0.ln().abs() < 0.5 * Ripple::ERROR, "{solved:?}");
        solved.standard_error(|point, _| point.0.ln()).unwrap()
    };
    // The slope is 1/2 over the longer distance, and close to 4/5 over the shorter one.
    let (rough, smooth) = (error(true), error(false));
    assert!((rough / (2.0 * Ripple::ERROR) - 1.0).abs() < 0.02, "{rough}");
    assert!(smooth > 4.0 * Ripple::ERROR, "{smooth}");
}
