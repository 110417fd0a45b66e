//! `fixed_point`: any map, from any start, by any rule.

use std::hint::black_box;

use lora_asymptotics::fixed_point::{Coordinate, Method, Options, Problem, Secant, Status, solve};
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

/// At most some hundreds of evaluations: with both bounds huge, a map without a fixed point is iterated for ever, as was asked.
fn options() -> impl Strategy<Value = Options> {
    let tolerance = prop_oneof![4 => (-30.0_f64..0.0).prop_map(f64::exp), 1 => number()];
    (tolerance, 0_usize..300, method(), count(), any::<bool>()).prop_map(
        |(tolerance, max_iterations, method, patience, record_history)| Options {
            tolerance,
            max_iterations,
            method,
            patience,
            record_history,
        },
    )
}

fn run<const N: usize>(numbers: &[f64], logarithmic: &[bool], options: &Options, kind: usize) {
    let at = |k: usize| numbers[k % numbers.len()];
    let coordinates = std::array::from_fn(|i| {
        if logarithmic[i % logarithmic.len()] { Coordinate::Log } else { Coordinate::Linear }
    });
    let mut problem = Problem::<N>::new(std::array::from_fn(at), coordinates);
    if kind.is_multiple_of(3) {
        let secant = Secant {
            step: std::array::from_fn(|i| at(i + 3)),
            residual_change: std::array::from_fn(|i| at(i + 5)),
        };
        problem.secants = vec![secant; kind % 4];
    }
    black_box(problem.physical(&problem.iterated(&problem.start)));
    let mut evaluations = 0;
    let solved = solve(&problem, options, |x| {
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
    assert_eq!(report.history.len(), if options.record_history { evaluations } else { 0 });
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
}
