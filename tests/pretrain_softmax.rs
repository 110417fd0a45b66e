//! Softmax pre-training: reference values, thresholds, identities, limits, error bars.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;
#[path = "common/reference.rs"]
mod reference;
#[path = "common/sampled_softmax.rs"]
mod sampled_softmax;

use common::{assert_close, assert_honest, cases};
use lora_asymptotics::fixed_point::Status;
use lora_asymptotics::lora::Divergence;
use lora_asymptotics::pretrain::{self, Solution, Training};
use lora_asymptotics::{Error, Model, Options, Teacher, Verdict};
use nalgebra::{DMatrix, DVector};
use proptest::prelude::*;
use sampled_softmax::{BATCHES, Draws, assert_agree, attention, divergences, loss, minimise};

fn model(tokens: usize, delta: f64, kappa0: f64) -> Model {
    Model::softmax(tokens, delta).unwrap().with_teacher(Teacher::Wishart { kappa0 }).unwrap()
}

fn few_nodes() -> Options {
    Options::default().with_log2_nodes(10).unwrap().with_tolerance(1e-8).unwrap()
}

fn solved(model: &Model, training: &Training, options: &Options) -> Solution {
    pretrain::solve(model, training, options).unwrap().into_converged().unwrap()
}

#[test]
fn reference_values() {
    reference::compare(include_str!("data/pretrain_softmax.jsonl"), 14);
}

#[test]
fn collapse_threshold_of_the_first_figure() {
    let model = model(3, 0.5, 1.0);
    let threshold =
        pretrain::lambda_collapse(&model, &Training::new(0.1, 1.0).unwrap(), &Options::default()).unwrap();
    let error = threshold.std_error.unwrap();
    assert!(error > 0.0 && error < 3e-5, "{threshold:?}");
    let threshold = threshold.value;
    assert!((threshold - 0.5502).abs() < 1e-4, "{threshold}");
    let above = solved(&model, &Training::new(0.1, 1.0).unwrap(), &Options::default());
    assert_eq!(above.status, Status::Collapsed);
    assert!(above.order.q + above.order.m + above.order.v + above.alignment <= 0.0);
    assert!((above.errors.test - 0.82276).abs() < 1e-4, "{}", above.errors.test);
    let below = solved(&model, &Training::new(0.1, 0.99 * threshold).unwrap(), &Options::default());
    assert_eq!(below.status, Status::Converged);
    assert!(below.order.q > 0.0 && below.order.q < 1e-3, "{}", below.order.q);
}

#[test]
fn interpolation_threshold() {
    let threshold = pretrain::alpha_interp(&model(2, 0.5, 0.5)).unwrap().unwrap().value;
    assert!((threshold - 0.153_482).abs() < 1e-6, "{threshold}");
    let below = pretrain::solve(&model(2, 0.5, 0.5), &Training::new(0.1, 0.0).unwrap(), &few_nodes());
    assert!(matches!(below, Err(Error::InvalidParameter { field: "pretrain.lambda", .. })));
}

#[test]
fn up_to_six_tokens() {
    for tokens in 2..=6 {
        let solution = solved(&model(tokens, 0.5, 1.0), &Training::new(0.2, 0.1).unwrap(), &few_nodes());
        assert_eq!(solution.status, Status::Converged, "{tokens}");
        assert!(solution.errors.test_clean < solution.errors.test && solution.alignment < 1.0);
        assert!(solution.errors.train < solution.errors.test);
    }
}

/// The identity is `d(objective)/d lambda = sqrt(kappa) tr s-hat`, on frozen nodes.
#[test]
fn envelope() {
    let model = model(2, 0.5, 0.5);
    let options = Options::default().with_log2_nodes(13).unwrap();
    let step = 1e-3;
    let [up, down] = [1.0 + step, 1.0 - step].map(|factor| {
        solved(&model, &Training::new(0.2, 0.1 * factor).unwrap().with_width(1.5).unwrap(), &options)
    });
    let here = solved(&model, &Training::new(0.2, 0.1).unwrap().with_width(1.5).unwrap(), &options);
    let slope = (up.objective - down.objective) / (0.2 * step);
    assert_close("d objective/d lambda", slope, 1.5_f64.sqrt() * here.trace, 1e-4);
}

