//! A comparison of theory and simulation.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::measurement::{Finetuned, Measurement, Pretrained};
use super::statistics::{Estimate, extrapolate_powers, extrapolate_with};
use crate::lora;
use crate::nullable::number;
use crate::pretrain::{self, LearnedSpectrum};
use crate::scenario::Outcome;

/// Fractions at which the spectrum of `s-hat` is compared.
const QUANTILES: [(&str, f64); 3] = [("quantile_50", 0.5), ("quantile_75", 0.75), ("quantile_90", 0.9)];

/// A stage of a scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Stage {
    /// Pre-training.
    Pretrain,
    /// Fine-tuning.
    Lora,
}

impl fmt::Display for Stage {
    /// Writes the name of the stage in the schema.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Pretrain => "pretrain",
            Self::Lora => "lora",
        })
    }
}

/// An observable at one dimension.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AtSize {
    /// The dimension `D`.
    pub dimension: usize,
    /// Number of instances.
    pub instances: usize,
    /// The mean over the instances.
    #[serde(flatten)]
    pub estimate: Estimate,
}

/// One observable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Row {
    /// The stage of the observable.
    pub stage: Stage,
    /// The name of the observable, as in the schema. `quantile_50`, `quantile_75` and `quantile_90` are
    /// quantiles of the eigenvalues of `s-hat`. `mean_cosine` is the mean over the principal angles between the learned and the
    /// true columns; it is there if either perturbation has several columns, and all rows are then of quantities that do not
    /// change when columns are turned.
    pub observable: String,
    /// The prediction and its standard error (0 if the prediction is exact).
    pub theory: Estimate,
    /// The coefficient of `D^{-1/2}`, if the theory knows it: at a finite dimension, it predicts `theory + coefficient D^{-1/2} + O(1/D)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coefficient: Option<Estimate>,
    /// The result of the simulation, extrapolated if there are several sizes.
    pub simulation: Estimate,
    /// How the result of the simulation follows from those at the sizes.
    #[serde(default)]
    pub extrapolation: Extrapolation,
    /// `(simulation - theory)`, divided by the two standard errors added in quadrature.
    #[serde(deserialize_with = "number")]
    pub z: f64,
    /// The result of the simulation at every size.
    pub sizes: Vec<AtSize>,
}

/// How measurements at several dimensions lead to the limit: the form `a_0 + x_1 D^{-1/2} + sum_k a_k D^{-p_k}` is fitted by least squares.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Extrapolation {
    /// Whether `x_1` is the coefficient of the theory. It is 0 otherwise.
    pub known_root: bool,
    /// The powers `p_k` that are fitted; none for a single size.
    pub powers: Vec<f64>,
}

impl fmt::Display for Extrapolation {
    /// Writes the powers of `1/D` that are fitted, after the one that is known, in brackets.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.known_root.then(|| "[1/2]".to_owned());
        let fitted = self.powers.iter().map(|power| match power {
            power if power.fract() == 0.0 => format!("{power}"),
            power => format!("{}/2", 2.0 * power),
        });
        formatter.pad(&known.into_iter().chain(fitted).collect::<Vec<_>>().join(" "))
    }
}

/// All observables of all stages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Comparison {
    /// One row per observable.
    pub rows: Vec<Row>,
    /// Number of trainings that ended before their gradient was below the tolerance.
    pub unconverged: usize,
}

impl Comparison {
    pub(super) fn new(
        outcome: &Outcome,
        spectrum: Option<&LearnedSpectrum>,
        measurements: &[Measurement],
        [pretraining, finetuning]: [Expansion; 2],
    ) -> Self {
        let mut rows = Vec::new();
        if let Some(solution) = &outcome.pretrain {
            let measured: Vec<(usize, &Pretrained)> = measurements
                .iter()
                .filter_map(|one| one.pretrain.as_ref().map(|stage| (one.dimension, stage)))
                .collect();
            for (name, theory, read) in pretraining_observables(solution) {
                let values = measured.iter().map(|(dimension, stage)| (*dimension, read(stage))).collect();
                rows.extend(row(Stage::Pretrain, name, Prediction::of_limit(theory), values, pretraining));
            }
            for (name, probability) in QUANTILES {
                let above = spectrum.filter(|law| is_regular(law, probability));
                let Some(Ok(value)) = above.map(|law| law.quantile(probability)) else { continue };
                let values = measured
                    .iter()
                    .map(|(dimension, stage)| (*dimension, quantile(&stage.eigenvalues, probability)))
                    .collect();
                let theory = Estimate { mean: value, std_error: 0.0 };
                rows.extend(row(Stage::Pretrain, name, Prediction::of_limit(theory), values, pretraining));
            }
        }
        // Only logits of actual weights share the sequences with the perturbation.
        let shared = finetuning.is_half_integer();
        if let Some(solution) = &outcome.lora {
            for (name, theory, read) in finetuning_observables(solution) {
                let values = measurements
                    .iter()
                    .filter_map(|one| one.lora.as_ref().map(|stage| (one.dimension, read(stage))))
                    .collect();
                let prediction =
                    Prediction { limit: theory, coefficient: coefficient(solution, name).filter(|_| shared) };
                rows.extend(row(Stage::Lora, name, prediction, values, finetuning));
            }
        }
        Self { rows, unconverged: measurements.iter().map(Measurement::unconverged).sum() }
    }

