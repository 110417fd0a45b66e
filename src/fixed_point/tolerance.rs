//! Which residual is small enough, for maps with and without statistical noise.

use super::sensitivity::standard_error;

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

    /// Whether an iteration that has stalled above its aim is solved as well as its average deserves. `differences` are
    /// the distances of the scrambles' images from the common one; a single scramble tells nothing about the noise, and
    /// the answer is no.
    pub(crate) fn excuses<const N: usize>(self, residual: f64, differences: &[[f64; N]]) -> bool {
        let estimated = differences.len() > 1;
        estimated
            && self == Self::Automatic
            && residual <= Self::OF_THE_STANDARD_ERROR * standard_error(differences)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_is_excused_below_a_twentieth_of_the_standard_error() {
        // The mean of four scrambles at distances 1e-3 has the standard error sqrt(4e-6/3/4) in the second coordinate.
        let differences = [[1e-5, 1e-3], [-1e-5, -1e-3], [1e-5, 1e-3], [-1e-5, -1e-3]];
        let standard_error = 1e-3 / 3f64.sqrt();
        assert!(Tolerance::Automatic.excuses(0.0499 * standard_error, &differences));
        assert!(!Tolerance::Automatic.excuses(0.0501 * standard_error, &differences));
        assert!(!Tolerance::Automatic.excuses(f64::NAN, &differences));
        // A chosen tolerance is strict.
        assert!(!Tolerance::Fixed(1e-10).excuses(1e-9, &differences));
        assert!(!Tolerance::Fixed(1.0).excuses(0.0, &differences));
    }

    #[test]
    fn without_noise_or_its_estimate_nothing_is_excused() {
        assert!(!Tolerance::Automatic.excuses(1e-300, &[[1e-3, 1e-3]]));
        assert!(!Tolerance::Automatic.excuses(1e-300, &[[0.0], [0.0]]));
        assert!(!Tolerance::Automatic.excuses::<2>(1e-300, &[]));
    }

    #[test]
    fn both_aim_at_a_residual() {
        approx::assert_relative_eq!(Tolerance::Automatic.aim(), 1e-10);
        approx::assert_relative_eq!(Tolerance::Fixed(1e-6).aim(), 1e-6);
    }
}
