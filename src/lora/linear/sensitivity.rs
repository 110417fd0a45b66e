//! First derivatives of the equations at a fixed point, by finite differences: slopes for the iteration at finer levels, and
//! the error bars of everything from the spread of the scrambles.

use nalgebra::{DMatrix, DVector};

use super::moments::Moments;
use crate::fixed_point::Secant;

/// Logarithmic step of the finite differences: large against the jumps of the discretised map.
const STEP: f64 = 1e-2;

/// Derivatives along each coordinate iterated on (all of them logarithms).
pub(super) struct Sensitivity<const N: usize> {
    secants: Vec<Secant<N>>,
    base: Moments,
    moved: Vec<Moments>,
}

impl<const N: usize> Sensitivity<N> {
    /// Measures them at `x`, with `residual_and_moments` the residual of the map and the averages it is made of.
    pub(super) fn measure(
        x: &[f64; N],
        mut residual_and_moments: impl FnMut(&[f64; N]) -> ([f64; N], Moments),
    ) -> Self {
        let (residual, base) = residual_and_moments(x);
        let mut secants = Vec::with_capacity(N);
        let mut moved = Vec::with_capacity(N);
        for axis in 0..N {
            let mut y = *x;
            y[axis] *= STEP.exp();
            let (there, moments) = residual_and_moments(&y);
            let mut step = [0.0; N];
            step[axis] = STEP;
            secants.push(Secant { step, residual_change: std::array::from_fn(|i| there[i] - residual[i]) });
            moved.push(moments);
        }
        Self { secants, base, moved }
    }

    /// The slopes, for Anderson acceleration, as far as they are finite.
    pub(super) fn secants(&self) -> Vec<Secant<N>> {
        let finite = |secant: &&Secant<N>| secant.residual_change.iter().all(|c| c.is_finite());
        self.secants.iter().filter(finite).copied().collect()
    }

    /// How far a fixed point moves, to first order, if the map changes by `difference`: `(1 - F') dx = difference`. NaN if
    /// the map is degenerate.
    pub(super) fn shifts(&self, differences: &[[f64; N]]) -> Vec<[f64; N]> {
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

    /// The averages `moments`, moved with the point they are taken at.
    pub(super) fn moved(&self, moments: Moments, shift: &[f64; N]) -> Moments {
        self.moved
            .iter()
            .zip(shift)
            .fold(moments, |sum, (moved, shift)| sum.shifted(shift / STEP, *moved, self.base))
    }
}
