//! The law of `N = z* - z + sqrt(Delta) xi`, the part of the label's logits that the frozen weights leave
//! unexplained.
//!
//! For linear attention pre-training enters fine-tuning only through this law. On fresh and on reused
//! sequences `N` is Gaussian with variance `c Delta_eff` per orthonormal coordinate of the logits, where `c` is 2 for tied and 1 for
//! cross-attention ([`Attention::logit_variance`]). On actively
//! selected sequences `N` is a Gaussian plus a multiple of a Gaussian conditioned on a ball.

use super::selection::Score;
use super::sequences::{FieldParameters, Sequences};
use crate::attention::Attention;
use crate::channel;
use crate::frozen::{Frozen, TrueLogits};
use crate::model::Model;
use crate::observables::{self, WeightOverlaps};
use crate::quadrature::{chi_square_cdf, chi_square_quantile, normal_cdf, normal_density};

/// Largest number of orthonormal coordinates of the logits.
const MAX_COORDINATES: usize = Model::MAX_TOKENS * Model::MAX_TOKENS;
/// Half-width, in standard deviations, of the quadrature rule of the scalar noise.
const REACH: f64 = 8.5;

/// The law of `N`, in units of `q0`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum LabelNoise {
    /// Independent coordinates of equal variance.
    Gaussian { attention: Attention, deviation: f64 },
    /// `spread z + deviation n` with `z` standard Gaussian conditioned on the ball of probability `fraction`
    /// in the scored coordinates, and `n` standard Gaussian.
    Selected { attention: Attention, score: Score, fraction: f64, spread: f64, deviation: f64 },
}

impl LabelNoise {
    /// The law of `N` on the sequences of the training.
    pub(crate) fn new(model: &Model, frozen: &Frozen, parameters: &FieldParameters) -> Self {
        let (tokens, delta, attention) = (model.tokens(), model.delta(), model.attention());
        let variance = attention.logit_variance();
        let FieldParameters { sequences, beta, q0: unit } = *parameters;
        let weights = frozen.overlaps();
        match sequences {
            Sequences::Active(selection)
                if frozen.q() > 0.0 && selection.score().coordinates(attention, tokens) > 0 =>
            {
                let TrueLogits { slope, unknown, .. } = frozen.true_logits();
                // The frozen logits are multiplied by beta.
                let spread = (slope - beta).abs() * (variance * frozen.q()).sqrt();
                let rest = variance * unknown + delta;
                Self::Selected {
                    attention,
                    score: selection.score(),
                    fraction: selection.fraction(),
                    spread: spread / unit,
                    deviation: rest.sqrt() / unit,
                }
            }
            Sequences::Reused => {
                // Validation refuses reused sequences without a response.
                let v = frozen.v().unwrap_or(0.0);
                Self::gaussian(
                    attention,
                    reused_effective_noise(attention, &weights, tokens, v, delta, beta),
                    unit,
                )
            }
            // Here the score selects nothing: it is the same for all sequences, or independent of them.
            Sequences::Active(_) | Sequences::Fresh => {
                Self::gaussian(attention, effective_noise(attention, &weights, delta, beta), unit)
            }
        }
    }

    /// The isotropic law with the given effective noise.
    fn gaussian(attention: Attention, effective_noise: f64, unit: f64) -> Self {
        let deviation = (attention.logit_variance() * effective_noise).sqrt() / unit;
        Self::Gaussian { attention, deviation }
    }

    /// The variance of a coordinate over `c`, which is `Delta_eff` of the training law, in units of `q0^2`. The
    /// result is `None` if the law is anisotropic.
    pub(crate) fn effective(&self, tokens: usize) -> Option<f64> {
        match *self {
            Self::Gaussian { attention, deviation } => {
                Some(deviation * deviation / attention.logit_variance())
            }
            Self::Selected { score: Score::Centred, .. } => None,
            Self::Selected { attention, score: Score::Frobenius, fraction, spread, deviation } => {
                // E|z|^2 on the ball follows from the chi-squared law with two more degrees of freedom at the
                // same radius.
                let degrees = attention.coordinates(tokens);
                let radius2 = chi_square_quantile(degrees, fraction);
                let kept = chi_square_cdf(degrees + 2, radius2) / fraction;
                Some((spread * spread * kept + deviation * deviation) / attention.logit_variance())
            }
        }
    }

    /// Standard deviation of a coordinate, before selection.
    pub(crate) fn deviation(&self) -> f64 {
        match *self {
            Self::Gaussian { deviation, .. } => deviation,
            Self::Selected { spread, deviation, .. } => spread.hypot(deviation),
        }
    }

    /// Number of independent standard normals that a sample takes.
    pub(crate) fn dimensions(&self, tokens: usize) -> usize {
        match self {
            Self::Gaussian { attention, .. } => attention.coordinates(tokens),
            Self::Selected { attention, .. } => 2 * attention.coordinates(tokens),
        }
    }

    /// Whether the law is invariant under rotations of the tokens.
    pub(crate) fn is_isotropic(&self) -> bool {
        !matches!(self, Self::Selected { score: Score::Centred, .. })
    }

