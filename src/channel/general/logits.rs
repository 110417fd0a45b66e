//! Logits as functions of the coordinates of a proximal problem.

use std::f64::consts::FRAC_1_SQRT_2;

use super::cholesky::inverse;
use super::closed_form::{ColumnShape, KnownDerivatives};
use super::expansion::LocalExpansion;
use crate::activation::Unseen;
use crate::attention::{Attention, dimension};
use crate::channel::geometry::flat_direction;

/// The logits of every sample of a batch as a function of `n` coordinates.
pub(crate) trait LogitsMap {
    /// Number `n` of coordinates.
    fn dimension(&self) -> usize;

    /// Number of tokens `T`.
    fn tokens(&self) -> usize;

    /// Writes the logits of a sample at the coordinates `x`.
    fn logits(&self, sample: usize, x: &[f64], logits: &mut [f64]);

    /// Writes the derivative of the logits with respect to coordinate `i`.
    fn direction(&self, i: usize, x: &[f64], direction: &mut [f64]);

    /// The loss and its derivatives at the points `x` of some samples, where they are known in closed form; else the points.
    /// `label` is the attention of the labels of all samples.
    fn expand(&self, _samples: &[usize], x: Vec<f64>, _label: &[f64]) -> Result<LocalExpansion, Vec<f64>> {
        Err(x)
    }

    /// Whether a minimum at which the loss has the gradient `slope` in the logits is certainly the global one. `stiffness` are the
    /// curvatures of the pull along the coordinates.
    fn is_global(&self, _slope: &[f64], _stiffness: &[f64]) -> bool {
        false
    }

    /// Adds `sum_ab slope_ab d^2 h_ab/dx_i dx_j` to the entries `(i, j)` of `hessian`.
    fn add_curvature(&self, _slope: &[f64], _hessian: &mut [f64]) {}
}

/// An orthonormal basis of the logits that an activation sees: symmetric `T x T` matrices, or any `T x T` matrices in cross-attention.
#[derive(Debug, Clone)]
pub(crate) struct CoordinateBasis {
    tokens: usize,
    /// One `T x T` matrix after the other.
    matrices: Vec<f64>,
}

impl CoordinateBasis {
    /// The coordinates `h_aa` and `sqrt(2) h_ab` if everything is seen. If `u = 11^T/T` is not seen, the
    /// images of all coordinate axes but the first under the reflection that exchanges `u` with the first
    /// axis. In cross-attention the coordinates are all entries, or those of every row orthogonal to `1`.
    pub(crate) fn new(tokens: usize, attention: Attention, unseen: Unseen) -> Self {
        match attention {
            Attention::Tied => {
                let all = dimension(tokens);
                let units: Vec<Vec<f64>> = match unseen {
                    Unseen::Nothing => (0..all).map(|j| unit(all, j)).collect(),
                    Unseen::RowShifts => (1..all).map(|j| reflected(tokens, j)).collect(),
                };
                let matrices = units.iter().flat_map(|coordinates| symmetric(tokens, coordinates)).collect();
                Self { tokens, matrices }
            }
            Attention::Cross => Self::rows(tokens, tokens, unseen),
        }
    }

    /// The coordinates of the first row of cross-attention. It stands for all rows where they are independent and alike.
    pub(crate) fn one_row(tokens: usize, unseen: Unseen) -> Self {
        Self::rows(tokens, 1, unseen)
    }

    /// The coordinates of the first rows of cross-attention.
    fn rows(tokens: usize, rows: usize, unseen: Unseen) -> Self {
        let within: Vec<Vec<f64>> = match unseen {
            Unseen::Nothing => (0..tokens).map(|j| unit(tokens, j)).collect(),
            Unseen::RowShifts => (1..tokens).map(|j| orthogonal_to_ones(tokens, j)).collect(),
        };
        let mut matrices = Vec::with_capacity(rows * within.len() * tokens * tokens);
        for a in 0..rows {
            for row in &within {
                let mut matrix = vec![0.0; tokens * tokens];
                matrix[a * tokens..(a + 1) * tokens].copy_from_slice(row);
                matrices.extend(matrix);
            }
        }
        Self { tokens, matrices }
    }

    /// Number of tokens.
    pub(crate) fn tokens(&self) -> usize {
        self.tokens
    }

    /// Number of coordinates.
    pub(crate) fn dimension(&self) -> usize {
        self.matrices.len() / (self.tokens * self.tokens)
    }

    /// The basis matrices.
    pub(crate) fn matrices(&self) -> impl Iterator<Item = &[f64]> {
        self.matrices.chunks_exact(self.tokens * self.tokens)
    }

    /// Adds the matrix with the given coordinates, times `factor`.
    pub(crate) fn add(&self, x: impl IntoIterator<Item = f64>, factor: f64, matrix: &mut [f64]) {
        for (x, unit) in x.into_iter().zip(self.matrices()) {
            for (entry, e) in matrix.iter_mut().zip(unit) {
                *entry += factor * x * e;
            }
        }
    }
}

