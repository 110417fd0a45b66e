//! The kernel of softmax fine-tuning, on blocks of samples with a number of tokens known at compile time.

mod controls;
mod fields;
mod nodes;
mod prox;

use crate::channel::{self, with_tokens};
use crate::error::Error;
use crate::fields::JointLaw;
use crate::losses::vector::channel::FinetuningLosses;
use crate::options::Options;
use crate::state_evolution::Tuning;
use nodes::SoftmaxVectorNodes;

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
