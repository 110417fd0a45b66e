//! Memory of the averages over quasi-Monte-Carlo nodes, which is known before anything is allocated.
//!
//! The options bound the number of nodes. The number of floating-point numbers per node depends on the
//! tokens, the activation and the stage, and is between a dozen and some two hundred. All other allocations
//! of a solve are small beside the nodes, but for the tables of test errors, which are bounded (64 MiB).

use crate::attention::Attention;
use crate::channel;
use crate::error::Error;
use crate::model::{Model, Specialisation};
use crate::options::Options;
use crate::quadrature::MAX_DIMENSIONS;
use crate::state_evolution::check_memory;

/// The kind of averages.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Workload {
    /// The output channel of pre-training.
    Pretraining,
    /// The output channel of fine-tuning. Selected sequences need more standard normals.
    Finetuning {
        /// Whether the sequences are selected by a score.
        selected: bool,
        /// Whether the sequences are those of pre-training.
        reused: bool,
    },
    /// The output channel of fine-tuning with several columns.
    FinetuningColumns {
        /// Whether the sequences are selected by a score.
        selected: bool,
        /// Number of learned columns, of all factors.
        learned: usize,
        /// Number of true columns, of all factors.
        truth: usize,
    },
    /// The least errors of pre-training.
    PretrainingBound,
    /// The posterior of fine-tuning, and its least errors.
    FinetuningBound,
}

/// Number of double-precision numbers per node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Numbers {
    /// Numbers that are kept as long as the solve lasts.
    pub(crate) kept: usize,
    /// Numbers that are needed only while the nodes of a scramble are made, one scramble after the other.
    pub(crate) passing: usize,
}

