//! What a state evolution is made of: order parameters, averages, and the two channels between them.

/// Order parameters as positive coordinates, which are iterated in logarithms.
///
/// Choose coordinates in which every vector of positive numbers is a possible point: `(m, q - m^2/q0, v)` rather than `(q, m, v)`,
/// so that `m^2 <= q q0` holds by itself.
pub trait Overlaps: Clone + PartialEq {
    /// The coordinates of this point, all > 0.
    fn coordinates(&self) -> Vec<f64>;

    /// The point with other coordinates, as many as [`Overlaps::coordinates`] gives. What is not among the coordinates (an overlap
    /// that vanishes by symmetry) is kept.
    fn at(&self, coordinates: &[f64]) -> Self;
}

/// Averages over the losses at one point: a vector of numbers with names.
pub trait Averages: Clone {
    /// All numbers, in an order of your own.
    fn terms(&self) -> Vec<f64>;

    /// The inverse of [`Averages::terms`].
    fn from_terms(terms: &[f64]) -> Self;
}

/// The mean of the averages of several replicates, in their order. There must be at least one.
pub(crate) fn mean<A: Averages>(all: &[A]) -> A {
    let mut total = vec![0.0; all.first().map_or(0, |averages| averages.terms().len())];
    for averages in all {
        for (t, x) in total.iter_mut().zip(averages.terms()) {
            *t += x;
        }
    }
    for t in &mut total {
        *t /= all.len() as f64;
    }
    A::from_terms(&total)
}

/// What one evaluation of an output channel is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// One step of the map. Averages that the map does not need may be left out, and proximal points may be followed from those of
    /// the pass before.
    Step,
    /// All averages. Proximal points may be followed from those of the pass before.
    Complete,
    /// All averages, and every proximal point from scratch: nothing that an earlier pass left behind may be used.
    Fresh,
}

/// The losses: averages of proximal points over Gaussian fields.
pub trait OutputChannel {
    /// The order parameters.
    type Point: Overlaps;
    /// What is averaged.
    type Averages: Averages;

    /// The number of accuracy levels, at least 1; each level refines the one before. Level 0 is the cheapest.
    fn levels(&self) -> usize {
        1
    }

    /// The averages at `point`, one entry per independent replicate: at least one, and as many at every level.
    fn averages(&mut self, level: usize, pass: Pass, point: &Self::Point) -> Vec<Self::Averages>;

    /// Called before an iteration at another level, or far from the last point, begins at `point`: whoever follows proximal points
    /// from pass to pass may look for them anew.
    fn prepare(&mut self, _level: usize, _point: &Self::Point) {}

    /// The residual at which jumps of the sampled averages explain a stall, where there is a single replicate, whose spread cannot
    /// tell.
    fn resolution(&self) -> f64 {
        0.0
    }
}

/// The weights: from averages back to order parameters.
pub trait InputChannel {
    /// The order parameters.
    type Point: Overlaps;
    /// What is averaged.
    type Averages: Averages;

    /// The order parameters that the averages at `at` lead to. Where the averages make no sense, as they may far from any fixed point,
    /// return a point some distance from `at`, in the direction that mends it: such a step cannot be mistaken for convergence.
    fn image(&self, at: &Self::Point, averages: &Self::Averages) -> Self::Point;

    /// Called with the averages at the end of the approach and, once more (`settled`), at the end of the solve: the channel may change the
    /// estimators that it uses. Returns whether it has, in which case that part of the solve is repeated.
    fn reconsider(&mut self, _settled: bool, _at: &Self::Point, _averages: &Self::Averages) -> bool {
        false
    }

    /// Whether the nodes resolve a fixed point at `at`. Where they do not, the status is `noise_limited` instead of `converged`.
    fn resolves(&self, _at: &Self::Point) -> bool {
        true
    }
}
