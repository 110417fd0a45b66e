//! Samples in blocks. Loops over the lanes of a block compile to vector instructions. Sums over many blocks
//! are taken in parallel, in an order that does not depend on the threads.

use std::sync::Mutex;

use pulp::Arch;

use crate::parallel;

/// Number of samples per block.
pub(crate) const LANES: usize = 8;
/// One number per sample of a block.
pub(crate) type Lane = [f64; LANES];

/// The numbers of the samples from number `first` on.
#[inline(always)]
pub(crate) fn load(column: &[f64], first: usize) -> Lane {
    let mut lane = [0.0; LANES];
    lane.copy_from_slice(&column[first..first + LANES]);
    lane
}

/// Returns the result of `work`. The closure is compiled for AVX2 beside the baseline, and the better version
/// is chosen at run time. The bits are the same either way, since no operation is reordered or contracted.
///
/// `work` and the functions that it calls should be `#[inline(always)]`, because only inlined code is
/// compiled for AVX2. The closure must be written at the call of this function. The bound `FnOnce` then gives
/// it the type of a closure that is called once. A closure that could be called again would be called through
/// a function that is not inlined.
#[inline(always)]
pub(crate) fn wide<R>(work: impl FnOnce() -> R) -> R {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    if let Some(avx2) = pulp::x86::V3::try_new() {
        return avx2.vectorize(work);
    }
    work()
}

/// The same with a third version for AVX-512, whose registers are more and larger. This is for the proximal points of softmax and the tables of its
/// test errors, in which nearly all time is spent, and a tenth of it or more is saved. Elsewhere it would not be worth its time in every build.
#[inline(always)]
pub(crate) fn widest<R>(work: impl FnOnce() -> R) -> R {
    Arch::new().dispatch(work)
}

/// Number of samples per unit of parallel work.
pub(crate) const CHUNK: usize = 1024;

/// The blocks of one list, and the state of each.
pub(crate) type BlocksAndStates<'a, B, S> = (&'a [B], &'a mut [S]);

/// The sums over the blocks of `size` samples of each list of `COUNT` terms, one sum for every `samples` consecutive samples. `add` adds the
/// terms lane by lane for some consecutive blocks, through [`widest`] or [`wide`]. Every block has a state that `add` may change. All pieces of all
/// lists are in a single parallel loop.
///
/// This function is for sums that are taken at every iteration. A sum that is taken once in a solve does not
/// justify a second copy of its code, and uses [`sum_once`].
pub(crate) fn sums_over_groups<const COUNT: usize, B: Sync, S: Send>(
    lists: Vec<BlocksAndStates<'_, B, S>>,
    size: usize,
    samples: usize,
    add: impl Fn(&[B], &mut [S], &mut [Lane; COUNT]) + Sync,
) -> Vec<Vec<[f64; COUNT]>> {
    let chunk = samples.div_ceil(size);
    let lengths: Vec<usize> = lists.iter().map(|(blocks, _)| blocks.len().div_ceil(chunk)).collect();
    let chunks: Vec<Mutex<_>> = lists
        .into_iter()
        .flat_map(|(blocks, states)| blocks.chunks(chunk).zip(states.chunks_mut(chunk)).map(Mutex::new))
        .collect();
    let sums = sums_of_chunks(chunks.len(), &|chunk, sums| {
        let (blocks, states) = &mut *parallel::lock(&chunks[chunk]);
        add(blocks, states, sums);
    });
    let mut rest = &sums[..];
    let one = |length: usize| {
        let (own, others) = rest.split_at(length);
        rest = others;
        own.to_vec()
    };
    lengths.into_iter().map(one).collect()
}

/// The sums over all blocks of each list as of [`sums_over_groups`], where `add` adds the terms of one block. It should be
/// `#[inline(always)]`, because it is called through [`wide`].
#[inline(always)]
pub(crate) fn sums_over_blocks<const COUNT: usize, B: Sync, S: Send>(
    lists: Vec<BlocksAndStates<'_, B, S>>,
    size: usize,
    add: impl Fn(&B, &mut S, &mut [Lane; COUNT]) + Sync,
) -> Vec<[f64; COUNT]> {
    let sums = sums_over_groups(
        lists,
        size,
        CHUNK,
        #[inline(always)]
        |blocks, states, sums| {
            wide(
                #[inline(always)]
                || {
                    for (block, state) in blocks.iter().zip(states) {
                        add(block, state, sums);
                    }
                },
            )
        },
    );
    sums.iter().map(|sums| total(sums)).collect()
}

