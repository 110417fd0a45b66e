//! A layer with a perturbation of low rank, and batches of its samples.

use std::sync::Arc;

use super::fields::{frozen_coordinates, label_coordinates};
use crate::activation::{Activation, Unseen};
use crate::channel::general::{CoordinateBasis, KnownDerivatives, LastPoints, Perturbation, Prox, attention};
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
    /// `chi*`, in units of its standard deviation: for every token, the true columns.
    pub(crate) star: Vec<f64>,
    /// The part of `omega` that is independent of `chi*`, in units of its standard deviation: for every token, the learned
    /// columns.
    pub(crate) free: Vec<f64>,
}

/// A learned column: `omega = m n + deviation f`, with the standard normals `n` of the true column with the same number and
/// `f` of its own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LearnedColumn {
    pub(crate) number: usize,
    pub(crate) m: f64,
    pub(crate) deviation: f64,
}

/// What all samples have in common.
pub(crate) struct PerturbedLayer {
    pub(crate) activation: Arc<dyn Activation>,
    pub(crate) tokens: usize,
    /// Inverse temperature times `q0`.
    pub(crate) coupling: f64,
    /// Variances of the true columns, in units of `q0`.
    pub(crate) truth: Vec<f64>,
    /// Number of learned columns.
    pub(crate) rank: usize,
    /// The activation, if its derivatives are to be taken in closed form.
    pub(crate) form: Option<KnownDerivatives>,
}

impl PerturbedLayer {
    /// One learned and one true column. `coupling` is the inverse temperature times `q0`.
    pub(super) fn of_rank_one(model: &Model, coupling: f64) -> Self {
        let activation = model.shared_activation();
        Self { activation, tokens: model.tokens(), coupling, truth: vec![1.0], rank: 1, form: None }
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
        let [star, free] = [&columns.star, &columns.free].map(|columns| gather(columns, first, size));
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
        self.perturb(self.truth.len(), &mut label, &self.true_fields(&star), self.truth.iter().sum());
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
            star.get(column.number).map_or(own, |star| column.m * star + own)
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
                    selection.score().condition(self.tokens, selection.fraction(), z);
                    z.iter_mut().for_each(|x| *x *= law.frozen);
                }
                Unseen::Nothing => {}
            }
        }
    }

    /// The trained logits on sequences of the pre-training, in coordinates.
    fn trained(&self, law: &JointLaw, basis: &CoordinateBasis, omega: &[f64], target: &[f64]) -> Vec<f64> {
        let label =
            attention(self.activation.as_ref(), self.tokens, &matrices(basis, self.tokens, target, 1.0));
        let stiffness = vec![0.5 / law.response; basis.dimension()];
        let activation = self.activation.as_ref();
        let prox = Prox { activation, map: basis, label: &label, omega, stiffness: &stiffness };
        prox.minima(&mut LastPoints::default(), |samples| prox.between(samples, target)).x
    }

    /// Logits moved by `columns` learned columns whose `q` have the sum `trace`.
    pub(crate) fn perturbation<'a>(&self, columns: usize, frozen: &'a [f64], trace: f64) -> Perturbation<'a> {
        Perturbation { tokens: self.tokens, columns, frozen, coupling: self.coupling, trace, form: self.form }
    }
}