    /// The row of an observable.
    #[must_use]
    pub fn row(&self, stage: Stage, observable: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.stage == stage && row.observable == observable)
    }

    /// Root mean square of `z` over all rows with a standard error, NaN if there is none. Observables of the same instances are
    /// correlated.
    #[must_use]
    pub fn rms_z(&self) -> f64 {
        let scores: Vec<f64> = self.rows.iter().map(|row| row.z).filter(|z| z.is_finite()).collect();
        (scores.iter().map(|z| z * z).sum::<f64>() / scores.len() as f64).sqrt()
    }

    /// The largest `|z|`; 0 if no row has a standard error.
    #[must_use]
    pub fn worst_z(&self) -> f64 {
        self.rows.iter().map(|row| row.z.abs()).filter(|z| z.is_finite()).fold(0.0, f64::max)
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:8} {:>13} {:>11} {:>11} {:>9} {:>6}  fit in D^-k",
            "stage", "observable", "theory", "simulation", "+-", "z"
        )?;
        for Row { stage, observable, theory, simulation, z, extrapolation, .. } in &self.rows {
            let Estimate { mean, std_error } = simulation;
            let line = format!(
                "{stage:8} {observable:>13} {:11.5} {mean:11.5} {std_error:9.5} {z:6.2}",
                theory.mean
            );
            writeln!(f, "{}", format!("{line}  {extrapolation}").trim_end())?;
        }
        if self.unconverged > 0 {
            writeln!(f, "{} trainings did not converge", self.unconverged)?;
        }
        Ok(())
    }
}

/// The form in which observables depend on the dimension, if no coefficient is known: a polynomial in `D^{-power}`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expansion {
    power: f64,
    /// Highest power of `1/D`.
    order: usize,
}

impl Expansion {
    /// A polynomial in `1/D`.
    pub(super) fn integer(order: usize) -> Self {
        Self { power: 1.0, order }
    }

    /// A polynomial in `D^{-1/2}`.
    pub(super) fn half_integer(order: usize) -> Self {
        Self { power: 0.5, order }
    }

    fn is_half_integer(&self) -> bool {
        self.power < 1.0
    }

    /// The powers that are fitted to measurements at a number of sizes.
    fn powers(&self, sizes: usize) -> Vec<f64> {
        let count = (self.order as f64 / self.power) as usize;
        (1..=count.min(sizes.saturating_sub(1))).map(|k| self.power * k as f64).collect()
    }

    /// The powers that are fitted beside a known coefficient of `D^{-1/2}`. Half-integer powers take as many sizes as there are powers, and two
    /// more: an error in them would spoil the integer ones.
    fn powers_beside_root(&self, sizes: usize) -> Vec<f64> {
        const SIZES_OF_HALF_INTEGERS: usize = 5;
        let halves = (2..).map(|k| 0.5 * f64::from(k));
        let powers: Vec<f64> = if sizes >= SIZES_OF_HALF_INTEGERS {
            halves.take(2 * self.order).collect()
        } else {
            (1..=self.order).map(|k| k as f64).collect()
        };
        powers.into_iter().take(sizes.saturating_sub(1)).collect()
    }
}

