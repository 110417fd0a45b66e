//! The chi and chi-square laws of an integer number of degrees of freedom.
//!
//! With `a = dof / 2` and `y = r^2 / 2`, the norm `r` of a standard Gaussian vector has
//!
//! ```text
//! P(norm < r) = w (1 + y/(a+1) + y^2/((a+1)(a+2)) + ...),      w = y^a e^(-y) / Gamma(a+1),
//! P(norm > r) = sum of y^j e^(-y) / Gamma(j+1) over j = a-1, a-2, ... >= 0,
//!               plus 2 Phi(-r) for odd dof,
//! density(r)  = dof w / r
//! ```
//!
//! (NIST Digital Library of Mathematical Functions, 8.7.1 and section 8.8). All terms are
//! positive, so neither tail loses relative accuracy, and the logarithm of the lower one never
//! underflows.

use super::normal::{normal_cdf, normal_density};
use crate::error::Error;
use std::f64::consts::{E, LN_2};
use std::sync::OnceLock;

/// Largest number of degrees of freedom of a [`ChiQuantile`].
pub const MAX_CHI_DOF: usize = 64;

/// Largest number of degrees of freedom of the chi-square functions. The number of terms of their series
/// grows with it.
const MAX_SERIES_DOF: usize = 10_000;

/// Half-width of the grid. It is more than the largest normal that a point set can hold, 8.21.
const LIMIT: f64 = 8.3125;

const CELLS_PER_UNIT: f64 = 32.0;

/// Number of cells, `2 LIMIT CELLS_PER_UNIT`.
const CELLS: usize = 532;

/// The coefficients of a polynomial of degree five on each cell, lowest power first.
type QuantileTable = [[f64; 6]; CELLS];

/// The map from a standard normal to the norm of a standard Gaussian vector:
/// `x -> F^(-1)(Phi(x))`, with `F` the distribution function of the chi law.
///
/// It turns one coordinate of a point set into the radius of a rotation-invariant vector. The
/// map is tabulated as a piecewise polynomial of degree five that matches value, slope and
/// curvature at the nodes of a uniform grid. The absolute error is below 1e-11, and the relative
/// error below 1e-6 even where the radius is as small as 1e-16.
#[derive(Debug, Clone, Copy)]
pub struct ChiQuantile {
    table: &'static QuantileTable,
}

impl ChiQuantile {
    /// The map for `dof` degrees of freedom, that is for vectors of that dimension.
    ///
    /// The table of each `dof` is built once per process, in less than a millisecond, and lives
    /// as long as the process (25 kB each).
    ///
    /// # Errors
    ///
    /// [`Error::InvalidParameter`] unless `1 <= dof <=` [`MAX_CHI_DOF`].
    pub fn new(dof: usize) -> Result<Self, Error> {
        static TABLES: [OnceLock<Box<QuantileTable>>; MAX_CHI_DOF] = [const { OnceLock::new() }; MAX_CHI_DOF];
        let table = dof
            .checked_sub(1)
            .and_then(|slot| TABLES.get(slot))
            .ok_or_else(|| Error::invalid("dof", dof, format!("between 1 and {MAX_CHI_DOF}")))?;
        Ok(Self { table: table.get_or_init(|| Box::new(tabulate(&ChiLaw::new(dof)))) })
    }

    /// The radius at the standard normal `x`.
    ///
    /// Arguments beyond ±8.3125 count as ±8.3125, a value that a standard normal exceeds in
    /// modulus with probability 1e-16. `NaN` gives `NaN`.
    #[inline]
    #[must_use]
    pub fn at(&self, x: f64) -> f64 {
        let position = (x.clamp(-LIMIT, LIMIT) + LIMIT) * CELLS_PER_UNIT;
        let cell = (position as usize).min(CELLS - 1);
        let t = position - cell as f64;
        let [c0, c1, c2, c3, c4, c5] = self.table[cell];
        c0 + t * (c1 + t * (c2 + t * (c3 + t * (c4 + t * c5))))
    }
}

fn tabulate(law: &ChiLaw) -> QuantileTable {
    let mut table = [[0.0; 6]; CELLS];
    let mut left = Jet::at_node(law, 0);
    for (cell, coefficients) in table.iter_mut().enumerate() {
        let right = Jet::at_node(law, cell + 1);
        *coefficients = hermite(&left, &right);
        left = right;
    }
    table
}

