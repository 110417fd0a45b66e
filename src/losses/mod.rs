//! The output channels of both stages: averages of proximal points over Gaussian fields, for given order parameters.
//!
//! Nothing here knows the weights, how a fixed point is searched, or what is reported of it.

mod batch;
pub(crate) mod by_parts;
mod control_variates;
pub(crate) mod matrix;
mod means;
pub(crate) mod vector;
