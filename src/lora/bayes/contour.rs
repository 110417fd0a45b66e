//! Moments of a Gaussian times `exp(-|chi|^4/(4d))`, by one contour integral.
//!
//! The posterior of `chi` is `exp(-|chi|^4/(4d) - chi^T A chi/2 + b.chi)`. A Gaussian integral over an
//! auxiliary variable makes the quartic term quadratic. In the eigenbasis of `A` the remaining integral is
//!
//! ```text
//! Z ~ int ds exp(d s^2/4) prod_j (a_j + s)^(-1/2) exp(b_j^2/(2 (a_j + s)))
//! ```
//!
//! along a line to the right of `-min a`. With averages over that integrand, `E chi_j = b_j <1/(a_j+s)>` and
//! `E chi_j^2 = <1/(a_j+s) + b_j^2/(a_j+s)^2>`. The path of integration is bent into a hyperbola through the
//! saddle on the real axis. The trapezoidal rule converges exponentially on that path.

use std::sync::LazyLock;

use crate::lanes::{self, LANES, Lane, wide};

/// Step of the trapezoidal rule. The rule then has errors of some 1e-7.
const STEP: f64 = 0.16;
/// Largest number of nodes. The integrals need some 15 to 25.
const MAX_NODES: usize = 120;
/// Relative size of the terms at which the sum is cut off.
const TAIL: f64 = 1e-9;
/// `sin(pi/6)` and `cos(pi/6)`. The angle `pi/6` is the opening of the hyperbola.
const SINE: f64 = 0.5;
const COSINE: f64 = 0.866_025_403_784_438_6;

/// Hyperbolic sine and cosine at the nodes, in this order.
static HYPERBOLA: LazyLock<[[f64; 2]; MAX_NODES]> = LazyLock::new(|| {
    std::array::from_fn(|node| {
        let tau = STEP * node as f64;
        [tau.sinh(), tau.cosh()]
    })
});

/// The parameters of the quartic weight: `d`, and for every sample the spectrum of `A` and the squares of the
/// field `b` in its eigenbasis.
pub(super) struct Quartic<'a, const N: usize> {
    pub(super) d: f64,
    /// `d` times the smallest `a_j`.
    pub(super) lowest: &'a Lane,
    /// `a_j` minus the smallest one.
    pub(super) gaps: &'a [Lane; N],
    pub(super) fields2: &'a [Lane; N],
}

/// Averages over the contour, weighted by the integrand.
pub(super) struct ContourAverages<const N: usize> {
    /// `<1/(a_j + s)>`.
    pub(super) first: [Lane; N],
    /// `<1/(a_j + s)^2>`.
    pub(super) second: [Lane; N],
    /// `ln Z` up to a constant. `Z` is `factor` times the exponential of `exponent`.
    pub(super) exponent: Lane,
    pub(super) factor: Lane,
}