/// Value, slope and half the curvature at a node, in units of the cell.
struct Jet {
    value: f64,
    slope: f64,
    half_curvature: f64,
}

impl Jet {
    /// From `r' = phi(x) / f(r)` and its derivative
    /// `r'' = -r' (x + r' f'(r) / f(r))`, where `f' / f = (dof - 1) / r - r`.
    fn at_node(law: &ChiLaw, node: usize) -> Self {
        const STEP: f64 = 1.0 / CELLS_PER_UNIT;
        let x = node as f64 * STEP - LIMIT;
        let tail = normal_cdf(-x.abs());
        let r =
            if x < 0.0 { law.radius_of_lower_tail(tail.ln()) } else { law.radius_of_upper_tail(tail.ln()) };
        let slope = normal_density(x) / law.density(r);
        let curvature = -slope * (x + slope * ((law.dof - 1.0) / r - r));
        Self { value: r, slope: slope * STEP, half_curvature: 0.5 * curvature * STEP * STEP }
    }
}

/// The quintic on `[0, 1]` with the given jets at its ends, lowest power first.
fn hermite(left: &Jet, right: &Jet) -> [f64; 6] {
    let value = right.value - left.value - left.slope - left.half_curvature;
    let slope = right.slope - left.slope - 2.0 * left.half_curvature;
    let half_curvature = right.half_curvature - left.half_curvature;
    [
        left.value,
        left.slope,
        left.half_curvature,
        10.0 * value - 4.0 * slope + half_curvature,
        -15.0 * value + 7.0 * slope - 2.0 * half_curvature,
        6.0 * value - 3.0 * slope + half_curvature,
    ]
}

/// Distribution function of the chi-square law with `dof` degrees of freedom, at `x`.
///
/// The relative error is below 1e-12 for `dof` up to 64. The function is 0 for negative `x`; with zero
/// degrees of freedom the law is the unit mass at the origin. It is `NaN` for a `NaN`, and for more than
/// 10,000 degrees of freedom, for which the series is not meant.
#[must_use]
pub fn chi_square_cdf(dof: usize, x: f64) -> f64 {
    if dof > MAX_SERIES_DOF {
        return f64::NAN;
    }
    if x < 0.0 || (x <= 0.0 && dof > 0) {
        return 0.0;
    }
    if dof == 0 || x.is_nan() || x.is_infinite() {
        return if x.is_nan() { x } else { 1.0 };
    }
    let law = ChiLaw::new(dof);
    let y = 0.5 * x;
    // Beyond the mean the complement is the smaller part, and the series of the lower tail becomes long.
    if y < law.half + 1.0 { law.lower_tail(y) } else { 1.0 - law.upper_tail(y) }
}

/// Quantile of the chi-square law with `dof` degrees of freedom, at the probability `p`.
///
/// The relative error is below 1e-12 for `dof` up to 64 and `1e-300 < p < 1 - 1e-16`. The quantile is 0 at
/// `p = 0` and where it underflows, and `+inf` at `p = 1`. It is `NaN` outside `[0, 1]`, for a `NaN`, and for
/// more than 10,000 degrees of freedom. With zero degrees of freedom the law is the unit mass at the origin.
#[must_use]
pub fn chi_square_quantile(dof: usize, p: f64) -> f64 {
    if !(0.0..=1.0).contains(&p) || dof > MAX_SERIES_DOF {
        return f64::NAN;
    }
    if dof == 0 || p <= 0.0 {
        return 0.0;
    }
    if p >= 1.0 {
        return f64::INFINITY;
    }
    let law = ChiLaw::new(dof);
    let radius = if p <= 0.5 {
        law.radius_of_lower_tail(p.ln())
    } else {
        // The difference 1 - p is exact for p > 1/2.
        law.radius_of_upper_tail((1.0 - p).ln())
    };
    radius * radius
}

/// The chi law, with the quantities that do not depend on the radius.
struct ChiLaw {
    dof: f64,
    /// Half the degrees of freedom.
    half: f64,
    /// `ln Gamma(half + 1)`.
    ln_factorial: f64,
    /// Number of terms of the finite sum of the upper tail.
    terms: usize,
    /// Whether the finite sum has a remainder, the two tails of a single Gaussian.
    odd: bool,
}

