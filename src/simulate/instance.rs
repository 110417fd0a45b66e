//! The properties of one instance that every part of its simulation needs.

use super::laboratory::Laboratory;
use super::random::Streams;
use super::sequences::Shape;
use crate::model::Model;

/// One instance.
#[derive(Debug, Clone, Copy)]
pub(super) struct Instance<'a> {
    pub(super) model: &'a Model,
    pub(super) laboratory: &'a Laboratory,
    pub(super) streams: Streams,
    pub(super) shape: Shape,
}