/// At high temperature the loss is `(b/T)^2 |(h - t) P|^2` with `P = I - 11^T/T`. In Sym(T) that is a
/// quadratic form, with eigenvalue 1 on the `T(T-1)/2` matrices with zero row sums and 1/2 on `T - 1` others.
#[test]
fn high_temperature_is_linear() {
    let (b, tokens) = (1e-3, 3.0_f64);
    let model = model(3, 0.5, 1.0).with_inverse_temperature(b).unwrap();
    let training = Training::new(0.3, 0.05 * b * b).unwrap();
    let solution = solved(&model, &training, &few_nodes());
    assert_eq!(solution.divergence, Some(Divergence::PointwiseAndJump));
    let pretrain::Order { q, m, v, q_hat, m_hat, v_hat } = solution.order;
    let noisy = solution.q0 - 2.0 * m + q + 0.25;
    let [mut first, mut second, mut error] = [0.0; 3];
    for (count, eigenvalue) in [(tokens * (tokens - 1.0) / 2.0, 1.0), (tokens - 1.0, 0.5)] {
        // The loss l = e |h - t|^2 gives g = -2e (omega - t)/(1 + 4 V e).
        let e = eigenvalue * (b / tokens).powi(2);
        let c = 2.0 * e / (1.0 + 4.0 * v * e);
        first += count * c;
        second += count * c * c;
        error += 2.0 * e * count;
    }
    assert_close("v_hat", v_hat, 4.0 * 0.3 * first, 1e-4);
    assert_close("m_hat", m_hat, 4.0 * 0.3 * first, 1e-4);
    assert_close("q_hat", q_hat, 8.0 * 0.3 * second * noisy, 2e-3);
    assert_close("test", solution.errors.test, error * noisy, 2e-3);
    assert_close("test_clean", solution.errors.test_clean, error * (noisy - 0.25), 2e-3);
}

/// Below the interpolation threshold with a small ridge there are several minima, and integration by parts is
/// used.
#[test]
fn divergence_is_chosen_where_the_prox_jumps() {
    let small = solved(&model(2, 0.5, 0.5), &Training::new(0.2, 0.003).unwrap(), &few_nodes());
    assert_eq!(small.divergence, Some(Divergence::IntegrationByParts));
    let ordinary = solved(&model(2, 0.5, 0.5), &Training::new(0.2, 0.1).unwrap(), &few_nodes());
    assert_eq!(ordinary.divergence, Some(Divergence::PointwiseAndJump));
}

/// Averages over proximal points of plain random samples, found by steepest descent, at the fixed point of the largest layers.
#[test]
fn seven_and_eight_tokens_agree_with_plain_sampling() {
    let (alpha, delta) = (0.1, 0.5_f64);
    for tokens in [7, 8] {
        let solution = solved(&model(tokens, delta, 1.0), &Training::new(alpha, 0.03).unwrap(), &few_nodes());
        let pretrain::Order { q, m, v, q_hat, m_hat, v_hat } = solution.order;
        let of_label = 2.0 * solution.q0 + delta;
        let batch = |seed| {
            let mut draws = Draws::new(seed);
            let samples = 256;
            let [mut q_hat, mut train, mut along_omega, mut along_label, mut test, mut clean] = [0.0; 6];
            for _ in 0..samples {
                let omega = (2.0 * q).sqrt() * draws.symmetric(tokens);
                let unknown = (2.0 * (solution.q0 - m * m / q)).sqrt() * draws.symmetric(tokens);
                let logits = m / q * &omega + unknown;
                let noisy = &logits + delta.sqrt() * draws.symmetric(tokens);
                let label = attention(&noisy);
                let matrix = |h: &DVector<f64>| DMatrix::from_column_slice(tokens, tokens, h.as_slice());
                let flat = |matrix: &DMatrix<f64>| DVector::from_column_slice(matrix.as_slice());
                let value_and_gradient = |h: &DVector<f64>| {
                    let h = matrix(h);
                    let (loss, slope) = loss(&h, &label);
                    let away = &h - &omega;
                    let gradient = (&slope + slope.transpose()) / 2.0 + &away / (2.0 * v);
                    (loss + away.norm_squared() / (4.0 * v), flat(&gradient))
                };
                let ends = [&omega, &noisy].map(|start| minimise(flat(start), 0.5 / v, value_and_gradient));
                let best = ends.iter().min_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
                let h = matrix(&best.1);
                let g = (&h - &omega) / (2.0 * v);
                q_hat += g.norm_squared();
                train += loss(&h, &label).0;
                along_omega += g.dot(&omega);
                along_label += g.dot(&noisy);
                test += loss(&omega, &label).0;
                clean += loss(&omega, &attention(&logits)).0;
            }
            let mean = |sum: f64| sum / f64::from(samples);
            let covariance = [2.0 * q, 2.0 * m, of_label];
            let [by_omega, by_label] = divergences([mean(along_omega), mean(along_label)], covariance);
            [
                4.0 * alpha * mean(q_hat),
                4.0 * alpha * by_label,
                -4.0 * alpha * by_omega,
                mean(train),
                mean(test),
                mean(clean),
            ]
        };
        let batches: Vec<_> = (0..BATCHES).map(batch).collect();
        let errors = solution.std_error;
        let expected = [
            (q_hat, errors.q_hat.unwrap()),
            (m_hat, errors.m_hat.unwrap()),
            (v_hat, errors.v_hat.unwrap()),
            (solution.errors.train, errors.train.unwrap()),
            (solution.errors.test, errors.test.unwrap()),
            (solution.errors.test_clean, errors.test_clean.unwrap()),
        ];
        assert_agree(["q_hat", "m_hat", "v_hat", "train", "test", "test_clean"], &batches, expected);
    }
}

