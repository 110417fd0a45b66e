//! The curve `G(q)` of one channel, and its fixed points at any `alpha'`.
//!
//! The table holds `ln(G/q)` as a function of `l = ln(q/(1-q))`. This function is smooth and tends to a
//! constant at `q -> 0` and, unless the channel is noiseless, at `q -> 1`. The error of Chebyshev
//! interpolation in `l` is smaller than the error of the average over nodes.

use super::kernel::{Kernel, Responses};
use crate::roots::{self, End};
use crate::std_error::standard_error;

/// Smallest `l` of the table. Below it `G/q` is linear in `q`, to 1e-8.
const LOWEST: f64 = -9.0;
/// Number of Chebyshev nodes per unit of `l`.
const DENSITY: f64 = 2.4;
/// Number of cells per unit of `l` in the grid on which roots are bracketed.
const SCAN: f64 = 20.0;
/// An overlap so small that the response is that of a vanishing overlap.
const TINY: f64 = 1e-6;
/// Largest number of steps in the refinement of a root on the fine nodes.
const MAX_REFINEMENTS: usize = 12;

/// `q` and `1 - q`.
pub(super) fn overlaps(l: f64) -> [f64; 2] {
    [1.0 / (1.0 + (-l).exp()), 1.0 / (1.0 + l.exp())]
}

/// A fixed point of `q = alpha' S(q)`.
#[derive(Debug, Clone)]
pub(super) struct PosteriorOverlap {
    /// `ln(q/(1-q))`. It is infinite at no recovery and at perfect recovery.
    pub(super) l: f64,
    /// The value of `l` for every scramble by itself, to first order.
    pub(super) own: Vec<f64>,
    /// `Phi`.
    pub(super) free_energy: f64,
    /// `|ln alpha'(q) - ln alpha'|`.
    pub(super) residual: f64,
}

/// The average at one accuracy: one kernel for every scramble.
pub(super) type KernelLevel = Vec<Box<dyn Kernel>>;

/// A table of the curve, and the nodes from which it was made.
pub(super) struct PosteriorTable {
    tokens: f64,
    noiseless: bool,
    /// Nodes finer than those of the table, if the options have more.
    fine: Option<KernelLevel>,
    /// `ln(G/q)` from the mean over the scrambles.
    mean: Chebyshev,
    /// `ln(G/q)` of every scramble by itself.
    own: Vec<Chebyshev>,
    /// `S/q` at vanishing overlap: that of the table, and that of every scramble on the finest nodes.
    slope_at_zero: f64,
    fine_slopes: Vec<f64>,
    /// `l` and `ln alpha'(q)` on the grid by increasing `l`, with the integral of `G` up to each point.
    grid: Vec<GridPoint>,
    pub(super) evaluations: usize,
}

#[derive(Clone, Copy)]
struct GridPoint {
    l: f64,
    log_alpha: f64,
    integral: f64,
}

/// Mean of `S/q` over the scrambles.
fn mean_slope(responses: &[Responses]) -> f64 {
    responses.iter().map(|own| own.slope).sum::<f64>() / responses.len() as f64
}

fn mean(numbers: &[f64]) -> f64 {
    numbers.iter().sum::<f64>() / numbers.len() as f64
}

fn responses(level: &KernelLevel, overlap: f64) -> Vec<Responses> {
    level.iter().map(|kernel| kernel.responses(overlap)).collect()
}

