//! Softmax attention: the part of `chi chi^T + n` along `11^T` is not seen.
//!
//! With `chi = t e + p`, `e = 1/sqrt(T)` and `p` orthogonal to `e`, the coordinates seen are those of `p p^T`
//! and of `t p`. Rotations of `p` leave the problem unchanged. Therefore `p` may lie along the first axis of
//! its subspace, and the free part of `omega` may be drawn in the eigenbasis of the observed part of `p p^T`.
//! Given `t`, the posterior of `p` is that of linear attention with a field and a curvature that depend on
//! `t`. With two tokens `p` has a single component, and given `p` the posterior of `t` is Gaussian.

use super::contour::Quartic;
use super::kernel::{Column, Kernel, Responses};
use crate::channel::{eigenbasis, symmetric_from_coordinates};
use crate::lanes::{self, LANES, Lane, sum_once, wide};
use crate::quadrature::ChiQuantile;

/// Largest number of blocks of nodes of a trapezoidal rule, in one direction.
const MAX_BLOCKS: i64 = 4096;
/// Distance below the largest exponent at which a block of nodes is negligible: `exp(-20)` is 2e-9.
const NEGLIGIBLE: f64 = 20.0;

/// One sample, with `P = T - 1` components in `p`.
pub(super) struct SeenSample<const P: usize> {
    /// Eigenvalues of the observed part of `p p^T`, in decreasing order.
    pub(super) square: [f64; P],
    /// The observed part of `t p`, in that eigenbasis.
    pub(super) product: [f64; P],
    /// The true `t` and `p`, or values close to them. The integrals begin there.
    pub(super) along: f64,
    pub(super) across: [f64; P],
    /// The free part of `omega`.
    pub(super) free_along: f64,
    pub(super) free_across: [f64; P],
}

/// The samples of one scramble.
pub(super) struct SoftmaxKernel<const P: usize> {
    noise: f64,
    samples: Vec<[SeenSample<P>; LANES]>,
}

/// Number of standard normals that a sample with `across` components in `p` takes.
pub(super) const fn dimensions(across: usize) -> usize {
    3 + 2 * across + across * (across + 1) / 2
}

impl<const P: usize> SoftmaxKernel<P> {
    pub(super) fn new(noise: f64, radius: &ChiQuantile, columns: &[Column]) -> Self {
        let nodes = columns.first().map_or(0, Vec::len);
        let sample = |node: usize| {
            let normal = |k: usize| columns[k][node];
            let (along, length, free_along) = (normal(0), radius.at(normal(1)), normal(2));
            let free_across = std::array::from_fn(|j| normal(3 + j));
            let beside: [f64; P] = std::array::from_fn(|j| noise.sqrt() * normal(3 + P + j));
            let deviation = (2.0 * noise).sqrt();
            let mut square = symmetric_from_coordinates::<P>(|k| deviation * columns[3 + 2 * P + k][node]);
            square[0][0] += length * length;
            let mut p = [0.0; P];
            p[0] = length;
            let (square, across) = eigenbasis(square, p);
            let product = std::array::from_fn(|j| along * across[j] + beside[j]);
            SeenSample { square, product, along, across, free_along, free_across }
        };
        let samples =
            (0..nodes).step_by(LANES).map(|first| std::array::from_fn(|l| sample(first + l))).collect();
        Self { noise, samples }
    }
}

/// Posterior mean of `t` and `p`, and the trace of the posterior covariance.
pub(super) struct PosteriorMoments<const P: usize> {
    pub(super) along: f64,
    pub(super) across: [f64; P],
    variance: f64,
}

/// The parameters of the posterior besides the sample: the noise, and the prior of `chi`.
pub(super) struct Prior<const P: usize> {
    pub(super) noise: f64,
    pub(super) variance: f64,
    pub(super) along: f64,
    pub(super) across: [f64; P],
}

/// A trapezoidal rule in blocks of nodes. Exponents are taken relative to the largest one so far, so that no
/// weight overflows.
struct Trapezoid<const COUNT: usize> {
    reference: f64,
    total: f64,
    sums: [f64; COUNT],
}

