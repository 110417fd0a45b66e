//! The training of one instance from several starts, and the measurement of the weights of pre-training: what tied and
//! cross-attention have in common.

use nalgebra::DMatrix;

use super::laboratory::Laboratory;
use super::measurement::{Pretrained, TrainingRun, TrainingStart, lowest};
use super::minimise::{Minimum, Objective, Stopping, minimise};
use crate::error::Error;
use crate::observables;

/// Eigenvalues below this fraction of the largest count as zero.
const RANK_TOLERANCE: f64 = 1e-5;

/// The lowest of several minima.
pub(super) struct Trained {
    pub(super) minimum: Minimum,
    run: TrainingRun,
    runs: Vec<TrainingRun>,
}

/// Trains from all starts, and returns the runs, whose objectives are in units of `unit`, and the lowest minimum with its run.
pub(super) fn train_from(
    starts: impl Iterator<Item = (TrainingStart, Vec<f64>)>,
    task: &impl Objective,
    stopping: Stopping,
    unit: f64,
    alignment: impl Fn(&[f64]) -> f64,
) -> (Vec<TrainingRun>, Option<(Minimum, TrainingRun)>) {
    let trained: Vec<(Minimum, TrainingRun)> = starts
        .map(|(start, from)| {
            let minimum = minimise(task, &from, stopping);
            let run = TrainingRun::new(start, &minimum, unit, alignment(&minimum.w));
            (minimum, run)
        })
        .collect();
    let runs = trained.iter().map(|(_, run)| *run).collect();
    (runs, lowest(trained.into_iter(), |(minimum, _)| minimum.objective))
}

/// Trains from as many starts as the laboratory asks for. `matrix` gives the weights `S` of parameters, which are compared with those of the
/// `truth`.
pub(super) fn train(
    task: &impl Objective,
    mut start: impl FnMut() -> Vec<f64>,
    laboratory: &Laboratory,
    truth: &DMatrix<f64>,
    matrix: impl Fn(&[f64]) -> DMatrix<f64>,
) -> Result<Trained, Error> {
    let d = truth.nrows() as f64;
    let q0 = truth.norm_squared() / (d * d);
    let starts = (0..laboratory.pretraining_starts).map(|_| (TrainingStart::Random, start()));
    let alignment = |w: &[f64]| {
        let s = matrix(w);
        observables::alignment(s.dot(truth), s.norm_squared(), q0 * d * d)
    };
    let (runs, best) = train_from(starts, task, laboratory.stopping(), d * d, alignment);
    let Some((minimum, run)) = best else {
        return Err(Error::invalid("laboratory.pretraining_starts", 0, "at least 1"));
    };
    Ok(Trained { minimum, run, runs })
}

/// The losses per sequence.
pub(super) struct Losses {
    pub(super) train: f64,
    pub(super) test: f64,
    pub(super) test_clean: f64,
}

/// The measurement of trained weights `s` with the given eigenvalues, or singular values.
pub(super) fn measured(
    s: &DMatrix<f64>,
    truth: &DMatrix<f64>,
    trace: f64,
    eigenvalues: Vec<f64>,
    losses: Losses,
    trained: Trained,
) -> Pretrained {
    let d = s.nrows() as f64;
    let top = eigenvalues.iter().map(|s| s.abs()).fold(0.0, f64::max);
    let nonzero = eigenvalues.iter().filter(|s| s.abs() > RANK_TOLERANCE * top && s.abs() > 0.0).count();
    let Losses { train, test, test_clean } = losses;
    let Trained { run, runs, .. } = trained;
    Pretrained {
        q: s.norm_squared() / (d * d),
        m: s.dot(truth) / (d * d),
        trace,
        rank_fraction: nonzero as f64 / d,
        objective: run.objective,
        test,
        test_clean,
        train,
        alignment: run.alignment,
        eigenvalues,
        runs,
    }
}