impl PosteriorTable {
    /// Builds the table on the nodes of `coarse`. Roots of the table are refined on the nodes of `fine`, if
    /// there are any. `noise` is the effective noise in units of `q0^2`; it is 0 for the noiseless channel.
    pub(super) fn new(tokens: usize, noise: f64, coarse: &KernelLevel, fine: Option<KernelLevel>) -> Self {
        let noiseless = noise <= 0.0;
        // At the upper end 1 - q is far below the noise, and G has reached its limit.
        let highest = if noiseless { 20.0 } else { (4.0 / noise).ln().max(0.0) + 7.0 };
        let count = (DENSITY * (highest - LOWEST)).ceil() as usize;
        let nodes = Chebyshev::nodes(LOWEST, highest, count);
        let tabulated: Vec<Vec<Responses>> =
            nodes.iter().map(|l| responses(coarse, overlaps(*l)[0])).collect();
        // ln(G/q) = ln(S/q) - ln(1 - q)
        let interpolate = |slope: &dyn Fn(&[Responses]) -> f64| {
            let value = |(l, all): (&f64, &Vec<Responses>)| (slope(all) / overlaps(*l)[1]).ln();
            Chebyshev::new(&nodes, nodes.iter().zip(&tabulated).map(value).collect())
        };
        let mean = interpolate(&|all| mean_slope(all));
        let own = (0..coarse.len()).map(|k| interpolate(&|all| all[k].slope)).collect();
        let slope_at_zero = mean_slope(&responses(coarse, TINY));
        let finest = fine.as_ref().unwrap_or(coarse);
        let fine_slopes: Vec<f64> = responses(finest, TINY).iter().map(|own| own.slope).collect();
        let mut table = Self {
            tokens: tokens as f64,
            noiseless,
            fine,
            mean,
            own,
            slope_at_zero,
            fine_slopes,
            grid: Vec::new(),
            evaluations: count + 2,
        };
        table.grid = table.scan(highest);
        table
    }

    fn scan(&self, highest: f64) -> Vec<GridPoint> {
        let cells = (SCAN * (highest - LOWEST)).ceil() as usize;
        let step = (highest - LOWEST) / cells as f64;
        // G dq = G q (1 - q) dl
        let integrand = |l: f64| {
            let [q, v] = overlaps(l);
            self.mean.at(l).exp() * q * q * v
        };
        let [q, _] = overlaps(LOWEST);
        let mut integral = 0.5 * self.slope_at_zero * q * q;
        (0..=cells)
            .map(|k| {
                let l = LOWEST + step * k as f64;
                if k > 0 {
                    let ends = integrand(l - step) + integrand(l);
                    integral += step / 6.0 * (ends + 4.0 * integrand(l - 0.5 * step));
                }
                GridPoint { l, log_alpha: self.log_alpha(l), integral }
            })
            .collect()
    }

    /// `S/q` of every scramble, on the finest nodes.
    fn slopes(&self, l: f64) -> Vec<f64> {
        let [q, v] = overlaps(l);
        match &self.fine {
            Some(fine) => responses(fine, q).iter().map(|own| own.slope).collect(),
            None => self.own.iter().map(|own| own.at(l).exp() * v).collect(),
        }
    }

    /// `ln alpha'(q)` in the range of the table.
    fn log_alpha(&self, l: f64) -> f64 {
        let [_, v] = overlaps(l);
        -(self.mean.at(l) + v.ln())
    }

    /// `ln qhat = ln(alpha' G(q))`, which is `ln(q/(1-q))` after one iteration of message passing.
    pub(super) fn log_conjugate(&self, l: f64, alpha: f64) -> f64 {
        let [q, v] = overlaps(l);
        let inside = self.mean.nodes.last().map_or(l, |last| l.clamp(LOWEST, *last));
        // Beyond the table G is constant. Without noise, (1 - q) G is constant instead.
        let limit = if self.noiseless { (overlaps(inside)[1] / v).ln() } else { 0.0 };
        alpha.ln() + self.mean.at(inside) + q.ln() + limit
    }

    /// The threshold of weak recovery, where `q = 0` loses stability: that of the mean over the scrambles,
    /// and that of every scramble.
    pub(super) fn weak_recovery(&self) -> (f64, Vec<f64>) {
        (1.0 / mean(&self.fine_slopes), self.fine_slopes.iter().map(|slope| 1.0 / slope).collect())
    }

