//! The functions of one row of logits, and their Hermite coefficients.

use super::half_line::HalfLine;
use crate::lanes::{self, LANES, Lane, widest};

/// One row of softmax as a function of the normals that its logits are made of. For the logits relative to that of the row's own
/// token these are
///
/// - `w` along their mean, and
/// - in its complement `s` along `(1, -1)/sqrt 2` or `(2, -1, -1)/sqrt 6`, and `u` along `(0, 1, -1)/sqrt 2`.
///
/// The squared difference of two rows, averaged over permutations of the other tokens, is `T/(T-1)` times that of the row's own probability,
/// and `T - 2` times that of the component of the other probabilities along the vector of `s`. With three tokens, the first function is even in
/// `s`, and the second is odd. With four, both are even in `u`.
pub(super) struct RowTable {
    /// For both parities in `s` the functions that have such a part, times the weights of the rules. The indices are, from the
    /// outermost: node in `u`, node in `s`, function, parity in `w`, block of nodes in `w`.
    values: [Vec<Lane>; 2],
    /// The coefficients along `u`, by half the order.
    along_u: Vec<[Vec<Lane>; 2]>,
    /// The coefficients along `u` and `s`, by total order: lists one after the other.
    along_plane: Vec<Vec<Lane>>,
    /// Number of coefficients with the same orders in `w` and in the plane, by the latter as far as there are any.
    counts: Vec<usize>,
    /// All coefficients by total order, and within it by that in the plane.
    coefficients: Vec<Vec<f64>>,
    /// The squared norm of what the coefficients of all lower orders leave.
    left: Vec<f64>,
}

/// The logits of a row differ by at most so many units of `w`, of `s` and of `u`.
pub(super) fn ranges(tokens: usize) -> [f64; 3] {
    let along = 1.0 / (tokens as f64 - 1.0).sqrt();
    match tokens {
        2 => [along, 0.0, 0.0],
        3 => [along, 2.0_f64.sqrt(), 0.0],
        _ => [along, 1.5_f64.sqrt(), 2.0_f64.sqrt()],
    }
}

/// How many functions have parts that are even and odd in `s`.
pub(super) const fn functions(tokens: usize) -> [usize; 2] {
    match tokens {
        2 => [1, 0],
        3 => [1, 1],
        _ => [2, 2],
    }
}

/// The sum of the exponentials of the logits in the plane of `s` and `u`, and their component along the vector of `s`, times
/// the root of `T - 2`.
#[inline(always)]
fn exponentials<const T: usize>(deviation: f64, s: f64, u: f64) -> [f64; 2] {
    match T {
        3 => {
            let s = deviation * s * 0.5_f64.sqrt();
            let [one, two] = lanes::exp(&[s, -s]);
            [one + two, 0.5_f64.sqrt() * (one - two)]
        }
        4 => {
            let (s, u) = (deviation * s * (1.0_f64 / 6.0).sqrt(), deviation * u * 0.5_f64.sqrt());
            let [one, two, three] = lanes::exp(&[2.0 * s, u - s, -u - s]);
            [one + two + three, (1.0_f64 / 3.0).sqrt() * (2.0 * one - two - three)]
        }
        _ => [1.0, 0.0],
    }
}

impl RowTable {
    /// The table for two to four tokens, at the mean and the deviations of `w`, and of `s` and `u`. No logit may be above 300.
    pub(super) fn new(tokens: usize, mean: f64, deviations: [f64; 2], lines: [&HalfLine; 3]) -> Self {
        match tokens {
            2 => Self::with::<2>(mean, deviations, lines),
            3 => Self::with::<3>(mean, deviations, lines),
            _ => Self::with::<4>(mean, deviations, lines),
        }
    }

