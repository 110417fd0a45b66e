//! The averages over the training law at a fixed point, and their derivatives along `eps` and along the order parameters.

use super::products::{add_both, add_identity, add_product, form, inner};
use super::shifts::FieldShifts;
use super::trained::{PretrainedBatch, PretrainedShifts};
use crate::activation::{Activation, Evaluated};
use crate::attention::Attention;
use crate::channel::general::{
    CoordinateBasis, LastPoints, LocalExpansion, Perturbation, Prox, Rivals, adjoint_derivative, attention,
    batch_size, inverse,
};
use crate::error::Error;
use crate::fields::{FieldColumns, JointLaw, Sequences};
use crate::losses::batch::{combine, gather, matrices};
use crate::losses::vector::general::{FieldsBlock, PerturbedLayer, frozen_coordinates, label_coordinates};
use crate::losses::vector::moments::VectorOverlaps;
use crate::options::Options;
use crate::parallel;

/// The names of the averages whose derivatives are taken.
pub(crate) mod moment {
    /// `g.p_2`.
    pub(crate) const FREE: usize = 0;
    /// `g.p_1`.
    pub(crate) const STAR: usize = 1;
    /// `g^T (I + eps W) g`.
    pub(crate) const GRADIENT2: usize = 2;
    /// `dl'/dq`.
    pub(crate) const CENTRING: usize = 3;
    pub(crate) const COUNT: usize = 4;
}

/// The directions along which derivatives are taken.
pub(crate) mod direction {
    pub(crate) const EPS: usize = 0;
    pub(crate) const M: usize = 1;
    /// Along `s = sqrt(q - m^2)`.
    pub(crate) const S: usize = 2;
    pub(crate) const V: usize = 3;
    pub(crate) const COUNT: usize = 4;
}

/// Half-width of the window of `omega`, along the line between two minima and in units of `s`, in which the density of the
/// surface between them is measured. The density changes little over such a window: its relative error is some half of the square.
const WINDOW: f64 = 0.3;

/// Averages over the training law, in units of `q0`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FirstOrderAverages {
    pub(crate) moments: [f64; moment::COUNT],
    /// The derivatives of the moments along every direction.
    pub(crate) slopes: [[f64; moment::COUNT]; direction::COUNT],
    /// `[|p_2|^2, p_1.p_2, |p_1|^2]`.
    pub(crate) seconds: [f64; 3],
    /// The derivative of the minimum of the proximal objective along `eps`.
    pub(crate) envelope: f64,
}

impl FirstOrderAverages {
    fn numbers(&mut self) -> impl Iterator<Item = &mut f64> {
        let Self { moments, slopes, seconds, envelope } = self;
        moments.iter_mut().chain(slopes.iter_mut().flatten()).chain(seconds).chain([envelope])
    }

    /// The mean of some averages.
    pub(crate) fn mean(all: &[Self]) -> Self {
        let mut total = Self::default();
        for mut own in all.iter().copied() {
            for (total, own) in total.numbers().zip(own.numbers()) {
                *total += *own / all.len() as f64;
            }
        }
        total
    }
}

/// The law of the training sequences, and the point at which averages over it are taken.
pub(crate) struct TrainingLaw<'a> {
    pub(crate) layer: &'a PerturbedLayer,
    pub(crate) law: &'a JointLaw,
    pub(crate) shifts: &'a FieldShifts,
    pub(crate) point: VectorOverlaps,
}

/// A batch of samples at some points, with what the derivatives of their losses along `eps` need.
struct Situation<'a> {
    law: &'a TrainingLaw<'a>,
    block: &'a FieldsBlock,
    omega: &'a [f64],
    /// The shifts of the frozen logits, per `eps`.
    frozen: &'a [f64],
    /// The shifts of the attention of the label, per `eps`.
    label: &'a [f64],
    gram: &'a [f64],
}

