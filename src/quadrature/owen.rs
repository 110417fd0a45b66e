//! Owen's nested uniform scramble of one coordinate.
//!
//! The unit interval is a binary tree: the node of depth `k` and index `i` is the interval
//! `[i, i+1) / 2^k`. A scramble swaps the two halves of each node or not, by one fair coin per
//! node, independent of all others (A. B. Owen, Lecture Notes in Statistics 106, 299 (1995)).
//! The coins of the first `n` levels are drawn one by one. Below these levels, a net of `2^n` points has a
//! single point in each leaf. The remaining digits of that point are independent fair bits, so that the
//! scramble is exact to the last of its [`DIGITS`] digits.
//!
//! # Random bits
//!
//! Random bits come from a counter and not from a state, so that any column can be made independently of the
//! others. The coordinates of a stream (seed, scramble, dimension, depth) are absorbed one after the other by
//! the finaliser of SplitMix64, in two chains from different constants. The chains give a start `s` and an
//! odd increment `g`, and word `c` of the stream is `mix(s + c g)`. This is the generator of G. L. Steele, D.
//! Lea and C. H. Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014, with one instance for
//! each stream. Every stream has its own increment, so that two streams are not pieces of one common
//! sequence.

/// Binary digits of a scrambled coordinate.
pub(super) const DIGITS: u32 = 52;

/// Label of the stream of the digits below the leaves. The depths of the nodes are smaller numbers.
const BELOW_LEAVES: u64 = 64;

/// The seed and the numbers that fix one scramble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ScrambleKey {
    pub(super) seed: u64,
    pub(super) scramble: u64,
    pub(super) dimension: u64,
}

impl ScrambleKey {
    /// The image of each interval of length `2^-log2_nodes` under the scramble.
    ///
    /// A larger tree has the same nodes above depth `m` as a smaller one, so that the leading digits do not
    /// depend on `log2_nodes`.
    pub(super) fn permutation(&self, log2_nodes: u32) -> Vec<u32> {
        (0..log2_nodes).fold(vec![0], |images, depth| split_nodes(&images, &self.stream(u64::from(depth))))
    }

    /// A scrambled point in each interval of length `2^-log2_nodes`, in increasing order.
    ///
    /// A point is `(k + 1/2) / 2^52` with `k` an integer below `2^52`. It is therefore inside `(0, 1)` and
    /// exact, and so is its distance to one. `log2_nodes` must be at most [`DIGITS`].
    pub(super) fn points_by_image(&self, log2_nodes: u32) -> impl Iterator<Item = f64> {
        // Trees of different sizes get different digits below their leaves: the leaf of the
        // smaller tree is not a leaf of the larger one.
        let stream = self.stream(BELOW_LEAVES + u64::from(log2_nodes));
        let low_digits = DIGITS - log2_nodes;
        (0..1_u64 << log2_nodes).map(move |image| {
            let low = stream.word(image) >> (u64::BITS - low_digits);
            centre(image << low_digits | low)
        })
    }

    fn stream(&self, depth: u64) -> BitStream {
        BitStream::new([self.seed, self.scramble, self.dimension, depth])
    }
}

/// The images one level down. Child `b` of node `i` goes to child `b ^ coin(i)` of the image of `i`.
fn split_nodes(images: &[u32], coins: &BitStream) -> Vec<u32> {
    let mut children = vec![0; 2 * images.len()];
    let (pairs, _) = children.as_chunks_mut::<2>();
    let blocks = images.chunks(64).zip(pairs.chunks_mut(64));
    for (word, (images, pairs)) in (0..).zip(blocks) {
        let mut coins = coins.word(word);
        for (&image, pair) in images.iter().zip(pairs) {
            let first = 2 * image + (coins & 1) as u32;
            *pair = [first, first ^ 1];
            coins >>= 1;
        }
    }
    children
}

/// The centre of cell `k` of the grid of `2^DIGITS` cells.
fn centre(k: u64) -> f64 {
    const CELL: f64 = 1.0 / (1_u64 << DIGITS) as f64;
    // The conversion of a signed integer is a single instruction on common machines.
    (k as i64 as f64 + 0.5) * CELL
}

/// A sequence of independent words of 64 fair bits, addressed by a counter.
#[derive(Debug, Clone, Copy)]
struct BitStream {
    start: u64,
    increment: u64,
}

impl BitStream {
    fn new(coordinates: [u64; 4]) -> Self {
        // The initial constants are the fractional digits of sqrt(2) and sqrt(3).
        let start = absorb(0x6a09_e667_f3bc_c908, coordinates);
        let increment = absorb(0xbb67_ae85_84ca_a73b, coordinates);
        Self { start, increment: well_mixed_odd(increment) }
    }

    fn word(&self, counter: u64) -> u64 {
        mix(self.start.wrapping_add(counter.wrapping_mul(self.increment)))
    }
}

/// A hash of the coordinates in their order.
fn absorb(initial: u64, coordinates: [u64; 4]) -> u64 {
    // The golden ratio keeps small coordinates away from zero, the fixed point of the mixer.
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    coordinates.into_iter().fold(initial, |state, coordinate| {
        mix(state.wrapping_add(GOLDEN) ^ mix(coordinate.wrapping_add(GOLDEN)))
    })
}

