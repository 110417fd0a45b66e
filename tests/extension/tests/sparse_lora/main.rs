//! LoRA with an `l1` penalty against the library where there is no such penalty, against derivatives of its own objective,
//! and against training at finite dimension.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod training;

use extension::sparse::GaussBernoulli;
use extension::sparse_lora::{Observed, Penalty, Solution, solve};
use extension::statistics::mean_and_error;
use lora_asymptotics::lora::{self, Training};
use lora_asymptotics::{Error, Frozen, Model, Options, Status};
use rayon::prelude::*;

/// One of the observed quantities.
type Quantity = fn(&Observed) -> f64;

/// A problem, with the truth and the penalty.
struct Setting {
    model: Model,
    frozen: Frozen,
    training: Training,
    truth: GaussBernoulli,
    penalty: Penalty,
}

impl Setting {
    fn linear(alpha: f64, density: f64, lambda1: f64, lambda2: f64) -> Self {
        Self::new(Model::linear(2, 0.5).unwrap(), alpha, density, lambda1, lambda2)
    }

    fn softmax(alpha: f64, density: f64, lambda1: f64, lambda2: f64) -> Self {
        Self::new(Model::softmax(2, 0.5).unwrap(), alpha, density, lambda1, lambda2)
    }

    fn new(model: Model, alpha: f64, density: f64, lambda1: f64, lambda2: f64) -> Self {
        Self {
            model,
            frozen: Frozen::new(1.5, 1.3, 1.25).unwrap(),
            training: Training::without_ridge(alpha).unwrap(),
            truth: GaussBernoulli { density, variance: 1.0 },
            penalty: Penalty { lambda1, lambda2 },
        }
    }

    fn solve(&self, options: &Options) -> Solution {
        let Self { model, frozen, training, truth, penalty } = self;
        let solution = solve(model, frozen, training, *truth, *penalty, options).unwrap();
        assert_eq!(solution.solved.status, Status::Converged);
        solution
    }
}

fn options(log2_nodes: usize) -> Options {
    Options::default().with_log2_nodes(log2_nodes).unwrap()
}

/// Without the `l1` penalty, the law of the truth does not matter, and the answer is that of the library.
#[test]
fn a_ridge_gives_the_numbers_of_the_library() {
    let linear = |tokens| Model::linear(tokens, 0.5).unwrap();
    let settings = [
        (linear(1), 8.0, 0.3, 1.0),
        (linear(2), 3.0, 0.2, 1.0),
        (linear(2), 3.0, 0.5, 2.5),
        (linear(3), 2.0, 0.1, 0.5),
        (Model::softmax(2, 0.5).unwrap(), 8.0, 0.1, 1.0),
        (Model::softmax(3, 0.5).unwrap(), 5.0, 0.2, 2.0),
    ];
    let frozen = Frozen::new(1.5, 1.3, 1.25).unwrap();
    let options = options(10).with_tolerance(1e-12).unwrap();
    for (model, alpha, lambda, q0) in settings {
        let training = Training::fresh(alpha, lambda).unwrap().with_variance(q0).unwrap();
        let library = lora::solve(&model, &frozen, &training, &options).unwrap();
        let truth = GaussBernoulli { density: 0.3, variance: q0 };
        let penalty = Penalty { lambda1: 0.0, lambda2: lambda };
        let own = solve(&model, &frozen, &training, truth, penalty, &options).unwrap();
        assert_eq!((own.solved.status, library.status), (Status::Converged, Status::Converged));
        let order = library.order;
        let at = &own.solved.point;
        let pairs = [
            ("q", at.q(), order.q),
            ("m", at.m(), order.m),
            ("v", at.v(), order.v),
            ("objective", own.observed.objective, library.objective),
            ("replicon", own.validity.replicon, library.validity.replicon),
            ("jump", own.validity.jump, library.validity.jump),
        ];
        // The control variates of softmax are fitted near the fixed point, at a point that depends on the path. They move averages by a
        // small part of their standard errors, which are between 1e-3 and 1e-2 here.
        let tolerance =
            |x: f64| if library.effective_noise.is_some() { 1e-9 * x.max(1e-3) } else { 1e-4 * x.max(1.0) };
        for (name, own, library) in pairs {
            assert!(
                (own - library).abs() <= tolerance(library.abs()),
                "{model:?}: {name} {own}, not {library}"
            );
        }
        assert!((own.observed.active - 1.0).abs() < 1e-12);
    }
}