/// The sums over blocks of `size` samples of `COUNT` terms, which `add` adds lane by lane for the block with
/// the given number.
pub(crate) fn sum_once<const COUNT: usize>(
    blocks: usize,
    size: usize,
    add: impl Fn(usize, &mut [Lane; COUNT]) + Sync,
) -> [f64; COUNT] {
    let length = CHUNK.div_ceil(size);
    total(&sums_of_chunks(blocks.div_ceil(length), &|chunk, sums| {
        for block in chunk * length..blocks.min((chunk + 1) * length) {
            add(block, sums);
        }
    }))
}

/// For every chunk, the sums over its samples of the terms that `add` adds for the chunk with the given
/// number.
fn sums_of_chunks<const COUNT: usize>(
    chunks: usize,
    add: &(dyn Fn(usize, &mut [Lane; COUNT]) + Sync),
) -> Vec<[f64; COUNT]> {
    parallel::map(chunks, 1, &|chunk| {
        let mut sums = [[0.0; LANES]; COUNT];
        add(chunk, &mut sums);
        sums.map(|lane| lane.iter().sum::<f64>())
    })
}

/// The sum over chunks, in their order.
pub(crate) fn total<const COUNT: usize>(chunks: &[[f64; COUNT]]) -> [f64; COUNT] {
    let mut total = [0.0; COUNT];
    for chunk in chunks {
        for (t, x) in total.iter_mut().zip(chunk) {
            *t += x;
        }
    }
    total
}

/// `exp(x)` for `x <= 700`, to 1.5 units in the last place. Below -708 it has the value at -708 (3e-308). NaN
/// stays NaN.
///
/// The crate has its own function because that of the standard library is a call per number. This one
/// vectorises, and is the same on every platform.
#[inline(always)]
pub(crate) fn exp<const L: usize>(x: &[f64; L]) -> [f64; L] {
    // Adding this number rounds to an integer, and leaves that integer in the lowest bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    // This is ln 2 in two parts. Products of the first part with integers below 2^11 are exact.
    const LN_2_HIGH: f64 = 0.693_147_180_369_123_8;
    const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    let mut result = [0.0; L];
    for l in 0..L {
        let x = if x[l] < -708.0 { -708.0 } else { x[l] };
        let shifted = x * std::f64::consts::LOG2_E + ROUND;
        let n = shifted - ROUND;
        let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
        // The two sums are computed at the same time. In a single one, every step would wait for the step before.
        let square = r * r;
        let [mut even, mut odd] = EXPONENTIAL[0];
        for [a, b] in &EXPONENTIAL[1..] {
            even = even * square + a;
            odd = odd * square + b;
        }
        // The largest terms are added last, so that they are rounded once.
        let sum = 1.0 + (r + square * (odd * r + even));
        let power = f64::from_bits((shifted.to_bits() << 52).wrapping_add(1.0_f64.to_bits()));
        result[l] = sum * power;
    }
    result
}

/// Sine and cosine, to 2e-16 absolute for `|x| < 1e5`.
#[inline(always)]
pub(crate) fn sin_cos<const L: usize>(x: &[f64; L]) -> [[f64; L]; 2] {
    const ROUND: f64 = 6_755_399_441_055_744.0;
    // These are three parts of pi/2, the first two with zeros in their last bits.
    const PARTS: [f64; 3] = [1.570_796_326_734_125_6, 6.077_100_506_303_966e-11, 2.022_266_248_795_950_6e-21];
    let (mut sine, mut cosine) = ([0.0; L], [0.0; L]);
    for l in 0..L {
        let shifted = x[l] * std::f64::consts::FRAC_2_PI + ROUND;
        let n = shifted - ROUND;
        let r = ((x[l] - n * PARTS[0]) - n * PARTS[1]) - n * PARTS[2];
        let square = r * r;
        // The sums are Taylor series with |r| <= pi/4. The first terms left out are 1e-19.
        let (mut odd, mut even) = (1.0 / 355_687_428_096_000.0, 1.0 / 20_922_789_888_000.0);
        for [a, b] in ODD_AND_EVEN {
            odd = odd * square + a;
            even = even * square + b;
        }
        let (odd, even) = (odd * r, even);
        // The number of quarter turns is in the lowest bits.
        let bits = shifted.to_bits();
        let (s, c) = if bits & 1 == 0 { (odd, even) } else { (even, odd) };
        sine[l] = if bits & 2 == 0 { s } else { -s };
        cosine[l] = if bits.wrapping_add(1) & 2 == 0 { c } else { -c };
    }
    [sine, cosine]
}

