//! Arbitrary arguments for the module `fixed_point`: any map, from any start, by any rule.

use std::hint::black_box;

use lora_asymptotics::fixed_point::{
    Coordinate, History, Method, Options, Problem, Secant, Status, solve, solve_observed,
};
use lora_asymptotics::quadrature::MAX_DIMENSIONS;
use lora_asymptotics::state_evolution::{
    Averages, GaussianNodes, InputChannel, OutputChannel, Overlaps, Pass, StateEvolution, Tuning,
};
use proptest::prelude::*;
use proptest::sample::select;

use super::values::{config, count, number, spoken};

fn method() -> impl Strategy<Value = Method> {
    let mixing = prop_oneof![4 => 0.01..1.0, 1 => number()];
    let max_step = prop_oneof![4 => 0.01..1.0, 1 => number()];
    prop_oneof![
        Just(Method::Picard),
        mixing.clone().prop_map(|mixing| Method::Damped { mixing }),
        (count(), mixing, count(), max_step).prop_map(|(memory, mixing, warmup, max_step)| {
            Method::Anderson { memory, mixing, warmup, max_step }
        }),
    ]
}

/// The bounds allow a few hundred evaluations. With both bounds huge, a map without a fixed point would be
/// iterated for ever, as requested.
fn options() -> impl Strategy<Value = Options> {
    let tolerance = prop_oneof![4 => (-30.0_f64..0.0).prop_map(f64::exp), 1 => number()];
    (tolerance, 0_usize..300, method(), count()).prop_map(|(tolerance, max_iterations, method, patience)| {
        Options { tolerance, max_iterations, method, patience }
    })
}

fn run<const N: usize>(numbers: &[f64], logarithmic: &[bool], options: &Options, kind: usize) {
    let at = |k: usize| numbers[k % numbers.len()];
    let coordinate = |log: &bool| if *log { Coordinate::Log } else { Coordinate::Linear };
    let mut problem = Problem::<[f64; N]>::new(std::array::from_fn(at), Coordinate::Log);
    // Most often the length does not fit.
    problem.coordinates = logarithmic.iter().map(coordinate).collect();
    if kind.is_multiple_of(2) {
        problem.coordinates.resize(N, Coordinate::Log);
    }
    if kind.is_multiple_of(3) {
        let secant = Secant {
            step: std::array::from_fn(|i| at(i + 3)),
            residual_change: std::array::from_fn(|i| at(i + 5)),
        };
        problem.secants = vec![secant; kind % 4];
    }
    black_box(problem.physical(&problem.iterated(&problem.start)));
    let mut evaluations = 0;
    let mut history = History::default();
    let solved = solve_observed(&problem, options, &mut history, |x| {
        evaluations += 1;
        std::array::from_fn(|i| match kind % 5 {
            0 => at(i + 1) * x[i] + at(i + 2),
            1 => (at(i + 1) * x[(i + 1) % N]).tanh() + 0.1,
            2 => at(i + evaluations),
            3 => x[i] * x[i] + at(i + 1),
            _ => at(i + 1) / x[(i + 1) % N],
        })
    });
    let Some(report) = spoken(solved) else { return };
    assert_eq!(report.iterations, evaluations);
    assert!(evaluations <= options.max_iterations);
    assert_eq!(history.iterates.len(), evaluations);
    if report.status == Status::Converged {
        assert!(report.residual <= options.tolerance, "{report:?}");
    }
    assert!(!report.residual.is_nan() && report.residual >= 0.0, "{report:?}");
    assert!(!report.status.hint().is_empty() && !report.status.to_string().is_empty());
    assert_eq!(report.status.is_success(), matches!(report.status, Status::Converged | Status::Collapsed));
}

