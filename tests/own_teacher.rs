//! A teacher with a spectrum of the user's own, through the public API alone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::ops::ControlFlow;
use std::sync::Arc;

use approx::assert_relative_eq;
use lora_asymptotics::scenario::{Estimator, Scenario};
use lora_asymptotics::simulate::{Experiment, Laboratory, Size};
use lora_asymptotics::spectrum::{self, Discrete, TeacherSpectrum, Wishart};
use lora_asymptotics::sweep::{Axis, Sweep};
use lora_asymptotics::{ActivationName, Error, Model, Options, Teacher, lora, pretrain};

/// `s* = A + sigma Z'` with a list of eigenvalues of `A` and a GOE matrix `Z'`: semicircles with outliers.
struct Noisy {
    directions: Discrete,
    sigma: f64,
}

impl Noisy {
    /// One direction in ten stands out of a bulk between 0.2 and 1.8.
    fn example() -> Self {
        let directions = Discrete::new(&[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 3.0]).unwrap();
        Self { directions, sigma: 0.4 }
    }

    fn noise(&self, snr: f64) -> (f64, f64) {
        let width = (snr * self.sigma).hypot(1.0);
        (width, snr / width)
    }

    /// The eigenvalues of `s*` at the probabilities `(i + 1/2)/count`. The law of `s*/sigma` is that of `A/sigma` with
    /// noise of variance 1.
    fn quantiles(&self, count: usize) -> Vec<f64> {
        let snr = 1.0 / self.sigma;
        let [low, high] = [self.directions.support(snr)[0][0], self.directions.top_edge(snr)];
        let quantile = |i: usize| {
            let above = 1.0 - (i as f64 + 0.5) / count as f64;
            let (mut low, mut high) = (low, high);
            for _ in 0..50 {
                let middle = 0.5 * (low + high);
                let rank = self.directions.denoise(snr, middle).rank_fraction;
                *(if rank > above { &mut low } else { &mut high }) = middle;
            }
            self.sigma * low
        };
        (0..count).map(quantile).collect()
    }
}

impl TeacherSpectrum for Noisy {
    fn mean(&self) -> f64 {
        self.directions.mean()
    }
    fn second_moment(&self) -> f64 {
        self.directions.second_moment() + self.sigma * self.sigma
    }
    fn orbit_dimension(&self) -> f64 {
        1.0
    }
    fn support(&self, snr: f64) -> Vec<[f64; 2]> {
        let (width, snr) = self.noise(snr);
        self.directions.support(snr).into_iter().map(|interval| interval.map(|x| width * x)).collect()
    }
    fn stieltjes(&self, snr: f64, x: f64) -> [f64; 2] {
        let (width, snr) = self.noise(snr);
        self.directions.stieltjes(snr, x / width).map(|g| g / width)
    }
}

/// The essential methods of a law of the library, and the eigenvalues of a matrix.
struct Plain<T>(T);

impl<T: TeacherSpectrum> TeacherSpectrum for Plain<T> {
    fn name(&self) -> String {
        "plain law".to_owned()
    }
    fn mean(&self) -> f64 {
        self.0.mean()
    }
    fn second_moment(&self) -> f64 {
        self.0.second_moment()
    }
    fn orbit_dimension(&self) -> f64 {
        self.0.orbit_dimension()
    }
    fn support(&self, snr: f64) -> Vec<[f64; 2]> {
        self.0.support(snr)
    }
    fn stieltjes(&self, snr: f64, x: f64) -> [f64; 2] {
        self.0.stieltjes(snr, x)
    }
    fn eigenvalues(&self, dimension: usize) -> Option<Vec<f64>> {
        self.0.eigenvalues(dimension)
    }
}

fn own(model: Model, law: impl TeacherSpectrum + 'static) -> Model {
    model.with_teacher_spectrum(Arc::new(law)).unwrap()
}

