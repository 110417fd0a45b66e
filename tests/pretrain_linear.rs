//! Pre-training of linear attention: reference values, the raw equations, exact identities, limits and error paths.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::num::NonZeroUsize;

use common::{assert_close, log_grid, model, solve, solved};
use gauss_quad::GaussLegendre;
use lora_asymptotics::fixed_point::{self, Coordinate, Method, Problem, Status};
use lora_asymptotics::pretrain::{self, Solution, Training, alpha_interp, lambda_collapse, linear_step};
use lora_asymptotics::spectrum::{TeacherSpectrum, Wishart};
use lora_asymptotics::{Error, Model, Options, Teacher, observables};
use proptest::prelude::*;
use serde_json::Value;

/// Ordinary points, `(T, Delta, kappa0, alpha, lambda)`, without a small ridge and without a threshold
/// nearby.
const ORDINARY: [(usize, f64, f64, f64, f64); 12] = [
    (1, 0.5, 1.0, 0.5, 0.1),
    (1, 0.1, 0.3, 0.8, 0.3),
    (2, 0.5, 0.5, 0.2, 0.1),
    (2, 0.05, 0.2, 2.0, 0.02),
    (2, 1.0, 2.0, 0.5, 0.5),
    (2, 0.0, 0.5, 0.4, 0.2),
    (3, 0.5, 1.0, 0.1, 0.1),
    (3, 0.5, 1.0, 0.1, 0.9),
    (3, 2.0, 0.7, 1.0, 0.05),
    (4, 0.3, 0.3, 0.3, 0.05),
    (5, 0.2, 1.5, 0.1, 0.03),
    (8, 1.0, 0.5, 0.05, 0.02),
];

fn ordinary() -> impl Iterator<Item = (Model, Training, Solution)> {
    ORDINARY.into_iter().map(|(tokens, delta, kappa0, alpha, lambda)| {
        let (model, training) = (model(tokens, delta, kappa0), Training::new(alpha, lambda).unwrap());
        let solution = solved(&model, &training);
        assert_eq!(solution.status, Status::Converged, "{model:?}, {training:?}");
        (model, training, solution)
    })
}

/// `K = T(T+1)/2` and `T^2`.
fn geometry(model: &Model) -> (f64, f64) {
    let tokens = model.tokens() as f64;
    (0.5 * tokens * (tokens + 1.0), tokens * tokens)
}

/// `Q0 - 2M + Q + Delta/2`, computed as written.
fn noisy_mse(model: &Model, solution: &Solution) -> f64 {
    solution.q0 - 2.0 * solution.order.m + solution.order.q + 0.5 * model.delta()
}

/// `1 + 4V/T^2`.
fn shrinkage(model: &Model, solution: &Solution) -> f64 {
    1.0 + 4.0 * solution.order.v / geometry(model).1
}

/// `c = (2/T^2)/(1 + 4V/T^2)` and `Qhat = 8 alpha K c^2 (Q0 - 2M + Q + Delta/2)` at any `(V, noisy mse)`.
fn output_channel(model: &Model, alpha: f64, v: f64, noisy_mse: f64) -> (f64, f64) {
    let (k, tokens_squared) = geometry(model);
    let c = (2.0 / tokens_squared) / (1.0 + 4.0 * v / tokens_squared);
    (c, 8.0 * alpha * k * c * c * noisy_mse)
}

fn order(solution: &Solution) -> [f64; 3] {
    [solution.order.q, solution.order.m, solution.order.v]
}

/// Whether `Q` and `V` are positive, `Q` is finite, and `0 <= M <= sqrt(Q Q0)`. The roots are taken one
/// at a time, because products overflow.
fn makes_sense(solution: &Solution) -> bool {
    let [q, m, v] = order(solution);
    q.is_finite() && q > 0.0 && v > 0.0 && m >= 0.0 && m <= q.sqrt() * solution.q0.sqrt() * (1.0 + 1e-9)
}

mod reference {
    use super::*;

    pub(super) struct Record {
        pub(super) model: Model,
        pub(super) training: Training,
        pub(super) expected: Value,
    }

    pub(super) fn records() -> Vec<Record> {
        let lines = include_str!("data/pretrain_linear.jsonl").lines();
        let records: Vec<Record> = lines
            .map(|line| {
                let record: Value = serde_json::from_str(line).unwrap();
                let scenario = &record["scenario"];
                Record {
                    model: serde_json::from_value(scenario["model"].clone()).unwrap(),
                    training: serde_json::from_value(scenario["pretrain"].clone()).unwrap(),
                    expected: record["expected"]["pretrain"].clone(),
                }
            })
            .collect();
        assert_eq!(records.len(), 6);
        records
    }

    pub(super) fn is_wrong(record: &Record) -> bool {
        record.model.tokens() == 4 && record.model.delta() <= 0.0
    }

    /// Compares every leaf of `expected` with the same path of `found`, and returns the number of leaves.
    fn compare(path: &str, expected: &Value, found: &Value) -> usize {
        match expected {
            Value::String(_) => {
                assert_eq!(expected, found, "{path}");
                1
            }
            Value::Object(fields) if fields.contains_key("value") => {
                assert_close(path, found.as_f64().unwrap(), fields["value"].as_f64().unwrap(), 1e-9);
                1
            }
            Value::Object(fields) => fields
                .iter()
                .map(|(name, value)| compare(&format!("{path}.{name}"), value, &found[name]))
                .sum(),
            other => panic!("{path}: {other}"),
        }
    }

