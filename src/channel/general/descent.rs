//! Local minima of the proximal objective, by a damped Newton (Levenberg-Marquardt) method for a batch of
//! samples at once. The activation is called for all samples that are still moving.

use super::batch::attention;
use super::cholesky::{cholesky, distance2, dot, solve};
use super::expansion::LocalExpansion;
use super::logits::LogitsMap;
use crate::activation::{Activation, Evaluated};

/// Relative step of central differences, where an activation has no second derivative.
const DIFFERENCE: f64 = 1e-5;

/// One proximal problem per sample of a batch.
pub(crate) struct Prox<'a, M> {
    pub(crate) activation: &'a dyn Activation,
    pub(crate) map: M,
    /// `y`, the attention of the label, of every sample.
    pub(crate) label: &'a [f64],
    /// The centre of the quadratic pull of every sample.
    pub(crate) omega: &'a [f64],
    /// Curvature of the quadratic pull along every coordinate.
    pub(crate) stiffness: &'a [f64],
}

/// How the second derivative of the loss is taken where the activation does not have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    /// It is left out, as Gauss and Newton do.
    LeftOut,
    /// It is taken by central differences.
    ByDifferences,
}

/// A step that one sample tries.
struct Proposal {
    /// Position of the sample among those of the descent.
    position: usize,
    /// The decrease that the quadratic model promises.
    predicted: f64,
    /// Squared length of the step.
    step2: f64,
}

