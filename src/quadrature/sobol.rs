//! One coordinate of the Sobol sequence, as base-two digits.
//!
//! The points are visited in Gray-code order (I. A. Antonov and V. M. Saleev, USSR Comput. Math. Math. Phys.
//! 19, 252 (1979)), in which successive points differ by one column of the direction matrix. For every `m`,
//! the first `2^m` points are the same as in the natural order, and are therefore a net.

use super::sobol_directions::{RECURRENCES, Recurrence};

/// Largest base-two logarithm of the number of nodes of a point set.
pub const MAX_LOG2_NODES: u32 = 20;

const WORD_BITS: usize = u32::BITS as usize;

/// The direction matrix of one dimension.
///
/// Column `j` is the direction number `v_(j+1) = m_(j+1) / 2^(j+1)` as a binary fraction of 32
/// bits. With a matrix of full word size, the number of trailing zeros of any non-zero `u32` is the index of a
/// valid column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Directions([u32; WORD_BITS]);

impl Directions {
    /// The matrix of a dimension counted from zero, or `None` past the end of the tables.
    pub(super) fn new(dimension: usize) -> Option<Self> {
        RECURRENCES.get(dimension).map(Self::from_recurrence)
    }

    fn from_recurrence(&(polynomial, initial): &Recurrence) -> Self {
        let degree = initial.len();
        let mut columns = [0; WORD_BITS];
        for j in 0..WORD_BITS {
            let m = if degree == 0 { Some(&1) } else { initial.get(j) };
            columns[j] = match m {
                Some(&m) => u32::from(m) << (WORD_BITS - 1 - j),
                None => next_column(&columns[j - degree..j], polynomial),
            };
        }
        Self(columns)
    }

    /// The first `2^log2_nodes` points, each as the index of the interval of length
    /// `2^-log2_nodes` that starts at it.
    ///
    /// The matrix is unit upper triangular, so these indexes are a permutation of
    /// `0..2^log2_nodes`. `log2_nodes` must be below 32.
    pub(super) fn leaves(&self, log2_nodes: u32) -> impl Iterator<Item = u32> + '_ {
        let mut word = 0;
        (0..1_u32 << log2_nodes).map(move |i| {
            let leaf = (u64::from(word) << log2_nodes) >> u32::BITS;
            word ^= self.0[(i + 1).trailing_zeros() as usize];
            leaf as u32
        })
    }
}

/// The recurrence for a direction number from the `s` preceding ones, where `s` is the degree:
/// `v_j = a_1 v_(j-1) + ... + a_(s-1) v_(j-s+1) + v_(j-s) + v_(j-s) / 2^s`, with sums modulo two.
fn next_column(previous: &[u32], polynomial: u16) -> u32 {
    let overflow = previous.first().map_or(0, |v| v >> previous.len());
    // Position i of the slice belongs to v_(j-s+i), whose coefficient a_(s-i) is bit i.
    previous
        .iter()
        .enumerate()
        .filter(|&(i, _)| polynomial >> i & 1 == 1)
        .fold(overflow, |sum, (_, v)| sum ^ v)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::quadrature::sobol_directions::MAX_DIMENSIONS;

    const DIMENSIONS: [usize; 9] = [0, 1, 2, 3, 7, 20, 63, 100, 159];

    fn leaves(dimension: usize, log2_nodes: u32) -> Vec<u32> {
        Directions::new(dimension).unwrap().leaves(log2_nodes).collect()
    }

    /// The values are numerators over 2^10 and 2^11 of unscrambled points, from an independent implementation
    /// (`scipy.stats.qmc.Sobol` of SciPy 1.17).
    #[test]
    fn points_match_reference_values() {
        let of_1024 = [
            (0, [0; 9]),
            (1, [512; 9]),
            (2, [768, 256, 256, 256, 768, 256, 768, 256, 768]),
            (3, [256, 768, 768, 768, 256, 768, 256, 768, 256]),
            (5, [896, 896, 128, 384, 384, 640, 640, 128, 128]),
            (11, [448, 576, 192, 704, 704, 960, 960, 832, 448]),
            (15, [64, 960, 576, 320, 320, 832, 832, 448, 832]),
        ];
        let of_2048 = [
            (777, [1418, 1918, 334, 562, 1562, 486, 874, 1726, 370]),
            (1500, [615, 807, 881, 1857, 103, 1503, 543, 715, 361]),
            (2047, [1, 1285, 1907, 719, 65, 733, 2025, 1153, 607]),
        ];
        for (column, &dimension) in DIMENSIONS.iter().enumerate() {
            let ten = leaves(dimension, 10);
            for (i, row) in of_1024 {
                assert_eq!(ten[i], row[column], "point {i}, dimension {dimension}");
            }
            let eleven = leaves(dimension, 11);
            for (i, row) in of_2048 {
                assert_eq!(eleven[i], row[column], "point {i}, dimension {dimension}");
            }
        }
    }

    #[test]
    fn every_prefix_has_one_point_per_interval_in_every_dimension() {
        for dimension in 0..MAX_DIMENSIONS {
            let all = leaves(dimension, 10);
            for m in 0..=10 {
                let mut intervals: Vec<u32> = all[..1 << m].iter().map(|leaf| leaf >> (10 - m)).collect();
                intervals.sort_unstable();
                assert!(intervals.into_iter().eq(0..1 << m), "{dimension}, {m}");
            }
        }
    }

    #[test]
    fn first_two_dimensions_are_a_net_of_strength_zero() {
        let (x, y) = (leaves(0, 10), leaves(1, 10));
        for split in 0..=10 {
            let mut boxes: Vec<u32> =
                x.iter().zip(&y).map(|(x, y)| (x >> (10 - split) << (10 - split)) | (y >> split)).collect();
            boxes.sort_unstable();
            assert!(boxes.into_iter().eq(0..1024), "split {split}");
        }
    }

    #[test]
    fn one_point_and_largest_set_are_in_range() {
        assert_eq!(leaves(5, 0), [0]);
        let last = leaves(5, MAX_LOG2_NODES).into_iter().max();
        assert_eq!(last, Some((1 << MAX_LOG2_NODES) - 1));
    }

    #[test]
    fn dimensions_past_the_tables_do_not_exist() {
        assert!(Directions::new(MAX_DIMENSIONS).is_none());
    }
}
