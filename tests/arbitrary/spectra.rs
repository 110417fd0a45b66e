//! Arbitrary arguments for the module `spectrum`: any teacher, any signal, any position.

use std::hint::black_box;

use lora_asymptotics::spectrum::{Discrete, TeacherSpectrum, Wishart, WishartProduct};
use lora_asymptotics::{Attention, Teacher};
use proptest::prelude::*;

use super::values::{config, count, number, parameter, spoken, teacher};

fn everything(law: &dyn TeacherSpectrum, snr: f64, x: f64) {
    black_box((law.mean(), law.second_moment(), law.variance(), law.orbit_dimension()));
    black_box((law.support(snr), law.top_edge(snr), law.stieltjes(snr, x)));
    let (density, denoised, posterior) = (law.density(snr, x), law.denoise(snr, x), law.posterior(snr));
    black_box(law.denoise_both_sides(snr, x));
    let chart = law.chart(snr);
    black_box((chart.parameter(x), chart.point(x)));
    let within = chart.intervals().into_iter().map(|[low, high]| chart.point(0.5 * (low + high))[1]);
    let least = within.fold(f64::INFINITY, f64::min);
    // Double precision resolves the law in this range.
    if (1e-3..1e3).contains(&snr) && x.abs() < 1e6 && law.second_moment() < 1e6 {
        assert!(density >= -1e-7 && least >= -1e-7, "density {density}, {least}");
        assert!((0.0..=1.0).contains(&denoised.rank_fraction), "{denoised:?}");
        assert!(denoised.norm >= -1e-9 && denoised.trace >= -1e-9, "{denoised:?}");
        assert!(
            posterior.risk >= 0.0 && posterior.overlap <= law.second_moment() * (1.0 + 1e-9),
            "{posterior:?}"
        );
    }
}

proptest! {
    #![proptest_config(config(2))]

    #[test]
    fn teachers(teacher in teacher(), snr in prop_oneof![2 => parameter(), 1 => number()], x in number()) {
        for attention in [Attention::Tied, Attention::Cross] {
            if let Some(law) = spoken(teacher.spectrum_for(attention)) {
                everything(law.as_ref(), snr, x);
                let both = law.denoise_both_sides(snr, x);
                if attention == Attention::Cross && (1e-3..1e3).contains(&snr) && law.second_moment() < 1e6 && x.abs() < 1e6 {
                    prop_assert!((0.0..=1.0).contains(&both.rank_fraction) && both.trace >= -1e-9, "{both:?}");
                }
            }
        }
    }

    #[test]
    fn constructors(kappa0 in number(), eigenvalues in prop::collection::vec(number(), 0..6), exponent in number(), dimension in count(),
                    snr in number(), x in number()) {
        if let Some(law) = spoken(Wishart::new(kappa0)) {
            prop_assert!((0.0..=1.0).contains(&law.atom_at_zero()));
            everything(&law, snr, x);
        }
        if let Some(law) = spoken(Discrete::new(&eigenvalues)) {
            let weights: f64 = law.atoms().map(|(_, weight)| weight).sum();
            prop_assert!((weights - 1.0).abs() < 1e-12);
            everything(&law, snr, x);
        }
        if let Some(law) = spoken(WishartProduct::new(kappa0)) {
            everything(&law, snr, x);
        }
        if let Some(law) = spoken(Discrete::singular(&eigenvalues)) {
            prop_assert!(law.mean().abs() <= 0.0);
            everything(&law, snr, x);
        }
        if !(100..=Discrete::MAX_EIGENVALUES).contains(&dimension) {
            black_box(spoken(Discrete::power_law(exponent, dimension)).map(|law| law.top_edge(snr)));
        }
        black_box(spoken(Teacher::Spectrum { eigenvalues }.spectrum()).map(|law| law.mean()));
    }
}

#[test]
fn nothing_is_too_long_or_too_short() {
    assert!(spoken(Discrete::new(&[])).is_none());
    assert!(spoken(Discrete::new(&vec![1.0; Discrete::MAX_EIGENVALUES + 1])).is_none());
    let long: Vec<f64> = (0..Discrete::MAX_EIGENVALUES).map(|i| i as f64).collect();
    let law = Discrete::new(&long).unwrap();
    for snr in [f64::NAN, f64::INFINITY, -1.0] {
        assert!(law.posterior(snr).overlap.is_nan());
        assert!(!law.support(snr).is_empty());
    }
}

/// These arguments once caused a panic, because the bounds of a clamp were NaN.
#[test]
fn a_signal_that_is_not_a_number_gives_none() {
    for teacher in [Teacher::Wishart { kappa0: 0.5 }, Teacher::Spectrum { eigenvalues: vec![0.0, 1.0] }] {
        let law = teacher.spectrum().unwrap();
        for snr in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0] {
            assert!(law.posterior(snr).overlap.is_nan() && law.posterior(snr).risk.is_nan());
        }
    }
}
