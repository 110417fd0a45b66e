//! The averages by quasi-Monte-Carlo over the frozen logits, the label's noise, `chi*` and `omega`.

use super::layout::ColumnLayout;
use super::overlaps::{ColumnMoments, ColumnOverlaps, MAX_TERMS, TermIndex, is_zero};
use crate::activation::Unseen;
use crate::attention::Attention;
use crate::channel::general::{
    CoordinateBasis, LastPoints, LocalExpansion, Prox, batch_size, inverse, inverses,
};
use crate::error::Error;
use crate::fields::{FieldColumns, JointLaw, LabelNoise};
use crate::lanes::{LANES, Lane};
use crate::losses::batch::matrices;
use crate::losses::vector::general::{FieldsBlock, LearnedColumn, PerturbedLayer};
use crate::losses::vector::moments::term;
use crate::options::Options;
use crate::quadrature::ScrambledSobol;
use crate::state_evolution::{Averages, OutputChannel, Pass, Samples, Tuning};

/// The law of the logits.
#[derive(Clone, Copy)]
pub(crate) enum FieldSource<'a> {
    /// Linear attention, which sees what the frozen weights leave of the label only.
    Difference(&'a LabelNoise),
    /// Any other activation.
    Joint(&'a JointLaw),
}

/// Quasi-Monte-Carlo averages over several scrambles, in units of the largest true variance.
pub(crate) struct ColumnNodes {
    layer: PerturbedLayer,
    layout: ColumnLayout,
    /// Whether the derivative by `chi*` is taken pointwise. It is known for linear attention.
    pointwise: bool,
    samples: Samples<FieldsBlock, LastPoints>,
}

/// The learned columns that do not vanish, in their order.
pub(super) fn learned_columns(layout: &ColumnLayout, point: &ColumnOverlaps) -> Vec<LearnedColumn> {
    let of_column = |(number, group): (usize, usize)| {
        let own = &point.groups[group];
        let truth = layout.true_column(number);
        (!is_zero(own)).then(|| LearnedColumn { number, truth, m: own.m, deviation: own.deviation() })
    };
    layout.group_of_column().enumerate().filter_map(of_column).collect()
}

/// The columns of standard normals for linear attention. The most important ones come first.
#[derive(Default)]
struct NoiseColumns {
    star: Vec<Vec<f64>>,
    free: Vec<Vec<f64>>,
    noise: Vec<Vec<f64>>,
}

impl NoiseColumns {
    fn write(&mut self, widths: [usize; 3], options: &Options, index: usize) -> Result<(), Error> {
        let log2_nodes = options.log2_nodes() as u32;
        let points = ScrambledSobol::new(widths.iter().sum(), log2_nodes, options.seed(), index as u64)?;
        points.write_groups([&mut self.star, &mut self.free, &mut self.noise], widths)
    }

    fn block(&self, layer: &PerturbedLayer, noise: &LabelNoise, first: usize, size: usize) -> FieldsBlock {
        let tokens = layer.tokens;
        let basis = CoordinateBasis::new(tokens, layer.attention, Unseen::Nothing);
        let of_node = |node: usize| {
            let coordinates = noise.coordinates(tokens, |k| self.noise[k][node]);
            coordinates.into_iter().take(basis.dimension()).collect::<Vec<_>>()
        };
        let coordinates: Vec<f64> = (first..first + size).flat_map(of_node).collect();
        let label = matrices(&basis, tokens, &coordinates, 1.0);
        let [star, free] = [(&self.star, layer.truth.len()), (&self.free, layer.rank)]
            .map(|(normals, columns)| layer.normal_fields(normals, columns, first, size));
        layer.labelled(vec![0.0; label.len()], label, star, free)
    }
}

impl ColumnNodes {
    pub(crate) fn new(
        layer: PerturbedLayer,
        layout: ColumnLayout,
        source: FieldSource<'_>,
        options: &Options,
        tuning: &Tuning,
    ) -> Result<Self, Error> {
        let tokens = layer.tokens;
        let size = batch_size(tokens, tokens * layer.rank);
        let (star, free) = (layer.normals(layer.truth.len()), layer.normals(layer.rank));
        let nothing = LastPoints::default();
        let samples = match source {
            FieldSource::Difference(noise) => {
                let widths = [star, free, noise.dimensions(tokens)];
                let columns = |index, columns: &mut NoiseColumns| columns.write(widths, options, index);
                let block = |columns: &NoiseColumns, first| columns.block(&layer, noise, first, size);
                Samples::new(options, tuning, size, nothing, columns, block)?
            }
            FieldSource::Joint(law) => {
                let basis = CoordinateBasis::new(tokens, layer.attention, layer.activation.unseen());
                let columns = |index, columns: &mut FieldColumns| {
                    columns.write([star, free], law, options, index, false)
                };
                let block = |columns: &FieldColumns, first| layer.block(law, &basis, columns, first, size);
                Samples::new(options, tuning, size, nothing, columns, block)?
            }
        };
        let pointwise = matches!(source, FieldSource::Difference(_));
        Ok(Self { layer, layout, pointwise, samples })
    }

    pub(super) fn layer(&self) -> &PerturbedLayer {
        &self.layer
    }

    pub(super) fn samples(&self) -> &Samples<FieldsBlock, LastPoints> {
        &self.samples
    }
}

/// The averages at one point.
struct ColumnKernel<'a> {
    layer: &'a PerturbedLayer,
    layout: &'a ColumnLayout,
    pointwise: bool,
    /// Whether all averages are needed, and not only those of a step by parts.
    complete: bool,
    point: &'a ColumnOverlaps,
    learned: Vec<LearnedColumn>,
    group_of_column: Vec<usize>,
    centring: f64,
}

