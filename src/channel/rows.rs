//! Mean squared differences of two attention matrices of softmax, from one row of their logits.
//!
//! The logits of the two matrices, `h` and `t`, have independent coordinates in `Sym(T)`, each with the same
//! bivariate normal law. All rows of the matrices then have the same law. Softmax sees only the `T - 1` differences
//! `h_b - h_0` along row 0, whose covariance is `(variance/2)(1 + 2 11^T)`. In whitened coordinates of these
//! differences, `h` and `t` are vectors of standard normals with one correlation `r`, so that the mean of a product of
//! two functions is a sum over Hermite coefficients (Mehler's formula),
//!
//! ```text
//! E f(h) g(t) = sum_n r^n sum_{|k| = n} f_k g_k .
//! ```
//!
//! The coefficients are integrals over `T - 1` variables by the trapezoidal rule, which converges geometrically because
//! the functions are analytic in a strip. The rest of the sum is at most `|r|^n` times the norms of what is
//! left of `f` and `g` (Cauchy-Schwarz), so that its end is certified. With two tokens, the function is `tanh(d/2)` of the
//! difference `d`. With three, the functions are even and odd in half the difference of the two logits other than `h_0`.
//!
//! Otherwise the mean is over quasi-Monte-Carlo nodes of one row. A perturbation `c (chi chi^T - E|chi|^2 1/T)` of the logits is then possible, with
//! `chi` normal and independent across tokens. Given `chi_0`, the differences along row 0 are still normal: their mean is
//! `c (E chi_0^2 - chi_0^2)`, and the perturbation adds `c^2 chi_0^2 E chi_0^2` to their independent parts. A row with a perturbation
//! therefore takes `2T` normals.

use super::softmax::softmax_row;
use super::tokens::with_tokens;
use crate::error::Error;
use crate::lanes::{self, LANES, Lane, sums_over_blocks, widest};
use crate::options::Options;
use crate::quadrature::ScrambledSobol;

/// Bound on what is left out of the sum over Hermite coefficients.
const REST: f64 = 1e-11;

/// Rounding errors of a sum over Hermite coefficients, relative to its terms.
const ROUNDING: f64 = 1e-16;

/// Logarithm of the error of the trapezoidal rule, `exp(-2 pi width/step)` for a strip of half the width `width`.
const RULE: f64 = 32.0;

/// Where the normal density is cut off. The law has a mass of 6e-13 beyond it.
const REACH: f64 = 7.2;

/// Step and reach of the rule over `chi_0`, and the weight below which a node is left out.
const OUTER_STEP: f64 = 0.35;
const OUTER_REACH: f64 = 5.4;
const NEGLIGIBLE: f64 = 1e-9;
/// Relative error of the inner integrals.
const INNER_REST: f64 = 1e-7;

/// Largest product of coupling and variance of `chi` for which the rule over `chi_0` is fine enough.
const MOST_COUPLING: f64 = 2.0;

/// Largest number of Hermite coefficients along one variable.
const MOST_COEFFICIENTS: usize = 256;

/// Largest number of nodes on a half-line: beyond it the softmax is so steep that sampling is cheaper.
const MOST_NODES: usize = 256;

/// The law of two centred normals. Those of two matrices of logits are per orthonormal coordinate of `Sym(T)`, and in units of the
/// temperature.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NormalPair {
    pub(crate) variances: [f64; 2],
    pub(crate) covariance: f64,
}

/// The laws of two perturbed matrices of logits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PerturbedPair {
    pub(crate) logits: NormalPair,
    /// The law of both `chi` at one token.
    pub(crate) chi: NormalPair,
    /// The factor `c` of the perturbation, in units of the temperature.
    pub(crate) coupling: f64,
}

/// The columns of standard normals of one row, for one scramble: two for `chi_0` if there is a perturbation, and two for
/// every other token. They are in a fundamental domain of the symmetries of a row, which are the sign of `chi` and the names of
/// the other tokens.
pub(crate) struct RowColumns {
    chi: Vec<Vec<f64>>,
    logits: Vec<Vec<f64>>,
}

