//! Arrays of numbers as bytes, which NumPy reads and writes without a package of its own on the Rust side.

use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes};

/// The numbers as a new array of bytes, which NumPy may write to.
pub(crate) fn array<'py>(py: Python<'py>, numbers: &[f64]) -> Bound<'py, PyByteArray> {
    PyByteArray::new(py, &encoded(numbers))
}

/// The numbers as bytes that nobody may write to.
pub(crate) fn constant<'py>(py: Python<'py>, numbers: &[f64]) -> Bound<'py, PyBytes> {
    PyBytes::new(py, &encoded(numbers))
}

fn encoded(numbers: &[f64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_ne_bytes()).collect()
}

/// The numbers that the bytes stand for.
pub(crate) fn numbers(bytes: &[u8]) -> impl Iterator<Item = f64> {
    bytes.as_chunks().0.iter().map(|number| f64::from_ne_bytes(*number))
}