    /// The stable fixed points at `alpha'`, in increasing order of the overlap.
    pub(super) fn stable(&self, alpha: f64) -> Vec<PosteriorOverlap> {
        let log_alpha = alpha.ln();
        let mut found = Vec::new();
        let (first, last) = (self.grid[0], self.grid[self.grid.len() - 1]);
        if alpha * self.slope_at_zero <= 1.0 {
            found.push(self.nothing());
        } else if first.log_alpha > log_alpha {
            // Between q = 0 and the table, S/q is linear in q.
            let [q, _] = overlaps(LOWEST);
            let end = (-first.log_alpha).exp();
            let q = q * (self.slope_at_zero - 1.0 / alpha) / (self.slope_at_zero - end);
            found.push(self.fixed_point((q / (1.0 - q)).ln(), alpha));
        }
        for pair in self.grid.windows(2) {
            if pair[0].log_alpha <= log_alpha && pair[1].log_alpha > log_alpha {
                let [a, b] = [pair[0], pair[1]].map(|p| End { x: p.l, f: p.log_alpha - log_alpha });
                let l = roots::bracketed(a, b, 1e-14, 1.0, |l| self.log_alpha(l) - log_alpha);
                found.push(self.fixed_point(self.refined(l, log_alpha), alpha));
            }
        }
        if self.noiseless {
            if alpha * self.tokens > 1.0 {
                let own = vec![f64::INFINITY; self.own.len()];
                found.push(PosteriorOverlap {
                    l: f64::INFINITY,
                    own,
                    free_energy: f64::INFINITY,
                    residual: 0.0,
                });
            }
        } else if last.log_alpha <= log_alpha {
            found.push(self.almost_perfect(last.l, alpha));
        }
        found
    }

    fn nothing(&self) -> PosteriorOverlap {
        let own = vec![f64::NEG_INFINITY; self.own.len()];
        PosteriorOverlap { l: f64::NEG_INFINITY, own, free_energy: 0.0, residual: 0.0 }
    }

    /// The same root on the fine nodes, by secants. The difference between the fine nodes and the table
    /// hardly depends on `l`, so that the table gives the slope.
    fn refined(&self, start: f64, log_alpha: f64) -> f64 {
        if self.fine.is_none() {
            return start;
        }
        let mut slope = self.slope(start);
        let mut l = start;
        let mut last: Option<(f64, f64)> = None;
        for _ in 0..MAX_REFINEMENTS {
            let excess = -mean(&self.slopes(l)).ln() - log_alpha;
            if let Some((before, excess_before)) = last {
                slope = (excess - excess_before) / (l - before);
            }
            let step = excess / slope;
            if step.is_nan() || step.abs() > 0.5 {
                return start;
            }
            last = Some((l, excess));
            l -= step;
            // The slope is known to some 1e-4 or better, so that the same fraction of the last step is left
            // as an error.
            if step.abs() < 1e-7 {
                break;
            }
        }
        l
    }

    /// The derivative `d ln alpha'/dl` of the table.
    fn slope(&self, l: f64) -> f64 {
        const STEP: f64 = 1e-4;
        let end = self.grid[self.grid.len() - 1].l;
        let at = l.clamp(LOWEST + STEP, end - STEP);
        let inside = (self.log_alpha(at + STEP) - self.log_alpha(at - STEP)) / (2.0 * STEP);
        if l < LOWEST {
            // Below the table, the slope is proportional to q.
            inside * (l - LOWEST).exp()
        } else {
            inside
        }
    }

    /// The fixed point beyond the table, where `G` is constant.
    fn almost_perfect(&self, end: f64, alpha: f64) -> PosteriorOverlap {
        let [q, v] = overlaps(end);
        let own = self.slopes(end);
        // G = q (S/q)/(1 - q)
        let at = |slope: f64| (alpha * slope * q / v).ln();
        let l = at(mean(&own));
        let free_energy = 0.5 * (1.0 - (-l).exp() - l + alpha * self.integral(l));
        PosteriorOverlap { l, own: own.into_iter().map(at).collect(), free_energy, residual: 0.0 }
    }

    /// The fixed point at `l`, with its error and its free energy.
    fn fixed_point(&self, l: f64, alpha: f64) -> PosteriorOverlap {
        let [q, v] = overlaps(l);
        // Below the table, near q = 0, only the linear law between the lower end and 0 is known.
        let own = self.slopes(l.max(LOWEST));
        let mean = mean(&own);
        let slope = self.slope(l);
        let own = own.iter().map(|own| l + (mean / own).ln() / slope).collect();
        let residual = if l < LOWEST {
            0.0
        } else if self.fine.is_none() {
            (self.log_alpha(l) - alpha.ln()).abs()
        } else {
            (mean * alpha).ln().abs()
        };
        let free_energy = 0.5 * (q + v.ln() + alpha * self.integral(l));
        PosteriorOverlap { l, own, free_energy, residual }
    }

