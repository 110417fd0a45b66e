//! Sequences of tokens, matrices of weights, and the logits of the weights on the sequences.

use nalgebra::{DMatrix, DMatrixView};
use rand_pcg::Pcg64;

use super::random;
use crate::lora::Score;
use crate::parallel;

/// Number of new sequences that are held at the same time.
pub(super) const TEST_BATCH: usize = 256;
/// Symmetric weights `S = scale F F^T`.
#[derive(Debug, Clone)]
pub(super) struct NetworkWeights {
    pub(super) factor: DMatrix<f64>,
    pub(super) scale: f64,
}

impl NetworkWeights {
    /// `S = P^{-1/2} W W^T` for `W` of shape `D x P`.
    pub(super) fn attention(w: DMatrix<f64>) -> Self {
        let scale = 1.0 / (w.ncols() as f64).sqrt();
        Self { factor: w, scale }
    }

    pub(super) fn matrix(&self) -> DMatrix<f64> {
        &self.factor * self.factor.transpose() * self.scale
    }
}

/// Any symmetric weights, as a sum of the matrices of positive and of negative eigenvalues. Positive weights have a single part.
#[derive(Debug, Clone)]
pub(super) struct SymmetricWeights {
    first: NetworkWeights,
    rest: Option<NetworkWeights>,
}

impl From<NetworkWeights> for SymmetricWeights {
    fn from(first: NetworkWeights) -> Self {
        Self { first, rest: None }
    }
}

impl SymmetricWeights {
    /// The weights `S`, from their eigenvalues and eigenvectors. The search for these would never end for a matrix with a NaN, whose parts are
    /// NaN.
    pub(super) fn of_matrix(s: &DMatrix<f64>) -> Self {
        if !s.iter().all(|x| x.is_finite()) {
            return NetworkWeights { factor: s.map(|_| f64::NAN), scale: 1.0 }.into();
        }
        let eigen = s.clone().symmetric_eigen();
        let part = |sign: f64| {
            let mut factor = eigen.eigenvectors.clone();
            for (mut column, value) in factor.column_iter_mut().zip(eigen.eigenvalues.iter()) {
                column *= (sign * value).max(0.0).sqrt();
            }
            NetworkWeights { factor, scale: sign }
        };
        Self { first: part(1.0), rest: Some(part(-1.0)) }
    }

    pub(super) fn matrix(&self) -> DMatrix<f64> {
        let first = self.first.matrix();
        match &self.rest {
            Some(rest) => first + rest.matrix(),
            None => first,
        }
    }

    /// `h(S)` of every sequence.
    pub(super) fn logits(&self, sequences: &Corpus) -> Vec<f64> {
        let mut logits = sequences.logits(&self.first);
        if let Some(rest) = &self.rest {
            logits.iter_mut().zip(sequences.logits(rest)).for_each(|(h, rest)| *h += rest);
        }
        logits
    }
}

/// Weights `S = scale L R^T`, which the queries see from the left and the keys from the right.
#[derive(Debug, Clone)]
pub(super) struct FactorPair {
    pub(super) left: DMatrix<f64>,
    pub(super) right: DMatrix<f64>,
    pub(super) scale: f64,
}

impl FactorPair {
    /// `S = P^{-1/2} U V^T` for `U` and `V` of shape `D x P`.
    pub(super) fn attention([left, right]: [DMatrix<f64>; 2]) -> Self {
        let scale = 1.0 / (left.ncols() as f64).sqrt();
        Self { left, right, scale }
    }

    pub(super) fn matrix(&self) -> DMatrix<f64> {
        &self.left * self.right.transpose() * self.scale
    }
}

/// The shape that all sequences of an instance have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) dimension: usize,
    pub(super) tokens: usize,
}

/// Sequences of `T` tokens in `D` dimensions.
#[derive(Debug, Clone)]
pub(super) struct Corpus {
    pub(super) tokens: usize,
    /// The tokens, one per column, sequence after sequence.
    x: DMatrix<f64>,
    /// The matrices `X X^T/D` of every sequence. They tend to the identity, but at finite `D` they are part
    /// of the loss.
    gram: Vec<f64>,
}