impl<'a> ColumnKernel<'a> {
    fn new(
        layer: &'a PerturbedLayer,
        layout: &'a ColumnLayout,
        pointwise: bool,
        complete: bool,
        point: &'a ColumnOverlaps,
    ) -> Self {
        Self {
            layer,
            layout,
            pointwise,
            complete,
            point,
            learned: learned_columns(layout, point),
            group_of_column: layout.group_of_column().collect(),
            centring: layout.centring(point),
        }
    }

    /// The group of a learned column that does not vanish.
    fn group(&self, column: &LearnedColumn) -> usize {
        self.group_of_column[column.number]
    }

    /// Adds the terms of every sample of a block to `sums`.
    fn accumulate(&self, block: &FieldsBlock, known: &mut LastPoints, sums: &mut [Lane; MAX_TERMS]) {
        let Self { layer, learned, .. } = self;
        let index = TermIndex { groups: self.point.groups.len() };
        let omega = layer.learned_fields(learned, &block.star, &block.free);
        let found = self.minima(block, &omega, known);
        let square = layer.tokens * layer.tokens;
        let length = ColumnMoments::length(index.groups);
        let response = self.response(&found, layer.tokens * learned.len());
        let mut terms = [0.0; MAX_TERMS];
        for s in 0..block.label.len() / square {
            terms[..length].fill(0.0);
            if !learned.is_empty() {
                self.add_learned(block, &omega, &found, &response, s, &mut terms);
            }
            match layer.attention {
                Attention::Tied => self.add_zero(block, &found, s, &mut terms),
                Attention::Cross => self.add_zero_of_factors(block, &found, s, &mut terms),
            }
            let slope = &found.slope[s * square..(s + 1) * square];
            let centring = match layer.attention {
                Attention::Tied => -layer.coupling * slope.iter().step_by(layer.tokens + 1).sum::<f64>(),
                Attention::Cross => 0.0,
            };
            for group in 0..index.groups {
                terms[index.of(group, term::CENTRING)] = centring;
                terms[index.of(group, term::LOSS)] = found.loss[s];
            }
            terms[index.contested()] = if known.contested.get(s) == Some(&true) { 1.0 } else { 0.0 };
            for (sum, term) in sums.iter_mut().zip(&terms[..length]) {
                sum[s % LANES] += term;
            }
        }
    }

