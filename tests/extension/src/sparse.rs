//! Scalar averages over a sparse coordinate that is estimated by a soft threshold.

use lora_asymptotics::quadrature::{normal_cdf, normal_density};

/// A Gauss-Bernoulli law: a fraction of the coordinates is Gaussian, and the others are zero.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GaussBernoulli {
    /// The fraction of coordinates that are not zero, in `(0, 1]`.
    pub density: f64,
    /// The variance of all coordinates.
    pub variance: f64,
}

/// Averages of `x = sign(h) (|h| - threshold)_+` for the field `h = slope w* + sqrt(noise) z`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Thresholded {
    /// `E x^2`.
    pub square: f64,
    /// `E x w*`.
    pub overlap: f64,
    /// `E |x|`.
    pub magnitude: f64,
    /// `P(x != 0)`, which is `E dx/dh`.
    pub active: f64,
}

impl GaussBernoulli {
    /// The averages of a soft threshold. The field is Gaussian on the coordinates that are zero, and, with a larger variance,
    /// on the others.
    #[must_use]
    pub fn soft_threshold(&self, slope: f64, noise: f64, threshold: f64) -> Thresholded {
        let present = self.variance / self.density;
        let groups = [(1.0 - self.density, 0.0), (self.density, present)];
        groups.into_iter().fold(Thresholded::default(), |sum, (share, variance)| {
            let deviation = (slope * slope * variance + noise).sqrt();
            let u = threshold / deviation;
            let (tail, density) = (normal_cdf(-u), normal_density(u));
            Thresholded {
                square: sum.square
                    + share * 2.0 * deviation * deviation * ((1.0 + u * u) * tail - u * density),
                // Gaussian integration by parts: E x w* = E[dx/dh] slope E w*^2.
                overlap: sum.overlap + share * 2.0 * tail * slope * variance,
                magnitude: sum.magnitude + share * 2.0 * deviation * (density - u * tail),
                active: sum.active + share * 2.0 * tail,
            }
        })
    }
}
