//! Named streams of random numbers. Every use of random numbers in an instance has its own stream, so that no
//! result depends on the order or on the thread in which the numbers are drawn.

use nalgebra::DMatrix;
use rand::SeedableRng;
use rand_distr::{Distribution, StandardNormal};
use rand_pcg::Pcg64;

/// The purpose of the numbers of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Teacher,
    Pretraining,
    PretrainingStart,
    PretrainingTest,
    Perturbation,
    Finetuning,
    FinetuningStart,
    FinetuningTest,
    MessagePassing,
    FrozenNoise,
}

/// One instance of an experiment at one dimension.
#[derive(Debug, Clone, Copy)]
pub(super) struct Streams {
    pub(super) seed: u64,
    pub(super) dimension: usize,
    pub(super) instance: usize,
}

impl Streams {
    /// The stream for one purpose.
    pub(super) fn stream(&self, purpose: Purpose) -> Pcg64 {
        let parts = [self.seed, self.dimension as u64, self.instance as u64, purpose as u64];
        Pcg64::seed_from_u64(parts.into_iter().fold(0, |state, part| scramble(state ^ scramble(part))))
    }
}

/// The finaliser of SplitMix64: a bijection of 64-bit numbers without visible structure.
fn scramble(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

pub(super) fn normal(rng: &mut Pcg64) -> f64 {
    StandardNormal.sample(rng)
}

pub(super) fn gaussian(rng: &mut Pcg64, rows: usize, columns: usize) -> DMatrix<f64> {
    DMatrix::from_fn(rows, columns, |_, _| normal(rng))
}

/// A Gaussian matrix scaled to the root mean square of its norm. The scale is `1 + O(1/D)`, and therefore has
/// no effect in the limit, but without it most of the scatter between instances would come from the norm.
pub(super) fn normalised(rng: &mut Pcg64, rows: usize, columns: usize) -> DMatrix<f64> {
    let matrix = gaussian(rng, rows, columns);
    let scale = ((rows * columns) as f64).sqrt() / matrix.norm();
    matrix * scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_and_can_be_repeated() {
        let streams = Streams { seed: 1, dimension: 40, instance: 3 };
        let first = |streams: Streams, purpose| normal(&mut streams.stream(purpose)).to_bits();
        let reference = first(streams, Purpose::Teacher);
        assert_eq!(reference, first(streams, Purpose::Teacher));
        assert_ne!(reference, first(streams, Purpose::Pretraining));
        assert_ne!(reference, first(Streams { instance: 4, ..streams }, Purpose::Teacher));
        assert_ne!(reference, first(Streams { dimension: 41, ..streams }, Purpose::Teacher));
        assert_ne!(reference, first(Streams { seed: 2, ..streams }, Purpose::Teacher));
    }
}
