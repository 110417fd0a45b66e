//! The mean square of the derivative of the soft threshold, as a function of matrices.

use std::f64::consts::PI;
use std::num::NonZeroUsize;

use gauss_quad::GaussLegendre;

use super::law::{Chart, TeacherSpectrum};

/// Number of nodes of a panel.
const NODES: NonZeroUsize = NonZeroUsize::MIN.saturating_add(5);
/// A panel whose two halves have the same mass to this accuracy is not divided further; the halves are used.
const ACCURACY: f64 = 1e-5;
/// Largest number of times that a panel is divided.
const DEEPEST: usize = 12;

/// `double-int ((f(x) - f(y))/(x - y))^2 rho rho` for the soft threshold `f(y) = (y - r)_+` over the law of
/// `y = snr s* + Z`, to about 1e-4. In the eigenbasis of a matrix, the derivative of `f` multiplies every
/// component by the divided difference.
///
/// The integral is `p^2` for the share `p` of the law above the threshold, where the divided difference is 1,
/// plus twice the integral over the pairs on either side of the threshold.
/// The square of the share `p` of the law above the threshold, where the divided difference is 1, and twice the pairs on either side.
pub(crate) fn squared_response(teacher: &dyn TeacherSpectrum, snr: f64, r: f64) -> f64 {
    over_divided_differences(teacher, snr, r, |slope| slope * slope)
}

/// The same double integral for `f(y) = sign(y) (|y| - r)_+` over a symmetric law, at `r >= 0`. In the basis of the singular vectors, the
/// derivative of `f` multiplies the symmetric part of a component by the divided difference of two singular values, and the
/// antisymmetric part by that of one and the negative of the other.
pub(crate) fn squared_response_of_both_sides(teacher: &dyn TeacherSpectrum, snr: f64, r: f64) -> f64 {
    over_both_sides(teacher, snr, r, |slope| slope * slope)
}

/// The double integral of a function of the divided difference of the threshold on both sides. The function is 0 at 0 and 1 at 1.
fn over_both_sides(teacher: &dyn TeacherSpectrum, snr: f64, r: f64, function: impl Fn(f64) -> f64) -> f64 {
    let [middle, above] = nodes_around(teacher, snr, [Some(-r), Some(r)]);
    let share: f64 = above.iter().map(|(_, weight)| weight).sum();
    // The sum over the pairs of a node above the threshold with all of `others`.
    let pairs = |others: &[Node], slope: &dyn Fn(f64, f64) -> f64| -> f64 {
        above
            .iter()
            .map(|(x, p)| p * others.iter().map(|(y, q)| q * function(slope(*x, *y))).sum::<f64>())
            .sum()
    };
    let opposite = pairs(&above, &|x, y| (x + y - 2.0 * r) / (x + y));
    let inside = pairs(&middle, &|x, y| (x - r) / (x - y));
    2.0 * share * share + 2.0 * opposite + 4.0 * inside
}

/// The double integral of a function of the divided difference. The function is 0 at 0 and 1 at 1.
fn over_divided_differences(
    teacher: &dyn TeacherSpectrum,
    snr: f64,
    r: f64,
    function: impl Fn(f64) -> f64,
) -> f64 {
    let [below, above] = nodes_around(teacher, snr, [None, Some(r)]);
    let share: f64 = above.iter().map(|(_, weight)| weight).sum();
    let across: f64 = above
        .iter()
        .map(|(x, p)| p * below.iter().map(|(y, q)| q * function((x - r) / (x - y))).sum::<f64>())
        .sum();
    share * share + 2.0 * across
}

/// Nodes for averages over the law between two points, and beyond the second one. `None` is the end of the support.
fn nodes_around(teacher: &dyn TeacherSpectrum, snr: f64, [from, to]: [Option<f64>; 2]) -> [Vec<Node>; 2] {
    let chart = teacher.chart(snr);
    let panels = Panels { chart: chart.as_ref(), rule: GaussLegendre::new(NODES) };
    let (mut between, mut beyond) = (Vec::new(), Vec::new());
    let start = from.map_or(f64::NEG_INFINITY, |x| chart.parameter(x));
    let border = to.map_or(f64::INFINITY, |x| chart.parameter(x));
    for [low, high] in chart.intervals() {
        if low < border && high > start {
            panels.cover([low.max(start), high.min(border)], &mut between);
        }
        if high > border {
            panels.cover([low.max(border), high], &mut beyond);
        }
    }
    [between, beyond]
}

/// The position of a node, and its weight times the density.
type Node = (f64, f64);

/// Adaptive Gauss-Legendre rules for averages over the law.
struct Panels<'a> {
    chart: &'a dyn Chart,
    rule: GaussLegendre,
}