/// The conjugates and `eta` are consistent with the objective only together: its derivative by a penalty is what the penalty
/// weighs, at the minimum.
#[test]
fn the_objective_changes_by_what_the_penalty_weighs() {
    // All problems are solved on the same nodes, so that the errors of the differences are small.
    let at =
        |lambda1: f64, lambda2: f64| Setting::linear(2.0, 0.2, lambda1, lambda2).solve(&options(14)).observed;
    let here = at(1.0, 1.0);
    let step = 0.02;
    let by_ridge = (at(1.0, 1.0 + step).objective - at(1.0, 1.0 - step).objective) / (2.0 * step);
    let by_l1 = (at(1.0 + step, 1.0).objective - at(1.0 - step, 1.0).objective) / (2.0 * step);
    println!(
        "by the ridge {by_ridge:.5}, q {:.5}; by the l1 norm {by_l1:.5}, |w| {:.5}",
        here.q, here.magnitude
    );
    assert!((by_ridge - here.q).abs() < 3e-4);
    assert!((by_l1 - here.magnitude).abs() < 3e-4);
}

/// Training at finite dimension, in problems where replica symmetry holds: sparser and denser truths, with and without a
/// ridge besides.
#[test]
fn trained_weights_are_as_predicted() {
    const INSTANCES: u64 = 16;
    const DIMENSION: usize = 300;
    let settings = [
        Setting::linear(2.0, 0.2, 1.0, 1.0),
        Setting::linear(4.0, 0.3, 0.6, 0.0),
        Setting::softmax(5.0, 0.2, 1.0, 0.0),
    ];
    let names: [(&str, Quantity); 5] = [
        ("q", |o| o.q),
        ("m", |o| o.m),
        ("|w|", |o| o.magnitude),
        ("active", |o| o.active),
        ("objective", |o| o.objective),
    ];
    let (mut squares, mut count) = (0.0, 0.0);
    for (number, setting) in settings.iter().enumerate() {
        let Setting { model, frozen, training, truth, penalty } = setting;
        let solution = setting.solve(&options(12));
        assert!(solution.validity.reliable, "setting {number}: {:?}", solution.validity);
        let trained: Vec<Observed> = (0..INSTANCES)
            .into_par_iter()
            .map(|instance| {
                let seed = 1000 * number as u64 + instance;
                training::train(seed, DIMENSION, (model, frozen, training), *truth, *penalty)
            })
            .collect();
        for (name, quantity) in names {
            let (value, error) = mean_and_error(&trained.iter().map(quantity).collect::<Vec<_>>());
            let (theory, own) = (quantity(&solution.observed), quantity(&solution.errors));
            let z = (value - theory) / error.hypot(own);
            println!(
                "setting {number}: {name} {theory:.5} +- {own:.5}, trained {value:.5} +- {error:.5}, z {z:.2}"
            );
            assert!(z.abs() < 4.0, "setting {number}: {name} {theory}, trained {value} +- {error}");
            squares += z * z;
            count += 1.0;
        }
    }
    println!("rms z {:.3}", (squares / count).sqrt());
    // Without the shift eta, the q of the problem with softmax is five standard errors away.
    assert!(squares / count < 4.0);
}

#[test]
fn impossible_requests_are_refused() {
    let setting = Setting::linear(4.0, 0.3, 0.4, 0.1);
    let reused = setting.training.reused();
    let refused = lora::loss_channel(&setting.model, &setting.frozen, &reused, &Options::default());
    assert!(matches!(refused, Err(Error::MissingField { field: "frozen.v", .. })));
    let channel =
        lora::loss_channel(&setting.model, &setting.frozen, &setting.training, &Options::default()).unwrap();
    for (q, m, v) in
        [(0.0, 0.0, 1.0), (1.0, 1.0, 1.0), (1.0, -0.5, 1.0), (1.0, 0.5, 0.0), (f64::NAN, 0.5, 1.0)]
    {
        assert!(channel.overlaps(q, m, v).is_err(), "({q}, {m}, {v})");
    }
    assert!(channel.overlaps(1.0, 0.0, 1.0).is_ok());
}
