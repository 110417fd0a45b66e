//! The mean over quasi-Monte-Carlo nodes of one row.

use super::laws::{NormalPair, PerturbedPair};
use crate::channel::softmax::softmax_row;
use crate::channel::tokens::with_tokens;
use crate::error::Error;
use crate::lanes::{LANES, Lane, sums_over_blocks};
use crate::options::Options;
use crate::quadrature::ScrambledSobol;

/// The columns of standard normals of one row, for one scramble: two for `chi_0` if there is a perturbation, and two for
/// every other token. They are in a fundamental domain of the symmetries of a row, which are the sign of `chi` and the names of
/// the other tokens.
pub(crate) struct RowColumns {
    chi: Vec<Vec<f64>>,
    logits: Vec<Vec<f64>>,
}

impl RowColumns {
    pub(crate) fn new(
        tokens: usize,
        perturbed: bool,
        options: &Options,
        scramble: usize,
    ) -> Result<Self, Error> {
        let others = tokens.saturating_sub(1);
        let first = if perturbed { 2 } else { 0 };
        let log2_nodes = options.log2_nodes() as u32;
        let points = ScrambledSobol::new(first + 2 * others, log2_nodes, options.seed(), scramble as u64)?;
        let [mut chi, mut logits] = [first, 2 * others].map(|count| vec![Vec::new(); count]);
        if let Some((positive, other)) = chi.split_first_mut() {
            points.write_positive_normals(0, std::slice::from_mut(positive))?;
            points.write_normals(1, other)?;
        }
        let (sorted, free) = logits.split_at_mut(others);
        points.write_sorted_normals(first, sorted)?;
        points.write_normals(first + others, free)?;
        Ok(Self { chi, logits })
    }

    fn nodes(&self) -> usize {
        self.logits.first().map_or(0, Vec::len)
    }
}

/// The lower root of the covariances of two numbers, for every sample, as `[xx, yx, yy]`.
#[inline(always)]
fn root([xx, xy, yy]: &[Lane; 3]) -> [Lane; 3] {
    let mut root = [[0.0; LANES]; 3];
    for l in 0..LANES {
        root[0][l] = xx[l].max(0.0).sqrt();
        root[1][l] = if root[0][l] > 0.0 { xy[l] / root[0][l] } else { 0.0 };
        root[2][l] = (yy[l] - root[1][l] * root[1][l]).max(0.0).sqrt();
    }
    root
}

impl PerturbedPair {
    /// `E|sigma(h) - sigma(t)|_F^2` over the nodes of one scramble. Only 2 to 8 tokens are possible. Columns without a perturbation
    /// leave it out.
    pub(crate) fn mean(&self, tokens: usize, columns: &RowColumns) -> Result<f64, Error> {
        with_tokens!(tokens, T => Ok(self.mean_over::<T>(columns)))
    }

    fn mean_over<const T: usize>(&self, columns: &RowColumns) -> f64 {
        let blocks: Vec<usize> = (0..columns.nodes() / LANES).collect();
        let mut states = vec![(); blocks.len()];
        let others = T as f64 - 1.0;
        let NormalPair { variances: [h, t], covariance: ht } = self.logits;
        let [hh, tt] = self.chi.variances;
        let chi = [hh, self.chi.covariance, tt];
        let roots = root(&chi.map(|x| [x; LANES]));
        let sums = sums_over_blocks(
            vec![(&blocks[..], &mut states[..])],
            LANES,
            #[inline(always)]
            |&block, (), sums: &mut [Lane; 1]| {
                let normal =
                    |column: &Vec<f64>| -> Lane { std::array::from_fn(|l| column[block * LANES + l]) };
                let mut own = [h, ht, t].map(|x| [0.5 * x; LANES]);
                let mut means = [[0.0; LANES]; 2];
                if let [one, two] = &columns.chi[..] {
                    let (one, two) = (normal(one), normal(two));
                    for l in 0..LANES {
                        let x = roots[0][l] * one[l];
                        let y = roots[1][l] * one[l] + roots[2][l] * two[l];
                        for (own, (product, chi)) in
                            own.iter_mut().zip([x * x, x * y, y * y].into_iter().zip(chi))
                        {
                            own[l] += self.coupling * self.coupling * product * chi;
                        }
                        means[0][l] = self.coupling * (hh - x * x);
                        means[1][l] = self.coupling * (tt - y * y);
                    }
                }
                // What the tokens have in common, logit h_00, adds to the covariance of the mean.
                let mut common = own;
                for (common, x) in common.iter_mut().zip([h, ht, t]) {
                    for l in 0..LANES {
                        common[l] += others * x;
                    }
                }
                let (own, common) = (root(&own), root(&common));
                let mut z = [[[0.0; LANES]; T]; 2];
                let mut average = [[0.0; LANES]; 2];
                for b in 1..T {
                    for k in 0..2 {
                        z[k][b] = normal(&columns.logits[k * (T - 1) + b - 1]);
                        for l in 0..LANES {
                            average[k][l] += z[k][b][l] / others;
                        }
                    }
                }
                let mut rows = [[[0.0; LANES]; T]; 2];
                for b in 1..T {
                    for l in 0..LANES {
                        let [x, y] = [average[0][l], average[1][l]];
                        let [dx, dy] = [z[0][b][l] - x, z[1][b][l] - y];
                        rows[0][b][l] = means[0][l] + own[0][l] * dx + common[0][l] * x;
                        rows[1][b][l] = means[1][l]
                            + own[1][l] * dx
                            + own[2][l] * dy
                            + common[1][l] * x
                            + common[2][l] * y;
                    }
                }
                let [p, q] = [softmax_row(&rows[0]), softmax_row(&rows[1])];
                for b in 0..T {
                    for l in 0..LANES {
                        sums[0][l] += (p[b][l] - q[b][l]) * (p[b][l] - q[b][l]);
                    }
                }
            },
        );
        // There is one list of blocks, with one sum.
        let sum: f64 = sums.iter().flatten().sum();
        T as f64 * sum / columns.nodes() as f64
    }
}

impl NormalPair {
    /// The mean over the nodes of one scramble. Only 2 to 8 tokens are possible.
    pub(crate) fn by_sampling(
        &self,
        tokens: usize,
        options: &Options,
        scramble: usize,
    ) -> Result<f64, Error> {
        self.mean(tokens, &RowColumns::new(tokens, false, options, scramble)?)
    }

    /// The mean over columns without a perturbation.
    pub(crate) fn mean(&self, tokens: usize, columns: &RowColumns) -> Result<f64, Error> {
        PerturbedPair::unperturbed(*self).mean(tokens, columns)
    }
}
