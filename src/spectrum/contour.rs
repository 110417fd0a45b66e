//! Integrals of analytic functions along paths in the upper half-plane that avoid singularities on the real axis.

use std::sync::OnceLock;

use gauss_quad::GaussLegendre;
use nalgebra::Complex;

use crate::lanes::wide;

/// Nodes per panel. With panels no longer than [`PANEL`] allows, the integrand is analytic in a Bernstein ellipse of
/// parameter `2 + sqrt(3)`, and 14 nodes leave a relative error of about `(2 + sqrt(3))^{-28} = 1e-16` times a constant.
const NODES: usize = 14;
/// Largest ratio of the half-length of a panel to the distance of its centre from the nearest singularity.
const PANEL: f64 = 0.5;
/// Largest number of bisections of the path: enough for end points at a relative distance of `2^-50` from a
/// singularity.
const MAX_DEPTH: usize = 50;
/// Largest number of panels. Ordinary paths need about ten. The bound ends a path that rounding errors have
/// put onto a singularity.
const MAX_PANELS: usize = 1000;

/// One complex number per node of a panel. Real and imaginary parts are stored apart, so that every operation
/// is a loop over the nodes that the compiler turns into vector instructions.
#[derive(Clone, Copy)]
pub(super) struct Lanes {
    re: [f64; NODES],
    im: [f64; NODES],
}

impl Lanes {
    pub(super) const ZERO: Self = Self { re: [0.0; NODES], im: [0.0; NODES] };

    #[inline(always)]
    fn new(f: impl Fn(usize) -> (f64, f64)) -> Self {
        let mut lanes = Self { re: [0.0; NODES], im: [0.0; NODES] };
        for k in 0..NODES {
            (lanes.re[k], lanes.im[k]) = f(k);
        }
        lanes
    }

    /// `1/w`. It needs none of the scaling of a library's division, because no value here is near the limits
    /// of the range of double precision.
    #[inline(always)]
    pub(super) fn reciprocal(&self) -> Self {
        Self::new(|k| {
            let scale = 1.0 / (self.re[k] * self.re[k] + self.im[k] * self.im[k]);
            (self.re[k] * scale, -self.im[k] * scale)
        })
    }

    #[inline(always)]
    pub(super) fn times(&self, other: &Self) -> Self {
        Self::new(|k| {
            (
                self.re[k] * other.re[k] - self.im[k] * other.im[k],
                self.re[k] * other.im[k] + self.im[k] * other.re[k],
            )
        })
    }

    #[inline(always)]
    pub(super) fn squared(&self) -> Self {
        self.times(self)
    }

    #[inline(always)]
    pub(super) fn plus(&self, factor: f64, other: &Self) -> Self {
        Self::new(|k| (self.re[k] + factor * other.re[k], self.im[k] + factor * other.im[k]))
    }

    #[inline(always)]
    pub(super) fn scaled(&self, factor: f64) -> Self {
        Self { re: self.re.map(|re| factor * re), im: self.im.map(|im| factor * im) }
    }

    #[inline(always)]
    pub(super) fn minus(&self, real: f64) -> Self {
        Self { re: self.re.map(|re| re - real), im: self.im }
    }
}

/// Sums over many real poles, evaluated at the nodes of a panel.
#[derive(Clone, Copy)]
pub(super) struct PoleSums {
    /// `sum_i p_i/(w - a_i)`.
    pub(super) first: Lanes,
    /// `sum_i p_i/(w - a_i)^2`.
    pub(super) second: Lanes,
    /// `sum_i p_i s_i/(w - a_i)^2`.
    pub(super) marked: Lanes,
}

impl PoleSums {
    /// The sums for poles given as `(a_i, p_i, s_i)`.
    pub(super) fn new(w: &Lanes, poles: impl Iterator<Item = (f64, f64, f64)>) -> Self {
        let mut sums = Self { first: Lanes::ZERO, second: Lanes::ZERO, marked: Lanes::ZERO };
        wide(
            #[inline(always)]
            || {
                for (a, p, s) in poles {
                    let y = w.minus(a).reciprocal();
                    let square = y.squared();
                    sums.first = sums.first.plus(p, &y);
                    sums.second = sums.second.plus(p, &square);
                    sums.marked = sums.marked.plus(p * s, &square);
                }
            },
        );
        sums
    }
}