impl RowColumns {
    pub(crate) fn new(
        tokens: usize,
        perturbed: bool,
        options: &Options,
        scramble: usize,
    ) -> Result<Self, Error> {
        let others = tokens.saturating_sub(1);
        let first = if perturbed { 2 } else { 0 };
        let log2_nodes = options.log2_nodes() as u32;
        let points = ScrambledSobol::new(first + 2 * others, log2_nodes, options.seed(), scramble as u64)?;
        let chi = if perturbed { vec![points.positive_normals(0)?, points.normals(1)?] } else { Vec::new() };
        let mut logits = points.sorted_normals(first..first + others)?;
        logits.extend(points.columns(first + others..first + 2 * others)?);
        Ok(Self { chi, logits })
    }

    fn nodes(&self) -> usize {
        self.logits.first().map_or(0, Vec::len)
    }
}

/// The lower root of the covariances of two numbers, for every sample, as `[xx, yx, yy]`.
#[inline(always)]
fn root([xx, xy, yy]: &[Lane; 3]) -> [Lane; 3] {
    let mut root = [[0.0; LANES]; 3];
    for l in 0..LANES {
        root[0][l] = xx[l].max(0.0).sqrt();
        root[1][l] = if root[0][l] > 0.0 { xy[l] / root[0][l] } else { 0.0 };
        root[2][l] = (yy[l] - root[1][l] * root[1][l]).max(0.0).sqrt();
    }
    root
}

impl PerturbedPair {
    /// `E|sigma(h) - sigma(t)|_F^2` over the nodes of one scramble. Only 2 to 8 tokens are possible. Columns without a perturbation
    /// leave it out.
    pub(crate) fn mean(&self, tokens: usize, columns: &RowColumns) -> Result<f64, Error> {
        with_tokens!(tokens, T => Ok(self.mean_over::<T>(columns)))
    }

    fn mean_over<const T: usize>(&self, columns: &RowColumns) -> f64 {
        let blocks: Vec<usize> = (0..columns.nodes() / LANES).collect();
        let mut states = vec![(); blocks.len()];
        let others = T as f64 - 1.0;
        let NormalPair { variances: [h, t], covariance: ht } = self.logits;
        let [hh, tt] = self.chi.variances;
        let chi = [hh, self.chi.covariance, tt];
        let roots = root(&chi.map(|x| [x; LANES]));
        let sums = sums_over_blocks(
            vec![(&blocks[..], &mut states[..])],
            LANES,
            #[inline(always)]
            |&block, (), sums: &mut [Lane; 1]| {
                let normal =
                    |column: &Vec<f64>| -> Lane { std::array::from_fn(|l| column[block * LANES + l]) };
                let mut own = [h, ht, t].map(|x| [0.5 * x; LANES]);
                let mut means = [[0.0; LANES]; 2];
                if let [one, two] = &columns.chi[..] {
                    let (one, two) = (normal(one), normal(two));
                    for l in 0..LANES {
                        let x = roots[0][l] * one[l];
                        let y = roots[1][l] * one[l] + roots[2][l] * two[l];
                        for (own, (product, chi)) in
                            own.iter_mut().zip([x * x, x * y, y * y].into_iter().zip(chi))
                        {
                            own[l] += self.coupling * self.coupling * product * chi;
                        }
                        means[0][l] = self.coupling * (hh - x * x);
                        means[1][l] = self.coupling * (tt - y * y);
                    }
                }
                // What the tokens have in common, logit h_00, adds to the covariance of the mean.
                let mut common = own;
                for (common, x) in common.iter_mut().zip([h, ht, t]) {
                    for l in 0..LANES {
                        common[l] += others * x;
                    }
                }
                let (own, common) = (root(&own), root(&common));
                let mut z = [[[0.0; LANES]; T]; 2];
                let mut average = [[0.0; LANES]; 2];
                for b in 1..T {
                    for k in 0..2 {
                        z[k][b] = normal(&columns.logits[k * (T - 1) + b - 1]);
                        for l in 0..LANES {
                            average[k][l] += z[k][b][l] / others;
                        }
                    }
                }
                let mut rows = [[[0.0; LANES]; T]; 2];
                for b in 1..T {
                    for l in 0..LANES {
                        let [x, y] = [average[0][l], average[1][l]];
                        let [dx, dy] = [z[0][b][l] - x, z[1][b][l] - y];
                        rows[0][b][l] = means[0][l] + own[0][l] * dx + common[0][l] * x;
                        rows[1][b][l] = means[1][l]
                            + own[1][l] * dx
                            + own[2][l] * dy
                            + common[1][l] * x
                            + common[2][l] * y;
                    }
                }
                let [p, q] = [softmax_row(&rows[0]), softmax_row(&rows[1])];
                for b in 0..T {
                    for l in 0..LANES {
                        sums[0][l] += (p[b][l] - q[b][l]) * (p[b][l] - q[b][l]);
                    }
                }
            },
        );
        // There is one list of blocks, with one sum.
        let sum: f64 = sums.iter().flatten().sum();
        T as f64 * sum / columns.nodes() as f64
    }
}

