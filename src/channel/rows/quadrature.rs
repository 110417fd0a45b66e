//! The mean of one row by quadrature over `chi_0` and by Hermite coefficients given it.

use std::collections::BTreeMap;
use std::f64::consts::{PI, TAU};

use super::half_line::HalfLine;
use super::laws::{NormalPair, PerturbedPair};
use super::table::{RowTable, functions, ranges};
use crate::lanes::LANES;

/// How exact the integrals over one row are, and how large they may become.
#[derive(Debug, Clone, Copy)]
struct Precision {
    /// Minus the logarithm of the error of the trapezoidal rule, which is `exp(-2 pi width/step)` for a strip of half the width `width`.
    rule: f64,
    /// Bound on what is left out of the sum over Hermite coefficients, relative to the result.
    rest: f64,
    /// The same relative to the squared norms, in which the coefficients have their errors.
    floor: f64,
    /// Largest number of nodes: beyond it the softmax is so steep that sampling is cheaper.
    most_nodes: usize,
    /// Largest number of numbers in the tables that are kept.
    most_numbers: usize,
    /// Largest number of orders.
    most_orders: usize,
}

impl Precision {
    /// That of the arithmetic, for one pair of rows. With four tokens it is 1e-8, for fewer nodes in each of three variables.
    fn fine(tokens: usize) -> Self {
        let most_nodes = 1 << 16;
        if tokens > 3 {
            Self {
                rule: 24.0,
                rest: 1e-8,
                floor: 1e-10,
                most_nodes,
                most_numbers: MOST_NUMBERS,
                most_orders: 96,
            }
        } else {
            Self {
                rule: 32.0,
                rest: 1e-11,
                floor: 1e-16,
                most_nodes,
                most_numbers: MOST_NUMBERS,
                most_orders: 256,
            }
        }
    }

    /// That of the many rows given `chi_0`. Nodes are for three variables with four tokens, so that they must be few.
    fn coarse(tokens: usize) -> Self {
        let (floor, most_nodes) = (1e-9, 1 << 15);
        if tokens > 3 {
            Self { rule: 20.0, rest: 1e-7, floor, most_nodes, most_numbers: MOST_NUMBERS, most_orders: 64 }
        } else {
            Self { rule: 24.0, rest: 1e-8, floor, most_nodes, most_numbers: MOST_NUMBERS, most_orders: 128 }
        }
    }
}

/// Largest number of nodes on a half-line.
const MOST_ON_A_LINE: f64 = 256.0;

/// Where the normal density is cut off at most. The law has a mass of 6e-13 beyond it.
const REACH: f64 = 7.2;

/// The least precise rule for the rows far away.
const LEAST_RULE: f64 = 5.0;

/// Largest product of coupling and variance of `chi` for which the rule over `chi_0` is fine enough.
const MOST_COUPLING: f64 = 2.0;

/// Step of the rule over `chi_0` for a strip of half the width 1, and its limits. Half the step changes means by less than 1e-7 (see the
/// tests). The singularities at the end of the strip are weak, so that the step may go like the root of the width.
const OUTER_STEP: f64 = 0.34;
const OUTER_STEPS: [f64; 2] = [0.1, 0.5];

/// Reach of the rule over `chi_0`, and the weight below which a pair of nodes is left out.
const OUTER_REACH: f64 = 6.0;
const NEGLIGIBLE: f64 = 1e-11;

/// Below this ratio of the deviation of the second `chi_0` given the first to the width of the strip, five nodes are enough for it.
const NARROW: f64 = 0.08;

/// The errors of a pair of nodes may be larger by the ratio of the largest weight to its own, but not by more than this.
const MOST_SLACK: f64 = 1e6;

/// Largest number of numbers in the tables of a solve: 64 MiB.
const MOST_NUMBERS: usize = 1 << 23;

/// The tables of the rows that were asked for, for one number of tokens.
pub(crate) struct RowTables {
    tokens: usize,
    precision: Precision,
    /// The rules on half-lines, by the number of nodes and minus the logarithm of the error.
    lines: BTreeMap<[usize; 2], HalfLine>,
    /// The tables, by the bits of all numbers that they depend on.
    places: BTreeMap<[u64; 4], usize>,
    tables: Vec<Entry>,
    /// How many numbers the tables hold.
    numbers: usize,
}

