//! Terms that vanish on average, by Stein's identity for the objective at the proximal points.
//!
//! For a Gaussian vector `x ~ N(0, s^2 I)`, a Lipschitz function `F` and a smooth field `phi`,
//!
//! ```text
//! E[ F (x.phi/s^2 - div phi) - phi.grad F ] = 0.
//! ```
//!
//! `F` is the height of the objective at its global minimum, minus a constant that is close to its mean. It is continuous where
//! the minimum jumps from one basin to another, and since it is a minimum, its gradient is that of the objective at fixed `chi`. The
//! identity therefore holds where proximal points jump, too, and needs no second derivatives. Where a search has missed the global
//! minimum of a sample, `F` has a step that it leaves out.
//!
//! `x` is `chi*`, the free part `f` of `omega`, the recalibrated frozen logits `z`, or the part `w` of the label's logits that is
//! independent of them. `phi` is `x` itself, the other vector or matrix, or a product of degree two. For `chi*` and `f` it may
//! contain any function of the logits, and the label's logits without the perturbation, `t`, are taken in place of `w`, there
//! and as a field.
//!
//! On reused and selected sequences, `z` is no Gaussian vector, and on reused sequences the noise of the label moves
//! `z`, too. The terms of these fields are left out there.
//! (C. Stein, Ann. Statist. 9, 1135 (1981).)

use super::fields::{Logits, LogitsBlock};
use crate::channel::VectorMinimum;
use crate::descent::LaneVector;
use crate::fields::{JointLaw, Sequences};
use crate::lanes::{LANES, Lane};
use crate::losses::vector::moments::{COUNT, VectorOverlaps};

/// Number of controls.
pub(super) const CONTROLS: usize = 22;

/// Number of terms of a sample: those of [`Moments`](crate::losses::vector::moments::Moments), and the controls.
pub(super) const TERMS: usize = COUNT + CONTROLS;

/// What the controls of all samples have in common.
#[derive(Clone, Copy)]
pub(super) struct SteinControls {
    /// A number close to the mean of the objective. It decides how much noise the controls have.
    pub(super) height: f64,
    /// The slope of the label's logits in `z`.
    slope: f64,
    /// The inverse variance of a coordinate of `z`, and of `w`. It is zero where the field has no controls.
    precisions: [f64; 2],
}

impl SteinControls {
    pub(super) fn new(law: &JointLaw, height: f64) -> Self {
        let inverse = |variance: f64| if variance > 0.0 { 1.0 / variance } else { 0.0 };
        let (slope, precisions) = match (law.regression(), law.sequences) {
            (None, _) | (_, Sequences::Reused) => (0.0, [0.0; 2]),
            (Some(law), Sequences::Active(selection)) if selection.fraction() < 1.0 => {
                (law.slope, [0.0, inverse(law.label)])
            }
            (Some(law), _) => (law.slope, [law.frozen, law.label].map(inverse)),
        };
        let possible = precisions.iter().all(|precision| precision.is_finite());
        Self { height, slope, precisions: if possible { precisions } else { [0.0; 2] } }
    }