    #[test]
    fn values_agree() {
        for (i, record) in records().iter().enumerate().filter(|(_, record)| !is_wrong(record)) {
            let solution = solved(&record.model, &record.training);
            let leaves =
                compare(&format!("record {i}"), &record.expected, &serde_json::to_value(&solution).unwrap());
            let collapsed = solution.status == Status::Collapsed;
            assert_eq!(leaves, if collapsed { 5 } else { 11 }, "record {i}");
        }
    }

    /// The code that made the records clips `M` at `0.999 sqrt(Q (Q0 + Delta/2))`. At `Delta = 0` and nearly
    /// perfect recovery the clip is active, and the values that the code returned are not a fixed point.
    #[test]
    fn the_record_that_disagrees_is_wrong() {
        let records = records();
        let mut wrong = records.iter().filter(|record| is_wrong(record));
        let (Some(record), None) = (wrong.next(), wrong.next()) else { panic!("one record is wrong") };
        let Record { model, training, expected } = record;
        let leaf = |path: &str| expected.pointer(&format!("/{path}/value")).unwrap().as_f64().unwrap();
        let Some(&Teacher::Wishart { kappa0 }) = model.teacher() else { panic!("a Wishart teacher") };
        let ours = solved(model, training);

        // The Qhat of the record is not the closed form at its own (Q, M, V), but the one at the clipped M.
        // Our Qhat is at our own M.
        let [q, m, v, q_hat] = ["order/q", "order/m", "order/v", "order/q_hat"].map(leaf);
        let closed_form = |m: f64| output_channel(model, training.alpha(), v, 1.0 + kappa0 - 2.0 * m + q).1;
        let clipped = 0.999 * (q * (1.0 + kappa0)).sqrt();
        assert!(clipped < m && q_hat > 8.0 * closed_form(m), "{q_hat} at {m}, not {}", closed_form(m));
        assert_close("Qhat of the record at the clip", q_hat, closed_form(clipped), 1e-9);
        let own_mse = ours.errors.test * geometry(model).1 / (2.0 * geometry(model).0);
        let q_hat = output_channel(model, training.alpha(), ours.order.v, own_mse).1;
        assert_close("our Qhat", ours.order.q_hat, q_hat, 1e-12);

        // S = S* is feasible and has no train error at Delta = 0, so that its loss is lower than the "global
        // minimum" of the record.
        let feasible =
            training.lambda().unwrap() * training.kappa().sqrt() * Wishart::new(kappa0).unwrap().mean();
        assert_close("objective at S*", feasible, 1e-3 * 0.3_f64.sqrt(), 1e-14);
        assert!(leaf("objective") > 1.1 * feasible);
        assert!(ours.objective < feasible);

        // The reference is the same code without the clip. Its test error is a difference of numbers of order
        // 1.
        assert_close("Q", ours.order.q, 1.298_404_558_190_487_3, 1e-9);
        assert_close("M", ours.order.m, 1.299_201_931_115_516_7, 1e-9);
        assert_close("V", ours.order.v, 0.371_203_456_887_533_4, 1e-9);
        assert_close("trace", ours.trace, 0.547_285_456_219_115_1, 1e-9);
        assert_close("test error", ours.errors.test, 8.699_493_173_058_848e-7, 1e-7);
        assert_close("objective", ours.objective, 5.475_039_973_302_146e-4, 1e-9);
    }
}

mod grid {
    use super::*;

    /// Asserts that every point is solved, and collapsed exactly on the far side of the threshold.
    fn check(model: &Model, n: usize) {
        let (mut converged, mut collapsed) = (0, 0);
        for alpha in log_grid(1e-2, 10.0, n) {
            let threshold = lambda_collapse(model, &Training::new(alpha, 1.0).unwrap(), &Options::default())
                .unwrap()
                .value;
            for lambda in log_grid(1e-6, 10.0, n) {
                let training = Training::new(alpha, lambda).unwrap();
                let solution = solve(model, &training);
                let point = format!("{model:?}, {training:?}: {solution:?}");
                match solution.status {
                    Status::Converged => {
                        assert!(lambda < threshold, "{point}");
                        assert!(solution.residual <= 1e-10 && solution.order.q > 0.0, "{point}");
                        converged += 1;
                    }
                    Status::Collapsed => {
                        assert!(lambda >= threshold, "{point}");
                        collapsed += 1;
                    }
                    _ => panic!("{point}"),
                }
                let [q, m, _] = order(&solution);
                assert!(m * m <= q * solution.q0 * (1.0 + 1e-12), "{point}");
            }
        }
        assert_eq!(converged + collapsed, n * n);
        assert!(converged > n * n / 2, "the grid must not be trivial");
    }

    #[test]
    fn fine() {
        check(&model(2, 0.5, 0.5), 30);
    }

    #[test]
    fn coarse_at_other_models() {
        for tokens in [1, 3, 8] {
            for delta in [0.0, 1e-8, 0.5] {
                for kappa0 in [0.05, 0.5, 1.0, 2.0] {
                    check(&model(tokens, delta, kappa0), 10);
                }
            }
        }
    }
}

mod raw_equations {
    use super::*;

