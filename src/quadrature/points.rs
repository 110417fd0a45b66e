//! The scrambled point set, one column per coordinate.

use std::ops::Range;

use super::normal::{normal_quantile, normal_quantiles};
use super::owen::ScrambleKey;
use super::sobol::{Directions, MAX_LOG2_NODES};
use super::sobol_directions::MAX_DIMENSIONS;
use crate::error::Error;
use crate::parallel;

/// `2^log2_nodes` points of the Sobol sequence under Owen's nested uniform scramble.
///
/// The set is a deterministic function of its four arguments. Sets with another `seed` or another `scramble`
/// are independent. The argument `scramble` is meant to number the replicates of one average, whose spread
/// gives the error of the average.
///
/// Columns are made on demand and do not depend on each other, so they may be filled in any
/// order and on any thread. Entry `i` of each column belongs to point `i`.
///
/// The first `2^m` points are a scrambled net for every `m` up to `log2_nodes`. They agree with the set of
/// `2^m` nodes of the same seed in the leading `m` digits of each coordinate, but not in the other digits.
///
/// # Examples
///
/// ```
/// use lora_asymptotics::quadrature::ScrambledSobol;
///
/// let points = ScrambledSobol::new(2, 10, 1, 0)?;
/// let (x, y) = (points.normals(0)?, points.normals(1)?);
/// let mean = x.iter().zip(&y).map(|(x, y)| (x + y).cos()).sum::<f64>() / 1024.0;
/// assert!((mean - (-1.0_f64).exp()).abs() < 1e-3);
/// # Ok::<(), lora_asymptotics::error::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScrambledSobol {
    dimensions: usize,
    log2_nodes: u32,
    seed: u64,
    scramble: u64,
}