/// Coefficients of the sine and of the cosine in the square of the argument, without the highest ones.
const ODD_AND_EVEN: [[f64; 2]; 8] = [
    [-1.0 / 1_307_674_368_000.0, -1.0 / 87_178_291_200.0],
    [1.0 / 6_227_020_800.0, 1.0 / 479_001_600.0],
    [-1.0 / 39_916_800.0, -1.0 / 3_628_800.0],
    [1.0 / 362_880.0, 1.0 / 40_320.0],
    [-1.0 / 5_040.0, -1.0 / 720.0],
    [1.0 / 120.0, 1.0 / 24.0],
    [-1.0 / 6.0, -0.5],
    [1.0, 1.0],
];

/// Even and odd coefficients of `q`, highest powers first, in the polynomial `1 + r + r^2 q(r)` that agrees with the exponential at ten Chebyshev
/// points of `|r| <= ln(2)/2`. Its largest relative error there is 1.7e-17.
const EXPONENTIAL: [[f64; 2]; 5] = [
    [2.762_013_871_973_399_4e-7, 2.510_042_415_700_506_7e-8],
    [2.480_152_119_021_773e-5, 2.755_726_837_868_419_2e-6],
    [0.001_388_888_891_728_179_4, 0.000_198_412_698_631_058_69],
    [0.041_666_666_666_623_99, 0.008_333_333_333_330_051],
    [0.500_000_000_000_000_1, 0.166_666_666_666_666_69],
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
        for i in 0..=7000 {
            let x = f64::from(i) * 0.1;
            let [value] = exp(&[x]);
            approx::assert_relative_eq!(value, x.exp(), max_relative = 4e-16);
        }
        assert_eq!(exp(&[0.0, -0.0]).map(f64::to_bits), [1.0_f64.to_bits(); 2]);
        assert_eq!(exp(&[-1e4, f64::NEG_INFINITY]).map(f64::to_bits), [exp(&[-708.0])[0].to_bits(); 2]);
        assert!(exp(&[f64::NAN])[0].is_nan());
    }

    #[test]
    fn sine_and_cosine_agree_with_the_standard_library() {
        for i in 0..200_000 {
            let x = f64::from(i - 100_000) * 1e-3;
            let [[sine], [cosine]] = sin_cos(&[x]);
            approx::assert_abs_diff_eq!(sine, x.sin(), epsilon = 3e-16);
            approx::assert_abs_diff_eq!(cosine, x.cos(), epsilon = 3e-16);
        }
    }

    #[test]
    fn sums_do_not_depend_on_threads() {
        let blocks: Vec<Lane> = (0..1000).map(|i| [(f64::from(i) * 0.37).sin(); LANES]).collect();
        let sum = || {
            let mut states = vec![0.0; blocks.len()];
            // The lists are of lengths that are no multiples of a chunk.
            let (first, rest) = states.split_at_mut(300);
            let lists = vec![(&blocks[..300], first), (&blocks[300..], rest)];
            let sums = sums_over_blocks(lists, LANES, |block, state, sums: &mut [Lane; 1]| {
                *state += block[0];
                for l in 0..LANES {
                    sums[0][l] += block[l];
                }
            });
            (sums.concat().into_iter().map(f64::to_bits).collect::<Vec<_>>(), states)
        };
        let alone = rayon_core::ThreadPoolBuilder::new().num_threads(1).build().unwrap().install(sum);
        let many = rayon_core::ThreadPoolBuilder::new().num_threads(5).build().unwrap().install(sum);
        assert_eq!(alone, many);
    }
}