/// Nodes on a half-line, with twice the weights of the trapezoidal rule for the normal density, and with the
/// normalised Hermite polynomials there.
struct HalfLine {
    nodes: Vec<Lane>,
    weights: Vec<Lane>,
    /// `He_n(z)/sqrt(n!)` at the nodes, by `n`.
    hermite: Vec<Vec<Lane>>,
}

impl HalfLine {
    /// The result is `None` if more nodes would be needed than is worthwhile. `width` is half the width of the strip of analyticity
    /// in units of the standard deviation.
    fn new(width: f64) -> Option<Self> {
        // At a narrower spacing, nothing would be gained: the density itself needs this step.
        let step = (std::f64::consts::TAU * width / RULE).min(0.6);
        let count = (REACH / step).ceil();
        if count.is_nan() || count > MOST_NODES as f64 {
            return None;
        }
        Some(Self::with(step, REACH))
    }

    fn with(step: f64, reach: f64) -> Self {
        let blocks = ((reach / step).ceil() as usize).div_ceil(LANES);
        let node = |block: usize, l: usize| ((block * LANES + l) as f64 + 0.5) * step;
        let nodes: Vec<Lane> = (0..blocks).map(|block| std::array::from_fn(|l| node(block, l))).collect();
        let norm = 2.0 * step / std::f64::consts::TAU.sqrt();
        let weight = |z: &Lane| lanes::exp(&z.map(|z| -0.5 * z * z)).map(|density| norm * density);
        let weights = nodes.iter().map(weight).collect();
        Self { hermite: vec![vec![[1.0; LANES]; blocks], nodes.clone()], nodes, weights }
    }

    /// Extends the table of polynomials to those below order `count`.
    fn extend(&mut self, count: usize) {
        for n in self.hermite.len()..count {
            let (here, before) = ((n as f64).sqrt().recip(), (n as f64 - 1.0).sqrt());
            let [two, one] = [&self.hermite[n - 2], &self.hermite[n - 1]];
            let mut next = self.nodes.clone();
            for ((z, one), two) in next.iter_mut().zip(one).zip(two) {
                for l in 0..LANES {
                    z[l] = (z[l] * one[l] - before * two[l]) * here;
                }
            }
            self.hermite.push(next);
        }
    }
}

impl HalfLine {
    /// `E (f(x) - f(y))^2` for the sigmoid `f(x) = 1/(1 + exp(-x))` and normals with the given means and deviations, and the
    /// correlation `r`, to about `rest` times the result. The result is `None` if too many coefficients would be needed.
    fn sigmoids(&mut self, means: [f64; 2], deviations: [f64; 2], r: f64, rest: f64) -> Option<f64> {
        // For both functions the parts that are even and odd in the node, times the weights.
        let mut parts: [[Vec<Lane>; 2]; 2] = Default::default();
        let mut norms = [0.0; 2];
        for k in 0..2 {
            let (mean, deviation) = (means[k], deviations[k]);
            for (z, weights) in self.nodes.iter().zip(&self.weights) {
                let (mut x, mut pull) = ([[0.0; LANES]; 2], [[0.0; LANES]; 2]);
                for l in 0..LANES {
                    x[0][l] = mean + deviation * z[l];
                    x[1][l] = mean - deviation * z[l];
                    pull[0][l] = -x[0][l].abs();
                    pull[1][l] = -x[1][l].abs();
                }
                let e = [lanes::exp(&pull[0]), lanes::exp(&pull[1])];
                let (mut even, mut odd) = ([0.0; LANES], [0.0; LANES]);
                for l in 0..LANES {
                    // The sigmoid less 1/2, at both signs of the node.
                    let up = (0.5 * (1.0 - e[0][l]) / (1.0 + e[0][l])).copysign(x[0][l]);
                    let down = (0.5 * (1.0 - e[1][l]) / (1.0 + e[1][l])).copysign(x[1][l]);
                    let (sum, difference) = (0.5 * (up + down), 0.5 * (up - down));
                    even[l] = weights[l] * sum;
                    odd[l] = weights[l] * difference;
                    norms[k] += even[l] * sum + odd[l] * difference;
                }
                parts[k][0].push(even);
                parts[k][1].push(odd);
            }
        }
        let (mut overlap, mut left, mut power) = (0.0, norms, 1.0);
        for n in 0..MOST_COEFFICIENTS {
            self.extend(n + 1);
            let hermite = &self.hermite[n];
            let (c, d) = (contract(&parts[0][n % 2], hermite), contract(&parts[1][n % 2], hermite));
            overlap += power * c * d;
            left = [left[0] - c * c, left[1] - d * d];
            power *= r;
            let difference = (norms[0] + norms[1] - 2.0 * overlap).max(0.0);
            let missing = 2.0 * power.abs() * (left[0] * left[1]).max(0.0).sqrt();
            // The difference of nearly equal laws is much smaller than either norm, and has rounding errors of the norms.
            if missing <= (rest * (difference - missing)).max(ROUNDING * (norms[0] + norms[1])) {
                return Some(difference);
            }
        }
        None
    }
}

