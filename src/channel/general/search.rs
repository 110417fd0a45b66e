//! The global minimum: several starts, of which those that matter are polished.
//!
//! The descent begins at the start with the lowest objective. Because the loss is not negative, a minimum
//! that is as low as a minimum of the height `f` has `sum_i (stiffness_i/2)(x_i - omega_i)^2 <= f`: it lies in
//! an ellipsoid around `omega`. Starts far outside that ellipsoid, and starts close to the first minimum,
//! cannot lead to a lower one. Where the theory is valid, few starts are left. The lowest of these are
//! polished too, and all of them for the few samples in which two minima differ.

use super::descent::{LocalExpansion, Prox, distance2, dot};
use super::logits::LogitsMap;
use super::starts::Starts;

/// Distance from a minimum, relative to its norm, within which a start is taken to lead to it.
const NEAR: f64 = 0.1;
/// Distance from `omega`, in units of the ellipsoid of possible minima, beyond which a start is useless.
const FAR: f64 = 2.0;
/// Number of starts that are polished for samples in which no two minima differ.
const POLISHED: usize = 4;

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
    /// for the samples whose starts led to different minima before. `starts` makes the starts of the samples
    /// with the given numbers.
    pub(crate) fn minima(
        &self,
        known: &mut LastPoints,
        thorough: bool,
        starts: impl FnOnce(&[usize]) -> Starts,
    ) -> LocalExpansion {
        let all: Vec<usize> = (0..self.count()).collect();
        let found = if thorough || known.x.is_empty() {
            let mut starts = starts(&all);
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
                let other = self.lowest(&again, &starts(&again), &mut contested);
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

    /// The lowest minima of some samples downhill from the starts, of which there must be at least one. It
    /// notes the samples whose starts lead to different minima.
    fn lowest(&self, samples: &[usize], starts: &[Vec<f64>], contested: &mut [bool]) -> LocalExpansion {
        let n = self.map.dimension();
        let of_sample = |start: usize, k: usize| -> &[f64] { &starts[start][k * n..(k + 1) * n] };
        let values: Vec<Vec<f64>> = starts.iter().map(|start| self.values(samples, start)).collect();
        let order: Vec<Vec<usize>> = (0..samples.len()).map(|k| best_first(&values, k)).collect();
        let first: Vec<f64> =
            order.iter().enumerate().flat_map(|(k, order)| of_sample(order[0], k)).copied().collect();
        let mut best = self.descend(samples, first, None);
        // The starts that may lead to other minima, the best one last.
        let mut others: Vec<Vec<usize>> = order
            .iter()
            .enumerate()
            .map(|(k, order)| {
                let may_differ =
                    |start: &&usize| self.may_differ(samples[k], of_sample(**start, k), &best, k);
                order.iter().skip(1).filter(may_differ).rev().copied().collect()
            })
            .collect();
        let mut active: Vec<usize> = (0..samples.len()).collect();
        for number in 1.. {
            active.retain(|k| !others[*k].is_empty() && (number < POLISHED || contested[*k]));
            if active.is_empty() {
                break;
            }
            let next: Vec<f64> = active
                .iter()
                .flat_map(|k| others[*k].pop().map(|start| of_sample(start, *k)).unwrap_or_default())
                .copied()
                .collect();
            let known: Vec<f64> = active.iter().flat_map(|k| &best.x[k * n..(k + 1) * n]).copied().collect();
            let own: Vec<usize> = active.iter().map(|k| samples[*k]).collect();
            let other = self.descend(&own, next, Some(&known));
            for (from, k) in active.iter().enumerate() {
                contested[*k] |= keep_lower(&mut best, *k, &other, from, n);
            }
        }
        best
    }

    /// Whether a start may lead to a minimum that is lower than minimum `k` of `best`.
    fn may_differ(&self, sample: usize, start: &[f64], best: &LocalExpansion, k: usize) -> bool {
        let n = self.map.dimension();
        let x = &best.x[k * n..(k + 1) * n];
        let apart = distance2(start, x) > NEAR * NEAR * (dot(x, x) + 1e-2);
        // A NaN must not exclude a start.
        let outside = self.pull(sample, start) > FAR * FAR * best.value[k];
        apart && !outside
    }
}

/// Keeps the lower of minimum `k` and minimum `from` of `other`, and returns whether they differ.
fn keep_lower(local: &mut LocalExpansion, k: usize, other: &LocalExpansion, from: usize, n: usize) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activation::ActivationName;
    use crate::channel::general::{CoordinateBasis, Perturbation, attention};
    use crate::quadrature::ScrambledSobol;

    /// A point of the state evolution of fine-tuning, `omega = m chi* + s f`.
    struct Setting {
        m: f64,
        s2: f64,
        v: f64,
    }

    /// Points in the good, in the marginal and in the unreliable region, and one without overlap.
    const SETTINGS: [Setting; 4] = [
        Setting { m: 0.84, s2: 0.07, v: 0.16 },
        Setting { m: 0.72, s2: 0.13, v: 0.35 },
        Setting { m: 0.8, s2: 0.9, v: 1.5 },
        Setting { m: 0.0, s2: 0.5, v: 0.8 },
    ];

    /// Counts the samples of the law (Q0, Q, M, Delta) = (2, 1.2, 1.1, .5) in which some of many starts leads
    /// to a lower minimum than the search found.
    fn missed(
        name: ActivationName,
        tokens: usize,
        log2: u32,
        many: impl Fn(usize) -> Vec<Vec<f64>>,
    ) -> [usize; 4] {
        let activation = name.activation();
        let basis = CoordinateBasis::new(tokens, activation.unseen());
        let seen = basis.dimension();
        let points = ScrambledSobol::new(2 * tokens + 2 * seen, log2, 7, 0).unwrap();
        let columns = points.columns(0..2 * tokens + 2 * seen).unwrap();
        let count = points.nodes();
        let gather = |range: std::ops::Range<usize>| -> Vec<f64> {
            (0..count)
                .flat_map(|node| columns[range.clone()].iter().map(move |column| column[node]))
                .collect()
        };
        let (star, free) = (gather(0..tokens), gather(tokens..2 * tokens));
        let matrices = |x: Vec<f64>, deviation: f64| -> Vec<f64> {
            x.chunks_exact(seen)
                .flat_map(|x| {
                    let mut matrix = vec![0.0; tokens * tokens];
                    basis.add(x.iter().copied(), deviation, &mut matrix);
                    matrix
                })
                .collect()
        };
        let frozen = matrices(gather(2 * tokens..2 * tokens + seen), 2.4_f64.sqrt());
        let rest = matrices(gather(2 * tokens + seen..2 * tokens + 2 * seen), 2.4833_f64.sqrt());
        let mut label: Vec<f64> = frozen.iter().zip(&rest).map(|(z, rest)| 1.1 / 1.2 * z + rest).collect();
        let truth = Perturbation { tokens, columns: 1, frozen: &[], coupling: 1.0, trace: 1.0 };
        for (star, label) in star.chunks_exact(tokens).zip(label.chunks_exact_mut(tokens * tokens)) {
            truth.add(star, label);
        }
        let y = attention(activation.as_ref(), tokens, &label);
        SETTINGS.each_ref().map(|Setting { m, s2, v }| {
            let omega: Vec<f64> = star.iter().zip(&free).map(|(s, f)| m * s + s2.sqrt() * f).collect();
            let stiffness = vec![1.0 / v; tokens];
            let map = Perturbation { tokens, columns: 1, frozen: &frozen, coupling: 1.0, trace: m * m + s2 };
            let activation = activation.as_ref();
            let prox = Prox { activation, map, label: &y, omega: &omega, stiffness: &stiffness };
            let mut known = LastPoints::default();
            let found = prox.minima(&mut known, true, |samples| prox.starts(samples, &star, &label));
            let samples: Vec<usize> = (0..count).collect();
            let mut lowest = found.value.clone();
            let mut reached = vec![false; count];
            for start in many(tokens) {
                let other = prox.descend(&samples, start.repeat(count), None);
                for k in 0..count {
                    reached[k] |= other.value[k] > found.value[k] + 1e-7;
                    lowest[k] = lowest[k].min(other.value[k]);
                }
            }
            let missed = (0..count).filter(|k| lowest[*k] < found.value[*k] - 1e-9).count();
            println!(
                "{name} T={tokens} m {m} v {v}: missed {missed}, contested {}, several minima {} of {count}",
                known.contested.iter().filter(|c| **c).count(),
                reached.iter().filter(|c| **c).count()
            );
            missed
        })
    }

    #[test]
    fn probe() {
        let grid = |tokens: usize| -> Vec<Vec<f64>> {
            let side: usize = if tokens == 2 { 9 } else { 5 };
            let span = 2.5;
            (0..side.pow(tokens as u32))
                .map(|k| {
                    (0..tokens)
                        .map(|i| {
                            -span + 2.0 * span * ((k / side.pow(i as u32)) % side) as f64 / (side - 1) as f64
                        })
                        .collect()
                })
                .collect()
        };
        for name in [ActivationName::Softmax, ActivationName::SoftmaxOne, ActivationName::Sigmoid] {
            missed(name, 2, 12, grid);
            missed(name, 3, 10, grid);
        }
    }
}
