//! Which columns of the learned weights are equal by symmetry, and which true columns they learn.

use super::overlaps::ColumnOverlaps;
use crate::attention::Attention;

/// Columns of the learned weights with the same order parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ColumnGroup {
    /// Number of columns of a factor.
    pub(crate) count: usize,
    /// Variance of the true column that each of them learns, in units of the largest one. `None` for columns in excess of the
    /// truth, which have nothing to learn.
    pub(crate) variance: Option<f64>,
    /// The factor of the columns.
    pub(crate) factor: FactorSide,
}

/// The factor of the weights that a column belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FactorSide {
    /// The single factor `w` of tied attention.
    Single,
    /// Both factors of cross-attention, which are equal by symmetry.
    Both,
    /// The factor `b`, which the queries see.
    Queries,
    /// The factor `a`, which the keys see.
    Keys,
}

impl ColumnGroup {
    /// Number of columns of the group, of all factors together.
    pub(crate) fn members(&self) -> f64 {
        let factors = if self.factor == FactorSide::Both { 2 } else { 1 };
        (factors * self.count) as f64
    }
}

/// The columns of the learned and of the true perturbation.
///
/// `w w^T` does not change under `w -> w O`, so that the covariance `q0` of the true columns may be taken diagonal. Flipping the
/// signs of `chi_k` and `chi*_k` together then leaves all laws unchanged, so that diagonal order parameters are closed
/// under the iteration. Column `k` of the learned weights learns true column `k`, the largest first. Columns that learn true
/// columns of the same variance have the same order parameters, and so have all columns in excess.
///
/// In cross-attention the perturbation is `b a^T`, whose `2 r` columns are numbered one factor after the other. The ridge breaks the
/// invariance under `(b, a) -> (b G, a G^{-T})` to orthogonal `G`, and the same holds. If the loss does not change under transposition of the
/// logits, the columns of `b` and of `a` have the same order parameters, too.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ColumnLayout {
    attention: Attention,
    groups: Vec<ColumnGroup>,
    /// Variances of all true columns of a factor, in decreasing order and in units of the largest.
    truth: Vec<f64>,
}

impl ColumnLayout {
    /// The layout of `rank` learned columns of a single factor, for true columns of the given variances.
    pub(crate) fn new(rank: usize, variances: &[f64]) -> Self {
        let mut sorted = variances.to_vec();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let unit = sorted.first().copied().unwrap_or(1.0);
        let truth: Vec<f64> = sorted.into_iter().map(|q0| q0 / unit).collect();
        let mut groups: Vec<ColumnGroup> = Vec::new();
        for column in 0..rank {
            let variance = truth.get(column).copied();
            match groups.last_mut() {
                Some(last) if last.variance == variance => last.count += 1,
                _ => groups.push(ColumnGroup { count: 1, variance, factor: FactorSide::Single }),
            }
        }
        Self { attention: Attention::Tied, groups, truth }
    }

    /// The layout of two factors with `rank` learned columns each. `symmetric` tells whether transposed logits have the same loss.
    pub(crate) fn of_factors(rank: usize, variances: &[f64], symmetric: bool) -> Self {
        let Self { groups, truth, .. } = Self::new(rank, variances);
        let factors: &[FactorSide] =
            if symmetric { &[FactorSide::Both] } else { &[FactorSide::Queries, FactorSide::Keys] };
        let of_factor = |factor: FactorSide| groups.iter().map(move |group| ColumnGroup { factor, ..*group });
        let groups = factors.iter().flat_map(|factor| of_factor(*factor)).collect();
        Self { attention: Attention::Cross, groups, truth }
    }

    pub(crate) fn attention(&self) -> Attention {
        self.attention
    }

    pub(crate) fn groups(&self) -> &[ColumnGroup] {
        &self.groups
    }

    /// Variances of the true columns of a factor, in decreasing order and in units of the largest.
    pub(crate) fn truth(&self) -> &[f64] {
        &self.truth
    }

    /// Variances of the true columns of all factors.
    pub(crate) fn all_truth(&self) -> Vec<f64> {
        self.truth.repeat(self.factors())
    }

