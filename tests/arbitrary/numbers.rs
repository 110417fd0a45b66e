//! Arbitrary arguments for the modules `channel`, `observables` and `quadrature`, which have functions of
//! numbers.

use std::hint::black_box;

use lora_asymptotics::channel::{SoftmaxLoss, dimension, softmax};
use lora_asymptotics::observables;
use lora_asymptotics::quadrature::{
    ChiQuantile, ScrambledSobol, chi_square_cdf, chi_square_quantile, normal_cdf, normal_density,
    normal_quantile,
};
use proptest::prelude::*;

use super::values::{config, count, number, spoken};

fn matrix<const T: usize>(entries: &[f64]) -> [[f64; T]; T] {
    std::array::from_fn(|a| std::array::from_fn(|b| entries[(T * a.min(b) + a.max(b)) % entries.len()]))
}

fn attention<const T: usize>(h: &[f64], t: &[f64], temperature: f64) {
    let (h, t) = (matrix::<T>(h), matrix::<T>(t));
    let finite = |m: &[[f64; T]; T], scale: f64| m.iter().flatten().all(|x| (scale * x).abs() < 1e300);
    for row in softmax(&h) {
        let sum: f64 = row.iter().sum();
        assert!(!finite(&h, 1.0) || (sum - 1.0).abs() < 1e-12, "{h:?}");
    }
    let loss = SoftmaxLoss::new(&t, temperature);
    let value = loss.value(&h);
    if finite(&h, temperature) && finite(&t, temperature) {
        assert!((0.0..=2.0 * T as f64 + 1e-9).contains(&value), "{value}: {h:?} {t:?} {temperature}");
    }
    black_box((loss.gradient(&h), loss.hessian(&h, &t)));
}

proptest! {
    #![proptest_config(config(1))]

    #[test]
    fn channel(h in prop::collection::vec(number(), 1..10), t in prop::collection::vec(number(), 1..10),
               temperature in number(), tokens in count()) {
        black_box(dimension(tokens));
        attention::<0>(&h, &t, temperature);
        attention::<1>(&h, &t, temperature);
        attention::<2>(&h, &t, temperature);
        attention::<8>(&h, &t, temperature);
    }

    #[test]
    fn closed_forms(tokens in count(), x in prop::array::uniform6(number())) {
        let [a, b, c, d, e, f] = x;
        black_box(observables::alignment(a, b, c));
        let weights = observables::WeightOverlaps { q0: a, q: b, m: c };
        black_box(observables::unexplained(&weights, d));
        black_box(observables::effective_noise(&weights, d, e));
        black_box(observables::reused_effective_noise(&weights, tokens, d, e, f));
        black_box(observables::optimal_recalibration(a, b));
        black_box(observables::linear_pretraining_error(tokens, a));
        black_box(observables::linear_finetuning_error(tokens, d, &weights));
        black_box(observables::linear_finetuning_error_slope(tokens, d, &weights, [e, f]));
        black_box(observables::linear_error_at(tokens, tokens, d, e));
    }

    #[test]
    fn laws(dof in count(), x in number(), p in 0.0..1.0) {
        let probability = |p: f64| p.is_nan() || (0.0..=1.0).contains(&p);
        prop_assert!(probability(normal_cdf(x)));
        prop_assert!(normal_density(x).is_nan() || normal_density(x) >= 0.0);
        black_box((normal_quantile(x), normal_quantile(p)));
        // The series has as many terms as degrees of freedom, and thousands of terms take long.
        let dof = if dof > 500 && dof <= 10_000 { dof / 20 } else { dof };
        let cdf = chi_square_cdf(dof, x);
        prop_assert!(cdf.is_nan() || (-1e-12..=1.0 + 1e-12).contains(&cdf), "{cdf}");
        for p in [x, p] {
            let quantile = chi_square_quantile(dof, p);
            prop_assert!(quantile.is_nan() || quantile >= 0.0);
        }
        for dof in [dof, dof % 70] {
            if let Some(law) = spoken(ChiQuantile::new(dof)) {
                prop_assert!(law.at(x) >= 0.0 || x.is_nan());
                prop_assert_eq!(law.at(x).is_nan(), x.is_nan());
            }
        }
    }

    #[test]
    fn point_sets(dimensions in count(), log2_nodes in prop_oneof![4 => 0_u32..8, 1 => any::<u32>()],
                  seed in any::<u64>(), scramble in any::<u64>(), dimension in count(), length in 0_usize..300) {
        let Some(points) = spoken(ScrambledSobol::new(dimensions, log2_nodes, seed, scramble)) else { return Ok(()) };
        prop_assert_eq!(points.dimensions(), dimensions);
        prop_assume!(log2_nodes < 8);
        for dimension in [dimension, dimension % dimensions] {
            let normals = spoken(points.normals(dimension));
            prop_assert_eq!(normals.is_some(), dimension < dimensions);
            prop_assert!(normals.iter().flatten().all(|z| z.abs() < 8.22));
            let mut out = vec![0.5; length];
            let filled = spoken(points.fill_uniforms(dimension, &mut out)).is_some();
            prop_assert_eq!(filled, dimension < dimensions && length == points.nodes());
            prop_assert!(out.iter().all(|u| *u > 0.0 && *u < 1.0));
            let filled = spoken(points.fill_normals(dimension, &mut out)).is_some();
            prop_assert_eq!(filled, dimension < dimensions && length == points.nodes());
        }
    }
}
