//! Samples of the logits from one fundamental domain of the symmetries of softmax.
//!
//! The averages are means of functions that do not change if the tokens are renamed, in the label and in the field together. With two
//! tokens they do not change if the signs of all logits change, either, because the two probabilities of a row are then
//! exchanged. These `T!` symmetries, or four with two tokens, cut the space of `z_1` into as many equal parts. Nodes that fill
//! only one part are as many times denser, and the averages are the same.
//!
//! The symmetric matrices orthogonal to `u = 11^T/T` are sums of three parts: a multiple of the direction `n` with one value on
//! the diagonal and another off it, which no renaming changes; a diagonal with zero sum; and values off the diagonal with
//! zero sum. `T` independent normals give the first two parts of `z_1`, by their mean and by what is left of them. In decreasing
//! order, they represent every renaming: they are then order statistics. With two tokens, their difference and their sum are
//! independent, and both are made positive.

use std::f64::consts::FRAC_1_SQRT_2;

use crate::error::Error;
use crate::lanes::{self, LANES, Lane};
use crate::quadrature::ScrambledSobol;

/// Writes the columns of standard normals for `z_1` and `z_2`, `K - 1` each. The first `tokens` columns are in the fundamental domain.
pub(super) fn write_columns(
    tokens: usize,
    points: &ScrambledSobol,
    columns: &mut [Vec<f64>],
) -> Result<(), Error> {
    let (folded, others) = columns.split_at_mut(tokens);
    if let [first, second] = folded {
        points.write_positive_normals(0, std::slice::from_mut(first))?;
        points.write_positive_normals(1, std::slice::from_mut(second))?;
        for (first, second) in first.iter_mut().zip(second) {
            let [difference, sum] = [*first, *second];
            [*first, *second] = [sum + difference, sum - difference].map(|x| FRAC_1_SQRT_2 * x);
        }
    } else {
        points.write_sorted_normals(0, folded)?;
    }
    points.write_normals(tokens, others)
}

/// Normals with zero sum and otherwise the law of independent ones, from one normal less.
fn zero_sum(z: &[Lane], out: &mut [Lane]) {
    // The first axis is reflected to the direction of ones.
    let count = out.len() as f64;
    let one = count.sqrt().recip();
    let mut along = [0.0; LANES];
    for z in z {
        for l in 0..LANES {
            along[l] += one * z[l];
        }
    }
    for (k, out) in out.iter_mut().enumerate() {
        for l in 0..LANES {
            out[l] = if k == 0 { along[l] } else { z[k - 1][l] - along[l] * one / (1.0 - one) };
        }
    }
}

/// Values with zero sum and the law of `count` independent normals less their mean, and that mean times `sqrt(count)`.
fn centred(z: &[Lane], out: &mut [Lane]) -> Lane {
    let root = (out.len() as f64).sqrt();
    let mut sum = [0.0; LANES];
    for z in z {
        for l in 0..LANES {
            sum[l] += z[l];
        }
    }
    for (out, z) in out.iter_mut().zip(z) {
        for l in 0..LANES {
            out[l] = z[l] - sum[l] / (root * root);
        }
    }
    sum.map(|sum| sum / root)
}

