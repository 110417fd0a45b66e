//! The global minimum: several starts, of which those that matter are polished.
//!
//! The first descent begins at the last proximal point, or at the start with the lowest objective. Because the
//! loss is not negative, a minimum that is as low as a minimum of the height `f` has
//! `sum_i (stiffness_i/2)(x_i - omega_i)^2 <= f`: it lies in an ellipsoid around `omega`. Starts far outside
//! that ellipsoid are therefore left out. By experience, starts close to the first minimum can be left out, too, and
//! those to which the objective rises as fast as its curvature at the first minimum predicts. Where the theory is valid,
//! few starts are left. The lowest of these are polished too, and all of them for the few samples in which
//! two minima differ. Unit tests of the kernels compare the result with descents from many starts.

use super::cholesky::{distance2, dot};
use super::descent::Prox;
use super::expansion::LocalExpansion;
use super::logits::LogitsMap;
use super::starts::Starts;

/// Distance from a minimum, relative to its norm, within which a start is taken to lead to it.
const NEAR: f64 = 0.1;
/// Distance from `omega`, in units of the ellipsoid of possible minima, beyond which a start is useless.
const FAR: f64 = 2.0;
/// Share of the rise that the curvature at a minimum predicts for a start, above which the objective is taken
/// to have no other minimum on that side.
const CONVEX: f64 = 1.0;
/// Number of starts that are polished for samples in which no two minima differ.
const POLISHED: usize = 3;

/// A start, by its number in a list, with the objective there.
struct ScreenedStart {
    number: usize,
    value: f64,
}

/// What a batch of samples remembers from one evaluation to the next.
#[derive(Debug, Clone, Default)]
pub(crate) struct LastPoints {
    /// The last proximal points of all samples. The list is empty before the first evaluation.
    x: Vec<f64>,
    /// Samples whose starts led to different minima.
    pub(crate) contested: Vec<bool>,
}

impl LastPoints {
    /// Forgets all points if their coordinates are not of the given number.
    pub(crate) fn require(&mut self, coordinates: usize) {
        if self.x.len() != coordinates {
            *self = Self::default();
        }
    }

    /// Lets the next search begin at `x` without other starts, if there are no last points.
    pub(crate) fn begin_at(&mut self, x: &[f64], samples: usize) {
        if self.x.is_empty() {
            self.x = x.to_vec();
            self.contested = vec![false; samples];
        }
    }

    /// Lets the next search try all starts.
    pub(crate) fn doubt(&mut self) {
        self.contested.fill(true);
    }
}