#[test]
fn same_bits_on_any_number_of_threads() {
    let solve =
        || pretrain::solve(&model(3, 0.5, 1.0), &Training::new(0.1, 0.1).unwrap(), &few_nodes()).unwrap();
    let on = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(solve);
    let one = on(1);
    assert_eq!(one, on(2));
    assert_eq!(one, on(5));
}

#[test]
fn standard_errors_are_honest() {
    let solutions: Vec<Solution> = (0..50)
        .map(|seed| {
            let options = Options::default()
                .with_seed(seed)
                .with_log2_nodes(9)
                .unwrap()
                .with_scrambles(8)
                .unwrap()
                .with_tolerance(1e-7)
                .unwrap();
            solved(&model(2, 0.5, 0.5), &Training::new(0.2, 0.1).unwrap(), &options)
        })
        .collect();
    let check = |what: &str, value: fn(&Solution) -> f64, error: fn(&Solution) -> Option<f64>| {
        assert_honest(what, &solutions.iter().map(|s| (value(s), error(s))).collect::<Vec<_>>());
    };
    check("q", |s| s.order.q, |s| s.std_error.q);
    check("m", |s| s.order.m, |s| s.std_error.m);
    check("v", |s| s.order.v, |s| s.std_error.v);
    check("q_hat", |s| s.order.q_hat, |s| s.std_error.q_hat);
    check("test", |s| s.errors.test, |s| s.std_error.test);
    check("train", |s| s.errors.train, |s| s.std_error.train);
    check("objective", |s| s.objective, |s| s.std_error.objective);
    check("trace", |s| s.trace, |s| s.std_error.trace);
    check("rank_fraction", |s| s.rank_fraction, |s| s.std_error.rank_fraction);
    check("replicon", |s| s.validity.replicon.unwrap(), |s| s.std_error.replicon);
    let thresholds: Vec<_> = (0..50)
        .map(|seed| {
            let options =
                Options::default().with_seed(seed).with_log2_nodes(9).unwrap().with_scrambles(8).unwrap();
            let training = Training::new(0.2, 0.1).unwrap();
            let threshold = pretrain::lambda_collapse(&model(2, 0.5, 0.5), &training, &options).unwrap();
            assert_eq!(threshold.status, Status::Converged);
            (threshold.value, threshold.std_error)
        })
        .collect();
    assert_honest("lambda_collapse", &thresholds);
}

/// The gauges have their known values if nothing is learned, for a smooth proximal point, and for proximal
/// points that jump.
#[test]
fn gauges() {
    let nothing = solved(&model(3, 0.5, 1.0), &Training::new(0.1, 1.0).unwrap(), &few_nodes()).validity;
    assert_eq!((nothing.verdict, nothing.replicon), (Verdict::Good, Some(0.0)));
    let ordinary = solved(&model(2, 0.5, 0.5), &Training::new(0.2, 0.1).unwrap(), &few_nodes()).validity;
    assert_eq!(ordinary.verdict, Verdict::Good);
    assert!(ordinary.contested <= 0.0 && ordinary.replicon.unwrap() > 0.1, "{ordinary:?}");
    let small = solved(&model(2, 0.5, 0.5), &Training::new(0.2, 0.003).unwrap(), &few_nodes()).validity;
    assert!(small.contested > 0.0 && small.replicon > ordinary.replicon, "{small:?}");
    println!("{ordinary:?} {small:?}");
}

