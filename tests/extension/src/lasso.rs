//! The LASSO: the minimum of `|y - X w/sqrt(d)|^2/2 + lambda |w|_1` for `n = alpha d` samples `y = X w*/sqrt(d) + sqrt(delta) n`,
//! Gaussian inputs and Gauss-Bernoulli weights.
//!
//! With the mean square error `E = |w-hat - w*|^2/d` and the response `V`, every average is in closed form:
//!
//! ```text
//! vhat = alpha/(1 + V),     qhat = alpha (delta + E)/(1 + V)^2,
//! w = ST(vhat w* + sqrt(qhat) z; lambda)/vhat,     V = P(w != 0)/vhat
//! ```

use lora_asymptotics::state_evolution::{
    Averages, InputChannel, OutputChannel, Overlaps, Pass, Solved, StateEvolution,
};
use lora_asymptotics::{Error, Options};

use crate::sparse::GaussBernoulli;

/// The mean square error and the response.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// `E = |w-hat - w*|^2/d`.
    pub error: f64,
    /// The linear response `V`.
    pub response: f64,
}

impl Overlaps for Point {
    fn coordinates(&self) -> Vec<f64> {
        vec![self.error, self.response]
    }

    fn at(&self, coordinates: &[f64]) -> Self {
        Self { error: coordinates[0], response: coordinates[1] }
    }
}

/// The averages over the squared loss, with `g = (y - omega)/(1 + V)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Residuals {
    /// `-E g'`.
    pub stiffness: f64,
    /// `E g^2`.
    pub gradient2: f64,
}

impl Averages for Residuals {
    fn terms(&self) -> Vec<f64> {
        vec![self.stiffness, self.gradient2]
    }

    fn from_terms(terms: &[f64]) -> Self {
        Self { stiffness: terms[0], gradient2: terms[1] }
    }
}

/// The output channel: the squared loss with noise of variance `delta`.
pub struct Squared {
    /// Variance of the noise.
    pub delta: f64,
}

impl OutputChannel for Squared {
    type Point = Point;
    type Averages = Residuals;

    fn averages(&mut self, _level: usize, _pass: Pass, at: &Point) -> Vec<Residuals> {
        let stiffness = 1.0 / (1.0 + at.response);
        vec![Residuals { stiffness, gradient2: (self.delta + at.error) * stiffness * stiffness }]
    }
}

/// The input channel: the soft threshold.
pub struct Sparse {
    /// Samples over dimensions.
    pub alpha: f64,
    /// The strength of the penalty.
    pub lambda: f64,
    /// The law of the true weights.
    pub truth: GaussBernoulli,
}

impl InputChannel for Sparse {
    type Point = Point;
    type Averages = Residuals;

    fn image(&self, _at: &Point, averages: &Residuals) -> Point {
        let v_hat = self.alpha * averages.stiffness;
        let x = self.truth.soft_threshold(v_hat, self.alpha * averages.gradient2, self.lambda);
        let error = x.square / (v_hat * v_hat) - 2.0 * x.overlap / v_hat + self.truth.variance;
        Point { error, response: x.active / v_hat }
    }
}

/// The fixed point, which is unique because the LASSO is convex.
///
/// # Errors
/// Those of [`StateEvolution::solve`].
pub fn solve(delta: f64, weights: Sparse, options: &Options) -> Result<Solved<Point, Residuals>, Error> {
    let start = Point { error: weights.truth.variance, response: 1.0 };
    StateEvolution::new(&mut Squared { delta }, weights, options).solve(&start)
}
