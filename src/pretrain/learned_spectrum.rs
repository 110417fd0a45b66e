//! The spectrum of the learned weights: the law of `s-hat = (Y - 2 lambda sqrt(kappa))_+/Vhat`,
//! `Y = Mhat s* + sqrt(Qhat) Z`. In cross-attention it is the law of singular values, each of which is thresholded like an eigenvalue.

use std::f64::consts::PI;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::solution::PretrainingSolution;
use super::training::Pretraining;
use super::weights_law::WeightsLaw;
use crate::attention::Attention;
use crate::check;
use crate::error::Error;
use crate::model::Model;
use crate::roots::{self, End};
use crate::spectrum::{TeacherMatrix, TeacherSpectrum};

/// Largest number of points of a table.
const MAX_POINTS: usize = 1_000_000;
/// Smallest number of points of a table per component.
const FEWEST_POINTS: usize = 9;

/// An interval of positive learned eigenvalues.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Component {
    /// Smallest eigenvalue; 0 where the threshold cuts through the interval.
    pub low: f64,
    /// Largest eigenvalue.
    pub high: f64,
    /// Fraction of all eigenvalues that lie in the interval.
    pub weight: f64,
    /// Whether the interval is separate from, and above, the interval with most of the eigenvalues of `Y`.
    /// Such an interval comes from atoms of the teacher that stand out of the noise.
    pub outlier: bool,
}

/// A table of the learned spectrum, for plots and for other programs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SpectrumTable {
    /// Fraction of eigenvalues that are exactly 0.
    pub atom: f64,
    /// Fraction of positive eigenvalues: the learned rank over `D`.
    pub rank_fraction: f64,
    /// The intervals of the positive eigenvalues.
    pub components: Vec<Component>,
    /// Eigenvalues of `S-hat/sqrt(D)`, in increasing order, from edge to edge of every component.
    pub eigenvalues: Vec<f64>,
    /// Density at the eigenvalues. Without the atom it integrates to `rank_fraction`.
    pub density: Vec<f64>,
}

/// The law of the eigenvalues of `s-hat = S-hat/sqrt(D)`. In cross-attention, wherever an eigenvalue is named here, it is a singular value.
///
/// ```
/// use lora_asymptotics::{Model, Options, Teacher, pretrain};
///
/// let model = Model::linear(2, 0.1)?.with_teacher(Teacher::Spectrum { eigenvalues: vec![0.0, 0.0, 0.0, 4.0] })?;
/// let training = pretrain::Training::new(1.0, 0.5)?;
/// let solution = pretrain::solve(&model, &training, &Options::default())?;
/// let spectrum = pretrain::LearnedSpectrum::new(&model, &training, &solution)?;
/// assert!((spectrum.atom() - 0.75).abs() < 1e-9);
/// assert!(spectrum.components()[0].outlier && spectrum.quantile(0.9)? > 3.0);
/// # Ok::<(), lora_asymptotics::Error>(())
/// ```
pub struct LearnedSpectrum {
    teacher: Arc<dyn TeacherSpectrum>,
    attention: Attention,
    /// Signal and threshold in units of the noise, and the size of that unit.
    snr: f64,
    threshold: f64,
    unit: f64,
    rank_fraction: f64,
}

impl LearnedSpectrum {
    /// The law for a solution of [`solve`](super::solve) with the same model and training.
    ///
    /// # Errors
    /// [`Error::MissingField`] for a model without a teacher or a training without a ridge; [`Error::Conflict`] for direct training, whose
    /// weights are `Y/(Vhat + 4 lambda)` and have eigenvalues of both signs;
    /// [`Error::NotConverged`] unless the solution is converged or collapsed; [`Error::InvalidParameter`] for
    /// a solution made by hand whose conjugates are not finite and positive, and for a teacher with a spectrum of
    /// your own whose integrals are not numbers.
    pub fn new(model: &Model, training: &Pretraining, solution: &PretrainingSolution) -> Result<Self, Error> {
        training.require_factors("the law of positive learned eigenvalues")?;
        let WeightsLaw { snr, threshold, unit } = WeightsLaw::new(model, training, solution)?;
        let teacher = model.teacher_spectrum()?;
        let attention = model.attention();
        let rank_fraction = model.teacher_matrix(teacher.as_ref()).denoise(snr, threshold).rank_fraction;
        if !(0.0..=1.0).contains(&rank_fraction) {
            let allowed = "a law whose soft threshold has a rank fraction between 0 and 1";
            return Err(Error::invalid("model.teacher", teacher.name(), allowed));
        }
        Ok(Self { teacher, attention, snr, threshold, unit, rank_fraction })
    }

    /// Fraction of eigenvalues that are exactly 0.
    #[must_use]
    pub fn atom(&self) -> f64 {
        1.0 - self.rank_fraction
    }

