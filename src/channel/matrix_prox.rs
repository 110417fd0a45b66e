//! The proximal operator of the softmax loss on `Sym(T)`, for a block of samples.
//!
//! For logits `omega` and label probabilities `y`, the proximal point is the global minimum
//!
//! ```text
//! h_p = argmin_h |sigma(h) - y|_F^2 + |h - omega|_F^2 / (4V),
//! g   = (h_p - omega) / (2V) = -grad l(h_p)
//! ```
//!
//! Everything is done in the `K` orthonormal coordinates of `Sym(T)`, in which row `a` of the logits involves
//! only `T` coordinates. The loss is flat along `u = 11^T/T`, so that no step leaves the plane of `omega`
//! orthogonal to `u`.

use std::f64::consts::FRAC_1_SQRT_2;

use super::prox_search::ProxSearch;
use super::softmax::{SoftmaxRow, softmax_row};
use crate::descent::{Descent, LaneMatrix, LaneVector, Local, cholesky, descend, inverse};
use crate::lanes::{LANES, Lane, widest};

/// One proximal problem per sample.
pub(crate) struct MatrixProx<'a, const T: usize, const K: usize> {
    /// The coordinates of `omega`, orthogonal to `u`.
    pub(crate) omega: LaneVector<K>,
    /// `sigma` of the label's logits.
    pub(crate) y: &'a LaneMatrix<T>,
    /// `V > 0`.
    pub(crate) v: f64,
    /// Relative size of a Newton step after which a descent ends. The error is of the order of its square.
    close: f64,
}

/// A proximal point.
pub(crate) struct LowestPoint<const K: usize> {
    pub(crate) h: LaneVector<K>,
    /// The objective at the proximal point. Its one extra value is the loss.
    pub(crate) local: Local<K, 1>,
    /// 1 for samples whose starts led to different minima, else 0.
    pub(crate) contested: Lane,
}

/// The coordinate of matrix element `(a, b)`, in the order of
/// [`symmetric_matrices`](super::geometry::symmetric_matrices).
#[inline(always)]
const fn coordinate(tokens: usize, a: usize, b: usize) -> usize {
    let (low, high) = if a < b { (a, b) } else { (b, a) };
    if low == high { low } else { tokens + low * tokens - low * (low + 1) / 2 + high - low - 1 }
}

/// The ratio of a matrix element to its coordinate.
#[inline(always)]
const fn weight(a: usize, b: usize) -> f64 {
    if a == b { 1.0 } else { FRAC_1_SQRT_2 }
}

/// Symmetric matrices with the given coordinates.
#[inline(always)]
pub(crate) fn matrices<const T: usize, const K: usize>(h: &LaneVector<K>) -> LaneMatrix<T> {
    let mut matrix = [[[0.0; LANES]; T]; T];
    for a in 0..T {
        for b in 0..T {
            for l in 0..LANES {
                matrix[a][b][l] = weight(a, b) * h[coordinate(T, a, b)][l];
            }
        }
    }
    matrix
}

/// The coordinates of symmetric matrices.
#[inline(always)]
pub(crate) fn coordinates<const T: usize, const K: usize>(matrix: &LaneMatrix<T>) -> LaneVector<K> {
    let mut h = [[0.0; LANES]; K];
    for a in 0..T {
        for b in a..T {
            for l in 0..LANES {
                h[coordinate(T, a, b)][l] = matrix[a][b][l] / weight(a, b);
            }
        }
    }
    h
}

/// `sigma` of symmetric matrices with the given coordinates.
#[inline(always)]
pub(crate) fn probabilities<const T: usize, const K: usize>(h: &LaneVector<K>) -> LaneMatrix<T> {
    let logits = matrices::<T, K>(h);
    let mut y = logits;
    for a in 0..T {
        y[a] = softmax_row(&logits[a]);
    }
    y
}

