//! The parts of a state evolution: order parameters, averages, and the two channels between them.

/// Order parameters as positive coordinates. The iteration is on the logarithms of the coordinates.
///
/// Choose coordinates in which every vector of positive numbers is a possible point: `(m, q - m^2/q0, v)`
/// rather than `(q, m, v)`, so that every such vector satisfies `m^2 <= q q0`.
pub trait Overlaps: Clone + PartialEq {
    /// The coordinates of this point, all > 0.
    fn coordinates(&self) -> Vec<f64>;

    /// The point with other coordinates, as many as [`Overlaps::coordinates`] gives. A quantity that is not
    /// among the coordinates (an overlap that vanishes by symmetry) is kept.
    fn at(&self, coordinates: &[f64]) -> Self;

    /// Bounds on the logarithmic steps of the finite differences along the coordinates. By default there are none. A
    /// bound is needed where the averages change much over a small relative change of a coordinate: a field
    /// `omega = m chi* + s f` with `s` far below `m` moves by many `s` if `m` changes by a percent.
    fn largest_differences(&self) -> Vec<f64> {
        vec![f64::INFINITY; self.coordinates().len()]
    }
}

/// Averages over the losses at one point: a vector of numbers with names.
pub trait Averages: Clone {
    /// All numbers, in an order that the implementation chooses.
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

/// The purpose of one evaluation of an output channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// The evaluation is one step of the map. Averages that the map does not need may be left out, and
    /// proximal points may be followed from those of the pass before.
    Step,
    /// All averages are needed. Proximal points may be followed from those of the pass before.
    Complete,
    /// All averages are needed, and the global minimum of every sample is searched: a point of an earlier pass may be a start of
    /// the search, but must not be taken for the global minimum, unless searches of many samples on a cheap level have found no
    /// second minimum at all.
    Fresh,
}

/// The output channel describes the losses, by averages of proximal points over Gaussian fields.
pub trait OutputChannel {
    /// The order parameters.
    type Point: Overlaps;
    /// The averages that this channel computes.
    type Averages: Averages;

    /// The number of accuracy levels, at least 1. Each level refines the one before, and level 0 is the
    /// cheapest.
    fn levels(&self) -> usize {
        1
    }

    /// The number of levels that the search climbs before it ends, at most that of all. A channel may find in
    /// [`OutputChannel::prepare`] for level 1 that the finer levels are not worth their time near a point. All levels should be
    /// climbed if the user has asked for a number of nodes.
    fn levels_to_climb(&self) -> usize {
        self.levels()
    }

    /// The averages at `point`, with one entry per independent replicate. There must be at least one
    /// replicate, and the same number at every level.
    fn averages(&mut self, level: usize, pass: Pass, point: &Self::Point) -> Vec<Self::Averages>;

    /// Called before an iteration begins at `point` on another level, or far from the last point, and for level 1 also
    /// before [`OutputChannel::levels_to_climb`] is asked whether a failed approach is worth another one. A channel
    /// that follows proximal points from pass to pass may search for them anew.
    fn prepare(&mut self, _level: usize, _point: &Self::Point) {}

    /// The residual at which the jumps of sampled averages explain a stall. It is used where there is a
    /// single replicate, which has no spread.
    fn resolution(&self) -> f64 {
        0.0
    }

    /// Whether the averages jump so often that the slopes from the beginning of the climb are too inaccurate for error bars. They are then
    /// measured again where the climb has ended, before the last corrections, on the second level, with the step
    /// [`Tuning::rough_difference`](crate::state_evolution::Tuning::rough_difference).
    fn is_rough(&self) -> bool {
        false
    }
}

/// The input channel describes the weights, and leads from averages back to order parameters.
pub trait InputChannel {
    /// The order parameters.
    type Point: Overlaps;
    /// The averages that this channel takes.
    type Averages: Averages;

    /// The order parameters to which the averages at `at` lead. Far from any fixed point, the averages may
    /// have no meaning. The image must then be a point some distance from `at`, in the direction of
    /// meaningful averages, so that the step cannot be mistaken for convergence.
    fn image(&self, at: &Self::Point, averages: &Self::Averages) -> Self::Point;

    /// Called with the averages at the end of the approach and, with `settled`, at the end of the solve. The
    /// channel may change the estimators that it uses. The return value tells whether it has, in which case
    /// that part of the solve is repeated.
    fn reconsider(&mut self, _settled: bool, _at: &Self::Point, _averages: &Self::Averages) -> bool {
        false
    }

    /// Whether the nodes resolve a fixed point at `at`. If they do not, the status is `noise_limited` instead
    /// of `converged`.
    fn resolves(&self, _at: &Self::Point) -> bool {
        true
    }
}
