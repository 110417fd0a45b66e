//! The global minimum: several starts, of which those that matter are polished.
//!
//! Second minima are rare where the theory is valid. All starts are therefore screened by their objective,
//! and the best two are polished. Only if these lead to different minima for some sample of the batch are
//! further starts polished.

use super::descent::{Local, Prox, distance2, dot};
use super::logits::LogitsMap;

/// Number of starts that are polished if the first two disagree for some sample of the batch.
const POLISHED: usize = 5;

/// The lowest minima that were found.
pub(crate) struct Minima {
    pub(crate) local: Local,
    /// Samples whose starts led to different minima.
    pub(crate) contested: Vec<bool>,
}

impl<M: LogitsMap> Prox<'_, M> {
    /// The minima downhill from `x`, which has the coordinates of all samples.
    pub(crate) fn follow(&self, x: &[f64]) -> Minima {
        let samples: Vec<usize> = (0..self.count()).collect();
        let contested = vec![false; samples.len()];
        Minima { local: self.descend(&samples, x.to_vec(), None), contested }
    }

    /// The lowest minima downhill from the starts, of which there must be at least one. Every start has the
    /// coordinates of all samples.
    pub(crate) fn lowest(&self, starts: &[Vec<f64>]) -> Minima {
        let n = self.map.dimension();
        let samples: Vec<usize> = (0..self.count()).collect();
        let values: Vec<Vec<f64>> = starts.iter().map(|start| self.values(&samples, start)).collect();
        let order: Vec<Vec<usize>> = samples.iter().map(|s| best_first(&values, *s)).collect();
        // The start of every sample with the given rank.
        let ranked = |rank: usize| -> Option<Vec<f64>> {
            let starts = order.iter().enumerate().map(|(s, order)| {
                let start = starts.get(*order.get(rank)?)?;
                start.get(s * n..(s + 1) * n)
            });
            starts.collect::<Option<Vec<&[f64]>>>().map(|parts| parts.concat())
        };
        let mut best = Minima { local: Local::default(), contested: vec![false; samples.len()] };
        for rank in 0..POLISHED {
            let Some(start) = ranked(rank) else { break };
            if rank == 0 {
                best.local = self.descend(&samples, start, None);
                continue;
            }
            let other = self.descend(&samples, start, Some(&best.local.x));
            best.challenge(&other, n);
            if !best.contested.contains(&true) {
                break;
            }
        }
        best
    }
}

impl Minima {
    /// Keeps the lower of each minimum and another one, and notes the samples in which they differ.
    fn challenge(&mut self, other: &Local, n: usize) {
        for s in 0..self.contested.len() {
            let range = s * n..(s + 1) * n;
            let (x, y) = (&self.local.x[range.clone()], &other.x[range]);
            // The bound is wider than the distance from a known minimum at which a descent stops.
            if distance2(x, y) > 1e-3 * (dot(x, x) + 1e-2) {
                self.contested[s] = true;
            }
            // A minimum that is found twice counts once, although rounding makes the two values differ.
            let value = self.local.value[s];
            if other.value[s] < value - 1e-12 * (1.0 + value) {
                self.local.replace(s, other, s);
            }
        }
    }
}

/// The numbers of the starts of a sample, in the order of their objectives. A start whose objective is not a
/// number comes last.
fn best_first(values: &[Vec<f64>], sample: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|i, j| values[*i][sample].total_cmp(&values[*j][sample]));
    order
}
