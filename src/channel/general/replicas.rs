//! The least error of a prediction, by two replicas, for any activation.

use std::sync::Arc;

use super::batch::{add_squared_differences, attention, batch_size};
use super::logits::{CoordinateBasis, Perturbation};
use crate::activation::Activation;
use crate::attention::Attention;
use crate::channel::two_replicas::{LogitsLaw, TwoReplicas};
use crate::error::Error;
use crate::lanes::{Lane, sum_once};
use crate::options::Options;
use crate::quadrature::ScrambledSobol;

/// The standard normals of every scramble.
pub(crate) struct GeneralReplicas {
    activation: Arc<dyn Activation>,
    basis: CoordinateBasis,
    /// The number of groups of coordinates, like those of the basis, that make up the logits.
    copies: f64,
    tokens: usize,
    inverse_temperature: f64,
    scrambles: Vec<Vec<Vec<f64>>>,
}

impl GeneralReplicas {
    /// The standard normals for the given kind of attention, with or without a perturbation.
    pub(crate) fn new(
        activation: Arc<dyn Activation>,
        (attention, tokens): (Attention, usize),
        inverse_temperature: f64,
        perturbed: bool,
        options: &Options,
    ) -> Result<Self, Error> {
        let basis = CoordinateBasis::new(tokens, attention, activation.unseen());
        Self::with_basis(activation, basis, 1.0, inverse_temperature, perturbed, options)
    }

    /// The standard normals of one row of softmax in cross-attention, whose rows are independent and alike.
    pub(crate) fn of_one_row(
        activation: Arc<dyn Activation>,
        tokens: usize,
        inverse_temperature: f64,
        options: &Options,
    ) -> Result<Self, Error> {
        let basis = CoordinateBasis::one_row(tokens, activation.unseen());
        Self::with_basis(activation, basis, tokens as f64, inverse_temperature, false, options)
    }

    fn with_basis(
        activation: Arc<dyn Activation>,
        basis: CoordinateBasis,
        copies: f64,
        inverse_temperature: f64,
        perturbed: bool,
        options: &Options,
    ) -> Result<Self, Error> {
        let tokens = basis.tokens();
        let dimensions = 2 * basis.dimension() + if perturbed { 3 * tokens } else { 0 };
        let columns = |scramble| {
            ScrambledSobol::new(dimensions, options.log2_nodes() as u32, options.seed(), scramble)?
                .columns(0..dimensions)
        };
        let scrambles = (0..options.scrambles() as u64).map(columns).collect::<Result<_, _>>()?;
        Ok(Self { activation, basis, copies, tokens, inverse_temperature, scrambles })
    }
}

impl TwoReplicas for GeneralReplicas {
    fn error(&self, scramble: usize, law: &LogitsLaw) -> f64 {
        let Some(columns) = self.scrambles.get(scramble) else { return f64::NAN };
        let (tokens, seen) = (self.tokens, self.basis.dimension());
        let square = tokens * tokens;
        let scale = self.inverse_temperature * (law.known + law.unknown).sqrt();
        let [correlation, rest] = law.second_draw();
        let coupling = self.inverse_temperature * law.perturbation;
        let [shared, own] = law.perturbation_draws();
        let nodes = columns.first().map_or(0, Vec::len);
        let size = batch_size(tokens, tokens);
        let [sum] = sum_once(nodes / size, size, |block, sums: &mut [Lane; 1]| {
            let mut logits = [vec![0.0; size * square], vec![0.0; size * square]];
            for k in 0..size {
                let normal = |d: usize| columns[d][block * size + k];
                for (replica, logits) in logits.iter_mut().enumerate() {
                    let logits = &mut logits[k * square..(k + 1) * square];
                    let coordinate = |j: usize| match replica {
                        0 => normal(j),
                        _ => correlation * normal(j) + rest * normal(seen + j),
                    };
                    self.basis.add((0..seen).map(coordinate), scale, logits);
                    if coupling > 0.0 {
                        let free = 2 * seen + (1 + replica) * tokens;
                        let chi: Vec<f64> = (0..tokens)
                            .map(|a| shared * normal(2 * seen + a) + own * normal(free + a))
                            .collect();
                        Perturbation {
                            attention: Attention::Tied,
                            tokens,
                            columns: 1,
                            frozen: &[],
                            coupling,
                            trace: 1.0,
                            form: None,
                        }
                        .add(&chi, logits);
                    }
                }
            }
            let [p, q] = logits.map(|logits| attention(self.activation.as_ref(), tokens, &logits));
            add_squared_differences(tokens, &p, &q, &mut sums[0]);
        });
        0.5 * self.copies * sum / nodes as f64
    }
}
