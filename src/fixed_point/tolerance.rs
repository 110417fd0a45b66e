//! Which residual is small enough, for maps with and without statistical noise.

/// How small a residual has to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Tolerance {
    /// As chosen by the caller, whatever the map is made of.
    Fixed(f64),
    /// [`Tolerance::EXACT`] for a map without statistical noise. The map of an average over nodes jumps where a node changes
    /// sides; an iteration may come to rest between two jumps, and the tolerance that such an average deserves is a small
    /// part of its own standard error.
    Automatic,
}

impl Tolerance {
    /// The automatic tolerance of a map without statistical noise.
    pub(crate) const EXACT: f64 = 1e-10;
    /// Largest residual of an iteration that has stalled, over the standard error of the image: it moves the fixed point by
    /// a small part of its error bar.
    const OF_THE_STANDARD_ERROR: f64 = 0.05;

    /// The residual at which an iteration ends.
    pub(crate) fn aim(self) -> f64 {
        match self {
            Self::Fixed(tolerance) => tolerance,
            Self::Automatic => Self::EXACT,
        }
    }

    /// Whether an iteration that has stalled above its aim is solved as well as its average deserves. `standard_error` is that of
    /// the image of the map, in its noisiest coordinate; without an estimate of it (a single scramble) the answer is no.
    pub(crate) fn excuses(self, residual: f64, standard_error: Option<f64>) -> bool {
        self == Self::Automatic
            && standard_error.is_some_and(|error| residual <= Self::OF_THE_STANDARD_ERROR * error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_is_excused_below_a_twentieth_of_the_standard_error() {
        assert!(Tolerance::Automatic.excuses(0.0499e-3, Some(1e-3)));
        assert!(!Tolerance::Automatic.excuses(0.0501e-3, Some(1e-3)));
        assert!(!Tolerance::Automatic.excuses(f64::NAN, Some(1e-3)));
        assert!(!Tolerance::Automatic.excuses(1e-9, Some(f64::NAN)));
        // A chosen tolerance is strict.
        assert!(!Tolerance::Fixed(1e-10).excuses(1e-9, Some(1.0)));
        assert!(!Tolerance::Fixed(1.0).excuses(0.0, Some(1.0)));
    }

    #[test]
    fn without_noise_or_its_estimate_nothing_is_excused() {
        assert!(!Tolerance::Automatic.excuses(1e-300, Some(0.0)));
        assert!(!Tolerance::Automatic.excuses(1e-300, None));
    }

    #[test]
    fn both_aim_at_a_residual() {
        approx::assert_relative_eq!(Tolerance::Automatic.aim(), 1e-10);
        approx::assert_relative_eq!(Tolerance::Fixed(1e-6).aim(), 1e-6);
    }
}