impl ChiLaw {
    fn new(dof: usize) -> Self {
        let half = 0.5 * dof as f64;
        Self { dof: dof as f64, half, ln_factorial: ln_gamma(half + 1.0), terms: dof / 2, odd: dof % 2 == 1 }
    }

    /// `ln w`, from the logarithm of the radius, because `y` underflows long before `w` is negligible.
    fn ln_weight(&self, ln_radius: f64, y: f64) -> f64 {
        self.half * (2.0 * ln_radius - LN_2) - y - self.ln_factorial
    }

    /// The series of the lower tail, in units of `w`. It converges for all `y`, and fast while `y` is not far
    /// above `half + 1`.
    fn lower_series(&self, y: f64) -> f64 {
        let (mut sum, mut term, mut divisor) = (1.0, 1.0, self.half);
        // After the largest term, the terms fall at least geometrically.
        while term > f64::EPSILON / 8.0 * sum {
            divisor += 1.0;
            term *= y / divisor;
            sum += term;
        }
        sum
    }

    fn lower_tail(&self, y: f64) -> f64 {
        let ln_radius = 0.5 * (y.ln() + LN_2);
        self.ln_weight(ln_radius, y).exp() * self.lower_series(y)
    }

    /// The finite sum of the upper tail, beginning with its last term `a w / y`.
    fn upper_tail(&self, y: f64) -> f64 {
        let radius = (2.0 * y).sqrt();
        let mut sum = if self.odd { 2.0 * normal_cdf(-radius) } else { 0.0 };
        let mut power = self.half;
        let mut term = self.weight(radius);
        for _ in 0..self.terms {
            term *= power / y;
            power -= 1.0;
            sum += term;
        }
        sum
    }

    fn density(&self, r: f64) -> f64 {
        self.dof * self.weight(r) / r
    }

    fn weight(&self, r: f64) -> f64 {
        self.ln_weight(r.ln(), half_square(r)).exp()
    }

    /// The radius at which `ln P(norm < r)` has the given value, which is at most `ln 1/2`.
    ///
    /// Newton's iteration solves for `ln r`, of which `ln P` is an increasing and concave function. It starts
    /// at the root of the bound `P < y^a / Gamma(a+1)`. The start lies below the solution, where the tangents
    /// of a concave function lead up to its root but never beyond.
    fn radius_of_lower_tail(&self, ln_lower: f64) -> f64 {
        let start = 0.5 * (LN_2 + (ln_lower + self.ln_factorial) / self.half);
        let ln_radius = newton(start, |ln_radius| {
            let y = half_square(ln_radius.exp());
            let series = self.lower_series(y);
            let residual = ln_lower - self.ln_weight(ln_radius, y) - series.ln();
            residual * series / self.dof
        });
        ln_radius.exp()
    }

    /// The radius at which `ln P(norm > r)` has the given value, which is at most `ln 1/2`.
    ///
    /// Newton's iteration solves for `r`, of which `ln P` is a decreasing and concave function because the
    /// density is log-concave. It starts at the root of the concentration bound
    /// `P(norm > sqrt(dof) + s) <= exp(-s^2 / 2)`. The start lies above the solution, and tangents lead down
    /// to it but never beyond.
    fn radius_of_upper_tail(&self, ln_upper: f64) -> f64 {
        let start = self.dof.sqrt() + (-2.0 * ln_upper).sqrt();
        newton(start, |radius| {
            let upper = self.upper_tail(half_square(radius));
            (upper.ln() - ln_upper) * upper / self.density(radius)
        })
    }
}