/// Axis `j > 0` under the reflection that exchanges `1/sqrt(T)` with the first axis.
fn orthogonal_to_ones(tokens: usize, j: usize) -> Vec<f64> {
    let along = 1.0 / (tokens as f64).sqrt();
    let scale = along / (1.0 - along);
    let mut row = unit(tokens, j);
    for (k, x) in row.iter_mut().enumerate() {
        *x = if k == 0 { along } else { *x - scale * along };
    }
    row
}

fn unit(length: usize, j: usize) -> Vec<f64> {
    (0..length).map(|k| if k == j { 1.0 } else { 0.0 }).collect()
}

/// Axis `j` under the reflection `1 - n n^T/(1 - u_0)` with `n = e_0 - u`.
fn reflected(tokens: usize, j: usize) -> Vec<f64> {
    let along = flat_direction(tokens, j);
    let scale = along / (1.0 - flat_direction(tokens, 0));
    let mut coordinates = unit(dimension(tokens), j);
    for (k, x) in coordinates.iter_mut().enumerate() {
        *x = if k == 0 { along } else { *x - scale * flat_direction(tokens, k) };
    }
    coordinates
}

/// The symmetric matrix with the given coordinates: the diagonal, then the rows of the upper triangle.
fn symmetric(tokens: usize, coordinates: &[f64]) -> Vec<f64> {
    let mut matrix = vec![0.0; tokens * tokens];
    let (diagonal, upper) = coordinates.split_at(tokens.min(coordinates.len()));
    for (a, x) in diagonal.iter().enumerate() {
        matrix[a * tokens + a] = *x;
    }
    let pairs = (0..tokens).flat_map(|a| (a + 1..tokens).map(move |b| (a, b)));
    for ((a, b), x) in pairs.zip(upper) {
        matrix[a * tokens + b] = FRAC_1_SQRT_2 * x;
        matrix[b * tokens + a] = FRAC_1_SQRT_2 * x;
    }
    matrix
}

/// The logits themselves are the unknown.
impl LogitsMap for &CoordinateBasis {
    fn dimension(&self) -> usize {
        CoordinateBasis::dimension(self)
    }

    fn tokens(&self) -> usize {
        self.tokens
    }

    fn logits(&self, _sample: usize, x: &[f64], logits: &mut [f64]) {
        logits.fill(0.0);
        self.add(x.iter().copied(), 1.0, logits);
    }

    fn direction(&self, i: usize, _x: &[f64], direction: &mut [f64]) {
        if let Some(unit) = self.matrices().nth(i) {
            direction.copy_from_slice(unit);
        }
    }
}

/// Logits that a perturbation of low rank moves, `h = z + coupling (chi chi^T - trace I)`, with `chi` a
/// `T x c` matrix whose rows follow each other. In cross-attention `h = z + coupling chi psi^T`, and `c` counts the columns of
/// `chi` and of `psi`: the rows have those of `chi` first.
pub(crate) struct Perturbation<'a> {
    pub(crate) attention: Attention,
    pub(crate) tokens: usize,
    /// Number `c` of columns.
    pub(crate) columns: usize,
    /// The frozen logits `z` of every sample.
    pub(crate) frozen: &'a [f64],
    /// Inverse temperature, times the unit of `chi^2`.
    pub(crate) coupling: f64,
    /// The centring, `tr q`.
    pub(crate) trace: f64,
    /// The activation, if its derivatives are to be taken in closed form.
    pub(crate) form: Option<KnownDerivatives>,
}

impl Perturbation<'_> {
    /// Whether the loss is known to be that of linear attention.
    pub(crate) fn is_linear(&self) -> bool {
        self.form == Some(KnownDerivatives::Linear)
    }

    /// The matrix that sample `s` would need as its perturbation to have the label's logits: their difference from those of the frozen weights, over the
    /// coupling. `label` has the logits of all samples.
    pub(super) fn needed_perturbation(&self, s: usize, label: &[f64]) -> Vec<f64> {
        let square = self.tokens * self.tokens;
        let own = s * square..(s + 1) * square;
        let pairs = label[own.clone()].iter().zip(&self.frozen[own]);
        pairs.map(|(label, frozen)| (label - frozen) / self.coupling).collect()
    }

    /// Number of columns of each factor.
    pub(crate) fn width(&self) -> usize {
        match self.attention {
            Attention::Tied => self.columns,
            Attention::Cross => self.columns / 2,
        }
    }

    /// Adds the logits of the perturbation alone to `logits`.
    pub(crate) fn add(&self, chi: &[f64], logits: &mut [f64]) {
        let width = self.width();
        for (a, own) in chi.chunks_exact(self.columns).enumerate() {
            for (b, other) in chi.chunks_exact(self.columns).enumerate() {
                let (own, other) = (&own[..width], &other[self.columns - width..]);
                let product: f64 = own.iter().zip(other).map(|(x, y)| x * y).sum();
                let centring = if a == b { self.trace } else { 0.0 };
                logits[a * self.tokens + b] += self.coupling * (product - centring);
            }
        }
    }
}