#[test]
fn a_semicircle_with_outliers_is_the_limit_of_long_lists() {
    assert_eq!(spectrum::check(&Noisy::example()), Ok(()));
    let layer = || Model::linear(2, 0.5).unwrap();
    let options = Options::default();
    let training = pretrain::Training::new(0.4, 0.1).unwrap();
    let model = own(layer(), Noisy::example());
    let exact = pretrain::solve(&model, &training, &options).unwrap().into_converged().unwrap();
    let bound = pretrain::bayes_optimal(&model, 0.4, &options).unwrap().into_converged().unwrap();
    let distance = |count: usize| {
        let teacher = Teacher::Spectrum { eigenvalues: Noisy::example().quantiles(count) };
        let model = layer().with_teacher(teacher).unwrap();
        let listed = pretrain::solve(&model, &training, &options).unwrap().into_converged().unwrap();
        let listed_bound = pretrain::bayes_optimal(&model, 0.4, &options).unwrap().into_converged().unwrap();
        [
            (listed.order.q, exact.order.q),
            (listed.order.m, exact.order.m),
            (listed.order.v, exact.order.v),
            (listed.trace, exact.trace),
            (listed.alignment, exact.alignment),
            (listed.errors.test, exact.errors.test),
            (listed_bound.order.q, bound.order.q),
        ]
        .map(|(a, b)| (a - b).abs() / b)
        .into_iter()
        .fold(0.0, f64::max)
    };
    // The sum over quantiles at midpoints differs from the integral by the order of n^(-5/3), because of the square
    // roots at the edges: from 200 to 3200 eigenvalues that is a factor of 100.
    let [short, long] = [200, 3200].map(distance);
    assert!(short < 1e-3 && long < 1e-5 && long < short / 30.0, "{short:e}, {long:e}");
}

#[test]
fn every_solver_takes_a_plain_law() {
    let options = Options::default().with_log2_nodes(8).unwrap();
    let named = |model: Model| model.with_teacher(Teacher::Wishart { kappa0: 0.5 }).unwrap();
    let plain = |model: Model| own(model, Plain(Wishart::new(0.5).unwrap()));
    let training = pretrain::Training::new(0.3, 0.1).unwrap();
    for layer in [Model::linear(2, 0.5).unwrap(), Model::softmax(2, 0.5).unwrap()] {
        let [named, plain] = [named(layer.clone()), plain(layer)];
        let [a, b] = [&named, &plain].map(|model| pretrain::solve(model, &training, &options).unwrap());
        assert!(a.status.is_success() && b.status == a.status);
        // Two iterations of a sampled map that end below the same residual differ by more than rounding.
        let accuracy = if named.activation_name() == Some(ActivationName::Linear) { 1e-11 } else { 1e-5 };
        for (x, y) in [
            (a.order.q, b.order.q),
            (a.order.m, b.order.m),
            (a.order.v, b.order.v),
            (a.errors.test, b.errors.test),
            (a.rank_fraction, b.rank_fraction),
        ] {
            assert_relative_eq!(x, y, max_relative = accuracy);
        }
        let [x, y] = [&named, &plain].map(|model| {
            pretrain::LearnedSpectrum::new(model, &training, &a).unwrap().quantile(0.9).unwrap()
        });
        assert_relative_eq!(x, y, max_relative = 1e-9);
        let [x, y] = [&named, &plain]
            .map(|model| pretrain::lambda_collapse(model, &training, &options).unwrap().value);
        assert_relative_eq!(x, y, max_relative = 1e-11);
        let [x, y] = [&named, &plain].map(|model| pretrain::alpha_interp(model).unwrap().unwrap().value);
        assert_relative_eq!(x, y, max_relative = 1e-11);
        let [x, y] = [&named, &plain].map(|model| pretrain::alpha_perfect_recovery(model).unwrap());
        assert_relative_eq!(x, y, max_relative = 1e-15);
        let [x, y] = [&named, &plain].map(|model| {
            let scenario = Scenario {
                model: model.clone(),
                pretrain: Some(training),
                frozen: None,
                lora: Some(lora::Training::fresh(2.0, 0.5).unwrap()),
                estimator: Estimator::Both,
                options,
            };
            let outcome = scenario.solve().unwrap();
            let bound = outcome.bayes_optimal.unwrap();
            [outcome.lora.unwrap().order.q, bound.pretrain.unwrap().order.q]
        });
        assert_relative_eq!(x[0], y[0], max_relative = 1e-4);
        assert_relative_eq!(x[1], y[1], max_relative = 1e-10);
    }
}

