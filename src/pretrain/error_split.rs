//! Where the error of pre-trained weights comes from: what is missed, what is shrunk, and what is learned of the noise.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use super::solution::PretrainingSolution;
use super::training::{Parametrisation, Pretraining};
use super::weights_law::WeightsLaw;
use crate::attention::Attention;
use crate::error::Error;
use crate::model::{Model, Teacher};
use crate::nullable::number;
use crate::quadrature::unit_rule;
use crate::spectrum::TeacherSpectrum;

/// The squared distance of the learned weights from the truth, `|S-hat - S*|_F^2/D^2 = Q0 - 2M + Q`, as a sum of three numbers that are not
/// negative. For linear attention, tied, the clean error of pre-training is `2K/T^2 = (T+1)/T` times each of them, and their sum; for every other
/// activation they tell where the weights are off, and the error is another function of `Q` and `M`.
///
/// The weights are `s-hat = f(Y)` with `Y = Mhat s* + sqrt(Qhat) Z` (see [`crate::pretrain`]). Along an eigenvector `v` of the teacher with the
/// eigenvalue `s`, averages over the noise are integrals over the law of `Y` as it is seen from `v`,
///
/// ```text
/// k(y|s) = Im[1/(y - Qhat G(y) - Mhat s)]/pi,        G the Stieltjes transform of the law of Y at y - i0,
/// B(s) = E<v, s-hat v> = int f(y) k(y|s) dy,         what training learns along v,
/// c(s) = int_{f != 0} k(y|s) dy,                     the share of v in the subspace that is learned at all.
/// ```
///
/// Off the diagonal the mean vanishes, so that the squared distance is that of the mean weights plus their variance,
/// `int (s - B)^2 mu(ds) + (Q - int B^2 mu(ds))`, with `mu` the law of the teacher's eigenvalues. Where `B < s`, the loss `s - B` is `(1 - c) s`, because a part of the direction is outside of the
/// learned subspace, plus `c s - B`, because the part inside is shrunk (or minus, if noise has inflated it). It weighs `s - B`:
///
/// ```text
/// missed       = int_{B < s} (s - B) (s - max(c s, B)) mu(ds)
/// shrinkage    = int_{B < s} (s - B) max(c s - B, 0) mu(ds)
/// noise fitted = Q - int B^2 mu(ds) + int_{B > s} (B - s)^2 mu(ds)
/// ```
///
/// In direct training nothing is missed, the shrinkage is `(1 - Mhat V)^2 Q0` and the noise `Qhat V^2`. Source: this project; `k` is the kernel of O. Ledoit and S.
/// Peche, Probab. Theory Relat. Fields 151, 233 (2011), and of J. Bun, R. Allez, J.-P. Bouchaud, M. Potters, IEEE Trans. Inf. Theory 62, 7475 (2016).
///
/// ```
/// use lora_asymptotics::{Model, Options, Teacher, pretrain};
///
/// let model = Model::linear(2, 0.5)?.with_teacher(Teacher::PowerLaw { exponent: 1.0, dimension: 50 })?;
/// let training = pretrain::Training::new(0.3, 0.05)?;
/// let solution = pretrain::solve(&model, &training, &Options::default())?;
/// let split = pretrain::ErrorSplit::new(&model, &training, &solution)?;
/// assert!(split.missed > 0.0 && split.shrinkage > 0.0 && split.noise_fitted > 0.0);
/// assert!((1.5 * split.total() / solution.errors.test_clean - 1.0).abs() < 1e-6);
/// # Ok::<(), lora_asymptotics::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ErrorSplit {
    /// What is lost of the teacher's directions outside of the learned subspace.
    #[serde(deserialize_with = "number")]
    pub missed: f64,
    /// What is lost of the teacher inside of the learned subspace, because the ridge shrinks it.
    #[serde(deserialize_with = "number")]
    pub shrinkage: f64,
    /// What is learned of the noise.
    #[serde(deserialize_with = "number")]
    pub noise_fitted: f64,
    /// `|int s B(s) mu(ds) - M|/Q0`, by which the quadrature misses the overlap of the solution. About 1e-8 where the spectrum is resolved, or
    /// the residual of the solve if that is larger. For a teacher with a spectrum of your own, which is known by its quantiles, about 1e-4. The sum of the
    /// parts is off by twice `residual Q0`, so that a part that is not much larger than that is hardly known.
    #[serde(deserialize_with = "number")]
    pub residual: f64,
}

