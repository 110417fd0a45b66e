//! Arbitrary values. Most of them are plausible, so that the code behind the checks is reached, and the
//! others are extreme.

use lora_asymptotics::lora::{Frozen, Score, Selection, Sequences};
use lora_asymptotics::{
    ActivationName, Attention, Error, Estimator, Model, Options, Scenario, Start, Teacher, lora, pretrain,
};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::RngSeed;
use serde_json::Value;

/// The configuration of a test that is `cost` times as expensive as a cheap one. The cases are the same in
/// every run, unless `PROPTEST_RNG_SEED` chooses others. Failures are printed, and not recorded on disk.
pub fn config(cost: u32) -> ProptestConfig {
    let default = ProptestConfig::default();
    let rng_seed = match default.rng_seed {
        RngSeed::Random => RngSeed::Fixed(2026),
        chosen => chosen,
    };
    let cases = (default.cases / cost).max(4);
    ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 200, rng_seed, ..default }
}

/// Any number: of order 1, of any size, of any bits, or one of the special values.
pub fn number() -> impl Strategy<Value = f64> + Clone {
    let special = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        2.0,
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::MIN_POSITIVE,
        5e-324,
        -5e-324,
        f64::MAX,
        f64::MIN,
        1e300,
        1e-300,
        1e154,
        1e-154,
        f64::EPSILON,
        1.0 - f64::EPSILON,
        1.0 + f64::EPSILON,
        4_503_599_627_370_496.0,
    ];
    prop_oneof![
        4 => -10.0..10.0,
        3 => positive(),
        1 => any::<f64>(),
        3 => select(special.to_vec()),
    ]
}

/// A positive number, mostly of order 1.
pub fn positive() -> impl Strategy<Value = f64> + Clone {
    prop_oneof![4 => (-3.0..3.0).prop_map(f64::exp), 1 => (-40.0..40.0).prop_map(f64::exp), 1 => (-700.0..700.0).prop_map(f64::exp)]
}

/// A parameter that is most often valid.
pub fn parameter() -> impl Strategy<Value = f64> + Clone {
    prop_oneof![30 => (-3.0..3.0).prop_map(f64::exp), 6 => positive(), 2 => Just(0.0), 1 => number()]
}

/// Any count: a small one, or one so large that it overflows.
pub fn count() -> impl Strategy<Value = usize> + Clone {
    let special =
        [0, 1, 2, 8, 9, 64, 10_000, 10_001, 1 << 20, 1 << 32, usize::MAX / 2, usize::MAX - 1, usize::MAX];
    prop_oneof![3 => 0_usize..20, 2 => select(special.to_vec()), 1 => any::<usize>()]
}

pub fn teacher() -> impl Strategy<Value = Teacher> {
    prop_oneof![
        3 => parameter().prop_map(|kappa0| Teacher::Wishart { kappa0 }),
        2 => prop::collection::vec(parameter(), 0..12).prop_map(|eigenvalues| Teacher::Spectrum { eigenvalues }),
        1 => prop::collection::vec(parameter(), 0..12)
            .prop_map(|singular_values| Teacher::SingularValues { singular_values }),
        2 => (parameter(), prop_oneof![5 => 1_usize..20, 1 => Just(0), 1 => Just(usize::MAX)])
            .prop_map(|(exponent, dimension)| Teacher::PowerLaw { exponent, dimension }),
    ]
}

/// A model with few tokens, to save time, or with a number of tokens that is refused.
pub fn model() -> impl Strategy<Value = Model> {
    let tokens = prop_oneof![20 => 1_usize..4, 1 => Just(0), 1 => Just(9), 1 => Just(usize::MAX)];
    let activation = prop_oneof![
        3 => Just(ActivationName::Linear),
        2 => Just(ActivationName::Softmax),
        1 => Just(ActivationName::SoftmaxOne),
        1 => Just(ActivationName::Sigmoid),
    ];
    let temperature = prop_oneof![4 => Just(None), 1 => parameter().prop_map(Some)];
    let teacher = prop_oneof![8 => teacher().prop_map(Some), 1 => Just(None)];
    let attention = prop_oneof![4 => Just(Attention::Tied), 1 => Just(Attention::Cross)];
    (tokens, activation, attention, parameter(), temperature, teacher).prop_filter_map("refused", |parts| {
        let (tokens, activation, attention, delta, temperature, teacher) = parts;
        let mut model = spoken(Model::new(activation, tokens, delta))?;
        model = spoken(model.with_attention(attention))?;
        if let Some(temperature) = temperature.filter(|_| activation != ActivationName::Linear) {
            model = spoken(model.with_inverse_temperature(temperature))?;
        }
        match teacher {
            Some(teacher) => spoken(model.with_teacher(teacher)),
            None => Some(model),
        }
    })
}