    /// `N` of tied attention, for the given standard normals. Their number is [`Self::dimensions`].
    pub(crate) fn sample<const T: usize>(&self, normal: impl Fn(usize) -> f64) -> [[f64; T]; T] {
        if let Self::Gaussian { deviation, .. } = *self {
            return channel::symmetric_from_coordinates(|k| deviation * normal(k));
        }
        let coordinates = self.coordinates(T, normal);
        channel::symmetric_from_coordinates(|k| coordinates[k])
    }

    /// The coordinates of `N` for the given standard normals; the numbers beyond those of `tokens` tokens are 0.
    pub(crate) fn coordinates(&self, tokens: usize, normal: impl Fn(usize) -> f64) -> [f64; MAX_COORDINATES] {
        let mut coordinates = [0.0; MAX_COORDINATES];
        match *self {
            Self::Gaussian { attention, deviation } => {
                let own = &mut coordinates[..attention.coordinates(tokens)];
                own.iter_mut().enumerate().for_each(|(k, x)| *x = deviation * normal(k));
            }
            Self::Selected { attention, score, fraction, spread, deviation } => {
                let count = attention.coordinates(tokens);
                let own = &mut coordinates[..count];
                own.iter_mut().enumerate().for_each(|(k, z)| *z = normal(k));
                score.condition(attention, tokens, fraction, own);
                own.iter_mut()
                    .enumerate()
                    .for_each(|(k, z)| *z = spread * *z + deviation * normal(count + k));
            }
        }
        coordinates
    }

    /// The law of the scalar `N` of one token. The result is `None` if there is no noise at all.
    pub(crate) fn scalar(&self) -> Option<ScalarLaw> {
        let law = match *self {
            Self::Gaussian { deviation, .. } => {
                ScalarLaw { half_width: REACH * deviation, total: deviation, cut: None }
            }
            Self::Selected { fraction, spread, deviation, .. } => {
                let bound = chi_square_quantile(1, fraction).sqrt();
                let total = spread.hypot(deviation);
                // Given N = x, the selected z is Gaussian of this mean and deviation, cut at the bound.
                let cut = Cut { bound, fraction, slope: spread / (total * total), rest: deviation / total };
                ScalarLaw {
                    half_width: (spread * bound + REACH * deviation).min(REACH * total),
                    total,
                    cut: Some(cut),
                }
            }
        };
        (law.half_width > 0.0).then_some(law)
    }
}

/// `Delta_eff` on new sequences: the variance, over `c`, of a coordinate of what the frozen weights leave of the noisy label.
pub(crate) fn effective_noise(attention: Attention, weights: &WeightOverlaps, delta: f64, beta: f64) -> f64 {
    // The functions of the observables are those of tied attention, where c = 2.
    observables::effective_noise(weights, delta * (2.0 / attention.logit_variance()), beta)
}

/// `Delta_eff` on reused sequences, on which the frozen logits are the proximal points of pre-training with the pull
/// `|h - omega|^2/(2 c V)`.
fn reused_effective_noise(
    attention: Attention,
    weights: &WeightOverlaps,
    tokens: usize,
    v: f64,
    delta: f64,
    beta: f64,
) -> f64 {
    let variance = attention.logit_variance();
    observables::reused_effective_noise(weights, tokens, v * (variance / 2.0), delta * (2.0 / variance), beta)
}

/// The law of the scalar `N` of a single token.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ScalarLaw {
    /// Half-width of the interval around 0 outside which the density vanishes in double precision.
    pub(crate) half_width: f64,
    /// Standard deviation without selection.
    total: f64,
    cut: Option<Cut>,
}

/// How selection changes the law.
#[derive(Debug, Clone, Copy)]
struct Cut {
    bound: f64,
    fraction: f64,
    slope: f64,
    rest: f64,
}

impl ScalarLaw {
    /// The points where the density changes fast. They lie on both sides of the two edges of the selection,
    /// which the noise smears.
    pub(crate) fn breaks(&self) -> Vec<f64> {
        self.cut.map_or_else(Vec::new, |Cut { bound, slope, rest, .. }| {
            // In units of the whole deviation, spread = slope total, and the smearing is rest.
            let edge = slope * self.total * self.total * bound;
            let width = REACH * rest * self.total;
            vec![-edge - width, -edge + width, edge - width, edge + width]
        })
    }

