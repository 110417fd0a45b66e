//! The parts of the losses that both stages share: the geometry of the `T x T` logits, and the softmax.
//!
//! The logits live in `Sym(T)`, the symmetric matrices with the Frobenius product. Its orthonormal
//! coordinates are `h_aa` and `sqrt(2) h_ab` (`a < b`), which are `K = T(T+1)/2` numbers. In these
//! coordinates `h(S) ~ N(0, 2 Q I_K)`, and the label noise is `sqrt(Delta) xi ~ N(0, Delta I_K)`.

mod eigen;
pub(crate) mod general;
mod geometry;
mod matrix_prox;
mod prox_search;
mod rows;
mod secular;
mod softmax;
mod tokens;
mod two_replicas;
mod vector_prox;
mod vector_search;

pub use crate::attention::dimension;
pub(crate) use eigen::{eigenbases, eigenbasis};
#[cfg(test)]
pub(crate) use geometry::centred_from_coordinates;
pub(crate) use geometry::{centred_matrices, flat_direction, symmetric_from_coordinates};
pub(crate) use matrix_prox::{LowestPoint, MatrixProx, coordinates, matrices, probabilities};
pub(crate) use prox_search::{MANY_SAMPLES, ProxSearch};
pub(crate) use rows::{NormalPair, PerturbedPair, RowColumns, RowTables};
pub(crate) use secular::secular_roots;
pub use softmax::{SoftmaxLoss, softmax};
pub(crate) use softmax::{SoftmaxRow, softmax_row};
pub(crate) use tokens::with_tokens;
pub(crate) use two_replicas::{LogitsLaw, SoftmaxReplicas, TwoReplicas, UnperturbedReplicas};
pub(crate) use vector_prox::VectorProx;
pub(crate) use vector_search::{FollowedPoints, Hints, TriedStarts, VectorMinimum, minima};
