//! Activations that are functions of NumPy.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use lora_asymptotics::activation::{self, Activation, Evaluated, Parity, Unseen};
use lora_asymptotics::{Error, Model};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::bytes;
use crate::running::Stop;

/// What an activation of the user says of itself.
#[derive(FromPyObject)]
struct Promises {
    name: String,
    parity: String,
    ignores_row_shifts: bool,
    invertible: bool,
    bounded: bool,
    inverse_temperature: bool,
    has_adjoint: bool,
    has_second_derivative: bool,
}

/// An activation whose values and derivatives are computed by Python, one call for each batch of logits.
pub(crate) struct PythonActivation {
    /// The object that turns bytes into arrays and calls the functions of the user.
    object: Py<PyAny>,
    promises: Promises,
    stop: Stop,
    failure: Failure,
}

/// The first exception of the functions of the user. The solve then ends.
#[derive(Clone, Default)]
pub(crate) struct Failure(Arc<Mutex<Option<PyErr>>>);

impl Failure {
    fn set(&self, error: PyErr) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    /// The exception, if there is one.
    pub(crate) fn check(&self) -> PyResult<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)
    }
}

impl fmt::Debug for PythonActivation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.promises.name)
    }
}

impl PythonActivation {
    pub(crate) fn new(object: &Bound<'_, PyAny>, stop: &Stop, failure: &Failure) -> PyResult<Self> {
        Ok(Self {
            object: object.clone().unbind(),
            promises: object.extract()?,
            stop: stop.clone(),
            failure: failure.clone(),
        })
    }

    /// Calls a method with arrays, and writes its result. After an exception, all results are NaN.
    fn call(&self, method: &str, tokens: usize, arrays: &[&[f64]], image: &mut [f64]) {
        image.fill(f64::NAN);
        if self.stop.is_requested() {
            return;
        }
        let called = Python::attach(|py| {
            let arrays: Vec<_> = arrays.iter().map(|array| bytes::constant(py, array)).collect();
            let result = self.object.bind(py).call_method1(method, (tokens, arrays))?;
            let result = result.cast_into::<PyBytes>()?;
            if result.as_bytes().len() != size_of_val(image) {
                return Err(PyValueError::new_err(
                    "an activation must return arrays of the shape of its logits",
                ));
            }
            image.iter_mut().zip(bytes::numbers(result.as_bytes())).for_each(|(to, from)| *to = from);
            Ok(())
        });
        if let Err(error) = called {
            self.failure.set(error);
            self.stop.request();
        }
    }
}

impl Activation for PythonActivation {
    fn name(&self) -> &str {
        &self.promises.name
    }

    fn attention(&self, tokens: usize, logits: &[f64], attention: &mut [f64]) {
        self.call("attention", tokens, &[logits], attention);
    }

    fn derivative(&self, at: &Evaluated<'_>, direction: &[f64], image: &mut [f64]) {
        self.call("derivative", at.tokens, &[at.logits, direction], image);
    }

    fn adjoint(&self, at: &Evaluated<'_>, weights: &[f64], image: &mut [f64]) {
        let method = if self.promises.has_adjoint { "adjoint" } else { "adjoint_by_columns" };
        self.call(method, at.tokens, &[at.logits, weights], image);
    }

    fn second_derivative(
        &self,
        at: &Evaluated<'_>,
        weights: &[f64],
        direction: &[f64],
        image: &mut [f64],
    ) -> bool {
        if self.promises.has_second_derivative {
            self.call("second_derivative", at.tokens, &[at.logits, weights, direction], image);
        }
        self.promises.has_second_derivative
    }

    fn unseen(&self) -> Unseen {
        if self.promises.ignores_row_shifts { Unseen::RowShifts } else { Unseen::Nothing }
    }

    fn parity(&self) -> Parity {
        match self.promises.parity.as_str() {
            "even" => Parity::Even,
            "odd" => Parity::Odd,
            _ => Parity::Neither,
        }
    }

    fn is_invertible(&self) -> bool {
        self.promises.invertible
    }

    fn is_bounded(&self) -> bool {
        self.promises.bounded
    }

    fn has_inverse_temperature(&self) -> bool {
        self.promises.inverse_temperature
    }
}

/// The model with the activation of the user in the place of the one that its JSON names.
pub(crate) fn with_activation(model: &Model, activation: PythonActivation) -> Result<Model, Error> {
    let warm = activation.has_inverse_temperature();
    let mut other = Model::with_activation(model.tokens(), model.delta(), Arc::new(activation))?
        .with_attention(model.attention())?;
    if warm {
        other = other.with_inverse_temperature(model.inverse_temperature())?;
    }
    match model.teacher() {
        Some(teacher) => other.with_teacher(teacher.clone()),
        None => Ok(other),
    }
}

/// Compares the derivatives of an activation with finite differences, and its promises with its values. Returns the text of the
/// first disagreement, if there is one.
#[pyfunction]
pub(crate) fn check_activation(object: &Bound<'_, PyAny>, tokens: usize) -> PyResult<Option<String>> {
    let failure = Failure::default();
    let activation = PythonActivation::new(object, &Stop::default(), &failure)?;
    let found = activation::check(&activation, tokens);
    failure.check()?;
    Ok(found.err().map(|disagreement| disagreement.to_string()))
}