impl PerturbedPair {
    /// `E|sigma(h) - sigma(t)|_F^2` to 1e-6, for two tokens. The result is `None` for other numbers, and for a coupling or logits that
    /// are too large.
    ///
    /// The difference along a row is normal given `chi_0` in both matrices. The outer rule is over these two numbers.
    pub(crate) fn by_quadrature(&self, tokens: usize) -> Option<f64> {
        let largest = self.coupling * self.chi.variances[0].max(self.chi.variances[1]);
        if tokens != 2 || largest.is_nan() || largest > MOST_COUPLING {
            return None;
        }
        self.product_rule(OUTER_STEP)
    }

    fn product_rule(&self, step: f64) -> Option<f64> {
        let outer = HalfLine::with(step, OUTER_REACH);
        let NormalPair { variances: [h, t], covariance: ht } = self.logits;
        let [hh, tt] = self.chi.variances;
        let chi = [hh, self.chi.covariance, tt];
        let [xx, yx, yy] = root(&chi.map(|x| [x; LANES])).map(|lane| lane[0]);
        let smallest = (1.5 * h.max(t)).sqrt().max(0.1);
        // The rules for larger and larger deviations, by factors of two.
        let mut lines: Vec<HalfLine> = Vec::new();
        let mut sum = 0.0;
        // The sign of chi does not matter, so that one of the two normals is positive.
        for (one, first) in outer.nodes.iter().flatten().zip(outer.weights.iter().flatten()) {
            for (two, second) in outer.nodes.iter().flatten().zip(outer.weights.iter().flatten()) {
                let weight = 0.5 * first * second;
                if weight < NEGLIGIBLE {
                    continue;
                }
                for two in [*two, -two] {
                    let [x, y] = [xx * one, yx * one + yy * two];
                    let square = self.coupling * self.coupling;
                    let variance = |base: f64, product: f64, chi: f64| 1.5 * base + square * product * chi;
                    let deviations = [variance(h, x * x, hh).sqrt(), variance(t, y * y, tt).sqrt()];
                    let norm = deviations[0] * deviations[1];
                    let r = if norm > 0.0 {
                        (variance(ht, x * y, self.chi.covariance) / norm).clamp(-1.0, 1.0)
                    } else {
                        0.0
                    };
                    let ratio = deviations[0].max(deviations[1]) / smallest;
                    let tier = ratio.log2().ceil().max(0.0) as usize;
                    while lines.len() <= tier {
                        let steepest = smallest * f64::from(1_u32.checked_shl(lines.len() as u32)?);
                        lines.push(HalfLine::new(std::f64::consts::PI / steepest)?);
                    }
                    let means = [self.coupling * (hh - x * x), self.coupling * (tt - y * y)];
                    sum += weight * lines[tier].sigmoids(means, deviations, r, INNER_REST)?;
                }
            }
        }
        // There are two rows with two entries each.
        Some(4.0 * sum)
    }
}

