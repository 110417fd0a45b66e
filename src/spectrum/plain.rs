//! A law without its contour integrals, for tests.

use super::law::TeacherSpectrum;

/// The essential methods of another law. The rest is left to the defaults of the trait.
pub(super) struct Plain(pub(super) Box<dyn TeacherSpectrum>);

impl TeacherSpectrum for Plain {
    fn mean(&self) -> f64 {
        self.0.mean()
    }

    fn second_moment(&self) -> f64 {
        self.0.second_moment()
    }

    fn variance(&self) -> f64 {
        self.0.variance()
    }

    fn orbit_dimension(&self) -> f64 {
        self.0.orbit_dimension()
    }

    fn support(&self, snr: f64) -> Vec<[f64; 2]> {
        self.0.support(snr)
    }

    fn stieltjes(&self, snr: f64, x: f64) -> [f64; 2] {
        self.0.stieltjes(snr, x)
    }
}
