//! The global minimum: several starts, of which those that matter are polished.
//!
//! Second minima are rare where the theory is valid. All starts are therefore screened by their objective,
//! and the best two are polished. Only if these lead to different minima for some sample of the batch are
//! further starts polished.

use super::descent::{Expansion, Prox, distance2, dot};
use super::logits::LogitsMap;

/// Number of starts that are polished if the first two disagree for some sample of the batch.
const POLISHED: usize = 5;

/// What a batch of samples remembers from one evaluation to the next.
#[derive(Debug, Clone, Default)]
pub(crate) struct LastPoints {
    /// The last proximal points of all samples. The list is empty before the first evaluation.
    x: Vec<f64>,
    /// Samples whose starts led to different minima.
    pub(crate) contested: Vec<bool>,
}

impl<M: LogitsMap> Prox<'_, M> {
    /// The proximal points of all samples. The search begins at the last points, which it replaces. All
    /// starts are tried if there are no last points or if the search is to be `thorough`, and otherwise only
    /// for the samples whose starts led to different minima before. Every start has the coordinates of all
    /// samples.
    pub(crate) fn minima(
        &self,
        known: &mut LastPoints,
        thorough: bool,
        starts: impl FnOnce() -> Vec<Vec<f64>>,
    ) -> Expansion {
        let all: Vec<usize> = (0..self.count()).collect();
        let found = if thorough || known.x.is_empty() {
            let mut starts = starts();
            if !known.x.is_empty() {
                starts.push(known.x.clone());
            }
            known.contested = vec![false; all.len()];
            self.lowest(&all, &starts, &mut known.contested)
        } else {
            let mut found = self.descend(&all, known.x.clone(), None);
            let again: Vec<usize> =
                all.into_iter().filter(|s| known.contested.get(*s) == Some(&true)).collect();
            if !again.is_empty() {
                let mut contested = vec![false; again.len()];
                let other = self.lowest(&again, &starts(), &mut contested);
                for (k, sample) in again.iter().enumerate() {
                    known.contested[*sample] =
                        keep_lower(&mut found, *sample, &other, k, self.map.dimension()) || contested[k];
                }
            }
            found
        };
        known.x.clone_from(&found.x);
        found
    }

    /// The points at `omega`, at `target`, between them, and at zero.
    pub(crate) fn between(&self, target: &[f64]) -> Vec<Vec<f64>> {
        let point = |share: f64| self.omega.iter().zip(target).map(|(x, t)| x + share * (t - x)).collect();
        vec![point(0.0), point(1.0), point(0.5), vec![0.0; target.len()]]
    }

    /// The lowest minima of some samples downhill from the starts, of which there must be at least one. It
    /// notes the samples whose starts lead to different minima.
    fn lowest(&self, samples: &[usize], starts: &[Vec<f64>], contested: &mut [bool]) -> Expansion {
        let n = self.map.dimension();
        let of_samples = |start: &Vec<f64>| -> Vec<f64> {
            samples.iter().flat_map(|s| &start[s * n..(s + 1) * n]).copied().collect()
        };
        let starts: Vec<Vec<f64>> = starts.iter().map(of_samples).collect();
        let values: Vec<Vec<f64>> = starts.iter().map(|start| self.values(samples, start)).collect();
        let order: Vec<Vec<usize>> = (0..samples.len()).map(|k| best_first(&values, k)).collect();
        let mut best = Expansion::default();
        for rank in 0..POLISHED.min(starts.len()) {
            let parts = order.iter().enumerate();
            let start: Vec<f64> =
                parts.flat_map(|(k, order)| &starts[order[rank]][k * n..(k + 1) * n]).copied().collect();
            if rank == 0 {
                best = self.descend(samples, start, None);
                continue;
            }
            let other = self.descend(samples, start, Some(&best.x));
            for (k, contested) in contested.iter_mut().enumerate() {
                *contested |= keep_lower(&mut best, k, &other, k, n);
            }
            if !contested.contains(&true) {
                break;
            }
        }
        best
    }
}

/// Keeps the lower of minimum `k` and minimum `from` of `other`, and returns whether they differ.
fn keep_lower(local: &mut Expansion, k: usize, other: &Expansion, from: usize, n: usize) -> bool {
    let (x, y) = (&local.x[k * n..(k + 1) * n], &other.x[from * n..(from + 1) * n]);
    // The bound is wider than the distance from a known minimum at which a descent stops.
    let differ = distance2(x, y) > 1e-3 * (dot(x, x) + 1e-2);
    // A minimum that is found twice counts once, although rounding makes the two values differ.
    let value = local.value[k];
    if other.value[from] < value - 1e-12 * (1.0 + value) {
        local.replace(k, other, from);
    }
    differ
}

/// The numbers of the starts of a sample, in the order of their objectives. A start whose objective is not a
/// number comes last.
fn best_first(values: &[Vec<f64>], sample: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|i, j| values[*i][sample].total_cmp(&values[*j][sample]));
    order
}