/// The sum over lanes and blocks of the product of two lists.
#[inline(always)]
fn contract(x: &[Lane], y: &[Lane]) -> f64 {
    let mut sum = [0.0; LANES];
    for (x, y) in x.iter().zip(y) {
        for l in 0..LANES {
            sum[l] += x[l] * y[l];
        }
    }
    sum.iter().sum()
}

impl NormalPair {
    fn correlation(&self) -> f64 {
        let [one, two] = self.variances;
        let norm = (one * two).sqrt();
        if norm > 0.0 { (self.covariance / norm).clamp(-1.0, 1.0) } else { 0.0 }
    }

    /// `E|sigma(h) - sigma(t)|_F^2` to 1e-11, for two or three tokens. The result is `None` for other numbers, and for
    /// logits that are too large for the rule.
    pub(crate) fn by_quadrature(&self, tokens: usize) -> Option<f64> {
        if self.variances.iter().all(|variance| (variance - self.covariance).abs() <= 0.0) {
            // The two matrices are equal, and rounding must not make them differ.
            return matches!(tokens, 2 | 3).then_some(0.0);
        }
        match tokens {
            2 => self.two_tokens(),
            3 => self.three_tokens(),
            _ => None,
        }
    }

    /// The mean over the nodes of one scramble. Only 2 to 8 tokens are possible.
    pub(crate) fn by_sampling(
        &self,
        tokens: usize,
        options: &Options,
        scramble: usize,
    ) -> Result<f64, Error> {
        self.mean(tokens, &RowColumns::new(tokens, false, options, scramble)?)
    }

    /// The mean over columns without a perturbation.
    pub(crate) fn mean(&self, tokens: usize, columns: &RowColumns) -> Result<f64, Error> {
        let none = NormalPair { variances: [0.0; 2], covariance: 0.0 };
        PerturbedPair { logits: *self, chi: none, coupling: 0.0 }.mean(tokens, columns)
    }

    fn two_tokens(&self) -> Option<f64> {
        let deviations = self.variances.map(|variance| (1.5 * variance).sqrt());
        let mut line = HalfLine::new(std::f64::consts::PI / deviations[0].max(deviations[1]))?;
        // There are two rows with two entries each.
        Some(4.0 * line.sigmoids([0.0; 2], deviations, self.correlation(), REST)?)
    }

    /// With `w = (h_1 + h_2)/2 - h_0` and `u = (h_1 - h_2)/2`, which are independent, the probability `p_0` is even in `u`, and
    /// `o = (p_1 - p_2)/2` is odd. The squared difference of a row is `3/2 (change of p_0)^2 + 2 (change of o)^2`.
    fn three_tokens(&self) -> Option<f64> {
        let deviations = self.variances.map(|variance| [0.25 * variance, 1.25 * variance].map(f64::sqrt));
        let steepest = |k: usize| deviations[0][k].max(deviations[1][k]);
        // At fixed w, the singularities in u are between pi/2 and pi from the real axis; at fixed u those in w are at pi.
        let mut lines = [
            HalfLine::new(std::f64::consts::FRAC_PI_2 / steepest(0))?,
            HalfLine::new(std::f64::consts::PI / steepest(1))?,
        ];
        // Two draws from one law have one table.
        let laws = if (self.variances[0] - self.variances[1]).abs() <= 0.0 { 1 } else { 2 };
        let mut tables: Vec<RowTable> =
            deviations[..laws].iter().map(|deviations| RowTable::new(*deviations, &lines)).collect();
        let r = self.correlation();
        let norms = tables[0].left + tables[laws - 1].left;
        let (mut overlap, mut power) = (0.0, 1.0);
        for n in 0..MOST_COEFFICIENTS {
            for line in &mut lines {
                line.extend(n + 1);
            }
            for table in &mut tables {
                table.add_degree(n, &lines);
            }
            let [one, two] = [&tables[0], &tables[laws - 1]];
            overlap +=
                power * one.coefficients.iter().zip(&two.coefficients).map(|(c, d)| c * d).sum::<f64>();
            power *= r;
            let left = (one.left * two.left).max(0.0).sqrt();
            let difference = (norms - 2.0 * overlap).max(0.0);
            let missing = 2.0 * power.abs() * left;
            if missing <= (REST * (difference - missing)).max(ROUNDING * norms) {
                return Some(3.0 * difference);
            }
        }
        None
    }
}