    /// `int_0^q G`.
    fn integral(&self, l: f64) -> f64 {
        let [q, _] = overlaps(l);
        let (first, last) = (self.grid[0], self.grid[self.grid.len() - 1]);
        // A NaN comes from an overflow in the averages, and belongs to no cell of the grid.
        if l.is_nan() {
            return f64::NAN;
        }
        if l <= first.l {
            return 0.5 * self.slope_at_zero * q * q;
        }
        if l >= last.l {
            let [end, _] = overlaps(last.l);
            return last.integral + self.mean.at(last.l).exp() * (q - end);
        }
        let cell = self.grid.partition_point(|point| point.l <= l) - 1;
        let from = self.grid[cell];
        let g = |l: f64| {
            let [q, v] = overlaps(l);
            self.mean.at(l).exp() * q * q * v
        };
        let width = l - from.l;
        from.integral + width / 6.0 * (g(from.l) + 4.0 * g(from.l + 0.5 * width) + g(l))
    }

    /// The range of `alpha'` in which two stable fixed points exist. The upper fixed point appears at the
    /// lower end, and the lower one vanishes at the upper end. The result is `None` if there is no such
    /// range, or if the nodes do not resolve it.
    pub(super) fn spinodals(&self) -> Option<[f64; 2]> {
        let mut values: Vec<(f64, f64)> = vec![(f64::NEG_INFINITY, -self.slope_at_zero.ln())];
        values.extend(self.grid.iter().map(|point| (point.l, point.log_alpha)));
        if self.noiseless {
            values.push((f64::INFINITY, -self.tokens.ln()));
        }
        // The loop finds the largest drop of ln alpha' below an earlier value.
        let (mut top, mut best) = (values[0], None::<[(f64, f64); 2]>);
        for value in values {
            if value.1 > top.1 {
                top = value;
            }
            let drop = |pair: &[(f64, f64); 2]| pair[0].1 - pair[1].1;
            if best.as_ref().is_none_or(|best| top.1 - value.1 > drop(best)) {
                best = Some([top, value]);
            }
        }
        let [upper, lower] = best?;
        let resolution = [upper, lower].map(|(l, _)| self.log_error(l)).into_iter().fold(1e-6, f64::max);
        (upper.1 - lower.1 > 4.0 * resolution).then(|| [lower.1.exp(), upper.1.exp()])
    }

    /// Standard error of `ln alpha'(q)`.
    fn log_error(&self, l: f64) -> f64 {
        if l == f64::INFINITY {
            return 0.0;
        }
        let own = if l < LOWEST { self.fine_slopes.clone() } else { self.slopes(l) };
        standard_error(own.iter().map(|slope| slope.ln())).unwrap_or(1e-3)
    }
}

/// Interpolation at Chebyshev nodes of the first kind, by the barycentric formula.
struct Chebyshev {
    nodes: Vec<f64>,
    weights: Vec<f64>,
    values: Vec<f64>,
}

impl Chebyshev {
    fn angle(k: usize, count: usize) -> f64 {
        std::f64::consts::PI * (k as f64 + 0.5) / count as f64
    }

    fn nodes(from: f64, to: f64, count: usize) -> Vec<f64> {
        let node = |k| 0.5 * (from + to) - 0.5 * (to - from) * Self::angle(k, count).cos();
        (0..count).map(node).collect()
    }

    /// The interpolation of the given values at [`Self::nodes`].
    fn new(nodes: &[f64], values: Vec<f64>) -> Self {
        let sign = |k: usize| if k.is_multiple_of(2) { 1.0 } else { -1.0 };
        let weights = (0..nodes.len()).map(|k| sign(k) * Self::angle(k, nodes.len()).sin()).collect();
        Self { nodes: nodes.to_vec(), weights, values }
    }

    fn at(&self, l: f64) -> f64 {
        let (mut above, mut below) = (0.0, 0.0);
        for ((node, weight), value) in self.nodes.iter().zip(&self.weights).zip(&self.values) {
            let distance = l - node;
            if distance.abs() <= 0.0 {
                return *value;
            }
            above += weight / distance * value;
            below += weight / distance;
        }
        above / below
    }
}
