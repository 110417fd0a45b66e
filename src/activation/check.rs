//! A check of an activation against itself: derivatives by finite differences, and what it says of itself.

use std::fmt;

use super::traits::{Activation, Evaluated, Parity, Unseen};

/// Sizes of the logits at which an activation is checked.
const SIZES: [f64; 3] = [0.1, 1.0, 4.0];
/// Matrices per size.
const MATRICES: usize = 5;
/// Step of central differences. Their error is about `STEP^2` plus rounding over `STEP`.
const STEP: f64 = 1e-5;
/// Largest relative disagreement, in units of the size of what is compared.
const TOLERANCE: f64 = 1e-6;

/// A property that an activation does not have although it should.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Disagreement {
    /// The method that is wrong, or whose promise is not kept.
    pub method: &'static str,
    /// What is compared.
    pub what: &'static str,
    /// The logits, a `T x T` matrix by rows.
    pub logits: Vec<f64>,
    /// What the activation gave.
    pub found: f64,
    /// What it should have given.
    pub expected: f64,
    /// The largest difference that would have been accepted.
    pub tolerance: f64,
}

impl fmt::Display for Disagreement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { method, what, logits, found, expected, tolerance } = self;
        write!(
            formatter,
            "`{method}`: {what} is {found:e} instead of {expected:e} (tolerance {tolerance:.1e}) at the logits {logits:?}"
        )
    }
}

impl std::error::Error for Disagreement {}

/// Checks an activation at `tokens` tokens, 1 to 64, against itself. Other numbers are replaced by the nearest of these.
///
/// At logits of several sizes it compares [`Activation::derivative`] and
/// [`Activation::second_derivative`] (if there is one) with central differences, [`Activation::adjoint`] with
/// the derivative, a batch with its single matrices, and what [`Activation::unseen`] and
/// [`Activation::parity`] promise with the values.
///
/// ```
/// use lora_asymptotics::activation::{Sigmoid, check};
///
/// check(&Sigmoid::default(), 3)?;
/// # Ok::<(), lora_asymptotics::activation::Disagreement>(())
/// ```
///
/// # Errors
/// The first [`Disagreement`] that is found.
pub fn check(activation: &dyn Activation, tokens: usize) -> Result<(), Disagreement> {
    let tokens = tokens.clamp(1, 64);
    for (seed, size) in SIZES.into_iter().enumerate() {
        let sample = Sample::new(activation, tokens, size, 7 * seed);
        sample.batch()?;
        sample.derivative()?;
        sample.adjoint()?;
        sample.second_derivative()?;
        sample.promises()?;
    }
    Ok(())
}

/// A batch of logits with the attention there, and directions.
struct Sample<'a> {
    activation: &'a dyn Activation,
    tokens: usize,
    logits: Vec<f64>,
    attention: Vec<f64>,
    direction: Vec<f64>,
    weights: Vec<f64>,
}