/// The functions of a row of three logits on the nodes, and their Hermite coefficients as far as they are known.
struct RowTable {
    /// For `p_0` and `o`, times the roots of their factors in the squared difference: the parts that are even and
    /// odd in `w`, times the weights of both rules, for every node in `u` a list over the nodes in `w`.
    values: [[Vec<Vec<Lane>>; 2]; 2],
    /// The coefficients along `u`, by order: for both parts a list over the nodes in `w`.
    along_u: Vec<[Vec<Lane>; 2]>,
    /// The coefficients of the highest degree that is known.
    coefficients: Vec<f64>,
    /// The squared norm of what the known coefficients leave.
    left: f64,
}

impl RowTable {
    fn new([along, across]: [f64; 2], [u, w]: &[HalfLine; 2]) -> Self {
        let mut table =
            Self { values: Default::default(), along_u: Vec::new(), coefficients: Vec::new(), left: 0.0 };
        for (u, weight) in u.nodes.iter().flatten().zip(u.weights.iter().flatten()) {
            let mut rows = [[(); 2]; 2].map(|part| part.map(|()| Vec::with_capacity(w.nodes.len())));
            for (w, weights) in w.nodes.iter().zip(&w.weights) {
                let [up, down] = [across, -across].map(|across| {
                    let logits = |sign: f64| w.map(|w| across * w + sign * along * u);
                    let [p0, p1, p2] = softmax_row(&[[0.0; LANES], logits(1.0), logits(-1.0)]);
                    let odd = |l: usize| 0.5_f64.sqrt() * (p1[l] - p2[l]);
                    [p0.map(|p| 1.5_f64.sqrt() * p), std::array::from_fn(odd)]
                });
                for (function, rows) in rows.iter_mut().enumerate() {
                    for (sign, row) in [1.0, -1.0].into_iter().zip(rows) {
                        let part: Lane =
                            std::array::from_fn(|l| 0.5 * (up[function][l] + sign * down[function][l]));
                        let weighted: Lane = std::array::from_fn(|l| weight * weights[l] * part[l]);
                        for l in 0..LANES {
                            table.left += part[l] * weighted[l];
                        }
                        row.push(weighted);
                    }
                }
            }
            for (values, rows) in table.values.iter_mut().zip(rows) {
                for (values, row) in values.iter_mut().zip(rows) {
                    values.push(row);
                }
            }
        }
        table
    }

