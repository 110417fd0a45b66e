//! The problem to iterate on: a start, the coordinates of its components, and known slopes of the map.

use crate::error::Error;

/// The components of a point: an array `[f64; N]`, or a `Vec<f64>` if their number is only known at run time.
pub trait Vector: Clone + AsRef<[f64]> + AsMut<[f64]> {}

impl<X: Clone + AsRef<[f64]> + AsMut<[f64]>> Vector for X {}

/// The vector of the same length as `x` with the given components.
pub(super) fn from_fn<X: Vector>(x: &X, component: impl Fn(usize) -> f64) -> X {
    let mut result = x.clone();
    for (i, c) in result.as_mut().iter_mut().enumerate() {
        *c = component(i);
    }
    result
}

/// The coordinate in which one component of the vector is iterated on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coordinate {
    /// The component itself.
    Linear,
    /// The logarithm of the component: for quantities that are positive, and whose relative error matters.
    Log,
}

impl Coordinate {
    pub(super) fn to_iterated(self, value: f64) -> f64 {
        match self {
            Self::Linear => value,
            Self::Log => value.ln(),
        }
    }

    pub(super) fn to_physical(self, value: f64) -> f64 {
        match self {
            Self::Linear => value,
            Self::Log => value.exp(),
        }
    }
}

/// A pair of differences between two iterates, in the coordinates iterated on. The pair tells what is known
/// about the slope of the residual before the iteration starts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Secant<X> {
    /// Difference of two points.
    pub step: X,
    /// Difference of their residuals.
    pub residual_change: X,
}

/// The start of an iteration, and the coordinates iterated on.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem<X> {
    /// First iterate (positive where the coordinate is [`Coordinate::Log`]).
    pub start: X,
    /// The coordinates iterated on: one entry per component, or a single one for all of them.
    pub coordinates: Vec<Coordinate>,
    /// Known slopes, for Anderson acceleration. They may be finite differences of a cheaper version of the same
    /// map. If there are any, the iteration has no warm-up.
    pub secants: Vec<Secant<X>>,
}

impl<X: Vector> Problem<X> {
    /// A problem without known slopes, all components of which are iterated on in the same way.
    #[must_use]
    pub fn new(start: X, coordinate: Coordinate) -> Self {
        Self { start, coordinates: vec![coordinate], secants: Vec::new() }
    }

    /// The coordinate of component `i`.
    pub(super) fn coordinate(&self, i: usize) -> Coordinate {
        let last = self.coordinates.last().copied().unwrap_or(Coordinate::Linear);
        self.coordinates.get(i).copied().unwrap_or(last)
    }

    /// Converts `point` to the coordinates iterated on.
    #[must_use]
    pub fn iterated(&self, point: &X) -> X {
        from_fn(point, |i| self.coordinate(i).to_iterated(point.as_ref()[i]))
    }

    /// The inverse of [`Problem::iterated`].
    #[must_use]
    pub fn physical(&self, iterated: &X) -> X {
        from_fn(iterated, |i| self.coordinate(i).to_physical(iterated.as_ref()[i]))
    }

    pub(super) fn validate(&self) -> Result<(), Error> {
        let dimension = self.start.as_ref().len();
        if self.coordinates.len() != 1 && self.coordinates.len() != dimension {
            let allowed = format!("1 or {dimension}, as many as components");
            return Err(Error::invalid("coordinates", self.coordinates.len(), allowed));
        }
        let finite = |x: &X| x.as_ref().len() == dimension && x.as_ref().iter().all(|c| c.is_finite());
        for secant in &self.secants {
            for difference in [&secant.step, &secant.residual_change] {
                if !finite(difference) {
                    let allowed = format!("{dimension} finite numbers");
                    return Err(Error::invalid("secants", format!("{:?}", difference.as_ref()), allowed));
                }
            }
        }
        if finite(&self.iterated(&self.start)) {
            Ok(())
        } else {
            let allowed = "finite, and > 0 in logarithmic coordinates";
            Err(Error::invalid("start", format!("{:?}", self.start.as_ref()), allowed))
        }
    }
}
