//! The points from which the proximal points of several columns are searched.

use super::descent::Prox;
use super::jacobi::Eigen;
use super::logits::Perturbation;
use super::starts::Starts;
use crate::activation::Unseen;

/// Factor on `omega` for a start close to zero.
pub(super) const SMALL: f64 = 0.05;

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
            let mut target = self.map.needed_perturbation(*s, label);
            target.iter_mut().step_by(tokens + 1).for_each(|x| *x += self.map.trace);
            let mut starts = vec![omega.to_vec(), star[s * n..(s + 1) * n].to_vec()];
            starts.push(omega.iter().map(|x| SMALL * x).collect());
            self.turned(&target, omega, &mut starts);
            if self.activation.unseen() == Unseen::RowShifts {
                // The part of the matrix along 11^T is not seen.
                let mean = target.iter().sum::<f64>() / square as f64;
                target.iter_mut().for_each(|x| *x -= mean);
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
            append(&mut all, starts);
        }
        all
    }

    /// Adds `A O`, and the same with one singular direction of the Procrustes problem reflected. `target` is `B`.
    fn turned(&self, target: &[f64], omega: &[f64], starts: &mut Vec<Vec<f64>>) {
        let (tokens, columns) = (self.map.tokens, self.map.columns);
        let eigen = Eigen::new(target.to_vec(), tokens);
        let rank = tokens.min(columns);
        let mut root = vec![0.0; rank * tokens];
        for (k, i) in eigen.order().into_iter().take(rank).enumerate() {
            // A start at zero would be a stationary point.
            let size = eigen.values[i].max(SMALL * SMALL).sqrt();
            for a in 0..tokens {
                root[k * tokens + a] = size * eigen.vectors[a * tokens + i];
            }
        }
        turn(&root, omega, self.stiffness, columns, starts);
    }
}

/// Adds the starts of one sample to those of the samples before it.
pub(super) fn append(all: &mut Starts, starts: Vec<Vec<f64>>) {
    all.resize(starts.len(), Vec::new());
    for (all, start) in all.iter_mut().zip(starts) {
        all.extend(start);
    }
}

/// Adds `A O`, with the orthogonal `O` that brings it closest to `omega`, weighted by the stiffness, and the same with one singular direction
/// of that problem reflected. `root` has the columns of `A` that do not vanish, one after the other; `omega` has a row of `columns` entries
/// for every entry of such a column. The stiffness of the first row stands for all.
pub(super) fn turn(
    root: &[f64],
    omega: &[f64],
    stiffness: &[f64],
    columns: usize,
    starts: &mut Vec<Vec<f64>>,
) {
    let rows = omega.len() / columns;
    let rank = root.len() / rows;
    // A^T omega/v.
    let mut product = vec![0.0; rank * columns];
    for (k, root) in root.chunks_exact(rows).enumerate() {
        for (a, x) in root.iter().enumerate() {
            for c in 0..columns {
                product[k * columns + c] += x * omega[a * columns + c] * stiffness[c];
            }
        }
    }
    // With the singular value decomposition P s Q^T of that matrix, O = P Q^T. The columns of Q are eigenvectors.
    let mut gram = vec![0.0; columns * columns];
    for row in product.chunks_exact(columns) {
        for c in 0..columns {
            for d in 0..columns {
                gram[c * columns + d] += row[c] * row[d];
            }
        }
    }
    let right = Eigen::new(gram, columns);
    let order = right.order();
    let largest = order.first().map_or(0.0, |i| right.values[*i]);
    // The parts A p_i q_i^T of A O.
    let mut parts = Vec::with_capacity(rank);
    for i in order.into_iter().take(rank) {
        let s2 = right.values[i];
        let scale = if s2 > 1e-16 * largest { 1.0 / s2.sqrt() } else { 0.0 };
        let q = |c: usize| right.vectors[c * columns + i];
        let mut left = vec![0.0; rows];
        for (row, root) in product.chunks_exact(columns).zip(root.chunks_exact(rows)) {
            let p = row.iter().enumerate().map(|(c, x)| x * q(c)).sum::<f64>() * scale;
            left.iter_mut().zip(root).for_each(|(left, x)| *left += p * x);
        }
        let part: Vec<f64> = left.iter().flat_map(|x| (0..columns).map(move |c| x * q(c))).collect();
        parts.push(part);
    }
    let mut whole = vec![0.0; omega.len()];
    for part in &parts {
        whole.iter_mut().zip(part).for_each(|(x, part)| *x += part);
    }
    for part in parts {
        starts.push(whole.iter().zip(part).map(|(x, part)| x - 2.0 * part).collect());
    }
    starts.push(whole);
}

/// The reflection of every column through the direction of all ones.
fn reflected_through_ones(omega: &[f64], tokens: usize, columns: usize) -> Vec<f64> {
    let total = |k: usize| omega.iter().skip(k).step_by(columns).sum::<f64>();
    omega.iter().enumerate().map(|(i, x)| x - 2.0 / tokens as f64 * total(i % columns)).collect()
}