/// A layer with the same label noise and teacher, and with another activation and number of tokens, which
/// must be valid.
pub fn of_activation(model: &Model, activation: ActivationName, tokens: usize) -> Model {
    let mut layer = Model::new(activation, tokens, model.delta()).expect("a layer");
    if activation != ActivationName::Linear && model.activation_name() == Some(activation) {
        layer = layer.with_inverse_temperature(model.inverse_temperature()).expect("a temperature");
    }
    layer = layer.with_attention(model.attention()).expect("an attention");
    match model.teacher() {
        Some(teacher) => layer.with_teacher(teacher.clone()).expect("a teacher"),
        None => layer,
    }
}

/// Options with few nodes and few iterations, or options that are refused.
pub fn options() -> impl Strategy<Value = Options> {
    let tolerance = prop_oneof![4 => Just(None), 4 => Just(Some(1e-8)), 1 => number().prop_map(Some)];
    let max_iterations = prop_oneof![10 => 1_usize..30, 1 => Just(0), 1 => Just(usize::MAX)];
    let log2_nodes = prop_oneof![15 => Just(6_usize), 1 => Just(5), 1 => Just(64), 1 => Just(usize::MAX)];
    let scrambles = prop_oneof![15 => 1_usize..4, 1 => Just(0), 1 => Just(65), 1 => Just(usize::MAX)];
    let start = select(vec![Start::Informed, Start::Uninformed, Start::Best]);
    let finite_size = prop_oneof![3 => Just(false), 1 => Just(true)];
    (tolerance, max_iterations, log2_nodes, scrambles, any::<u64>(), start, finite_size).prop_filter_map(
        "refused",
        |parts| {
            let (tolerance, max_iterations, log2_nodes, scrambles, seed, start, finite_size) = parts;
            let mut options =
                Options::default().with_seed(seed).with_start(start).with_finite_size(finite_size);
            if let Some(tolerance) = tolerance {
                options = spoken(options.with_tolerance(tolerance))?;
            }
            let options = spoken(options.with_max_iterations(max_iterations))?;
            spoken(options.with_log2_nodes(log2_nodes))
                .and_then(|options| spoken(options.with_scrambles(scrambles)))
        },
    )
}

pub fn training() -> impl Strategy<Value = pretrain::Training> {
    let kappa = prop_oneof![3 => Just(1.0), 1 => parameter()];
    let direct = prop_oneof![3 => Just(false), 1 => Just(true)];
    (parameter(), parameter(), kappa, direct).prop_filter_map("refused", |(alpha, lambda, kappa, direct)| {
        let training = spoken(pretrain::Training::new(alpha, lambda))?;
        if direct { Some(training.direct()) } else { spoken(training.with_width(kappa)) }
    })
}

pub fn sequences() -> impl Strategy<Value = Sequences> {
    let score = select(vec![Score::Frobenius, Score::Centred]);
    let fraction = prop_oneof![6 => 0.01..1.0, 1 => Just(1.0), 2 => number(), 1 => positive()];
    prop_oneof![
        2 => Just(Sequences::Fresh),
        1 => Just(Sequences::Reused),
        2 => (fraction, score)
            .prop_filter_map("refused", |(fraction, score)| spoken(Selection::new(fraction, score)).map(Sequences::Active)),
    ]
}

pub fn finetuning() -> impl Strategy<Value = lora::Training> {
    let q0 = prop_oneof![
        4 => parameter().prop_map(|q0| vec![q0]),
        1 => prop::collection::vec(parameter(), 0..4),
    ];
    let rank = prop_oneof![6 => Just(1), 2 => 1..4_usize, 1 => any::<usize>()];
    (parameter(), parameter(), q0, rank, parameter(), sequences()).prop_filter_map("refused", |parts| {
        let (alpha, lambda, q0, rank, beta, sequences) = parts;
        let training = spoken(lora::Training::fresh(alpha, lambda))?;
        let training = spoken(spoken(training.with_variances(&q0))?.with_rank(rank))?;
        spoken(training.recalibrated(beta)).map(|training| training.on(sequences))
    })
}