    pub(crate) fn density(&self, x: f64) -> f64 {
        let free = normal_density(x / self.total) / self.total;
        match self.cut {
            None => free,
            Some(Cut { bound, fraction, slope, rest }) => {
                let below = |z: f64| normal_cdf((z - slope * x) / rest);
                free * (below(bound) - below(-bound)) / fraction
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::selection::Selection;
    use crate::quadrature::ScrambledSobol;
    use approx::assert_relative_eq;
    use std::f64::consts::SQRT_2;

    fn selected(score: Score, fraction: f64, beta: f64) -> (Model, Frozen, FieldParameters) {
        let sequences = Sequences::Active(Selection::new(fraction, score).unwrap());
        let frozen = Frozen::new(2.0, 0.6, 0.7).unwrap();
        (Model::linear(2, 0.5).unwrap(), frozen, FieldParameters { sequences, beta, q0: 1.0 })
    }

    /// `N` at every node of a scrambled point set, two tokens.
    fn samples(noise: &LabelNoise) -> Vec<[[f64; 2]; 2]> {
        let dimensions = noise.dimensions(2);
        let points = ScrambledSobol::new(dimensions, 15, 3, 0).unwrap();
        let columns: Vec<_> = (0..dimensions).map(|d| points.normals(d).unwrap()).collect();
        (0..points.nodes()).map(|node| noise.sample(|k| columns[k][node])).collect()
    }

    fn mean_square(samples: &[[[f64; 2]; 2]], of: impl Fn(&[[f64; 2]; 2]) -> f64) -> f64 {
        samples.iter().map(|n| of(n).powi(2)).sum::<f64>() / samples.len() as f64
    }

    #[test]
    fn sampled_variance_is_twice_the_effective_noise() {
        for fraction in [1.0, 0.5, 0.03] {
            let (model, frozen, training) = selected(Score::Frobenius, fraction, 1.0);
            let noise = LabelNoise::new(&model, &frozen, &training);
            let effective = LabelNoise::new(&model, &frozen, &training).effective(2).unwrap();
            let samples = samples(&noise);
            for variance in [
                mean_square(&samples, |n| n[0][0]),
                mean_square(&samples, |n| n[1][1]),
                mean_square(&samples, |n| SQRT_2 * n[0][1]),
            ] {
                assert_relative_eq!(variance, 2.0 * effective, max_relative = 2e-3);
            }
        }
    }

    #[test]
    fn everything_selected_is_fresh() {
        let (model, frozen, training) = selected(Score::Frobenius, 1.0, 0.8);
        let fresh = observables::effective_noise(&frozen.overlaps(), model.delta(), 0.8);
        assert_relative_eq!(
            LabelNoise::new(&model, &frozen, &training).effective(2).unwrap(),
            fresh,
            max_relative = 1e-12
        );
    }

    #[test]
    fn centred_selection_leaves_the_flat_direction_alone() {
        let (model, frozen, training) = selected(Score::Centred, 0.05, 0.5);
        let noise = LabelNoise::new(&model, &frozen, &training);
        assert_eq!(noise.effective(2), None);
        let LabelNoise::Selected { spread, deviation, .. } = noise else { panic!("{noise:?}") };
        // The first average is that of <N, u> with u = 11^T/2, and the second is taken in a direction
        // orthogonal to u.
        let samples = samples(&noise);
        let along = mean_square(&samples, |n| 0.5 * (n[0][0] + n[1][1] + 2.0 * n[0][1]));
        let across = mean_square(&samples, |n| (n[0][0] - n[1][1]) / SQRT_2);
        let (z2, rest) = (spread * spread, deviation * deviation);
        assert_relative_eq!(along, z2 + rest, max_relative = 2e-3);
        // In the plane orthogonal to u, the ball of probability 0.05 has |z|^2 < 0.103.
        assert!(across > rest && across < 0.06 * z2 + rest, "{across}");
    }

    #[test]
    fn reused_noise_of_the_theory_at_beta_one() {
        let (q0, q, m, v, delta) = (1.5, 1.3, 1.25, 0.9, 0.5);
        let weights = observables::WeightOverlaps { q0, q, m };
        let shrinkage = 1.0 + 4.0 * v / 9.0;
        let expected = (0.5 * delta + q0 - 2.0 * m + q) / (shrinkage * shrinkage);
        let noise = observables::reused_effective_noise(&weights, 3, v, delta, 1.0);
        assert_relative_eq!(noise, expected, max_relative = 1e-13);
        // Without response the training law is the test law.
        let fresh = observables::effective_noise(&weights, delta, 0.7);
        assert_relative_eq!(
            observables::reused_effective_noise(&weights, 3, 0.0, delta, 0.7),
            fresh,
            max_relative = 1e-13
        );
    }

    #[test]
    fn scalar_density_has_the_moments_of_the_law() {
        for (fraction, score) in [(1.0, Score::Frobenius), (0.2, Score::Frobenius), (0.2, Score::Centred)] {
            let (_, frozen, training) = selected(score, fraction, 0.3);
            let model = Model::linear(1, 0.5).unwrap();
            let law = LabelNoise::new(&model, &frozen, &training).scalar().unwrap();
            let rule = gauss_quad::GaussLegendre::new(std::num::NonZeroUsize::new(80).unwrap());
            let moment = |k| rule.integrate(-law.half_width, law.half_width, |x| law.density(x) * x.powi(k));
            assert_relative_eq!(moment(0), 1.0, max_relative = 1e-9);
            let effective = LabelNoise::new(&model, &frozen, &training).effective(1).unwrap();
            assert_relative_eq!(moment(2), 2.0 * effective, max_relative = 1e-9);
        }
    }
}