/// An odd increment with enough changes between neighbouring bits, as in SplittableRandom. With an increment
/// such as one, successive counters would be too similar for the mixer.
fn well_mixed_odd(bits: u64) -> u64 {
    let odd = bits | 1;
    if (odd ^ (odd >> 1)).count_ones() < 24 { odd ^ 0xaaaa_aaaa_aaaa_aaaa } else { odd }
}

/// The finaliser of SplitMix64 (variant 13 of D. Stafford).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: ScrambleKey = ScrambleKey { seed: 7, scramble: 3, dimension: 5 };

    fn keys(count: u64) -> impl Iterator<Item = ScrambleKey> {
        (0..count).map(|seed| ScrambleKey { seed, ..KEY })
    }

    #[test]
    fn mixer_matches_the_published_generator() {
        // The first outputs of SplitMix64 from state 0.
        const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
        assert_eq!(mix(GOLDEN), 0xe220_a839_7b1d_cdaf);
        assert_eq!(mix(GOLDEN.wrapping_mul(2)), 0x6e78_9e6a_a1b9_65f4);
    }

    #[test]
    fn images_are_a_permutation_nested_at_every_depth() {
        let deep = KEY.permutation(12);
        for m in 0..=12 {
            let shallow = KEY.permutation(m);
            for (leaf, image) in deep.iter().enumerate() {
                assert_eq!(image >> (12 - m), shallow[leaf >> (12 - m)]);
            }
            let mut sorted = shallow;
            sorted.sort_unstable();
            assert!(sorted.into_iter().eq(0..1 << m));
        }
    }

    /// All 2^7 coin patterns of a tree of depth three must be equally likely. This property separates a
    /// nested uniform scramble from a shift, and from a swap shared by a level.
    #[test]
    fn all_coin_patterns_are_equally_likely() {
        const DRAWS: u64 = 128 * 400;
        let mut counts = std::collections::BTreeMap::new();
        for key in keys(DRAWS) {
            *counts.entry(key.permutation(3)).or_insert(0_u32) += 1;
        }
        assert_eq!(counts.len(), 128);
        let chi_square: f64 = counts.values().map(|&count| (f64::from(count) - 400.0).powi(2) / 400.0).sum();
        // The law has 127 degrees of freedom, with mean 127 and standard deviation 16.
        assert!((chi_square - 127.0).abs() < 5.0 * 16.0, "{chi_square}");
    }

    #[test]
    fn coins_of_different_keys_are_uncorrelated() {
        let words = |key: ScrambleKey, depth: u64| -> Vec<u64> {
            let stream = key.stream(depth);
            (0..4096).map(|c| stream.word(c)).collect()
        };
        let base = words(KEY, 4);
        let others = [
            words(ScrambleKey { seed: 8, ..KEY }, 4),
            words(ScrambleKey { scramble: 4, ..KEY }, 4),
            words(ScrambleKey { dimension: 6, ..KEY }, 4),
            words(KEY, 5),
            // The coordinates are absorbed in order, so that exchanging two of them gives another stream.
            words(ScrambleKey { seed: 3, scramble: 7, dimension: 5 }, 4),
        ];
        for other in others {
            for lag in 0..4 {
                let differing: u32 = base.iter().zip(&other[lag..]).map(|(a, b)| (a ^ b).count_ones()).sum();
                let bits = 64.0 * (4096 - lag) as f64;
                let deviation = (f64::from(differing) - bits / 2.0) / (bits / 4.0).sqrt();
                assert!(deviation.abs() < 5.0, "lag {lag}: {deviation} sigma");
            }
        }
    }

    #[test]
    fn points_lie_in_their_interval_and_fill_it() {
        let n = 14;
        let nodes = f64::from(1 << n);
        let mut offsets = Vec::new();
        for (image, u) in (0..).zip(KEY.points_by_image(n)) {
            let offset = u * nodes - f64::from(image);
            assert!((0.0..1.0).contains(&offset));
            offsets.push(offset);
        }
        let mean = offsets.iter().sum::<f64>() / nodes;
        let variance = offsets.iter().map(|o| (o - 0.5).powi(2)).sum::<f64>() / nodes;
        assert!((mean - 0.5).abs() < 5.0 / (12.0 * nodes).sqrt());
        assert!((variance - 1.0 / 12.0).abs() < 5.0 / (180.0 * nodes).sqrt());
    }

    #[test]
    fn extreme_cells_stay_inside_the_open_interval() {
        let (first, last) = (centre(0), centre((1 << DIGITS) - 1));
        assert!(first > 0.0 && last < 1.0);
        assert!((1.0 - last - first).abs() < f64::MIN_POSITIVE);
    }

    #[test]
    fn values_never_change() {
        let images = KEY.permutation(4);
        assert_eq!(images, PINNED_IMAGES);
        let scale = (1_u64 << 53) as f64;
        let points = KEY.points_by_image(2);
        let numerators: Vec<u64> = points.map(|u| (u * scale) as u64).collect();
        assert_eq!(numerators, PINNED_POINTS);
    }

    /// The values are from an independent implementation of the same definitions. Points are numerators over
    /// 2^53.
    const PINNED_IMAGES: [u32; 16] = [3, 2, 0, 1, 6, 7, 5, 4, 11, 10, 8, 9, 12, 13, 15, 14];
    const PINNED_POINTS: [u64; 4] =
        [1_765_140_366_914_377, 4_451_149_158_460_375, 5_147_039_699_793_269, 7_579_112_803_867_313];
}
