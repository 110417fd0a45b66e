//! Which columns of the learned weights are equal by symmetry, and which true columns they learn.

use super::overlaps::ColumnOverlaps;

/// Columns of the learned weights with the same order parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ColumnGroup {
    /// Number of columns.
    pub(crate) count: usize,
    /// Variance of the true column that each of them learns, in units of the largest one. `None` for columns in excess of the
    /// truth, which have nothing to learn.
    pub(crate) variance: Option<f64>,
}

/// The columns of the learned and of the true perturbation.
///
/// `w w^T` does not change under `w -> w O`, so that the covariance `q0` of the true columns may be taken diagonal. Flipping the
/// signs of `chi_k` and `chi*_k` together then leaves all laws unchanged, so that diagonal order parameters are closed
/// under the iteration. Column `k` of the learned weights learns true column `k`, the largest first. Columns that learn true
/// columns of the same variance have the same order parameters, and so have all columns in excess.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ColumnLayout {
    groups: Vec<ColumnGroup>,
    /// Variances of all true columns, in decreasing order and in units of the largest.
    truth: Vec<f64>,
}

impl ColumnLayout {
    /// The layout of `rank` learned columns, for true columns of the given variances.
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
                _ => groups.push(ColumnGroup { count: 1, variance }),
            }
        }
        Self { groups, truth }
    }

    pub(crate) fn groups(&self) -> &[ColumnGroup] {
        &self.groups
    }

    /// Variances of the true columns, in decreasing order and in units of the largest.
    pub(crate) fn truth(&self) -> &[f64] {
        &self.truth
    }

    /// `tr q` of all learned columns.
    pub(crate) fn trace(&self, point: &ColumnOverlaps) -> f64 {
        self.groups.iter().zip(&point.groups).map(|(group, own)| group.count as f64 * own.q()).sum()
    }

    /// `|q|_F` and `|m|_F`, in units of the largest true variance.
    pub(crate) fn norms(&self, point: &ColumnOverlaps) -> [f64; 2] {
        let (mut q2, mut m2) = (0.0, 0.0);
        for (group, own) in self.groups.iter().zip(&point.groups) {
            let count = group.count as f64;
            q2 += count * own.q() * own.q();
            m2 += count * group.variance.unwrap_or(0.0) * own.m * own.m;
        }
        [q2.sqrt(), m2.sqrt()]
    }

    /// `|q0|_F`, in units of the largest true variance.
    pub(crate) fn norm_of_truth(&self) -> f64 {
        self.truth.iter().map(|variance| variance * variance).sum::<f64>().sqrt()
    }

    /// Number of learned columns.
    pub(crate) fn rank(&self) -> usize {
        self.groups.iter().map(|group| group.count).sum()
    }

    /// The group of every learned column.
    pub(crate) fn group_of_column(&self) -> impl Iterator<Item = usize> {
        self.groups.iter().enumerate().flat_map(|(number, group)| std::iter::repeat_n(number, group.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_columns_are_one_group() {
        let layout = ColumnLayout::new(5, &[1.0, 2.0, 2.0]);
        let group = |count, variance| ColumnGroup { count, variance };
        assert_eq!(layout.groups(), [group(2, Some(1.0)), group(1, Some(0.5)), group(2, None)]);
        assert_eq!(layout.truth(), [1.0, 1.0, 0.5]);
        assert_eq!(layout.rank(), 5);
        assert_eq!(layout.group_of_column().collect::<Vec<_>>(), [0, 0, 1, 2, 2]);
        assert_eq!(ColumnLayout::new(1, &[2.0, 2.0]).groups(), [group(1, Some(1.0))]);
    }
}
