//! How the teacher of an instance is drawn.

use std::sync::Arc;

use nalgebra::DMatrix;
use rand_pcg::Pcg64;

use super::random;
use super::sequences::NetworkWeights;
use crate::error::{Error, Number};
use crate::model::{Model, Teacher};
use crate::spectrum::TeacherSpectrum;

/// The law from which teachers are drawn.
#[derive(Clone)]
pub(super) enum Truth {
    /// A Gaussian factor of width `kappa0 D`, scaled to the mean trace.
    Gaussian { kappa0: f64 },
    /// A diagonal matrix of given eigenvalues. The law of the sequences does not change under rotations, so that
    /// the eigenvectors do not matter.
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
    pub(super) fn check(&self, dimension: usize) -> Result<(), Error> {
        match self {
            Self::Gaussian { .. } => Ok(()),
            Self::Diagonal(spectrum) => eigenvalues(spectrum.as_ref(), dimension).map(drop),
        }
    }

    /// Draws a teacher.
    pub(super) fn draw(&self, dimension: usize, rng: &mut Pcg64) -> Result<NetworkWeights, Error> {
        match self {
            Self::Gaussian { kappa0 } => {
                let width = (kappa0 * dimension as f64).round() as usize;
                Ok(NetworkWeights::attention(random::normalised(rng, dimension, width)))
            }
            Self::Diagonal(spectrum) => {
                let mut factor = DMatrix::zeros(dimension, dimension);
                for (i, value) in eigenvalues(spectrum.as_ref(), dimension)?.into_iter().enumerate() {
                    factor[(i, i)] = (value * (dimension as f64).sqrt()).sqrt();
                }
                Ok(NetworkWeights { factor, scale: 1.0 })
            }
        }
    }
}

/// The eigenvalues of a matrix of the given dimension.
fn eigenvalues(spectrum: &dyn TeacherSpectrum, dimension: usize) -> Result<Vec<f64>, Error> {
    let Some(eigenvalues) = spectrum.eigenvalues(dimension) else {
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