impl Workload {
    /// The name of the stage in the schema.
    fn stage(self) -> &'static str {
        match self {
            Self::Pretraining | Self::PretrainingBound => "pretrain",
            Self::Finetuning { .. } | Self::FinetuningColumns { .. } | Self::FinetuningBound => "lora",
        }
    }

    /// The numbers that a node takes.
    pub(crate) fn numbers(self, model: &Model) -> Numbers {
        let tokens = model.tokens();
        // The number of all coordinates of the logits, and of those that the activation sees. Softmax in cross-attention takes one row, by the
        // general kernel.
        let all = model.attention().coordinates(tokens);
        let (seen, kernel) = match (model.attention(), model.specialisation()) {
            (Attention::Cross, Specialisation::Softmax) => {
                (tokens.saturating_sub(1), Specialisation::General)
            }
            (_, kernel) => (model.observed_coordinates() as usize, kernel),
        };
        let (kept, passing) = match (self, kernel) {
            // These averages are in closed form, or taken by a rule with few nodes.
            (Self::Pretraining | Self::PretrainingBound, Specialisation::Linear) => (0, 0),
            (Self::Finetuning { .. }, Specialisation::Linear) if tokens == 1 => (0, 0),
            // A node has two vectors of normals, the label, the last proximal point and its flag.
            (Self::Pretraining, Specialisation::Softmax) => (3 * all + tokens * tokens + 1, 2 * seen),
            (Self::Finetuning { selected, .. }, Specialisation::Linear) => {
                let noise = if selected { 2 * all } else { all };
                // A node has its weight, the label's eigenvalues, chi*, omega, and the last secular root.
                (3 * tokens + 2, 2 * tokens + noise)
            }
            // A node has two matrices of logits, the attention of the label, chi*, omega, the last proximal point and its
            // flag, and the curvatures at zero weights. Second minima are remembered where a block has one, and not counted.
            (Self::Finetuning { .. }, Specialisation::Softmax) => {
                (3 * tokens * tokens + 5 * tokens + 1, 2 * tokens + 3 * seen + 1)
            }
            // A node has two vectors of normals, the logits and the attention of the label, the last proximal
            // point and its flag.
            (Self::Pretraining, Specialisation::General) => (3 * seen + 2 * tokens * tokens + 1, 2 * seen),
            // A node has the frozen logits, those of the label and its attention, chi*, omega, the last
            // proximal point with its flag, and the curvatures at zero weights.
            (Self::Finetuning { .. }, Specialisation::General) => {
                (3 * tokens * tokens + 5 * tokens + 1, 2 * tokens + 3 * seen + 1)
            }
            // A node has the frozen logits, those of the label and its attention, chi*, omega, and the last proximal
            // point with its flag.
            (Self::FinetuningColumns { learned, truth, .. }, _) => {
                (3 * tokens * tokens + tokens * (truth + 2 * learned) + 1, self.dimensions(model))
            }
            (Self::PretrainingBound, Specialisation::General) => (2 * seen, 0),
            (Self::FinetuningBound, Specialisation::General) => {
                (6 * tokens + 1 + 2 * seen, 1 + 2 * tokens + all)
            }
            (Self::PretrainingBound, Specialisation::Softmax) => (2 * tokens.saturating_sub(1), 0),
            // A node has the observed eigenvalues, chi and omega.
            (Self::FinetuningBound, Specialisation::Linear) => (3 * tokens + 1, 1 + tokens + all),
            (Self::FinetuningBound, Specialisation::Softmax) => {
                let across = tokens.saturating_sub(1);
                let sample = 2 + 4 * across;
                (sample + two_replicas(tokens), 3 + 2 * across + channel::dimension(across))
            }
        };
        Numbers { kept, passing }
    }

    /// Number of standard normals of a node of fine-tuning with several columns, and 0 for other averages.
    fn dimensions(self, model: &Model) -> usize {
        let Self::FinetuningColumns { selected, learned, truth } = self else { return 0 };
        let all = model.attention().coordinates(model.tokens());
        let logits = match model.specialisation() {
            Specialisation::Linear if selected => 2 * all,
            Specialisation::Linear => all,
            Specialisation::Softmax | Specialisation::General => {
                let seen = model.observed_coordinates() as usize;
                3 * seen + all.saturating_sub(seen).max(1)
            }
        };
        model.tokens() * (learned + truth) + logits
    }

    /// Refuses a workload whose nodes have too many dimensions.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`].
    fn check_dimensions(self, model: &Model) -> Result<(), Error> {
        let dimensions = self.dimensions(model);
        match self {
            Self::FinetuningColumns { learned, .. } if dimensions > MAX_DIMENSIONS => {
                let allowed = format!(
                    "so small that the nodes have at most {MAX_DIMENSIONS} dimensions (they would have {dimensions})"
                );
                let factors = model.attention().factors() as usize;
                Err(Error::invalid("lora.rank", learned / factors, allowed))
            }
            _ => Ok(()),
        }
    }

    /// The options with the default numbers of nodes of the averages.
    pub(crate) fn options(self, model: &Model, options: &Options) -> Options {
        let tied = model.attention() == Attention::Tied;
        match (self, model.specialisation()) {
            // The proximal point of one column has a closed form, which makes its nodes cheap.
            (Self::Finetuning { .. }, Specialisation::Linear) => options.with_automatic_log2_nodes(14),
            // Pre-training on 2^13 nodes has a tenth of the noise of fine-tuning, and takes as much time.
            (Self::Pretraining, Specialisation::Softmax) if tied => options.with_automatic_log2_nodes(12),
            // Fine-tuning has all of the noise of both stages together, and less than half of the time.
            (Self::Finetuning { reused: true, .. }, Specialisation::Softmax) if model.tokens() == 2 => {
                options.with_automatic_log2_nodes(14)
            }
            _ => *options,
        }
    }

    /// Refuses a workload that takes more memory than allowed, or whose nodes have too many dimensions, for a valid model and
    /// valid options.
    ///
    /// # Errors
    /// [`Error::TooMuchMemory`] or [`Error::InvalidParameter`].
    pub(crate) fn check(self, model: &Model, options: &Options) -> Result<(), Error> {
        self.check_dimensions(model)?;
        let Numbers { kept, passing } = self.numbers(model);
        check_memory(self.stage(), kept, passing, &self.options(model, options))
    }
}

/// Numbers per node of the two draws of the posterior over which the least errors of softmax are averaged.
fn two_replicas(tokens: usize) -> usize {
    2 * tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Workload; 4] = [
        Workload::Pretraining,
        Workload::Finetuning { selected: false, reused: true },
        Workload::PretrainingBound,
        Workload::FinetuningBound,
    ];

    #[test]
    fn reference_settings_fit() {
        for tokens in 2..=4 {
            for model in [Model::linear(tokens, 0.5).unwrap(), Model::softmax(tokens, 0.5).unwrap()] {
                let options = Options::default().with_log2_nodes(16).unwrap().with_scrambles(16).unwrap();
                assert!(ALL.iter().all(|averages| averages.check(&model, &options).is_ok()));
            }
        }
        let options = Options::default();
        assert!(
            ALL.iter().all(|averages| averages.check(&Model::softmax(8, 0.5).unwrap(), &options).is_ok())
        );
    }

    #[test]
    fn what_took_gigabytes_is_refused() {
        let options = Options::default().with_log2_nodes(20).unwrap().with_scrambles(4).unwrap();
        let refused = Workload::Pretraining.check(&Model::softmax(8, 0.5).unwrap(), &options);
        let Err(Error::TooMuchMemory { bytes, limit, .. }) = refused else { unreachable!("{refused:?}") };
        // A node takes 173 numbers, and 70 more while it is made. One scramble is made at a time.
        assert_eq!(bytes, (8 * (4 * 173 + 70)) << 20);
        assert_eq!(limit, 1 << 31);
    }
}