proptest! {
    #![proptest_config(config(1))]

    #[test]
    fn any_map(numbers in prop::collection::vec(number(), 1..10), logarithmic in prop::collection::vec(any::<bool>(), 1..4),
               options in options(), kind in select((0..60).collect::<Vec<usize>>())) {
        run::<0>(&numbers, &logarithmic, &options, kind);
        run::<1>(&numbers, &logarithmic, &options, kind);
        run::<3>(&numbers, &logarithmic, &options, kind);
    }

    /// The images may have another length than their arguments.
    #[test]
    fn any_length(start in prop::collection::vec(number(), 0..4), image in prop::collection::vec(number(), 0..4), options in options()) {
        let problem = Problem::new(start.clone(), Coordinate::Linear);
        if let Some(report) = spoken(solve(&problem, &options, |_| image.clone())) {
            prop_assert_eq!(report.point.len(), start.len());
        }
    }

    /// The channels return any numbers, in any number.
    #[test]
    fn any_channels(start in prop::collection::vec(number(), 0..4), lists in prop::collection::vec(prop::collection::vec(number(), 0..4), 0..5),
                    levels in 0_usize..4, options in super::values::options()) {
        let mut output = Numbers { lists: lists.clone(), levels, calls: 0 };
        let mut evolution = StateEvolution::new(&mut output, Sum, &options);
        if let Some(solved) = spoken(evolution.solve(&List(start))) {
            prop_assert!(solved.iterations <= options.max_iterations());
            prop_assert!(!solved.status.is_success() || solved.residual.is_finite());
            let error = solved.standard_error(|point, averages| point.0.iter().chain(&averages.0).sum());
            prop_assert!(error.is_none_or(f64::is_finite));
        }
    }
}

fn nodes<const D: usize>(options: &lora_asymptotics::Options, tuning: &Tuning, level: usize) {
    let Some(mut nodes) = spoken(GaussianNodes::<D>::new(options, tuning)) else {
        assert!(D == 0 || D > MAX_DIMENSIONS);
        return;
    };
    assert!((1..=3).contains(&nodes.levels()));
    let means = nodes.means(level, |x| [1.0, x[0], x[D - 1]]);
    assert_eq!(means.len(), options.scrambles());
    assert!(
        means
            .iter()
            .all(|[one, first, last]| (one - 1.0).abs() < 1e-12 && first.abs() < 3.0 && last.abs() < 3.0)
    );
}

proptest! {
    #![proptest_config(config(4))]

    #[test]
    fn any_nodes(options in super::values::options(), coarse in prop::array::uniform2(count()), level in count()) {
        let mut tuning = Tuning::default();
        tuning.coarse_nodes = coarse;
        nodes::<0>(&options, &tuning, level);
        nodes::<1>(&options, &tuning, level);
        nodes::<3>(&options, &tuning, level);
        nodes::<161>(&options, &tuning, level);
    }
}

/// A list of numbers as a point, and as averages.
#[derive(Clone, PartialEq, Debug)]
struct List(Vec<f64>);

impl Overlaps for List {
    fn coordinates(&self) -> Vec<f64> {
        self.0.clone()
    }

    fn at(&self, coordinates: &[f64]) -> Self {
        Self(coordinates.to_vec())
    }
}

impl Averages for List {
    fn terms(&self) -> Vec<f64> {
        self.0.clone()
    }

    fn from_terms(terms: &[f64]) -> Self {
        Self(terms.to_vec())
    }
}

struct Numbers {
    lists: Vec<Vec<f64>>,
    levels: usize,
    calls: usize,
}

impl OutputChannel for Numbers {
    type Point = List;
    type Averages = List;

    fn levels(&self) -> usize {
        self.levels
    }

    fn averages(&mut self, _level: usize, _pass: Pass, _point: &List) -> Vec<List> {
        self.calls += 1;
        self.lists.iter().skip(self.calls % 2).cloned().map(List).collect()
    }

    fn is_rough(&self) -> bool {
        self.levels == 2
    }
}

struct Sum;

impl InputChannel for Sum {
    type Point = List;
    type Averages = List;

    fn image(&self, at: &List, averages: &List) -> List {
        let sum = averages.0.iter().sum::<f64>();
        List(at.0.iter().map(|x| (x * sum).abs().sqrt()).collect())
    }
}