impl TrainingLaw<'_> {
    fn activation(&self) -> &dyn Activation {
        self.layer.activation.as_ref()
    }

    /// The averages over the nodes of one scramble.
    pub(crate) fn averages(&self, options: &Options, scramble: usize) -> Result<FirstOrderAverages, Error> {
        let tokens = self.layer.tokens;
        let columns = FieldColumns::new([tokens; 2], self.law, options, scramble, false)?;
        let size = batch_size(tokens, tokens);
        let batches: Vec<FirstOrderAverages> =
            parallel::map(columns.nodes() / size, 1, &|batch| self.batch(&columns, batch * size, size));
        Ok(FirstOrderAverages::mean(&batches))
    }

    /// The averages over a batch of nodes.
    fn batch(&self, columns: &FieldColumns, first: usize, size: usize) -> FirstOrderAverages {
        let Self { layer, law, shifts, .. } = self;
        let (tokens, activation) = (layer.tokens, self.activation());
        let basis = CoordinateBasis::new(tokens, Attention::Tied, activation.unseen());
        let [star, free] = [&columns.star, &columns.free].map(|columns| gather(columns, first, size));
        let frozen = frozen_coordinates(law, columns, first, size);
        let target = label_coordinates(law, columns, first, &frozen);
        let observed = [&frozen, &target].map(|x| matrices(&basis, tokens, x, 1.0));
        let observed = [observed[0].as_slice(), observed[1].as_slice()];
        let both = [star.as_slice(), free.as_slice()];
        let directions = if self.point.s2 > 0.0 { &both[..] } else { &both[..1] };
        let [mut of_frozen, of_label] = [0, 1].map(|i| shifts.shift(i, tokens, observed, directions));
        let gram = shifts.gram(observed);
        let z = if law.sequences == Sequences::Reused {
            let points = layer.pretrained(law, &basis, &frozen, &target);
            let trained = PretrainedBatch {
                activation,
                basis: &basis,
                points: &points,
                label: observed[1],
                response: law.response,
            };
            of_frozen = trained.shift(&PretrainedShifts {
                field: &of_frozen,
                label: &of_label,
                gram: &gram,
                response: &shifts.response(observed),
            });
            matrices(&basis, tokens, &points.x, law.beta)
        } else {
            observed[0].iter().map(|x| law.beta * x).collect()
        };
        of_frozen.iter_mut().for_each(|x| *x *= law.beta);
        let block = layer.labelled(z, observed[1].to_vec(), star, free);
        let at_label = Evaluated { tokens, logits: &block.label, attention: &block.y };
        let mut label = vec![0.0; block.y.len()];
        activation.derivative(&at_label, &of_label, &mut label);
        let omega = combine(&block.star, &block.free, self.point.m, self.point.deviation());
        let situation = Situation {
            law: self,
            block: &block,
            omega: &omega,
            frozen: &of_frozen,
            label: &label,
            gram: &gram,
        };
        situation.averages()
    }
}

/// A proximal point of a sample.
struct ProximalPoint<'a> {
    sample: usize,
    chi: &'a [f64],
    /// `sigma(h) - y`.
    residual: &'a [f64],
    /// The gradient of the loss in the logits.
    slope: &'a [f64],
}

