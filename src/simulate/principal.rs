//! Several columns of weights at finite size: orthogonal columns, and the overlaps that do not change when the columns are turned.

use nalgebra::{DMatrix, SymmetricEigen};

use crate::lora::Training;
use crate::observables;

/// The variances of the true columns, in decreasing order.
pub(super) struct Truths {
    variances: Vec<f64>,
}

impl Truths {
    pub(super) fn new(training: &Training) -> Self {
        let mut variances = training.variances().to_vec();
        variances.sort_by(|a, b| b.total_cmp(a));
        Self { variances }
    }

    /// Number of true columns.
    pub(super) fn rank(&self) -> usize {
        self.variances.len()
    }

    pub(super) fn largest(&self) -> f64 {
        self.variance_of_start(0)
    }

    /// The variance of the true column with number `k`, or of the last one for columns in excess.
    pub(super) fn variance_of_start(&self, k: usize) -> f64 {
        self.variances.get(k).or(self.variances.last()).copied().unwrap_or(1.0)
    }

    /// Orthogonal columns in the directions of a random matrix, with `|w*_k|^2 = D q0_k`. A single column has this norm for
    /// `q0 = 1` already.
    pub(super) fn scaled(&self, mut random: DMatrix<f64>) -> DMatrix<f64> {
        if self.rank() == 1 {
            return random * self.largest().sqrt();
        }
        let d = random.nrows() as f64;
        let norms: Vec<f64> = self.variances.iter().map(|q0| (d * q0).sqrt()).collect();
        orthogonalise(&mut random, &norms);
        random
    }
}

/// Makes the columns orthogonal, one after the other, with the given norms. The result is false if a column has no
/// direction of its own.
pub(super) fn orthogonalise(w: &mut DMatrix<f64>, norms: &[f64]) -> bool {
    // Relative length of the part that is orthogonal to the columns before, below which rounding decides its direction.
    const DEPENDENT: f64 = 1e-10;
    for (k, norm) in norms.iter().enumerate().take(w.ncols()) {
        let before = w.column(k).norm();
        for previous in 0..k {
            let (other, length2) = (w.column(previous).clone_owned(), w.column(previous).norm_squared());
            let along = w.column(k).dot(&other) / length2;
            w.column_mut(k).axpy(-along, &other, 1.0);
        }
        let length = w.column(k).norm();
        if !(length > DEPENDENT * before && length.is_finite()) {
            return false;
        }
        w.column_mut(k).scale_mut(norm / length);
    }
    true
}

/// Overlaps of learned with true weights that do not change under `w -> w O`.
pub(super) struct PrincipalOverlaps<'a> {
    /// Orthogonal columns.
    pub(super) star: &'a DMatrix<f64>,
    /// `|q0|_F`.
    pub(super) q0: f64,
}

impl PrincipalOverlaps<'_> {
    /// `|w^T w|_F/D`.
    pub(super) fn q(&self, w: &DMatrix<f64>) -> f64 {
        let d = w.nrows() as f64;
        if w.ncols() == 1 { w.norm_squared() / d } else { w.tr_mul(w).norm() / d }
    }

    /// `|w^T w*|_F/D`.
    pub(super) fn m(&self, w: &DMatrix<f64>) -> f64 {
        let d = w.nrows() as f64;
        let single = w.ncols() == 1 && self.star.ncols() == 1;
        if single { w.dot(self.star).abs() / d } else { w.tr_mul(self.star).norm() / d }
    }

    /// `|m|_F/sqrt(|q|_F |q0|_F)`.
    pub(super) fn alignment(&self, w: &DMatrix<f64>) -> f64 {
        observables::alignment(self.m(w), self.q(w), self.q0)
    }

    /// The cosines of the principal angles between the columns, the largest first; NaN if the learned columns do not span
    /// as many dimensions as they are.
    pub(super) fn cosines(&self, w: &DMatrix<f64>) -> Vec<f64> {
        cosines(w, self.star)
    }
}

/// Overlaps of two learned factors with two true ones that do not change under `(b, a) -> (b G, a G^{-T})`.
pub(super) struct FactorOverlaps<'a> {
    pub(super) star: &'a [DMatrix<f64>; 2],
}

