//! Posterior means for given data, which message passing applies to every sequence.
//!
//! They are the same contour integrals as those of the averages over samples, taken in the eigenbasis of the
//! observed part of a sequence.

use nalgebra::{DMatrix, SymmetricEigen};

use super::contour::Quartic;
use super::softmax::{Prior, SeenSample, moments_of_many, moments_of_two};
use crate::activation::Unseen;
use crate::error::Error;
use crate::lanes::{LANES, Lane};

/// The posterior of `chi` given `chi ~ N(omega, v I)` and the part of `Y = chi chi^T + n` that the activation
/// sees.
pub(crate) trait Denoiser {
    /// `E[chi | Y, omega]` of every sample. Both `omega` and the result have one number per token and sample.
    fn means(&self, omega: &[f64], v: f64) -> Vec<f64>;
}

/// The denoiser for the matrices `observed`, which are stored flat, one per sample. The noise has the
/// variance `2 noise` per orthonormal coordinate. Without noise, `chi` is known up to its sign.
pub(crate) fn denoiser(
    unseen: Unseen,
    tokens: usize,
    noise: f64,
    observed: &[f64],
) -> Result<Box<dyn Denoiser>, Error> {
    // The search for the eigenvalues of a matrix with a NaN would never end.
    if let Some(value) = observed.iter().find(|y| !y.is_finite()) {
        let allowed = "not so large, in units of q0^2, that the logits overflow";
        return Err(Error::invalid("model.delta or frozen.q0", *value, allowed));
    }
    let frame = Frame::new(unseen, tokens);
    let samples: Vec<Seen> = observed.chunks_exact(tokens * tokens).map(|y| frame.seen(y)).collect();
    if noise <= 0.0 {
        return Ok(Box::new(Signs::new(tokens, &samples)));
    }
    Ok(match (unseen, tokens) {
        (Unseen::Nothing, 1) => Box::new(LinearDenoiser::<1>::new(noise, &samples)),
        (Unseen::Nothing, 2) => Box::new(LinearDenoiser::<2>::new(noise, &samples)),
        (Unseen::Nothing, 3) => Box::new(LinearDenoiser::<3>::new(noise, &samples)),
        (Unseen::Nothing, 4) => Box::new(LinearDenoiser::<4>::new(noise, &samples)),
        (Unseen::Nothing, 5) => Box::new(LinearDenoiser::<5>::new(noise, &samples)),
        (Unseen::Nothing, 6) => Box::new(LinearDenoiser::<6>::new(noise, &samples)),
        (Unseen::Nothing, 7) => Box::new(LinearDenoiser::<7>::new(noise, &samples)),
        (Unseen::Nothing, 8) => Box::new(LinearDenoiser::<8>::new(noise, &samples)),
        (Unseen::RowShifts, 2) => Box::new(SoftmaxDenoiser { noise, samples, moments: mean_of_two }),
        (Unseen::RowShifts, 3) => Box::new(SoftmaxDenoiser { noise, samples, moments: mean_of_many::<2> }),
        (Unseen::RowShifts, 4) => Box::new(SoftmaxDenoiser { noise, samples, moments: mean_of_many::<3> }),
        (Unseen::RowShifts, 5) => Box::new(SoftmaxDenoiser { noise, samples, moments: mean_of_many::<4> }),
        (Unseen::RowShifts, 6) => Box::new(SoftmaxDenoiser { noise, samples, moments: mean_of_many::<5> }),
        (Unseen::RowShifts, 7) => Box::new(SoftmaxDenoiser { noise, samples, moments: mean_of_many::<6> }),
        (Unseen::RowShifts, 8) => Box::new(SoftmaxDenoiser { noise, samples, moments: mean_of_many::<7> }),
        _ => return Err(Error::invalid("model.tokens", tokens, "between 1 (softmax: 2) and 8")),
    })
}

/// The observed part of a sample, in the basis in which it is diagonal.
struct Seen {
    /// Orthonormal vectors. The first is `11^T/sqrt(T)` if the activation does not see it. The others follow
    /// by decreasing eigenvalue.
    basis: DMatrix<f64>,
    /// Eigenvalues of the part of `Y` among the other vectors.
    square: Vec<f64>,
    /// The observed products of the first component with the others; empty if all of `Y` is seen.
    product: Vec<f64>,
}