    /// Adds the controls of one block to `sums`, behind the terms.
    #[inline(always)]
    pub(super) fn add<const T: usize>(
        &self,
        point: &VectorOverlaps,
        block: &LogitsBlock<T>,
        minimum: &VectorMinimum<'_, T>,
        sums: &mut [Lane; TERMS],
    ) {
        let VectorMinimum { prox, chi, local } = *minimum;
        let LogitsBlock { frozen, label, star, free, .. } = block;
        let (coupling, deviation) = (prox.coupling, point.deviation());
        let (mut height, mut unperturbed) = (local.value, *label);
        for l in 0..LANES {
            height[l] -= self.height;
        }
        for a in 0..T {
            for b in 0..T {
                let own = if a == b { coupling } else { 0.0 };
                for l in 0..LANES {
                    unperturbed[a][b][l] -= coupling * star[a][l] * star[b][l] - own;
                }
            }
        }
        let [in_frozen, in_label] = prox.gradients_in_logits(chi);
        let z = Images::new(frozen, star, free);
        let t = Images::new(&unperturbed, star, free);
        let frozen_slope = Images::new(&in_frozen, star, free);
        let label_slope = Images::new(&in_label, star, free);
        // The derivatives of the objective in chi* and in f.
        let (mut in_star, mut in_free) = (label_slope.of_star, [[0.0; LANES]; T]);
        for i in 0..T {
            for l in 0..LANES {
                let g = (chi[i][l] - prox.omega[i][l]) * prox.stiffness;
                in_star[i][l] = 2.0 * coupling * in_star[i][l] - point.m * g;
                in_free[i][l] = -deviation * g;
            }
        }
        let mut entries = Entries { sums, next: COUNT, height };
        let (none, tokens) = ([0.0; LANES], [T as f64; LANES]);
        let star_free = dot(star, free);
        for (of_star, of_free, [star2, cross, free2], trace) in [
            (star, free, &[dot(star, star), star_free, dot(free, free)], &tokens),
            (&z.of_star, &z.of_free, &z.pairs, &trace(frozen)),
            (&t.of_star, &t.of_free, &t.pairs, &trace(&unperturbed)),
        ] {
            entries.put(star2, trace, &dot(of_star, &in_star));
            entries.put(cross, &none, &dot(of_free, &in_star));
            entries.put(cross, &none, &dot(of_star, &in_free));
            entries.put(free2, trace, &dot(of_free, &in_free));
        }
        // Every field phi for z and w has its products with z, with t and with both derivatives, and its divergences in z
        // and in w. Those of t come from t = slope z + w.
        let seen = (T * (T + 1) / 2 - 1) as f64;
        let z_t = product(frozen, &unperturbed);
        let fields = [
            (
                [&product(frozen, frozen), &z_t],
                [&product(frozen, &in_frozen), &product(frozen, &in_label)],
                [seen, 0.0],
            ),
            (
                [&z_t, &product(&unperturbed, &unperturbed)],
                [&product(&unperturbed, &in_frozen), &product(&unperturbed, &in_label)],
                [self.slope * seen, seen],
            ),
            ([&z.pairs[0], &t.pairs[0]], [&frozen_slope.pairs[0], &label_slope.pairs[0]], [0.0; 2]),
            ([&z.pairs[1], &t.pairs[1]], [&frozen_slope.pairs[1], &label_slope.pairs[1]], [0.0; 2]),
            ([&z.pairs[2], &t.pairs[2]], [&frozen_slope.pairs[2], &label_slope.pairs[2]], [0.0; 2]),
        ];
        // A field without a precision has no controls: everything is multiplied by zero.
        let uses_z = if self.precisions[0] > 0.0 { 1.0 } else { 0.0 };
        let uses_w = if self.precisions[1] > 0.0 { 1.0 } else { 0.0 };
        for ([with_z, with_t], [along_frozen, along_label], [div_z, div_w]) in fields {
            let (mut of_z, mut of_w, mut in_z, mut in_w) = (none, none, none, none);
            for l in 0..LANES {
                of_z[l] = self.precisions[0] * with_z[l];
                of_w[l] = self.precisions[1] * (with_t[l] - self.slope * with_z[l]);
                in_z[l] = uses_z * (along_frozen[l] + self.slope * along_label[l]);
                in_w[l] = uses_w * along_label[l];
            }
            entries.put(&of_z, &[uses_z * div_z; LANES], &in_z);
            entries.put(&of_w, &[uses_w * div_w; LANES], &in_w);
        }
    }
}

/// The sums of the controls, in their order.
struct Entries<'a> {
    sums: &'a mut [Lane; TERMS],
    next: usize,
    /// The objective minus its mean.
    height: Lane,
}

impl Entries<'_> {
    /// Adds the control of a field `phi`, from `x.phi/s^2`, `div phi` and the derivative along `phi`.
    #[inline(always)]
    fn put(&mut self, field: &Lane, divergence: &Lane, along: &Lane) {
        for l in 0..LANES {
            self.sums[self.next][l] += self.height[l] * (field[l] - divergence[l]) - along[l];
        }
        self.next += 1;
    }
}

/// The images of `chi*` and of `f` under a symmetric matrix, and their products: `chi*.A chi*`, `chi*.A f`, and `f.A f`.
struct Images<const T: usize> {
    of_star: LaneVector<T>,
    of_free: LaneVector<T>,
    pairs: [Lane; 3],
}

impl<const T: usize> Images<T> {
    #[inline(always)]
    fn new(matrix: &Logits<T>, star: &LaneVector<T>, free: &LaneVector<T>) -> Self {
        let (of_star, of_free) = (times(matrix, star), times(matrix, free));
        let pairs = [dot(star, &of_star), dot(star, &of_free), dot(free, &of_free)];
        Self { of_star, of_free, pairs }
    }
}

#[inline(always)]
fn dot<const T: usize>(a: &LaneVector<T>, b: &LaneVector<T>) -> Lane {
    let mut sum = [0.0; LANES];
    for i in 0..T {
        for l in 0..LANES {
            sum[l] += a[i][l] * b[i][l];
        }
    }
    sum
}

#[inline(always)]
fn times<const T: usize>(matrix: &Logits<T>, vector: &LaneVector<T>) -> LaneVector<T> {
    let mut image = [[0.0; LANES]; T];
    for a in 0..T {
        image[a] = dot(&matrix[a], vector);
    }
    image
}

/// The Frobenius product.
#[inline(always)]
fn product<const T: usize>(a: &Logits<T>, b: &Logits<T>) -> Lane {
    let mut sum = [0.0; LANES];
    for row in 0..T {
        let part = dot(&a[row], &b[row]);
        for l in 0..LANES {
            sum[l] += part[l];
        }
    }
    sum
}

#[inline(always)]
fn trace<const T: usize>(matrix: &Logits<T>) -> Lane {
    let mut sum = [0.0; LANES];
    for a in 0..T {
        for l in 0..LANES {
            sum[l] += matrix[a][a][l];
        }
    }
    sum
}