    /// The numbers of the groups of the two factors, which are the same group if the factors are equal or there is only one.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = [usize; 2]> + use<> {
        let separate = self.groups.iter().any(|group| group.factor == FactorSide::Keys);
        let count = if separate { self.groups.len() / 2 } else { self.groups.len() };
        (0..count).map(move |number| [number, if separate { number + count } else { number }])
    }

    /// The group of the other factor.
    pub(crate) fn partner(&self, group: usize) -> usize {
        let pair = self.pairs().find(|pair| pair.contains(&group));
        pair.map_or(group, |[left, right]| left + right - group)
    }

    /// `tr q` of all learned columns, of all factors.
    pub(crate) fn trace(&self, point: &ColumnOverlaps) -> f64 {
        self.groups.iter().zip(&point.groups).map(|(group, own)| group.members() * own.q()).sum()
    }

    /// The centring of the logits, `tr q` in tied attention.
    pub(crate) fn centring(&self, point: &ColumnOverlaps) -> f64 {
        match self.attention {
            Attention::Tied => self.trace(point),
            Attention::Cross => 0.0,
        }
    }

    /// `|q|_F` and `|m|_F`, in units of the largest true variance. Of two factors, `sqrt(tr q_b q_a)` and `sqrt(tr m_b m_a)`.
    pub(crate) fn norms(&self, point: &ColumnOverlaps) -> [f64; 2] {
        let (mut q2, mut m2) = (0.0, 0.0);
        for [left, right] in self.pairs() {
            let (group, own, other) = (self.groups[left], &point.groups[left], &point.groups[right]);
            let count = group.count as f64;
            q2 += count * own.q() * other.q();
            m2 += count * group.variance.unwrap_or(0.0) * own.m * other.m;
        }
        [q2.sqrt(), m2.sqrt()]
    }

    /// `|q0|_F`, in units of the largest true variance.
    pub(crate) fn norm_of_truth(&self) -> f64 {
        self.truth.iter().map(|variance| variance * variance).sum::<f64>().sqrt()
    }

    /// Number of factors.
    fn factors(&self) -> usize {
        match self.attention {
            Attention::Tied => 1,
            Attention::Cross => 2,
        }
    }

    /// Number of learned columns of a factor.
    pub(crate) fn rank(&self) -> usize {
        self.pairs().map(|[group, _]| self.groups[group].count).sum()
    }

    /// Number of learned columns of all factors.
    pub(crate) fn columns(&self) -> usize {
        self.factors() * self.rank()
    }

    /// The number of the true column of a learned column among those of all factors; `None` for a column in excess.
    pub(crate) fn true_column(&self, column: usize) -> Option<usize> {
        let (factor, number) = (column / self.rank(), column % self.rank());
        (number < self.truth.len()).then_some(factor * self.truth.len() + number)
    }

    /// The group of every learned column, of all factors.
    pub(crate) fn group_of_column(&self) -> impl Iterator<Item = usize> {
        let of_factor = move |factor: usize| {
            let of_pair =
                move |pair: [usize; 2]| std::iter::repeat_n(pair[factor], self.groups[pair[0]].count);
            self.pairs().flat_map(of_pair)
        };
        (0..self.factors()).flat_map(of_factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_columns_are_one_group() {
        let layout = ColumnLayout::new(5, &[1.0, 2.0, 2.0]);
        let group = |count, variance| ColumnGroup { count, variance, factor: FactorSide::Single };
        assert_eq!(layout.groups(), [group(2, Some(1.0)), group(1, Some(0.5)), group(2, None)]);
        assert_eq!(layout.truth(), [1.0, 1.0, 0.5]);
        assert_eq!(layout.rank(), 5);
        assert_eq!(layout.group_of_column().collect::<Vec<_>>(), [0, 0, 1, 2, 2]);
        assert_eq!(ColumnLayout::new(1, &[2.0, 2.0]).groups(), [group(1, Some(1.0))]);
    }

    #[test]
    fn columns_of_two_factors_come_in_pairs() {
        for (symmetric, groups) in [(true, [0, 0, 1, 0, 0, 1]), (false, [0, 0, 1, 2, 2, 3])] {
            let layout = ColumnLayout::of_factors(3, &[2.0, 2.0], symmetric);
            assert_eq!((layout.rank(), layout.columns()), (3, 6));
            assert_eq!(layout.group_of_column().collect::<Vec<_>>(), groups);
            let truth: Vec<_> = (0..6).map(|column| layout.true_column(column)).collect();
            assert_eq!(truth, [Some(0), Some(1), None, Some(2), Some(3), None]);
            assert_eq!(layout.partner(layout.partner(1)), 1);
            assert_eq!(layout.partner(1) == 1, symmetric);
        }
    }
}