impl Seen {
    /// `|chi|` without noise, in this basis. All eigenvalues but the first are zero.
    fn root(&self) -> Vec<f64> {
        let top = self.square[0].max(0.0).sqrt();
        let mut chi = vec![0.0; self.basis.ncols()];
        match self.product.first() {
            None => chi[0] = top,
            Some(product) => {
                chi[0] = if top > 0.0 { product / top } else { 0.0 };
                chi[1] = top;
            }
        }
        chi
    }

    fn components(&self, vector: &[f64]) -> Vec<f64> {
        self.basis.column_iter().map(|axis| axis.iter().zip(vector).map(|(a, x)| a * x).sum()).collect()
    }

    fn vector(&self, components: &[f64]) -> Vec<f64> {
        self.basis.row_iter().map(|row| row.iter().zip(components).map(|(a, x)| a * x).sum()).collect()
    }
}

/// The directions that an activation sees.
struct Frame {
    tokens: usize,
    /// One column per direction. All products among these directions are seen.
    across: DMatrix<f64>,
    /// The direction that is seen only in its products with the others.
    along: Option<DMatrix<f64>>,
}

impl Frame {
    fn new(unseen: Unseen, tokens: usize) -> Self {
        match unseen {
            Unseen::Nothing => Self { tokens, across: DMatrix::identity(tokens, tokens), along: None },
            Unseen::RowShifts => {
                // This is Helmert's basis of the subspace orthogonal to (1, ..., 1).
                let across = DMatrix::from_fn(tokens, tokens.saturating_sub(1), |a, j| {
                    let scale = 1.0 / (((j + 1) * (j + 2)) as f64).sqrt();
                    scale
                        * if a <= j {
                            1.0
                        } else if a == j + 1 {
                            -((j + 1) as f64)
                        } else {
                            0.0
                        }
                });
                let along = DMatrix::from_element(tokens, 1, 1.0 / (tokens as f64).sqrt());
                Self { tokens, across, along: Some(along) }
            }
        }
    }

    fn seen(&self, y: &[f64]) -> Seen {
        let y = DMatrix::from_row_slice(self.tokens, self.tokens, y);
        let eigen = SymmetricEigen::new(self.across.transpose() * &y * &self.across);
        let mut order: Vec<usize> = (0..eigen.eigenvalues.len()).collect();
        order.sort_by(|i, j| eigen.eigenvalues[*j].total_cmp(&eigen.eigenvalues[*i]));
        let across = &self.across * eigen.eigenvectors.select_columns(&order);
        let square = order.iter().map(|i| eigen.eigenvalues[*i]).collect();
        match &self.along {
            None => Seen { basis: across, square, product: Vec::new() },
            Some(along) => {
                let product = (across.transpose() * &y * along).as_slice().to_vec();
                let basis = DMatrix::from_fn(self.tokens, self.tokens, |a, j| {
                    if j == 0 { along[(a, 0)] } else { across[(a, j - 1)] }
                });
                Seen { basis, square, product }
            }
        }
    }
}

/// The denoiser without noise: `chi` is known up to its sign.
struct Signs {
    tokens: usize,
    chi: Vec<f64>,
}

impl Signs {
    fn new(tokens: usize, samples: &[Seen]) -> Self {
        Self { tokens, chi: samples.iter().flat_map(|seen| seen.vector(&seen.root())).collect() }
    }
}

impl Denoiser for Signs {
    fn means(&self, omega: &[f64], v: f64) -> Vec<f64> {
        let samples = self.chi.chunks_exact(self.tokens).zip(omega.chunks_exact(self.tokens));
        samples
            .flat_map(|(chi, omega)| {
                let field: f64 = chi.iter().zip(omega).map(|(chi, omega)| chi * omega).sum();
                let sign = (field / v).tanh();
                chi.iter().map(move |chi| sign * chi)
            })
            .collect()
    }
}

/// `Y` of one sample: its eigenvalues in decreasing order, and the eigenvectors as columns.
struct Diagonal<const T: usize> {
    values: [f64; T],
    vectors: [[f64; T]; T],
}

/// The denoiser of linear attention, which sees all of `Y`.
struct LinearDenoiser<const T: usize> {
    noise: f64,
    samples: Vec<Diagonal<T>>,
}

