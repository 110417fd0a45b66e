//! How thoroughly proximal points are looked for.

/// Smallest number of samples that tell that second minima are so rare that none need be looked for.
pub(crate) const MANY_SAMPLES: usize = 1 << 13;

/// How to look for proximal points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProxSearch {
    /// Downhill from those of the pass before, or from where they are expected in the first pass.
    Followed,
    /// From all starts that do not seem to lead to the minimum downhill from `omega`. This is enough where samples with several
    /// minima are rare.
    Screened,
    /// From all starts.
    Thorough,
}

impl ProxSearch {
    /// The search that is enough where `contested` tells whether one of some samples, which were screened, has several minima.
    pub(crate) fn after(contested: bool, samples: usize) -> Self {
        if contested {
            Self::Thorough
        } else if samples >= MANY_SAMPLES {
            Self::Followed
        } else {
            Self::Screened
        }
    }
}
