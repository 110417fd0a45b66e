//! Training of attention with two tokens and with a sparse perturbation at finite dimension, on frozen logits that are drawn.

use extension::sparse::GaussBernoulli;
use extension::sparse_lora::{Observed, Penalty};
use lora_asymptotics::lora::Training;
use lora_asymptotics::{ActivationName, Frozen, Model};
use rand::SeedableRng;
use rand_distr::{Distribution, StandardNormal};
use rand_pcg::Pcg64;

/// The number of tokens.
const T: usize = 2;

type Square = [[f64; T]; T];

/// The attention of the given logits.
fn attention(activation: ActivationName, logits: &Square) -> Square {
    match activation {
        ActivationName::Linear => logits.map(|row| row.map(|x| x / T as f64)),
        ActivationName::Softmax => {
            logits.map(|[x, y]| [1.0 / (1.0 + (y - x).exp()), 1.0 / (1.0 + (x - y).exp())])
        }
        _ => panic!("there is no training of this activation"),
    }
}

/// The squared distance of the attention from a label, and its gradient by the logits.
fn loss(activation: ActivationName, logits: &Square, label: &Square) -> (f64, Square) {
    let seen = attention(activation, logits);
    let rest: Square = std::array::from_fn(|a| std::array::from_fn(|b| seen[a][b] - label[a][b]));
    let gradient = match activation {
        ActivationName::Linear => rest.map(|row| row.map(|x| 2.0 * x / T as f64)),
        ActivationName::Softmax => std::array::from_fn(|a| {
            let slope = 2.0 * (rest[a][0] - rest[a][1]) * seen[a][0] * seen[a][1];
            [slope, -slope]
        }),
        _ => panic!("there is no training of this activation"),
    };
    (rest.iter().flatten().map(|x| x * x).sum(), gradient)
}

fn normal(rng: &mut Pcg64) -> f64 {
    StandardNormal.sample(rng)
}

/// A symmetric matrix whose orthonormal coordinates are Gaussian with variance `2 half_variance`.
fn symmetric(rng: &mut Pcg64, half_variance: f64) -> Square {
    let [a, b, c] = std::array::from_fn(|_| (2.0 * half_variance).sqrt() * normal(rng));
    let off = b / std::f64::consts::SQRT_2;
    [[a, off], [off, c]]
}

/// The logits of a perturbation, `chi chi^T - (|w|^2/D) I`.
fn perturbation(chi: &[f64], norm2: f64) -> Square {
    std::array::from_fn(|a| {
        std::array::from_fn(|b| if a == b { chi[a] * chi[b] - norm2 } else { chi[a] * chi[b] })
    })
}

/// One training set: `n = alpha' D` sequences of two tokens, and the true perturbation.
struct Problem {
    dimension: usize,
    /// The entries of all tokens, divided by `sqrt(D)`, coordinate by coordinate.
    inputs: Vec<Vec<f64>>,
    activation: ActivationName,
    /// The frozen logits of every sequence.
    frozen: Vec<Square>,
    /// The attention of every label.
    labels: Vec<Square>,
    truth: Vec<f64>,
    penalty: Penalty,
}

impl Problem {
    fn draw(
        seed: u64,
        dimension: usize,
        model: &Model,
        frozen: &Frozen,
        alpha: f64,
        truth: GaussBernoulli,
        penalty: Penalty,
    ) -> Self {
        let mut rng = Pcg64::seed_from_u64(seed);
        let count = (alpha * dimension as f64).round() as usize;
        // The first entries are the ones that are not zero. They are scaled to their root mean square, which has no effect in
        // the limit and removes most of the scatter between instances.
        let present = (truth.density * dimension as f64).round() as usize;
        let mut star: Vec<f64> =
            (0..dimension).map(|i| if i < present { normal(&mut rng) } else { 0.0 }).collect();
        let scale = (truth.variance * dimension as f64 / star.iter().map(|x| x * x).sum::<f64>()).sqrt();
        star.iter_mut().for_each(|x| *x *= scale);
        let unit = 1.0 / (dimension as f64).sqrt();
        let inputs: Vec<Vec<f64>> =
            (0..dimension).map(|_| (0..T * count).map(|_| unit * normal(&mut rng)).collect()).collect();
        let activation = model.activation_name().expect("an activation of the schema");
        let mut problem = Self {
            dimension,
            inputs,
            activation,
            frozen: Vec::new(),
            labels: Vec::new(),
            truth: star,
            penalty,
        };
        // Given the frozen logits z, the true ones are Gaussian with mean (M/Q) z and half the variance Q0 - M^2/Q.
        let [q0, q, m] = [frozen.q0(), frozen.q(), frozen.m()];
        for chi in problem.fields(&problem.truth).chunks_exact(T) {
            let z = symmetric(&mut rng, q);
            let rest = symmetric(&mut rng, q0 - m * m / q);
            let noise = symmetric(&mut rng, model.delta() / 2.0);
            let moved = perturbation(chi, truth.variance);
            let logits = std::array::from_fn(|a| {
                std::array::from_fn(|b| m / q * z[a][b] + rest[a][b] + noise[a][b] + moved[a][b])
            });
            problem.labels.push(attention(activation, &logits));
            problem.frozen.push(z);
        }
        problem
    }

