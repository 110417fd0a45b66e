//! The kernel of softmax fine-tuning, on blocks of samples with a number of tokens known at compile time.

mod fields;
mod nodes;
mod prox;
mod test_errors;

use super::columns::FieldColumns;
use super::joint_law::JointLaw;
use crate::error::Error;
use crate::lora::losses::FinetuningLosses;
use crate::lora::moments::VectorOverlaps;
use crate::options::Options;
use crate::state_evolution::Tuning;
use nodes::SoftmaxVectorNodes;

/// The losses for a number of tokens known at run time. `coupling` is the inverse temperature times `q0`.
pub(super) fn losses(
    tokens: usize,
    law: &JointLaw,
    coupling: f64,
    options: &Options,
    tuning: &Tuning,
) -> Result<Box<dyn FinetuningLosses>, Error> {
    Ok(match tokens {
        2 => Box::new(SoftmaxVectorNodes::<2>::new::<3>(law, coupling, options, tuning)?),
        3 => Box::new(SoftmaxVectorNodes::<3>::new::<6>(law, coupling, options, tuning)?),
        4 => Box::new(SoftmaxVectorNodes::<4>::new::<10>(law, coupling, options, tuning)?),
        5 => Box::new(SoftmaxVectorNodes::<5>::new::<15>(law, coupling, options, tuning)?),
        6 => Box::new(SoftmaxVectorNodes::<6>::new::<21>(law, coupling, options, tuning)?),
        7 => Box::new(SoftmaxVectorNodes::<7>::new::<28>(law, coupling, options, tuning)?),
        8 => Box::new(SoftmaxVectorNodes::<8>::new::<36>(law, coupling, options, tuning)?),
        _ => return Err(not_compiled(tokens)),
    })
}

/// The averages over the test law for a number of tokens known at run time, as a function of the law, the
/// coupling, the nodes of one scramble and two points.
pub(super) fn test_errors(
    tokens: usize,
) -> Result<fn(&JointLaw, f64, &FieldColumns, [&VectorOverlaps; 2]) -> [f64; 5], Error> {
    Ok(match tokens {
        2 => test_errors::averages::<2>,
        3 => test_errors::averages::<3>,
        4 => test_errors::averages::<4>,
        5 => test_errors::averages::<5>,
        6 => test_errors::averages::<6>,
        7 => test_errors::averages::<7>,
        8 => test_errors::averages::<8>,
        _ => return Err(not_compiled(tokens)),
    })
}

/// The kernel is compiled for some numbers of tokens only.
fn not_compiled(tokens: usize) -> Error {
    Error::invalid("model.tokens", tokens, "between 2 and 8")
}