struct Entry {
    table: RowTable,
    lines: [[usize; 2]; 3],
}

/// The law of one row given its own `chi`.
#[derive(Debug, Clone, Copy)]
struct RowLaw {
    /// Variance of the logits, per orthonormal coordinate.
    logits: f64,
    /// Variance of `chi`, and its value at the token of the row in units of the deviation.
    chi: f64,
    at: f64,
    coupling: f64,
}

impl RowLaw {
    /// All numbers on which the table of the row depends.
    fn key(&self) -> [u64; 4] {
        [self.logits, self.chi, self.at.abs(), self.coupling].map(f64::to_bits)
    }

    /// Mean of the logits of the other tokens relative to that of the row's own token.
    fn mean(&self) -> f64 {
        self.coupling * self.chi * (1.0 - self.at * self.at)
    }

    /// Variances of the mean of these logits, times the root of their number, and in the complement.
    fn variances(&self, tokens: usize) -> [f64; 2] {
        variances(tokens, self.logits, (self.coupling * self.chi * self.at).powi(2))
    }
}

/// The (co)variances along `11^T` and in its complement, for that of the logits and for that of the perturbation.
fn variances(tokens: usize, logits: f64, perturbation: f64) -> [f64; 2] {
    [2.0 * tokens as f64 - 1.0, 1.0].map(|factor| 0.5 * factor * logits + perturbation)
}

/// How many numbers the values in a table with the given rules are.
fn numbers(tokens: usize, lines: [[usize; 2]; 3]) -> usize {
    let nodes: usize = lines.iter().map(|[count, _]| (*count).max(1)).product();
    2 * functions(tokens).iter().sum::<usize>() * nodes
}

/// Where the normal density is cut off, for minus the logarithm of an error.
fn reach(rule: f64) -> f64 {
    (2.0 * rule).sqrt().min(REACH)
}

impl RowTables {
    /// Tables for rows with a perturbation.
    pub(crate) fn new(tokens: usize) -> Self {
        Self::with(tokens, Precision::coarse(tokens))
    }

    /// Tables for rows without a perturbation.
    pub(crate) fn fine(tokens: usize) -> Self {
        Self::with(tokens, Precision::fine(tokens))
    }

    fn with(tokens: usize, precision: Precision) -> Self {
        Self {
            tokens,
            precision,
            lines: BTreeMap::new(),
            places: BTreeMap::new(),
            tables: Vec::new(),
            numbers: 0,
        }
    }

    /// The rules for a row, as numbers of nodes and minus the logarithms of their errors, or `None` if they would be too large.
    fn rules(&self, row: &RowLaw) -> Option<[[usize; 2]; 3]> {
        let Precision { rule, most_nodes, .. } = self.precision;
        // The weight of a row allows for errors.
        let rule = (rule - 0.5 * row.at * row.at).max(LEAST_RULE).ceil();
        let [common, own] = row.variances(self.tokens).map(f64::sqrt);
        let [along, s, u] = ranges(self.tokens);
        let count = |range: f64| {
            // The singularity next to the real axis is where the exponentials of two logits have opposite signs. At a wider
            // spacing than the last, the rule would fail for the density itself.
            let step = (TAU * PI / range / rule).min(0.6 * (32.0 / rule).sqrt());
            let count = (reach(rule) / step).ceil();
            (count <= MOST_ON_A_LINE).then_some(count as usize)
        };
        let counts = [
            count(along * common)?.next_multiple_of(LANES),
            if s > 0.0 { count(s * own)? } else { 0 },
            if u > 0.0 { count(u * own)? } else { 0 },
        ];
        let all: usize = counts.iter().map(|count| (*count).max(1)).product();
        (all <= most_nodes)
            .then_some(counts.map(|count| if count == 0 { [0; 2] } else { [count, rule as usize] }))
    }

    /// Makes room for the tables of some rows, if all of them are small enough. Other tables are forgotten where there is no room for all.
    fn make_room(&mut self, rows: impl Iterator<Item = RowLaw>) -> Option<()> {
        let mut needed = BTreeMap::new();
        for row in rows {
            let lines = self.rules(&row)?;
            needed.insert(row.key(), numbers(self.tokens, lines));
        }
        let new =
            needed.iter().filter(|(key, _)| !self.places.contains_key(*key)).map(|(_, numbers)| numbers);
        if self.numbers + new.sum::<usize>() > self.precision.most_numbers {
            self.places.clear();
            self.tables.clear();
            self.numbers = 0;
        }
        (needed.values().sum::<usize>() <= self.precision.most_numbers).then_some(())
    }