    /// The proximal points of a block, in the columns that do not vanish. If all vanish, the losses at zero.
    fn minima(&self, block: &FieldsBlock, omega: &[f64], known: &mut LastPoints) -> LocalExpansion {
        let Self { layer, learned, .. } = self;
        let activation = layer.activation.as_ref();
        if learned.is_empty() {
            let tokens = layer.tokens;
            let factors = layer.attention.factors() as usize;
            let zero = vec![0.0; factors * block.label.len() / tokens];
            let map = layer.perturbation(factors, &block.frozen, 0.0);
            let stiffness = vec![0.0; factors * tokens];
            let prox = Prox { activation, map, label: &block.y, omega: &zero, stiffness: &stiffness };
            return prox.at(zero.clone());
        }
        let of_token = learned.iter().map(|column| 1.0 / self.point.groups[self.group(column)].v);
        let stiffness: Vec<f64> = of_token.collect::<Vec<_>>().repeat(layer.tokens);
        let map = layer.perturbation(learned.len(), &block.frozen, self.centring);
        let prox = Prox { activation, map, label: &block.y, omega, stiffness: &stiffness };
        known.require(omega.len());
        prox.minima_near(known, |samples| {
            let truth = layer.true_fields(&block.star);
            let width = layer.truth.len();
            let star: Vec<f64> = omega
                .chunks_exact(learned.len())
                .zip(truth.chunks_exact(width))
                .flat_map(|(omega, truth)| {
                    let pairs = learned.iter().zip(omega);
                    pairs.map(|(column, omega)| column.truth.map_or(*omega, |number| truth[number]))
                })
                .collect();
            match layer.attention {
                Attention::Tied => prox.column_starts(samples, &star, &block.label),
                Attention::Cross => prox.factor_starts(samples, &star, &block.label),
            }
        })
    }

    /// `H^{-1}` of every sample, with the Hessians `H` at the minima; empty if it is not needed. The Hessian at a minimum
    /// is positive definite; a sample without a minimum makes the sums NaN.
    fn response(&self, found: &LocalExpansion, n: usize) -> Vec<f64> {
        let needed = (self.complete || self.pointwise) && n > 0;
        if needed { inverses(&found.hessian, n) } else { Vec::new() }
    }