/// The factor `F` of the weights, and its transpose for the products of large matrices.
pub(super) struct Factor<'a> {
    columns: &'a DMatrix<f64>,
    transposed: DMatrix<f64>,
}

impl<'a> Factor<'a> {
    pub(super) fn new(columns: &'a DMatrix<f64>) -> Self {
        Self { columns, transposed: columns.transpose() }
    }
}

/// The sequences that are processed together.
pub(super) struct Chunk<'a> {
    pub(super) first: usize,
    pub(super) x: DMatrixView<'a, f64>,
    pub(super) gram: &'a [f64],
}

/// Largest number of chunks. The sums over chunks are taken in order, whatever the number of threads.
pub(super) const MAX_CHUNKS: usize = 16;
const SMALLEST_CHUNK: usize = 32;
/// Below this width, products are computed as sums over columns.
const NARROW: usize = 6;

impl Corpus {
    pub(super) fn sample(rng: &mut Pcg64, shape: Shape, count: usize) -> Self {
        Self::new(shape, random::gaussian(rng, shape.dimension, shape.tokens * count))
    }

    fn new(Shape { dimension, tokens }: Shape, x: DMatrix<f64>) -> Self {
        let dimension = dimension as f64;
        let mut gram = Vec::with_capacity(x.ncols() * tokens);
        for first in (0..x.ncols()).step_by(tokens) {
            for a in first..first + tokens {
                gram.extend((first..first + tokens).map(|b| x.column(a).dot(&x.column(b)) / dimension));
            }
        }
        Self { tokens, x, gram }
    }

    pub(super) fn count(&self) -> usize {
        self.x.ncols() / self.tokens
    }

    pub(super) fn dimension(&self) -> usize {
        self.x.nrows()
    }

    /// The sequences with the given numbers.
    pub(super) fn select(&self, numbers: &[usize]) -> Self {
        let columns: Vec<usize> =
            numbers.iter().flat_map(|mu| self.tokens * mu..self.tokens * (mu + 1)).collect();
        let shape = Shape { dimension: self.dimension(), tokens: self.tokens };
        Self::new(shape, self.x.select_columns(&columns))
    }

    /// One sequence, with one token per row.
    #[cfg(test)]
    pub(super) fn matrix(&self, mu: usize) -> DMatrix<f64> {
        self.x.columns(self.tokens * mu, self.tokens).transpose()
    }

    /// Number of entries of a matrix of logits.
    pub(super) fn square(&self) -> usize {
        self.tokens * self.tokens
    }

    /// The given sequences.
    pub(super) fn chunk(&self, first: usize, count: usize) -> Chunk<'_> {
        let x = self.x.columns(self.tokens * first, self.tokens * count);
        Chunk { first, x, gram: &self.gram[self.square() * first..self.square() * (first + count)] }
    }

    /// Applies `f` to every chunk, and returns the results in order.
    pub(super) fn chunks<R: Send>(&self, f: impl Fn(Chunk<'_>) -> R + Sync) -> Vec<R> {
        let size = self.count().div_ceil(MAX_CHUNKS).max(SMALLEST_CHUNK);
        parallel::map(self.count().div_ceil(size), 1, &|chunk| {
            let first = size * chunk;
            f(self.chunk(first, size.min(self.count() - first)))
        })
    }

    /// `X w` of every sequence, one number per token.
    pub(super) fn project(&self, w: &DMatrix<f64>) -> Vec<f64> {
        let factor = Factor::new(w);
        self.chunks(|chunk| chunk.project(&factor).as_slice().to_vec()).concat()
    }

    /// `X^T g`, for a vector `g` with one number per token.
    pub(super) fn pull(&self, g: &[f64]) -> DMatrix<f64> {
        let of_chunk = |chunk: Chunk<'_>| {
            let first = self.tokens * chunk.first;
            chunk.pull(&DMatrix::from_row_slice(1, chunk.x.ncols(), &g[first..first + chunk.x.ncols()]))
        };
        let zero = DMatrix::zeros(self.dimension(), 1);
        self.chunks(of_chunk).into_iter().fold(zero, |sum, part| sum + part)
    }

    /// `h(S) = D^{-1}(X S X^T - Tr(S) I)` of every sequence.
    pub(super) fn logits(&self, weights: &NetworkWeights) -> Vec<f64> {
        let trace = weights.factor.norm_squared();
        let factor = Factor::new(&weights.factor);
        let of_chunk = |chunk: Chunk<'_>| {
            let y = chunk.project(&factor);
            chunk.logits(self.tokens, &y, trace, weights.scale)
        };
        self.chunks(of_chunk).concat()
    }
}