impl<const T: usize, const K: usize> Descent<K, 1> for MatrixProx<'_, T, K> {
    fn stiffness(&self) -> f64 {
        0.5 / self.v
    }

    fn close(&self) -> f64 {
        self.close
    }

    #[inline(always)]
    fn local(&self, h: &LaneVector<K>) -> Local<K, 1> {
        let stiffness = self.stiffness();
        let logits = matrices::<T, K>(h);
        let mut loss = [0.0; LANES];
        let mut value = [0.0; LANES];
        let mut gradient = [[0.0; LANES]; K];
        let mut hessian = [[[0.0; LANES]; K]; K];
        for k in 0..K {
            for l in 0..LANES {
                let d = h[k][l] - self.omega[k][l];
                value[l] += 0.5 * stiffness * d * d;
                gradient[k][l] = stiffness * d;
                hessian[k][k][l] = stiffness;
            }
        }
        for a in 0..T {
            let row = SoftmaxRow::new(&logits[a], &self.y[a]);
            for l in 0..LANES {
                loss[l] += row.loss[l];
            }
            // The Hessian of the row is a diagonal plus p r^T + r p^T, and is added to the lower triangle. A row takes its
            // logits from coordinates with weights.
            let (mut scaled, mut rest) = ([[0.0; LANES]; T], [[0.0; LANES]; T]);
            for b in 0..T {
                let (i, w) = (coordinate(T, a, b), weight(a, b));
                for l in 0..LANES {
                    gradient[i][l] += 2.0 * w * row.slope[b][l];
                    hessian[i][i][l] += 2.0 * w * w * row.weight[b][l];
                    scaled[b][l] = w * row.p[b][l];
                    rest[b][l] = w * (row.norm2[l] * row.p[b][l] - 2.0 * row.weight[b][l]);
                }
            }
            for b in 0..T {
                for c in 0..=b {
                    let (i, j) = (coordinate(T, a, b), coordinate(T, a, c));
                    let (high, low) = if i > j { (i, j) } else { (j, i) };
                    for l in 0..LANES {
                        hessian[high][low][l] += scaled[b][l] * rest[c][l] + rest[b][l] * scaled[c][l];
                    }
                }
            }
        }
        for l in 0..LANES {
            value[l] += loss[l];
        }
        Local { value, gradient, hessian, extra: [loss] }
    }
}

/// The descent from another start, beside a known minimum.
struct Challenge<'a, 'b, const T: usize, const K: usize> {
    prox: &'a MatrixProx<'b, T, K>,
    /// The objective at the known minimum; NaN if there is none.
    value: Lane,
}

/// Least rise of the objective on the way from a known minimum to a start, in units of the rise of the quadratic pull over the
/// same distance, for which the start may be left out.
const RISE: f64 = 0.3;

impl<const T: usize, const K: usize> Descent<K, 1> for Challenge<'_, '_, T, K> {
    fn stiffness(&self) -> f64 {
        self.prox.stiffness()
    }

    fn close(&self) -> f64 {
        self.prox.close()
    }

    /// Another minimum between the known one and the start would make the objective rise, fall and rise again. At the
    /// start, a convex objective has risen, and by no more than its slope there times the way. Samples in which that is
    /// so are taken to have no other minimum there. A unit test of the kernel of pre-training counts how rarely that is wrong.
    #[inline(always)]
    fn leads_to(&self, known: &LaneVector<K>, start: &LaneVector<K>, local: &Local<K, 1>) -> Lane {
        let (mut slope, mut apart2) = ([0.0; LANES], [0.0; LANES]);
        for k in 0..K {
            for l in 0..LANES {
                let d = start[k][l] - known[k][l];
                slope[l] += local.gradient[k][l] * d;
                apart2[l] += d * d;
            }
        }
        let mut again = [0.0; LANES];
        for l in 0..LANES {
            let rise = local.value[l] - self.value[l];
            let enough = rise >= RISE * 0.5 * self.stiffness() * apart2[l];
            again[l] = if enough && slope[l] >= rise { 1.0 } else { 0.0 };
        }
        again
    }

    #[inline(always)]
    fn local(&self, h: &LaneVector<K>) -> Local<K, 1> {
        self.prox.local(h)
    }
}