impl Panels<'_> {
    /// Adds the nodes for an interval of the parameter. In `u = mid + half cos(theta)` they resolve
    /// square-root edges, and are dense at both ends.
    fn cover(&self, interval: [f64; 2], nodes: &mut Vec<Node>) {
        let whole = [0.0, PI];
        self.divide(interval, whole, &self.panel(interval, whole), DEEPEST, nodes);
    }

    /// Divides a range of `theta` until its mass is accurate.
    fn divide(
        &self,
        interval: [f64; 2],
        range: [f64; 2],
        coarse: &[Node],
        depth: usize,
        nodes: &mut Vec<Node>,
    ) {
        let [from, to] = range;
        let middle = 0.5 * (from + to);
        let ranges = [[from, middle], [middle, to]];
        let halves = ranges.map(|range| self.panel(interval, range));
        let mass = |nodes: &[Node]| nodes.iter().map(|(_, weight)| weight).sum::<f64>();
        let difference = (mass(coarse) - mass(&halves[0]) - mass(&halves[1])).abs();
        for (range, half) in ranges.into_iter().zip(&halves) {
            // A NaN ends the division, because further division would not change it.
            if depth > 0 && difference > ACCURACY {
                self.divide(interval, range, half, depth - 1, nodes);
            } else {
                nodes.extend(half);
            }
        }
    }

    fn panel(&self, [low, high]: [f64; 2], [from, to]: [f64; 2]) -> Vec<Node> {
        let (mid, half) = (0.5 * (low + high), 0.5 * (high - low));
        let (centre, reach) = (0.5 * (from + to), 0.5 * (to - from));
        let node = |(node, weight): &(f64, f64)| {
            let theta = centre + reach * node;
            let [x, density] = self.chart.point(mid + half * theta.cos());
            (x, reach * weight * half * theta.sin() * density)
        };
        self.rule.as_node_weight_pairs().iter().map(node).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spectrum::plain::Plain;
    use crate::spectrum::{Discrete, Wishart, WishartProduct};
    use approx::assert_relative_eq;

    fn cases() -> Vec<(Box<dyn TeacherSpectrum>, f64)> {
        vec![
            (Box::new(Wishart::new(0.5).unwrap()), 0.0),
            (Box::new(Wishart::new(0.3).unwrap()), 1.0),
            (Box::new(Wishart::new(0.3).unwrap()), 6.0),
            (Box::new(Discrete::new(&[0.0, 0.0, 1.0, 4.0]).unwrap()), 3.0),
            (Box::new(Discrete::power_law(1.25, 40).unwrap()), 2.0),
        ]
    }

    #[test]
    fn without_the_square_it_is_the_response() {
        for (teacher, snr) in cases() {
            for r in [-1.0, -0.2, 0.0, 0.4, 1.5] {
                let response = teacher.denoise(snr, r).response;
                let value = over_divided_differences(teacher.as_ref(), snr, r, |slope| slope);
                assert_relative_eq!(value, response, max_relative = 1e-4);
                let squared = squared_response(teacher.as_ref(), snr, r);
                assert!(squared > 0.0 && squared < response, "{squared} {response}");
            }
        }
    }

    #[test]
    fn along_the_curve_as_along_the_axis() {
        for (teacher, snr) in [
            (Discrete::new(&[0.0, 0.0, 1.0, 4.0]).unwrap(), 3.0),
            (Discrete::new(&[0.0, 0.1, 0.3, 0.4, 2.0, 2.2, 7.0]).unwrap(), 0.9),
            (Discrete::power_law(1.25, 40).unwrap(), 2.0),
            (Discrete::power_law(1.25, 40).unwrap(), 20.0),
        ] {
            let plain = Plain(Box::new(teacher.clone()));
            for r in [-0.5, 0.1, 1.0, 2.5] {
                let along_the_curve = squared_response(&teacher, snr, r);
                let along_the_axis = squared_response(&plain, snr, r);
                assert_relative_eq!(along_the_curve, along_the_axis, max_relative = 1e-4);
            }
        }
    }

    #[test]
    fn on_both_sides_without_the_square_it_is_the_response() {
        let cases: [(Box<dyn TeacherSpectrum>, f64); 4] = [
            (Box::new(WishartProduct::new(0.5).unwrap()), 0.0),
            (Box::new(WishartProduct::new(0.3).unwrap()), 6.0),
            (Box::new(Discrete::singular(&[0.0, 0.0, 1.0, 4.0]).unwrap()), 3.0),
            (Box::new(Discrete::singular_power_law(1.25, 40).unwrap()), 2.0),
        ];
        for (teacher, snr) in cases {
            for r in [0.0, 0.4, 1.5] {
                let response = teacher.denoise_both_sides(snr, r).response;
                let value = over_both_sides(teacher.as_ref(), snr, r, |slope| slope);
                assert_relative_eq!(value, response, max_relative = 2e-4);
                let squared = squared_response_of_both_sides(teacher.as_ref(), snr, r);
                assert!(squared > 0.0 && squared < response * (1.0 + 1e-4), "{squared} {response}");
            }
        }
    }

    /// The list has the largest number of eigenvalues that is allowed, and its law has far more intervals
    /// than the panels of a single interval would find.
    #[test]
    fn ten_thousand_eigenvalues() {
        let teacher = Discrete::power_law(1.25, 10_000).unwrap();
        for r in [0.0, 1.0, 3.0] {
            let response = teacher.denoise(1.0, r).response;
            let value = over_divided_differences(&teacher, 1.0, r, |slope| slope);
            assert_relative_eq!(value, response, max_relative = 1e-4);
        }
    }

    #[test]
    fn a_threshold_outside_of_the_support() {
        for (teacher, snr) in cases() {
            assert_relative_eq!(squared_response(teacher.as_ref(), snr, -2.5), 1.0, max_relative = 1e-5);
            let above = teacher.top_edge(snr) + 1e-3;
            assert!(squared_response(teacher.as_ref(), snr, above).abs() <= 0.0);
        }
    }
}
