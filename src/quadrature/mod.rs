//! Averages over Gaussian fields by randomised quasi-Monte-Carlo.
//!
//! An average of a smooth function over `d` independent standard Gaussians is the integral of
//! that function, composed with the normal quantile, over the unit cube. It is replaced by the
//! mean over a [`ScrambledSobol`] point set: a Sobol net whose coordinates carry independent
//! nested uniform scrambles.
//!
//! # Why Owen's scramble
//!
//! * Each point is uniform on the cube, so the mean is unbiased, and the spread of the means of
//!   a few independent scrambles is an honest error bar. An unscrambled net has neither.
//! * For a smooth integrand of moderate dimension the error falls as `n^(-3/2)` up to
//!   logarithms, against `n^(-1)` for a net without a scramble and `n^(-1/2)` for independent
//!   draws; for any square-integrable function the variance is at most a constant times that
//!   of independent draws.
//! * A digital shift is cheaper but keeps the `n^(-1)` rate, and it keeps the exact lattice of
//!   the net in each coordinate, whose outermost points decide the tails of the quantile.
//!
//! # Contents
//!
//! * [`ScrambledSobol`]: the point set, one column of uniforms or normals per coordinate;
//! * [`normal_quantile`], [`normal_density`], [`normal_cdf`]: the standard normal law;
//! * [`ChiQuantile`]: the radius of a Gaussian vector as a function of one standard normal, so
//!   that an average over a rotation-invariant vector costs one coordinate;
//! * [`chi_square_cdf`], [`chi_square_quantile`]: the chi-square law, far tails included.
//!
//! Every result is a deterministic function of its arguments, on any number of threads.
//!
//! # References
//!
//! * A. B. Owen, "Randomly permuted (t,m,s)-nets and (t,s)-sequences", in Monte Carlo and
//!   Quasi-Monte Carlo Methods in Scientific Computing, Lecture Notes in Statistics 106, 299
//!   (1995): the scramble.
//! * A. B. Owen, "Scrambled net variance for integrals of smooth functions", Ann. Statist. 25,
//!   1541 (1997): the rate.
//! * S. Joe and F. Y. Kuo, "Constructing Sobol sequences with better two-dimensional
//!   projections", SIAM J. Sci. Comput. 30, 2635 (2008): the direction numbers.

mod chi;
mod graded;
mod normal;
mod owen;
mod points;
mod sobol;
mod sobol_directions;

pub use chi::{ChiQuantile, MAX_CHI_DOF, chi_square_cdf, chi_square_quantile};
pub(crate) use graded::{split_rule, unit_rule};
pub use normal::{normal_cdf, normal_density, normal_quantile};
pub use points::ScrambledSobol;
pub use sobol::MAX_LOG2_NODES;
pub use sobol_directions::MAX_DIMENSIONS;