impl<M: LogitsMap> Prox<'_, M> {
    /// The proximal points of all samples. The search begins at the last points, which it replaces. All
    /// starts are tried if there are no last points, and otherwise only for the samples whose starts led to
    /// different minima before. `starts` makes the starts of the samples with the given numbers.
    pub(crate) fn minima(
        &self,
        known: &mut LastPoints,
        starts: impl FnOnce(&[usize]) -> Starts,
    ) -> LocalExpansion {
        let all: Vec<usize> = (0..self.count()).collect();
        let found = if known.x.is_empty() {
            let starts = starts(&all);
            let screened = self.screened(&all, &starts);
            let n = self.map.dimension();
            let best = screened.iter().enumerate();
            let first =
                best.flat_map(|(k, order)| order.first().map(|s| &starts[s.number][k * n..(k + 1) * n]));
            let mut found = self.descend(&all, first.flatten().copied().collect(), None);
            known.contested = self.improve(&all, &mut found, &starts, &screened);
            found
        } else {
            let mut found = self.descend(&all, known.x.clone(), None);
            let again: Vec<usize> =
                all.into_iter().filter(|s| known.contested.get(*s) == Some(&true)).collect();
            if !again.is_empty() {
                let starts = starts(&again);
                let contested = self.improve(&again, &mut found, &starts, &self.screened(&again, &starts));
                for (sample, contested) in again.iter().zip(contested) {
                    known.contested[*sample] = contested;
                }
            }
            found
        };
        known.x.clone_from(&found.x);
        found
    }

    /// The proximal points of all samples, like [`Prox::minima`]. The first search begins at `omega`, and starts are made
    /// and evaluated only where they may lead to another minimum. The result is the same where the first search ends in the
    /// global minimum, which is most often the case.
    pub(crate) fn minima_near(
        &self,
        known: &mut LastPoints,
        starts: impl FnOnce(&[usize]) -> Starts,
    ) -> LocalExpansion {
        let all: Vec<usize> = (0..self.count()).collect();
        let first = known.x.is_empty();
        let from = if first { self.omega.to_vec() } else { known.x.clone() };
        let mut found = self.descend(&all, from, None);
        if first {
            known.contested = all.iter().map(|s| !self.is_global(*s, &found)).collect();
        }
        let again: Vec<usize> = all.into_iter().filter(|s| known.contested.get(*s) == Some(&true)).collect();
        if !again.is_empty() {
            let starts = starts(&again);
            let screened = self.screened_near(&again, &starts, &found);
            let contested = self.improve(&again, &mut found, &starts, &screened);
            for (sample, contested) in again.iter().zip(contested) {
                known.contested[*sample] = contested;
            }
        }
        known.x.clone_from(&found.x);
        found
    }

    /// Whether the minimum of a sample that was found is certainly the global one.
    fn is_global(&self, sample: usize, found: &LocalExpansion) -> bool {
        let square = self.map.tokens() * self.map.tokens();
        self.map.is_global(&found.slope[sample * square..(sample + 1) * square], self.stiffness)
    }

    /// The starts of every sample that may lead to other minima than those that were found, in the order of their objectives.
    fn screened_near(
        &self,
        samples: &[usize],
        starts: &Starts,
        found: &LocalExpansion,
    ) -> Vec<Vec<ScreenedStart>> {
        let n = self.map.dimension();
        let mut screened: Vec<Vec<ScreenedStart>> = samples.iter().map(|_| Vec::new()).collect();
        for (number, start) in starts.iter().enumerate() {
            let own = |k: usize| &start[k * n..(k + 1) * n];
            let useful: Vec<usize> =
                (0..samples.len()).filter(|k| !self.is_useless(samples[*k], own(*k), found)).collect();
            let of_useful: Vec<usize> = useful.iter().map(|k| samples[*k]).collect();
            let points: Vec<f64> = useful.iter().flat_map(|k| own(*k)).copied().collect();
            for (k, value) in useful.iter().zip(self.values(&of_useful, &points)) {
                screened[*k].push(ScreenedStart { number, value });
            }
        }
        for order in &mut screened {
            order.sort_by(|x, y| x.value.total_cmp(&y.value));
        }
        screened
    }

    /// Whether a start is close to the minimum that was found, or outside of the region of lower minima.
    fn is_useless(&self, sample: usize, start: &[f64], found: &LocalExpansion) -> bool {
        let n = self.map.dimension();
        let x = &found.x[sample * n..(sample + 1) * n];
        distance2(start, x) <= NEAR * NEAR * (dot(x, x) + 1e-2)
            || self.pull(sample, start) > FAR * FAR * found.value[sample]
    }

    /// The starts of every sample in the order of their objectives. A start whose objective is not a number
    /// comes last.
    fn screened(&self, samples: &[usize], starts: &Starts) -> Vec<Vec<ScreenedStart>> {
        let values: Vec<Vec<f64>> = starts.iter().map(|start| self.values(samples, start)).collect();
        let best_first = |k: usize| {
            let numbered = values.iter().enumerate();
            let mut order: Vec<ScreenedStart> =
                numbered.map(|(number, values)| ScreenedStart { number, value: values[k] }).collect();
            order.sort_by(|x, y| x.value.total_cmp(&y.value));
            order
        };
        (0..samples.len()).map(best_first).collect()
    }

    /// Replaces minima by lower ones to which the starts of the given samples lead, and returns for each of
    /// them whether there are different minima. `found` has the minima of all samples.
    fn improve(
        &self,
        samples: &[usize],
        found: &mut LocalExpansion,
        starts: &Starts,
        screened: &[Vec<ScreenedStart>],
    ) -> Vec<bool> {
        let n = self.map.dimension();
        let of_sample = |start: usize, k: usize| -> &[f64] { &starts[start][k * n..(k + 1) * n] };
        // The starts that may lead to other minima, the best one last.
        let mut others: Vec<Vec<usize>> = Vec::with_capacity(samples.len());
        for (k, screened) in screened.iter().enumerate() {
            let useful = |start: &&ScreenedStart| {
                self.may_differ(samples[k], of_sample(start.number, k), start.value, found)
            };
            others.push(screened.iter().filter(useful).rev().map(|start| start.number).collect());
        }
        let mut contested = vec![false; samples.len()];
        let mut active: Vec<usize> = (0..samples.len()).collect();
        for number in 0.. {
            active.retain(|k| !others[*k].is_empty() && (number < POLISHED || contested[*k]));
            if active.is_empty() {
                break;
            }
            let next: Vec<f64> = active
                .iter()
                .flat_map(|k| others[*k].pop().map(|start| of_sample(start, *k)).unwrap_or_default())
                .copied()
                .collect();
            let own: Vec<usize> = active.iter().map(|k| samples[*k]).collect();
            let known: Vec<f64> = own.iter().flat_map(|s| &found.x[s * n..(s + 1) * n]).copied().collect();
            let other = self.descend(&own, next, Some(&known));
            for (from, k) in active.iter().enumerate() {
                contested[*k] |= keep_lower(found, samples[*k], &other, from, n);
            }
        }
        contested
    }

    /// Whether a start, at which the objective is `value`, may lead to a minimum that is lower than the one
    /// that was found for a sample.
    fn may_differ(&self, sample: usize, start: &[f64], value: f64, found: &LocalExpansion) -> bool {
        let n = self.map.dimension();
        let x = &found.x[sample * n..(sample + 1) * n];
        if distance2(start, x) <= NEAR * NEAR * (dot(x, x) + 1e-2) {
            return false;
        }
        let hessian = &found.hessian[sample * n * n..(sample + 1) * n * n];
        let step: Vec<f64> = start.iter().zip(x).map(|(start, x)| start - x).collect();
        let rise: f64 = hessian.chunks_exact(n).zip(&step).map(|(row, d)| 0.5 * d * dot(row, &step)).sum();
        // A NaN must not exclude a start.
        let outside = self.pull(sample, start) > FAR * FAR * found.value[sample];
        let convex = value - found.value[sample] > CONVEX * rise;
        !(outside || convex)
    }
}

