//! The points from which the proximal point of one column is searched.

use crate::activation::Unseen;

/// What is known of one sample.
pub(super) struct StartHints<'a> {
    pub(super) tokens: usize,
    pub(super) unseen: Unseen,
    pub(super) omega: &'a [f64],
    pub(super) star: &'a [f64],
    /// The label's logits, including the perturbation.
    pub(super) label: &'a [f64],
    pub(super) frozen: &'a [f64],
    pub(super) coupling: f64,
    pub(super) q: f64,
}

impl StartHints<'_> {
    /// The starts: `omega`, `chi*`, a point close to zero, what a linear activation suggests, and reflections
    /// of `omega`, all on the side of `omega`. Their number is the same for all samples.
    pub(super) fn starts(&self) -> Vec<Vec<f64>> {
        let Self { tokens, omega, star, .. } = *self;
        let mut starts = vec![omega.to_vec(), star.to_vec(), omega.iter().map(|x| 0.05 * x).collect()];
        // If the activation were linear, chi chi^T would equal this matrix.
        let mut target: Vec<f64> = self
            .label
            .iter()
            .zip(self.frozen)
            .map(|(label, frozen)| (label - frozen) / self.coupling)
            .collect();
        target.iter_mut().step_by(tokens + 1).for_each(|x| *x += self.q);
        starts.push(top_eigenvector(&target, omega));
        if self.unseen == Unseen::RowShifts {
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
            let along: f64 = start.iter().zip(omega).map(|(x, y)| x * y).sum();
            if along < 0.0 {
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