/// Nodes and weights on `[-1, 1]`.
struct LegendreRule {
    nodes: [f64; NODES],
    weights: [f64; NODES],
}

fn legendre() -> &'static LegendreRule {
    static RULE: OnceLock<LegendreRule> = OnceLock::new();
    RULE.get_or_init(|| {
        let mut table = LegendreRule { nodes: [0.0; NODES], weights: [0.0; NODES] };
        if let Some(order) = std::num::NonZeroUsize::new(NODES) {
            for (k, (node, weight)) in GaussLegendre::new(order).as_node_weight_pairs().iter().enumerate() {
                (table.nodes[k], table.weights[k]) = (*node, *weight);
            }
        }
        table
    })
}

/// `Im int f(w) dw` for the `N` components of `f`, along a path from `start` to `end` over a point above
/// their midpoint. Both end points are in the closed upper half-plane, and the path stays above the real
/// axis. The function `f` must be analytic apart from singularities on the real axis, the nearest of which is
/// at a distance of at least the square root of `clearance`. The result is NaN if the path starts or ends at
/// a singularity.
pub(super) fn imaginary_integrals<const N: usize>(
    start: Complex<f64>,
    end: Complex<f64>,
    clearance: impl Fn(Complex<f64>) -> f64,
    f: impl Fn(&Lanes) -> [Lanes; N],
) -> [f64; N] {
    let LegendreRule { nodes, weights } = legendre();
    let middle = 0.5 * (start + end);
    let height = (0.5 * (end - start).norm()).max(start.im).max(end.im);
    let apex = Complex::new(middle.re, height);
    let mut total = [0.0; N];
    let mut panels = 0;
    for (from, to) in [(start, apex), (apex, end)] {
        // A stack of the right ends that are still to be reached takes the place of a recursion.
        let mut ends = [to; MAX_DEPTH + 1];
        let mut depth = 0;
        let mut left = from;
        loop {
            let right = ends[depth];
            let centre = 0.5 * (left + right);
            let half = 0.5 * (right - left);
            if half.norm_sqr() > PANEL * PANEL * clearance(centre) && depth < MAX_DEPTH {
                depth += 1;
                ends[depth] = centre;
                continue;
            }
            panels += 1;
            if panels > MAX_PANELS {
                return [f64::NAN; N];
            }
            let w = Lanes::new(|k| (centre.re + half.re * nodes[k], centre.im + half.im * nodes[k]));
            for (sum, values) in total.iter_mut().zip(f(&w)) {
                let re: f64 = values.re.iter().zip(weights).map(|(x, weight)| x * weight).sum();
                let im: f64 = values.im.iter().zip(weights).map(|(x, weight)| x * weight).sum();
                *sum += half.re * im + half.im * re;
            }
            left = right;
            if depth == 0 {
                break;
            }
            depth -= 1;
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f64::consts::PI;

    #[test]
    fn half_residues() {
        // The path from -1 to 1 passes above the pole at 0, where int dw/w = -i pi; int dw/(w - 3) has no
        // imaginary part.
        let start = Complex::new(-1.0, 0.0);
        let end = Complex::new(1.0, 0.0);
        let clearance = |w: Complex<f64>| w.norm_sqr().min((w - 3.0).norm_sqr());
        let [a, b] =
            imaginary_integrals(start, end, clearance, |w| [w.reciprocal(), w.minus(3.0).reciprocal()]);
        approx::assert_relative_eq!(a, -PI, max_relative = 1e-14);
        approx::assert_abs_diff_eq!(b, 0.0, epsilon = 1e-14);
    }

    #[test]
    fn high_order_poles_at_small_distance() {
        // The antiderivative of w^-5 is -w^-4/4.
        let start = Complex::new(1e-4, 1e-4);
        let end = Complex::new(2.0, 0.0);
        let [value] = imaginary_integrals(
            start,
            end,
            |w| w.norm_sqr(),
            |w| {
                let inverse = w.reciprocal();
                [inverse.squared().squared().times(&inverse)]
            },
        );
        let exact = (0.25 * start.powi(-4) - 0.25 * end.powi(-4)).im;
        // The antiderivative at the start point dominates, and the absolute error is relative to it.
        approx::assert_abs_diff_eq!(value, exact, epsilon = 1e-13 * start.norm().powi(-4));
    }
}