    /// Computes the coefficients of total degree `n`. The calls are in the order of the degree.
    fn add_degree(&mut self, n: usize, [u, w]: &[HalfLine; 2]) {
        let Self { values, along_u, coefficients, left } = self;
        widest(
            #[inline(always)]
            || {
                let parts = values[n % 2].each_ref().map(|values| {
                    let mut sum = vec![[0.0; LANES]; w.nodes.len()];
                    for (hermite, row) in u.hermite[n].iter().flatten().zip(values) {
                        for (sum, x) in sum.iter_mut().zip(row) {
                            for l in 0..LANES {
                                sum[l] += hermite * x[l];
                            }
                        }
                    }
                    sum
                });
                along_u.push(parts);
                coefficients.clear();
                for (i, parts) in along_u.iter().enumerate() {
                    let coefficient = contract(&parts[(n - i) % 2], &w.hermite[n - i]);
                    *left -= coefficient * coefficient;
                    coefficients.push(coefficient);
                }
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quadrature::normal_density;
    use crate::std_error::standard_error;

    /// `E|sigma(h) - sigma(t)|_F^2` by a plain product rule over all logits of a row.
    fn brute_force<const T: usize>(pair: &NormalPair, step: f64) -> f64 {
        let nodes: Vec<f64> = (-200..=200).map(|k| f64::from(k) * step).filter(|z| z.abs() < 6.5).collect();
        let dimensions = 2 * T - 2;
        let mut sum = 0.0;
        let r = pair.correlation();
        let [a, b] = pair.variances.map(|variance| (0.5 * variance).sqrt());
        let spread = ((1.0 + 2.0 * (T as f64 - 1.0)).sqrt() - 1.0) / (T as f64 - 1.0);
        for index in 0..nodes.len().pow(dimensions as u32) {
            let z: Vec<f64> =
                (0..dimensions).map(|d| nodes[index / nodes.len().pow(d as u32) % nodes.len()]).collect();
            let weight: f64 = z.iter().map(|z| step * normal_density(*z)).product();
            let row = |scale: f64, z: &dyn Fn(usize) -> f64| -> [[f64; 1]; T] {
                let total: f64 = (0..T - 1).map(z).sum();
                softmax_row(&std::array::from_fn(|b| {
                    [if b == 0 { 0.0 } else { scale * (z(b - 1) + spread * total) }]
                }))
            };
            let p = row(a, &|k| z[k]);
            let q = row(b, &|k| r * z[k] + (1.0 - r * r).max(0.0).sqrt() * z[T - 1 + k]);
            sum += weight * T as f64 * (0..T).map(|b| (p[b][0] - q[b][0]).powi(2)).sum::<f64>();
        }
        sum
    }

    #[test]
    fn quadrature_agrees_with_a_product_rule() {
        let pairs = [
            NormalPair { variances: [4.5, 0.4], covariance: 0.9 },
            NormalPair { variances: [1.5, 1.5], covariance: 1.2 },
            NormalPair { variances: [2.0, 0.0], covariance: 0.0 },
        ];
        for pair in &pairs {
            let [two, three] = [2, 3].map(|tokens| pair.by_quadrature(tokens).unwrap());
            approx::assert_abs_diff_eq!(two, brute_force::<2>(pair, 0.125), epsilon = 2e-10);
            approx::assert_abs_diff_eq!(three, brute_force::<3>(pair, 0.4), epsilon = 2e-5);
        }
    }

    #[test]
    fn quadrature_does_not_depend_on_its_step() {
        // In other units of the logits, both rules have other nodes, and the larger variance decides.
        for tokens in [2, 3] {
            for (variances, covariance) in
                [([4.5, 4.5], 2.7), ([4.5, 4.5], 4.4), ([9.0, 0.1], 0.5), ([40.0, 30.0], 20.0)]
            {
                let pair = NormalPair { variances, covariance };
                let reversed = NormalPair { variances: [variances[1], variances[0]], covariance };
                let [x, y] = [pair, reversed].map(|pair| pair.by_quadrature(tokens).unwrap());
                approx::assert_abs_diff_eq!(x, y, epsilon = 1e-12);
            }
        }
    }

    #[test]
    fn perturbed_rows_agree_with_samples() {
        let options = Options::default().with_log2_nodes(14).unwrap();
        for (logits, chi, coupling) in [
            ([2.0, 4.5, 1.8], [0.9, 1.0, 0.8], 1.0),
            ([2.0, 4.5, 1.8], [0.0, 1.0, 0.0], 1.0),
            ([4.5, 4.5, 3.0], [1.0, 1.0, 0.6], 2.0),
        ] {
            let pair = |[h, t, ht]: [f64; 3]| NormalPair { variances: [h, t], covariance: ht };
            let pair = PerturbedPair { logits: pair(logits), chi: pair(chi), coupling };
            let rule = pair.by_quadrature(2).unwrap();
            approx::assert_abs_diff_eq!(rule, pair.product_rule(0.5 * OUTER_STEP).unwrap(), epsilon = 1e-6);
            let means: Vec<f64> = (0..4)
                .map(|scramble| pair.mean(2, &RowColumns::new(2, true, &options, scramble).unwrap()).unwrap())
                .collect();
            let mean = means.iter().sum::<f64>() / 4.0;
            let error = standard_error(means.into_iter()).unwrap();
            assert!((mean - rule).abs() < 5.0 * error, "{mean} +- {error}, {rule}");
            assert!(error < 1e-3 * mean);
        }
    }

    #[test]
    fn equal_logits_have_no_difference() {
        for tokens in [2, 3] {
            let same = NormalPair { variances: [2.0, 2.0], covariance: 2.0 };
            assert!(same.by_quadrature(tokens).unwrap() < 1e-12);
            assert!(
                NormalPair { variances: [0.0, 0.0], covariance: 0.0 }.by_quadrature(tokens).unwrap() < 1e-12
            );
            assert!(NormalPair { variances: [1e9, 1.0], covariance: 0.0 }.by_quadrature(tokens).is_none());
        }
        assert!(NormalPair { variances: [1.0, 1.0], covariance: 0.0 }.by_quadrature(4).is_none());
    }
}