/// Nodes of a panel, and panels of an interval at first.
const NODES: usize = 16;
const FIRST_PANELS: usize = 4;
/// Largest number of nodes of all intervals.
const MOST_NODES: usize = 1 << 15;
/// Residual at which the number of nodes is large enough.
const RESOLVED: f64 = 1e-8;
/// Nodes over a continuous law of the teacher, and quantiles of one of your own.
const TEACHER_NODES: usize = 400;
const QUANTILES: usize = 1000;

/// A node over the law of the teacher.
struct Direction {
    eigenvalue: f64,
    weight: f64,
}

/// What is learned along one direction.
#[derive(Clone, Copy, Default)]
struct Learned {
    /// `B(s)`.
    mean: f64,
    /// `c(s)`.
    share: f64,
    /// `int k(y|s) dy`, which is 1. Where the law of `Y` is narrow as it is seen from a direction, which it is next to the edges of the spectrum, most of
    /// the error of the rule is that of this integral.
    whole: f64,
}

impl Learned {
    /// The same, divided by the whole.
    fn normalised(self) -> Self {
        Self { mean: self.mean / self.whole, share: self.share / self.whole, whole: 1.0 }
    }
}

impl ErrorSplit {
    /// The split for a solution of [`solve`](super::solve) with the same model and training.
    ///
    /// # Errors
    /// [`Error::MissingField`] for a model without a teacher, a teacher with a spectrum of your own without
    /// [eigenvalues](TeacherSpectrum::eigenvalues), or a training without a ridge; [`Error::Conflict`] for cross-attention; [`Error::NotConverged`] unless the
    /// solution is converged or collapsed; [`Error::InvalidParameter`] for a solution made by hand whose conjugates are not finite and
    /// positive.
    pub fn new(model: &Model, training: &Pretraining, solution: &PretrainingSolution) -> Result<Self, Error> {
        if model.attention() == Attention::Cross {
            return Err(Error::Conflict { field: "model.attention = cross", with: "a split of the error" });
        }
        let law = WeightsLaw::new(model, training, solution)?;
        let teacher = model.teacher_spectrum()?;
        let (q, m) = (solution.order.q, solution.order.m);
        let q0 = teacher.second_moment();
        if training.parametrisation() == Parametrisation::Direct {
            return Ok(Self::of_direct(&law, m, q0));
        }
        let directions = directions(model, teacher.as_ref())?;
        let cut = law.threshold;
        // The weights are smooth within each segment.
        let pieces = |[low, high]: [f64; 2]| [[low, high.min(cut)], [low.max(cut), high]];
        let segments: Vec<[f64; 2]> =
            teacher.support(law.snr).into_iter().flat_map(pieces).filter(|[low, high]| low < high).collect();
        let mut panels = FIRST_PANELS;
        loop {
            let learned = learn(teacher.as_ref(), &law, cut, &segments, panels, &directions);
            let split = Self::sum(&directions, &learned, q, m, q0);
            panels *= 2;
            let next = NODES * panels * segments.len();
            // A residual that is no number does not become one.
            if split.residual.is_nan() || split.residual <= RESOLVED || next > MOST_NODES {
                return Ok(split);
            }
        }
    }

    /// Direct training learns `B(s) = Mhat V s` along every direction.
    fn of_direct(law: &WeightsLaw, m: f64, q0: f64) -> Self {
        let gain = law.unit * law.snr;
        let lost = (1.0 - gain) * (1.0 - gain) * q0;
        let [shrinkage, inflation] = if gain <= 1.0 { [lost, 0.0] } else { [0.0, lost] };
        let noise_fitted = law.unit * law.unit + inflation;
        Self { missed: 0.0, shrinkage, noise_fitted, residual: (gain * q0 - m).abs() / q0 }
    }