impl<M: LogitsMap> Prox<'_, M> {
    fn square(&self) -> usize {
        self.map.tokens() * self.map.tokens()
    }

    /// Number of samples.
    pub(crate) fn count(&self) -> usize {
        self.omega.len() / self.map.dimension()
    }

    fn logits(&self, samples: &[usize], x: &[f64]) -> Vec<f64> {
        let (n, square) = (self.map.dimension(), self.square());
        let mut logits = vec![0.0; samples.len() * square];
        let parts = samples.iter().zip(x.chunks_exact(n)).zip(logits.chunks_exact_mut(square));
        for ((sample, x), logits) in parts {
            self.map.logits(*sample, x, logits);
        }
        logits
    }

    /// `sigma(h) - y` of some samples.
    fn residual(&self, samples: &[usize], attention: &[f64]) -> Vec<f64> {
        let square = self.square();
        let mut residual = attention.to_vec();
        for (sample, residual) in samples.iter().zip(residual.chunks_exact_mut(square)) {
            let label = &self.label[sample * square..(sample + 1) * square];
            residual.iter_mut().zip(label).for_each(|(r, y)| *r -= y);
        }
        residual
    }

    /// The quadratic pull of a sample at `x`.
    pub(super) fn pull(&self, sample: usize, x: &[f64]) -> f64 {
        let n = self.map.dimension();
        let omega = &self.omega[sample * n..(sample + 1) * n];
        let terms = x.iter().zip(omega).zip(self.stiffness);
        terms.map(|((x, omega), stiffness)| 0.5 * stiffness * (x - omega) * (x - omega)).sum()
    }

    /// The objective of every sample at the points `x`.
    pub(super) fn values(&self, samples: &[usize], x: &[f64]) -> Vec<f64> {
        let logits = self.logits(samples, x);
        let attention = attention(self.activation, self.map.tokens(), &logits);
        let residual = self.residual(samples, &attention);
        let parts = residual.chunks_exact(self.square()).zip(x.chunks_exact(self.map.dimension()));
        let values = parts.zip(samples);
        values.map(|((r, x), s)| r.iter().map(|r| r * r).sum::<f64>() + self.pull(*s, x)).collect()
    }

    /// The objective of every sample and its derivatives at the points `x`. The flag tells whether the
    /// Hessian is exact.
    fn expand(&self, samples: &[usize], x: Vec<f64>, missing: Missing) -> (LocalExpansion, bool) {
        let x = match self.map.expand(samples, x, self.label) {
            Ok(mut local) => {
                self.add_pull(samples, &mut local);
                return (local, true);
            }
            Err(x) => x,
        };
        let (n, square, count) = (self.map.dimension(), self.square(), samples.len());
        let logits = self.logits(samples, &x);
        let attention = attention(self.activation, self.map.tokens(), &logits);
        let residual = self.residual(samples, &attention);
        let at = Evaluated { tokens: self.map.tokens(), logits: &logits, attention: &attention };
        let mut slope = vec![0.0; logits.len()];
        self.activation.adjoint(&at, &residual, &mut slope);
        slope.iter_mut().for_each(|s| *s *= 2.0);

        let mut local = LocalExpansion {
            value: Vec::with_capacity(count),
            loss: Vec::with_capacity(count),
            gradient: vec![0.0; count * n],
            hessian: vec![0.0; count * n * n],
            images: vec![0.0; count * n * square],
            x,
            slope,
        };
        // All directions of all samples come first, since the rows of the Hessian need them in pairs.
        let mut directions = vec![0.0; n * logits.len()];
        let mut second = vec![0.0; logits.len()];
        let mut image = vec![0.0; logits.len()];
        for (i, direction) in directions.chunks_exact_mut(logits.len()).enumerate() {
            for (x, direction) in local.x.chunks_exact(n).zip(direction.chunks_exact_mut(square)) {
                self.map.direction(i, x, direction);
            }
        }
        let mut exact = true;
        for (i, direction) in directions.chunks_exact(logits.len()).enumerate() {
            self.activation.derivative(&at, direction, &mut image);
            for (k, image) in image.chunks_exact(square).enumerate() {
                local.images[(k * n + i) * square..(k * n + i + 1) * square].copy_from_slice(image);
            }
            if !self.activation.second_derivative(&at, &residual, direction, &mut second) {
                exact = missing == Missing::ByDifferences;
                if exact {
                    difference(self.activation, &at, &residual, direction, &mut second);
                } else {
                    second.fill(0.0);
                }
            }
            for k in 0..count {
                let (own, second) = (k * square..(k + 1) * square, &second[k * square..(k + 1) * square]);
                local.gradient[k * n + i] = dot(&local.slope[own.clone()], &direction[own.clone()]);
                for (j, other) in directions.chunks_exact(logits.len()).enumerate().take(i + 1) {
                    local.hessian[(k * n + i) * n + j] += 2.0 * dot(second, &other[own.clone()]);
                }
            }
        }
        for (k, sample) in samples.iter().enumerate() {
            self.finish(&mut local, k, *sample, &residual[k * square..(k + 1) * square]);
        }
        (local, exact)
    }

    /// Adds the quadratic pull to the derivatives of the losses.
    fn add_pull(&self, samples: &[usize], local: &mut LocalExpansion) {
        let n = self.map.dimension();
        for (k, sample) in samples.iter().enumerate() {
            let x = &local.x[k * n..(k + 1) * n];
            let omega = &self.omega[sample * n..(sample + 1) * n];
            for i in 0..n {
                local.hessian[(k * n + i) * n + i] += self.stiffness[i];
                local.gradient[k * n + i] += self.stiffness[i] * (x[i] - omega[i]);
            }
            local.value[k] = local.loss[k] + self.pull(*sample, x);
        }
    }

    /// Completes the derivatives of one sample, after the terms that the activation computes by batches.
    fn finish(&self, local: &mut LocalExpansion, k: usize, sample: usize, residual: &[f64]) {
        let (n, square) = (self.map.dimension(), self.square());
        let x = &local.x[k * n..(k + 1) * n];
        let omega = &self.omega[sample * n..(sample + 1) * n];
        let images = &local.images[k * n * square..(k + 1) * n * square];
        let image = |i: usize| &images[i * square..(i + 1) * square];
        let hessian = &mut local.hessian[k * n * n..(k + 1) * n * n];
        for i in 0..n {
            for j in 0..=i {
                let entry = hessian[i * n + j] + 2.0 * dot(image(i), image(j));
                hessian[i * n + j] = entry;
                hessian[j * n + i] = entry;
            }
        }
        self.map.add_curvature(&local.slope[k * square..(k + 1) * square], hessian);
        for i in 0..n {
            hessian[i * n + i] += self.stiffness[i];
            local.gradient[k * n + i] += self.stiffness[i] * (x[i] - omega[i]);
        }
        let loss = dot(residual, residual);
        local.loss.push(loss);
        local.value.push(loss + self.pull(sample, x));
    }

    /// The objective of every sample and its derivatives at the points `x`.
    pub(crate) fn at(&self, x: Vec<f64>) -> LocalExpansion {
        let samples: Vec<usize> = (0..self.count()).collect();
        self.expand(&samples, x, Missing::ByDifferences).0
    }

    /// The local minima downhill from the points `x` of some samples. A sample that comes close to its point
    /// among `known` ends there, since its descent would find the same minimum again.
    pub(super) fn descend(&self, samples: &[usize], x: Vec<f64>, known: Option<&[f64]>) -> LocalExpansion {
        const MAX_STEPS: usize = 60;
        // Relative size of a full Newton step after which the error is below rounding.
        const CLOSE: f64 = 1e-8;
        // The same for a step of Gauss and Newton, which gains a constant factor only.
        const CLOSER: f64 = 1e-11;
        // Relative distance between points in the same basin.
        const SAME: f64 = 1e-2;
        let n = self.map.dimension();
        let (mut here, exact) = self.expand(samples, x, Missing::LeftOut);
        let close = if exact { CLOSE } else { CLOSER };
        let steps = if exact { MAX_STEPS } else { 4 * MAX_STEPS };
        let mut damping = vec![0.0; samples.len()];
        let mut moving: Vec<usize> = (0..samples.len()).collect();
        let base = self.stiffness.iter().fold(f64::INFINITY, |m: f64, s| m.min(*s));
        let raise = |damping: f64| (4.0 * damping).max(1e-2 * base + 1e-3);
        let mut newton = Newton::new(n);
        for _ in 0..steps {
            let mut trial = Vec::with_capacity(moving.len() * n);
            let mut proposals = Vec::with_capacity(moving.len());
            for &position in &moving {
                let x = &here.x[position * n..(position + 1) * n];
                let gradient = &here.gradient[position * n..(position + 1) * n];
                let hessian = &here.hessian[position * n * n..(position + 1) * n * n];
                if let Some(used) = newton.step(hessian, gradient, damping[position], raise) {
                    let step = &newton.step;
                    damping[position] = used;
                    trial.extend(x.iter().zip(step).map(|(x, s)| x - s));
                    proposals.push(Proposal {
                        position,
                        predicted: 0.5 * dot(gradient, step),
                        step2: dot(step, step),
                    });
                }
            }
            if proposals.is_empty() {
                break;
            }
            let tried: Vec<usize> = proposals.iter().map(|p| samples[p.position]).collect();
            let (there, _) = self.expand(&tried, trial, Missing::LeftOut);
            moving.clear();
            for (k, Proposal { position, predicted, step2 }) in proposals.into_iter().enumerate() {
                let x = &there.x[k * n..(k + 1) * n];
                let size2 = dot(x, x);
                let rounding = 1e-14 * (1.0 + here.value[position]);
                let decrease = here.value[position] - there.value[k];
                // A decrease below rounding does not show in the objective.
                let small = predicted < rounding;
                let accepted = decrease >= 1e-4 * predicted || small && decrease >= -rounding;
                let undamped = damping[position] == 0.0;
                let again = known.is_some_and(|known| {
                    distance2(x, &known[position * n..(position + 1) * n]) <= SAME * SAME * (size2 + 1e-2)
                });
                if accepted {
                    here.replace(position, &there, k);
                    let arrived = undamped && step2 <= close * close * (size2 + 1e-12);
                    if !(arrived || again) {
                        moving.push(position);
                    }
                    let lowered = 0.25 * damping[position];
                    damping[position] = if lowered < 1e-6 { 0.0 } else { lowered };
                } else if !small && there.value[k].is_finite() {
                    damping[position] = raise(damping[position]);
                    moving.push(position);
                }
            }
            if moving.is_empty() {
                break;
            }
        }
        if exact { here } else { self.expand(samples, here.x, Missing::ByDifferences).0 }
    }
}