impl Situation<'_> {
    fn tokens(&self) -> usize {
        self.law.layer.tokens
    }

    fn prox<'b>(&'b self, stiffness: &'b [f64]) -> Prox<'b, Perturbation<'b>> {
        Prox {
            activation: self.law.activation(),
            map: self.law.layer.perturbation(1, &self.block.frozen, self.law.point.q()),
            label: &self.block.y,
            omega: self.omega,
            stiffness,
        }
    }

    /// The logits of some samples at the points `x`.
    fn logits(&self, samples: &[usize], x: &[f64]) -> Vec<f64> {
        let square = self.tokens() * self.tokens();
        let own = samples.iter().flat_map(|s| &self.block.frozen[s * square..(s + 1) * square]);
        let mut logits: Vec<f64> = own.copied().collect();
        self.law.layer.perturb(1, &mut logits, x, self.law.point.q());
        logits
    }

    /// `sigma(h) - y` of some samples.
    fn residual(&self, samples: &[usize], attention: &[f64]) -> Vec<f64> {
        let square = self.tokens() * self.tokens();
        let labels = samples.iter().flat_map(|s| &self.block.y[s * square..(s + 1) * square]);
        attention.iter().zip(labels).map(|(s, y)| s - y).collect()
    }

    fn averages(&self) -> FirstOrderAverages {
        let tokens = self.tokens();
        let point = self.law.point;
        let stiffness = vec![1.0 / point.v; tokens];
        let prox = self.prox(&stiffness);
        let starts = |samples: &[usize]| prox.starts(samples, &self.block.star, &self.block.label);
        let mut known = LastPoints::default();
        let found = prox.minima_near(&mut known, starts);
        let count = prox.count();
        let all: Vec<usize> = (0..count).collect();
        let mut total = self.smooth(&all, &found);
        // The surfaces on which the proximal point jumps.
        let contested: Vec<usize> =
            all.into_iter().filter(|s| known.contested[*s] || self.is_near_its_mirror(*s, &found)).collect();
        if !contested.is_empty() {
            let mut all_starts = starts(&contested);
            all_starts.extend(reflections(&contested, &found, &all_starts, tokens));
            if let Some(rivals) = prox.rivals(&contested, &found, all_starts) {
                self.add_jumps(&found, &rivals, &mut total);
            }
        }
        total.numbers().for_each(|x| *x /= count as f64);
        total
    }

    /// Whether the minimum and its mirror image, which has the same loss, are about equally low.
    fn is_near_its_mirror(&self, sample: usize, found: &LocalExpansion) -> bool {
        let own = sample * self.tokens()..(sample + 1) * self.tokens();
        let (x, omega) = (&found.x[own.clone()], &self.omega[own]);
        inner(x, omega).abs() < WINDOW * self.law.point.deviation() * inner(x, x).sqrt()
    }

    /// The moments of some proximal points and their derivatives, as sums over the samples, without the jumps.
    fn smooth(&self, samples: &[usize], found: &LocalExpansion) -> FirstOrderAverages {
        let (n, activation) = (self.tokens(), self.law.activation());
        let (square, coupling) = (n * n, self.law.layer.coupling);
        let VectorOverlaps { m, v, .. } = self.law.point;
        let s = self.law.point.deviation();
        let logits = self.logits(samples, &found.x);
        let attention = attention(activation, n, &logits);
        let residual = self.residual(samples, &attention);
        let at = Evaluated { tokens: n, logits: &logits, attention: &attention };
        let twice: Vec<f64> = residual.iter().map(|r| 2.0 * r).collect();
        // The change of the gradient in the logits, along a change of the logits and with given weights beside.
        let change_of_slope = |along: &[f64], weights: &[f64]| -> Vec<f64> {
            let mut adjoint = vec![0.0; along.len()];
            activation.adjoint(&at, weights, &mut adjoint);
            let second = adjoint_derivative(activation, &at, &twice, along);
            adjoint.iter().zip(second).map(|(x, y)| x + y).collect()
        };
        let mut identity = vec![0.0; logits.len()];
        for identity in identity.chunks_exact_mut(square) {
            add_identity(n, 1.0, identity);
        }
        let mut weights = vec![0.0; logits.len()];
        activation.derivative(&at, &identity, &mut weights);
        weights.iter_mut().for_each(|x| *x *= 2.0);
        let along_identity = change_of_slope(&identity, &weights);
        activation.derivative(&at, self.frozen, &mut weights);
        for (s, weights) in weights.chunks_exact_mut(square).enumerate() {
            let own = s * square..(s + 1) * square;
            for (weight, label) in weights.iter_mut().zip(&self.label[own.clone()]) {
                *weight = 2.0 * (*weight - label);
            }
            add_product(n, 2.0, &residual[own.clone()], &self.gram[own], weights);
        }
        let along_eps = change_of_slope(self.frozen, &weights);

        let mut total = FirstOrderAverages::default();
        for sample in samples {
            let own = sample * square..(sample + 1) * square;
            let fields = sample * n..(sample + 1) * n;
            let (star, free) = (&self.block.star[fields.clone()], &self.block.free[fields.clone()]);
            let here = ProximalPoint {
                sample: *sample,
                chi: &found.x[fields],
                residual: &residual[own.clone()],
                slope: &found.slope[own.clone()],
            };
            let g = self.gradient(&here);
            let gram = &self.gram[own.clone()];
            let hessian = &found.hessian[sample * n * n..(sample + 1) * n * n];
            // The Hessian at a minimum is positive definite; a sample without a minimum makes the sums NaN.
            let response = inverse(hessian, n).unwrap_or_else(|| vec![f64::NAN; n * n]);
            let [identity, eps] = [&along_identity[own.clone()], &along_eps[own]];
            let transposed = |matrix: &[f64], x: &[f64]| -> Vec<f64> {
                // (A + A^T) x.
                (0..n).map(|i| (0..n).map(|j| (matrix[i * n + j] + matrix[j * n + i]) * x[j]).sum()).collect()
            };
            let [from_identity, from_eps] = [identity, eps].map(|matrix| transposed(matrix, here.chi));
            let weighted: Vec<f64> = gram.chunks_exact(n).map(|row| inner(row, &g)).collect();
            for d in 0..direction::COUNT {
                // The change of the logits is `frozen` along eps, and `centre I` otherwise, at fixed chi.
                let centre = match d {
                    direction::M => -2.0 * coupling * m,
                    direction::S => -2.0 * coupling * s,
                    _ => 0.0,
                };
                let force = |i: usize| match d {
                    direction::EPS => coupling * from_eps[i] - weighted[i],
                    direction::M => coupling * centre * from_identity[i] - star[i] / v,
                    direction::S => coupling * centre * from_identity[i] - free[i] / v,
                    _ => -g[i] / v,
                };
                let force: Vec<f64> = (0..n).map(force).collect();
                let step: Vec<f64> = response.chunks_exact(n).map(|row| -inner(row, &force)).collect();
                let change_of_g = |i: usize| match d {
                    direction::EPS => step[i] / v - weighted[i],
                    direction::M => (step[i] - star[i]) / v,
                    direction::S => (step[i] - free[i]) / v,
                    _ => (step[i] - g[i]) / v,
                };
                let dg: Vec<f64> = (0..n).map(change_of_g).collect();
                // The trace of the change of the gradient in the logits. The second derivative of the loss is symmetric, so that the part
                // of the step needs no further derivatives.
                let trace = |matrix: &[f64]| matrix.iter().step_by(n + 1).sum::<f64>();
                let mut moved = vec![0.0; square];
                add_both(coupling, &step, here.chi, &mut moved);
                let direct = if d == direction::EPS { trace(eps) } else { centre * trace(identity) };
                let curvature = inner(&moved, identity) + direct;
                let metric = if d == direction::EPS { inner(&g, &weighted) } else { 0.0 };
                let slopes = &mut total.slopes[d];
                slopes[moment::FREE] += inner(&dg, free);
                slopes[moment::STAR] += inner(&dg, star);
                slopes[moment::GRADIENT2] += 2.0 * inner(&g, &dg) + metric;
                slopes[moment::CENTRING] -= coupling * curvature;
            }
            for (total, x) in total.moments.iter_mut().zip(self.moments(&here, &g)) {
                *total += x;
            }
            let seconds = [inner(free, free), inner(star, free), inner(star, star)];
            total.seconds.iter_mut().zip(seconds).for_each(|(total, x)| *total += x);
            total.envelope += self.envelopes(&here, &g)[direction::EPS];
        }
        total
    }

    /// `g = (chi_p - omega)/v`.
    fn gradient(&self, here: &ProximalPoint<'_>) -> Vec<f64> {
        let omega = &self.omega[here.sample * self.tokens()..];
        here.chi.iter().zip(omega).map(|(x, omega)| (x - omega) / self.law.point.v).collect()
    }

    /// The terms of [`moment`] at `eps = 0`.
    fn moments(&self, here: &ProximalPoint<'_>, g: &[f64]) -> [f64; moment::COUNT] {
        let fields = here.sample * g.len()..(here.sample + 1) * g.len();
        [
            inner(g, &self.block.free[fields.clone()]),
            inner(g, &self.block.star[fields]),
            inner(g, g),
            -self.law.layer.coupling * here.slope.iter().step_by(g.len() + 1).sum::<f64>(),
        ]
    }

    /// The derivatives of the proximal objective along all directions, at a fixed `chi`.
    fn envelopes(&self, here: &ProximalPoint<'_>, g: &[f64]) -> [f64; direction::COUNT] {
        let n = g.len();
        let own = here.sample * n * n..(here.sample + 1) * n * n;
        let gram = &self.gram[own.clone()];
        let of_label = inner(here.residual, &self.label[own.clone()]);
        let rows = here.residual.chunks_exact(n);
        let metric: f64 = rows.map(|row| form(gram, row, row)).sum();
        let pull = 0.5 * self.law.point.v * form(gram, g, g);
        let [along_free, along_star, square, centring] = self.moments(here, g);
        let VectorOverlaps { m, .. } = self.law.point;
        [
            inner(here.slope, &self.frozen[own]) - 2.0 * of_label + metric - pull,
            2.0 * m * centring - along_star,
            2.0 * self.law.point.deviation() * centring - along_free,
            -0.5 * square,
        ]
    }

    /// Adds what the moments gain along every direction because the surfaces move on which two minima are equally low.
    fn add_jumps(&self, found: &LocalExpansion, rivals: &Rivals, total: &mut FirstOrderAverages) {
        let (n, activation) = (self.tokens(), self.law.activation());
        let square = n * n;
        let logits = self.logits(&rivals.samples, &rivals.minima.x);
        let residual = self.residual(&rivals.samples, &attention(activation, n, &logits));
        let here_logits = self.logits(&rivals.samples, &self.points_of(&rivals.samples, found));
        let here_residual = self.residual(&rivals.samples, &attention(activation, n, &here_logits));
        for k in rivals.positions.iter().copied() {
            let sample = rivals.samples[k];
            let own = k * square..(k + 1) * square;
            let here = ProximalPoint {
                sample,
                chi: &found.x[sample * n..(sample + 1) * n],
                residual: &here_residual[own.clone()],
                slope: &found.slope[sample * square..(sample + 1) * square],
            };
            let there = ProximalPoint {
                sample,
                chi: &rivals.minima.x[k * n..(k + 1) * n],
                residual: &residual[own.clone()],
                slope: &rivals.minima.slope[own],
            };
            let distance = here.chi.iter().zip(there.chi).map(|(x, y)| (x - y) * (x - y)).sum::<f64>().sqrt();
            let window = WINDOW * self.law.point.deviation() * distance / self.law.point.v;
            let gap = rivals.minima.value[k] - found.value[sample];
            if gap.abs() >= window {
                continue;
            }
            let [g_here, g_there] = [&here, &there].map(|point| self.gradient(point));
            let [x_here, x_there] = [self.moments(&here, &g_here), self.moments(&there, &g_there)];
            let [d_here, d_there] = [self.envelopes(&here, &g_here), self.envelopes(&there, &g_there)];
            for d in 0..direction::COUNT {
                let approach = (d_here[d] - d_there[d]) / (2.0 * window);
                for (j, slope) in total.slopes[d].iter_mut().enumerate() {
                    *slope += approach * (x_there[j] - x_here[j]);
                }
            }
        }
    }

    fn points_of(&self, samples: &[usize], found: &LocalExpansion) -> Vec<f64> {
        let n = self.tokens();
        samples.iter().flat_map(|s| &found.x[s * n..(s + 1) * n]).copied().collect()
    }
}

/// The minima of some samples reflected along the directions of the starts, and the mirror images of the minima.
fn reflections(samples: &[usize], found: &LocalExpansion, starts: &[Vec<f64>], n: usize) -> Vec<Vec<f64>> {
    let own = |s: usize| &found.x[s * n..(s + 1) * n];
    let reflected = |start: &Vec<f64>| -> Vec<f64> {
        let of_sample = |(s, axis): (&usize, &[f64])| -> Vec<f64> {
            let along = 2.0 * inner(own(*s), axis) / (inner(axis, axis) + f64::MIN_POSITIVE);
            own(*s).iter().zip(axis).map(|(x, axis)| x - along * axis).collect()
        };
        samples.iter().zip(start.chunks_exact(n)).flat_map(of_sample).collect()
    };
    let mirrored = samples.iter().flat_map(|s| own(*s)).map(|x| -x).collect();
    starts.iter().map(reflected).chain([mirrored]).collect()
}