    #[test]
    fn iterating_them_from_a_cold_start_leads_to_the_solution() {
        for (model, training, solution) in ordinary() {
            for method in [Method::Picard, Method::default()] {
                let problem = Problem::new([0.1, 0.05, 1.0], Coordinate::Log);
                let options = fixed_point::Options {
                    tolerance: 1e-12,
                    max_iterations: 20_000,
                    method,
                    ..fixed_point::Options::default()
                };
                let report = fixed_point::solve(&problem, &options, |point| {
                    linear_step(&model, &training, *point).unwrap_or([f64::NAN; 3])
                })
                .unwrap();
                assert_eq!(report.status, Status::Converged, "{model:?}, {training:?}, {method:?}");
                for (name, (found, expected)) in
                    ["Q", "M", "V"].iter().zip(report.point.iter().zip(order(&solution)))
                {
                    assert_close(
                        &format!("{name}, {model:?}, {training:?}, {method:?}"),
                        *found,
                        expected,
                        1e-8,
                    );
                }
            }
        }
    }

    #[test]
    fn output_channel_is_the_closed_form() {
        for (model, training, solution) in ordinary() {
            let (c, q_hat) =
                output_channel(&model, training.alpha(), solution.order.v, noisy_mse(&model, &solution));
            let v_hat = 4.0 * training.alpha() * geometry(&model).0 * c;
            assert_close("Vhat", solution.order.v_hat, v_hat, 1e-10);
            assert_close("Mhat", solution.order.m_hat, v_hat, 1e-10);
            assert_close("Qhat", solution.order.q_hat, q_hat, 1e-10);
        }
    }

    /// The input channel is computed from the density of `Y = Mhat s* + sqrt(Qhat) Z` alone, in the form of
    /// the theory.
    #[test]
    fn input_channel_is_the_integral_over_the_density() {
        // The substitution x = mid + half cos(theta) resolves the square-root edges.
        let rule = GaussLegendre::new(NonZeroUsize::new(1000).unwrap());
        for (model, training, solution) in ordinary() {
            let Some(&Teacher::Wishart { kappa0 }) = model.teacher() else { panic!("a Wishart teacher") };
            let teacher = Wishart::new(kappa0).unwrap();
            let order = solution.order;
            let noise = order.q_hat.sqrt();
            let snr = order.m_hat / noise;
            let threshold = 2.0 * training.lambda().unwrap() * training.kappa().sqrt();
            // The integral of weight(x, Re G(x)) rho(x) over x above the threshold.
            let integral = |weight: &dyn Fn(f64, f64) -> f64| -> f64 {
                let pieces = teacher.support(snr).into_iter().map(|[low, high]| {
                    let (mid, half) = (0.5 * (low + high), 0.5 * (high - low));
                    let end = ((threshold / noise - mid) / half).clamp(-1.0, 1.0).acos();
                    rule.integrate(0.0, end, |theta| {
                        let y = mid + half * theta.cos();
                        let real = teacher.stieltjes(snr, y)[0] / noise;
                        weight(noise * y, real) * teacher.density(snr, y) * half * theta.sin()
                    })
                });
                pieces.sum()
            };
            let f = |x: f64| (x - threshold) / order.v_hat;
            let v = integral(&|x, real| 2.0 * f(x) * real);
            let m = (integral(&|x, _| x * f(x)) - order.q_hat * v) / order.m_hat;
            let check = |name: &str, value, expected| {
                assert_close(&format!("{name}, {model:?}, {training:?}"), value, expected, 1e-9);
            };
            check("Q", order.q, integral(&|x, _| f(x).powi(2)));
            check("V", order.v, v);
            check("M", order.m, m);
            check("trace", solution.trace, integral(&|x, _| f(x)));
            check("rank fraction", solution.rank_fraction, integral(&|_, _| 1.0));
        }
    }
}

mod identities {
    use super::*;

    /// Fourth-order central difference of `f` at `x`.
    fn derivative(x: f64, f: impl Fn(f64) -> f64) -> f64 {
        let step = 1e-3 * x;
        let pair = |n: f64| f(x + n * step) - f(x - n * step);
        (8.0 * pair(1.0) - pair(2.0)) / (12.0 * step)
    }

    #[test]
    fn the_objective_is_a_minimum_over_the_weights() {
        for (model, training, solution) in ordinary() {
            for kappa in [1.0, 2.5] {
                let training = training
                    .with_width(kappa)
                    .unwrap()
                    .with_lambda(training.lambda().unwrap() / kappa.sqrt())
                    .unwrap();
                let objective = |training: Training| solved(&model, &training).objective;
                // The objective is min_W L(W)/D^2, and lambda multiplies |W|_F^2/D^2 = sqrt(kappa) tr s-hat: at a
                // minimum only the explicit lambda counts.
                let by_lambda = derivative(training.lambda().unwrap(), |lambda| {
                    objective(training.with_lambda(lambda).unwrap())
                });
                assert_close("d/d lambda", by_lambda, kappa.sqrt() * solution.trace, 1e-8);

                // One more sequence raises the minimum by what it costs to add it to weights that have not seen it:
                // min_h [l(h) + |h - omega|^2/(4V)], the loss at the proximal point *plus* the price of moving there.
                // For linear attention h_p - omega = (4V/T^2)(h_label - h_p), so that the price is 4V/T^2 times the
                // loss, and the sum is train (1 + 4V/T^2) = sqrt(train test); the train error alone is less.
                let by_alpha =
                    derivative(training.alpha(), |alpha| objective(training.with_alpha(alpha).unwrap()));
                let envelope = solution.errors.train * shrinkage(&model, &solution);
                assert_close("d/d alpha", by_alpha, envelope, 1e-8);
                assert_close(
                    "the same",
                    envelope,
                    (solution.errors.train * solution.errors.test).sqrt(),
                    1e-12,
                );
            }
        }
    }