/// Numbers between -1 and 1 without a pattern.
fn scattered(count: usize, seed: usize) -> Vec<f64> {
    (0..count).map(|i| ((i + 101 * seed) as f64 * 12.9898 + 0.5).sin()).collect()
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

impl<'a> Sample<'a> {
    fn new(activation: &'a dyn Activation, tokens: usize, size: f64, seed: usize) -> Self {
        let count = MATRICES * tokens * tokens;
        let logits: Vec<f64> = scattered(count, seed).iter().map(|x| size * x).collect();
        let attention = attention(activation, tokens, &logits);
        let [direction, weights] = [seed + 1, seed + 2].map(|seed| scattered(count, seed));
        Self { activation, tokens, logits, attention, direction, weights }
    }

    fn at(&self) -> Evaluated<'_> {
        Evaluated { tokens: self.tokens, logits: &self.logits, attention: &self.attention }
    }

    /// The numbers of matrix `number` in a batch.
    fn matrix<'b>(&self, batch: &'b [f64], number: usize) -> &'b [f64] {
        let square = self.tokens * self.tokens;
        batch.get(number * square..(number + 1) * square).unwrap_or(&[])
    }

    /// Compares two batches, entry by entry.
    fn compare(
        &self,
        method: &'static str,
        what: &'static str,
        found: &[f64],
        expected: &[f64],
        relative: f64,
    ) -> Result<(), Disagreement> {
        for number in 0..MATRICES {
            let (found, expected) = (self.matrix(found, number), self.matrix(expected, number));
            let size = expected.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
            let tolerance = relative * (1.0 + size);
            for (found, expected) in found.iter().zip(expected) {
                let close = (found - expected).abs() <= tolerance;
                if !close {
                    return Err(Disagreement {
                        method,
                        what,
                        logits: self.matrix(&self.logits, number).to_vec(),
                        found: *found,
                        expected: *expected,
                        tolerance,
                    });
                }
            }
        }
        Ok(())
    }

    fn moved(&self, step: f64, direction: &[f64]) -> Vec<f64> {
        self.logits.iter().zip(direction).map(|(h, d)| h + step * d).collect()
    }

    fn image(&self, map: impl FnOnce(&mut [f64])) -> Vec<f64> {
        let mut image = vec![f64::NAN; self.logits.len()];
        map(&mut image);
        image
    }

    fn batch(&self) -> Result<(), Disagreement> {
        let square = self.tokens * self.tokens;
        let alone: Vec<f64> = self
            .logits
            .chunks_exact(square)
            .flat_map(|matrix| attention(self.activation, self.tokens, matrix))
            .collect();
        self.compare("attention", "an entry of a matrix in a batch", &self.attention, &alone, 1e-13)
    }

    fn derivative(&self) -> Result<(), Disagreement> {
        let [up, down] =
            [STEP, -STEP].map(|h| attention(self.activation, self.tokens, &self.moved(h, &self.direction)));
        let expected: Vec<f64> = up.iter().zip(&down).map(|(u, d)| (u - d) / (2.0 * STEP)).collect();
        let found = self.image(|image| self.activation.derivative(&self.at(), &self.direction, image));
        self.compare("derivative", "an entry of the derivative", &found, &expected, TOLERANCE)
    }

    fn adjoint(&self) -> Result<(), Disagreement> {
        let square = self.tokens * self.tokens;
        let along = self.image(|image| self.activation.derivative(&self.at(), &self.direction, image));
        let gradient = self.image(|image| self.activation.adjoint(&self.at(), &self.weights, image));
        let products = |x: &[f64], y: &[f64]| -> Vec<f64> {
            let pairs = x.chunks_exact(square).zip(y.chunks_exact(square));
            pairs.flat_map(|(x, y)| vec![dot(x, y); square]).collect()
        };
        let [found, expected] = [products(&gradient, &self.direction), products(&self.weights, &along)];
        self.compare("adjoint", "the product of the adjoint with a direction", &found, &expected, 1e-11)
    }

    fn second_derivative(&self) -> Result<(), Disagreement> {
        let mut found = vec![f64::NAN; self.logits.len()];
        if !self.activation.second_derivative(&self.at(), &self.weights, &self.direction, &mut found) {
            return Ok(());
        }
        let [up, down] = [STEP, -STEP].map(|step| {
            let logits = self.moved(step, &self.direction);
            let attention = attention(self.activation, self.tokens, &logits);
            let at = Evaluated { tokens: self.tokens, logits: &logits, attention: &attention };
            self.image(|image| self.activation.adjoint(&at, &self.weights, image))
        });
        let expected: Vec<f64> = up.iter().zip(&down).map(|(u, d)| (u - d) / (2.0 * STEP)).collect();
        let what = "an entry of the second derivative";
        self.compare("second_derivative", what, &found, &expected, TOLERANCE)
    }

    fn promises(&self) -> Result<(), Disagreement> {
        match self.activation.unseen() {
            Unseen::Nothing => {}
            Unseen::RowShifts => {
                let shifts: Vec<f64> = (0..self.logits.len()).map(|i| (i / self.tokens) as f64).collect();
                let shifted = attention(self.activation, self.tokens, &self.moved(0.3, &shifts));
                let what = "an entry of the attention after a shift of each row";
                self.compare("unseen", what, &shifted, &self.attention, 1e-12)?;
            }
        }
        let sign = match self.activation.parity() {
            Parity::Neither => return Ok(()),
            Parity::Even => 1.0,
            Parity::Odd => -1.0,
        };
        let opposite = attention(self.activation, self.tokens, &self.moved(-2.0, &self.logits));
        let expected: Vec<f64> = self.attention.iter().map(|a| sign * a).collect();
        self.compare("parity", "an entry of the attention at opposite logits", &opposite, &expected, 1e-12)
    }
}

fn attention(activation: &dyn Activation, tokens: usize, logits: &[f64]) -> Vec<f64> {
    let mut attention = vec![f64::NAN; logits.len()];
    activation.attention(tokens, logits, &mut attention);
    attention
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activation::{ActivationName, Sigmoid};

    #[test]
    fn the_activations_of_the_schema_pass() {
        let names = [
            ActivationName::Linear,
            ActivationName::Softmax,
            ActivationName::SoftmaxOne,
            ActivationName::Sigmoid,
        ];
        for name in names {
            for tokens in 1..=8 {
                check(name.activation().as_ref(), tokens).unwrap();
            }
        }
        check(&Sigmoid::with_bias(0.7), 3).unwrap();
    }

    /// A sigmoid with one mistake.
    #[derive(Debug)]
    struct Wrong(&'static str);

    impl Activation for Wrong {
        fn name(&self) -> &str {
            self.0
        }

        fn attention(&self, tokens: usize, logits: &[f64], attention: &mut [f64]) {
            Sigmoid::default().attention(tokens, logits, attention);
            if self.0 == "attention" {
                attention[0] += attention[attention.len() - 1];
            }
        }

        fn derivative(&self, at: &Evaluated<'_>, direction: &[f64], image: &mut [f64]) {
            Sigmoid::default().derivative(at, direction, image);
            if self.0 == "derivative" {
                image.iter_mut().for_each(|x| *x *= 1.0001);
            }
        }

        fn adjoint(&self, at: &Evaluated<'_>, weights: &[f64], image: &mut [f64]) {
            Sigmoid::default().adjoint(at, weights, image);
            if self.0 == "adjoint" {
                image[1] += 0.01;
            }
        }

        fn second_derivative(
            &self,
            at: &Evaluated<'_>,
            weights: &[f64],
            direction: &[f64],
            image: &mut [f64],
        ) -> bool {
            Sigmoid::default().second_derivative(at, weights, direction, image);
            if self.0 == "second_derivative" {
                image.fill(f64::NAN);
            }
            true
        }

        fn unseen(&self) -> Unseen {
            if self.0 == "unseen" { Unseen::RowShifts } else { Unseen::Nothing }
        }

        fn parity(&self) -> Parity {
            if self.0 == "parity" { Parity::Odd } else { Parity::Neither }
        }
    }

    #[test]
    fn every_mistake_is_named() {
        check(&Wrong("nothing"), 2).unwrap();
        for method in ["attention", "derivative", "adjoint", "second_derivative", "unseen", "parity"] {
            let found = check(&Wrong(method), 2).unwrap_err();
            assert_eq!(found.method, method, "{found}");
            assert!(found.to_string().contains(method) && found.logits.len() == 4);
        }
    }
}
