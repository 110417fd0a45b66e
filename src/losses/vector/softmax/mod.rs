//! The kernel of softmax fine-tuning, on blocks of samples with a number of tokens known at compile time.

mod fields;
mod nodes;
mod prox;
mod test_errors;

use crate::channel::{self, with_tokens};
use crate::error::Error;
use crate::fields::JointLaw;
use crate::losses::vector::channel::FinetuningLosses;
use crate::losses::vector::moments::VectorOverlaps;
use crate::losses::vector::test_law::ReplicatedErrors;
use crate::options::Options;
use crate::state_evolution::Tuning;
use nodes::SoftmaxVectorNodes;
use test_errors::averages;

/// The losses for a number of tokens known at run time. `coupling` is the inverse temperature times `q0`.
pub(crate) fn losses(
    tokens: usize,
    law: &JointLaw,
    coupling: f64,
    options: &Options,
    tuning: &Tuning,
) -> Result<Box<dyn FinetuningLosses>, Error> {
    with_tokens!(tokens, T => {
        const K: usize = channel::dimension(T);
        Ok(Box::new(SoftmaxVectorNodes::<T>::new::<K>(law, coupling, options, tuning)?))
    })
}

/// The averages over the test law for a number of tokens known at run time (see [`ReplicatedErrors::sampled`]).
pub(crate) fn test_errors(
    tokens: usize,
    law: &JointLaw,
    coupling: f64,
    options: &Options,
    common: &VectorOverlaps,
    own: &[VectorOverlaps],
) -> Result<ReplicatedErrors, Error> {
    with_tokens!(tokens, T => ReplicatedErrors::sampled([T; 2], law, options, common, own, |columns, points| {
        averages::<T>(law, coupling, columns, points)
    }))
}
