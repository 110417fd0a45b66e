//! Arbitrary arguments for every public function, and arbitrary JSON for everything that can be read: something comes back, and it is
//! what the documentation says. One module per public module of the library.
//!
//! `PROPTEST_CASES` in the environment scales the number of cases: it is the number of cases of a cheap test, 256 if not given.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod finetuning;
mod fixed_points;
mod fuzz_targets;
mod grids;
mod laboratory;
mod numbers;
mod pretraining;
mod readable;
mod spectra;
mod values;
