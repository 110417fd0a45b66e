//! Linear attention, rank one.
//!
//! Pre-training enters only through the law of `N` (see [`super::label_noise`]), and `q0` only as a unit: everything in this
//! module is in units with `q0 = 1` (`chi` in units of `sqrt(q0)`, the loss in units of `q0^2`).

mod eigen;
mod moments;
mod nodes;
mod product;
mod prox;
mod report;
mod ridge;
mod search;
mod sensitivity;

use super::label_noise::LabelNoise;
use super::{Frozen, Solution, Training};
use crate::error::Error;
use crate::model::Model;
use crate::options::Options;
use moments::OutputChannel;
use nodes::Nodes;
use product::ProductRule;
use report::Reporter;
use search::Search;

pub(super) fn solve(
    model: &Model,
    frozen: &Frozen,
    training: &Training,
    options: &Options,
) -> Result<Solution, Error> {
    let noise = LabelNoise::new(model, frozen, training);
    // Enter the thread pool once, not at each of the many short parallel loops.
    let found = rayon::scope(|_| {
        let mut channel = output_channel(model.tokens, &noise, options)?;
        Search::new(model.tokens, training, &noise, options, channel.as_mut()).run(options.start)
    })?;
    Ok(Reporter::new(model, frozen, training, &noise).solution(&found))
}

/// One evaluation of the output channel on warm nodes, as the benchmarks time it: at two points in turn, as far apart as
/// two iterates of a solve are.
pub(super) fn benchmark(
    model: &Model,
    training: &Training,
    options: &Options,
) -> Result<impl FnMut() -> f64 + use<>, Error> {
    let noise = LabelNoise::Gaussian { deviation: 1.0 };
    let mut channel = output_channel(model.tokens, &noise, options)?;
    let finest = channel.levels() - 1;
    let v = 1.0 / (2.0 * training.lambda + 4.0 * training.alpha);
    let mut m = 0.92;
    Ok(move || {
        m = 1.841 - m;
        let point = moments::Point { m, s2: 0.1, v };
        channel.replicates(finest, &point, false).iter().map(|moments| moments.gradient2).sum()
    })
}

fn output_channel(
    tokens: usize,
    noise: &LabelNoise,
    options: &Options,
) -> Result<Box<dyn OutputChannel>, Error> {
    Ok(match tokens {
        1 => Box::new(ProductRule::new(noise)),
        2 => Box::new(Nodes::<2>::new(noise, options)?),
        3 => Box::new(Nodes::<3>::new(noise, options)?),
        4 => Box::new(Nodes::<4>::new(noise, options)?),
        5 => Box::new(Nodes::<5>::new(noise, options)?),
        6 => Box::new(Nodes::<6>::new(noise, options)?),
        7 => Box::new(Nodes::<7>::new(noise, options)?),
        8 => Box::new(Nodes::<8>::new(noise, options)?),
        _ => return Err(Error::invalid("model.tokens", tokens, "between 1 and 8")),
    })
}