/// At high temperature and with two tokens, softmax attention is linear on the two coordinates that it
/// depends on, with curvatures `b^2/2` and `b^2/4`. The replicon is `8 alpha sum_i c_i^2/Vhat^2` times an
/// integral between the square of the rank fraction and `V Vhat`, and below 1.
#[test]
fn high_temperature_is_convex() {
    let (alpha, b) = (0.2, 1e-3);
    let hot = model(2, 0.5, 0.5).with_inverse_temperature(b).unwrap();
    for lambda in [1e-3, 1e-2, 0.05] {
        let solution = solved(&hot, &Training::new(alpha, lambda * b * b).unwrap(), &few_nodes());
        let pretrain::Order { v, v_hat, .. } = solution.order;
        let slopes = [0.5, 0.25].map(|curvature| b * b * curvature / (1.0 + 2.0 * v * b * b * curvature));
        assert_close("v_hat", v_hat, 4.0 * alpha * (slopes[0] + slopes[1]), 1e-4);
        let channel = 8.0 * alpha * (slopes[0] * slopes[0] + slopes[1] * slopes[1]) / (v_hat * v_hat);
        let replicon = solution.validity.replicon.unwrap();
        let (low, high) = (channel * solution.rank_fraction.powi(2), channel * v * v_hat);
        assert!(replicon > low && replicon < high && replicon < 1.0, "{lambda}: {low} {replicon} {high}");
        assert_eq!(solution.validity.verdict, Verdict::Good, "{lambda}: {:?}", solution.validity);
    }
}

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn any_scenario_is_solved_or_labelled(
        tokens in 2_usize..=4,
        (log_alpha, log_lambda) in (-2.5_f64..1.0, -3.5_f64..0.5),
        (log_kappa0, delta, temperature) in (-1.0_f64..0.7, 0.0_f64..2.0, 0.3_f64..2.0),
    ) {
        let model = model(tokens, delta, 10_f64.powf(log_kappa0)).with_inverse_temperature(temperature).unwrap();
        let training = Training::new(10_f64.powf(log_alpha), 10_f64.powf(log_lambda)).unwrap();
        let options = Options::default().with_log2_nodes(7).unwrap().with_max_iterations(150).unwrap().with_tolerance(1e-6).unwrap();
        let solution = pretrain::solve(&model, &training, &options).unwrap();
        let pretrain::Order { q, m, v, .. } = solution.order;
        if solution.status == Status::NonFinite {
            prop_assert!([q, m, v, solution.objective, solution.errors.test].iter().all(|x| x.is_nan()));
        } else {
            prop_assert!([q, m, v, solution.objective, solution.errors.test].iter().all(|x| *x >= 0.0));
            prop_assert!(m <= (q * (solution.q0 + 0.5 * delta)).sqrt() * (1.0 + 1e-9));
            prop_assert!(solution.status != Status::Converged || solution.residual <= 1e-6);
            prop_assert!(solution.status.is_success() || solution.residual > 1e-6);
        }
    }
}

#[test]
fn models_out_of_range_are_refused() {
    let refused = |model| matches!(model, Err(Error::InvalidParameter { .. } | Error::Conflict { .. }));
    let good = model(2, 0.5, 1.0);
    assert!(refused(Model::softmax(1, 0.5)) && refused(Model::softmax(9, 0.5)));
    for temperature in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-7, 1e7] {
        assert!(refused(good.clone().with_inverse_temperature(temperature)), "{temperature}");
    }
    let linear = Model::linear(2, 0.5).unwrap().with_teacher(Teacher::Wishart { kappa0: 1.0 }).unwrap();
    assert!(refused(linear.with_inverse_temperature(1.0)));
    // At the most extreme parameters the solve ends without success, but not with an error about its first
    // iterate.
    let extreme = good.with_delta(1e308).unwrap();
    let solution = pretrain::solve(&extreme, &Training::new(1e-300, 1e-300).unwrap(), &few_nodes()).unwrap();
    assert!(!solution.status.is_success() || solution.order.q <= 0.0);
}

/// This solve once took half a minute and more to end in the same way.
#[test]
fn a_softmax_that_is_a_step_function_is_not_searched() {
    let model = Model::softmax(2, 0.5)
        .and_then(|model| model.with_inverse_temperature(1e6))
        .and_then(|model| model.with_teacher(Teacher::Wishart { kappa0: 0.5 }))
        .unwrap();
    let training = Training::new(0.2, 0.1).unwrap();
    let solution = pretrain::solve(&model, &training, &Options::default()).unwrap();
    assert_eq!((solution.status, solution.iterations), (Status::NonFinite, 0));
    assert!(solution.order.q.is_nan() && !solution.validity.reliable);
    // Above the ridge of collapse there is no such failure, because the solution is known.
    let collapse = pretrain::lambda_collapse(&model, &training, &Options::default()).unwrap();
    let above = Training::new(0.2, 1.01 * collapse.value).unwrap();
    let collapsed = pretrain::solve(&model, &above, &Options::default()).unwrap();
    assert_eq!(collapsed.status, Status::Collapsed);
}