impl ScrambledSobol {
    /// A set of `2^log2_nodes` points in the given number of dimensions.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidParameter`] unless `1 <= dimensions <=` [`MAX_DIMENSIONS`] and
    /// `log2_nodes <=` [`MAX_LOG2_NODES`].
    pub fn new(dimensions: usize, log2_nodes: u32, seed: u64, scramble: u64) -> Result<Self, Error> {
        if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
            let allowed = format!("between 1 and {MAX_DIMENSIONS}");
            return Err(Error::invalid("dimensions", dimensions, allowed));
        }
        if log2_nodes > MAX_LOG2_NODES {
            let allowed = format!("at most {MAX_LOG2_NODES}");
            return Err(Error::invalid("log2_nodes", log2_nodes.to_string(), allowed));
        }
        Ok(Self { dimensions, log2_nodes, seed, scramble })
    }

    /// Number of coordinates of each point.
    #[must_use]
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// Number of points, `2^log2_nodes`.
    #[must_use]
    pub fn nodes(&self) -> usize {
        1 << self.log2_nodes
    }

    /// Returns coordinate `dimension` of all points, as standard normals.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidParameter`] unless `dimension < self.dimensions()`.
    pub fn normals(&self, dimension: usize) -> Result<Vec<f64>, Error> {
        let mut column = vec![0.0; self.nodes()];
        self.fill_normals(dimension, &mut column)?;
        Ok(column)
    }

    /// The coordinates in `range` of all points, as standard normals, computed in parallel.
    pub(crate) fn columns(&self, range: Range<usize>) -> Result<Vec<Vec<f64>>, Error> {
        let mut columns = vec![Vec::new(); range.len()];
        self.write_normals(range.start, &mut columns)?;
        Ok(columns)
    }

    /// Writes consecutive groups of coordinates of all points, beginning with the first coordinate, as standard normals. Each list of
    /// columns is made as long as its group.
    pub(crate) fn write_groups<const N: usize>(
        &self,
        groups: [&mut Vec<Vec<f64>>; N],
        widths: [usize; N],
    ) -> Result<(), Error> {
        let mut first = 0;
        for (columns, width) in groups.into_iter().zip(widths) {
            columns.resize_with(width, Vec::new);
            self.write_normals(first, columns)?;
            first += width;
        }
        Ok(())
    }

    /// Writes the coordinates from `first` on of all points to `columns`, as standard normals, computed in parallel. Columns of another
    /// length are resized.
    pub(crate) fn write_normals(&self, first: usize, columns: &mut [Vec<f64>]) -> Result<(), Error> {
        self.write(first, columns, |_, us| normal_quantiles(us))
    }

    /// As [`Self::write_normals`], with the absolute values of standard normals.
    pub(crate) fn write_positive_normals(&self, first: usize, columns: &mut [Vec<f64>]) -> Result<(), Error> {
        self.write(first, columns, |_, us| {
            us.iter_mut().for_each(|u| *u = 0.5 + 0.5 * *u);
            normal_quantiles(us);
        })
    }

    /// As [`Self::write_normals`], with the normals of each point in decreasing order.
    pub(crate) fn write_sorted_normals(&self, first: usize, columns: &mut [Vec<f64>]) -> Result<(), Error> {
        // The largest of k uniforms is the k-th root of a uniform, and the next one is the largest of k - 1 below it.
        let count = columns.len();
        self.write(first, columns, |index, us| match count - index {
            1 => {}
            2 => us.iter_mut().for_each(|u| *u = u.sqrt()),
            3 => us.iter_mut().for_each(|u| *u = u.cbrt()),
            left => us.iter_mut().for_each(|u| *u = u.powf((left as f64).recip())),
        })?;
        for node in 0..self.nodes() {
            let mut below = 1.0_f64;
            for column in &mut *columns {
                below *= column[node];
                column[node] = normal_quantile(below.clamp(f64::MIN_POSITIVE, 1.0 - 0.5 * f64::EPSILON));
            }
        }
        Ok(())
    }

    /// Writes the coordinates from `first` on to `columns`, in parallel. `map` maps the uniforms of the column with a given index, in increasing
    /// order.
    fn write(
        &self,
        first: usize,
        columns: &mut [Vec<f64>],
        map: impl Fn(usize, &mut [f64]) + Sync,
    ) -> Result<(), Error> {
        let directions = (0..columns.len()).map(|index| self.directions(first + index));
        let directions: Vec<Directions> = directions.collect::<Result<_, _>>()?;
        parallel::change(columns, &|index, column| {
            column.resize(self.nodes(), 0.0);
            self.fill_along(&directions[index], first + index, column, |us| map(index, us));
        });
        Ok(())
    }

    /// Writes coordinate `dimension` of all points, as standard normals: the normal quantile
    /// of [`Self::fill_uniforms`]. The values lie within ±8.21.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidParameter`] unless `dimension < self.dimensions()` and
    /// `out.len() == self.nodes()`; `out` is then left as it was.
    pub fn fill_normals(&self, dimension: usize, out: &mut [f64]) -> Result<(), Error> {
        self.fill(dimension, out, normal_quantiles)
    }

    /// Writes coordinate `dimension` of all points, uniform in the open interval `(0, 1)`.
    ///
    /// Values are odd multiples of `2^-53`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidParameter`] unless `dimension < self.dimensions()` and
    /// `out.len() == self.nodes()`; `out` is then left as it was.
    pub fn fill_uniforms(&self, dimension: usize, out: &mut [f64]) -> Result<(), Error> {
        self.fill(dimension, out, |_| {})
    }

    fn fill(&self, dimension: usize, out: &mut [f64], map: impl Fn(&mut [f64])) -> Result<(), Error> {
        let directions = self.directions(dimension)?;
        self.check_length(out)?;
        self.fill_along(&directions, dimension, out, map);
        Ok(())
    }

    /// Writes coordinate `dimension`, which has the given directions. `out` has as many entries as there are nodes.
    fn fill_along(
        &self,
        directions: &Directions,
        dimension: usize,
        out: &mut [f64],
        map: impl Fn(&mut [f64]),
    ) {
        let key = ScrambleKey { seed: self.seed, scramble: self.scramble, dimension: dimension as u64 };
        // The points are mapped in increasing order, before they are put in the order of the sequence. This
        // order makes the branches of a quantile predictable, which saves more time than the table costs.
        let mut by_image: Vec<f64> = key.points_by_image(self.log2_nodes).collect();
        map(&mut by_image);
        let images = key.permutation(self.log2_nodes);
        // Leaves and images are permutations of 0..nodes, the common length of both tables.
        for (value, leaf) in out.iter_mut().zip(directions.leaves(self.log2_nodes)) {
            *value = by_image[images[leaf as usize] as usize];
        }
    }

    fn directions(&self, dimension: usize) -> Result<Directions, Error> {
        Directions::new(dimension).filter(|_| dimension < self.dimensions).ok_or_else(|| {
            let allowed = format!("below {}", self.dimensions);
            Error::invalid("dimension", dimension, allowed)
        })
    }

    fn check_length(&self, out: &[f64]) -> Result<(), Error> {
        if out.len() == self.nodes() {
            return Ok(());
        }
        let allowed = format!("the number of nodes, {}", self.nodes());
        Err(Error::invalid("out.len()", out.len(), allowed))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn uniforms(points: &ScrambledSobol, dimension: usize) -> Vec<f64> {
        let mut column = vec![0.0; points.nodes()];
        points.fill_uniforms(dimension, &mut column).unwrap();
        column
    }

    fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
        let count = values.len() as f64;
        values.sum::<f64>() / count
    }

    /// The mean and the standard deviation.
    fn moments(values: &[f64]) -> (f64, f64) {
        let centre = mean(values.iter().copied());
        let squares: f64 = values.iter().map(|v| (v - centre).powi(2)).sum();
        (centre, (squares / (values.len() - 1) as f64).sqrt())
    }

    /// The cell of each value among `2^bits` equal ones.
    fn cells(values: &[f64], bits: u32) -> Vec<usize> {
        let scale = f64::from(1 << bits);
        values.iter().map(|u| (u * scale) as usize).collect()
    }

    #[test]
    fn every_prefix_is_a_net_in_each_coordinate() {
        let points = ScrambledSobol::new(MAX_DIMENSIONS, 9, 11, 2).unwrap();
        for dimension in 0..MAX_DIMENSIONS {
            let column = uniforms(&points, dimension);
            for m in 0..=9 {
                let mut occupied = cells(&column[..1 << m], m);
                occupied.sort_unstable();
                assert!(occupied.into_iter().eq(0..1 << m), "{dimension}, {m}");
            }
        }
    }

    #[test]
    fn every_prefix_is_a_net_in_the_first_plane() {
        for scramble in 0..8 {
            let points = ScrambledSobol::new(2, 9, 5, scramble).unwrap();
            let (x, y) = (uniforms(&points, 0), uniforms(&points, 1));
            for m in 0..=9 {
                for split in 0..=m {
                    let rows = cells(&x[..1 << m], split);
                    let columns = cells(&y[..1 << m], m - split);
                    let mut boxes: Vec<usize> = rows
                        .iter()
                        .zip(&columns)
                        .map(|(row, column)| (row << (m - split)) | column)
                        .collect();
                    boxes.sort_unstable();
                    assert!(boxes.into_iter().eq(0..1 << m), "{m}, {split}");
                }
            }
        }
    }

    #[test]
    fn sets_of_one_seed_share_their_leading_digits() {
        let small = uniforms(&ScrambledSobol::new(8, 6, 1, 1).unwrap(), 7);
        let large = uniforms(&ScrambledSobol::new(8, 12, 1, 1).unwrap(), 7);
        assert_eq!(cells(&small, 6), cells(&large[..64], 6));
    }

    /// A point of the set is uniform on the square, whatever its index.
    #[test]
    fn single_points_are_uniform_and_independent_across_dimensions() {
        const DRAWS: usize = 20_000;
        for index in [0, 1, 14] {
            let (mut x, mut y) = (Vec::new(), Vec::new());
            for seed in 0..DRAWS as u64 {
                let points = ScrambledSobol::new(4, 4, seed, 0).unwrap();
                x.push(uniforms(&points, 0)[index] - 0.5);
                y.push(uniforms(&points, 3)[index] - 0.5);
            }
            let draws = DRAWS as f64;
            let product = |a: &[f64], b: &[f64]| mean(a.iter().zip(b).map(|(a, b)| a * b));
            for column in [&x, &y] {
                let first = mean(column.iter().copied());
                assert!(first.abs() < 5.0 / (12.0 * draws).sqrt());
                let second = product(column, column);
                assert!((second - 1.0 / 12.0).abs() < 5.0 / (180.0 * draws).sqrt());
            }
            assert!(product(&x, &y).abs() < 5.0 / (12.0 * draws.sqrt()));
        }
    }

    /// The mean of the identity over a scrambled net of n points is the mean of a stratified sample. It is
    /// unbiased and has variance 1 / (12 n^3) exactly.
    #[test]
    fn one_dimensional_variance_is_that_of_a_stratified_sample() {
        const REPLICATES: u64 = 2000;
        let means: Vec<f64> = (0..REPLICATES)
            .map(|scramble| {
                let points = ScrambledSobol::new(3, 6, 4, scramble).unwrap();
                mean(uniforms(&points, 2).into_iter())
            })
            .collect();
        let (centre, deviation) = moments(&means);
        let exact = (1.0 / (12.0 * 64.0_f64.powi(3))).sqrt();
        let replicates = REPLICATES as f64;
        assert!((centre - 0.5).abs() < 5.0 * exact / replicates.sqrt());
        assert!((deviation / exact - 1.0).abs() < 5.0 / (2.0 * replicates).sqrt());
    }

    /// The means of `f(x_1 + ... + x_4)` over 32 scrambles, for columns `x` of one kind.
    fn replicate_means(
        log2_nodes: u32,
        column: impl Fn(&ScrambledSobol, usize) -> Vec<f64>,
        f: impl Fn(f64) -> f64,
    ) -> Vec<f64> {
        (0..32)
            .map(|scramble| {
                let points = ScrambledSobol::new(4, log2_nodes, 9, scramble).unwrap();
                let columns: Vec<Vec<f64>> = (0..4).map(|d| column(&points, d)).collect();
                mean((0..points.nodes()).map(|i| f(columns.iter().map(|x| x[i]).sum())))
            })
            .collect()
    }

    /// The standard deviation of the replicates, once it is verified to explain their distance from the
    /// truth: only then is it an honest error bar.
    fn honest_deviation(means: &[f64], exact: f64) -> f64 {
        let (centre, deviation) = moments(means);
        let error = deviation / (means.len() as f64).sqrt();
        assert!((centre - exact).abs() < 4.0 * error, "{centre} +- {error}");
        deviation
    }

    /// The integrand is `exp(u_1 + ... + u_4)`. The rate in theory is 3/2 up to logarithms.
    #[test]
    fn smooth_integral_converges_faster_than_independent_draws() {
        let exact = 1.0_f64.exp_m1().powi(4);
        let deviation = |n| honest_deviation(&replicate_means(n, uniforms, f64::exp), exact);
        let (coarse, fine) = (deviation(8), deviation(14));
        let rate = (coarse / fine).log2() / 6.0;
        assert!(rate > 1.3, "rate {rate}");
        let variance = (2.0_f64.exp_m1() / 2.0).powi(4) - exact * exact;
        let independent = (variance / 16384.0).sqrt();
        assert!(fine < independent / 400.0, "{fine} against {independent}");
    }

    /// The integrand is `cos(z_1 + ... + z_4)`, with average `exp(-2)` and variance almost 1/2.
    #[test]
    fn oscillating_gaussian_average_is_unbiased_and_beats_independent_draws() {
        let normals = |points: &ScrambledSobol, d| points.normals(d).unwrap();
        let means = replicate_means(14, normals, f64::cos);
        let deviation = honest_deviation(&means, (-2.0_f64).exp());
        assert!(deviation < (0.5_f64 / 16384.0).sqrt() / 5.0, "{deviation}");
    }

    #[test]
    fn normals_are_quantiles_of_the_uniforms() {
        let points = ScrambledSobol::new(3, 8, 1, 2).unwrap();
        let expected: Vec<f64> = uniforms(&points, 2).into_iter().map(normal_quantile).collect();
        assert_eq!(points.normals(2).unwrap(), expected);
    }

    #[test]
    fn values_never_change() {
        let points = ScrambledSobol::new(160, 3, 2024, 1).unwrap();
        let numerators = |d| -> Vec<u64> {
            let scale = (1_u64 << 53) as f64;
            let column = uniforms(&points, d).into_iter();
            column.map(|u| (u * scale) as u64).collect()
        };
        assert_eq!(numerators(0), PINNED_FIRST);
        assert_eq!(numerators(159), PINNED_LAST);
    }

    /// The values are numerators over 2^53, from an independent implementation of the same definitions.
    const PINNED_FIRST: [u64; 8] = [
        2_129_939_649_175_419,
        5_662_425_911_500_267,
        8_752_331_219_911_303,
        2_575_574_197_382_369,
        3_503_798_847_815_247,
        7_645_287_253_029_801,
        5_614_706_605_631_423,
        348_268_763_848_979,
    ];
    const PINNED_LAST: [u64; 8] = [
        6_944_983_757_879_871,
        4_071_735_804_014_659,
        1_383_780_623_108_851,
        4_902_340_736_485_443,
        2_295_527_331_267_443,
        8_791_825_672_505_007,
        5_713_243_638_599_429,
        85_720_401_943_167,
    ];

    #[test]
    fn sizes_out_of_range_are_refused() {
        assert!(ScrambledSobol::new(0, 4, 0, 0).is_err());
        assert!(ScrambledSobol::new(MAX_DIMENSIONS + 1, 4, 0, 0).is_err());
        assert!(ScrambledSobol::new(1, MAX_LOG2_NODES + 1, 0, 0).is_err());
        let points = ScrambledSobol::new(2, 4, 0, 0).unwrap();
        assert!(points.normals(2).is_err());
        assert!(points.fill_normals(0, &mut [0.0; 15]).is_err());
        assert!(points.fill_uniforms(0, &mut [0.0; 17]).is_err());
    }

    #[test]
    fn smallest_and_largest_sets_exist() {
        let one = ScrambledSobol::new(1, 0, 0, 0).unwrap();
        assert_eq!(uniforms(&one, 0).len(), 1);
        let largest = ScrambledSobol::new(1, MAX_LOG2_NODES, 0, 0).unwrap();
        let column = largest.normals(0).unwrap();
        assert_eq!(column.len(), 1 << 20);
        assert!(column.iter().all(|z| z.is_finite()));
    }
}