    fn with<const T: usize>(mean: f64, [common, own]: [f64; 2], [w, s, u]: [&HalfLine; 3]) -> Self {
        let others = T as f64 - 1.0;
        let (slope, factor) = (common / others.sqrt(), (T as f64 / others).sqrt());
        let blocks = w.nodes().len();
        // All other logits have the same part along w, so that its exponential is a factor.
        let along = [slope, -slope].map(|slope| -> Vec<Lane> {
            w.nodes().iter().map(|w| lanes::exp(&w.map(|w| mean + slope * w))).collect()
        });
        let sizes = functions(T).map(|functions| 2 * functions * blocks);
        let mut values = sizes.map(|size| vec![[0.0; LANES]; u.count() * s.count() * size]);
        let mut norm = [0.0; LANES];
        widest(
            #[inline(always)]
            || {
                let mut places = values.each_mut().map(|values| values.chunks_exact_mut(2 * blocks));
                // The functions by the sign of s, that of w, and block.
                let mut at = [(); 2].map(|()| [(); 2].map(|()| [(); 2].map(|()| vec![[0.0; LANES]; blocks])));
                for (u, weight_u) in u.rule() {
                    for (s, weight_s) in s.rule() {
                        for (sign_s, s) in [s, -s].into_iter().enumerate().take(if T > 3 { 2 } else { 1 }) {
                            let [sum, component] = exponentials::<T>(own, s, u);
                            let [first, second] = &mut at;
                            for sign_w in 0..2 {
                                let lists = first[sign_s][sign_w].iter_mut().zip(&mut second[sign_s][sign_w]);
                                for ((first, second), along) in lists.zip(&along[sign_w]) {
                                    let along: Lane = *along;
                                    let mut functions = [[0.0; LANES]; 2];
                                    for l in 0..LANES {
                                        let own = 1.0 / (1.0 + along[l] * sum);
                                        functions[0][l] = factor * (own - 1.0 / T as f64);
                                        functions[1][l] = along[l] * component * own;
                                    }
                                    [*first, *second] = functions;
                                }
                            }
                        }
                        for (function, signs) in at.iter().enumerate() {
                            for (odd, places) in places.iter_mut().enumerate() {
                                let [own, mirrored] = match (T, function, odd) {
                                    (2, 0, 0) | (3, 0, 0) | (3, 1, 1) => [0.5, 0.0],
                                    (4, _, 0) => [0.25, 0.25],
                                    (4, _, 1) => [0.25, -0.25],
                                    _ => continue,
                                };
                                let Some(place) = places.next() else { continue };
                                let (even, odd) = place.split_at_mut(blocks);
                                let mirrors = &signs[usize::from(T > 3)];
                                for block in 0..blocks {
                                    let here: [Lane; 2] = [signs[0][0][block], signs[0][1][block]];
                                    let there: [Lane; 2] = [mirrors[0][block], mirrors[1][block]];
                                    let weights: Lane = w.weights()[block];
                                    let mut parts = [[0.0; LANES]; 2];
                                    for l in 0..LANES {
                                        let up = own * here[0][l] + mirrored * there[0][l];
                                        let down = own * here[1][l] + mirrored * there[1][l];
                                        let weight = weight_u * weight_s * weights[l];
                                        let (sum, difference) = (up + down, up - down);
                                        parts[0][l] = weight * sum;
                                        parts[1][l] = weight * difference;
                                        norm[l] += parts[0][l] * sum + parts[1][l] * difference;
                                    }
                                    [even[block], odd[block]] = parts;
                                }
                            }
                        }
                    }
                }
            },
        );
        let left = vec![norm.iter().sum()];
        Self {
            values,
            along_u: Vec::new(),
            along_plane: Vec::new(),
            counts: Vec::new(),
            coefficients: Vec::new(),
            left,
        }
    }

    /// How many numbers the values are.
    #[cfg(test)]
    pub(super) fn numbers(&self) -> usize {
        self.values.iter().map(|values| values.len() * LANES).sum()
    }

    /// Number of orders whose coefficients are known.
    pub(super) fn orders(&self) -> usize {
        self.coefficients.len()
    }