/// The matrices orthogonal to `u` of consecutive nodes, from `K - 1` columns of normals.
pub(super) fn matrices<const T: usize>(columns: &[Vec<f64>], first: usize) -> [[Lane; T]; T] {
    let normals: Vec<Lane> = columns.iter().map(|column| lanes::load(column, first)).collect();
    let (diagonal, pairs) = normals.split_at(T);
    let mut on = [[0.0; LANES]; T];
    let along = centred(diagonal, &mut on);
    let mut off = vec![[0.0; LANES]; T * (T - 1) / 2];
    zero_sum(pairs, &mut off);
    // The direction n has the norm 1, and no component along u.
    let tokens = T as f64;
    let [own, other] = [(tokens - 1.0).sqrt() / tokens, -1.0 / (tokens * (tokens - 1.0).sqrt())];
    let mut matrix = [[[0.0; LANES]; T]; T];
    let mut rest = off.iter();
    for a in 0..T {
        for l in 0..LANES {
            matrix[a][a][l] = on[a][l] + own * along[l];
        }
        for b in a + 1..T {
            let pair = rest.next().copied().unwrap_or_default();
            for l in 0..LANES {
                matrix[a][b][l] = FRAC_1_SQRT_2 * pair[l] + other * along[l];
            }
            matrix[b][a] = matrix[a][b];
        }
    }
    matrix
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::{dimension, softmax};
    use crate::std_error::standard_error;

    fn coordinates_are_orthonormal<const T: usize>() {
        let seen = dimension(T) - 1;
        let matrix = |k: usize| {
            let columns: Vec<Vec<f64>> =
                (0..seen).map(|j| vec![if j == k { 1.0 } else { 0.0 }; LANES]).collect();
            matrices::<T>(&columns, 0)
        };
        for i in 0..seen {
            let a = matrix(i);
            approx::assert_abs_diff_eq!(a.iter().flatten().map(|x| x[0]).sum::<f64>(), 0.0, epsilon = 1e-14);
            for j in 0..seen {
                let b = matrix(j);
                let product: f64 = a.iter().flatten().zip(b.iter().flatten()).map(|(x, y)| x[0] * y[0]).sum();
                approx::assert_relative_eq!(product, if i == j { 1.0 } else { 0.0 }, epsilon = 1e-14);
            }
        }
    }

    #[test]
    fn coordinates_of_the_parts_are_orthonormal_and_orthogonal_to_u() {
        coordinates_are_orthonormal::<2>();
        coordinates_are_orthonormal::<3>();
        coordinates_are_orthonormal::<5>();
        coordinates_are_orthonormal::<8>();
    }

    /// Functions of two matrices that do not change under the symmetries: the loss of softmax, and its products with other
    /// invariants.
    fn invariants<const T: usize>(z: [&[[f64; T]; T]; 2]) -> [f64; 4] {
        let [y, p] = z.map(softmax);
        let sum = |f: &dyn Fn(usize, usize) -> f64| {
            (0..T).flat_map(|a| (0..T).map(move |b| (a, b))).map(|(a, b)| f(a, b)).sum::<f64>()
        };
        let loss = sum(&|a, b| (p[a][b] - y[a][b]).powi(2));
        let overlap = sum(&|a, b| z[0][a][b] * z[1][a][b]);
        let diagonal: f64 = (0..T).map(|a| z[0][a][a] * z[0][a][a]).sum();
        [loss, loss * overlap, diagonal, loss * diagonal]
    }

    fn mean<const T: usize>(scramble: u64, folded: bool) -> [f64; 4] {
        let seen = dimension(T) - 1;
        let points = ScrambledSobol::new(2 * seen, 11, 3, scramble).unwrap();
        let mut all = vec![Vec::new(); 2 * seen];
        let written =
            if folded { write_columns(T, &points, &mut all) } else { points.write_normals(0, &mut all) };
        written.unwrap();
        let mut sums = [0.0; 4];
        for first in (0..points.nodes()).step_by(LANES) {
            let blocks = [&all[..seen], &all[seen..]].map(|columns| matrices::<T>(columns, first));
            for l in 0..LANES {
                let [one, two] = blocks.each_ref().map(|z| z.map(|row| row.map(|x| x[l])));
                assert!(!folded || (1..T).all(|a| one[a - 1][a - 1] >= one[a][a]));
                for (sum, x) in sums.iter_mut().zip(invariants([&one, &two])) {
                    *sum += x / points.nodes() as f64;
                }
            }
        }
        sums
    }

    fn means_agree<const T: usize>() {
        const SCRAMBLES: u64 = 16;
        let [one, two] = [true, false].map(|folded| {
            let all: Vec<[f64; 4]> = (0..SCRAMBLES).map(|scramble| mean::<T>(scramble, folded)).collect();
            std::array::from_fn::<_, 4, _>(|k| {
                let centre = all.iter().map(|x| x[k]).sum::<f64>() / SCRAMBLES as f64;
                (centre, standard_error(all.iter().map(|x| x[k])).unwrap())
            })
        });
        for ((x, dx), (y, dy)) in one.into_iter().zip(two) {
            assert!((x - y).abs() < 4.0 * dx.hypot(dy), "T = {T}: {x} +- {dx}, {y} +- {dy}");
        }
    }

    #[test]
    fn one_domain_stands_for_all() {
        means_agree::<2>();
        means_agree::<3>();
        means_agree::<4>();
    }
}