/// `ln Gamma(x)` for `x >= 1/2`, with a relative error of 1e-14, or an absolute error of 4e-15 where it is
/// small. Lanczos' approximation (G. R. Pugh, An analysis of the Lanczos gamma approximation, thesis,
/// University of British Columbia (2004), page 116: eleven terms, `r = 10.900511`).
fn ln_gamma(x: f64) -> f64 {
    const R: f64 = 10.900_511;
    /// `ln(2 sqrt(e/pi))`.
    const LN_2_SQRT_E_OVER_PI: f64 = 0.620_782_237_635_245_2;
    const CONSTANT: f64 = 2.485_740_891_387_535_5e-5;
    /// The residues at `x = 0, -1, -2, ...`.
    const RESIDUES: [f64; 10] = [
        1.051_423_785_817_219_7,
        -3.456_870_972_220_162_5,
        4.512_277_094_668_948,
        -2.982_852_253_235_766_4,
        1.056_397_115_771_267,
        -1.954_287_731_916_458_7e-1,
        1.709_705_434_044_412e-2,
        -5.719_261_174_043_057e-4,
        4.633_994_733_599_057e-6,
        -2.719_949_084_886_077_2e-9,
    ];
    let mut sum = CONSTANT;
    for (k, residue) in RESIDUES.iter().enumerate() {
        sum += residue / (x + (k + 1) as f64 - 1.0);
    }
    sum.ln() + LN_2_SQRT_E_OVER_PI + (x - 0.5) * ((x - 0.5 + R) / E).ln()
}

fn half_square(r: f64) -> f64 {
    0.5 * r * r
}