/// The lowest local minima of some samples besides those that were found.
pub(crate) struct Rivals {
    /// The samples that were looked at.
    pub(crate) samples: Vec<usize>,
    /// The positions in that list of the samples that have another minimum.
    pub(crate) positions: Vec<usize>,
    /// These minima, at the same positions.
    pub(crate) minima: LocalExpansion,
}

impl<M: LogitsMap> Prox<'_, M> {
    /// The lowest minima besides those in `found` to which the starts of the given samples lead, if there are any. `found` has the
    /// minima of all samples.
    pub(crate) fn rivals(&self, samples: &[usize], found: &LocalExpansion, starts: Starts) -> Option<Rivals> {
        let n = self.map.dimension();
        let mut lowest: Option<LocalExpansion> = None;
        let mut known = vec![false; samples.len()];
        for start in starts {
            let other = self.descend(samples, start, None);
            let lowest = lowest.get_or_insert_with(|| other.clone());
            let gradient2 =
                |k: usize| dot(&other.gradient[k * n..(k + 1) * n], &other.gradient[k * n..(k + 1) * n]);
            for (k, sample) in samples.iter().enumerate() {
                let (x, y) = (&found.x[sample * n..(sample + 1) * n], &other.x[k * n..(k + 1) * n]);
                let is_minimum = gradient2(k) < LEVEL * LEVEL;
                if is_minimum && differ(x, y) && (!known[k] || other.value[k] < lowest.value[k]) {
                    known[k] = true;
                    lowest.replace(k, &other, k);
                }
            }
        }
        let minima = lowest?;
        let positions = (0..samples.len()).filter(|k| known[*k]).collect();
        Some(Rivals { samples: samples.to_vec(), positions, minima })
    }
}

/// Largest slope of the objective at the end of a descent that has found a minimum.
const LEVEL: f64 = 1e-6;

/// Whether two minima differ. The bound is wider than the distance from a known minimum at which a descent stops.
fn differ(x: &[f64], y: &[f64]) -> bool {
    distance2(x, y) > 1e-3 * (dot(x, x) + 1e-2)
}

/// Keeps the lower of minimum `k` and minimum `from` of `other`, and returns whether they differ.
fn keep_lower(local: &mut LocalExpansion, k: usize, other: &LocalExpansion, from: usize, n: usize) -> bool {
    let (x, y) = (&local.x[k * n..(k + 1) * n], &other.x[from * n..(from + 1) * n]);
    let differ = differ(x, y);
    // A minimum that is found twice counts once, although rounding makes the two values differ.
    let value = local.value[k];
    if other.value[from] < value - 1e-12 * (1.0 + value) {
        local.replace(k, other, from);
    }
    differ
}