    #[test]
    fn errors_are_functions_of_the_order_parameters() {
        for (model, training, solution) in ordinary() {
            let (k, tokens_squared) = geometry(&model);
            let prefactor = 2.0 * k / tokens_squared;
            let mse = noisy_mse(&model, &solution);
            let errors = solution.errors;
            // The left side has no cancellation, but the right side has.
            let rounding = 1e-13 * solution.q0 / mse;
            assert_close("test", errors.test, prefactor * mse, 1e-12 + rounding);
            assert_close(
                "test_clean",
                errors.test_clean + prefactor * 0.5 * model.delta(),
                errors.test,
                1e-12,
            );
            assert_close("train", errors.train, errors.test / shrinkage(&model, &solution).powi(2), 1e-12);
            let ridge = training.lambda().unwrap() * training.kappa().sqrt() * solution.trace;
            assert_close("objective", solution.objective, training.alpha() * errors.train + ridge, 1e-12);
            let alignment = solution.order.m / (solution.order.q * solution.q0).sqrt();
            assert_close("alignment", solution.alignment, alignment, 1e-12);
        }
    }
}

mod interpolation {
    use super::*;

    const BELOW: f64 = 0.05;
    const ABOVE: f64 = 0.2;

    fn layer() -> Model {
        model(2, 0.5, 0.5)
    }

    fn at(alpha: f64, lambda: f64) -> Solution {
        solved(&layer(), &Training::new(alpha, lambda).unwrap())
    }

    #[test]
    fn threshold() {
        let threshold = alpha_interp(&layer()).unwrap().unwrap().value;
        assert!((threshold - 0.102_321).abs() < 1e-6, "{threshold}");
        assert_eq!(alpha_interp(&model(2, 0.0, 0.5)), Ok(None));
        // The threshold separates a train error that vanishes with the ridge from one that does not.
        let train = |factor: f64| at(factor * threshold, 1e-7).errors.train;
        assert!(train(0.98) < 1e-8, "{}", train(0.98));
        assert!(train(1.02) > 1e-4, "{}", train(1.02));
    }

    #[test]
    fn below_it_the_response_diverges_like_the_inverse_ridge() {
        let [a, b] = [1e-5, 1e-6].map(|lambda| at(BELOW, lambda));
        assert_close("lambda V", 1e-5 * a.order.v, 1e-6 * b.order.v, 1e-3);
        assert!(b.errors.train < 1e-8 && b.errors.train < 0.011 * a.errors.train);
        assert_close("Q", a.order.q, b.order.q, 1e-3);
    }

    #[test]
    fn above_it_the_response_converges_to_its_ridgeless_value() {
        let ridgeless = at(ABOVE, 0.0);
        assert_eq!(ridgeless.status, Status::Converged);
        assert!(ridgeless.errors.train > 1e-3);
        // The distance to the limit is linear in the ridge.
        let distance = |lambda| {
            let [q, m, v] = order(&at(ABOVE, lambda));
            [q, m, v]
                .iter()
                .zip(order(&ridgeless))
                .map(|(x, limit)| (x / limit - 1.0).abs())
                .fold(0.0, f64::max)
        };
        assert!(distance(1e-4) < 1e-2, "{}", distance(1e-4));
        assert!(distance(1e-9) < 1e-7, "{}", distance(1e-9));
        assert_close("linear", distance(1e-5), 10.0 * distance(1e-6), 1e-2);
    }

    #[test]
    fn no_ridge_is_refused_where_it_has_no_meaning() {
        let threshold = alpha_interp(&layer()).unwrap().unwrap().value;
        let refused = [(layer(), BELOW), (layer(), threshold), (model(2, 0.0, 0.5), 5.0)];
        for (model, alpha) in refused {
            let error = pretrain::solve(&model, &Training::new(alpha, 0.0).unwrap(), &Options::default())
                .unwrap_err();
            assert!(
                matches!(error, Error::InvalidParameter { field: "pretrain.lambda", .. }),
                "alpha = {alpha}: {error}"
            );
        }
        assert_eq!(at(1.001 * threshold, 0.0).status, Status::Converged);
    }
}

mod collapse {
    use super::*;

    fn layer() -> Model {
        model(3, 0.5, 1.0)
    }

    fn at(lambda: f64) -> Solution {
        solved(&layer(), &Training::new(0.1, lambda).unwrap())
    }

    fn threshold() -> f64 {
        lambda_collapse(&layer(), &Training::new(0.1, 1.0).unwrap(), &Options::default()).unwrap().value
    }

    #[test]
    fn threshold_is_the_published_one() {
        assert!((threshold() - 1.3022).abs() < 5e-5, "{}", threshold());
    }