    /// `chi = x.w/sqrt(D)` for every token.
    fn fields(&self, w: &[f64]) -> Vec<f64> {
        let mut chi = vec![0.0; self.inputs[0].len()];
        for (column, w) in self.inputs.iter().zip(w).filter(|(_, w)| **w != 0.0) {
            for (chi, x) in chi.iter_mut().zip(column) {
                *chi += w * x;
            }
        }
        chi
    }

    /// The smooth part of the loss, and its derivatives by the fields and by `|w|^2/D`.
    fn smooth(&self, w: &[f64], chi: &[f64]) -> (f64, Vec<f64>, f64) {
        let norm2: f64 = w.iter().map(|x| x * x).sum();
        let q = norm2 / self.dimension as f64;
        let (mut total, mut by_field, mut by_norm) =
            (self.penalty.lambda2 * norm2, vec![0.0; chi.len()], 0.0);
        let sequences = self.frozen.iter().zip(&self.labels);
        for ((chi, (frozen, label)), out) in
            chi.chunks_exact(T).zip(sequences).zip(by_field.chunks_exact_mut(T))
        {
            let moved = perturbation(chi, q);
            let logits = std::array::from_fn(|a| std::array::from_fn(|b| frozen[a][b] + moved[a][b]));
            let (one, slope) = loss(self.activation, &logits, label);
            total += one;
            for a in 0..T {
                for b in 0..T {
                    out[a] += (slope[a][b] + slope[b][a]) * chi[b];
                }
                by_norm -= slope[a][a];
            }
        }
        (total, by_field, by_norm)
    }

    fn gradient(&self, w: &[f64], by_field: &[f64], by_norm: f64) -> Vec<f64> {
        let ridge = 2.0 * (self.penalty.lambda2 + by_norm / self.dimension as f64);
        let dot = |column: &[f64]| -> f64 {
            let mut sums = [0.0; 8];
            for (x, y) in column.chunks_exact(8).zip(by_field.chunks_exact(8)) {
                for l in 0..8 {
                    sums[l] += x[l] * y[l];
                }
            }
            let rest = column.len() / 8 * 8;
            sums.iter().sum::<f64>()
                + column[rest..].iter().zip(&by_field[rest..]).map(|(x, y)| x * y).sum::<f64>()
        };
        self.inputs.iter().zip(w).map(|(column, w)| dot(column) + ridge * w).collect()
    }

    fn l1(&self, w: &[f64]) -> f64 {
        self.penalty.lambda1 * w.iter().map(|x| x.abs()).sum::<f64>()
    }

    /// The minimum from a start at the truth, by accelerated proximal gradients (FISTA) with a line search, and a restart
    /// where the objective rises. Returns the weights and the objective.
    fn minimise(&self) -> (Vec<f64>, f64) {
        const STEPS: usize = 5000;
        let mut w = self.truth.clone();
        let mut ahead = w.clone();
        let (mut momentum, mut curvature) = (1.0_f64, 1.0_f64);
        let mut objective = f64::INFINITY;
        for _ in 0..STEPS {
            let (loss, by_field, by_norm) = self.smooth(&ahead, &self.fields(&ahead));
            let gradient = self.gradient(&ahead, &by_field, by_norm);
            let (next, reached) = loop {
                let threshold = self.penalty.lambda1 / curvature;
                let next: Vec<f64> = ahead
                    .iter()
                    .zip(&gradient)
                    .map(|(w, g)| w - g / curvature)
                    .map(|w| w.signum() * (w.abs() - threshold).max(0.0))
                    .collect();
                let (there, ..) = self.smooth(&next, &self.fields(&next));
                let bound: f64 = next
                    .iter()
                    .zip(&ahead)
                    .zip(&gradient)
                    .map(|((x, y), g)| (x - y) * (g + 0.5 * curvature * (x - y)))
                    .sum();
                if there <= loss + bound + 1e-12 * loss {
                    break (next.clone(), there + self.l1(&next));
                }
                curvature *= 1.5;
            };
            let moved: f64 = next.iter().zip(&ahead).map(|(x, y)| (x - y).powi(2)).sum();
            if moved <= 1e-16 * next.iter().map(|x| x * x).sum::<f64>() {
                return (next, reached);
            }
            if reached > objective {
                (ahead, momentum) = (w.clone(), 1.0);
                objective = f64::INFINITY;
                continue;
            }
            let faster = 0.5 * (1.0 + (1.0 + 4.0 * momentum * momentum).sqrt());
            let weight = (momentum - 1.0) / faster;
            ahead = next.iter().zip(&w).map(|(x, old)| x + weight * (x - old)).collect();
            (w, momentum, objective) = (next, faster, reached);
            curvature *= 0.98;
        }
        panic!("the minimisation has not converged");
    }
}

/// What is observed after the training of one instance.
pub fn train(
    seed: u64,
    dimension: usize,
    (model, frozen, training): (&Model, &Frozen, &Training),
    truth: GaussBernoulli,
    penalty: Penalty,
) -> Observed {
    let problem = Problem::draw(seed, dimension, model, frozen, training.alpha(), truth, penalty);
    let (w, objective) = problem.minimise();
    let per = |sum: f64| sum / dimension as f64;
    Observed {
        q: per(w.iter().map(|x| x * x).sum()),
        m: per(w.iter().zip(&problem.truth).map(|(x, star)| x * star).sum()),
        magnitude: per(w.iter().map(|x| x.abs()).sum()),
        active: per(w.iter().filter(|x| **x != 0.0).count() as f64),
        objective: per(objective),
    }
}
