//! Mean squared differences of two attention matrices of softmax, from one row of their logits.
//!
//! The logits of the two matrices, `h` and `t`, have independent coordinates in `Sym(T)`, each with the same
//! bivariate normal law. All rows of the matrices then have the same law. Softmax sees only the `T - 1` differences
//! `h_b - h_0` along row 0, whose covariance is `(variance/2)(1 + 2 11^T)`. In whitened coordinates of these
//! differences, `h` and `t` are vectors of standard normals with one correlation `r`, so that the mean of a product of
//! two functions is a sum over Hermite coefficients (Mehler's formula),
//!
//! ```text
//! E f(h) g(t) = sum_n r^n sum_{|k| = n} f_k g_k .
//! ```
//!
//! The coefficients are integrals over `T - 1` variables by the trapezoidal rule, which converges geometrically because
//! the functions are analytic in a strip. The rest of the sum is at most `|r|^n` times the norms of what is
//! left of `f` and `g` (Cauchy-Schwarz), so that its end is certified. This is for two to four tokens; with more, there are too many variables.
//!
//! A perturbation `c (chi chi^T - E|chi|^2 1/T)` of the logits is possible, with
//! `chi` normal and independent across tokens. Given `chi_0`, the differences along row 0 are still normal: their mean is
//! `c (E chi_0^2 - chi_0^2)`, and the perturbation adds `c^2 chi_0^2 E chi_0^2` to their independent parts. The covariances of both matrices, and that between them,
//! are multiples of the identity along `11^T` and in its complement. The sum is then one with two correlations, a power of each for the orders in either space.
//! The coefficients of a matrix depend on its own `chi_0` alone. They are made once for every node of a rule over both `chi_0`, and the pairs of nodes take only the
//! sums.
//!
//! Otherwise the mean is over quasi-Monte-Carlo nodes of one row, with `2T` normals for a row with a perturbation.

mod half_line;
mod laws;
mod quadrature;
mod sampling;
mod table;

pub(crate) use laws::{NormalPair, PerturbedPair};
pub(crate) use quadrature::RowTables;
pub(crate) use sampling::RowColumns;
