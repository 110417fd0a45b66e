//! The nodes of an output channel that averages over a few independent standard normals.

use super::channels::Pass;
use super::samples::{Samples, check_memory};
use super::tuning::Tuning;
use crate::error::Error;
use crate::lanes::{self, LANES, Lane};
use crate::options::Options;
use crate::parallel;
use crate::quadrature::ScrambledSobol;

/// Nodes for averages over `D` independent standard normals, by scrambled quasi-Monte-Carlo, in independent
/// replicates and at several levels of accuracy, as an [`OutputChannel`](super::OutputChannel) wants them.
///
/// There is one replicate per scramble of the [`Options`], with `2^log2_nodes` nodes on the finest level. The
/// coarse levels are the first nodes of the finest one, as many as [`Tuning::coarse_nodes`] says. The nodes stay
/// the same for the whole solve. The averages of smooth functions that matter most should use the first
/// coordinates, which are the most even ones.
///
/// ```
/// use lora_asymptotics::Options;
/// use lora_asymptotics::state_evolution::{GaussianNodes, Tuning};
///
/// let mut nodes = GaussianNodes::<2>::new(&Options::default(), &Tuning::default())?;
/// let finest = nodes.levels() - 1;
/// let means = nodes.means(finest, |[x, y]| [(x + y).cos(), x * x]);
/// assert_eq!(means.len(), Options::default().scrambles());
/// assert!(means.iter().all(|[cosine, square]| (cosine - (-1.0_f64).exp()).abs() < 1e-3 && (square - 1.0).abs() < 1e-3));
/// # Ok::<(), lora_asymptotics::Error>(())
/// ```
pub struct GaussianNodes<const D: usize> {
    samples: Samples<[Lane; D], ()>,
}

impl<const D: usize> GaussianNodes<D> {
    /// The nodes for the `log2_nodes`, `scrambles` and `seed` of `options`.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] unless `D` is between 1 and [`MAX_DIMENSIONS`](crate::quadrature::MAX_DIMENSIONS);
    /// [`Error::TooMuchMemory`] for more nodes than 2 GiB can hold; [`Error::Threads`] if the global thread pool
    /// cannot be started.
    pub fn new(options: &Options, tuning: &Tuning) -> Result<Self, Error> {
        check_memory("state_evolution", D, D, options)?;
        parallel::threads()?;
        let columns = |index: usize, columns: &mut Vec<Vec<f64>>| {
            ScrambledSobol::new(D, options.log2_nodes() as u32, options.seed(), index as u64)?
                .write_groups([columns], [D])
        };
        let block = |columns: &Vec<Vec<f64>>, first: usize| -> [Lane; D] {
            std::array::from_fn(|d| lanes::load(&columns[d], first))
        };
        Ok(Self { samples: Samples::new(options, tuning, LANES, (), columns, block)? })
    }

    /// The number of levels, at least 1.
    #[must_use]
    pub fn levels(&self) -> usize {
        self.samples.levels()
    }

    /// The means of the `COUNT` terms of `function` over the nodes of a level, with one entry per replicate. A
    /// level beyond the finest is the finest. The sums are taken in parallel, in an order that does not depend on
    /// the number of threads.
    pub fn means<const COUNT: usize>(
        &mut self,
        level: usize,
        function: impl Fn([f64; D]) -> [f64; COUNT] + Sync,
    ) -> Vec<[f64; COUNT]> {
        self.samples.means(level, Pass::Step, |block, (), sums: &mut [Lane; COUNT]| {
            for l in 0..LANES {
                let terms = function(std::array::from_fn(|d| block[d][l]));
                for (sum, term) in sums.iter_mut().zip(terms) {
                    sum[l] += term;
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_the_first_nodes_and_replicates_are_the_scrambles() {
        let options = Options::default().with_log2_nodes(12).unwrap().with_scrambles(3).unwrap().with_seed(5);
        let mut nodes = GaussianNodes::<2>::new(&options, &Tuning::default()).unwrap();
        // A third of the nodes of a coarse level, rounded up to a power of two; a level as large as the finest is none.
        let tuning = Tuning::default();
        let [few, more] = tuning.coarse_nodes.map(|nodes| nodes.div_ceil(3).next_power_of_two());
        assert!(few < more);
        let finest = if more < 4096 { 2 } else { 1 };
        assert_eq!(nodes.levels(), finest + 1);
        for (level, count) in [(0, few), (1, more.min(4096)), (finest, 4096), (9, 4096)] {
            let means = nodes.means(level, |[x, y]| [(x - y).sin(), x]);
            for (scramble, [sine, first]) in means.into_iter().enumerate() {
                let points = ScrambledSobol::new(2, 12, 5, scramble as u64).unwrap();
                let (x, y) = (points.normals(0).unwrap(), points.normals(1).unwrap());
                let mean = |f: &dyn Fn(usize) -> f64| (0..count).map(f).sum::<f64>() / count as f64;
                approx::assert_abs_diff_eq!(sine, mean(&|i| (x[i] - y[i]).sin()), epsilon = 1e-14);
                approx::assert_abs_diff_eq!(first, mean(&|i| x[i]), epsilon = 1e-14);
            }
        }
    }

    #[test]
    fn impossible_sizes_are_refused_before_anything_is_allocated() {
        let options = Options::default().with_log2_nodes(20).unwrap();
        let refused = GaussianNodes::<100>::new(&options, &Tuning::default());
        assert!(matches!(refused, Err(Error::TooMuchMemory { stage: "state_evolution", .. })));
        for refused in [
            GaussianNodes::<0>::new(&Options::default(), &Tuning::default()).err(),
            GaussianNodes::<161>::new(&Options::default(), &Tuning::default()).err(),
        ] {
            assert!(matches!(refused, Some(Error::InvalidParameter { field: "dimensions", .. })));
        }
    }
}
