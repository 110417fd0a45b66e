//! How the teacher of an instance is drawn.

use std::sync::Arc;

use nalgebra::DMatrix;
use rand_pcg::Pcg64;

use super::random;
use super::sequences::{FactorPair, NetworkWeights};
use crate::attention::Attention;
use crate::error::{Error, Number};
use crate::model::{Model, Teacher};
use crate::spectrum::TeacherSpectrum;

/// The law from which teachers are drawn.
#[derive(Clone)]
pub(super) enum Truth {
    /// A Gaussian factor of width `kappa0 D`, scaled to the mean trace.
    Gaussian { kappa0: f64 },
    /// A diagonal matrix of given eigenvalues, or singular values. The law of the sequences does not change under rotations, so that
    /// the eigenvectors, or singular vectors, do not matter.
    Diagonal(Arc<dyn TeacherSpectrum>),
}

impl std::fmt::Debug for Truth {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Gaussian { kappa0 } => formatter.debug_struct("Gaussian").field("kappa0", kappa0).finish(),
            Self::Diagonal(spectrum) => formatter.debug_tuple("Diagonal").field(&spectrum.name()).finish(),
        }
    }
}

impl Truth {
    /// The law of the teachers of a model.
    pub(super) fn new(model: &Model) -> Result<Self, Error> {
        Ok(match model.teacher() {
            Some(Teacher::Wishart { kappa0 }) => Self::Gaussian { kappa0: *kappa0 },
            _ => Self::Diagonal(model.teacher_spectrum()?),
        })
    }

    /// Refuses a teacher that has no matrix of the given dimension.
    pub(super) fn check(&self, attention: Attention, dimension: usize) -> Result<(), Error> {
        match (self, attention) {
            (Self::Gaussian { .. }, _) => Ok(()),
            (Self::Diagonal(spectrum), Attention::Tied) => {
                eigenvalues(spectrum.as_ref(), dimension).map(drop)
            }
            (Self::Diagonal(spectrum), Attention::Cross) => {
                singular_values(spectrum.as_ref(), dimension).map(drop)
            }
        }
    }

    /// Draws a teacher of cross-attention.
    pub(super) fn draw_pair(&self, dimension: usize, rng: &mut Pcg64) -> Result<FactorPair, Error> {
        match self {
            Self::Gaussian { kappa0 } => {
                let width = (kappa0 * dimension as f64).round() as usize;
                Ok(FactorPair::attention([0, 1].map(|_| random::normalised(rng, dimension, width))))
            }
            Self::Diagonal(spectrum) => {
                let factor = diagonal_factor(&singular_values(spectrum.as_ref(), dimension)?);
                Ok(FactorPair { left: factor.clone(), right: factor, scale: 1.0 })
            }
        }
    }

    /// Draws a teacher of tied attention.
    pub(super) fn draw(&self, dimension: usize, rng: &mut Pcg64) -> Result<NetworkWeights, Error> {
        match self {
            Self::Gaussian { kappa0 } => {
                let width = (kappa0 * dimension as f64).round() as usize;
                Ok(NetworkWeights::attention(random::normalised(rng, dimension, width)))
            }
            Self::Diagonal(spectrum) => {
                let factor = diagonal_factor(&eigenvalues(spectrum.as_ref(), dimension)?);
                Ok(NetworkWeights { factor, scale: 1.0 })
            }
        }
    }
}

/// The diagonal matrix `F` for which `F F^T/sqrt(D)` has the given eigenvalues.
fn diagonal_factor(eigenvalues: &[f64]) -> DMatrix<f64> {
    let dimension = eigenvalues.len();
    let mut factor = DMatrix::zeros(dimension, dimension);
    for (i, value) in eigenvalues.iter().enumerate() {
        factor[(i, i)] = (value * (dimension as f64).sqrt()).sqrt();
    }
    factor
}

/// The singular values of a matrix of the given dimension: the larger half of twice as many quantiles of the symmetric law.
fn singular_values(spectrum: &dyn TeacherSpectrum, dimension: usize) -> Result<Vec<f64>, Error> {
    let upper_half = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values.split_off(values.len().saturating_sub(dimension))
    };
    valid(spectrum.eigenvalues(2 * dimension).map(upper_half), dimension)
}

/// The eigenvalues of a matrix of the given dimension.
fn eigenvalues(spectrum: &dyn TeacherSpectrum, dimension: usize) -> Result<Vec<f64>, Error> {
    valid(spectrum.eigenvalues(dimension), dimension)
}

/// The eigenvalues, or singular values, if they are those of a teacher.
fn valid(eigenvalues: Option<Vec<f64>>, dimension: usize) -> Result<Vec<f64>, Error> {
    let Some(eigenvalues) = eigenvalues else {
        let reason =
            "training at finite size needs the eigenvalues of a matrix (TeacherSpectrum::eigenvalues)";
        return Err(Error::MissingField { field: "model.teacher.eigenvalues", reason });
    };
    let refused =
        |value: String, allowed: String| Err(Error::invalid("model.teacher.eigenvalues", value, allowed));
    if eigenvalues.len() != dimension {
        return refused(format!("[{} eigenvalues]", eigenvalues.len()), format!("{dimension} numbers"));
    }
    match eigenvalues.iter().find(|value| !(value.is_finite() && **value >= 0.0)) {
        Some(value) => refused(format!("[.., {}, ..]", Number(*value)), "finite and >= 0".to_owned()),
        None => Ok(eigenvalues),
    }
}