/// Turns every column to the side of its `omega`.
fn align(start: &mut [f64], omega: &[f64], columns: usize) {
    for k in 0..columns {
        let of_column = |x: &[f64], i: usize| x[i * columns + k];
        let along: f64 = (0..start.len() / columns).map(|i| of_column(start, i) * of_column(omega, i)).sum();
        if along < 0.0 {
            start.iter_mut().skip(k).step_by(columns).for_each(|x| *x = -*x);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activation::{Activation, Linear, Softmax};
    use crate::attention::Attention;
    use crate::channel::general::KnownDerivatives;
    use crate::channel::general::brute_force::{grid, missed};
    use crate::channel::general::search::LastPoints;
    use crate::quadrature::ScrambledSobol;

    const TOKENS: usize = 2;
    const COLUMNS: usize = 2;
    const COUNT: usize = 64;

    /// Samples with frozen logits and a true perturbation of two columns; linear attention has noise in its place.
    struct Trial {
        activation: &'static dyn Activation,
        frozen: Vec<f64>,
        label: Vec<f64>,
        y: Vec<f64>,
        star: Vec<f64>,
        omega: Vec<f64>,
        stiffness: Vec<f64>,
        q: f64,
    }

    impl Trial {
        /// At the overlap `m`, the norm `q` and the response `v` of every column.
        fn new(form: KnownDerivatives, [m, q, v]: [f64; 3]) -> Self {
            let n = TOKENS * COLUMNS;
            let points = ScrambledSobol::new(2 * n + 6, 10, 5, 0).unwrap();
            let columns: Vec<_> = (0..points.dimensions()).map(|d| points.normals(d).unwrap()).collect();
            let fields = |first: usize, length: usize| -> Vec<f64> {
                (0..COUNT)
                    .flat_map(|s| (first..first + length).map(move |d| (s, d)))
                    .map(|(s, d)| columns[d][s])
                    .collect()
            };
            let symmetric = |first: usize, scale: f64| -> Vec<f64> {
                fields(first, 3)
                    .chunks_exact(3)
                    .flat_map(|x| [x[0], x[2] / 2_f64.sqrt(), x[2] / 2_f64.sqrt(), x[1]].map(|x| scale * x))
                    .collect()
            };
            let (star, free) = (fields(0, n), fields(n, n));
            let omega =
                star.iter().zip(&free).map(|(star, free)| m * star + (q - m * m).sqrt() * free).collect();
            let (activation, frozen, mut label): (&'static dyn Activation, _, _) = match form {
                KnownDerivatives::Linear => {
                    (&Linear, vec![0.0; COUNT * TOKENS * TOKENS], symmetric(2 * n, 0.8))
                }
                KnownDerivatives::Softmax => {
                    let frozen = symmetric(2 * n, 1.5);
                    let rest = symmetric(2 * n + 3, 1.5);
                    let label = frozen.iter().zip(&rest).map(|(z, x)| 0.9 * z + x).collect();
                    (&Softmax, frozen, label)
                }
            };
            let truth = Perturbation {
                attention: Attention::Tied,
                tokens: TOKENS,
                columns: COLUMNS,
                frozen: &[],
                coupling: 1.0,
                trace: 2.0,
                form: None,
            };
            for (chi, label) in star.chunks_exact(n).zip(label.chunks_exact_mut(TOKENS * TOKENS)) {
                truth.add(chi, label);
            }
            let mut y = vec![0.0; label.len()];
            activation.attention(TOKENS, &label, &mut y);
            Self { activation, frozen, label, y, star, omega, stiffness: vec![1.0 / v; n], q }
        }

        fn prox(&self, form: Option<KnownDerivatives>) -> Prox<'_, Perturbation<'_>> {
            let map = Perturbation {
                attention: Attention::Tied,
                tokens: TOKENS,
                columns: COLUMNS,
                frozen: &self.frozen,
                coupling: 1.0,
                trace: COLUMNS as f64 * self.q,
                form,
            };
            Prox {
                activation: self.activation,
                map,
                label: &self.y,
                omega: &self.omega,
                stiffness: &self.stiffness,
            }
        }
    }

    #[test]
    fn closed_forms_are_the_derivatives() {
        for form in [KnownDerivatives::Linear, KnownDerivatives::Softmax] {
            let trial = Trial::new(form, [0.9, 1.0, 0.2]);
            let general = trial.prox(None).at(trial.star.clone());
            let closed = trial.prox(Some(form)).at(trial.star.clone());
            for (a, b) in [
                (&general.value, &closed.value),
                (&general.loss, &closed.loss),
                (&general.slope, &closed.slope),
                (&general.gradient, &closed.gradient),
                (&general.hessian, &closed.hessian),
            ] {
                assert_eq!(a.len(), b.len());
                for (a, b) in a.iter().zip(b) {
                    approx::assert_abs_diff_eq!(*a, *b, epsilon = 1e-12 * (1.0 + a.abs()));
                }
            }
        }
    }

    /// The proximal points are compared with the lowest of the minima downhill from a grid, with ample and with little data.
    #[test]
    fn proximal_points_are_the_lowest_of_many_minima() {
        for (form, [m, q, v], allowed) in [
            (KnownDerivatives::Linear, [0.97, 0.99, 0.05], 0),
            (KnownDerivatives::Linear, [0.9, 1.0, 0.4], 0),
            (KnownDerivatives::Softmax, [0.93, 0.98, 0.15], 0),
            (KnownDerivatives::Softmax, [0.8, 1.1, 1.0], 2),
        ] {
            let trial = Trial::new(form, [m, q, v]);
            let prox = trial.prox(Some(form));
            let mut known = LastPoints::default();
            let found = prox
                .minima_near(&mut known, |samples| prox.column_starts(samples, &trial.star, &trial.label));
            let slope = found.gradient.iter().fold(0.0, |largest: f64, g| largest.max(g.abs()));
            assert!(slope < 1e-7 * (1.0 / v).max(1.0), "gradient {slope:e}");
            let missed = missed(&prox, &found, &grid(TOKENS * COLUMNS, 4, 3.0));
            assert!(missed <= allowed, "{form:?}, v = {v}: {missed} of {COUNT} missed");
        }
    }
}