    #[test]
    fn just_below_the_weights_are_tiny_but_not_zero() {
        let mut previous = f64::INFINITY;
        for gap in [1e-3, 1e-5] {
            let solution = at(threshold() * (1.0 - gap));
            assert_eq!(solution.status, Status::Converged);
            assert!(solution.order.q > 0.0 && solution.order.q < 1e-3 * previous, "{solution:?}");
            previous = solution.order.q;
        }
        let solution = at(1.30);
        assert_eq!(solution.status, Status::Converged);
        assert!((solution.order.q - 6e-10).abs() < 1e-10, "{}", solution.order.q);
    }

    #[test]
    fn above_they_are_exactly_zero() {
        for lambda in [threshold() * (1.0 + 1e-12), threshold() * (1.0 + 1e-3), 1e3] {
            let solution = at(lambda);
            assert_eq!(solution.status, Status::Collapsed, "{lambda}");
            let zeros = [order(&solution), [solution.alignment, solution.trace, solution.rank_fraction]];
            assert_eq!(zeros.map(|row| row.map(f64::to_bits)), [[0; 3]; 2], "{solution:?}");
            let prefactor = 2.0 * 6.0 / 9.0;
            let error = prefactor * (solution.q0 + 0.25);
            for (name, value) in [("test", solution.errors.test), ("train", solution.errors.train)] {
                assert_close(name, value, error, 1e-14);
            }
            assert_close("test_clean", solution.errors.test_clean, prefactor * solution.q0, 1e-14);
            assert_close("objective", solution.objective, 0.1 * error, 1e-14);
            assert_eq!(observables::optimal_recalibration(solution.order.q, solution.order.m), None);
        }
    }
}

mod width {
    use super::*;

    #[test]
    fn only_lambda_times_the_root_of_kappa_matters() {
        for (model, training, wide) in ordinary() {
            for kappa in [1.0_f64, 1.7, 30.0] {
                let scaled = training
                    .with_width(kappa)
                    .unwrap()
                    .with_lambda(training.lambda().unwrap() / kappa.sqrt())
                    .unwrap();
                let solution = solved(&model, &scaled);
                for (name, (found, expected)) in
                    ["Q", "M", "V"].iter().zip(order(&solution).iter().zip(order(&wide)))
                {
                    assert_close(name, *found, expected, 1e-12);
                }
                assert_close("objective", solution.objective, wide.objective, 1e-12);
            }
        }
    }

    #[test]
    fn a_narrow_student_is_solved_if_it_is_wide_enough() {
        for (model, training, wide) in ordinary() {
            let at = |kappa: f64| {
                let training = training
                    .with_width(kappa)
                    .unwrap()
                    .with_lambda(training.lambda().unwrap() / kappa.sqrt())
                    .unwrap();
                pretrain::solve(&model, &training, &Options::default())
            };
            let rank = wide.rank_fraction;
            assert!(rank > 0.0 && rank < 1.0);
            let fits = at(1.001 * rank).unwrap();
            assert_close("Q", fits.order.q, wide.order.q, 1e-12);
            let error = at(0.999 * rank).unwrap_err();
            assert_eq!(error.kind(), "rank_does_not_fit");
            let Error::RankDoesNotFit { kappa, rank_fraction } = error else { panic!("{error}") };
            assert_close("kappa", kappa, 0.999 * rank, 1e-15);
            assert_close("rank fraction", rank_fraction, rank, 1e-12);
        }
    }
}

mod limits {
    use super::*;

    #[test]
    fn plenty_of_data_recover_the_teacher() {
        let mut previous = f64::INFINITY;
        for alpha in [10.0, 1e2, 1e3, 1e5] {
            let solution = solved(&model(2, 0.5, 0.5), &Training::new(alpha, 1e-9).unwrap());
            let error = solution.errors.test_clean;
            // The estimation error of a ridgeless fit falls like 1/alpha.
            assert!(error < 0.2 * previous && error < 1.0 / alpha, "{alpha}: {error}");
            previous = error;
            assert_close("Q", solution.order.q, solution.q0, 1.0 / alpha);
            assert_close("M", solution.order.m, solution.q0, 1.0 / alpha);
        }
    }

    #[test]
    fn more_data_never_hurt_the_best_ridge_and_less_ridge_never_hurts_the_train_error() {
        let layer = model(2, 0.5, 0.5);
        let best = |alpha: f64| {
            log_grid(1e-4, 3.0, 40)
                .map(|lambda| solved(&layer, &Training::new(alpha, lambda).unwrap()).errors.test)
                .fold(f64::INFINITY, f64::min)
        };
        let best: Vec<f64> = log_grid(0.02, 5.0, 12).map(best).collect();
        assert!(best.is_sorted_by(|a, b| a > b), "{best:?}");
        let train: Vec<Solution> = log_grid(1e-5, 10.0, 40)
            .map(|lambda| solved(&layer, &Training::new(0.2, lambda).unwrap()))
            .collect();
        assert!(train.is_sorted_by(|a, b| a.errors.train <= b.errors.train));
        assert!(train.is_sorted_by(|a, b| a.objective <= b.objective && a.trace >= b.trace));
        assert!(train.is_sorted_by(|a, b| a.rank_fraction >= b.rank_fraction));
    }

