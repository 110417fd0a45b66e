//! The least error of a prediction, by two replicas, and the kernel of softmax for it.
//!
//! An estimator that knows only the law of the label's logits given the data predicts best by the mean of
//! `sigma` over this law. Its error is the variance of `sigma`, which is half the mean square distance of two
//! independent draws `H1`, `H2` from the law,
//!
//! ```text
//! E = E|sigma(H1) - sigma(H2)|^2 / 2
//! ```
//!
//! In this form no average is nested. For softmax, all rows have the same law, and it is enough to draw one row.

use std::sync::OnceLock;

use super::rows::{NormalPair, PerturbedPair, RowColumns, RowTables};
use crate::error::Error;
use crate::options::Options;

/// The law of the logits: their known part, their unknown part, and a rank-one perturbation that is partly
/// known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogitsLaw {
    /// Variance of the known part, per orthonormal coordinate of `Sym(T)`.
    pub(crate) known: f64,
    /// Variance of the unknown part, including the noise of the label.
    pub(crate) unknown: f64,
    /// Factor on `chi chi^T - I`, with `chi` of unit variance; 0 for no perturbation.
    pub(crate) perturbation: f64,
    /// Overlap of two draws of `chi`.
    pub(crate) overlap: f64,
}

impl LogitsLaw {
    /// The law of two draws of the unperturbed logits, for softmax.
    fn draws(&self, inverse_temperature: f64) -> NormalPair {
        let scale = inverse_temperature * inverse_temperature;
        let variance = scale * (self.known + self.unknown);
        NormalPair { variances: [variance; 2], covariance: scale * self.known }
    }

    /// The factors of the first draw and of an independent normal in the second draw of the logits, both draws in
    /// units of their standard deviation.
    pub(super) fn second_draw(&self) -> [f64; 2] {
        let total = self.known + self.unknown;
        if total > 0.0 {
            let correlation = self.known / total;
            [correlation, (self.unknown / total * (1.0 + correlation)).sqrt()]
        } else {
            [1.0, 0.0]
        }
    }

    /// The factors of a shared normal and of one of its own in each draw of `chi`.
    pub(super) fn perturbation_draws(&self) -> [f64; 2] {
        [self.overlap.sqrt(), (1.0 - self.overlap).max(0.0).sqrt()]
    }
}

/// The least error as an average over two replicas, on the nodes of several scrambles.
pub(crate) trait TwoReplicas: Send + Sync {
    /// The errors for two laws by quadrature, if that is possible.
    fn by_quadrature(&self, _laws: &[LogitsLaw; 2]) -> Option<[f64; 2]> {
        None
    }

    /// The error on the nodes of one scramble; NaN if there is no such scramble.
    fn error(&self, scramble: usize, law: &LogitsLaw) -> f64;
}

/// Softmax, without a perturbation.
pub(crate) struct UnperturbedReplicas {
    tokens: usize,
    inverse_temperature: f64,
    options: Options,
    /// The nodes of every scramble, made when they are needed first.
    scrambles: Vec<OnceLock<Option<RowColumns>>>,
}

impl UnperturbedReplicas {
    /// The replicas for 2 to 8 tokens.
    pub(crate) fn new(tokens: usize, inverse_temperature: f64, options: &Options) -> Self {
        let scrambles = (0..options.scrambles()).map(|_| OnceLock::new()).collect();
        Self { tokens, inverse_temperature, options: *options, scrambles }
    }
}

impl TwoReplicas for UnperturbedReplicas {
    fn by_quadrature(&self, laws: &[LogitsLaw; 2]) -> Option<[f64; 2]> {
        let mut tables = RowTables::fine(self.tokens);
        let mut error = |law: &LogitsLaw| law.draws(self.inverse_temperature).by_quadrature(&mut tables);
        let [one, two] = laws;
        Some([0.5 * error(one)?, 0.5 * error(two)?])
    }

    fn error(&self, scramble: usize, law: &LogitsLaw) -> f64 {
        let columns = || RowColumns::new(self.tokens, false, &self.options, scramble).ok();
        let nodes = self.scrambles.get(scramble).and_then(|nodes| nodes.get_or_init(columns).as_ref());
        let mean = nodes.map(|columns| law.draws(self.inverse_temperature).mean(self.tokens, columns));
        mean.and_then(Result::ok).map_or(f64::NAN, |difference| 0.5 * difference)
    }
}

/// Softmax with a perturbation, on the nodes of several scrambles.
pub(crate) struct SoftmaxReplicas {
    tokens: usize,
    inverse_temperature: f64,
    scrambles: Vec<RowColumns>,
}

impl SoftmaxReplicas {
    /// The nodes for 2 to 8 tokens.
    pub(crate) fn new(tokens: usize, inverse_temperature: f64, options: &Options) -> Result<Self, Error> {
        let columns = |scramble| RowColumns::new(tokens, true, options, scramble);
        let scrambles = (0..options.scrambles()).map(columns).collect::<Result<_, _>>()?;
        Ok(Self { tokens, inverse_temperature, scrambles })
    }
}