    /// Adds the terms of the columns that do not vanish, for sample `s`.
    fn add_learned(
        &self,
        block: &FieldsBlock,
        omega: &[f64],
        found: &LocalExpansion,
        response: &[f64],
        s: usize,
        terms: &mut [f64; MAX_TERMS],
    ) {
        let Self { layer, layout, learned, point, .. } = self;
        let index = TermIndex { groups: point.groups.len() };
        let (tokens, columns) = (layer.tokens, learned.len());
        let n = tokens * columns;
        let response = response.get(s * n * n..(s + 1) * n * n);
        let chi = &found.x[s * n..(s + 1) * n];
        let omega = &omega[s * n..(s + 1) * n];
        let star = &block.star[s * tokens * layer.truth.len()..];
        let free = &block.free[s * tokens * layer.rank..];
        for (k, column) in learned.iter().enumerate() {
            let row = self.group(column);
            let own = &point.groups[row];
            let shape = layout.groups()[row];
            let (stiff, share) = (1.0 / own.v, 1.0 / shape.members());
            let add =
                |terms: &mut [f64; MAX_TERMS], term: usize, x: f64| terms[index.of(row, term)] += share * x;
            let [mut g_free, mut g_star, mut free_star, mut g2, mut free2, mut star2] = [0.0; 6];
            for a in 0..tokens {
                let i = a * columns + k;
                let f = free[a * layer.rank + column.number];
                let n = column.truth.map_or(0.0, |number| star[a * layer.truth.len() + number]);
                let g = (chi[i] - omega[i]) * stiff;
                g_free += g * f;
                g_star += g * n;
                free_star += f * n;
                g2 += g * g;
                free2 += f * f;
                star2 += n * n;
            }
            add(terms, term::GRADIENT_FREE, g_free);
            add(terms, term::GRADIENT_STAR, g_star);
            add(terms, term::GRADIENT2, g2);
            add(terms, term::FREE2, free2);
            add(terms, term::FREE_STAR, free_star);
            // Columns in excess have no chi*. Any orthogonal field in its place leaves the integration by parts as it is.
            add(terms, term::STAR2, if shape.variance.is_some() { star2 } else { tokens as f64 });
            // The stability is taken by parts, so that the jumps are included. It is used at m = 0 only, where omega
            // does not depend on chi*.
            add(terms, term::STABILITY, g_star * free_star / own.deviation());
            if let (Attention::Cross, Some(other)) = (layer.attention, self.partner(learned, k)) {
                let fields = |a: usize| {
                    let n = other.truth.map_or(0.0, |number| star[a * layer.truth.len() + number]);
                    n * free[a * layer.rank + other.number]
                };
                let along =
                    (0..tokens).map(fields).sum::<f64>() / point.groups[self.group(other)].deviation();
                terms[index.exchanged(row)] += share * g_star * along;
            }
            let Some(response) = response else { continue };
            let trace: f64 = (0..tokens).map(|a| response[(a * columns + k) * (n + 1)] * stiff - 1.0).sum();
            add(terms, term::DIVERGENCE_OMEGA, trace * stiff);
            if self.pointwise
                && let Some(variance) = shape.variance
            {
                // The true column of the other factor, or the same one if there is a single factor.
                let other = column.truth.map_or(0, |number| self.other_factor(number, layer.truth.len()));
                let field = |a: usize| variance.sqrt() * star[a * layer.truth.len() + other];
                let curvature = 2.0 * layer.attention.logit_variance() / (tokens * tokens) as f64;
                let along = self.along_star(response, chi, &field, k, columns);
                add(terms, term::DIVERGENCE_STAR, curvature * variance.sqrt() * stiff * along);
            }
            for (l, other) in learned.iter().enumerate() {
                let other_group = self.group(other);
                let other_stiff = 1.0 / point.groups[other_group].v;
                let mut norm2 = 0.0;
                for a in 0..tokens {
                    for b in 0..tokens {
                        let (i, j) = (a * columns + k, b * columns + l);
                        let diagonal = if i == j { 1.0 } else { 0.0 };
                        norm2 += (response[i * n + j] * other_stiff - diagonal).powi(2);
                    }
                }
                terms[index.replicon(row, other_group)] += share * norm2;
                if k == l {
                    terms[index.of(row, term::REPLICON)] += share * norm2;
                }
            }
        }
    }

    /// The number, among `count` columns of both factors, of the column of the other factor that belongs to a column. With a single
    /// factor it is the column itself.
    fn other_factor(&self, number: usize, count: usize) -> usize {
        match self.layer.attention {
            Attention::Tied => number,
            Attention::Cross => (number + count / 2) % count,
        }
    }