    #[test]
    fn very_narrow_and_very_wide_teachers() {
        for kappa0 in [1e-5, 1e-3, 1e3, 1e6] {
            for (alpha, lambda) in [(0.05, 0.01), (0.5, 0.1), (5.0, 1e-3)] {
                let solution = solved(&model(2, 0.5, kappa0), &Training::new(alpha, lambda).unwrap());
                assert!((0.0..=1.0).contains(&solution.alignment), "{kappa0}: {solution:?}");
                assert!(solution.residual <= 1e-10);
            }
        }
    }
}

/// Teachers of almost no width, whose eigenvalues grow beyond the range that double precision resolves.
mod vanishing_teachers {
    use super::*;
    use lora_asymptotics::spectrum::Wishart;

    #[test]
    fn they_have_a_limit() {
        for (alpha, lambda) in [(0.05, 0.01), (0.5, 0.1), (5.0, 1e-3)] {
            let at = |kappa0: f64| solved(&model(2, 0.5, kappa0), &Training::new(alpha, lambda).unwrap());
            let [wide, narrow, narrowest] = [1e-3, 1e-4, Wishart::WIDTHS[0]].map(|kappa0| at(kappa0).order.q);
            // The corrections are of order sqrt(kappa0), and decrease by a factor of sqrt(10) from one
            // teacher to the next.
            assert!((narrowest - narrow).abs() < 0.5 * (narrow - wide).abs(), "{wide} {narrow} {narrowest}");
        }
    }

    #[test]
    fn narrower_ones_are_refused() {
        for kappa0 in [9.9e-6, 1e-31, f64::MIN_POSITIVE, 1.1e6] {
            let layer = Model::linear(2, 0.5).unwrap();
            let error = layer.with_teacher(Teacher::Wishart { kappa0 }).unwrap_err();
            assert_eq!(error.kind(), "invalid_parameter");
            assert!(error.to_string().contains("1e-5"), "{error}");
        }
    }

    #[test]
    fn numbers_that_are_wrong_are_not_called_converged() {
        let points = [
            (1, 1.723_989_998_9e-8, 7.019_559_450_2e-3, 2.550_612_447_2e299, 7.073_610_228_2e181),
            (4, 9.728_630_999e-21, 1.196_044_837_9e-5, 1.435_237_178_9e17, 9.279_816_159e4),
            (8, 4.321_323_661_7e-219, 7.697_840_454_5, 5.452_582_003_4e130, 2.677_954_475_3e46),
        ];
        for (tokens, delta, kappa0, alpha, lambda) in points {
            let model = model(tokens, delta, kappa0);
            let solution = solve(&model, &Training::new(alpha, lambda).unwrap());
            assert!(solution.status != Status::Converged || makes_sense(&solution), "{solution:?}");
        }
    }
}

mod invalid_input {
    use super::*;

    const NOT_POSITIVE: [f64; 6] =
        [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, -f64::MIN_POSITIVE, 0.0];
    /// The values that are not positive, without zero.
    const NOT_NON_NEGATIVE: [f64; 5] = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, -f64::MIN_POSITIVE];

    fn good() -> (Model, Training, Options) {
        (model(2, 0.5, 0.5), Training::new(0.2, 0.1).unwrap(), Options::default())
    }

    #[track_caller]
    fn rejected<T: std::fmt::Debug>(result: Result<T, Error>, path: &str) {
        match result.unwrap_err() {
            error @ Error::InvalidParameter { field, .. } => {
                assert_eq!(field, path);
                assert_eq!(error.kind(), "invalid_parameter");
                assert!(error.to_string().starts_with(path), "{error}");
            }
            error => panic!("{path}: {error}"),
        }
    }

    #[test]
    fn fields_of_the_model() {
        let model =
            |tokens, delta, kappa0| Model::linear(tokens, delta)?.with_teacher(Teacher::Wishart { kappa0 });
        for tokens in [0, 9, usize::MAX] {
            rejected(model(tokens, 0.5, 0.5), "model.tokens");
        }
        for delta in NOT_NON_NEGATIVE {
            rejected(model(2, delta, 0.5), "model.delta");
            rejected(good().0.with_delta(delta), "model.delta");
        }
        for kappa0 in NOT_POSITIVE {
            rejected(model(2, 0.5, kappa0), "model.teacher.wishart.kappa0");
        }
    }

    #[test]
    fn a_teacher_is_needed() {
        let model = Model::linear(2, 0.5).unwrap();
        let (_, training, options) = good();
        let errors = [
            pretrain::solve(&model, &training, &options).unwrap_err(),
            alpha_interp(&model).unwrap_err(),
            lambda_collapse(&model, &training, &Options::default()).unwrap_err(),
            linear_step(&model, &training, [1.0; 3]).unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(error, Error::MissingField { field: "model.teacher", .. }), "{error}");
            assert_eq!(error.kind(), "missing_field");
        }
    }

    #[test]
    fn fields_of_the_training() {
        let (_, training, _) = good();
        for value in NOT_POSITIVE {
            rejected(training.with_alpha(value), "pretrain.alpha");
            rejected(Training::new(value, 0.1), "pretrain.alpha");
            rejected(Training::without_ridge(value), "pretrain.alpha");
            rejected(training.with_width(value), "pretrain.kappa");
        }
        for lambda in NOT_NON_NEGATIVE {
            rejected(training.with_lambda(lambda), "pretrain.lambda");
            rejected(Training::new(0.1, lambda), "pretrain.lambda");
        }
    }

    #[test]
    fn a_ridge_is_needed_where_the_answer_depends_on_it() {
        let (model, training, options) = good();
        let without =
            Training::without_ridge(training.alpha()).unwrap().with_width(training.kappa()).unwrap();
        let missing = |error: Error| matches!(error, Error::MissingField { field: "pretrain.lambda", .. });
        let solution = pretrain::solve(&model, &training, &options).unwrap();
        assert!(missing(pretrain::solve(&model, &without, &options).unwrap_err()));
        assert!(missing(linear_step(&model, &without, [1.0; 3]).unwrap_err()));
        assert!(missing(pretrain::LearnedSpectrum::new(&model, &without, &solution).err().unwrap()));
        let [with, without] =
            [training, without].map(|training| lambda_collapse(&model, &training, &options).unwrap().value);
        assert_close("threshold of collapse", without, with, 0.0);
    }

    #[test]
    fn fields_of_the_options() {
        let (_, _, options) = good();
        for tolerance in NOT_POSITIVE.into_iter().chain([1e-15, 0.2]) {
            rejected(options.with_tolerance(tolerance), "options.tolerance");
        }
        for max_iterations in [0, 1_000_001, usize::MAX] {
            rejected(options.with_max_iterations(max_iterations), "options.max_iterations");
        }
        for log2_nodes in [0, 5, 21, usize::MAX] {
            rejected(options.with_log2_nodes(log2_nodes), "options.log2_nodes");
        }
        for scrambles in [0, 65, usize::MAX] {
            rejected(options.with_scrambles(scrambles), "options.scrambles");
        }
        rejected(options.with_scrambles(64).unwrap().with_log2_nodes(20), "options.scrambles");
    }

    #[test]
    fn points_of_the_raw_equations() {
        let (model, training, _) = good();
        for (axis, name) in ["q", "m", "v"].into_iter().enumerate() {
            for value in NOT_NON_NEGATIVE {
                let mut point = [1.0; 3];
                point[axis] = value;
                rejected(linear_step(&model, &training, point), name);
            }
        }
    }
}

