//! Minima from many starts, for tests of the search for the global minimum.

use super::descent::Prox;
use super::expansion::LocalExpansion;
use super::logits::LogitsMap;
use super::search::LastPoints;

/// The number of samples whose minimum is not the lowest of those downhill from `starts`. Every start has the
/// coordinates of one sample, and is tried for all samples.
pub(crate) fn missed<M: LogitsMap>(prox: &Prox<'_, M>, found: &LocalExpansion, starts: &[Vec<f64>]) -> usize {
    const ROUNDING: f64 = 1e-9;
    let mut lowest = found.value.clone();
    for start in starts {
        let alone = prox.minima(&mut LastPoints::default(), |samples| vec![start.repeat(samples.len())]);
        for (lowest, value) in lowest.iter_mut().zip(&alone.value) {
            *lowest = lowest.min(*value);
        }
    }
    found.value.iter().zip(&lowest).filter(|(value, lowest)| **value > **lowest + ROUNDING).count()
}

/// The points of a cubic grid in `dimension` dimensions, with `count` points from `-reach` to `reach` along
/// every axis.
pub(crate) fn grid(dimension: usize, count: usize, reach: f64) -> Vec<Vec<f64>> {
    let step = 2.0 * reach / (count - 1) as f64;
    let axis = |k: usize, i: usize| -reach + step * (k / count.pow(i as u32) % count) as f64;
    (0..count.pow(dimension as u32)).map(|k| (0..dimension).map(|i| axis(k, i)).collect()).collect()
}
