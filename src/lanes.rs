//! Samples in blocks: loops over the lanes of a block compile to vector instructions, and sums over many blocks are taken
//! in parallel, in an order that does not depend on threads.

use pulp::Arch;
use rayon::prelude::*;

/// Samples per block.
pub(crate) const LANES: usize = 8;
/// One number per sample of a block.
pub(crate) type Lane = [f64; LANES];

/// Blocks per unit of parallel work.
const CHUNK: usize = 128;

/// The sums over all blocks of `COUNT` terms, which `add` adds lane by lane; every block has a state that `add` may
/// change. `add` should be `#[inline(always)]`: it is compiled for AVX2 beside the baseline, and the better one is chosen at
/// run time. The bits are the same either way, since no operation is reordered or contracted.
pub(crate) fn sum_over_blocks<const COUNT: usize, B: Sync, S: Send>(
    blocks: &[B],
    states: &mut [S],
    add: impl Fn(&B, &mut S, &mut [Lane; COUNT]) + Sync,
) -> [f64; COUNT] {
    let chunks: Vec<[f64; COUNT]> = blocks
        .par_chunks(CHUNK)
        .zip(states.par_chunks_mut(CHUNK))
        .map(|(blocks, states)| {
            let mut sums = [[0.0; LANES]; COUNT];
            Arch::new().dispatch(
                #[inline(always)]
                || {
                    for (block, state) in blocks.iter().zip(states) {
                        add(block, state, &mut sums);
                    }
                },
            );
            sums.map(|lane| lane.iter().sum())
        })
        .collect();
    let mut total = [0.0; COUNT];
    for chunk in &chunks {
        for (t, x) in total.iter_mut().zip(chunk) {
            *t += x;
        }
    }
    total
}

/// `exp(x)` for `x <= 0`, to 1.5 units in the last place; below -708 as at -708 (3e-308). NaN stays NaN.
///
/// Our own because the one of the standard library is a call per number; this one vectorises, and is the same on every
/// platform.
#[inline(always)]
pub(crate) fn exp<const L: usize>(x: &[f64; L]) -> [f64; L] {
    // Adding it rounds to an integer, and leaves that integer in the lowest bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    // ln 2 in two parts; products of the first with integers below 2^11 are exact.
    const LN_2_HIGH: f64 = 0.693_147_180_369_123_8;
    const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    let mut result = [0.0; L];
    for l in 0..L {
        let x = if x[l] < -708.0 { -708.0 } else { x[l] };
        let shifted = x * std::f64::consts::LOG2_E + ROUND;
        let n = shifted - ROUND;
        let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
        // Taylor series, |r| <= 0.35: the first term left out is 4e-18.
        let mut sum = 1.0 / 6_227_020_800.0;
        for coefficient in INVERSE_FACTORIALS {
            sum = sum * r + coefficient;
        }
        let power = f64::from_bits((shifted.to_bits() << 52).wrapping_add(1.0_f64.to_bits()));
        result[l] = sum * power;
    }
    result
}

/// `1/12!, ..., 1/1!, 1/0!`.
const INVERSE_FACTORIALS: [f64; 13] = [
    1.0 / 479_001_600.0,
    1.0 / 39_916_800.0,
    1.0 / 3_628_800.0,
    1.0 / 362_880.0,
    1.0 / 40_320.0,
    1.0 / 5_040.0,
    1.0 / 720.0,
    1.0 / 120.0,
    1.0 / 24.0,
    1.0 / 6.0,
    0.5,
    1.0,
    1.0,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponential_agrees_with_the_standard_library() {
        for i in 0..200_000 {
            let x = -f64::from(i) * 708.0 / 200_000.0;
            let [value] = exp(&[x]);
            approx::assert_relative_eq!(value, x.exp(), max_relative = 4e-16);
        }
        assert_eq!(exp(&[0.0, -0.0]).map(f64::to_bits), [1.0_f64.to_bits(); 2]);
        assert_eq!(exp(&[-1e4, f64::NEG_INFINITY]).map(f64::to_bits), [exp(&[-708.0])[0].to_bits(); 2]);
        assert!(exp(&[f64::NAN])[0].is_nan());
    }

    #[test]
    fn sums_do_not_depend_on_threads() {
        let blocks: Vec<Lane> = (0..1000).map(|i| [(f64::from(i) * 0.37).sin(); LANES]).collect();
        let sum = || {
            let mut states = vec![0.0; blocks.len()];
            let [sum] = sum_over_blocks(&blocks, &mut states, |block, state, sums: &mut [Lane; 1]| {
                *state += block[0];
                for l in 0..LANES {
                    sums[0][l] += block[l];
                }
            });
            (sum.to_bits(), states)
        };
        let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap().install(sum);
        let many = rayon::ThreadPoolBuilder::new().num_threads(5).build().unwrap().install(sum);
        assert_eq!(alone, many);
    }
}