mod unconverged {
    use super::*;

    fn failed() -> Solution {
        let options = Options::default().with_max_iterations(1).unwrap();
        pretrain::solve(&model(2, 0.5, 0.5), &Training::new(0.2, 0.1).unwrap(), &options).unwrap()
    }

    #[test]
    fn it_is_labelled_and_refused() {
        let solution = failed();
        assert_eq!(solution.status, Status::MaxIterations);
        let error = solution.clone().into_converged().unwrap_err();
        assert_eq!(error.kind(), "not_converged");
        assert!(error.to_string().contains("options.max_iterations"), "{error}");
        let Error::NotConverged { stage, status, iterations, hint, .. } = error else { panic!("{error}") };
        assert_eq!((stage, status, iterations), ("pretrain", Status::MaxIterations, solution.iterations));
        assert!(iterations <= 1 && !hint.is_empty());
    }

    #[test]
    fn a_full_width_student_always_fits() {
        // The learned rank is full here, and rounding must not make it larger.
        let training =
            Training::new(0.346_736_850_452_531_6, 2f64.sqrt() * 0.101_589_239_873_607_59).unwrap();
        let solution = solved(&model(2, 0.5, 5.0), &training);
        assert!(solution.rank_fraction <= 1.0 && solution.rank_fraction > 1.0 - 1e-9, "{solution:?}");
    }

    #[test]
    fn every_bound_on_the_iterations_is_labelled_or_enough() {
        let (model, training) = (model(2, 0.5, 0.5), Training::new(0.2, 0.1).unwrap());
        let exact = solved(&model, &training);
        let mut succeeded = false;
        for max_iterations in 1..60 {
            let options = Options::default().with_max_iterations(max_iterations).unwrap();
            let solution = pretrain::solve(&model, &training, &options).unwrap();
            match solution.status {
                Status::Converged => {
                    assert_close("Q", solution.order.q, exact.order.q, 1e-9);
                    succeeded = true;
                }
                status => {
                    assert_eq!(status, Status::MaxIterations, "{max_iterations}");
                    assert!(!succeeded, "{max_iterations} iterations are too few, but fewer were enough");
                }
            }
        }
        assert!(succeeded);
    }

    /// Whether every number is within an ulp (the parser of JSON does not promise more), and all else is
    /// equal.
    fn same(a: &Value, b: &Value) -> bool {
        match (a, b) {
            (Value::Object(a), Value::Object(b)) => {
                a.len() == b.len()
                    && a.iter().all(|(name, value)| b.get(name).is_some_and(|other| same(value, other)))
            }
            (Value::Number(a), Value::Number(b)) => {
                let [a, b] = [a, b].map(|x| x.as_f64().unwrap());
                (a - b).abs() <= f64::EPSILON * a.abs()
            }
            _ => a == b,
        }
    }

