//! Order parameters and averages of weights with several columns: one triple `(m, s2, v)` and one set of averages for each group
//! of equal columns.

use crate::losses::vector::moments::{COUNT, Moments, VectorOverlaps};
use crate::state_evolution::{Averages, Overlaps};

/// Largest number of groups.
pub(crate) const MAX_GROUPS: usize = 8;

/// The order parameters of every group, in units of the largest true variance.
///
/// A column `omega_k` is `m_k n_k + sqrt(s2_k) f_k` with independent standard normals `n_k` and `f_k`, where
/// `chi*_k = sqrt(q0_k) n_k`. The overlap with the true column is `sqrt(q0_k) m_k`, and
/// `q_k = m_k^2 + s2_k`. A column with `m = s2 = 0` vanishes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ColumnOverlaps {
    pub(crate) groups: Vec<VectorOverlaps>,
}

/// Whether the weights of a column vanish.
pub(crate) fn is_zero(column: &VectorOverlaps) -> bool {
    column.m <= 0.0 && column.s2 <= 0.0
}

impl ColumnOverlaps {
    /// Whether all columns vanish.
    pub(crate) fn vanishes(&self) -> bool {
        self.groups.iter().all(is_zero)
    }
}

impl Overlaps for ColumnOverlaps {
    /// The coordinates of all groups one after the other: `(m, s2, v)`, `(s2, v)` at `m = 0`, and `v` alone for columns
    /// that vanish.
    fn coordinates(&self) -> Vec<f64> {
        let of_group =
            |group: &VectorOverlaps| if is_zero(group) { vec![group.v] } else { group.coordinates() };
        self.groups.iter().flat_map(of_group).collect()
    }

    fn at(&self, coordinates: &[f64]) -> Self {
        let mut rest = coordinates.iter().copied();
        let mut next = || rest.next().unwrap_or(f64::NAN);
        let of_group = |group: &VectorOverlaps| {
            let m = if group.m > 0.0 { next() } else { 0.0 };
            let s2 = if is_zero(group) { 0.0 } else { next() };
            VectorOverlaps { m, s2, v: next() }
        };
        Self { groups: self.groups.iter().map(of_group).collect() }
    }

    fn largest_differences(&self) -> Vec<f64> {
        let of_group = |group: &VectorOverlaps| {
            if is_zero(group) { vec![f64::INFINITY] } else { group.largest_differences() }
        };
        self.groups.iter().flat_map(of_group).collect()
    }
}

/// The averages of every group, per column, and how fluctuations of the groups drive each other.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ColumnMoments {
    /// The averages of a column of each group. The loss and its derivative by the centring are those of all columns.
    pub(crate) groups: Vec<Moments>,
    /// `E sum_l |v_k dg_k/d omega_l|_F^2` for a column `k` of the group of the row, over the columns `l` of the group of
    /// the column, row after row.
    pub(crate) replicon: Vec<f64>,
    /// `E[chi*^T (dg_b/d omega_a) psi*]` and the same with the factors exchanged, for a column of each group; 0 with a single factor.
    pub(crate) exchanged: Vec<f64>,
    /// Share of the samples in which two different minima were found.
    pub(crate) contested: f64,
}

/// Number of terms of `groups` groups.
const fn length(groups: usize) -> usize {
    groups * (COUNT + groups + 1) + 1
}

/// Largest number of terms.
pub(crate) const MAX_TERMS: usize = length(MAX_GROUPS);

/// Where the terms of a sample are added, for a number of groups.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TermIndex {
    pub(crate) groups: usize,
}

impl TermIndex {
    pub(crate) fn of(self, group: usize, term: usize) -> usize {
        group * COUNT + term
    }

    pub(crate) fn replicon(self, row: usize, column: usize) -> usize {
        self.groups * (COUNT + row) + column
    }

    pub(crate) fn exchanged(self, group: usize) -> usize {
        self.groups * (COUNT + self.groups) + group
    }

    pub(crate) fn contested(self) -> usize {
        length(self.groups) - 1
    }
}

impl Averages for ColumnMoments {
    fn terms(&self) -> Vec<f64> {
        let of_groups = self.groups.iter().flat_map(Averages::terms);
        let matrices = self.replicon.iter().chain(&self.exchanged).copied();
        of_groups.chain(matrices).chain([self.contested]).collect()
    }

    /// The number of groups follows from the number of terms. Terms beyond the last are not read.
    fn from_terms(terms: &[f64]) -> Self {
        let groups = (1..=MAX_GROUPS).rev().find(|groups| length(*groups) <= terms.len()).unwrap_or(0);
        let (averages, rest) = terms.split_at(groups * COUNT);
        Self {
            groups: averages.chunks_exact(COUNT).map(Moments::from_terms).collect(),
            replicon: rest.iter().copied().take(groups * groups).collect(),
            exchanged: rest.iter().copied().skip(groups * groups).take(groups).collect(),
            contested: rest.get(groups * (groups + 1)).copied().unwrap_or(f64::NAN),
        }
    }
}

impl ColumnMoments {
    /// Number of terms of `groups` groups.
    pub(crate) fn length(groups: usize) -> usize {
        length(groups)
    }

    /// The largest factor by which fluctuations of the columns grow: `alpha` times the spectral radius of the matrix of the
    /// groups, by power iteration.
    pub(crate) fn largest_replicon(&self, alpha: f64) -> f64 {
        const STEPS: usize = 200;
        let count = self.groups.len();
        let mut vector = vec![1.0; count];
        let mut radius = 0.0;
        for _ in 0..STEPS {
            let image: Vec<f64> = self
                .replicon
                .chunks_exact(count)
                .map(|row| row.iter().zip(&vector).map(|(a, x)| a * x).sum())
                .collect();
            // A NaN must not be dropped.
            let largest = image.iter().fold(0.0, |max: f64, x| if *x <= max { max } else { *x });
            radius = largest;
            if !(largest > 0.0 && largest.is_finite()) {
                break;
            }
            vector = image.into_iter().map(|x| x / largest).collect();
        }
        alpha * radius
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coordinates_keep_what_vanishes() {
        let group = |m, s2, v| VectorOverlaps { m, s2, v };
        let point =
            ColumnOverlaps { groups: vec![group(0.9, 0.1, 0.2), group(0.0, 0.3, 0.4), group(0.0, 0.0, 0.5)] };
        assert_eq!(point.coordinates(), [0.9, 0.1, 0.2, 0.3, 0.4, 0.5]);
        assert_eq!(point.at(&point.coordinates()), point);
    }

    #[test]
    fn the_number_of_groups_follows_from_the_number_of_terms() {
        for groups in 1..=MAX_GROUPS {
            let terms: Vec<f64> = (0..length(groups)).map(|k| k as f64).collect();
            let moments = ColumnMoments::from_terms(&terms);
            assert_eq!(moments.groups.len(), groups);
            assert_eq!(moments.terms(), terms);
        }
    }

    #[test]
    fn replicon_is_the_spectral_radius() {
        let groups = vec![Moments::from_sums([0.0; COUNT]); 2];
        let replicon = vec![2.0, 1.0, 1.0, 2.0];
        let moments = ColumnMoments { groups, replicon, exchanged: vec![0.0; 2], contested: 0.0 };
        approx::assert_relative_eq!(moments.largest_replicon(0.5), 1.5, max_relative = 1e-12);
    }
}
