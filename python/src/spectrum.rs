//! The spectrum of the learned weights.

use lora_asymptotics::pretrain;
use pyo3::prelude::*;
use pyo3::types::PyByteArray;

use crate::bytes;
use crate::error::{Refusal, raised};
use crate::scenario::{Request, calculate, written};

/// The law of the learned eigenvalues, at arrays of arguments.
#[pyclass(frozen)]
pub(crate) struct LearnedSpectrum(pretrain::LearnedSpectrum);

#[pymethods]
impl LearnedSpectrum {
    #[new]
    fn new(py: Python<'_>, request: Request<'_>, threads: Option<usize>) -> PyResult<Self> {
        calculate(py, &request, threads, |task| {
            let (training, solution) = task.pretrained()?;
            Ok(Self(pretrain::LearnedSpectrum::new(&task.scenario.model, &training, &solution)?))
        })
    }

    /// The JSON of a table of the density.
    fn table(&self, py: Python<'_>, points: usize) -> PyResult<String> {
        Ok(py.detach(|| self.0.table(points).map_err(Refusal::from).and_then(|table| written(&table)))?)
    }

    fn density<'py>(&self, py: Python<'py>, eigenvalues: &[u8]) -> Bound<'py, PyByteArray> {
        let density =
            py.detach(|| bytes::numbers(eigenvalues).map(|x| self.0.density(x)).collect::<Vec<_>>());
        bytes::array(py, &density)
    }

    fn distribution<'py>(&self, py: Python<'py>, eigenvalues: &[u8]) -> Bound<'py, PyByteArray> {
        let fractions =
            py.detach(|| bytes::numbers(eigenvalues).map(|x| self.0.distribution(x)).collect::<Vec<_>>());
        bytes::array(py, &fractions)
    }

    fn quantile<'py>(&self, py: Python<'py>, probabilities: &[u8]) -> PyResult<Bound<'py, PyByteArray>> {
        let quantiles: Result<Vec<f64>, _> =
            py.detach(|| bytes::numbers(probabilities).map(|p| self.0.quantile(p)).collect());
        Ok(bytes::array(py, &quantiles.map_err(raised)?))
    }
}
