//! Averages with names.

use std::ops::Index;

use crate::state_evolution::Averages;

/// The means of terms that every sample adds to sums. A constant gives each term its name, and tells the index of its
/// sum and of its mean.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Means<const COUNT: usize>([f64; COUNT]);

impl<const COUNT: usize> Means<COUNT> {
    /// The means, from the sums over samples divided by the number of samples.
    pub(crate) fn from_sums(sums: [f64; COUNT]) -> Self {
        Self(sums)
    }

    /// Several means at once.
    pub(crate) fn of<const N: usize>(&self, terms: [usize; N]) -> [f64; N] {
        terms.map(|term| self.0[term])
    }

    /// All means, in the order of their indices.
    pub(crate) fn all(&self) -> [f64; COUNT] {
        self.0
    }
}

impl<const COUNT: usize> Index<usize> for Means<COUNT> {
    type Output = f64;

    fn index(&self, term: usize) -> &f64 {
        &self.0[term]
    }
}

impl<const COUNT: usize> Averages for Means<COUNT> {
    fn terms(&self) -> Vec<f64> {
        self.0.to_vec()
    }

    fn from_terms(terms: &[f64]) -> Self {
        let mut means = [f64::NAN; COUNT];
        for (mean, term) in means.iter_mut().zip(terms) {
            *mean = *term;
        }
        Self(means)
    }
}
