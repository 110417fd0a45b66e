//! Linear attention: all `K` coordinates of `chi chi^T + n` are seen.
//!
//! Rotations of the tokens leave the problem unchanged. Therefore `chi` may lie along the first axis, and the
//! free part of `omega` may be drawn in the eigenbasis of `Y = chi chi^T + n`. Neither depends on the
//! overlap, so that one eigenbasis serves the whole curve.

use super::contour::Quartic;
use super::kernel::{Column, Kernel, Responses};
use crate::channel::{dimension, eigenbasis, symmetric_from_coordinates};
use crate::lanes::{self, LANES, Lane, sum_once};
use crate::quadrature::ChiQuantile;

/// A block of samples.
struct PosteriorBlock<const T: usize> {
    /// Largest eigenvalue of `Y`, and its distances from all eigenvalues.
    top: Lane,
    gaps: [Lane; T],
    /// Components of `chi`, and of the free part of `omega`, in the eigenbasis of `Y`.
    chi: [Lane; T],
    free: [Lane; T],
}

/// The samples of one scramble.
pub(super) struct LinearKernel<const T: usize> {
    noise: f64,
    blocks: Vec<PosteriorBlock<T>>,
}

impl<const T: usize> LinearKernel<T> {
    /// Number of standard normals that a sample takes.
    pub(super) const DIMENSIONS: usize = 1 + T + dimension(T);

    pub(super) fn new(noise: f64, radius: &ChiQuantile, columns: &[Column]) -> Self {
        let deviation = (2.0 * noise).sqrt();
        let nodes = columns.first().map_or(0, Vec::len);
        let sample = |node: usize| {
            let length = radius.at(columns[0][node]);
            let mut y = symmetric_from_coordinates::<T>(|k| deviation * columns[1 + T + k][node]);
            y[0][0] += length * length;
            let mut along = [0.0; T];
            along[0] = length;
            eigenbasis(y, along)
        };
        let block = |first: usize| {
            let samples: [([f64; T], [f64; T]); LANES] = std::array::from_fn(|l| sample(first + l));
            PosteriorBlock {
                top: std::array::from_fn(|l| samples[l].0[0]),
                gaps: std::array::from_fn(|j| std::array::from_fn(|l| samples[l].0[0] - samples[l].0[j])),
                chi: std::array::from_fn(|j| std::array::from_fn(|l| samples[l].1[j])),
                free: std::array::from_fn(|j| lanes::load(&columns[1 + j], first)),
            }
        };
        Self { noise, blocks: (0..nodes).step_by(LANES).map(block).collect() }
    }
}

impl<const T: usize> Kernel for LinearKernel<T> {
    fn responses(&self, overlap: f64) -> Responses {
        let d = self.noise;
        let v = 1.0 - overlap;
        let spread = (overlap * v).sqrt();
        let sums = sum_once(self.blocks.len(), LANES, |block, sums: &mut [Lane; 2]| {
            let block = &self.blocks[block];
            let (mut lowest, mut gaps, mut omega, mut fields2) =
                ([0.0; LANES], [[0.0; LANES]; T], [[0.0; LANES]; T], [[0.0; LANES]; T]);
            for l in 0..LANES {
                lowest[l] = d / v - block.top[l];
                for j in 0..T {
                    gaps[j][l] = block.gaps[j][l] / d;
                    omega[j][l] = overlap * block.chi[j][l] + spread * block.free[j][l];
                    fields2[j][l] = (omega[j][l] / v) * (omega[j][l] / v);
                }
            }
            let averages = Quartic { d, lowest: &lowest, gaps: &gaps, fields2: &fields2 }.averages();
            for j in 0..T {
                for l in 0..LANES {
                    let (first, field2) = (averages.first[j][l], fields2[j][l]);
                    let moved = (first / v - 1.0) * omega[j][l];
                    let variance = first + field2 * (averages.second[j][l] - first * first);
                    sums[0][l] += moved * moved;
                    sums[1][l] += variance;
                }
            }
        });
        Responses::new(T, v, sums, self.blocks.len() * LANES)
    }
}
