//! The points from which the proximal points of two factors are searched.

use super::column_starts::{SMALL, append, turn};
use super::descent::Prox;
use super::jacobi::Eigen;
use super::logits::Perturbation;
use super::starts::Starts;
use crate::activation::Unseen;

impl Prox<'_, Perturbation<'_>> {
    /// The starts of some samples, for a perturbation `chi psi^T`: `omega`, the truth, a point close to zero, `omega` with the sign of one
    /// factor changed, and what a linear activation suggests. Every pair of columns is on the side of its `omega`, because the
    /// loss does not change when both columns of a pair change their signs. `star` has the truth for the columns that learn something, and
    /// `omega` for the others. `label` are the label's logits, including the perturbation. Both are of all samples.
    ///
    /// If the activation is linear, the loss is smallest where `chi psi^T` is the part of a matrix `B = U s V^T` along its largest singular
    /// values, `chi = U s^{1/2} O` and `psi = V s^{1/2} O` with any orthogonal `O`; the pull makes `s` smaller. The starts have the `O`
    /// that brings both factors closest to `omega`, and those in which one singular direction is reflected.
    pub(crate) fn factor_starts(&self, samples: &[usize], star: &[f64], label: &[f64]) -> Starts {
        let (tokens, columns) = (self.map.tokens, self.map.columns);
        let (n, width) = (tokens * columns, self.map.width());
        let mut all = Starts::new();
        for s in samples {
            let omega = &self.omega[s * n..(s + 1) * n];
            let mut target = self.map.needed_perturbation(*s, label);
            if self.activation.unseen() == Unseen::RowShifts {
                for row in target.chunks_exact_mut(tokens) {
                    let mean = row.iter().sum::<f64>() / tokens as f64;
                    row.iter_mut().for_each(|x| *x -= mean);
                }
            }
            let mut starts = vec![omega.to_vec(), star[s * n..(s + 1) * n].to_vec()];
            starts.push(omega.iter().map(|x| SMALL * x).collect());
            let opposite = |sign: f64| {
                let entries = omega.iter().enumerate();
                entries.map(|(i, x)| if i % columns < width { sign * x } else { -sign * x }).collect()
            };
            starts.extend([opposite(1.0), opposite(-1.0)]);
            let first = starts.len();
            self.along_singular_vectors(&target, omega, &mut starts);
            self.align(&mut starts[1], omega);
            starts[first..].iter_mut().for_each(|start| self.align(start, omega));
            append(&mut all, starts);
        }
        all
    }

    /// Adds the starts along the largest singular values of `target`, and those along the next ones.
    fn along_singular_vectors(&self, target: &[f64], omega: &[f64], starts: &mut Vec<Vec<f64>>) {
        let (tokens, columns, width) = (self.map.tokens, self.map.columns, self.map.width());
        let mut gram = vec![0.0; tokens * tokens];
        for row in target.chunks_exact(tokens) {
            for b in 0..tokens {
                for c in 0..tokens {
                    gram[b * tokens + c] += row[b] * row[c];
                }
            }
        }
        let eigen = Eigen::new(gram, tokens);
        let order = eigen.order();
        // The geometric mean of the stiffness of the two factors takes from a singular value what the pull of a linear loss does.
        let pull = (self.stiffness[0] * self.stiffness[width]).sqrt() * (tokens * tokens) as f64 / 2.0;
        let linear = self.map.is_linear();
        // The factor with the smaller stiffness takes the larger part of the product.
        let balance = (self.stiffness[width] / self.stiffness[0]).sqrt().sqrt();
        // The pairs of singular vectors, in rows for the tokens of the queries and then of the keys.
        let vectors: Vec<Vec<f64>> = order
            .iter()
            .map(|i| {
                let singular = eigen.values[*i].max(0.0).sqrt();
                let right = |b: usize| eigen.vectors[b * tokens + i];
                let moved = if linear { singular - pull } else { singular };
                // A start at zero would be a stationary point.
                let size = moved.max(SMALL).sqrt();
                let left = target.chunks_exact(tokens).map(|row| {
                    let image: f64 = row.iter().enumerate().map(|(b, x)| x * right(b)).sum();
                    if singular > 0.0 { balance * size * image / singular } else { 0.0 }
                });
                let left: Vec<f64> = left.collect();
                left.into_iter().chain((0..tokens).map(|b| size / balance * right(b))).collect()
            })
            .collect();
        let stacked: Vec<f64> = (0..2 * tokens)
            .flat_map(|row| {
                let (token, side) = (row % tokens, row / tokens);
                (0..width).map(move |c| (token * columns + side * width + c, side * width))
            })
            .map(|(entry, side)| omega[entry] * self.stiffness[side])
            .collect();
        let ones = vec![1.0; width];
        let mut turned = Vec::new();
        for skipped in 0..order.len().min(2) {
            let root: Vec<f64> = vectors.iter().skip(skipped).take(width).flatten().copied().collect();
            turn(&root, &stacked, &ones, width, &mut turned);
            if width == 1 {
                // The reflection of the only direction is the same start on the other side.
                turned.swap_remove(turned.len() - 2);
            }
        }
        for start in turned {
            let entry = |i: usize| {
                let (token, column) = (i / columns, i % columns);
                let (side, c) = (column / width, column % width);
                start[(side * tokens + token) * width + c]
            };
            starts.push((0..tokens * columns).map(entry).collect());
        }
    }

    /// Turns every pair of columns to the side of its `omega`.
    fn align(&self, start: &mut [f64], omega: &[f64]) {
        let (columns, width) = (self.map.columns, self.map.width());
        for k in 0..width {
            let pairs = start.iter().zip(omega).enumerate().filter(|(i, _)| i % columns % width == k);
            let along: f64 = pairs.map(|(i, (x, omega))| x * omega * self.stiffness[i]).sum();
            if along < 0.0 {
                let own = start.iter_mut().enumerate().filter(|(i, _)| i % columns % width == k);
                own.for_each(|(_, x)| *x = -*x);
            }
        }
    }
}
