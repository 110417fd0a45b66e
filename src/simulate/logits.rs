//! Logits as flat matrices, one after the other: sums, and the selection of the samples with the lowest scores.

use super::sequences::score_of;
use crate::lora::Selection;

pub(super) fn sum(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

pub(super) fn scaled(a: &[f64], factor: f64) -> Vec<f64> {
    a.iter().map(|a| factor * a).collect()
}

/// The numbers of the `count` samples of lowest score, and their frozen logits.
pub(super) fn lowest_scores(
    selection: Selection,
    tokens: usize,
    frozen: &[f64],
    count: usize,
) -> (Vec<usize>, Vec<f64>) {
    let square = tokens * tokens;
    let scores: Vec<f64> =
        frozen.chunks_exact(square).map(|z| score_of(selection.score(), tokens, z)).collect();
    let mut kept: Vec<usize> = (0..scores.len()).collect();
    kept.sort_by(|i, j| scores[*i].total_cmp(&scores[*j]));
    kept.truncate(count);
    let frozen = kept.iter().flat_map(|mu| &frozen[square * mu..square * (mu + 1)]).copied().collect();
    (kept, frozen)
}
