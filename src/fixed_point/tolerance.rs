//! The residual at which a map with or without statistical noise counts as solved.

/// The residual at which an iteration ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Tolerance {
    /// A residual chosen by the caller, for any map.
    Fixed(f64),
    /// [`Tolerance::EXACT`] for a map without statistical noise. For an average over nodes, a residual that is a
    /// small part of the standard error of the average is accepted: it moves the fixed point by a small part of its
    /// error bar. The map of such an average may also jump where a node changes sides, so that an iteration comes to
    /// rest between two jumps.
    Automatic,
}

impl Tolerance {
    /// The automatic tolerance of a map without statistical noise.
    pub(crate) const EXACT: f64 = 1e-10;
    /// The largest automatic tolerance. A residual above it is no solution, however noisy the average is.
    const LARGEST: f64 = 1e-3;
    /// Largest accepted residual in units of the standard error of the image.
    const OF_THE_STANDARD_ERROR: f64 = 0.05;

    /// The residual at which an iteration ends, for a map whose image has the given standard error, in its noisiest
    /// coordinate. The error is NaN if there is no estimate of it (a single scramble).
    pub(crate) fn aim(self, standard_error: f64) -> f64 {
        match self {
            Self::Fixed(tolerance) => tolerance,
            Self::Automatic if standard_error.is_finite() => {
                (Self::OF_THE_STANDARD_ERROR * standard_error).clamp(Self::EXACT, Self::LARGEST)
            }
            Self::Automatic => Self::EXACT,
        }
    }

    /// Whether an iteration may end one step before the tolerance. The residual of the point that is returned is evaluated
    /// anyway; a caller who has chosen a tolerance wants steps up to it.
    pub(crate) fn allows_a_leap(self) -> bool {
        self == Self::Automatic
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_automatic_tolerance_is_a_twentieth_of_the_standard_error() {
        approx::assert_relative_eq!(Tolerance::Automatic.aim(1e-3), 5e-5);
        approx::assert_relative_eq!(Tolerance::Automatic.aim(1.0), 1e-3);
        // Without noise or its estimate nothing but the exact tolerance is accepted.
        for error in [0.0, f64::NAN, f64::INFINITY] {
            approx::assert_relative_eq!(Tolerance::Automatic.aim(error), 1e-10);
        }
    }

    #[test]
    fn a_tolerance_that_the_caller_has_chosen_is_strict() {
        for error in [0.0, 1.0, f64::NAN] {
            approx::assert_relative_eq!(Tolerance::Fixed(1e-6).aim(error), 1e-6);
        }
    }
}
