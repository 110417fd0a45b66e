//! The kernels of linear attention, which needs the law of what the frozen weights leave of the label only.

mod nodes;
mod product;
mod prox;
mod test_errors;

pub(crate) use test_errors::ClosedForm;

use crate::channel::with_tokens;
use crate::error::Error;
use crate::fields::LabelNoise;
use crate::losses::vector::channel::FinetuningLosses;
use crate::options::Options;
use crate::state_evolution::Tuning;
use nodes::SecularNodes;
use product::ProductRule;

/// The losses for a number of tokens known at run time.
pub(crate) fn losses(
    tokens: usize,
    noise: &LabelNoise,
    options: &Options,
    tuning: &Tuning,
) -> Result<Box<dyn FinetuningLosses>, Error> {
    if tokens == 1 {
        return Ok(Box::new(ProductRule::new(noise)));
    }
    with_tokens!(tokens, T => Ok(Box::new(SecularNodes::<T>::new(noise, options, tuning)?)))
}
