//! Grids: shards, interruption, fields, and agreement with single solves.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::ops::ControlFlow;

use lora_asymptotics::sweep::{Axis, Record, Scale, Shard, Sweep};
use lora_asymptotics::{Error, Scenario};

/// Six rows of five points, in both stages. In the last rows the student is narrow, and its rank does not
/// fit.
fn small() -> Sweep {
    Sweep::from_json(
        r#"{"scenario": {"model": {"tokens": 2, "activation": "linear", "delta": 0.5, "teacher": {"wishart": {"kappa0": 0.5}}},
                         "pretrain": {"alpha": 0.2, "lambda": 0.1}, "lora": {"alpha": 3.0, "lambda": 0.5},
                         "options": {"log2_nodes": 8}},
            "axes": [{"field": "pretrain.kappa", "values": [1.0, 0.2]},
                     {"field": "lora.alpha", "from": 2.0, "to": 4.0, "count": 3},
                     {"field": "pretrain.lambda", "from": 0.3, "to": 0.03, "count": 5, "scale": "log"}]}"#,
    )
    .unwrap()
}

/// Returns the result of `work` on a pool with the given number of threads.
fn on<R: Send>(threads: usize, work: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}

fn lines(sweep: &Sweep, shard: Shard, done: usize, threads: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let push = |record: &Record| {
        lines.push(serde_json::to_string(record).unwrap());
        ControlFlow::Continue(())
    };
    let emitted = on(threads, || sweep.run(shard, done, push)).unwrap();
    assert_eq!(emitted, lines.len());
    lines
}

#[test]
fn shards_and_threads_make_the_same_bytes() {
    let sweep = small();
    assert_eq!((sweep.points(), sweep.row_length()), (30, 5));
    let whole = lines(&sweep, Shard::WHOLE, 0, 1);
    assert_eq!(whole.len(), 30);
    for threads in [2, 3, 16] {
        assert!(whole == lines(&sweep, Shard::WHOLE, 0, threads), "{threads} threads");
    }
    for of in [1, 2, 4, 6, 7, 100] {
        let merged: Vec<String> =
            (1..=of).flat_map(|part| lines(&sweep, Shard::new(part, of).unwrap(), 0, 2)).collect();
        assert!(whole == merged, "{of} shards");
    }
    for (index, line) in whole.iter().enumerate() {
        let record: Record = serde_json::from_str(line).unwrap();
        assert_eq!((record.index, record.values.clone()), (index, sweep.values(index)));
        assert!(record.outcome.is_some() != record.error.is_some());
        // The line reports that the learned rank does not fit where this is so, and only there.
        assert_eq!(
            record.error.is_some_and(|error| error.kind == "rank_does_not_fit"),
            index >= 15,
            "{line}"
        );
    }
}

#[test]
fn a_journal_of_a_sweep_is_counted_in_whole_rows() {
    let sweep = small();
    let half = Shard::new(2, 2).unwrap();
    let records: Vec<Record> =
        lines(&sweep, half, 0, 2).iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records[0].index, 15);
    for (kept, finished) in [(0, 0), (4, 0), (5, 5), (9, 5), (14, 10), (15, 15)] {
        assert_eq!(sweep.finished(half, &records[..kept]), finished, "{kept} records");
    }
    // The records are those of another shard, too many, or out of order.
    assert_eq!(sweep.finished(Shard::new(1, 2).unwrap(), &records), 0);
    assert_eq!(sweep.finished(half, &[records.clone(), records.clone()].concat()), 15);
    let mut disordered = records;
    disordered.swap(6, 7);
    assert_eq!(sweep.finished(half, &disordered), 5);
}

