//! A layer with a perturbation of low rank, and batches of its samples.

use std::sync::Arc;

use super::fields::{frozen_coordinates, label_coordinates};
use crate::activation::{Activation, Unseen};
use crate::attention::Attention;
use crate::channel::general::{
    CoordinateBasis, KnownDerivatives, LastPoints, LocalExpansion, Perturbation, Prox, attention,
};
use crate::fields::{FieldColumns, JointLaw, Sequences};
use crate::losses::batch::{gather, matrices};
use crate::model::Model;

/// A batch of samples, one after the other in every list.
pub(crate) struct FieldsBlock {
    /// Recalibrated frozen logits `z`.
    pub(crate) frozen: Vec<f64>,
    /// Logits of the label, the perturbation included.
    pub(crate) label: Vec<f64>,
    /// The attention of the label.
    pub(crate) y: Vec<f64>,
    /// `chi*`, in units of its standard deviation: for every token, the true columns. In cross-attention the columns of `chi*` come first,
    /// and those of `psi*` follow.
    pub(crate) star: Vec<f64>,
    /// The part of `omega` that is independent of `chi*`, in units of its standard deviation: for every token, the learned
    /// columns, of both factors in cross-attention.
    pub(crate) free: Vec<f64>,
}

/// A learned column: `omega = m n + deviation f`, with the standard normals `n` of the true column that it learns and
/// `f` of its own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LearnedColumn {
    pub(crate) number: usize,
    /// Number of the true column; `None` for a column in excess of the truth.
    pub(crate) truth: Option<usize>,
    pub(crate) m: f64,
    pub(crate) deviation: f64,
}

/// What all samples have in common.
pub(crate) struct PerturbedLayer {
    pub(crate) attention: Attention,
    pub(crate) activation: Arc<dyn Activation>,
    pub(crate) tokens: usize,
    /// Inverse temperature times `q0`.
    pub(crate) coupling: f64,
    /// Variances of the true columns, in units of `q0`; those of both factors in cross-attention, one factor after the other.
    pub(crate) truth: Vec<f64>,
    /// Number of learned columns, of all factors together.
    pub(crate) rank: usize,
    /// The activation, if its derivatives are to be taken in closed form.
    pub(crate) form: Option<KnownDerivatives>,
}

impl PerturbedLayer {
    /// One learned and one true column. `coupling` is the inverse temperature times `q0`.
    pub(crate) fn of_rank_one(model: &Model, coupling: f64) -> Self {
        let activation = model.shared_activation();
        Self {
            attention: Attention::Tied,
            activation,
            tokens: model.tokens(),
            coupling,
            truth: vec![1.0],
            rank: 1,
            form: None,
        }
    }

    /// The orthonormal directions of the tokens along which the activation sees a column of the keys.
    fn key_directions(&self) -> Vec<Vec<f64>> {
        let basis = CoordinateBasis::one_row(self.tokens, self.activation.unseen());
        basis.matrices().map(|matrix| matrix[..self.tokens].to_vec()).collect()
    }

    /// Number of standard normals of the fields of some columns, in both factors in cross-attention.
    pub(crate) fn normals(&self, columns: usize) -> usize {
        match self.attention {
            Attention::Tied => self.tokens * columns,
            Attention::Cross => (self.tokens + self.key_directions().len()) * columns / 2,
        }
    }

    /// The fields of some columns for consecutive nodes, from standard normals. A field of the keys has no part that the activation does
    /// not see.
    pub(crate) fn normal_fields(
        &self,
        normals: &[Vec<f64>],
        columns: usize,
        first: usize,
        size: usize,
    ) -> Vec<f64> {
        if self.attention == Attention::Tied {
            return gather(normals, first, size);
        }
        let (tokens, width) = (self.tokens, columns / 2);
        let directions = self.key_directions();
        let mut fields = Vec::with_capacity(size * tokens * columns);
        for node in first..first + size {
            for a in 0..tokens {
                fields.extend((0..width).map(|k| normals[a * width + k][node]));
                fields.extend((0..width).map(|k| {
                    let along = directions.iter().enumerate();
                    along.map(|(j, own)| own[a] * normals[(tokens + j) * width + k][node]).sum::<f64>()
                }));
            }
        }
        fields
    }

    /// `tr q0`, the centring of the true perturbation. There is none in cross-attention.
    pub(crate) fn true_trace(&self) -> f64 {
        match self.attention {
            Attention::Tied => self.truth.iter().sum(),
            Attention::Cross => 0.0,
        }
    }

    /// The batch of `size` samples that begins with node `first`.
    pub(crate) fn block(
        &self,
        law: &JointLaw,
        basis: &CoordinateBasis,
        columns: &FieldColumns,
        first: usize,
        size: usize,
    ) -> FieldsBlock {
        let tokens = self.tokens;
        let [star, free] = [(&columns.star, self.truth.len()), (&columns.free, self.rank)]
            .map(|(normals, columns)| self.normal_fields(normals, columns, first, size));
        let mut frozen = frozen_coordinates(law, columns, first, size);
        self.select(law, columns, first, &mut frozen);
        let target = label_coordinates(law, columns, first, &frozen);
        if law.sequences == Sequences::Reused {
            frozen = self.trained(law, basis, &frozen, &target);
        }
        let frozen = matrices(basis, tokens, &frozen, law.beta);
        self.labelled(frozen, matrices(basis, tokens, &target, 1.0), star, free)
    }

