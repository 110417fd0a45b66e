//! First derivatives of sampled equations at a fixed point, by finite differences. They give the slopes for
//! the iteration at finer levels, and the error bars of all results from the spread of the replicates.

use nalgebra::{DMatrix, DVector};

use crate::error::Error;
use crate::fixed_point::Secant;

/// Derivatives of the map and of its averages along each of the coordinates iterated on, all of which are
/// logarithms.
pub(super) struct Sensitivity {
    steps: Vec<f64>,
    secants: Vec<Secant<Vec<f64>>>,
    base: Vec<f64>,
    moved: Vec<Vec<f64>>,
}

impl Sensitivity {
    /// Measures the derivatives at `x`. `residual_and_averages` gives the residual of the map and the
    /// averages from which the map is made; those at `x` are known. `steps` are the logarithmic steps of the finite differences along the coordinates, as many
    /// as `x` has.
    pub(super) fn measure(
        x: &[f64],
        steps: Vec<f64>,
        (residual, base): (Vec<f64>, Vec<f64>),
        mut residual_and_averages: impl FnMut(&[f64]) -> Result<(Vec<f64>, Vec<f64>), Error>,
    ) -> Result<Self, Error> {
        let mut secants = Vec::with_capacity(x.len());
        let mut moved = Vec::with_capacity(x.len());
        for (axis, &step) in steps.iter().enumerate().take(x.len()) {
            let mut y = x.to_vec();
            y[axis] *= step.exp();
            let (there, averages) = residual_and_averages(&y)?;
            let mut along = vec![0.0; x.len()];
            along[axis] = step;
            let residual_change = there.iter().zip(&residual).map(|(there, here)| there - here).collect();
            secants.push(Secant { step: along, residual_change });
            moved.push(averages);
        }
        Ok(Self { steps, secants, base, moved })
    }

    /// The slopes for Anderson acceleration. Slopes that are not finite are left out.
    pub(super) fn secants(&self) -> Vec<Secant<Vec<f64>>> {
        let finite = |secant: &&Secant<Vec<f64>>| secant.residual_change.iter().all(|c| c.is_finite());
        self.secants.iter().filter(finite).cloned().collect()
    }

    /// The first-order shift `dx` of a fixed point if the map changes by each of `differences`:
    /// `(1 - F') dx = difference`. The shift is NaN if the map is degenerate.
    pub(super) fn shifts(&self, differences: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let dimension = self.secants.len();
        if dimension == 0 {
            // The decomposition of a matrix without elements cannot be asked to solve anything.
            return vec![Vec::new(); differences.len()];
        }
        let slope = |i: usize, j: usize| -self.secants[j].residual_change[i] / self.steps[j];
        let decomposition = DMatrix::from_fn(dimension, dimension, slope).lu();
        differences
            .iter()
            .map(|difference| {
                let solved = decomposition.solve(&DVector::from_column_slice(difference));
                (0..dimension).map(|i| solved.as_ref().map_or(f64::NAN, |x| x[i])).collect()
            })
            .collect()
    }

    /// The averages of one replicate, moved from the common fixed point to that of the replicate.
    pub(super) fn moved(&self, mut averages: Vec<f64>, shift: &[f64]) -> Vec<f64> {
        for ((moved, shift), step) in self.moved.iter().zip(shift).zip(&self.steps) {
            for ((x, moved), base) in averages.iter_mut().zip(moved).zip(&self.base) {
                *x += shift / step * (moved - base);
            }
        }
        averages
    }
}

/// The standard error of the image of a map, in its noisiest coordinate, from the differences between the
/// images of the replicates and the common image. It is NaN for a single replicate.
pub(super) fn standard_error_of_image(differences: &[Vec<f64>]) -> f64 {
    let count = differences.len() as f64;
    let dimension = differences.first().map_or(0, Vec::len);
    let variance = |i: usize| differences.iter().map(|d| d[i] * d[i]).sum::<f64>() / (count - 1.0);
    // The maximum must not be taken by f64::max, which ignores NaN.
    (0..dimension)
        .map(|i| (variance(i) / count).sqrt())
        .fold(0.0, |largest, x| if x <= largest { largest } else { x })
}
