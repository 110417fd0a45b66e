//! The Rust side of the Python package `lora_asymptotics`: scenarios come in and outcomes go out as the JSON of the schema,
//! and arrays as their bytes. Names, types and documentation for users are on the Python side, in `lora_asymptotics/`.

mod activation;
mod bayes;
mod bytes;
mod columns;
mod distributed;
mod error;
mod fixed_point;
mod optimum;
mod running;
mod scenario;
mod simulation;
mod spectrum;
mod sweep;
mod threshold;

use pyo3::prelude::*;

#[pymodule]
mod _native {
    /// The version of the Rust package, which is that of the Python package.
    #[pymodule_export]
    #[allow(non_upper_case_globals, reason = "Python calls it so")]
    const __version__: &str = env!("CARGO_PKG_VERSION");

    #[pymodule_export]
    use crate::activation::check_activation;
    #[pymodule_export]
    use crate::bayes::BayesCurve;
    #[pymodule_export]
    use crate::distributed::{Grid, Records};
    #[pymodule_export]
    use crate::fixed_point::iterate;
    #[pymodule_export]
    use crate::optimum::optimize;
    #[pymodule_export]
    use crate::scenario::{check, solve, solve_many};
    #[pymodule_export]
    use crate::simulation::compare;
    #[pymodule_export]
    use crate::spectrum::LearnedSpectrum;
    #[pymodule_export]
    use crate::sweep::sweep;
    #[pymodule_export]
    use crate::threshold::threshold;
}
