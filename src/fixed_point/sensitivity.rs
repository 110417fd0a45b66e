//! First derivatives of sampled equations at a fixed point, by finite differences: slopes for the iteration at finer levels,
//! and the error bars of everything from the spread of the scrambles.

use nalgebra::{DMatrix, DVector};

use super::Secant;

/// Logarithmic step of the finite differences: large against the jumps of the discretised map.
const STEP: f64 = 1e-2;

/// Derivatives along each of the `N` coordinates iterated on (all of them logarithms), of the map and of the `C` averages
/// that it is made of.
pub(crate) struct Sensitivity<const N: usize, const C: usize> {
    secants: Vec<Secant<N>>,
    base: [f64; C],
    moved: Vec<[f64; C]>,
}

impl<const N: usize, const C: usize> Sensitivity<N, C> {
    /// Measures them at `x`, with `residual_and_averages` the residual of the map and the averages it is made of.
    pub(crate) fn measure(
        x: &[f64; N],
        mut residual_and_averages: impl FnMut(&[f64; N]) -> ([f64; N], [f64; C]),
    ) -> Self {
        let (residual, base) = residual_and_averages(x);
        let mut secants = Vec::with_capacity(N);
        let mut moved = Vec::with_capacity(N);
        for axis in 0..N {
            let mut y = *x;
            y[axis] *= STEP.exp();
            let (there, averages) = residual_and_averages(&y);
            let mut step = [0.0; N];
            step[axis] = STEP;
            secants.push(Secant { step, residual_change: std::array::from_fn(|i| there[i] - residual[i]) });
            moved.push(averages);
        }
        Self { secants, base, moved }
    }

    /// The slopes, for Anderson acceleration, as far as they are finite.
    pub(crate) fn secants(&self) -> Vec<Secant<N>> {
        let finite = |secant: &&Secant<N>| secant.residual_change.iter().all(|c| c.is_finite());
        self.secants.iter().filter(finite).copied().collect()
    }

    /// How far a fixed point moves, to first order, if the map changes by `difference`: `(1 - F') dx = difference`. NaN if
    /// the map is degenerate.
    pub(crate) fn shifts(&self, differences: &[[f64; N]]) -> Vec<[f64; N]> {
        let matrix = DMatrix::from_fn(N, N, |i, j| -self.secants[j].residual_change[i] / STEP);
        let decomposition = matrix.lu();
        differences
            .iter()
            .map(|difference| {
                let solved = decomposition.solve(&DVector::from_column_slice(difference));
                std::array::from_fn(|i| solved.as_ref().map_or(f64::NAN, |x| x[i]))
            })
            .collect()
    }

    /// The averages of one scramble, moved with the point they are taken at.
    pub(crate) fn moved(&self, averages: [f64; C], shift: &[f64; N]) -> [f64; C] {
        let mut result = averages;
        for (moved, shift) in self.moved.iter().zip(shift) {
            for (i, x) in result.iter_mut().enumerate() {
                *x += shift / STEP * (moved[i] - self.base[i]);
            }
        }
        result
    }
}

/// Three standard errors of the image of a map, in its noisiest coordinate: what a residual may be without a doubt about the
/// solution. NaN for a single scramble.
pub(crate) fn noise<const N: usize>(differences: &[[f64; N]]) -> f64 {
    3.0 * standard_error(differences)
}

/// The standard error of the image of a map, in its noisiest coordinate, from the distances of the scrambles' images from
/// the common one. NaN for a single scramble.
pub(super) fn standard_error<const N: usize>(differences: &[[f64; N]]) -> f64 {
    let count = differences.len() as f64;
    let variance = |i: usize| differences.iter().map(|d| d[i] * d[i]).sum::<f64>() / (count - 1.0);
    (0..N).map(|i| (variance(i) / count).sqrt()).fold(0.0, |m, x| if x <= m { m } else { x })
}