    fn sum(directions: &[Direction], learned: &[Learned], q: f64, m: f64, q0: f64) -> Self {
        let (mut missed, mut shrinkage, mut noise_fitted, mut overlap) = (0.0, 0.0, q, 0.0);
        for (Direction { eigenvalue: s, weight }, Learned { mean, share, .. }) in
            directions.iter().zip(learned)
        {
            overlap += weight * s * mean;
            noise_fitted -= weight * mean * mean;
            let lost = s - mean;
            if lost > 0.0 {
                let inside = (share * s - mean).max(0.0);
                shrinkage += weight * lost * inside;
                missed += weight * lost * (lost - inside);
            } else {
                noise_fitted += weight * lost * lost;
            }
        }
        Self { missed, shrinkage, noise_fitted: noise_fitted.max(0.0), residual: (overlap - m).abs() / q0 }
    }

    /// The sum of all three: `Q0 - 2M + Q`.
    #[must_use]
    pub fn total(&self) -> f64 {
        self.missed + self.shrinkage + self.noise_fitted
    }
}

/// `B(s)` and `c(s)` of every direction, by Gauss-Legendre rules in an angle in which the edges of the support are smooth.
fn learn(
    teacher: &dyn TeacherSpectrum,
    law: &WeightsLaw,
    cut: f64,
    segments: &[[f64; 2]],
    panels: usize,
    directions: &[Direction],
) -> Vec<Learned> {
    let rule = unit_rule(NODES);
    let mut learned = vec![Learned::default(); directions.len()];
    for [low, high] in segments {
        let learns = 0.5 * (low + high) > cut;
        let (middle, half) = (0.5 * (low + high), 0.5 * (high - low));
        for panel in 0..panels {
            for (node, weight) in &rule {
                let width = PI / panels as f64;
                let angle = width * (panel as f64 + node);
                let y = middle - half * angle.cos();
                let [re, im] = teacher.stieltjes(law.snr, y);
                let measure = weight * width * half * angle.sin() * im / PI;
                for (learned, Direction { eigenvalue, .. }) in learned.iter_mut().zip(directions) {
                    let distance = y - re - law.snr * eigenvalue;
                    let kernel = measure / (distance * distance + im * im);
                    // At an edge there may be no density.
                    if kernel.is_finite() {
                        learned.whole += kernel;
                        if learns {
                            learned.mean += law.unit * (y - law.threshold) * kernel;
                            learned.share += kernel;
                        }
                    }
                }
            }
        }
    }
    learned.into_iter().map(Learned::normalised).collect()
}

/// Nodes over the law of the teacher's eigenvalues.
fn directions(model: &Model, teacher: &dyn TeacherSpectrum) -> Result<Vec<Direction>, Error> {
    if let Some(Teacher::Wishart { kappa0 }) = model.teacher() {
        return Ok(marchenko_pastur(*kappa0));
    }
    let count = match model.teacher() {
        Some(Teacher::Spectrum { eigenvalues }) => eigenvalues.len(),
        Some(Teacher::PowerLaw { dimension, .. }) => *dimension,
        _ => QUANTILES,
    };
    let reason = "a split of the error needs the eigenvalues of the teacher";
    let eigenvalues = teacher
        .eigenvalues(count)
        .ok_or(Error::MissingField { field: "model.teacher.eigenvalues", reason })?;
    let weight = 1.0 / eigenvalues.len() as f64;
    Ok(eigenvalues.into_iter().map(|eigenvalue| Direction { eigenvalue, weight }).collect())
}

/// Nodes over the law `sqrt(kappa0) sqrt((b - s)(s - a))/(2 pi s)` on `[a, b] = (kappa0^{1/4} -+ kappa0^{-1/4})^2`, with an atom at 0 if
/// `kappa0 < 1`, by the Chebyshev rule of the second kind.
fn marchenko_pastur(kappa0: f64) -> Vec<Direction> {
    let root = kappa0.sqrt().sqrt();
    let (middle, half) = (root * root + 1.0 / (root * root), 2.0);
    let node = |i: usize| {
        let angle = PI * i as f64 / (TEACHER_NODES + 1) as f64;
        let eigenvalue = middle + half * angle.cos();
        let area = half * angle.sin();
        let weight = 0.5 * kappa0.sqrt() * area * area / (eigenvalue * (TEACHER_NODES + 1) as f64);
        Direction { eigenvalue, weight }
    };
    let atom = Direction { eigenvalue: 0.0, weight: (1.0 - kappa0).max(0.0) };
    (1..=TEACHER_NODES).map(node).chain([atom]).collect()
}