    /// The learned column of the other factor that belongs to column `k`.
    fn partner<'b>(&self, learned: &'b [LearnedColumn], k: usize) -> Option<&'b LearnedColumn> {
        learned.get(self.other_factor(k, learned.len()))
    }

    /// `sum_ab,l (H^{-1})_{(a k),(b l)} (delta_ab chi*_k . chi_l + chi*_k(b) chi_l(a))`, the divergence of `chi_p` by `chi*_k` for linear
    /// attention, over the curvature of the loss. `response` is `H^{-1}`, and `star` gives `chi*_k`. With two factors, `chi*_k` is that of
    /// the other factor, and the sum is
    /// `sum_ab,l (delta_ab (H^{-1})_{(a k),(b l)} chi*_k . chi_l' + (H^{-1})_{(a k),(b l')} chi*_k(b) chi_l(a))`, where `l` runs over the
    /// columns of the factor of `k`, and `l'` is the column of the other factor that belongs to `l`.
    fn along_star(
        &self,
        response: &[f64],
        chi: &[f64],
        star: &impl Fn(usize) -> f64,
        k: usize,
        columns: usize,
    ) -> f64 {
        let tokens = self.layer.tokens;
        let n = tokens * columns;
        let own = match self.layer.attention {
            Attention::Tied => 0..columns,
            Attention::Cross if k < columns / 2 => 0..columns / 2,
            Attention::Cross => columns / 2..columns,
        };
        let mut sum = 0.0;
        for l in own {
            let other = self.other_factor(l, columns);
            let overlap: f64 = (0..tokens).map(|a| star(a) * chi[a * columns + other]).sum();
            for a in 0..tokens {
                let row = &response[(a * columns + k) * n..];
                sum += row[a * columns + l] * overlap;
                let turned: f64 = (0..tokens).map(|b| row[b * columns + other] * star(b)).sum();
                sum += turned * chi[a * columns + l];
            }
        }
        sum
    }

    /// Adds the terms of the pairs of columns that vanish, for sample `s`. There `g = -R omega` with `R = H0 (1 + v H0)^{-1}`,
    /// where `H0 = [[0, G], [G^T, 0]]` is the curvature of the loss along any pair of columns of the two factors.
    fn add_zero_of_factors(
        &self,
        block: &FieldsBlock,
        found: &LocalExpansion,
        s: usize,
        terms: &mut [f64; MAX_TERMS],
    ) {
        let Self { layer, layout, point, .. } = self;
        let index = TermIndex { groups: point.groups.len() };
        let n = layer.tokens;
        let slope = &found.slope[s * n * n..(s + 1) * n * n];
        let star = &block.star[s * n * layer.truth.len()..];
        let mut first = 0;
        for groups in layout.pairs() {
            let column = first;
            let shape = layout.groups()[groups[0]];
            first += shape.count;
            if !is_zero(&point.groups[groups[0]]) {
                continue;
            }
            let stiff = groups.map(|group| 1.0 / point.groups[group].v);
            let mut hessian = vec![0.0; 4 * n * n];
            for a in 0..n {
                hessian[a * (2 * n + 1)] = stiff[0];
                hessian[(n + a) * (2 * n + 1)] = stiff[1];
                for b in 0..n {
                    let entry = layer.coupling * slope[a * n + b];
                    hessian[a * 2 * n + n + b] = entry;
                    hessian[(n + b) * 2 * n + a] = entry;
                }
            }
            // Where zero is not a minimum, the sums become NaN. The loss of linear attention is not bounded, and has such samples at
            // any ridge. They are so rare that they are left out.
            let Some(response) =
                inverse(&hessian, 2 * n).or_else(|| (!self.pointwise).then(|| vec![f64::NAN; 4 * n * n]))
            else {
                continue;
            };
            let share = 1.0 / if groups[0] == groups[1] { 2.0 } else { 1.0 };
            let field = |i: usize| {
                let number = column + if i < n { 0 } else { layout.truth().len() };
                star[i % n * layer.truth.len() + number]
            };
            for i in 0..2 * n {
                let side = i / n;
                let group = groups[side];
                for j in 0..2 * n {
                    let diagonal = if i == j { 1.0 } else { 0.0 };
                    let entry = response[i * 2 * n + j] * stiff[j / n] - diagonal;
                    terms[index.of(group, term::DIVERGENCE_OMEGA)] += share * diagonal * entry * stiff[side];
                    terms[index.of(group, term::REPLICON)] += share * entry * entry;
                    terms[index.replicon(group, groups[j / n])] += share * entry * entry;
                    if shape.variance.is_some() {
                        let growth = share * field(i) * entry * field(j) * stiff[side];
                        let term = if side == j / n {
                            index.of(group, term::STABILITY)
                        } else {
                            index.exchanged(group)
                        };
                        terms[term] += growth;
                    }
                }
            }
        }
    }

    /// Adds the terms of the columns that vanish, for sample `s`. There `g = -R omega` with `R = H0 (1 + v H0)^{-1}`,
    /// where `H0` is the curvature of the loss along any such column.
    fn add_zero(&self, block: &FieldsBlock, found: &LocalExpansion, s: usize, terms: &mut [f64; MAX_TERMS]) {
        let Self { layer, layout, point, .. } = self;
        let index = TermIndex { groups: point.groups.len() };
        let n = layer.tokens;
        let slope = &found.slope[s * n * n..(s + 1) * n * n];
        let star = &block.star[s * n * layer.truth.len()..];
        let mut first = 0;
        for (group, (own, shape)) in point.groups.iter().zip(layout.groups()).enumerate() {
            let column = first;
            first += shape.count;
            if !is_zero(own) {
                continue;
            }
            let stiff = 1.0 / own.v;
            let mut hessian = vec![0.0; n * n];
            for a in 0..n {
                for b in 0..n {
                    let pull = if a == b { stiff } else { 0.0 };
                    hessian[a * n + b] = layer.coupling * (slope[a * n + b] + slope[b * n + a]) + pull;
                }
            }
            // Where zero is not a minimum, the sums become NaN.
            let response = inverse(&hessian, n).unwrap_or_else(|| vec![f64::NAN; n * n]);
            let (mut trace, mut square, mut growth) = (0.0, 0.0, 0.0);
            for a in 0..n {
                for b in 0..n {
                    let diagonal = if a == b { 1.0 } else { 0.0 };
                    let entry = response[a * n + b] * stiff - diagonal;
                    trace += diagonal * entry;
                    square += entry * entry;
                    if shape.variance.is_some() {
                        let of_token = |token: usize| star[token * layer.truth.len() + column];
                        growth += of_token(a) * entry * of_token(b);
                    }
                }
            }
            terms[index.of(group, term::DIVERGENCE_OMEGA)] = trace * stiff;
            terms[index.of(group, term::REPLICON)] = square;
            terms[index.of(group, term::STABILITY)] = growth * stiff;
            terms[index.replicon(group, group)] = square;
        }
    }
}

impl OutputChannel for ColumnNodes {
    type Point = ColumnOverlaps;
    type Averages = ColumnMoments;

    fn levels(&self) -> usize {
        self.samples.levels()
    }

    fn resolution(&self) -> f64 {
        // Between two evaluations, a few nodes in a thousand may change from one minimum to another.
        1e-3
    }

    fn averages(&mut self, level: usize, pass: Pass, point: &ColumnOverlaps) -> Vec<ColumnMoments> {
        if level == 0 {
            // An approach moves far in each step, and its nodes are few.
            self.samples.remember(LastPoints::doubt);
        }
        let Self { layer, layout, pointwise, samples } = self;
        let kernel = ColumnKernel::new(layer, layout, *pointwise, pass != Pass::Step, point);
        let means = samples.means(level, pass, |block, known, sums| kernel.accumulate(block, known, sums));
        let length = ColumnMoments::length(point.groups.len());
        means.into_iter().map(|means| ColumnMoments::from_terms(&means[..length])).collect()
    }

    /// The next evaluation tries all starts of every proximal point.
    fn prepare(&mut self, _level: usize, _point: &ColumnOverlaps) {
        self.samples.remember(LastPoints::doubt);
    }
}