    /// The place of the table of a row, or `None` if it would be too large.
    fn place(&mut self, row: &RowLaw) -> Option<usize> {
        let key = row.key();
        if let Some(place) = self.places.get(&key) {
            return Some(*place);
        }
        let lines = self.rules(row)?;
        self.numbers += numbers(self.tokens, lines);
        for line in lines {
            self.lines.entry(line).or_insert_with(|| match line {
                [0, _] => HalfLine::point(),
                [count, rule] => HalfLine::new(count, reach(rule as f64)),
            });
        }
        let deviations = row.variances(self.tokens).map(f64::sqrt);
        let table = RowTable::new(self.tokens, row.mean(), deviations, lines.map(|line| &self.lines[&line]));
        self.tables.push(Entry { table, lines });
        self.places.insert(key, self.tables.len() - 1);
        Some(self.tables.len() - 1)
    }

    /// Extends a table to the coefficients of order `n`.
    fn extend(&mut self, place: usize, n: usize) {
        let Entry { table, lines, .. } = &mut self.tables[place];
        while table.orders() <= n {
            for line in *lines {
                if let Some(line) = self.lines.get_mut(&line) {
                    line.extend(n);
                }
            }
            table.add_order(lines.map(|line| &self.lines[&line]));
        }
    }

    /// The mean squared difference of one row given both `chi_0`, over the number of tokens. The result is `None` if too many coefficients would be needed.
    fn difference(&mut self, rows: [RowLaw; 2], r: [f64; 2], slack: f64) -> Option<f64> {
        let [one, two] = [self.place(&rows[0])?, self.place(&rows[1])?];
        let Precision { rest, floor, most_orders, .. } = self.precision;
        let norms = self.tables[one].table.left(0) + self.tables[two].table.left(0);
        let largest = if self.tokens > 2 { r[0].abs().max(r[1].abs()) } else { r[0].abs() };
        let (mut overlap, mut power) = (0.0, 1.0);
        let mut powers = Vec::new();
        let mut last = [1.0; 2];
        for n in 0..most_orders {
            self.extend(one, n);
            self.extend(two, n);
            powers.push(last);
            last = [0, 1].map(|k| last[k] * r[k]);
            power *= largest;
            let [one, two] = [&self.tables[one].table, &self.tables[two].table];
            overlap += one.overlap(two, n, &powers);
            let difference = (norms - 2.0 * overlap).max(0.0);
            let missing = 2.0 * power * (one.left(n + 1) * two.left(n + 1)).sqrt();
            // The difference of nearly equal laws is much smaller than either norm, and has the errors of the norms.
            if missing <= slack * (rest * (difference - missing)).max(floor * norms) {
                return Some(difference);
            }
        }
        None
    }
}

impl PerturbedPair {
    /// `E|sigma(h) - sigma(t)|_F^2` to 1e-7 for two and three tokens and to 5e-7 for four, with tables that were made for that number. The result is `None` for other
    /// numbers, and for a coupling or logits that are too large.
    pub(crate) fn by_quadrature(&self, tables: &mut RowTables) -> Option<f64> {
        self.by_rule(tables, &self.rule(tables.tokens, OUTER_STEP))
    }

    /// The same by the rule for another pair nearby. The difference of the two means is then smooth, and most tables serve for both.
    pub(crate) fn by_quadrature_beside(&self, other: &Self, tables: &mut RowTables) -> Option<f64> {
        self.by_rule(tables, &other.rule(tables.tokens, OUTER_STEP))
    }

    #[cfg(test)]
    fn with_step(&self, tables: &mut RowTables, step: f64) -> Option<f64> {
        self.by_rule(tables, &self.rule(tables.tokens, step))
    }