/// The derivative of the adjoint along a direction, by central differences.
fn difference(
    activation: &dyn Activation,
    at: &Evaluated<'_>,
    weights: &[f64],
    direction: &[f64],
    image: &mut [f64],
) {
    let shifted = |step: f64| {
        let logits: Vec<f64> = at.logits.iter().zip(direction).map(|(h, d)| h + step * d).collect();
        let attention = attention(activation, at.tokens, &logits);
        let at = Evaluated { tokens: at.tokens, logits: &logits, attention: &attention };
        let mut adjoint = vec![0.0; logits.len()];
        activation.adjoint(&at, weights, &mut adjoint);
        adjoint
    };
    let [up, down] = [shifted(DIFFERENCE), shifted(-DIFFERENCE)];
    for ((image, up), down) in image.iter_mut().zip(&up).zip(&down) {
        *image = (up - down) / (2.0 * DIFFERENCE);
    }
}

/// The derivative of [`Activation::adjoint`] along a direction, by central differences if the activation does not have it.
pub(crate) fn adjoint_derivative(
    activation: &dyn Activation,
    at: &Evaluated<'_>,
    weights: &[f64],
    direction: &[f64],
) -> Vec<f64> {
    let mut image = vec![0.0; at.logits.len()];
    if !activation.second_derivative(at, weights, direction, &mut image) {
        difference(activation, at, weights, direction, &mut image);
    }
    image
}

/// The Newton step of one sample, and the room to compute it.
struct Newton {
    factor: Vec<f64>,
    step: Vec<f64>,
}

impl Newton {
    fn new(n: usize) -> Self {
        Self { factor: vec![0.0; n * n], step: vec![0.0; n] }
    }

    /// Computes the step `(H + damping)^{-1} g`, with the damping raised until the matrix is positive
    /// definite. The result is the damping used, or `None` if no damping helps.
    fn step(
        &mut self,
        hessian: &[f64],
        gradient: &[f64],
        mut damping: f64,
        raise: impl Fn(f64) -> f64,
    ) -> Option<f64> {
        const TRIES: usize = 40;
        for _ in 0..TRIES {
            if cholesky(hessian, damping, &mut self.factor, gradient.len()) {
                self.step.copy_from_slice(gradient);
                solve(&self.factor, &mut self.step);
                return Some(damping);
            }
            damping = raise(damping);
        }
        None
    }
}
