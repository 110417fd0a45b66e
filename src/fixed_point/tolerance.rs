//! The residual at which a map with or without statistical noise counts as solved.

/// The residual at which an iteration ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Tolerance {
    /// A residual chosen by the caller, for any map.
    Fixed(f64),
    /// [`Tolerance::EXACT`] for a map without statistical noise. The map of an average over nodes jumps where a
    /// node changes sides, and an iteration may come to rest between two jumps. For such an average, a residual
    /// that is a small part of the standard error of the average is accepted.
    Automatic,
}

impl Tolerance {
    /// The automatic tolerance of a map without statistical noise.
    pub(crate) const EXACT: f64 = 1e-10;
    /// Largest accepted residual of an iteration that has stalled, in units of the standard error of the image.
    /// Such a residual moves the fixed point by a small part of its error bar.
    const OF_THE_STANDARD_ERROR: f64 = 0.05;

    /// The residual at which an iteration ends.
    pub(crate) fn aim(self) -> f64 {
        match self {
            Self::Fixed(tolerance) => tolerance,
            Self::Automatic => Self::EXACT,
        }
    }

    /// Whether an iteration that has stalled above its aim is solved as well as the noise of its average
    /// allows. `standard_error` is the standard error of the image of the map, in its noisiest coordinate.
    /// Without an estimate of it (a single scramble) the answer is no.
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
        // A tolerance that the caller has chosen is strict.
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
