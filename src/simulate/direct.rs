//! Pre-training of the symmetric weights `S` themselves.
//!
//! The logits are `h_ab = (x_a.S x_b - Tr(S) delta_ab)/D`. With the symmetrised derivative `A` of the loss with respect to `h`, the gradient is
//! `dL/dS = (1/D) sum_mu (X^T A X - tr(A) I)`, which is symmetric, so that training does not leave the symmetric matrices.

use nalgebra::DMatrix;

use super::layer::Layer;
use super::minimise::Objective;
use super::sequences::{Chunk, Corpus, Factor};

/// A training task, whose objective is `sum_mu loss + lambda |S|_F^2`. The parameters are the columns of `S`.
pub(super) struct DirectTask<'a> {
    pub(super) layer: Layer,
    pub(super) sequences: &'a Corpus,
    /// The labels, `sigma` of their logits.
    pub(super) labels: &'a [f64],
    pub(super) lambda: f64,
}

impl DirectTask<'_> {
    /// The matrix `S`, from its columns one after the other.
    pub(super) fn matrix(&self, s: &[f64]) -> DMatrix<f64> {
        let dimension = self.sequences.dimension();
        DMatrix::from_column_slice(dimension, dimension, s)
    }

    /// The loss without the ridge.
    pub(super) fn loss(&self, s: &DMatrix<f64>) -> f64 {
        self.adjoints(s).0
    }

    /// The loss, and its gradient.
    fn adjoints(&self, s: &DMatrix<f64>) -> (f64, DMatrix<f64>) {
        let t = self.layer.tokens;
        let dimension = self.sequences.dimension() as f64;
        let factor = Factor::new(s);
        let trace = s.trace();
        let of_chunk = |chunk: Chunk<'_>| {
            let y = chunk.project(&factor);
            let mut h = Vec::with_capacity(chunk.gram.len());
            for first in (0..chunk.x.ncols()).step_by(t) {
                for a in first..first + t {
                    h.extend((first..first + t).map(|b| {
                        let centre = if a == b { trace } else { 0.0 };
                        (chunk.x.column(a).dot(&y.column(b)) - centre) / dimension
                    }));
                }
            }
            let offset = t * t * chunk.first;
            let labels = &self.labels[offset..offset + h.len()];
            let loss = self.layer.adjoint(&mut h, labels, chunk.gram);
            let mut trace = 0.0;
            let mut z = DMatrix::zeros(y.nrows(), y.ncols());
            for (mu, slopes) in h.chunks_exact(t * t).enumerate() {
                for a in 0..t {
                    trace += slopes[t * a + a];
                    let mut sum = z.column_mut(t * mu + a);
                    for b in 0..t {
                        sum.axpy(slopes[t * a + b], &chunk.x.column(t * mu + b), 1.0);
                    }
                }
            }
            (loss, trace, chunk.pull(&z))
        };
        let mut total = (0.0, DMatrix::zeros(s.nrows(), s.ncols()));
        let mut centre = 0.0;
        for (loss, trace, pulled) in self.sequences.chunks(of_chunk) {
            total.0 += loss;
            centre += trace;
            total.1 += pulled;
        }
        for i in 0..s.nrows() {
            total.1[(i, i)] -= centre;
        }
        total.1 /= dimension;
        total
    }
}

impl Objective for DirectTask<'_> {
    fn evaluate(&self, s: &[f64]) -> (f64, Vec<f64>) {
        let s = self.matrix(s);
        let (loss, mut gradient) = self.adjoints(&s);
        gradient += &s * (2.0 * self.lambda);
        (loss + self.lambda * s.norm_squared(), gradient.data.into())
    }
}
