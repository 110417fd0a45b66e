//! Arbitrary arguments for every public function, and arbitrary JSON for every readable type. Every call
//! returns, with a result that the documentation allows. There is one module per public module of the
//! library.
//!
//! `PROPTEST_CASES` in the environment scales the number of cases. It is the number of cases of a cheap test,
//! 256 if not given.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod finetuning;
mod fixed_points;
mod fuzz_targets;
mod grids;
mod laboratory;
mod numbers;
mod own_teacher;
mod pretraining;
mod readable;
mod spectra;
mod values;