impl TwoReplicas for SoftmaxReplicas {
    fn error(&self, scramble: usize, law: &LogitsLaw) -> f64 {
        let Some(columns) = self.scrambles.get(scramble) else { return f64::NAN };
        let pair = PerturbedPair {
            logits: law.draws(self.inverse_temperature),
            chi: NormalPair { variances: [1.0; 2], covariance: law.overlap },
            coupling: self.inverse_temperature * law.perturbation,
        };
        pair.mean(self.tokens, columns).map_or(f64::NAN, |difference| 0.5 * difference)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::{centred_from_coordinates, dimension, softmax_row};
    use crate::lanes::{LANES, Lane};
    use rand::{RngExt, SeedableRng};
    use rand_distr::StandardNormal;
    use rand_pcg::Pcg64;

    /// The average over whole matrices, by plain Monte Carlo, with its standard error.
    fn brute_force<const T: usize>(b: f64, law: &LogitsLaw) -> (f64, f64) {
        let mut random = Pcg64::seed_from_u64(1);
        let count = 40_000;
        let (mut sum, mut square) = (0.0, 0.0);
        for _ in 0..count {
            let mut normals =
                |n: usize| -> Vec<f64> { (0..n).map(|_| random.sample(StandardNormal)).collect() };
            let known = normals(dimension(T));
            let common = normals(T);
            let mut outputs = [[[0.0; T]; T]; 2];
            for output in &mut outputs {
                let (free, own) = (normals(dimension(T)), normals(T));
                let h = centred_from_coordinates::<T>(|k| {
                    law.known.sqrt() * known[k] + law.unknown.sqrt() * free[k]
                });
                let chi: Vec<f64> = (0..T)
                    .map(|a| law.overlap.sqrt() * common[a] + (1.0 - law.overlap).sqrt() * own[a])
                    .collect();
                for a in 0..T {
                    let logits: [Lane; T] = std::array::from_fn(|c| {
                        let centring = if a == c { 1.0 } else { 0.0 };
                        [b * (h[a][c] + law.perturbation * (chi[a] * chi[c] - centring)); LANES]
                    });
                    output[a] = softmax_row(&logits).map(|lane| lane[0]);
                }
            }
            let difference = |a: usize, c: usize| (outputs[0][a][c] - outputs[1][a][c]).powi(2);
            let error: f64 = 0.5
                * (0..T)
                    .flat_map(|a| (0..T).map(move |c| (a, c)))
                    .map(|(a, c)| difference(a, c))
                    .sum::<f64>();
            sum += error;
            square += error * error;
        }
        let mean = sum / f64::from(count);
        (mean, ((square / f64::from(count) - mean * mean) / f64::from(count)).sqrt())
    }

    #[test]
    fn one_row_stands_for_all() {
        let options = Options::default().with_log2_nodes(12).unwrap();
        for (perturbation, overlap) in [(0.0, 0.0), (1.3, 0.4)] {
            let law = LogitsLaw { known: 2.0, unknown: 1.5, perturbation, overlap };
            for (tokens, b, (exact, error)) in
                [(2, 0.8, brute_force::<2>(0.8, &law)), (3, 1.0, brute_force::<3>(1.0, &law))]
            {
                let replicas: Box<dyn TwoReplicas> = if perturbation > 0.0 {
                    Box::new(SoftmaxReplicas::new(tokens, b, &options).unwrap())
                } else {
                    Box::new(UnperturbedReplicas::new(tokens, b, &options))
                };
                let mean = (0..4).map(|k| replicas.error(k, &law)).sum::<f64>() / 4.0;
                assert!((mean - exact).abs() < 4.5 * error, "{mean}, brute force {exact} +- {error}");
                let quadrature = replicas.by_quadrature(&[law, law]);
                assert_eq!(quadrature.is_some(), perturbation <= 0.0);
                let near = |[x, _]: [f64; 2]| (x - mean).abs() < 1e-3 * mean;
                assert!(quadrature.is_none_or(near), "{quadrature:?}, {mean}");
            }
        }
    }

    #[test]
    fn nothing_unknown_is_no_error() {
        let options = Options::default().with_log2_nodes(8).unwrap();
        let law = LogitsLaw { known: 2.0, unknown: 0.0, perturbation: 1.0, overlap: 1.0 };
        let replicas = SoftmaxReplicas::new(3, 1.0, &options).unwrap();
        assert!(replicas.error(0, &law) < 1e-14);
        assert!(replicas.error(options.scrambles(), &law).is_nan());
        for tokens in 2..=8 {
            let replicas = UnperturbedReplicas::new(tokens, 1.0, &options);
            assert!(replicas.error(0, &law) < 1e-14);
            assert!(replicas.error(options.scrambles(), &law).is_nan());
        }
    }
}
