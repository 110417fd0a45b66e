//! Adaptive quadrature of several integrands at once, by Gauss-Kronrod rules (R. Piessens et al., QUADPACK, 1983).

/// Nodes of the Kronrod rule with 15 points on `[0, 1]`. Every second node, beginning with the second, is a
/// Gauss node.
const NODES: [f64; 8] = [
    0.991_455_371_120_812_6,
    0.949_107_912_342_758_5,
    0.864_864_423_359_769_1,
    0.741_531_185_599_394_4,
    0.586_087_235_467_691_1,
    0.405_845_151_377_397_2,
    0.207_784_955_007_898_47,
    0.0,
];
const KRONROD: [f64; 8] = [
    0.022_935_322_010_529_224,
    0.063_092_092_629_978_55,
    0.104_790_010_322_250_19,
    0.140_653_259_715_525_92,
    0.169_004_726_639_267_9,
    0.190_350_578_064_785_4,
    0.204_432_940_075_298_9,
    0.209_482_141_084_727_82,
];
const GAUSS: [f64; 4] =
    [0.129_484_966_168_869_7, 0.279_705_391_489_276_64, 0.381_830_050_505_118_9, 0.417_959_183_673_469_4];
/// Largest number of panels of one integral, or of one sum of integrals.
const MAX_PANELS: usize = 20_000;
/// Largest error of a panel. The integrals are of order 1.
const TOLERANCE: f64 = 1e-13;

/// The panels that a sum of integrals may still take.
pub(super) struct PanelBudget {
    panels: usize,
}

impl Default for PanelBudget {
    fn default() -> Self {
        Self { panels: MAX_PANELS }
    }
}

/// `int_from^to f`, with an error of about 1e-12 for integrals of order 1.
pub(super) fn integrate<const N: usize>(from: f64, to: f64, f: impl FnMut(f64) -> [f64; N]) -> [f64; N] {
    adapt([from, to], &mut PanelBudget::default(), |_, _| [1.0; N], f)
}

/// The integrals of `f` over a range, with errors of about 1e-12 relative to the integrals of `|f|`.
pub(super) fn integrate_relative<const N: usize>(
    [from, to]: [f64; 2],
    budget: &mut PanelBudget,
    mut f: impl FnMut(f64) -> [f64; N],
) -> [f64; N] {
    let [sizes, _] = panel(from, to, |x| f(x).map(f64::abs));
    // A rule on the whole range may miss a peak, which then is large in comparison with the other panels. The
    // panels of the peak are judged relative to themselves, and those that follow relative to the sum.
    let scale = |total: &[f64; N], here: &[f64; N]| -> [f64; N] {
        std::array::from_fn(|i| sizes[i].max(total[i].abs()).max(here[i].abs()).max(f64::MIN_POSITIVE))
    };
    adapt([from, to], budget, scale, f)
}

/// Divides the range until the error of every panel is small in comparison with `scale`, a function of the
/// sum so far and of the integrals over the panel.
fn adapt<const N: usize>(
    [from, to]: [f64; 2],
    budget: &mut PanelBudget,
    scale: impl Fn(&[f64; N], &[f64; N]) -> [f64; N],
    mut f: impl FnMut(f64) -> [f64; N],
) -> [f64; N] {
    let mut total = [0.0; N];
    let mut open = vec![(from, to)];
    while let Some((low, high)) = open.pop() {
        budget.panels = budget.panels.saturating_sub(1);
        let (middle, half) = (0.5 * (low + high), 0.5 * (high - low));
        let [kronrod, gauss] = panel(low, high, &mut f);
        let scale = scale(&total, &kronrod);
        let difference = (0..N).map(|i| (kronrod[i] - gauss[i]).abs() / scale[i]).fold(0.0, f64::max);
        // The difference estimates the error of the Gauss rule; the error of the Kronrod rule is far smaller.
        let error = (200.0 * difference).powf(1.5);
        if error <= TOLERANCE || budget.panels == 0 || half <= 1e-13 * (to - from) {
            for (t, x) in total.iter_mut().zip(kronrod) {
                *t += x;
            }
        } else {
            open.push((middle, high));
            open.push((low, middle));
        }
    }
    total
}

/// The integrals over one panel by the Kronrod rule and by the Gauss rule.
fn panel<const N: usize>(low: f64, high: f64, mut f: impl FnMut(f64) -> [f64; N]) -> [[f64; N]; 2] {
    let (middle, half) = (0.5 * (low + high), 0.5 * (high - low));
    let (mut kronrod, mut gauss) = ([0.0; N], [0.0; N]);
    for (k, node) in NODES.iter().enumerate() {
        let pair = [middle + half * node, middle - half * node];
        for x in &pair[..if k == 7 { 1 } else { 2 }] {
            let value = f(*x);
            for i in 0..N {
                kronrod[i] += KRONROD[k] * half * value[i];
                if k % 2 == 1 {
                    gauss[i] += GAUSS[k / 2] * half * value[i];
                }
            }
        }
    }
    [kronrod, gauss]
}

#[cfg(test)]
mod tests {
    use super::{PanelBudget, integrate, integrate_relative};
    use approx::assert_abs_diff_eq;
    use std::f64::consts::PI;

    #[test]
    fn smooth_and_sharp_integrands() {
        let [sine, peak] = integrate(0.0, PI, |x: f64| [x.sin(), 1e-3 / ((x - 1.0).powi(2) + 1e-6)]);
        assert_abs_diff_eq!(sine, 2.0, epsilon = 1e-13);
        let exact = ((PI - 1.0) / 1e-3).atan() + (1.0_f64 / 1e-3).atan();
        assert_abs_diff_eq!(peak, exact, epsilon = 1e-11);
    }

    /// The first rule on the whole range does not see the peak, which has nearly all of the integral.
    #[test]
    fn relative_to_integrals_of_any_size() {
        let width = 1e-5;
        let f = |x: f64| [1e-20 * (1.0 + width / ((x - 0.3).powi(2) + width * width)), 1e20 * (x - 0.5)];
        let [peak, zero] = integrate_relative([0.0, 1.0], &mut PanelBudget::default(), f);
        let exact = 1e-20 * (1.0 + (0.7_f64 / width).atan() + (0.3_f64 / width).atan());
        assert_abs_diff_eq!(peak, exact, epsilon = 1e-12 * exact);
        assert_abs_diff_eq!(zero, 0.0, epsilon = 1e6);
    }

    #[test]
    fn ends_on_nonsense() {
        assert!(integrate(0.0, 1.0, |_| [f64::NAN])[0].is_nan());
        for nonsense in [f64::NAN, f64::INFINITY] {
            let f = |_: f64| [nonsense];
            assert!(!integrate_relative([0.0, 1.0], &mut PanelBudget::default(), f)[0].is_finite());
        }
        // Noise takes all panels that it may take, and no more.
        let mut budget = PanelBudget::default();
        let noise = |x: f64| [(x * 1e12).sin()];
        let sum = integrate_relative([0.0, 1.0], &mut budget, noise)[0];
        assert!(sum.is_finite() && budget.panels == 0);
    }
}