/// The points from which the descents begin, in this order.
struct ProxStarts<'a, const K: usize> {
    first: &'a LaneVector<K>,
    /// The logits of the label. Both this point and the point between it and `omega` are tried.
    label: Option<&'a LaneVector<K>>,
    /// A proximal point of an earlier evaluation.
    warm: Option<&'a LaneVector<K>>,
    /// Whether starts are left out from which the objective seems to fall straight to the first minimum.
    screened: bool,
}

impl<const K: usize> LowestPoint<K> {
    /// Keeps the lower of this minimum and another one, and notes the samples in which they differ.
    #[inline(always)]
    fn challenge(&mut self, h: &LaneVector<K>, local: &Local<K, 1>) {
        let (mut apart2, mut size2) = ([0.0; LANES], [0.0; LANES]);
        for k in 0..K {
            for l in 0..LANES {
                apart2[l] += (h[k][l] - self.h[k][l]).powi(2);
                size2[l] += self.h[k][l] * self.h[k][l];
            }
        }
        for l in 0..LANES {
            // The bound is wider than the distance from a known minimum at which a descent stops.
            let same = apart2[l] <= 1e-3 * (size2[l] + 1e-2);
            self.contested[l] = if same { self.contested[l] } else { 1.0 };
        }
        self.local.keep_lower(&mut self.h, local, h);
    }
}

impl<'a, const T: usize, const K: usize> MatrixProx<'a, T, K> {
    /// The problem whose solutions have errors of 1e-12 or less, or of 1e-8 if they are `sampled`: if they are averaged over nodes, and
    /// the tolerance is matched to the noise.
    pub(crate) fn new(omega: LaneVector<K>, y: &'a LaneMatrix<T>, v: f64, sampled: bool) -> Self {
        Self { omega, y, v, close: if sampled { 1e-4 } else { 1e-6 } }
    }

    /// The minimum that a search finds, which may begin at the logits `label` of the label and at `warm` (if it is a number), too.
    pub(crate) fn minimum(
        &self,
        search: ProxSearch,
        label: &LaneVector<K>,
        warm: &LaneVector<K>,
    ) -> LowestPoint<K> {
        match search {
            ProxSearch::Followed if warm[0][0].is_nan() => self.from(&self.expected(label)),
            ProxSearch::Followed => self.from(warm),
            ProxSearch::Screened => self.global_screened(label, warm),
            ProxSearch::Thorough => self.global(label, warm),
        }
    }

    /// The minimum downhill from `start`.
    pub(crate) fn from(&self, start: &LaneVector<K>) -> LowestPoint<K> {
        self.lowest(&ProxStarts { first: start, label: None, warm: None, screened: false })
    }

    /// The lowest of the minima downhill from `omega`, from the logits `label` of the label, from the point
    /// between them, and from `warm` (if it is a number). If these minima differ, a descent from zero is
    /// tried as well.
    pub(crate) fn global(&self, label: &LaneVector<K>, warm: &LaneVector<K>) -> LowestPoint<K> {
        self.lowest(&self.all_starts(label, warm))
    }

    /// The same as [`MatrixProx::global`], but without the descents that seem to lead to the minimum downhill from `omega`. It
    /// takes a third of the time, and misses some of the lower minima where there are any.
    pub(crate) fn global_screened(&self, label: &LaneVector<K>, warm: &LaneVector<K>) -> LowestPoint<K> {
        self.lowest(&ProxStarts { screened: true, ..self.all_starts(label, warm) })
    }