impl<const COUNT: usize> Trapezoid<COUNT> {
    /// The averages over the weight that `term` gives. At a block of points, `term` returns the logarithm of
    /// the weight and the averaged quantities.
    ///
    /// The weight has maxima near the true value and near its opposite, since the sign of `chi` is hardly
    /// seen. The rule walks away from both values until the blocks are negligible.
    #[inline(always)]
    fn over(truth: f64, step: f64, mut term: impl FnMut(&Lane) -> (Lane, [Lane; COUNT])) -> [f64; COUNT] {
        let mut rule = Self { reference: f64::NEG_INFINITY, total: 0.0, sums: [0.0; COUNT] };
        let width = LANES as f64 * step;
        // Adds the block with the given number. The result is false if the block was negligible.
        let mut add = |block: i64| {
            let at = std::array::from_fn(|l| truth + width * block as f64 + step * (l as f64 - 3.5));
            let (log, terms) = term(&at);
            rule.add(&log, &terms)
        };
        // The distance of the opposite value in blocks, and the side on which it lies.
        let opposite = (-2.0 * truth / width).round().clamp(-1e9, 1e9) as i64;
        let side = if opposite < 0 { -1 } else { 1 };
        let distance = opposite.abs();
        add(0);
        (1..MAX_BLOCKS).find(|k| !add(-side * k));
        // The walk goes towards the opposite value, and beyond it if there is no gap on the way.
        let reached = (1..MAX_BLOCKS).find(|k| !add(side * k)).unwrap_or(MAX_BLOCKS);
        if reached < distance {
            (distance..distance + MAX_BLOCKS).find(|k| !add(side * k));
            (reached + 1..distance).rev().take(MAX_BLOCKS as usize).find(|k| !add(side * k));
        }
        rule.sums.map(|sum| sum / rule.total)
    }

    /// Adds a block. The result is false if the block was negligible.
    #[inline(always)]
    fn add(&mut self, log: &Lane, terms: &[Lane; COUNT]) -> bool {
        let top = log.iter().fold(f64::NEG_INFINITY, |m, x| if *x > m { *x } else { m });
        if top > self.reference {
            let scale = (self.reference - top).exp();
            self.total *= scale;
            self.sums = self.sums.map(|sum| sum * scale);
            self.reference = top;
        }
        let mut below = [0.0; LANES];
        for l in 0..LANES {
            below[l] = log[l] - self.reference;
        }
        let weight = lanes::exp(&below);
        for l in 0..LANES {
            self.total += weight[l];
        }
        for (sum, term) in self.sums.iter_mut().zip(terms) {
            for l in 0..LANES {
                *sum += weight[l] * term[l];
            }
        }
        top > self.reference - NEGLIGIBLE
    }
}

/// The largest square of a component, given the true square, at which the posterior has any weight.
fn largest_square(truth2: f64, noise: f64) -> f64 {
    truth2 + 2.0 * (2.0 * noise).sqrt()
}

/// The moments for two tokens: the rule runs over the one component `p`. Given `p`, `t` is Gaussian.
pub(super) fn moments_of_two(sample: &SeenSample<1>, prior: &Prior<1>) -> PosteriorMoments<1> {
    wide(
        #[inline(always)]
        || integrate_two(sample, prior),
    )
}

#[inline(always)]
fn integrate_two(sample: &SeenSample<1>, prior: &Prior<1>) -> PosteriorMoments<1> {
    let Prior { noise, variance, along, across: [across] } = *prior;
    let ([square], [product], [truth]) = (sample.square, sample.product, sample.across);
    // The step resolves the peaks and the valley between them. In the valley, the precision of t has zeros at
    // p = +- i sqrt(noise/variance).
    let peaks = 0.7 / (1.0 / variance + 2.0 * largest_square(truth * truth, noise) / noise).sqrt();
    let step = peaks.min(0.3 * (noise / variance).sqrt());
    let [p, p2, t, t2] = Trapezoid::over(
        truth,
        step,
        #[inline(always)]
        |at: &Lane| {
            let (mut log, mut terms) = ([0.0; LANES], [[0.0; LANES]; 4]);
            for l in 0..LANES {
                let p = at[l];
                let precision = 1.0 / variance + p * p / noise;
                let mean = (along / variance + product * p / noise) / precision;
                let (misfit, offset) = (p * p - square, p - across);
                // This is the Gaussian integral over t.
                log[l] = 0.5 * mean * mean * precision
                    - 0.25 * misfit * misfit / noise
                    - 0.5 * offset * offset / variance;
                terms[0][l] = p;
                terms[1][l] = p * p;
                terms[2][l] = mean;
                terms[3][l] = 1.0 / precision + mean * mean;
            }
            for l in 0..LANES {
                let precision = 1.0 / variance + at[l] * at[l] / noise;
                log[l] -= 0.5 * precision.ln();
            }
            (log, terms)
        },
    );
    PosteriorMoments { along: t, across: [p], variance: p2 - p * p + t2 - t * t }
}