    /// The batch with the given frozen logits and label's logits, to which the true perturbation is added.
    pub(crate) fn labelled(
        &self,
        frozen: Vec<f64>,
        mut label: Vec<f64>,
        star: Vec<f64>,
        free: Vec<f64>,
    ) -> FieldsBlock {
        self.perturb(self.truth.len(), &mut label, &self.true_fields(&star), self.true_trace());
        let y = attention(self.activation.as_ref(), self.tokens, &label);
        FieldsBlock { frozen, label, y, star, free }
    }

    /// `chi*`, from its standard normals.
    pub(crate) fn true_fields(&self, star: &[f64]) -> Vec<f64> {
        let deviations: Vec<f64> = self.truth.iter().map(|variance| variance.sqrt()).collect();
        star.iter().zip(deviations.iter().cycle()).map(|(x, deviation)| x * deviation).collect()
    }

    /// The fields `omega` of some learned columns, from the standard normals of all columns.
    pub(crate) fn learned_fields(&self, learned: &[LearnedColumn], star: &[f64], free: &[f64]) -> Vec<f64> {
        let rows = star.chunks_exact(self.truth.len()).zip(free.chunks_exact(self.rank));
        let field = |column: &LearnedColumn, star: &[f64], free: &[f64]| {
            let own = column.deviation * free[column.number];
            let star = column.truth.and_then(|number| star.get(number));
            star.map_or(own, |star| column.m * star + own)
        };
        rows.flat_map(|(star, free)| learned.iter().map(move |column| field(column, star, free))).collect()
    }

    /// Adds a perturbation of several columns to the logits of all samples.
    pub(crate) fn perturb(&self, columns: usize, logits: &mut [f64], chi: &[f64], trace: f64) {
        let (square, perturbation) = (self.tokens * self.tokens, self.perturbation(columns, &[], trace));
        for (chi, logits) in chi.chunks_exact(self.tokens * columns).zip(logits.chunks_exact_mut(square)) {
            perturbation.add(chi, logits);
        }
    }

    /// Conditions the frozen logits on the selected ball.
    fn select(&self, law: &JointLaw, columns: &FieldColumns, first: usize, frozen: &mut [f64]) {
        let Sequences::Active(selection) = law.sequences else { return };
        let seen = columns.logits().frozen.len();
        for (k, z) in frozen.chunks_exact_mut(seen).enumerate() {
            match self.activation.unseen() {
                Unseen::RowShifts => {
                    let shrinkage = law.shrinkage(&columns.logits(), first + k).unwrap_or(1.0);
                    z.iter_mut().for_each(|x| *x *= shrinkage);
                }
                // All coordinates are there, and the score takes those that it needs.
                Unseen::Nothing if law.frozen > 0.0 => {
                    z.iter_mut().for_each(|x| *x /= law.frozen);
                    selection.score().condition(law.attention, self.tokens, selection.fraction(), z);
                    z.iter_mut().for_each(|x| *x *= law.frozen);
                }
                Unseen::Nothing => {}
            }
        }
    }

    /// The trained logits on sequences of the pre-training, in coordinates.
    fn trained(&self, law: &JointLaw, basis: &CoordinateBasis, omega: &[f64], target: &[f64]) -> Vec<f64> {
        self.pretrained(law, basis, omega, target).x
    }

    /// The proximal points of pre-training on its own sequences, in coordinates.
    pub(crate) fn pretrained(
        &self,
        law: &JointLaw,
        basis: &CoordinateBasis,
        omega: &[f64],
        target: &[f64],
    ) -> LocalExpansion {
        let label =
            attention(self.activation.as_ref(), self.tokens, &matrices(basis, self.tokens, target, 1.0));
        let stiffness = vec![law.stiffness(); basis.dimension()];
        let activation = self.activation.as_ref();
        let prox = Prox { activation, map: basis, label: &label, omega, stiffness: &stiffness };
        prox.minima(&mut LastPoints::default(), |samples| prox.between(samples, target))
    }

    /// The loss and its derivatives at zero weights of `columns` columns.
    pub(crate) fn expansion_at_zero(&self, columns: usize, block: &FieldsBlock) -> LocalExpansion {
        let zero = vec![0.0; columns * block.label.len() / self.tokens];
        let stiffness = vec![0.0; columns * self.tokens];
        let prox = Prox {
            activation: self.activation.as_ref(),
            map: self.perturbation(columns, &block.frozen, 0.0),
            label: &block.y,
            omega: &zero,
            stiffness: &stiffness,
        };
        prox.at(zero.clone())
    }

    /// Logits moved by `columns` learned columns whose `q` have the sum `trace`.
    pub(crate) fn perturbation<'a>(&self, columns: usize, frozen: &'a [f64], trace: f64) -> Perturbation<'a> {
        let Self { attention, tokens, coupling, form, .. } = *self;
        Perturbation { attention, tokens, columns, frozen, coupling, trace, form }
    }
}
