//! Teachers of the user's own that return anything: what they promise must not be what the library relies on.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lora_asymptotics::pretrain::{self, LearnedSpectrum};
use lora_asymptotics::spectrum::{self, TeacherSpectrum};
use lora_asymptotics::{ActivationName, Model};
use proptest::prelude::*;

use super::values::{config, model, number, of_activation, options, parameter, spoken, training};

/// A law whose methods have nothing to do with each other.
#[derive(Debug)]
struct Nonsense {
    moments: [f64; 4],
    intervals: Vec<[f64; 2]>,
    transform: [f64; 2],
    /// Frequency of the transform as a function of the position.
    frequency: f64,
    eigenvalues: Option<Vec<f64>>,
}

impl TeacherSpectrum for Nonsense {
    fn mean(&self) -> f64 {
        self.moments[0]
    }
    fn second_moment(&self) -> f64 {
        self.moments[1]
    }
    fn variance(&self) -> f64 {
        self.moments[2]
    }
    fn orbit_dimension(&self) -> f64 {
        self.moments[3]
    }
    fn support(&self, snr: f64) -> Vec<[f64; 2]> {
        self.intervals.iter().map(|interval| interval.map(|x| x * (1.0 + snr))).collect()
    }
    fn stieltjes(&self, _: f64, x: f64) -> [f64; 2] {
        self.transform.map(|g| g * (1.0 + (self.frequency * x).sin()))
    }
    fn eigenvalues(&self, _: usize) -> Option<Vec<f64>> {
        self.eigenvalues.clone()
    }
}

fn nonsense() -> impl Strategy<Value = Nonsense> {
    let moments = prop_oneof![
        4 => (parameter(), parameter()).prop_map(|(mean, variance)| [mean, mean * mean + variance, variance, 1.0]),
        1 => prop::array::uniform4(number()),
    ];
    let interval = prop_oneof![
        4 => (-4.0..4.0, 0.0..4.0).prop_map(|(low, width)| [low, low + width]),
        1 => prop::array::uniform2(number()),
    ];
    let transform = prop::array::uniform2(prop_oneof![3 => -1.0..1.0, 1 => number()]);
    let eigenvalues = prop::option::of(prop::collection::vec(number(), 0..4));
    (moments, prop::collection::vec(interval, 0..3), transform, number(), eigenvalues).prop_map(
        |(moments, intervals, transform, frequency, eigenvalues)| Nonsense {
            moments,
            intervals,
            transform,
            frequency,
            eigenvalues,
        },
    )
}

proptest! {
    #![proptest_config(config(8))]

    #[test]
    fn solvers_return(law in nonsense(), model in model(), training in training(), options in options(), snr in parameter(), r in number()) {
        black_box((law.denoise(snr, r), law.posterior(snr), law.top_edge(snr)));
        let faults = spectrum::check(&law).expect_err("nonsense is no law");
        prop_assert!(!faults.list().is_empty() && !faults.to_string().is_empty());
        let model = of_activation(&model, ActivationName::Linear, model.tokens());
        let Some(model) = spoken(model.with_teacher_spectrum(Arc::new(law))) else { return Ok(()) };
        black_box(spoken(pretrain::lambda_collapse(&model, &training, &options)));
        black_box(spoken(pretrain::alpha_interp(&model)));
        black_box(spoken(pretrain::bayes_optimal(&model, training.alpha(), &options)));
        if let Some(solution) = spoken(pretrain::solve(&model, &training, &options))
            && let Some(law) = spoken(LearnedSpectrum::new(&model, &training, &solution))
        {
            black_box((law.density(r), law.distribution(r), spoken(law.quantile(0.3)), law.components()));
            black_box(spoken(law.table(20)));
        }
    }
}

/// Methods that return another number whenever they are called.
#[derive(Default)]
struct Fickle(AtomicUsize);

impl Fickle {
    fn next(&self) -> f64 {
        let special = [1.0, f64::NAN, -1.0, 0.5, f64::INFINITY, 2.0, -1e300, 0.0, 1e-300];
        // The first numbers are those that a model asks for, and are valid.
        let count = self.0.fetch_add(1, Ordering::Relaxed);
        FACTS.get(count).copied().unwrap_or(special[count % special.len()])
    }
}

/// What is asked for when a model is made: mean, second moment, variance, orbit dimension.
const FACTS: [f64; 4] = [1.0, 2.0, 1.0, 1.0];

impl TeacherSpectrum for Fickle {
    fn mean(&self) -> f64 {
        self.next()
    }
    fn second_moment(&self) -> f64 {
        self.next()
    }
    fn variance(&self) -> f64 {
        self.next()
    }
    fn orbit_dimension(&self) -> f64 {
        self.next()
    }
    fn support(&self, _: f64) -> Vec<[f64; 2]> {
        vec![[-self.next().abs(), self.next().abs()]]
    }
    fn stieltjes(&self, _: f64, _: f64) -> [f64; 2] {
        [self.next(), self.next()]
    }
}

#[test]
fn a_law_that_changes_its_mind() {
    for layer in [Model::linear(2, 0.5).unwrap(), Model::softmax(2, 0.5).unwrap()] {
        let model = layer.with_teacher_spectrum(Arc::new(Fickle::default())).unwrap();
        let options = lora_asymptotics::Options::default().with_log2_nodes(6).unwrap();
        let options = options.with_max_iterations(5).unwrap();
        let training = pretrain::Training::new(0.5, 0.1).unwrap();
        for _ in 0..3 {
            black_box(spoken(pretrain::solve(&model, &training, &options)));
            black_box(spoken(pretrain::bayes_optimal(&model, 0.5, &options)));
            black_box(spoken(pretrain::lambda_collapse(&model, &training, &options)));
        }
        assert!(model.has_teacher());
    }
}