impl<const N: usize> Quartic<'_, N> {
    /// A point close to the saddle, as its distance from `-min a`.
    ///
    /// The saddle is the root of `d s - sum_j [1/(a_j+s) + b_j^2/(a_j+s)^2]`, which is increasing and
    /// concave. Newton's method is therefore monotone from the left of the root. The integral does not depend
    /// on where exactly the path crosses the axis, so that a rough root is enough.
    #[inline(always)]
    fn saddle(&self) -> Lane {
        let Self { d, lowest, gaps, fields2 } = *self;
        let mut x = [0.0; LANES];
        for l in 0..LANES {
            // The start is the larger of two lower bounds on the root. The first leaves out the fields and
            // the other poles and solves d x^2 - lowest x - 1 = 0. The second keeps the fields alone.
            let root = (lowest[l] * lowest[l] + 4.0 * d).sqrt();
            let free = if lowest[l] > 0.0 { 0.5 * (lowest[l] + root) / d } else { 2.0 / (root - lowest[l]) };
            let mut field2 = 0.0;
            for j in 0..N {
                field2 = if gaps[j][l] <= 0.0 && fields2[j][l] > field2 { fields2[j][l] } else { field2 };
            }
            let bent = {
                let cube = (0.5 * field2 / d).cbrt();
                let square = if lowest[l] < 0.0 { (-0.5 * field2 / lowest[l]).sqrt() } else { cube };
                if square < cube { square } else { cube }
            };
            x[l] = if bent > free { bent } else { free };
        }
        for _ in 0..30 {
            let mut largest: f64 = 0.0;
            for l in 0..LANES {
                let (mut value, mut slope) = (d * x[l] - lowest[l], d);
                for j in 0..N {
                    let y = 1.0 / (gaps[j][l] + x[l]);
                    let field = fields2[j][l] * y;
                    value -= y + field * y;
                    slope += (y + 2.0 * field * y) * y;
                }
                let step = value / slope;
                let next = x[l] - step;
                x[l] = if next > 0.0 { next } else { x[l] };
                largest = largest.max(step.abs() / x[l]);
            }
            if largest < 1e-3 {
                break;
            }
        }
        x
    }

    /// The averages.
    pub(super) fn averages(&self) -> ContourAverages<N> {
        // The instruction set is chosen here and not in the loops over samples, so that one copy of the code
        // per size is enough.
        wide(
            #[inline(always)]
            || self.integrate(),
        )
    }

    #[inline(always)]
    fn integrate(&self) -> ContourAverages<N> {
        let Self { d, lowest, gaps, fields2 } = *self;
        let base = self.saddle();
        let (mut size, mut force, mut exponent, mut inverse_root) =
            ([0.0; LANES], [0.0; LANES], [0.0; LANES], [1.0; LANES]);
        for l in 0..LANES {
            force[l] = d * base[l] - lowest[l];
            exponent[l] = force[l] * force[l] / (4.0 * d);
            let mut curvature = 0.5 * d;
            for j in 0..N {
                let inverse = gaps[j][l] + base[l];
                let y = 1.0 / inverse;
                curvature += (0.5 + fields2[j][l] * y) * y * y;
                exponent[l] += 0.5 * fields2[j][l] * y;
                inverse_root[l] *= inverse.sqrt();
            }
            let width = 1.5 / curvature.sqrt();
            size[l] = if width < base[l] { width } else { base[l] };
        }
        let mut total = [0.0; LANES];
        let (mut first, mut second) = ([[0.0; LANES]; N], [[0.0; LANES]; N]);
        for (node, &[sinh, cosh]) in HYPERBOLA.iter().enumerate() {
            let end_point = if node == 0 { 0.5 } else { 1.0 };
            let (mut log, mut phase) = ([0.0; LANES], [0.0; LANES]);
            let (mut root_re, mut root_im) = (inverse_root, [0.0; LANES]);
            let (mut inverse_re, mut inverse_im) = ([[0.0; LANES]; N], [[0.0; LANES]; N]);
            for l in 0..LANES {
                let (re, im) = (size[l] * SINE * (1.0 - cosh), size[l] * COSINE * sinh);
                log[l] = 0.25 * d * (re * re - im * im) + 0.5 * force[l] * re;
                phase[l] = 0.5 * d * re * im + 0.5 * force[l] * im;
                for j in 0..N {
                    let at = gaps[j][l] + base[l];
                    let pole_re = at + re;
                    let scale = 1.0 / (pole_re * pole_re + im * im);
                    let (y_re, y_im) = (pole_re * scale, -im * scale);
                    inverse_re[j][l] = y_re;
                    inverse_im[j][l] = y_im;
                    log[l] += 0.5 * fields2[j][l] * (y_re - 1.0 / at);
                    phase[l] += 0.5 * fields2[j][l] * y_im;
                    // This is the principal root of 1/(a + s), whose imaginary part is not positive.
                    let modulus = scale.sqrt();
                    let large = (0.5 * (modulus + y_re.abs())).sqrt();
                    let small = -0.5 * y_im / large;
                    let (r, i) = if y_re >= 0.0 { (large, -small) } else { (small, -large) };
                    let product = (root_re[l] * r - root_im[l] * i, root_re[l] * i + root_im[l] * r);
                    (root_re[l], root_im[l]) = product;
                }
            }
            let modulus = lanes::exp(&log);
            let [sine, cosine] = lanes::sin_cos(&phase);
            let mut negligible = true;
            for l in 0..LANES {
                let factor = end_point * size[l] * modulus[l];
                let (along, across) = (factor * COSINE * cosh, factor * SINE * sinh);
                let turned_re = root_re[l] * cosine[l] - root_im[l] * sine[l];
                let turned_im = root_re[l] * sine[l] + root_im[l] * cosine[l];
                let w_re = turned_re * along - turned_im * across;
                let w_im = turned_re * across + turned_im * along;
                total[l] += w_re;
                for j in 0..N {
                    let (y_re, y_im) = (inverse_re[j][l], inverse_im[j][l]);
                    first[j][l] += w_re * y_re - w_im * y_im;
                    second[j][l] += w_re * (y_re * y_re - y_im * y_im) - 2.0 * w_im * y_re * y_im;
                }
                negligible &= w_re.abs() + w_im.abs() <= TAIL * total[l].abs();
            }
            if negligible {
                break;
            }
        }
        let mut factor = [0.0; LANES];
        for l in 0..LANES {
            let inverse = 1.0 / total[l];
            for j in 0..N {
                first[j][l] *= inverse;
                second[j][l] *= inverse;
            }
            factor[l] = total[l] / inverse_root[l];
        }
        ContourAverages { first, second, exponent, factor }
    }
}
