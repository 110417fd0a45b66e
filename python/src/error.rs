//! Errors of the library as exceptions of the Python package.

use lora_asymptotics::{Error, Scenario};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use rayon_core::ThreadPoolBuildError;

/// What an exception tells: the kind of the error and its text, and where known the field, its value and the allowed range.
#[derive(Debug, Clone, Default)]
pub(crate) struct Refusal {
    kind: &'static str,
    message: String,
    field: Option<String>,
    value: Option<String>,
    allowed: Option<String>,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let (kind, message) = (error.kind(), error.to_string());
        let bare = Self { kind, message, ..Self::default() };
        match error {
            Error::InvalidParameter { field, value, allowed } => {
                Self { field: Some(field.to_owned()), value: Some(value), allowed: Some(allowed), ..bare }
            }
            Error::MissingField { field, reason } => {
                Self { field: Some(field.to_owned()), allowed: Some(reason.to_owned()), ..bare }
            }
            Error::Conflict { field, with } => Self {
                field: Some(field.to_owned()),
                allowed: Some(format!("not together with {with}")),
                ..bare
            },
            Error::RankDoesNotFit { kappa, rank_fraction } => Self {
                field: Some("pretrain.kappa".to_owned()),
                value: Some(kappa.to_string()),
                allowed: Some(format!(">= {rank_fraction}, the learned rank fraction")),
                ..bare
            },
            Error::TooMuchMemory { log2_nodes, bytes, limit, .. } => Self {
                field: Some("options.log2_nodes".to_owned()),
                value: Some(log2_nodes.to_string()),
                allowed: Some(format!("nodes of at most {limit} bytes, not {bytes}")),
                ..bare
            },
            Error::NotConverged { stage, status, .. } => {
                Self { field: Some(stage.to_owned()), value: Some(status.to_string()), ..bare }
            }
            _ => bare,
        }
    }
}

impl Refusal {
    /// The refusal of a text that should be a scenario, with the field at which reading it ended.
    pub(crate) fn of_scenario(error: Error, text: &str) -> Self {
        let refusal = Self::from(error);
        if !refusal.is_syntax() {
            return refusal;
        }
        match serde_path_to_error::deserialize::<_, Scenario>(&mut serde_json::Deserializer::from_str(text)) {
            Ok(_) => refusal,
            Err(error) => {
                // A text that ends too early has `?` in the place of the name that did not come.
                let path = error.path().to_string();
                let path = path.split('.').filter(|name| *name != "?").collect::<Vec<_>>().join(".");
                let value = value_at(text, &path).filter(|value| !value.is_null());
                // A path that begins with a number is that of a list in the place of the scenario.
                let field =
                    Some(path).filter(|path| !path.is_empty() && path != "." && !path.starts_with('['));
                Self { value: value.map(|value| value.to_string()), ..refusal.at(field) }
            }
        }
    }

    /// The refusal of a text that should describe something else.
    pub(crate) fn of_text(error: serde_json::Error) -> Self {
        Self::from(Error::from(error)).at(None)
    }

    /// The refusal of the operating system to start threads.
    pub(crate) fn of_threads(error: &ThreadPoolBuildError) -> Self {
        Self { kind: "threads", message: format!("threads: {error}"), ..Self::default() }
    }

    /// The refusal of a file that holds other records.
    pub(crate) fn of_journal(message: String) -> Self {
        Self { kind: "journal", message, field: Some("journal".to_owned()), ..Self::default() }
    }

    /// Whether a text was refused, which names no field.
    pub(crate) fn is_syntax(&self) -> bool {
        self.kind == "syntax"
    }

    /// The same refusal for a field, with the range that the text of a reader of JSON names.
    pub(crate) fn at(self, field: Option<String>) -> Self {
        let expected = self.message.split_once(", expected ").map(|(_, expected)| expected);
        let allowed = expected.map(|text| text.split(" at line ").next().unwrap_or(text).to_owned());
        let message = match &field {
            Some(field) if !self.message.starts_with(field) => format!("{field}: {}", self.message),
            _ => self.message,
        };
        Self { field, allowed, message, ..self }
    }

    /// The exception itself, which a list may hold in the place of an outcome.
    pub(crate) fn exception(self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        static MAKE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let Self { kind, message, field, value, allowed } = self;
        MAKE.import(py, "lora_asymptotics.errors", "from_native")?
            .call1((kind, message, field, value, allowed))
    }
}

impl From<Refusal> for PyErr {
    fn from(refusal: Refusal) -> Self {
        Python::attach(|py| refusal.exception(py).map_or_else(|error| error, PyErr::from_value))
    }
}

/// The value at a path in a text of JSON.
fn value_at(text: &str, path: &str) -> Option<serde_json::Value> {
    let whole: serde_json::Value = serde_json::from_str(text).ok()?;
    path.split('.').try_fold(&whole, |value, name| value.get(name)).cloned()
}

/// The exception of an error.
pub(crate) fn raised(error: Error) -> PyErr {
    Refusal::from(error).into()
}