    fn all_starts<'b>(&'b self, label: &'b LaneVector<K>, warm: &'b LaneVector<K>) -> ProxStarts<'b, K> {
        let warm = warm[0][0].is_finite().then_some(warm);
        ProxStarts { first: &self.omega, label: Some(label), warm, screened: false }
    }

    /// The lowest of the minima downhill from the starts.
    ///
    /// The instruction set is chosen here, and the descent is compiled nowhere else, because its code is long
    /// and exists once for every number of tokens.
    #[inline(never)]
    fn lowest(&self, starts: &ProxStarts<'_, K>) -> LowestPoint<K> {
        widest(
            #[inline(always)]
            || self.descend_from_all(starts),
        )
    }

    #[inline(always)]
    fn descend_from_all(&self, starts: &ProxStarts<'_, K>) -> LowestPoint<K> {
        const STARTS: usize = 5;
        let zero = [0.0; LANES];
        // Until the first descent has ended, no minimum is known.
        let mut best = LowestPoint { h: [[f64::NAN; LANES]; K], local: Local::ZERO, contested: zero };
        for number in 0..STARTS {
            let mut h = match (number, starts.label, starts.warm) {
                (0, ..) => *starts.first,
                (1, Some(label), _) => *label,
                (2, Some(label), _) => self.towards(label, 0.5),
                (3, _, Some(warm)) => *warm,
                (4, ..) if best.contested.iter().sum::<f64>() > 0.0 => [zero; K],
                _ => continue,
            };
            // Nothing is known before the first descent, and zero is tried where the minima differ.
            let screened = starts.screened && number > 0 && number < STARTS - 1;
            let value = if screened { best.local.value } else { [f64::NAN; LANES] };
            let local = descend(&Challenge { prox: self, value }, &mut h, &best.h);
            if number == 0 {
                (best.h, best.local) = (h, local);
            } else {
                best.challenge(&h, &local);
            }
        }
        best
    }

    /// Where the proximal point is expected if nothing is known of it. For small logits the loss is quadratic, with a curvature from 1
    /// to 2 in units of `1/T^2`, and beyond them it is flatter. Here it is 1.
    #[inline(always)]
    fn expected(&self, label: &LaneVector<K>) -> LaneVector<K> {
        let pull = 2.0 * self.v / (T * T) as f64;
        self.towards(label, pull / (1.0 + pull))
    }

    /// The point at a share of the way from `omega` to `label`.
    #[inline(always)]
    fn towards(&self, label: &LaneVector<K>, share: f64) -> LaneVector<K> {
        let mut between = self.omega;
        for k in 0..K {
            for l in 0..LANES {
                between[k][l] += share * (label[k][l] - between[k][l]);
            }
        }
        between
    }

    /// The pointwise divergences `div_omega g = -tr(A Hess l)/(2V)` and `div_t g = -tr(A X)/(2V)` at a
    /// proximal point, and `|dg/domega|_F^2 = |A/(2V) - 1|_F^2/(2V)^2`, with `A = (Hess l + 1/(2V))^{-1}` and
    /// `X` the derivative of `grad l` in the label's logits `t`.
    ///
    /// The instruction set is chosen here, as in the search.
    #[inline(never)]
    pub(crate) fn derivatives(&self, minimum: &LowestPoint<K>) -> [Lane; 3] {
        widest(
            #[inline(always)]
            || self.derivatives_at(minimum),
        )
    }

    #[inline(always)]
    fn derivatives_at(&self, minimum: &LowestPoint<K>) -> [Lane; 3] {
        let (factor, _) = cholesky(&minimum.local.hessian, &[0.0; LANES]);
        let inverse = inverse(&factor);
        let stiffness = self.stiffness();
        let mut square = [0.0; LANES];
        for j in 0..K {
            for k in 0..=j {
                // An entry of the lower triangle stands for itself and its transpose.
                let (own, times) = if j == k { (1.0, 1.0) } else { (0.0, 2.0) };
                for l in 0..LANES {
                    let entry = (inverse[j][k][l] * stiffness - own) * stiffness;
                    square[l] += times * entry * entry;
                }
            }
        }
        let logits = matrices::<T, K>(&minimum.h);
        let mut sums = [[0.0; LANES]; 2];
        for a in 0..T {
            let row = SoftmaxRow::new(&logits[a], &self.y[a]);
            let y = &self.y[a];
            let mut overlap = [0.0; LANES];
            for d in 0..T {
                for l in 0..LANES {
                    overlap[l] += row.p[d][l] * y[d][l];
                }
            }
            for b in 0..T {
                for c in 0..T {
                    let (i, j) = (coordinate(T, a, b), coordinate(T, a, c));
                    let entry = if i > j { &inverse[i][j] } else { &inverse[j][i] };
                    let w = 2.0 * weight(a, b) * weight(a, c);
                    for l in 0..LANES {
                        let (pb, pc, yb, yc) = (row.p[b][l], row.p[c][l], y[b][l], y[c][l]);
                        let (own, product) = if b == c { (row.weight[b][l], pb * yb) } else { (0.0, 0.0) };
                        let half =
                            own - row.weight[b][l] * pc - pb * row.weight[c][l] + row.norm2[l] * pb * pc;
                        // -(diag p - p p^T)(diag y - y y^T), element (b, c).
                        let cross = -(product - pb * yb * yc - pb * pc * yc + pb * yc * overlap[l]);
                        sums[0][l] -= w * half * entry[l];
                        sums[1][l] -= w * cross * entry[l];
                    }
                }
            }
        }
        let [omega, label] = sums.map(|sum| sum.map(|x| x * stiffness));
        [omega, label, square]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::{centred_from_coordinates, dimension};
    use approx::assert_relative_eq;

    /// Random-looking logits orthogonal to `u`, different in every lane.
    fn logits<const T: usize, const K: usize>(scale: f64, seed: usize) -> LaneVector<K> {
        let mut block = [[[0.0; LANES]; T]; T];
        for l in 0..LANES {
            let at = |k: usize| scale * ((k * 5 + 31 * l + 113 * seed) as f64 * 1.3 + 0.2).sin() * 1.4;
            let matrix = centred_from_coordinates::<T>(at);
            for a in 0..T {
                for b in 0..T {
                    block[a][b][l] = matrix[a][b];
                }
            }
        }
        coordinates::<T, K>(&block)
    }

    fn solved<const T: usize, const K: usize>(
        omega: &LaneVector<K>,
        label: &LaneVector<K>,
        v: f64,
    ) -> LowestPoint<K> {
        let y = probabilities::<T, K>(label);
        MatrixProx::new(*omega, &y, v, false).global(label, &[[f64::NAN; LANES]; K])
    }

    fn stationary<const T: usize, const K: usize>() {
        assert_eq!(K, dimension(T));
        for seed in 0..10 {
            for v in [1e-6, 0.1, 1.0, 20.0, 1e6] {
                let minimum = solved::<T, K>(&logits::<T, K>(2.0, seed), &logits::<T, K>(2.0, seed + 50), v);
                let largest = minimum.local.gradient.iter().flatten().fold(0.0, |m: f64, g| m.max(g.abs()));
                assert!(largest < 1e-11 * (1.0 + 1.0 / v), "T = {T}, V = {v}: {largest:e}");
            }
        }
    }

    #[test]
    fn stationary_at_any_number_of_tokens_and_any_response() {
        stationary::<2, 3>();
        stationary::<3, 6>();
        stationary::<6, 21>();
        stationary::<8, 36>();
    }

    #[test]
    fn global_minimum_against_a_grid() {
        // With two tokens the logits lie in a plane. At large logits and V there are several minima.
        for (scale, v) in [(1.5, 1.0), (3.0, 20.0), (4.0, 100.0)] {
            for seed in 0..6 {
                let (omega, label) = (logits::<2, 3>(scale, seed), logits::<2, 3>(scale, seed + 70));
                let y = probabilities::<2, 3>(&label);
                let prox = MatrixProx::<2, 3>::new(omega, &y, v, false);
                let minimum = prox.global(&label, &[[f64::NAN; LANES]; 3]);
                for i in 0..81 {
                    for j in 0..81 {
                        let c = [f64::from(i) * 0.2 - 8.0, f64::from(j) * 0.2 - 8.0];
                        let matrix = centred_from_coordinates::<2>(|k| c[k]);
                        let grid = coordinates::<2, 3>(&matrix.map(|row| row.map(|x| [x; LANES])));
                        let there = prox.local(&grid);
                        for l in 0..LANES {
                            assert!(minimum.local.value[l] <= there.value[l] + 1e-12, "{scale} {v} {seed}");
                        }
                    }
                }
            }
        }
    }

    fn derivatives_by_finite_differences<const T: usize, const K: usize>() {
        let (omega, label, v) = (logits::<T, K>(1.0, 3), logits::<T, K>(1.0, 90), 0.7);
        let y = probabilities::<T, K>(&label);
        let prox = MatrixProx::<T, K>::new(omega, &y, v, false);
        let exact = prox.derivatives(&prox.from(&omega));
        let g = |omega: &LaneVector<K>, label: &LaneVector<K>, k: usize| {
            let h = solved::<T, K>(omega, label, v).h;
            std::array::from_fn::<f64, LANES, _>(|l| (h[k][l] - omega[k][l]) / (2.0 * v))
        };
        let step = 1e-4;
        let mut sums = [[0.0; LANES]; 3];
        for k in 0..K {
            let moved = |x: &LaneVector<K>, step: f64| {
                let mut x = *x;
                x[k] = x[k].map(|x| x + step);
                x
            };
            let pairs = [
                [step, -step].map(|step| g(&moved(&omega, step), &label, k)),
                [step, -step].map(|step| g(&omega, &moved(&label, step), k)),
            ];
            for (sum, [up, down]) in sums.iter_mut().zip(pairs) {
                for l in 0..LANES {
                    sum[l] += (up[l] - down[l]) / (2.0 * step);
                }
            }
            for i in 0..K {
                let [up, down] = [step, -step].map(|step| g(&moved(&omega, step), &label, i));
                for l in 0..LANES {
                    sums[2][l] += ((up[l] - down[l]) / (2.0 * step)).powi(2);
                }
            }
        }
        for (sum, exact) in sums.iter().flatten().zip(exact.iter().flatten()) {
            assert_relative_eq!(sum, exact, max_relative = 1e-6, epsilon = 1e-8);
        }
    }

    #[test]
    fn derivatives_are_those_of_the_proximal_point() {
        derivatives_by_finite_differences::<2, 3>();
        derivatives_by_finite_differences::<3, 6>();
    }

    #[test]
    fn small_logits_are_linear() {
        // The loss is l = T^{-2} |(h - t) P|_F^2 with P = I - 11^T/T. Its quadratic form is T^{-2} times the
        // identity on logits with zero row sums, and half of that on the rest, so that the prox has a closed
        // form.
        let scale = 1e-4;
        let (omega, label, v) = (logits::<3, 6>(scale, 4), logits::<3, 6>(scale, 40), 2.0);
        let h = matrices::<3, 6>(&solved::<3, 6>(&omega, &label, v).h);
        let (omega, label) = (matrices::<3, 6>(&omega), matrices::<3, 6>(&label));
        for l in 0..LANES {
            let part = |m: &LaneMatrix<3>, a: usize, b: usize| {
                let sum = |a: usize| m[a].iter().map(|lane| lane[l]).sum::<f64>() / 3.0;
                // Only the rest has row sums. The part along u is zero.
                let rest = sum(a) + sum(b);
                (m[a][b][l] - rest, rest)
            };
            for a in 0..3 {
                for b in 0..3 {
                    let (h_pure, h_rest) = part(&h, a, b);
                    let (omega_pure, omega_rest) = part(&omega, a, b);
                    let (t_pure, t_rest) = part(&label, a, b);
                    let mixed = |omega: f64, t: f64, c: f64| (omega + 4.0 * v * c * t) / (1.0 + 4.0 * v * c);
                    let pure = mixed(omega_pure, t_pure, 1.0 / 9.0);
                    let rest = mixed(omega_rest, t_rest, 0.5 / 9.0);
                    assert_relative_eq!(h_pure, pure, epsilon = 10.0 * scale * scale);
                    assert_relative_eq!(h_rest, rest, epsilon = 10.0 * scale * scale);
                }
            }
        }
    }
}
