//! Gauss-Legendre rules for integrands of one variable that are smooth but for one point, which may move.

use std::num::NonZeroUsize;

use gauss_quad::GaussLegendre;

/// Power with which the nodes are graded towards a split.
const GRADING: i32 = 2;

/// Nodes and weights of the Gauss-Legendre rule on `[0, 1]`.
pub(crate) fn unit_rule(count: usize) -> Vec<(f64, f64)> {
    NonZeroUsize::new(count).map_or_else(Vec::new, |order| {
        let rule = GaussLegendre::new(order);
        rule.as_node_weight_pairs().iter().map(|(x, w)| (0.5 * (1.0 + x), 0.5 * w)).collect()
    })
}

/// Nodes and weights on `[-reach, reach]`, for averages over a law with the given density. The interval is
/// cut into pieces at the given `breaks` and at the `split`. The nodes crowd at the split, where the
/// integrand is not smooth.
pub(crate) fn split_rule(
    unit: &[(f64, f64)],
    split: f64,
    mut breaks: Vec<f64>,
    reach: f64,
    density: impl Fn(f64) -> f64,
) -> Vec<(f64, f64)> {
    let split = split.clamp(-reach, reach);
    breaks.retain(|x| x.abs() < reach);
    breaks.extend([-reach, split, reach]);
    breaks.sort_unstable_by(f64::total_cmp);
    let mut rule = Vec::with_capacity(unit.len() * breaks.len());
    for ends in breaks.windows(2) {
        let [left, right] = [ends[0], ends[1]];
        // The piece is mapped from the end at which the nodes crowd, if there is one, to the other end.
        let (from, to, power) = if (left - split).abs() <= 0.0 {
            (left, right, GRADING)
        } else if (right - split).abs() <= 0.0 {
            (right, left, GRADING)
        } else {
            (left, right, 1)
        };
        for (x, w) in unit {
            let node = from + (to - from) * x.powi(power);
            rule.push((node, (right - left) * f64::from(power) * x.powi(power - 1) * w * density(node)));
        }
    }
    rule
}