#[test]
fn a_sweep_goes_on_without_loss_or_duplicates() {
    let sweep = small();
    let whole = lines(&sweep, Shard::WHOLE, 0, 2);
    for stop in [1, 4, 5, 13, 29, 30] {
        let mut first = Vec::new();
        let push = |record: &Record| {
            first.push(serde_json::to_string(record).unwrap());
            if first.len() == stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        on(2, || sweep.run(Shard::WHOLE, 0, push)).unwrap();
        assert!(first == whole[..stop], "stopped after {stop}: {} lines", first.len());
        // Whole rows are kept.
        first.truncate(stop / 5 * 5);
        first.extend(lines(&sweep, Shard::WHOLE, stop, 2));
        assert!(first == whole, "went on after {stop}: {} lines", first.len());
    }
}

#[test]
fn warm_starts_find_what_cold_ones_do() {
    for (activation, residual, tolerance) in [("linear", 1e-9, 1e-8), ("softmax", 1e-7, 1e-4)] {
        let sweep = Sweep::from_json(&format!(
            r#"{{"scenario": {{"model": {{"tokens": 2, "activation": "{activation}", "delta": 0.5, "teacher": {{"wishart": {{"kappa0": 0.5}}}}}},
                             "pretrain": {{"alpha": 0.2, "lambda": 0.1}}, "lora": {{"alpha": 5.0, "lambda": 0.5}},
                             "options": {{"log2_nodes": 10, "tolerance": {residual}}}}},
                "axes": [{{"field": "pretrain.lambda", "from": 0.3, "to": 0.01, "count": 8, "scale": "log"}}]}}"#
        ))
        .unwrap();
        let mut checked = 0;
        sweep
            .run(Shard::WHOLE, 0, |record| {
                let warm = record.outcome.as_ref().unwrap();
                let cold = sweep.at(&record.values).unwrap().solve().unwrap();
                let numbers = |outcome: &lora_asymptotics::Outcome| {
                    let (base, tuned) = (outcome.pretrain.as_ref().unwrap(), outcome.lora.as_ref().unwrap());
                    [
                        base.order.q,
                        base.order.m,
                        base.errors.test,
                        tuned.order.q,
                        tuned.order.m,
                        tuned.errors.test,
                    ]
                };
                for (warm, cold) in numbers(warm).into_iter().zip(numbers(&cold)) {
                    assert!(
                        (warm - cold).abs() <= tolerance * cold.abs(),
                        "{activation}: {warm} {cold} {record:?}"
                    );
                }
                checked += 1;
                ControlFlow::Continue(())
            })
            .unwrap();
        assert_eq!(checked, 8);
    }
}

#[test]
fn any_previous_outcome_will_do() {
    for activation in ["linear", "softmax"] {
        let scenario = Scenario::from_json(&format!(
            r#"{{"model": {{"tokens": 2, "activation": "{activation}", "delta": 0.5, "teacher": {{"wishart": {{"kappa0": 0.5}}}}}},
                "pretrain": {{"alpha": 0.2, "lambda": 0.1}}, "lora": {{"alpha": 6.0, "lambda": 0.5}},
                "options": {{"log2_nodes": 9, "tolerance": 1e-7}}}}"#
        ))
        .unwrap();
        let cold = scenario.solve().unwrap();
        let (base, tuned) = (cold.pretrain.clone().unwrap(), cold.lora.clone().unwrap());
        for value in [0.0, 1e-300, 1e-8, 1e-3, 7.0, 1e4, 1e150, 1e300, f64::INFINITY, f64::NAN, -1.0] {
            for which in 0..4 {
                let mut previous = cold.clone();
                let (first, second) = (previous.pretrain.as_mut().unwrap(), previous.lora.as_mut().unwrap());
                for (k, number) in
                    [&mut first.order.q, &mut first.order.m, &mut first.order.v].into_iter().enumerate()
                {
                    *number = if which == 3 || which == k { value } else { *number };
                }
                for (k, number) in
                    [&mut second.order.q, &mut second.order.m, &mut second.order.v].into_iter().enumerate()
                {
                    *number = if which == 3 || which == k { value } else { *number };
                }
                let warm = scenario.solve_from(&previous).unwrap();
                let (warm_base, warm_tuned) = (warm.pretrain.unwrap(), warm.lora.unwrap());
                // From a distant start, the divergences may be estimated in the other way, with a difference
                // of standard errors.
                let close = |a: f64, b: f64, error: Option<f64>| {
                    (a - b).abs() < 1e-4 * b + 4.0 * error.unwrap_or(0.0)
                };
                assert!(
                    close(warm_base.order.q, base.order.q, base.std_error.q)
                        && close(warm_tuned.order.m, tuned.order.m, tuned.std_error.m),
                    "{activation}, {value:e} at {which}: {:?} {:?} {:?}",
                    warm_base.order,
                    warm_tuned.order,
                    (warm_base.status, warm_tuned.status, warm_tuned.residual, warm_tuned.validity)
                );
            }
        }
    }
}

