//! The Bayes-optimal bound of fine-tuning at any number of sequences.

use std::sync::Arc;

use lora_asymptotics::Error;
use lora_asymptotics::lora;
use pyo3::prelude::*;

use crate::error::{Refusal, raised};
use crate::running::{Progress, Stop, run};
use crate::scenario::{Request, calculate, written};

/// The table of the bound, which is solved for any number of sequences.
#[pyclass(frozen)]
pub(crate) struct BayesCurve {
    curve: Arc<lora::BayesCurve>,
    threads: Option<usize>,
}

#[pymethods]
impl BayesCurve {
    #[new]
    fn new(py: Python<'_>, request: Request<'_>, threads: Option<usize>) -> PyResult<Self> {
        let curve = calculate(py, &request, threads, |task| {
            let scenario = &task.scenario;
            let reason = "the bound is that of the fine-tuning";
            let training = scenario.lora.ok_or(Error::MissingField { field: "lora", reason })?;
            if training.rank() != 1 || training.variances().len() != 1 {
                return Err(Error::Conflict { field: "lora.rank", with: "a Bayes-optimal estimator" }.into());
            }
            Ok(lora::BayesCurve::new(&scenario.model, &task.frozen()?, training.q0(), &scenario.options)?)
        })?;
        Ok(Self { curve: Arc::new(curve), threads })
    }

    /// The JSON of the bound at every number of sequences.
    fn solve(&self, py: Python<'_>, alphas: Vec<f64>) -> PyResult<Vec<String>> {
        let (curve, stop) = (Arc::clone(&self.curve), Stop::default());
        let watch = stop.clone();
        let work = move || -> Result<Vec<String>, Refusal> {
            let going = alphas.into_iter().take_while(|_| !watch.is_requested());
            going.map(|alpha| written(&curve.solve(alpha)?)).collect()
        };
        Ok(run(py, self.threads, &stop, &Progress::new(None), work)?.complete()??)
    }

    /// The JSON of the threshold of weak recovery.
    fn weak_recovery(&self) -> PyResult<String> {
        Ok(written(&self.curve.weak_recovery())?)
    }

    /// The range of `alpha'` with two stable fixed points, and where their free energies are equal.
    fn coexistence(&self) -> (Option<[f64; 2]>, Option<f64>) {
        (self.curve.spinodals(), self.curve.information_theoretic_jump())
    }

    /// The overlap after every step of message passing.
    fn state_evolution(&self, alpha: f64, start: f64, steps: usize) -> PyResult<Vec<f64>> {
        self.curve.state_evolution(alpha, start, steps).map_err(raised)
    }
}