/// Name, prediction, and the function that reads the observable from a measurement.
pub(super) type Observable<M> = (&'static str, Estimate, fn(&M) -> f64);

fn predicted(mean: f64, std_error: Option<f64>) -> Estimate {
    Estimate { mean, std_error: std_error.unwrap_or(0.0) }
}

/// The coefficient of `D^{-1/2}` of an observable of fine-tuning.
pub(super) fn coefficient(solution: &lora::Solution, observable: &str) -> Option<Estimate> {
    let lora::FiniteSize { q, m, alignment, objective, test, test_clean, train, frozen, std_error, .. } =
        solution.finite_size?;
    let (mean, error) = match observable {
        "q" => (q, std_error.q),
        "m" => (m, std_error.m),
        "alignment" => (alignment, std_error.alignment),
        "objective" => (objective, std_error.objective),
        "test" => (test, std_error.test),
        "test_clean" => (test_clean, std_error.test_clean),
        "train" => (train, std_error.train),
        "frozen" => (frozen, std_error.frozen),
        _ => return None,
    };
    Some(predicted(mean, error))
}

fn pretraining_observables(solution: &pretrain::Solution) -> [Observable<Pretrained>; 9] {
    let pretrain::Solution { order, errors, std_error, .. } = solution;
    [
        ("q", predicted(order.q, std_error.q), |stage| stage.q),
        ("m", predicted(order.m, std_error.m), |stage| stage.m),
        ("trace", predicted(solution.trace, None), |stage| stage.trace),
        ("rank_fraction", predicted(solution.rank_fraction, None), |stage| stage.rank_fraction),
        ("objective", predicted(solution.objective, std_error.objective), |stage| stage.objective),
        ("test", predicted(errors.test, std_error.test), |stage| stage.test),
        ("test_clean", predicted(errors.test_clean, std_error.test_clean), |stage| stage.test_clean),
        ("train", predicted(errors.train, std_error.train), |stage| stage.train),
        ("alignment", predicted(solution.alignment, std_error.alignment), |stage| stage.alignment),
    ]
}

pub(super) fn finetuning_observables(solution: &lora::Solution) -> Vec<Observable<Finetuned>> {
    let lora::Solution { order, errors, cosines, std_error, .. } = solution;
    let mut all: Vec<Observable<Finetuned>> = vec![
        ("q", predicted(order.q, std_error.q), |stage| stage.q),
        ("m", predicted(order.m, std_error.m), |stage| stage.m),
        ("objective", predicted(solution.objective, std_error.objective), |stage| stage.objective),
        ("test", predicted(errors.test, std_error.test), |stage| stage.test),
        ("test_clean", predicted(errors.test_clean, std_error.test_clean), |stage| stage.test_clean),
        ("train", predicted(errors.train, std_error.train), |stage| stage.train),
        ("frozen", predicted(errors.frozen, std_error.frozen), |stage| stage.frozen),
        ("forgetting", predicted(errors.forgetting, std_error.forgetting), |stage| stage.forgetting),
        ("alignment", predicted(solution.alignment, std_error.alignment), |stage| stage.alignment),
    ];
    if !cosines.is_empty() {
        // The mean has about the standard error of the alignment, which is a mean of the same cosines.
        let theory = predicted(mean(cosines), std_error.alignment);
        all.push(("mean_cosine", theory, |stage| mean(&stage.cosines)));
    }
    all
}

fn mean(numbers: &[f64]) -> f64 {
    numbers.iter().sum::<f64>() / numbers.len() as f64
}

/// The eigenvalue at a fraction of all of them, interpolated between the eigenvalues at `(i + 1/2)/D`.
fn quantile(sorted: &[f64], probability: f64) -> f64 {
    let position = (probability * sorted.len() as f64 - 0.5).max(0.0);
    let below = position as usize;
    match (sorted.get(below), sorted.get(below + 1)) {
        (Some(low), Some(high)) => low + (position - below as f64) * (high - low),
        (Some(low), None) => *low,
        _ => f64::NAN,
    }
}

/// Whether a quantile is neither near the atom at 0 nor near a gap of the spectrum. Near the edge of the
/// atom, corrections decay more slowly than `1/D`.
fn is_regular(law: &LearnedSpectrum, probability: f64) -> bool {
    const FROM_ATOM: f64 = 0.1;
    const FROM_GAP: f64 = 0.02;
    let mut boundary = law.atom();
    let mut regular = probability >= boundary + FROM_ATOM;
    for component in law.components() {
        boundary += component.weight;
        regular &= (probability - boundary).abs() >= FROM_GAP;
    }
    regular
}

/// What the theory says of an observable.
struct Prediction {
    limit: Estimate,
    /// The coefficient of `D^{-1/2}`, if it is known.
    coefficient: Option<Estimate>,
}

impl Prediction {
    fn of_limit(limit: Estimate) -> Self {
        Self { limit, coefficient: None }
    }
}

/// One row, or `None` without measurements.
fn row(
    stage: Stage,
    observable: &str,
    prediction: Prediction,
    values: Vec<(usize, f64)>,
    expansion: Expansion,
) -> Option<Row> {
    let mut dimensions: Vec<usize> = values.iter().map(|(dimension, _)| *dimension).collect();
    dimensions.sort_unstable();
    dimensions.dedup();
    let sizes: Vec<AtSize> = dimensions
        .into_iter()
        .map(|dimension| {
            let here: Vec<f64> =
                values.iter().filter(|(d, _)| *d == dimension).map(|(_, value)| *value).collect();
            AtSize { dimension, instances: here.len(), estimate: Estimate::of(&here) }
        })
        .collect();
    // An interrupted experiment may have a single instance of some size, which has no standard error.
    let points: Vec<(usize, Estimate)> = sizes
        .iter()
        .filter(|size| size.estimate.std_error > 0.0)
        .map(|size| (size.dimension, size.estimate))
        .collect();
    let Prediction { limit: theory, coefficient } = prediction;
    let extrapolation = match &coefficient {
        Some(_) if points.len() > 1 => {
            Extrapolation { known_root: true, powers: expansion.powers_beside_root(points.len()) }
        }
        _ => Extrapolation { known_root: false, powers: expansion.powers(points.len()) },
    };
    let simulation = match points[..] {
        [] => sizes.last()?.estimate,
        [(_, only)] => only,
        _ => match &coefficient {
            Some(coefficient) => extrapolate_with(&points, coefficient, &extrapolation.powers),
            None => extrapolate_powers(&points, &extrapolation.powers),
        },
    };
    let z = (simulation.mean - theory.mean) / simulation.std_error.hypot(theory.std_error);
    let observable = observable.to_owned();
    Some(Row { stage, observable, theory, coefficient, simulation, extrapolation, z, sizes })
}