impl LogitsMap for Perturbation<'_> {
    fn expand(&self, samples: &[usize], x: Vec<f64>, label: &[f64]) -> Result<LocalExpansion, Vec<f64>> {
        match self.form {
            Some(form) => {
                let Self { attention, tokens, columns, coupling, trace, .. } = *self;
                let shape = ColumnShape { attention, tokens, columns, coupling, trace };
                Ok(form.expand(&shape, self.frozen, samples, x, label))
            }
            None => Err(x),
        }
    }

    fn dimension(&self) -> usize {
        self.tokens * self.columns
    }

    fn tokens(&self) -> usize {
        self.tokens
    }

    fn logits(&self, sample: usize, x: &[f64], logits: &mut [f64]) {
        let square = self.tokens * self.tokens;
        logits.copy_from_slice(&self.frozen[sample * square..(sample + 1) * square]);
        self.add(x, logits);
    }

    fn direction(&self, i: usize, x: &[f64], direction: &mut [f64]) {
        let (token, column) = (i / self.columns, i % self.columns);
        direction.fill(0.0);
        let (tied, width) = (self.attention.is_tied(), self.width());
        let partner = (column + self.columns - width) % self.columns;
        for b in 0..self.tokens {
            let entry = self.coupling * x[b * self.columns + partner];
            if tied || column < width {
                direction[token * self.tokens + b] += entry;
            }
            if tied || column >= width {
                direction[b * self.tokens + token] += entry;
            }
        }
    }

    /// The loss of linear attention is a convex function of `chi chi^T`. It lies above its tangent, so that the objective lies
    /// above a quadratic function of `chi` that touches it at the minimum. If that function is convex, the minimum is global.
    fn is_global(&self, slope: &[f64], stiffness: &[f64]) -> bool {
        let tokens = self.tokens;
        let softest = stiffness.iter().fold(f64::INFINITY, |m: f64, s| m.min(*s));
        if self.attention == Attention::Cross {
            // The quadratic function of chi and psi is convex if no singular value of the slope is above the stiffness.
            let mut tangent = vec![0.0; tokens * tokens];
            let scale = self.coupling / softest;
            for a in 0..tokens {
                for b in 0..tokens {
                    let pairs = (0..tokens).map(|c| slope[a * tokens + c] * slope[b * tokens + c]);
                    tangent[a * tokens + b] = -scale * scale * pairs.sum::<f64>();
                }
                tangent[a * tokens + a] += 1.0;
            }
            return self.is_linear() && inverse(&tangent, tokens).is_some();
        }
        let mut tangent = vec![0.0; tokens * tokens];
        for a in 0..tokens {
            for b in 0..tokens {
                tangent[a * tokens + b] = self.coupling * (slope[a * tokens + b] + slope[b * tokens + a]);
            }
            tangent[a * tokens + a] += softest;
        }
        self.is_linear() && inverse(&tangent, tokens).is_some()
    }

    fn add_curvature(&self, slope: &[f64], hessian: &mut [f64]) {
        let (n, width) = (self.dimension(), self.width());
        for a in 0..self.tokens {
            for b in 0..self.tokens {
                let own = slope[a * self.tokens + b];
                let both = own + slope[b * self.tokens + a];
                for column in 0..width {
                    let (i, j) = (a * self.columns + column, b * self.columns + column);
                    match self.attention {
                        Attention::Tied => hessian[i * n + j] += self.coupling * both,
                        Attention::Cross => {
                            hessian[i * n + j + width] += self.coupling * own;
                            hessian[(j + width) * n + i] += self.coupling * own;
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bases_of_cross_attention_are_orthonormal() {
        for tokens in 2..5 {
            for unseen in [Unseen::Nothing, Unseen::RowShifts] {
                let basis = CoordinateBasis::new(tokens, Attention::Cross, unseen);
                assert_eq!(basis.dimension(), Attention::Cross.seen(tokens, unseen));
                let row = CoordinateBasis::one_row(tokens, unseen);
                assert_eq!(tokens * row.dimension(), basis.dimension());
                assert!(row.matrices().zip(basis.matrices()).all(|(one, all)| one == all));
                for (i, a) in basis.matrices().enumerate() {
                    for (j, b) in basis.matrices().enumerate() {
                        let product: f64 = a.iter().zip(b).map(|(x, y)| x * y).sum();
                        let expected = if i == j { 1.0 } else { 0.0 };
                        approx::assert_relative_eq!(product, expected, epsilon = 1e-15);
                    }
                    if unseen == Unseen::RowShifts {
                        assert!(a.chunks_exact(tokens).all(|row| row.iter().sum::<f64>().abs() < 1e-15));
                    }
                }
            }
        }
    }
}