    /// Density of positive eigenvalues at `eigenvalue`; 0 if it is not positive.
    #[must_use]
    pub fn density(&self, eigenvalue: f64) -> f64 {
        if !(eigenvalue > 0.0 && eigenvalue.is_finite()) {
            return 0.0;
        }
        self.matrix().density(self.snr, self.in_noise(eigenvalue)) / self.unit
    }

    /// Fraction of eigenvalues up to and including `eigenvalue`. NaN for NaN.
    #[must_use]
    pub fn distribution(&self, eigenvalue: f64) -> f64 {
        if eigenvalue < 0.0 {
            return 0.0;
        }
        if eigenvalue.is_infinite() {
            return 1.0;
        }
        1.0 - self.matrix().denoise(self.snr, self.in_noise(eigenvalue)).rank_fraction
    }

    /// The smallest eigenvalue such that at least the fraction `probability` of all eigenvalues does not
    /// exceed it.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] unless `0 <= probability <= 1`.
    pub fn quantile(&self, probability: f64) -> Result<f64, Error> {
        if !(0.0..=1.0).contains(&probability) {
            return Err(Error::invalid("probability", probability, "between 0 and 1"));
        }
        let top = (self.unit * (self.teacher.top_edge(self.snr) - self.threshold)).max(0.0);
        if probability <= self.atom() {
            return Ok(0.0);
        }
        let excess = |eigenvalue: f64| self.distribution(eigenvalue) - probability;
        let ends = [0.0, top].map(|x| End { x, f: excess(x) });
        // Rounding may leave the distribution just below 1 at the top edge.
        if ends[1].f <= 0.0 {
            return Ok(top);
        }
        Ok(roots::bracketed(ends[0], ends[1], 1e-13, top, excess))
    }

    /// The intervals of positive eigenvalues, in increasing order.
    #[must_use]
    pub fn components(&self) -> Vec<Component> {
        let matrix = self.matrix();
        let support = matrix.support(self.snr);
        // These are the fractions of eigenvalues above the middle of the gap below every interval, and above
        // the last interval.
        let above = |y: f64| matrix.denoise(self.snr, y).rank_fraction;
        let mut fractions: Vec<f64> = vec![1.0];
        fractions.extend(support.windows(2).map(|pair| above(0.5 * (pair[0][1] + pair[1][0]))));
        fractions.push(0.0);
        let weight = |k: usize| fractions[k] - fractions[k + 1];
        let bulk = (0..support.len()).fold(0, |best, k| if weight(k) > weight(best) { k } else { best });
        support
            .iter()
            .enumerate()
            .filter(|(_, [_, high])| *high > self.threshold)
            .map(|(k, &[low, high])| {
                let cut = low < self.threshold;
                let below = if cut { self.rank_fraction } else { fractions[k] };
                Component {
                    low: if cut { 0.0 } else { self.unit * (low - self.threshold) },
                    high: self.unit * (high - self.threshold),
                    weight: below - fractions[k + 1],
                    outlier: k > bulk,
                }
            })
            .collect()
    }

    /// The density on about `points` points, which crowd at the edges of every component. Every component has
    /// at least 9 of them.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] unless `points` is 1 to 1,000,000.
    pub fn table(&self, points: usize) -> Result<SpectrumTable, Error> {
        check::integer("points", points, 1, MAX_POINTS)?;
        let components = self.components();
        let (mut eigenvalues, mut density) = (Vec::new(), Vec::new());
        // If hardly any eigenvalue is positive, rounding may leave the components more weight than
        // `rank_fraction`.
        let weights: f64 = components.iter().map(|component| component.weight.max(0.0)).sum();
        let total = weights.max(self.rank_fraction);
        for Component { low, high, weight, .. } in &components {
            let share = (weight / total * points as f64) as usize;
            let count = share.clamp(FEWEST_POINTS, MAX_POINTS);
            for k in 0..count {
                let angle = PI * k as f64 / (count - 1) as f64;
                let eigenvalue = 0.5 * (low + high) - 0.5 * (high - low) * angle.cos();
                eigenvalues.push(eigenvalue);
                let at_edge = k == count - 1 || (k == 0 && *low > 0.0);
                // At the threshold, the density is the limit from above.
                density.push(if at_edge { 0.0 } else { self.density(eigenvalue.max(f64::MIN_POSITIVE)) });
            }
        }
        Ok(SpectrumTable {
            atom: self.atom(),
            rank_fraction: self.rank_fraction,
            components,
            eigenvalues,
            density,
        })
    }

    fn matrix(&self) -> TeacherMatrix<'_> {
        TeacherMatrix::new(self.teacher.as_ref(), self.attention)
    }

    /// The value of `y`, in units of the noise, from which this eigenvalue is learned.
    fn in_noise(&self, eigenvalue: f64) -> f64 {
        self.threshold + eigenvalue / self.unit
    }
}