impl Chunk<'_> {
    /// `F^T X`, with one column per token.
    pub(super) fn project(&self, factor: &Factor<'_>) -> DMatrix<f64> {
        let width = factor.columns.ncols();
        if width < NARROW {
            let entry = |p: usize, a: usize| factor.columns.column(p).dot(&self.x.column(a));
            return DMatrix::from_fn(width, self.x.ncols(), entry);
        }
        &factor.transposed * self.x
    }

    /// `X Z^T`, for a matrix `Z` with one column per token.
    pub(super) fn pull(&self, z: &DMatrix<f64>) -> DMatrix<f64> {
        if z.nrows() < NARROW {
            let mut sum = DMatrix::zeros(self.x.nrows(), z.nrows());
            for p in 0..z.nrows() {
                for (x, factor) in self.x.column_iter().zip(z.row(p).iter()) {
                    sum.column_mut(p).axpy(*factor, &x, 1.0);
                }
            }
            return sum;
        }
        self.x * z.transpose()
    }

    /// The logits of the weights whose projections are `y`, with `trace = |F|^2`.
    pub(super) fn logits(&self, tokens: usize, y: &DMatrix<f64>, trace: f64, scale: f64) -> Vec<f64> {
        let scale = scale / self.x.nrows() as f64;
        let mut logits = Vec::with_capacity(y.ncols() * tokens);
        for first in (0..y.ncols()).step_by(tokens) {
            for a in 0..tokens {
                for b in 0..tokens {
                    let product = if b < a {
                        // The entry is that of the transposed position, because the matrix is symmetric.
                        let above: f64 = logits[tokens * (first + b) + a];
                        logits.push(above);
                        continue;
                    } else {
                        y.column(first + a).dot(&y.column(first + b))
                    };
                    logits.push(scale * (product - if a == b { trace } else { 0.0 }));
                }
            }
        }
        logits
    }
}

/// Symmetric Gaussian matrices, flat, of the given variance per orthonormal coordinate.
pub(super) fn symmetric_noise(rng: &mut Pcg64, tokens: usize, count: usize, variance: f64) -> Vec<f64> {
    let deviation = variance.sqrt();
    let mut all = vec![0.0; tokens * tokens * count];
    for matrix in all.chunks_exact_mut(tokens * tokens) {
        for a in 0..tokens {
            for b in a..tokens {
                let scale = if a == b { deviation } else { deviation * std::f64::consts::FRAC_1_SQRT_2 };
                let entry = scale * random::normal(rng);
                matrix[tokens * a + b] = entry;
                matrix[tokens * b + a] = entry;
            }
        }
    }
    all
}

/// The norm `|z|_F` of a matrix, or the norm of its part orthogonal to `u = 11^T/T`.
pub(super) fn score_of(score: Score, tokens: usize, z: &[f64]) -> f64 {
    let norm2: f64 = z.iter().map(|x| x * x).sum();
    match score {
        Score::Frobenius => norm2.sqrt(),
        Score::Centred => {
            let along = z.iter().sum::<f64>() / tokens as f64;
            (norm2 - along * along).max(0.0).sqrt()
        }
    }
}
