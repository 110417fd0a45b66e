//! The points from which the proximal points of several columns are searched.

use nalgebra::{DMatrix, SymmetricEigen};

use super::descent::{Prox, dot};
use super::logits::Perturbation;
use super::starts::Starts;
use crate::activation::Unseen;

/// Factor on `omega` for a start close to zero.
const SMALL: f64 = 0.05;

impl Prox<'_, Perturbation<'_>> {
    /// The starts of some samples, for a perturbation of several columns: `omega`, `chi*`, a point close to zero, what a
    /// linear activation suggests, and reflections of `omega`. Every column is on the side of its `omega`, because the
    /// loss does not change when a column changes its sign. `star` has `chi*` for the columns that learn something, and
    /// `omega` for the others. `label` are the label's logits, including the perturbation. Both are of all samples.
    ///
    /// If the activation is linear, the loss is smallest where `chi chi^T` is the part of a matrix `B` along its largest
    /// positive eigenvalues: `chi = A O` with `A = U b^{1/2}` and any orthogonal `O`. The starts have the `O` that brings
    /// `A O` closest to `omega` (the Procrustes problem, weighted by the stiffness), and those in which one singular
    /// direction is reflected.
    pub(crate) fn column_starts(&self, samples: &[usize], star: &[f64], label: &[f64]) -> Starts {
        let (tokens, columns) = (self.map.tokens, self.map.columns);
        let (n, square) = (tokens * columns, tokens * tokens);
        let mut all = Starts::new();
        for s in samples {
            let omega = &self.omega[s * n..(s + 1) * n];
            let frozen = &self.map.frozen[s * square..(s + 1) * square];
            let label = &label[s * square..(s + 1) * square];
            let mut target = DMatrix::from_fn(tokens, tokens, |a, b| {
                let k = a * tokens + b;
                (label[k] - frozen[k]) / self.map.coupling + if a == b { self.map.trace } else { 0.0 }
            });
            let mut starts = vec![omega.to_vec(), star[s * n..(s + 1) * n].to_vec()];
            starts.push(omega.iter().map(|x| SMALL * x).collect());
            self.turned(&target, omega, &mut starts);
            if self.activation.unseen() == Unseen::RowShifts {
                // The part of the matrix along 11^T is not seen.
                let mean = target.mean();
                target.add_scalar_mut(-mean);
                self.turned(&target, omega, &mut starts);
                starts.push(reflected_through_ones(omega, tokens, columns));
            }
            if self.activation.unseen() == Unseen::RowShifts || columns == 1 {
                for row in 0..tokens {
                    let mut flipped = omega.to_vec();
                    flipped[row * columns..(row + 1) * columns].iter_mut().for_each(|x| *x = -*x);
                    starts.push(flipped);
                }
            }
            for start in &mut starts {
                align(start, omega, columns);
            }
            all.resize(starts.len(), Vec::new());
            for (all, start) in all.iter_mut().zip(starts) {
                all.extend(start);
            }
        }
        all
    }

    /// Adds `A O`, and the same with one singular direction of the Procrustes problem reflected.
    fn turned(&self, target: &DMatrix<f64>, omega: &[f64], starts: &mut Vec<Vec<f64>>) {
        let (tokens, columns) = (self.map.tokens, self.map.columns);
        let eigen = SymmetricEigen::new(target.clone());
        let mut order: Vec<usize> = (0..tokens).collect();
        order.sort_by(|a, b| eigen.eigenvalues[*b].total_cmp(&eigen.eigenvalues[*a]));
        let root = DMatrix::from_fn(tokens, columns, |a, k| {
            order.get(k).map_or(0.0, |i| {
                // A start at zero would be a stationary point.
                eigen.eigenvectors[(a, *i)] * eigen.eigenvalues[*i].max(SMALL * SMALL).sqrt()
            })
        });
        let pull = DMatrix::from_fn(tokens, columns, |a, k| omega[a * columns + k] * self.stiffness[k]);
        // With the singular value decomposition P s Q^T of A^T omega/v, O = P Q^T.
        let product = root.tr_mul(&pull);
        let right = SymmetricEigen::new(product.tr_mul(&product));
        let largest = right.eigenvalues.max();
        let mut left = &product * &right.eigenvectors;
        for (k, mut column) in left.column_iter_mut().enumerate() {
            let s2 = right.eigenvalues[k];
            column *= if s2 > 1e-16 * largest { 1.0 / s2.sqrt() } else { 0.0 };
        }
        let left = root * left;
        for reflected in 0..=columns {
            let mut turned = left.clone();
            if reflected > 0 {
                turned.column_mut(reflected - 1).neg_mut();
            }
            let start = turned * right.eigenvectors.transpose();
            starts.push(start.row_iter().flat_map(|row| row.iter().copied().collect::<Vec<_>>()).collect());
        }
    }
}

/// The reflection of every column through the direction of all ones.
fn reflected_through_ones(omega: &[f64], tokens: usize, columns: usize) -> Vec<f64> {
    let total = |k: usize| omega.iter().skip(k).step_by(columns).sum::<f64>();
    omega.iter().enumerate().map(|(i, x)| x - 2.0 / tokens as f64 * total(i % columns)).collect()
}

/// Turns every column to the side of its `omega`.
fn align(start: &mut [f64], omega: &[f64], columns: usize) {
    for k in 0..columns {
        let of_column = |x: &[f64]| x.iter().skip(k).step_by(columns).copied().collect::<Vec<_>>();
        if dot(&of_column(start), &of_column(omega)) < 0.0 {
            start.iter_mut().skip(k).step_by(columns).for_each(|x| *x = -*x);
        }
    }
}