/// The moments for more tokens: the rule runs over `t`. Given `t`, the contour integral over `p` takes nearly
/// all of the time.
pub(super) fn moments_of_many<const P: usize>(
    sample: &SeenSample<P>,
    prior: &Prior<P>,
) -> PosteriorMoments<P> {
    let Prior { noise, variance, along, across } = *prior;
    let length2: f64 = sample.across.iter().map(|p| p * p).sum();
    let step = 0.9 / (1.0 / variance + largest_square(length2, noise) / noise).sqrt();
    let gaps: [Lane; P] = std::array::from_fn(|j| [(sample.square[0] - sample.square[j]) / noise; LANES]);
    // The sums are those of t, t^2, |p|^2, and the components of p.
    let sums = Trapezoid::<MOST>::over(
        sample.along,
        step,
        #[inline(always)]
        |at: &Lane| {
            let (mut lowest, mut fields, mut fields2) = ([0.0; LANES], [[0.0; LANES]; P], [[0.0; LANES]; P]);
            for l in 0..LANES {
                lowest[l] = noise / variance - sample.square[0] + at[l] * at[l];
                for j in 0..P {
                    fields[j][l] = across[j] / variance + at[l] * sample.product[j] / noise;
                    fields2[j][l] = fields[j][l] * fields[j][l];
                }
            }
            let averages = Quartic { d: noise, lowest: &lowest, gaps: &gaps, fields2: &fields2 }.averages();
            let (mut log, mut terms) = ([0.0; LANES], [[0.0; LANES]; MOST]);
            for l in 0..LANES {
                let offset = at[l] - along;
                log[l] = averages.exponent[l] + averages.factor[l].ln() - 0.5 * offset * offset / variance;
                terms[0][l] = at[l];
                terms[1][l] = at[l] * at[l];
                for j in 0..P {
                    terms[2][l] += averages.first[j][l] + fields2[j][l] * averages.second[j][l];
                    terms[3 + j][l] = fields[j][l] * averages.first[j][l];
                }
            }
            (log, terms)
        },
    );
    let across: [f64; P] = std::array::from_fn(|j| sums[3 + j]);
    let norm: f64 = across.iter().map(|p| p * p).sum();
    PosteriorMoments { along: sums[0], across, variance: sums[1] - sums[0] * sums[0] + sums[2] - norm }
}

/// Number of averages of [`moments_of_many`] for the largest number of components.
const MOST: usize = 3 + 7;

impl<const P: usize> SoftmaxKernel<P> {
    fn average(
        &self,
        overlap: f64,
        moments: fn(&SeenSample<P>, &Prior<P>) -> PosteriorMoments<P>,
    ) -> Responses {
        let v = 1.0 - overlap;
        let spread = (overlap * v).sqrt();
        let sums = sum_once(self.samples.len(), LANES, |block, sums: &mut [Lane; 2]| {
            for (l, sample) in self.samples[block].iter().enumerate() {
                let prior = Prior {
                    noise: self.noise,
                    variance: v,
                    along: overlap * sample.along + spread * sample.free_along,
                    across: std::array::from_fn(|j| {
                        overlap * sample.across[j] + spread * sample.free_across[j]
                    }),
                };
                let moments = moments(sample, &prior);
                let mut moved = (moments.along - prior.along).powi(2);
                for j in 0..P {
                    moved += (moments.across[j] - prior.across[j]).powi(2);
                }
                sums[0][l] += moved;
                sums[1][l] += moments.variance;
            }
        });
        Responses::new(P + 1, v, sums, self.samples.len() * LANES)
    }
}

/// The kernel for two tokens.
pub(super) struct Two(pub(super) SoftmaxKernel<1>);

impl Kernel for Two {
    fn responses(&self, overlap: f64) -> Responses {
        self.0.average(overlap, moments_of_two)
    }
}

/// The kernel for three tokens or more.
pub(super) struct Many<const P: usize>(pub(super) SoftmaxKernel<P>);

impl<const P: usize> Kernel for Many<P> {
    fn responses(&self, overlap: f64) -> Responses {
        self.0.average(overlap, moments_of_many::<P>)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_prior_knowledge_the_mean_is_zero() {
        // The two signs of chi are equally likely.
        let noise: f64 = 1e-2;
        for p in [0.01, 0.3, 1.0, 2.0] {
            let two = SeenSample::<1> {
                square: [p * p + 0.5 * noise.sqrt()],
                product: [0.5 * p],
                along: 0.5,
                across: [p],
                free_along: 0.0,
                free_across: [0.0],
            };
            let two = moments_of_two(&two, &Prior { noise, variance: 1.0, along: 0.0, across: [0.0] });
            let three = SeenSample::<2> {
                square: [p * p, 0.3 * noise.sqrt()],
                product: [0.5 * p, 0.1],
                along: 0.5,
                across: [p, 0.0],
                free_along: 0.0,
                free_across: [0.0; 2],
            };
            let three =
                moments_of_many(&three, &Prior { noise, variance: 1.0, along: 0.0, across: [0.0; 2] });
            for mean in [two.along, two.across[0], three.along, three.across[0], three.across[1]] {
                assert!(mean.abs() < 1e-7, "p = {p}: {mean:e}");
            }
        }
    }
}