#[test]
fn any_number_of_a_scenario_can_vary() {
    let scenario = Scenario::from_json(
        r#"{"model": {"tokens": 2, "activation": "softmax", "delta": 0.5, "teacher": {"wishart": {"kappa0": 0.5}}},
            "pretrain": {"alpha": 0.2, "lambda": 0.1},
            "lora": {"alpha": 5.0, "lambda": 0.5, "sequences": {"active": {"fraction": 0.5}}}}"#,
    )
    .unwrap();
    for (field, value) in [
        ("model.tokens", 3.0),
        ("model.delta", 0.25),
        ("model.inverse_temperature", 1.5),
        ("model.teacher.wishart.kappa0", 0.75),
        ("pretrain.alpha", 0.3),
        ("pretrain.kappa", 0.9),
        ("lora.q0", 2.0),
        ("lora.beta", 0.5),
        ("lora.sequences.active.fraction", 0.25),
        ("options.log2_nodes", 9.0),
        ("options.seed", 7.0),
    ] {
        let sweep = Sweep::new(scenario.clone(), vec![Axis::list(field, vec![value]).unwrap()]).unwrap();
        let changed = sweep.at(&[value]).unwrap();
        assert_ne!(changed, scenario, "{field}");
        changed.validate().unwrap();
    }
    for (field, value) in [
        ("model.tokens", 2.5),
        ("model.tokens", 9.0),
        ("model.teacher", 1.0),
        ("model.activation", 1.0),
        ("model", 1.0),
        ("lora.nonsense", 1.0),
        ("frozen.q", 1.0),
        ("", 1.0),
        ("lora.lambda", -1.0),
        ("lora.sequences.active.fraction", 2.0),
    ] {
        let axis = Axis::list(field, vec![value]).unwrap();
        assert!(Sweep::new(scenario.clone(), vec![axis]).is_err(), "{field} = {value}");
    }
    assert!(Sweep::new(scenario.clone(), vec![]).is_err());
    let long = || Axis::range("lora.alpha", 1.0, 2.0, 10_000, Scale::Linear).unwrap();
    let axes = vec![long(), Axis::range("lora.lambda", 1.0, 2.0, 100_000, Scale::Log).unwrap()];
    assert!(matches!(Sweep::new(scenario, axes), Err(Error::InvalidParameter { field: "axes", .. })));
}

#[test]
fn axes_are_validated() {
    assert!(Axis::list("x", vec![]).is_err() && Axis::list("x", vec![f64::NAN]).is_err());
    assert!(Axis::range("x", 0.0, 1.0, 3, Scale::Log).is_err());
    assert!(Axis::range("x", 0.0, f64::INFINITY, 3, Scale::Linear).is_err());
    assert!(Axis::range("x", 0.0, 1.0, 0, Scale::Linear).is_err());
    let log = Axis::range("x", 0.01, 1.0, 3, Scale::Log).unwrap();
    assert!((log.values()[1] - 0.1).abs() < 1e-15 && log.values()[2].to_bits() == 1.0_f64.to_bits());
    let linear = Axis::range("x", 1.0, 0.0, 5, Scale::Linear).unwrap();
    assert_eq!(linear.values(), [1.0, 0.75, 0.5, 0.25, 0.0]);
    assert_eq!(Axis::range("x", 0.3, 1.0, 1, Scale::Log).unwrap().values(), [0.3]);
    for text in [
        r#"{"field": "x"}"#,
        r#"{"field": "x", "values": [1.0], "from": 1.0}"#,
        r#"{"field": "x", "from": 1.0, "to": 2.0}"#,
        r#"{"field": "x", "values": [1.0], "unknown": 1}"#,
    ] {
        assert!(serde_json::from_str::<Axis>(text).is_err(), "{text}");
    }
    for text in ["1/0", "0/3", "4/3", "1", "a/b", "-1/2", "1/2/3"] {
        assert!(text.parse::<Shard>().is_err(), "{text}");
    }
    assert_eq!("2/3".parse::<Shard>().unwrap(), Shard::new(2, 3).unwrap());
    assert_eq!(Shard::new(2, 3).unwrap().to_string(), "2/3");
    let marked = format!("\u{feff}{}", serde_json::to_string(&small()).unwrap());
    assert_eq!(Sweep::from_json(&marked).unwrap(), small());
    for done in [30, usize::MAX] {
        assert_eq!(small().run(Shard::WHOLE, done, |_| ControlFlow::Continue(())).unwrap(), 0);
    }
}

/// A solve inside `emit` must not begin another row on top of it, which would wait for ever for the lock that the first one holds.
#[test]
fn what_is_emitted_may_be_solved_again() {
    let sweep = small();
    let mut solved = 0;
    let again = |record: &Record| {
        let cold = sweep.at(&record.values).unwrap().solve();
        assert_eq!(cold.is_ok(), record.outcome.is_some());
        solved += 1;
        ControlFlow::Continue(())
    };
    assert_eq!(on(4, || sweep.run(Shard::WHOLE, 0, again)).unwrap(), 30);
    assert_eq!(solved, 30);
}
