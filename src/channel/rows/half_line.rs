//! The trapezoidal rule for normals on a half-line.

use crate::lanes::{self, LANES, Lane};

/// Nodes on a half-line, with twice the weights of the trapezoidal rule for the normal density, and with the
/// normalised Hermite polynomials there.
pub(super) struct HalfLine {
    count: usize,
    /// The nodes, and more up to a full block.
    nodes: Vec<Lane>,
    weights: Vec<Lane>,
    /// `He_n(z)/sqrt(n!)` at the nodes, by `n`.
    hermite: Vec<Vec<Lane>>,
}

impl HalfLine {
    /// The rule with `count` nodes up to `reach`.
    pub(super) fn new(count: usize, reach: f64) -> Self {
        let step = reach / count as f64;
        let blocks = count.div_ceil(LANES);
        let node = |block: usize, l: usize| ((block * LANES + l) as f64 + 0.5) * step;
        let nodes: Vec<Lane> = (0..blocks).map(|block| std::array::from_fn(|l| node(block, l))).collect();
        let norm = 2.0 * step / std::f64::consts::TAU.sqrt();
        let weight = |z: &Lane| lanes::exp(&z.map(|z| -0.5 * z * z)).map(|density| norm * density);
        let weights = nodes.iter().map(weight).collect();
        Self { count, hermite: vec![vec![[1.0; LANES]; blocks], nodes.clone()], nodes, weights }
    }

    /// The rule of a variable that a function does not depend on: one node. Its polynomials of higher orders are not asked for.
    pub(super) fn point() -> Self {
        let one = |x: f64| vec![std::array::from_fn(|l| if l == 0 { x } else { 0.0 })];
        Self { count: 1, nodes: one(0.0), weights: one(1.0), hermite: vec![one(1.0), one(0.0)] }
    }

    /// Number of nodes.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// The nodes in blocks, more than the number up to a full one.
    pub(super) fn nodes(&self) -> &[Lane] {
        &self.nodes
    }

    /// The weights of these nodes.
    #[inline(always)]
    pub(super) fn weights(&self) -> &[Lane] {
        &self.weights
    }

    /// The nodes and the weights one by one.
    pub(super) fn rule(&self) -> impl Iterator<Item = (f64, f64)> {
        let weights = self.weights.as_flattened().iter().copied();
        self.nodes.as_flattened().iter().copied().zip(weights).take(self.count)
    }

    /// Extends the table of polynomials to those up to order `n`.
    pub(super) fn extend(&mut self, n: usize) {
        for n in self.hermite.len()..=n {
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

    /// The polynomial of order `n` at the nodes. The table must have it.
    #[inline(always)]
    pub(super) fn polynomial(&self, n: usize) -> &[Lane] {
        &self.hermite[n]
    }

    /// The same, one by one.
    #[inline(always)]
    pub(super) fn values(&self, n: usize) -> &[f64] {
        &self.hermite[n].as_flattened()[..self.count]
    }
}
