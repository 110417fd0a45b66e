//! A teacher whose spectrum the library does not have.

use lora_asymptotics::spectrum::TeacherSpectrum;

/// `s* = centre + sigma Z'` with a GOE matrix `Z'`, whose eigenvalues follow the semicircle on `[-2, 2]`. Seen through noise it
/// stays a semicircle: `snr s* + Z = snr centre + w Z''` with `w^2 = 1 + (snr sigma)^2`. Everything is in closed form.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Semicircle {
    /// The mean of the eigenvalues, at least `2 sigma`, so that none is negative.
    pub centre: f64,
    /// The standard deviation of the eigenvalues.
    pub sigma: f64,
}

impl Semicircle {
    /// The middle and the standard deviation of the semicircle at a signal.
    fn seen(&self, snr: f64) -> (f64, f64) {
        (snr * self.centre, (snr * self.sigma).hypot(1.0))
    }

    /// The eigenvalues at the probabilities `(i + 1/2)/count`. With `s = centre + 2 sigma sin(phi)` the probability of
    /// smaller eigenvalues is `1/2 + (phi + sin(phi) cos(phi))/pi`.
    #[must_use]
    pub fn quantiles(&self, count: usize) -> Vec<f64> {
        let quantile = |i: usize| {
            let probability = (i as f64 + 0.5) / count as f64;
            let [mut low, mut high] = [-1.0, 1.0].map(|sign| sign * std::f64::consts::FRAC_PI_2);
            for _ in 0..60 {
                let phi = 0.5 * (low + high);
                let below = 0.5 + (phi + phi.sin() * phi.cos()) / std::f64::consts::PI;
                *(if below < probability { &mut low } else { &mut high }) = phi;
            }
            self.centre + 2.0 * self.sigma * low.sin()
        };
        (0..count).map(quantile).collect()
    }
}

impl TeacherSpectrum for Semicircle {
    fn mean(&self) -> f64 {
        self.centre
    }

    fn second_moment(&self) -> f64 {
        self.centre * self.centre + self.variance()
    }

    fn variance(&self) -> f64 {
        self.sigma * self.sigma
    }

    /// The law has no atoms.
    fn orbit_dimension(&self) -> f64 {
        1.0
    }

    fn support(&self, snr: f64) -> Vec<[f64; 2]> {
        let (middle, width) = self.seen(snr);
        vec![[middle - 2.0 * width, middle + 2.0 * width]]
    }

    /// `G = (u - sqrt(u^2 - 4))/(2 w)` at `u = (x - middle)/w`.
    fn stieltjes(&self, snr: f64, x: f64) -> [f64; 2] {
        let (middle, width) = self.seen(snr);
        let u = (x - middle) / width;
        let root = (u * u - 4.0).abs().sqrt();
        let [re, im] = if u.abs() <= 2.0 { [u, root] } else { [u - root.copysign(u), 0.0] };
        [re / (2.0 * width), im / (2.0 * width)]
    }

    fn eigenvalues(&self, dimension: usize) -> Option<Vec<f64>> {
        Some(self.quantiles(dimension))
    }
}