impl FactorOverlaps<'_> {
    /// `tr (b^T b' a'^T a)/D^2`, the product of two perturbations `b a^T` and `b' a'^T`.
    fn product([b, a]: &[DMatrix<f64>; 2], [other_b, other_a]: &[DMatrix<f64>; 2]) -> f64 {
        let d = b.nrows() as f64;
        b.tr_mul(other_b).dot(&a.tr_mul(other_a)) / (d * d)
    }

    /// `|b a^T|_F/D`.
    pub(super) fn q(&self, learned: &[DMatrix<f64>; 2]) -> f64 {
        Self::product(learned, learned).max(0.0).sqrt()
    }

    /// The root of the product of the learned and the true perturbation, which is positive in all but bad minima.
    pub(super) fn m(&self, learned: &[DMatrix<f64>; 2]) -> f64 {
        Self::product(learned, self.star).abs().sqrt()
    }

    /// The cosine between the learned and the true perturbation.
    pub(super) fn alignment(&self, learned: &[DMatrix<f64>; 2]) -> f64 {
        let product = Self::product(learned, self.star);
        let [own, star] = [learned, self.star].map(|factors| Self::product(factors, factors));
        observables::alignment(product, own, star)
    }

    /// The cosines of the principal angles between the columns of `b` and those of `b*`, then those of `a`.
    pub(super) fn cosines(&self, learned: &[DMatrix<f64>; 2]) -> Vec<f64> {
        learned.iter().zip(self.star).flat_map(|(own, star)| cosines(own, star)).collect()
    }
}

/// The cosines of the principal angles between the columns of two matrices, the largest first; NaN if the columns of one of them do not span
/// as many dimensions as they are.
fn cosines(w: &DMatrix<f64>, star: &DMatrix<f64>) -> Vec<f64> {
    let count = w.ncols().min(star.ncols());
    let unit = |matrix: &DMatrix<f64>| {
        let mut matrix = matrix.clone();
        let norms = vec![1.0; matrix.ncols()];
        orthogonalise(&mut matrix, &norms).then_some(matrix)
    };
    let (Some(w), Some(star)) = (unit(w), unit(star)) else { return vec![f64::NAN; count] };
    let product = w.tr_mul(&star);
    let squares = SymmetricEigen::new(&product * product.transpose()).eigenvalues;
    let mut cosines: Vec<f64> = squares.iter().map(|x| x.max(0.0).sqrt().min(1.0)).collect();
    cosines.sort_by(|a, b| b.total_cmp(a));
    cosines.truncate(count);
    cosines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps_do_not_change_when_columns_are_turned() {
        let star = DMatrix::from_row_slice(3, 2, &[1.0, 0.0, 0.0, 2.0, 0.0, 0.0]);
        let w = DMatrix::from_row_slice(3, 2, &[0.9, 0.1, -0.2, 1.5, 0.3, 0.4]);
        let turn = DMatrix::from_row_slice(2, 2, &[0.6, 0.8, -0.8, 0.6]);
        let turned = &w * turn;
        let overlaps = PrincipalOverlaps { star: &star, q0: 17.0_f64.sqrt() / 3.0 };
        approx::assert_relative_eq!(overlaps.q(&w), overlaps.q(&turned), max_relative = 1e-12);
        approx::assert_relative_eq!(overlaps.m(&w), overlaps.m(&turned), max_relative = 1e-12);
        for (a, b) in overlaps.cosines(&w).iter().zip(overlaps.cosines(&turned)) {
            approx::assert_relative_eq!(*a, b, max_relative = 1e-12);
            assert!(*a < 1.0 && *a > 0.9);
        }
        let perfect = PrincipalOverlaps { star: &star, ..overlaps };
        approx::assert_relative_eq!(perfect.alignment(&star), 1.0, max_relative = 1e-12);
    }

    #[test]
    fn orthogonal_columns_have_their_norms() {
        let mut w = DMatrix::from_fn(5, 3, |i, j| ((3 * i + 7 * i * j + j + 1) as f64).sin());
        assert!(orthogonalise(&mut w, &[1.0, 2.0, 3.0]));
        let gram = w.tr_mul(&w);
        for i in 0..3 {
            for j in 0..3 {
                let expected = if i == j { ((i + 1) * (i + 1)) as f64 } else { 0.0 };
                approx::assert_abs_diff_eq!(gram[(i, j)], expected, epsilon = 1e-12);
            }
        }
        assert!(!orthogonalise(&mut DMatrix::zeros(5, 2), &[1.0, 1.0]));
    }
}