    #[test]
    fn solutions_survive_json() {
        let converged = solved(&model(2, 0.5, 0.5), &Training::new(0.2, 0.1).unwrap());
        let collapsed = solved(&model(2, 0.5, 0.5), &Training::new(0.2, 1e3).unwrap());
        for solution in [converged, collapsed, failed()] {
            let text = serde_json::to_string(&solution).unwrap();
            let back: Solution = serde_json::from_str(&text).unwrap();
            let [before, after] = [&solution, &back].map(|s| serde_json::to_value(s).unwrap());
            assert!(same(&before, &after), "{before}\n{after}");
            assert_eq!(back.status, solution.status);
            assert_eq!(back.order.q.is_nan(), solution.order.q.is_nan());
        }
        // JSON has no NaN. It is written as null, and read as NaN again.
        let overflown = solve(&model(1, 1e-8, 7e-3), &Training::new(2.5e299, 7e181).unwrap());
        assert_eq!(overflown.status, Status::NonFinite);
        let text = serde_json::to_string(&overflown).unwrap();
        assert!(text.contains("\"q\":null"), "{text}");
        let back: Solution = serde_json::from_str(&text).unwrap();
        assert!([back.order.q, back.errors.test, back.objective, back.residual].iter().all(|x| x.is_nan()));
        assert_eq!(back.into_converged().unwrap_err().kind(), "not_converged");
    }
}

mod properties {
    use super::*;
    use common::cases;

    /// Any bit pattern, and in half of the cases valid numbers of any size, because otherwise every case
    /// would end at the validation.
    fn any_number() -> impl Strategy<Value = f64> {
        prop_oneof![
            1 => any::<u64>().prop_map(f64::from_bits),
            2 => any::<u64>().prop_map(f64::from_bits).prop_map(|x| if x.is_finite() { x.abs() } else { 1.0 }),
            2 => log_uniform(1e-30, 1e30),
            1 => prop::sample::select(vec![0.0, f64::MIN_POSITIVE, 5e-324, f64::MAX, 1.0]),
        ]
    }

    fn any_size() -> impl Strategy<Value = usize> {
        prop_oneof![1 => any::<usize>(), 4 => 0_usize..10]
    }

    fn log_uniform(from: f64, to: f64) -> impl Strategy<Value = f64> {
        (from.ln()..to.ln()).prop_map(f64::exp)
    }

    proptest! {
        #![proptest_config(cases(500))]

        #[test]
        fn nothing_panics(
            tokens in any_size(),
            [delta, kappa0, alpha, lambda, kappa, tolerance] in prop::array::uniform6(any_number()),
            point in prop::array::uniform3(any_number()),
            [max_iterations, log2_nodes, scrambles] in prop::array::uniform3(any_size()),
            default_options in any::<bool>(),
        ) {
            let model = Model::linear(tokens, delta).and_then(|model| model.with_teacher(Teacher::Wishart { kappa0 }));
            let training = Training::new(alpha, lambda).and_then(|training| training.with_width(kappa));
            let options = Options::default()
                .with_tolerance(tolerance)
                .and_then(|options| options.with_max_iterations(max_iterations))
                .and_then(|options| options.with_log2_nodes(log2_nodes))
                .and_then(|options| options.with_scrambles(scrambles));
            let options = if default_options { Ok(Options::default()) } else { options };
            let (Ok(model), Ok(training), Ok(options)) = (model, training, options) else { return Ok(()) };
            // The outcome may be an error, or a solution with any status that agrees with its numbers.
            let _ = alpha_interp(&model);
            let _ = lambda_collapse(&model, &training, &Options::default());
            let _ = linear_step(&model, &training, point);
            if let Ok(solution) = pretrain::solve(&model, &training, &options) {
                if solution.status == Status::Converged {
                    prop_assert!(solution.residual <= options.tolerance().unwrap_or(1e-10));
                    prop_assert!(!default_options || makes_sense(&solution), "{:?}", solution);
                }
                let _ = solution.into_converged();
            }
        }
    }

    proptest! {
        #![proptest_config(cases(1000))]

        #[test]
        fn solutions_make_sense(
            tokens in 1_usize..=8,
            delta in prop_oneof![1 => Just(0.0), 4 => log_uniform(1e-8, 1e2)],
            kappa0 in log_uniform(1e-2, 1e2),
            alpha in log_uniform(1e-3, 1e3),
            lambda in log_uniform(1e-7, 1e2),
        ) {
            let model = model(tokens, delta, kappa0);
            let training = Training::new(alpha, lambda).unwrap();
            let solution = solve(&model, &training);
            prop_assert!(solution.status.is_success(), "{:?}", solution);
            let collapsed = lambda_collapse(&model, &training, &Options::default()).unwrap().value <= lambda;
            prop_assert_eq!(solution.status == Status::Collapsed, collapsed);
            let [q, m, v] = order(&solution);
            prop_assert!(q.is_finite() && m >= 0.0 && v >= 0.0);
            prop_assert!(m * m <= q * solution.q0 * (1.0 + 1e-12), "{:?}", solution);
            let Solution { errors, rank_fraction, alignment, objective, .. } = solution;
            for error in [errors.test, errors.test_clean, errors.train, objective] {
                prop_assert!(error.is_finite() && error >= 0.0, "{:?}", errors);
            }
            prop_assert!(errors.train <= errors.test && errors.test_clean <= errors.test);
            prop_assert!((0.0..=1.0).contains(&rank_fraction) && (0.0..=1.0).contains(&alignment));
            // S = 0 is feasible, so that the minimum is not above its loss.
            let nothing = alpha * observables::linear_pretraining_error(tokens, solution.q0 + 0.5 * delta);
            prop_assert!(objective <= nothing * (1.0 + 1e-12), "{} > {}", objective, nothing);
        }
    }
}