#[test]
fn an_own_spectrum_is_never_lost() {
    let layer = || Model::linear(2, 0.5).unwrap();
    let model = own(layer(), Plain(Wishart::new(0.5).unwrap()));
    assert!(model.teacher().is_none() && model.has_teacher() && !layer().has_teacher());
    assert_eq!(model.teacher_spectrum().unwrap().name(), "plain law");
    assert!(format!("{model:?}").contains("plain law"), "{model:?}");
    let other = own(layer(), Plain(Wishart::new(0.5).unwrap()));
    let named = layer().with_teacher(Teacher::Wishart { kappa0: 0.5 }).unwrap();
    assert!(model == model.clone() && model != other && model != named && model != layer());

    let refused = serde_json::to_string(&model).unwrap_err().to_string();
    assert!(refused.contains("teacher") && refused.contains("plain law"), "{refused}");
    serde_json::to_string(&named).unwrap();
    serde_json::to_string(&model.clone().without_teacher()).unwrap();

    let scenario = Scenario {
        model,
        pretrain: Some(pretrain::Training::new(0.5, 0.1).unwrap()),
        frozen: None,
        lora: None,
        estimator: Estimator::Erm,
        options: Options::default(),
    };
    let axis = Axis::list("pretrain.alpha", vec![0.5, 1.0]).unwrap();
    let error = Sweep::new(scenario.clone(), vec![axis]).unwrap_err();
    assert!(matches!(error, Error::Syntax(_)) && error.to_string().contains("plain law"), "{error}");
    let frozen = lora::Frozen::new(1.5, 1.0, 1.0).unwrap();
    let training = lora::Training::fresh(2.0, 0.5).unwrap();
    let conflict = Scenario { pretrain: None, frozen: Some(frozen), lora: Some(training), ..scenario };
    let error = conflict.validate().unwrap_err();
    assert!(matches!(error, Error::Conflict { field: "model.teacher", .. }), "{error}");
}

/// A law with other numbers than it should have.
struct Moments([f64; 4]);

impl TeacherSpectrum for Moments {
    fn mean(&self) -> f64 {
        self.0[0]
    }
    fn second_moment(&self) -> f64 {
        self.0[1]
    }
    fn variance(&self) -> f64 {
        self.0[2]
    }
    fn orbit_dimension(&self) -> f64 {
        self.0[3]
    }
    fn support(&self, _: f64) -> Vec<[f64; 2]> {
        Vec::new()
    }
    fn stieltjes(&self, _: f64, _: f64) -> [f64; 2] {
        [f64::NAN; 2]
    }
}

#[test]
fn impossible_moments_are_refused() {
    let with = |numbers: [f64; 4]| Model::linear(2, 0.5)?.with_teacher_spectrum(Arc::new(Moments(numbers)));
    with([1.0, 2.0, 1.0, 1.0]).unwrap();
    for (numbers, culprit) in [
        ([f64::NAN, 2.0, 1.0, 1.0], "model.teacher.mean"),
        ([2.0, 2.0, 1.0, 1.0], "model.teacher.mean"),
        ([1.0, f64::INFINITY, 1.0, 1.0], "model.teacher.second_moment"),
        ([0.0, 0.0, 0.0, 1.0], "model.teacher.second_moment"),
        ([1.0, 2.0, 1.5, 1.0], "model.teacher.variance"),
        ([1.0, 2.0, -1.0, 1.0], "model.teacher.variance"),
        ([1.0, 2.0, f64::NAN, 1.0], "model.teacher.variance"),
        ([1.0, 2.0, 1.0, 1.5], "model.teacher.orbit_dimension"),
        ([1.0, 2.0, 1.0, f64::NAN], "model.teacher.orbit_dimension"),
    ] {
        match with(numbers).unwrap_err() {
            Error::InvalidParameter { field, .. } => assert_eq!(field, culprit),
            error => panic!("{error}"),
        }
        let faults = spectrum::check(&Moments(numbers)).unwrap_err();
        assert_eq!(format!("model.teacher.{}", faults.list()[0].method), culprit, "{faults}");
    }
}

#[test]
fn training_at_finite_size_needs_eigenvalues() {
    let scenario = |model: Model| Scenario {
        model,
        pretrain: Some(pretrain::Training::new(0.5, 0.1).unwrap()),
        frozen: None,
        lora: None,
        estimator: Estimator::Erm,
        options: Options::default(),
    };
    let laboratory =
        Laboratory { sizes: vec![Size::new(12, 2)], seed: 1, random_starts: 0, ..Laboratory::default() };
    let layer = || Model::linear(2, 0.5).unwrap();
    let error = Experiment::new(&scenario(own(layer(), Noisy::example())), &laboratory).unwrap_err();
    assert!(matches!(error, Error::MissingField { field: "model.teacher.eigenvalues", .. }), "{error}");

    // The same list, with a name and without, is the same matrix.
    let eigenvalues = vec![0.0, 0.5, 1.0, 3.0];
    let law = Plain(Discrete::new(&eigenvalues).unwrap());
    let named = layer().with_teacher(Teacher::Spectrum { eigenvalues }).unwrap();
    let [a, b] = [own(layer(), law), named].map(|model| {
        let experiment = Experiment::new(&scenario(model), &laboratory).unwrap();
        experiment.run_all(Vec::new(), |_| ControlFlow::Continue(())).unwrap()
    });
    assert_eq!(a.len(), 2);
    assert_eq!(serde_json::to_string(&a).unwrap(), serde_json::to_string(&b).unwrap());
}