    fn by_rule(&self, tables: &mut RowTables, rule: &OuterRule) -> Option<f64> {
        let weak = |variance: &f64| self.coupling * variance <= MOST_COUPLING;
        let finite =
            |law: &NormalPair| law.variances.iter().all(|x| x.is_finite()) && law.covariance.is_finite();
        if !(2..=4).contains(&tables.tokens)
            || ![self.logits, self.chi].iter().all(finite)
            || !self.chi.variances.iter().all(weak)
        {
            return None;
        }
        let nodes = self.nodes(rule);
        // Whether all tables are small enough is known before the first is made.
        tables.make_room(nodes.iter().flat_map(|(at, _)| self.rows(*at)))?;
        let heaviest = nodes.iter().map(|(_, weight)| *weight).fold(0.0, f64::max);
        let mut sum = 0.0;
        for (at, weight) in nodes {
            let slack = (heaviest / weight).min(MOST_SLACK);
            sum += weight * self.given(tables, at, slack)?;
        }
        Some(tables.tokens as f64 * sum)
    }

    /// The rows given both `chi_0` in units of their deviations.
    fn rows(&self, at: [f64; 2]) -> [RowLaw; 2] {
        std::array::from_fn(|k| RowLaw {
            logits: self.logits.variances[k],
            chi: self.chi.variances[k],
            at: at[k],
            coupling: self.coupling,
        })
    }

    /// The mean squared difference of the rows given both `chi_0`.
    fn given(&self, tables: &mut RowTables, at: [f64; 2], slack: f64) -> Option<f64> {
        let rows = self.rows(at);
        let deviations = self.chi.variances.map(f64::sqrt);
        let product = at[0] * at[1] * deviations[0] * deviations[1];
        let perturbation = self.coupling * self.coupling * product * self.chi.covariance;
        let covariances = variances(tables.tokens, self.logits.covariance, perturbation);
        let [one, two] = rows.map(|row| row.variances(tables.tokens));
        let r = [0, 1]
            .map(|k| NormalPair { variances: [one[k], two[k]], covariance: covariances[k] }.correlation());
        tables.difference(rows, r, slack)
    }

    /// The rule over both `chi_0`.
    ///
    /// The nodes are a product, so that there are few tables. If the correlation is so large that this would need too many, the second nodes are
    /// relative to the first.
    fn rule(&self, tokens: usize, step: f64) -> OuterRule {
        let [first_vanishes, second_vanishes] =
            self.chi.variances.map(|variance| self.coupling * variance <= 0.0);
        let independent = self.independent();
        // The deviation of the logits vanishes at the end of the strip.
        let strips: [f64; 2] = std::array::from_fn(|k| {
            let [common, own] = variances(tokens, self.logits.variances[k], 0.0);
            let base = if tokens == 2 { common } else { own };
            base.sqrt() / (self.coupling * self.chi.variances[k])
        });
        let [least, most] = OUTER_STEPS.map(|limit| limit / OUTER_STEP);
        let [one, two] = strips.map(|strip| step * strip.sqrt().clamp(least, most));
        let second = if second_vanishes {
            OuterLine::Zero
        } else if independent < NARROW * strips[1].clamp(0.1, 1.0) {
            OuterLine::Narrow
        } else {
            // The step is a simple fraction, so that tables are found again when the correlation changes a little.
            OuterLine::Step(two / (0.25 * (4.0 * two / independent).ceil()).max(1.0))
        };
        [if first_vanishes { OuterLine::Zero } else { OuterLine::Step(one) }, second]
    }

    /// The deviation of the second `chi_0` given the first, in units of its deviation.
    fn independent(&self) -> f64 {
        let r = self.chi.correlation();
        (1.0 - r * r).max(0.0).sqrt()
    }

    /// The nodes of both `chi_0`, in units of their deviations, with their weights. The sign of `chi` does not matter, so that the first one
    /// is positive.
    fn nodes(&self, [first, second]: &OuterRule) -> Vec<([f64; 2], f64)> {
        let (r, independent) = (self.chi.correlation(), self.independent());
        let line = |step: f64| {
            let count = (OUTER_REACH / step).ceil() as usize;
            (0..count).map(move |k| (k as f64 + 0.5) * step)
        };
        let density = |z: f64| (-0.5 * z * z).exp() / TAU.sqrt();
        let firsts: Vec<[f64; 2]> = match *first {
            OuterLine::Step(step) => line(step).map(|x| [x, 2.0 * step * density(x)]).collect(),
            _ => vec![[0.0, 1.0]],
        };
        let seconds = |x: f64| -> Vec<[f64; 2]> {
            match *second {
                OuterLine::Zero => vec![[0.0, 1.0]],
                OuterLine::Narrow => FIVE_NODES.map(|[z, weight]| [r * x + independent * z, weight]).to_vec(),
                OuterLine::Step(step) => {
                    let weight = |y: f64| step * density((y - r * x) / independent) / independent;
                    line(step).flat_map(|y| [y, -y]).map(|y| [y, weight(y)]).collect()
                }
            }
        };
        let mut nodes = Vec::new();
        for [x, first] in firsts {
            for [y, second] in seconds(x) {
                if first * second > NEGLIGIBLE {
                    nodes.push(([x, y], first * second));
                }
            }
        }
        nodes
    }
}