/// Adds steps until one is so small that the next, of the order of its square, is below rounding. The
/// monotone iterations above never reach the bound on the number of steps.
fn newton(start: f64, step: impl Fn(f64) -> f64) -> f64 {
    const MAX_STEPS: usize = 200;
    const SMALL: f64 = 1e-9;
    let mut x = start;
    for _ in 0..MAX_STEPS {
        let change = step(x);
        x += change;
        if change.abs() <= SMALL {
            break;
        }
    }
    x
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use approx::assert_relative_eq;
    use statrs::distribution::{ChiSquared, ContinuousCDF};

    /// The reference values of this module were computed with forty digits.
    #[test]
    fn logarithm_of_the_gamma_function() {
        // The references are Gamma(1/2 + n) = (n - 1/2) Gamma(n - 1/2) and factorials. Sums of 200 logarithms
        // are accurate to about 1e-14.
        let (mut half, mut whole) = (0.5 * std::f64::consts::PI.ln(), 0.0);
        for n in 0..200 {
            let n = f64::from(n);
            approx::assert_relative_eq!(ln_gamma(n + 0.5), half, max_relative = 1e-14, epsilon = 4e-15);
            approx::assert_relative_eq!(ln_gamma(n + 1.0), whole, max_relative = 1e-14, epsilon = 4e-15);
            half += (n + 0.5).ln();
            whole += (n + 1.0).ln();
        }
        for k in 1..=20_000 {
            let x = 0.5 * f64::from(k);
            assert_eq!(ln_gamma(x).to_bits(), statrs::function::gamma::ln_gamma(x).to_bits(), "at {x}");
        }
    }

    #[test]
    fn quantile_matches_reference_values() {
        for (dof, p, x) in [
            (1, 1e-150, 1.5707963267948965e-300),
            (1, 0.3, 0.14847186183254543),
            (1, 0.9999999999999, 55.36641369262503),
            (2, 1e-10, 2.0000000001e-10),
            (3, 0.5, 2.365973884375338),
            (5, 1e-250, 3.233407780583128e-100),
            (7, 0.01, 1.2390423055679298),
            (10, 0.999, 29.588298445074418),
            (21, 1e-30, 0.013121833242485725),
            (40, 0.75, 45.61601361894214),
            (40, 0.999999999999999, 156.66007681937748),
            (64, 1e-100, 0.01918830555134909),
        ] {
            assert_relative_eq!(chi_square_quantile(dof, p), x, max_relative = 1e-12);
        }
    }

    #[test]
    fn distribution_function_matches_reference_values() {
        for (dof, x, p) in [
            (1, 1e-12, 7.978845608027324e-7),
            (1, 3.0, 0.9167354833364496),
            (2, 0.5, 0.22119921692859512),
            (3, 1e-5, 8.410416508787036e-9),
            (4, 9.0, 0.9389005190396673),
            (9, 11.5, 0.7570141554306956),
            (16, 1.0, 6.219690863728649e-8),
            (40, 20.0, 0.0034543419758568078),
            (64, 70.0, 0.7167222365666751),
        ] {
            assert_relative_eq!(chi_square_cdf(dof, x), p, max_relative = 1e-12);
        }
    }

    #[test]
    fn radius_matches_reference_values() {
        for (dof, x, r) in [
            (1, -8.2, 1.506402320987572e-16),
            (1, -0.71, 0.30397369489005865),
            (2, 8.05, 8.41673781553355),
            (3, -2.3, 0.34705126127135544),
            (8, 0.0, 2.7100039663627418),
            (31, 1.234, 6.400731694794996),
            (64, -7.9, 3.2025532659358102),
        ] {
            let value = ChiQuantile::new(dof).unwrap().at(x);
            assert_relative_eq!(value, r, epsilon = 1e-12_f64.min(1e-6 * r));
        }
    }

    /// The comparison is with the regularised incomplete gamma function of another implementation.
    #[test]
    fn distribution_function_inverts_the_quantile() {
        for dof in 1..=MAX_CHI_DOF {
            let law = ChiSquared::new(dof as f64).unwrap();
            for k in 1..100 {
                let p = f64::from(k) / 100.0;
                let x = chi_square_quantile(dof, p);
                assert_relative_eq!(law.cdf(x), p, max_relative = 1e-9);
                assert_relative_eq!(chi_square_cdf(dof, x), p, max_relative = 1e-12);
            }
        }
    }

    /// The interpolation is least accurate between the nodes.
    #[test]
    fn table_is_as_accurate_as_promised_for_every_law() {
        for dof in 1..=MAX_CHI_DOF {
            let map = ChiQuantile::new(dof).unwrap();
            for cell in 0..CELLS {
                let x = (cell as f64 + 0.5) / CELLS_PER_UNIT - LIMIT;
                let ln_tail = normal_cdf(-x.abs()).ln();
                let law = ChiLaw::new(dof);
                let exact = if x < 0.0 {
                    law.radius_of_lower_tail(ln_tail)
                } else {
                    law.radius_of_upper_tail(ln_tail)
                };
                let bound = 1e-12_f64.min(1e-7 * exact);
                assert!((map.at(x) - exact).abs() < bound, "{dof}, {x}");
            }
        }
    }

    #[test]
    fn radius_increases_and_is_clamped() {
        for dof in [1, 2, 9, MAX_CHI_DOF] {
            let map = ChiQuantile::new(dof).unwrap();
            let radii: Vec<f64> = (-8300..=8300).map(|k| map.at(f64::from(k) / 1e3)).collect();
            assert!(radii.is_sorted_by(|a, b| a < b));
            assert_relative_eq!(map.at(1e9), map.at(LIMIT));
            assert_relative_eq!(map.at(f64::NEG_INFINITY), map.at(-LIMIT));
            assert!(map.at(f64::NAN).is_nan());
        }
    }

    /// The mean square of the radius is the number of degrees of freedom.
    #[test]
    fn radius_has_the_second_moment_of_its_law() {
        for dof in [1, 3, 20] {
            let map = ChiQuantile::new(dof).unwrap();
            let step = 1.0 / 64.0;
            let moment: f64 = (-520..=520)
                .map(|k| f64::from(k) * step)
                .map(|x| normal_density(x) * map.at(x).powi(2) * step)
                .sum();
            assert_relative_eq!(moment, dof as f64, max_relative = 1e-11);
        }
    }

    #[test]
    fn arguments_at_the_edges_are_defined() {
        assert!(ChiQuantile::new(0).is_err());
        assert!(ChiQuantile::new(MAX_CHI_DOF + 1).is_err());
        assert!(chi_square_quantile(3, 1.0).is_infinite());
        for p in [-0.1, 1.1, f64::NAN] {
            assert!(chi_square_quantile(3, p).is_nan());
        }
        assert!(chi_square_cdf(3, f64::NAN).is_nan());
        let zeros = [
            chi_square_quantile(3, 0.0),
            chi_square_quantile(0, 0.4),
            chi_square_cdf(3, -1.0),
            chi_square_cdf(3, 0.0),
            chi_square_cdf(0, -1.0),
        ];
        assert!(zeros.iter().all(|zero| zero.abs() < f64::MIN_POSITIVE));
        assert_relative_eq!(chi_square_cdf(3, f64::INFINITY), 1.0);
        assert_relative_eq!(chi_square_cdf(0, 0.0), 1.0);
    }
}
