//! The optional companions of a solve: a similar solution, an observer, other constants of the search.

use super::tuning::Tuning;
use crate::fixed_point::Observer;

/// The optional companions of a solve of one of the stages. By default there are none.
///
/// `S` is the solution of the stage.
pub struct Run<'a, S> {
    pub(crate) previous: Option<&'a S>,
    pub(crate) observer: Option<&'a mut dyn Observer>,
    pub(crate) tuning: Tuning,
}

impl<S> Default for Run<'_, S> {
    fn default() -> Self {
        Self { previous: None, observer: None, tuning: Tuning::default() }
    }
}

impl<'a, S> Run<'a, S> {
    /// Begins with the solution of a similar problem, which is faster along an axis of parameters. Any
    /// solution is accepted; one that is far outside the usual range of solutions is not used.
    #[must_use]
    pub fn starting_from(self, previous: &'a S) -> Self {
        Self { previous: Some(previous), ..self }
    }

    /// Shows every evaluation of the map to `observer`, which may end the solve. The status is then `interrupted`.
    #[must_use]
    pub fn observed_by(self, observer: &'a mut dyn Observer) -> Self {
        Self { observer: Some(observer), ..self }
    }

    /// Sets other constants of the search.
    #[must_use]
    pub fn tuned(self, tuning: Tuning) -> Self {
        Self { tuning, ..self }
    }

    /// The observer, for as long as the caller needs it.
    pub(crate) fn observer(&mut self) -> Option<&mut dyn Observer> {
        self.observer.as_mut().map(|observer| &mut **observer as &mut dyn Observer)
    }

    /// The same companions for a part of the solve, which has its own type of solution.
    #[cfg(feature = "scenario")]
    pub(crate) fn for_stage<'b, P>(&'b mut self, previous: Option<&'b P>) -> Run<'b, P> {
        let tuning = self.tuning;
        Run { previous, observer: self.observer(), tuning }
    }
}