/// Frozen weights whose overlaps are most often possible.
pub fn frozen() -> impl Strategy<Value = Frozen> {
    let cosine = prop_oneof![6 => 0.0..1.0, 1 => Just(0.0), 1 => Just(1.0), 1 => number()];
    let response = prop_oneof![1 => Just(None), 3 => parameter().prop_map(Some)];
    let moment = prop_oneof![6 => parameter(), 1 => number()].boxed();
    let moments = prop_oneof![1 => Just(None), 2 => prop::array::uniform8(moment).prop_map(Some)];
    (parameter(), parameter(), cosine, response, moments).prop_filter_map(
        "refused",
        |(q0, q, cosine, v, moments)| {
            let mut frozen = spoken(Frozen::new(q0, q, cosine * q0.sqrt() * q.sqrt()))?;
            if let Some([trace, trace0, a, b, c, d, e, f]) = moments {
                // Most traces are possible ones.
                let [trace, trace0] = [trace, trace0].map(|x| if x < 1.0 { x } else { 1.0 / x });
                let traced = spoken(frozen.with_traces(trace * q.sqrt(), trace0 * q0.sqrt()))?;
                frozen = spoken(spoken(traced.with_cubes([a, b, c, d]))?.with_response_traces([e, f]))?;
            }
            v.map_or(Some(frozen), |v| spoken(frozen.with_response(v)))
        },
    )
}

pub fn scenario() -> impl Strategy<Value = Scenario> {
    let estimator = select(vec![Estimator::Erm, Estimator::BayesOptimal, Estimator::Both]);
    let ridges = prop_oneof![3 => Just(true), 1 => any::<bool>()];
    let stages = prop_oneof![6 => Just([true, false, true]), 2 => Just([true, false, false]),
        3 => Just([false, true, true]), 1 => any::<[bool; 3]>()];
    // The trees of values that each part can be shrunk to are large, and would fill the stack of a test.
    let parts =
        (model().boxed(), training().boxed(), finetuning().boxed(), frozen().boxed(), options().boxed());
    (parts, estimator, ridges, stages).prop_map(
        |((model, first, second, frozen, options), estimator, ridges, stages)| {
            let ridges = ridges && estimator != Estimator::BayesOptimal;
            let mut scenario = Scenario {
                model,
                pretrain: Some(first),
                frozen: Some(frozen),
                lora: Some(second),
                estimator,
                options,
            };
            if !ridges {
                scenario.pretrain = spoken(pretrain::Training::without_ridge(first.alpha()));
                let unridged = spoken(lora::Training::without_ridge(second.alpha()));
                scenario.lora = unridged.map(|training| training.on(second.sequences()));
            }
            if !stages[0] {
                scenario.pretrain = None;
            }
            if !stages[1] {
                scenario.frozen = None;
            } else if !stages[0] {
                scenario.model = scenario.model.without_teacher();
            }
            if !stages[2] {
                scenario.lora = None;
            }
            scenario
        },
    )
}

/// Any JSON that is not nested deeply.
pub fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        number().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        count().prop_map(Value::from),
        "[a-z_]{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z_]{1,6}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// One change of a valid text: the place, as a number that is taken modulo the number of places, and the new
/// value there. `None` removes the old value.
pub fn change() -> impl Strategy<Value = (usize, Option<Value>)> {
    let replacement =
        prop_oneof![2 => number().prop_map(Value::from), 1 => count().prop_map(Value::from), 2 => json()];
    (any::<usize>(), prop_oneof![4 => replacement.prop_map(Some), 1 => Just(None)])
}

/// Changes a text at one of its places.
pub fn apply(value: &mut Value, (place, replacement): &(usize, Option<Value>)) {
    let mut left = place % places(value);
    visit(value, &mut left, replacement);
}

fn places(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(places).sum::<usize>(),
        Value::Object(map) => map.values().map(places).sum::<usize>(),
        _ => 0,
    }
}

/// Counts down over the places, and changes the one at which the count ends. Returns whether that place was
/// reached.
fn visit(value: &mut Value, left: &mut usize, replacement: &Option<Value>) -> bool {
    if *left == 0 {
        *value = replacement.clone().unwrap_or(Value::Null);
        return true;
    }
    *left -= 1;
    match value {
        Value::Array(items) => items.iter_mut().any(|item| visit(item, left, replacement)),
        Value::Object(map) => {
            let names: Vec<String> = map.keys().cloned().collect();
            names.into_iter().any(|name| {
                if *left == 0 && replacement.is_none() {
                    return map.remove(&name).is_some();
                }
                map.get_mut(&name).is_some_and(|item| visit(item, left, replacement))
            })
        }
        _ => false,
    }
}

/// Returns the value of a result. An error must have a name and a text of bounded length.
pub fn spoken<T>(result: Result<T, Error>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            assert!(!error.kind().is_empty() && !error.to_string().is_empty());
            assert!(error.to_string().len() < 20_000, "an error of {} bytes", error.to_string().len());
            None
        }
    }
}