/// The nodes of both `chi_0`.
type OuterRule = [OuterLine; 2];

/// The nodes of one `chi_0`.
#[derive(Debug, Clone, Copy)]
enum OuterLine {
    /// It vanishes.
    Zero,
    /// Nodes with a spacing.
    Step(f64),
    /// A few nodes around the mean given the other one.
    Narrow,
}

/// The rule of Gauss with five nodes for a standard normal, which is exact for polynomials of ninth degree.
const FIVE_NODES: [[f64; 2]; 5] = [
    [-2.856_970_013_872_805_6, 0.011_257_411_327_720_69],
    [-1.355_626_179_974_266, 0.222_075_922_005_612_66],
    [0.0, 8.0 / 15.0],
    [1.355_626_179_974_266, 0.222_075_922_005_612_66],
    [2.856_970_013_872_805_6, 0.011_257_411_327_720_69],
];

impl NormalPair {
    /// `E|sigma(h) - sigma(t)|_F^2` to 1e-11 for two and three tokens, and to 1e-8 for four, with tables that [`RowTables::fine`] has made, in which
    /// later pairs find the rules and rows of earlier ones. The result is `None` for other numbers, and for
    /// logits that are too large for the rule.
    pub(crate) fn by_quadrature(&self, tables: &mut RowTables) -> Option<f64> {
        if !(2..=4).contains(&tables.tokens) {
            return None;
        }
        if self.variances.iter().all(|variance| (variance - self.covariance).abs() <= 0.0) {
            // The two matrices are equal, and rounding must not make them differ.
            return Some(0.0);
        }
        PerturbedPair::unperturbed(*self).by_quadrature(tables)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::rows::sampling::RowColumns;
    use crate::channel::softmax::softmax_row;
    use crate::options::Options;
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

    fn normals([one, two, covariance]: [f64; 3]) -> NormalPair {
        NormalPair { variances: [one, two], covariance }
    }

    fn perturbed(logits: [f64; 3], chi: [f64; 3], coupling: f64) -> PerturbedPair {
        PerturbedPair { logits: normals(logits), chi: normals(chi), coupling }
    }

    /// Typical laws, and the corners: without a perturbation of the first matrix, steep logits, flat ones beside the largest coupling,
    /// and correlations next to one.
    fn pairs() -> Vec<PerturbedPair> {
        vec![
            perturbed([2.4, 4.5, 2.2], [0.72, 1.0, 0.814], 1.0),
            perturbed([2.4, 4.5, 2.2], [0.72, 1.0, -0.4], 0.3),
            perturbed([2.4, 4.5, 2.2], [0.0, 1.0, 0.0], 1.0),
            perturbed([2.4, 4.5, 2.2], [0.9, 0.0, 0.0], 1.0),
            perturbed([7.0, 9.0, 6.0], [0.5, 1.0, 0.2], 0.7),
            perturbed([0.5, 0.7, 0.4], [0.9, 1.0, 0.7], 1.9),
            perturbed([2.4, 4.5, 2.2], [1.0, 1.0, 0.6], 2.0),
            perturbed([2.4, 4.5, 2.2], [0.72, 1.0, 0.845], 1.0),
            perturbed([2.4, 4.5, 2.2], [0.81, 1.0, 0.9], 0.5),
        ]
    }

    fn exact(pair: &NormalPair, tokens: usize) -> Option<f64> {
        pair.by_quadrature(&mut RowTables::fine(tokens))
    }

    fn mean(pair: &PerturbedPair, tokens: usize) -> Option<f64> {
        pair.by_quadrature(&mut RowTables::new(tokens))
    }

    /// The error that is promised for rows with a perturbation.
    fn exactness(tokens: usize) -> f64 {
        if tokens == 4 { 5e-7 } else { 1e-7 }
    }

    /// The tables of four tokens at nearly equal perturbations are large.
    #[test]
    fn tables_are_forgotten_before_there_are_too_many() {
        let mut tables = RowTables::new(4);
        for number in 0..6 {
            let chi = 0.7 + 0.05 * f64::from(number);
            let pair = PerturbedPair {
                logits: NormalPair { variances: [2.4, 3.0], covariance: 1.1 },
                chi: NormalPair { variances: [chi, 1.0], covariance: 0.999 * chi.sqrt() },
                coupling: 1.0,
            };
            let _ = pair.by_quadrature(&mut tables);
            let held: usize = tables.tables.iter().map(|entry| entry.table.numbers()).sum();
            assert!(held == tables.numbers && held <= MOST_NUMBERS, "{held} and {}", tables.numbers);
        }
        assert!(!tables.tables.is_empty());
    }

    #[test]
    fn quadrature_agrees_with_a_product_rule() {
        for pair in [[4.5, 0.4, 0.9], [1.5, 1.5, 1.2], [2.0, 0.0, 0.0]].map(normals) {
            let [two, three] = [2, 3].map(|tokens| exact(&pair, tokens).unwrap());
            approx::assert_abs_diff_eq!(two, brute_force::<2>(&pair, 0.125), epsilon = 2e-10);
            approx::assert_abs_diff_eq!(three, brute_force::<3>(&pair, 0.4), epsilon = 2e-5);
        }
    }

    #[test]
    fn quadrature_does_not_depend_on_its_step() {
        for tokens in [2, 3, 4] {
            let fine = Precision::fine(tokens);
            for law in [[4.5, 4.5, 2.7], [4.5, 4.5, 4.4], [9.0, 0.1, 0.5], [40.0, 30.0, 20.0]] {
                let pair = normals(law);
                let Some(mean) = exact(&pair, tokens) else {
                    assert!(tokens == 4 && law[0] > 9.0, "{tokens}, {law:?}");
                    continue;
                };
                let finer = Precision {
                    rule: 1.1 * fine.rule,
                    most_nodes: 1 << 18,
                    most_numbers: usize::MAX,
                    rest: 0.1 * fine.rest,
                    ..fine
                };
                let finer = PerturbedPair::unperturbed(pair)
                    .with_step(&mut RowTables::with(tokens, finer), OUTER_STEP)
                    .unwrap();
                approx::assert_abs_diff_eq!(mean, finer, epsilon = if tokens == 4 { 2e-8 } else { 1e-11 });
            }
        }
    }

    #[test]
    fn perturbed_rows_do_not_depend_on_the_steps() {
        for tokens in [2, 3, 4] {
            for (number, pair) in pairs().iter().enumerate() {
                let Some(rule) = mean(pair, tokens) else {
                    // Many nodes at small steps are left to sampling.
                    assert!(tokens == 4 && pair.coupling > 1.5, "{tokens}: pair {number}");
                    continue;
                };
                let coarse = Precision::coarse(tokens);
                let fine = Precision {
                    rule: 1.15 * coarse.rule,
                    rest: 1e-9,
                    most_nodes: 1 << 17,
                    most_numbers: usize::MAX,
                    ..coarse
                };
                // With four tokens, the inner and the outer rule are refined one after the other.
                let refined = if tokens == 4 {
                    vec![
                        (fine, OUTER_STEP),
                        (Precision { most_numbers: usize::MAX, ..coarse }, 0.5 * OUTER_STEP),
                    ]
                } else {
                    vec![(fine, 0.5 * OUTER_STEP)]
                };
                for (precision, step) in refined {
                    let fine = pair.with_step(&mut RowTables::with(tokens, precision), step).unwrap();
                    approx::assert_abs_diff_eq!(rule, fine, epsilon = exactness(tokens));
                }
                // The nodes of both matrices are not the same.
                let reversed = |NormalPair { variances: [one, two], covariance }| NormalPair {
                    variances: [two, one],
                    covariance,
                };
                let reversed =
                    PerturbedPair { logits: reversed(pair.logits), chi: reversed(pair.chi), ..*pair };
                approx::assert_abs_diff_eq!(
                    rule,
                    mean(&reversed, tokens).unwrap(),
                    epsilon = exactness(tokens)
                );
            }
        }
    }

    #[test]
    fn perturbed_rows_agree_with_samples() {
        let options = Options::default().with_log2_nodes(11).unwrap();
        let scrambles = 64;
        for tokens in [2, 3, 4] {
            for (number, pair) in pairs().iter().enumerate() {
                let Some(rule) = mean(pair, tokens) else { continue };
                let columns = |scramble| RowColumns::new(tokens, true, &options, scramble).unwrap();
                let means: Vec<f64> =
                    (0..scrambles).map(|scramble| pair.mean(tokens, &columns(scramble)).unwrap()).collect();
                let mean = means.iter().sum::<f64>() / scrambles as f64;
                let error = standard_error(means.into_iter()).unwrap();
                assert!((mean - rule).abs() < 4.0 * error, "{tokens}, {number}: {mean} +- {error}, {rule}");
                assert!(error < 2e-3 * mean, "{tokens}, {number}: {mean} +- {error}");
            }
        }
    }

    #[test]
    fn rows_without_a_perturbation_have_the_other_rule() {
        for tokens in [2, 3, 4] {
            for law in [[2.4, 4.5, 2.2], [2.4, 2.6, 2.4], [3.0, 0.0, 0.0]] {
                let exact = exact(&normals(law), tokens).unwrap();
                for (chi, coupling) in [([0.0; 3], 1.0), ([0.7, 1.0, 0.6], 0.0)] {
                    let rule = mean(&perturbed(law, chi, coupling), tokens).unwrap();
                    approx::assert_abs_diff_eq!(rule, exact, epsilon = exactness(tokens));
                }
                // The perturbation enters by its square.
                let weak = mean(&perturbed(law, [0.7, 1.0, 0.6], 1e-3), tokens).unwrap();
                approx::assert_abs_diff_eq!(weak, exact, epsilon = 1e-5);
            }
        }
    }

    #[test]
    fn the_two_rules_for_close_perturbations_agree() {
        for tokens in [2, 3, 4] {
            let at = |independent: f64| {
                let covariance = 0.8 * (1.0 - independent * independent).sqrt();
                mean(&perturbed([1.0, 2.0, 1.0], [0.64, 1.0, covariance], 0.6), tokens).unwrap()
            };
            // The strip is wider than one.
            let [below, above] = [1.0 - 1e-6, 1.0 + 1e-6].map(|factor| at(factor * NARROW));
            approx::assert_abs_diff_eq!(below, above, epsilon = exactness(tokens));
            approx::assert_abs_diff_eq!(at(0.0), at(1e-4), epsilon = exactness(tokens));
        }
    }

    #[test]
    fn equal_logits_have_no_difference() {
        for tokens in [2, 3, 4] {
            let same = normals([2.0; 3]);
            assert!(exact(&same, tokens).unwrap() < 1e-12);
            assert!(exact(&normals([0.0; 3]), tokens).unwrap() < 1e-12);
            assert!(exact(&normals([1e9, 1.0, 0.0]), tokens).is_none());
            assert!(mean(&perturbed([2.0; 3], [1.0; 3], 0.5), tokens).unwrap() < exactness(tokens));
        }
        assert!(exact(&normals([1.0, 1.0, 0.0]), 5).is_none());
    }

    #[test]
    fn what_is_too_much_for_the_rule_is_left_out() {
        let (logits, chi) = ([1.0, 1.0, 0.5], [0.5, 1.0, 0.4]);
        for tokens in [2, 3] {
            assert!(mean(&perturbed(logits, chi, MOST_COUPLING), tokens).is_some());
            assert!(mean(&perturbed(logits, chi, 1.001 * MOST_COUPLING), tokens).is_none());
            assert!(mean(&perturbed([1e7, 1.0, 0.5], chi, 1.0), tokens).is_none());
            for k in 0..3 {
                let spoilt = |law: [f64; 3]| std::array::from_fn(|l| if l == k { f64::NAN } else { law[l] });
                assert!(mean(&perturbed(spoilt(logits), chi, 1.0), tokens).is_none(), "{k}");
                assert!(mean(&perturbed(logits, spoilt(chi), 1.0), tokens).is_none(), "{k}");
            }
            assert!(mean(&perturbed(logits, chi, f64::NAN), tokens).is_none());
        }
        assert!(mean(&perturbed(logits, chi, 1.0), 5).is_none());
    }
}
