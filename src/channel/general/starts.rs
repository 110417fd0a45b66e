//! The points from which proximal points are searched.

use super::cholesky::dot;
use super::descent::Prox;
use super::logits::{CoordinateBasis, Perturbation};
use crate::activation::Unseen;

/// A list of starts. Each has the coordinates of all samples that it was made for.
pub(crate) type Starts = Vec<Vec<f64>>;

impl Prox<'_, &CoordinateBasis> {
    /// For some samples, the points at `omega`, at the label's logits `target`, between the two, and at zero.
    pub(crate) fn between(&self, samples: &[usize], target: &[f64]) -> Starts {
        let n = self.map.dimension();
        let point = |share: f64| -> Vec<f64> {
            let own = samples.iter().flat_map(|s| s * n..(s + 1) * n);
            own.map(|k| self.omega[k] + share * (target[k] - self.omega[k])).collect()
        };
        vec![point(0.0), point(1.0), point(0.5), vec![0.0; samples.len() * n]]
    }
}

impl Prox<'_, Perturbation<'_>> {
    /// The starts of some samples, for a perturbation of one column: `omega`, `chi*`, a point close to zero,
    /// what a linear activation suggests, and reflections of `omega`, all on the side of `omega`. `star` and
    /// `label` are `chi*` and the label's logits, including the perturbation, of all samples.
    pub(crate) fn starts(&self, samples: &[usize], star: &[f64], label: &[f64]) -> Starts {
        let (n, square) = (self.map.tokens, self.map.tokens * self.map.tokens);
        let mut all = Starts::new();
        for s in samples {
            let target = label[s * square..(s + 1) * square].iter();
            let frozen = &self.map.frozen[s * square..(s + 1) * square];
            // If the activation were linear, chi chi^T would equal this matrix.
            let mut target: Vec<f64> =
                target.zip(frozen).map(|(label, frozen)| (label - frozen) / self.map.coupling).collect();
            target.iter_mut().step_by(n + 1).for_each(|x| *x += self.map.trace);
            let starts =
                self.starts_of_one(&self.omega[s * n..(s + 1) * n], &star[s * n..(s + 1) * n], target);
            all.resize(starts.len(), Vec::new());
            for (all, start) in all.iter_mut().zip(starts) {
                all.extend(start);
            }
        }
        all
    }

    fn starts_of_one(&self, omega: &[f64], star: &[f64], mut target: Vec<f64>) -> Starts {
        let tokens = omega.len();
        let mut starts = vec![omega.to_vec(), star.to_vec(), omega.iter().map(|x| 0.05 * x).collect()];
        starts.push(top_eigenvector(&target, omega));
        if self.activation.unseen() == Unseen::RowShifts {
            // The part of the matrix along 11^T is not seen.
            let mean = target.iter().sum::<f64>() / target.len() as f64;
            target.iter_mut().for_each(|x| *x -= mean);
            starts.push(top_eigenvector(&target, omega));
        }
        let total: f64 = omega.iter().sum();
        starts.push(omega.iter().map(|x| x - 2.0 / tokens as f64 * total).collect());
        for token in 0..tokens {
            let mut flipped = omega.to_vec();
            flipped[token] = -flipped[token];
            starts.push(flipped);
        }
        for start in &mut starts {
            if dot(start, omega) < 0.0 {
                start.iter_mut().for_each(|x| *x = -*x);
            }
        }
        starts
    }
}

/// A good approximation to the top eigenvector of a symmetric matrix, times the root of its eigenvalue (at
/// least 0.05). It comes from some power iterations from `start`.
fn top_eigenvector(matrix: &[f64], start: &[f64]) -> Vec<f64> {
    const STEPS: usize = 8;
    let rows = || matrix.chunks_exact(start.len());
    // The largest sum over a row bounds the spectrum.
    let bound = rows().map(|row| row.iter().map(|x| x.abs()).sum::<f64>()).fold(0.0, f64::max);
    let mut vector = start.to_vec();
    let mut eigenvalue = 0.0;
    for _ in 0..STEPS {
        let image: Vec<f64> = rows().map(|row| row.iter().zip(&vector).map(|(a, x)| a * x).sum()).collect();
        let along: f64 = image.iter().zip(&vector).map(|(y, x)| y * x).sum();
        let norm2: f64 = vector.iter().map(|x| x * x).sum();
        eigenvalue = along / (norm2 + f64::MIN_POSITIVE);
        let shifted = image.iter().zip(&vector).map(|(y, x)| y + bound * x);
        vector = shifted.collect();
        let scale = 1.0 / (vector.iter().map(|x| x * x).sum::<f64>() + f64::MIN_POSITIVE).sqrt();
        vector.iter_mut().for_each(|x| *x *= scale);
    }
    let size = eigenvalue.max(0.05).sqrt();
    vector.iter_mut().for_each(|x| *x *= size);
    vector
}