impl<const T: usize> LinearDenoiser<T> {
    fn new(noise: f64, samples: &[Seen]) -> Self {
        let sample = |seen: &Seen| {
            let vectors = std::array::from_fn(|a| std::array::from_fn(|j| seen.basis[(a, j)]));
            Diagonal { values: std::array::from_fn(|j| seen.square[j]), vectors }
        };
        Self { noise, samples: samples.iter().map(sample).collect() }
    }
}

impl<const T: usize> Denoiser for LinearDenoiser<T> {
    fn means(&self, omega: &[f64], v: f64) -> Vec<f64> {
        let d = self.noise;
        let block = |(samples, omega): (&[Diagonal<T>], &[f64])| {
            // The last block repeats the last sample to fill its lanes.
            let at = |l: usize| l.min(samples.len() - 1);
            let (mut lowest, mut gaps, mut rotated, mut fields2) =
                ([0.0; LANES], [[0.0; LANES]; T], [[0.0; LANES]; T], [[0.0; LANES]; T]);
            for l in 0..LANES {
                let Diagonal { values, vectors } = &samples[at(l)];
                lowest[l] = d / v - values[0];
                for j in 0..T {
                    gaps[j][l] = (values[0] - values[j]) / d;
                    rotated[j][l] = (0..T).map(|a| vectors[a][j] * omega[T * at(l) + a]).sum();
                    fields2[j][l] = (rotated[j][l] / v) * (rotated[j][l] / v);
                }
            }
            let first: [Lane; T] =
                Quartic { d, lowest: &lowest, gaps: &gaps, fields2: &fields2 }.averages().first;
            let mean = |l: usize, a: usize| -> f64 {
                (0..T).map(|j| samples[l].vectors[a][j] * first[j][l] * rotated[j][l] / v).sum()
            };
            (0..samples.len()).flat_map(|l| (0..T).map(move |a| (l, a))).map(|(l, a)| mean(l, a)).collect()
        };
        let blocks: Vec<Vec<f64>> =
            self.samples.chunks(LANES).zip(omega.chunks(LANES * T)).map(block).collect();
        blocks.concat()
    }
}

/// The denoiser of softmax attention, which sees one component only in its products with the others.
struct SoftmaxDenoiser {
    noise: f64,
    samples: Vec<Seen>,
    /// The posterior mean in the basis of the sample, for `omega` in that basis.
    moments: fn(&Seen, &[f64], f64, f64) -> Vec<f64>,
}

impl Denoiser for SoftmaxDenoiser {
    fn means(&self, omega: &[f64], v: f64) -> Vec<f64> {
        let Some(first) = self.samples.first() else { return Vec::new() };
        let tokens = first.basis.ncols();
        let mean = |(seen, omega): (&Seen, &[f64])| {
            seen.vector(&(self.moments)(seen, &seen.components(omega), self.noise, v))
        };
        let means: Vec<Vec<f64>> = self.samples.iter().zip(omega.chunks_exact(tokens)).map(mean).collect();
        means.concat()
    }
}

/// The sample and the prior in the form that the integrals take. The integrals begin at the mean of the prior
/// or at the value that the data suggest, whichever is the more precise.
fn posed<const P: usize>(seen: &Seen, omega: &[f64], noise: f64, v: f64) -> (SeenSample<P>, Prior<P>) {
    let across = std::array::from_fn(|j| omega[1 + j]);
    let mut begin = (omega[0], across);
    if noise < v {
        let root = seen.root();
        begin = (root[0], std::array::from_fn(|j| root[1 + j]));
    }
    let sample = SeenSample {
        square: std::array::from_fn(|j| seen.square[j]),
        product: std::array::from_fn(|j| seen.product[j]),
        along: begin.0,
        across: begin.1,
        free_along: 0.0,
        free_across: [0.0; P],
    };
    (sample, Prior { noise, variance: v, along: omega[0], across })
}

fn mean_of_two(seen: &Seen, omega: &[f64], noise: f64, v: f64) -> Vec<f64> {
    let (sample, prior) = posed::<1>(seen, omega, noise, v);
    let moments = moments_of_two(&sample, &prior);
    vec![moments.along, moments.across[0]]
}

fn mean_of_many<const P: usize>(seen: &Seen, omega: &[f64], noise: f64, v: f64) -> Vec<f64> {
    let (sample, prior) = posed::<P>(seen, omega, noise, v);
    let moments = moments_of_many(&sample, &prior);
    std::iter::once(moments.along).chain(moments.across).collect()
}