    /// Computes the coefficients of the next order. The polynomials on the lines must be known up to it.
    pub(super) fn add_order(&mut self, [w, s, u]: [&HalfLine; 3]) {
        let n = self.orders();
        let Self { values, along_u, along_plane, counts, coefficients, left } = self;
        let blocks = w.nodes().len();
        // Functions of s have parts that are odd in it, and functions of u have another line than a point.
        let (of_s, of_u) = (s.count() > 1, u.count() > 1);
        widest(
            #[inline(always)]
            || {
                if n == 0 || (of_u && n.is_multiple_of(2)) {
                    let [mut even, mut odd] = [Vec::new(), Vec::new()];
                    add_coefficients(u, n, &values[0], &mut even);
                    add_coefficients(u, n, &values[1], &mut odd);
                    along_u.push([even, odd]);
                }
                let mut plane = Vec::new();
                if n == 0 || of_s {
                    let lists = along_u.iter().enumerate().map(|(half, lists)| {
                        let order = n - 2 * half;
                        (order, &lists[order % 2])
                    });
                    // A list that grows while it is filled is copied again and again.
                    plane.reserve_exact(lists.clone().map(|(_, list)| list.len() / s.count()).sum());
                    for (order, list) in lists {
                        add_coefficients(s, order, list, &mut plane);
                    }
                }
                // With two tokens, there is no more than the first order.
                if !plane.is_empty() {
                    counts.push(plane.len() / (2 * blocks));
                    along_plane.push(plane);
                }
                let mut own = Vec::with_capacity(counts.iter().sum());
                let mut norm = 0.0;
                for (order, plane) in along_plane.iter().enumerate() {
                    let rest = n - order;
                    let polynomial = w.polynomial(rest);
                    for parts in plane.chunks_exact(2 * blocks) {
                        let coefficient = contract(&parts[rest % 2 * blocks..][..blocks], polynomial);
                        norm += coefficient * coefficient;
                        own.push(coefficient);
                    }
                }
                left.push(left[n] - norm);
                coefficients.push(own);
            },
        );
    }

    /// The squared norm of what the coefficients below order `n` leave.
    pub(super) fn left(&self, n: usize) -> f64 {
        self.left[n].max(0.0)
    }

    /// The sum over the coefficients of order `n` of both tables, each product times as many factors of both correlations as its orders in
    /// `w` and in the plane. `powers` are the powers of both.
    #[inline(always)]
    pub(super) fn overlap(&self, other: &Self, n: usize, powers: &[[f64; 2]]) -> f64 {
        let (one, two) = (&self.coefficients[n], &other.coefficients[n]);
        let mut sum = 0.0;
        let mut start = 0;
        for (order, count) in self.counts.iter().copied().enumerate().take(n + 1) {
            let mut product = 0.0;
            for (x, y) in one[start..][..count].iter().zip(&two[start..][..count]) {
                product += x * y;
            }
            start += count;
            sum += powers[n - order][0] * powers[order][1] * product;
        }
        sum
    }
}

/// Adds the coefficients of order `n` along the variable of the outermost index of a list.
#[inline(always)]
fn add_coefficients(line: &HalfLine, n: usize, list: &[Lane], coefficients: &mut Vec<Lane>) {
    // Sums over four nodes at a time are written to memory a quarter as often.
    const ROWS: usize = 4;
    let size = list.len() / line.count();
    if size == 0 {
        return;
    }
    let start = coefficients.len();
    coefficients.resize(start + size, [0.0; LANES]);
    // Loops over single numbers compile to vector instructions here, and loops over blocks do not.
    let sums = coefficients[start..].as_flattened_mut();
    let (polynomials, rest) = line.values(n).as_chunks::<ROWS>();
    let mut rows = list.as_flattened().chunks_exact(size * LANES);
    for h in polynomials {
        if let [Some(a), Some(b), Some(c), Some(d)] = std::array::from_fn(|_| rows.next()) {
            for ((((sum, a), b), c), d) in sums.iter_mut().zip(a).zip(b).zip(c).zip(d) {
                *sum += (h[0] * a + h[1] * b) + (h[2] * c + h[3] * d);
            }
        }
    }
    for (h, row) in rest.iter().zip(rows) {
        for (sum, x) in sums.iter_mut().zip(row) {
            *sum += h * x;
        }
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
