//! Roots of scalar functions in a bracket, for the hot paths.
//!
//! The method is that of T. R. Chandrupatla, Adv. Eng. Softw. 28, 145 (1997): inverse quadratic interpolation
//! where it is safe, and bisection elsewhere. An executor of a general optimisation library costs more per
//! iteration than the functions that are solved here (0.5 microseconds).

/// A point and the value of the function there. The value may be infinite, because only its sign matters
/// then.
#[derive(Debug, Clone, Copy)]
pub(crate) struct End {
    pub(crate) x: f64,
    pub(crate) f: f64,
}

/// The root of `f` between `a` and `b`, at which `f` has opposite signs. The accuracy is `tolerance` relative
/// to the larger of `|x|` and `floor`. The function also returns when `f` is NaN, and after 200 evaluations,
/// so that the caller has to check the residual.
pub(crate) fn bracketed(a: End, b: End, tolerance: f64, floor: f64, mut f: impl FnMut(f64) -> f64) -> f64 {
    let (mut a, mut b) = (a, b);
    let mut fraction: f64 = 0.5;
    for _ in 0..200 {
        let best = if a.f.abs() < b.f.abs() { a } else { b };
        let width = (b.x - a.x).abs();
        let resolution = tolerance * best.x.abs().max(floor);
        if best.f == 0.0 || width <= resolution {
            return best.x;
        }
        let smallest = (0.5 * resolution / width).min(0.5);
        let x = a.x + fraction.clamp(smallest, 1.0 - smallest) * (b.x - a.x);
        let new = End { x, f: f(x) };
        if new.f.is_nan() {
            return x;
        }
        let old =
            if new.f.is_sign_positive() == a.f.is_sign_positive() { a } else { std::mem::replace(&mut b, a) };
        a = new;
        fraction = interpolate(a, b, old).unwrap_or(0.5);
    }
    if a.f.abs() < b.f.abs() { a.x } else { b.x }
}

/// The position of the root between `a` (0) and `b` (1) by inverse quadratic interpolation through a third
/// point, if the inverse function is monotone between them.
fn interpolate(a: End, b: End, c: End) -> Option<f64> {
    let xi = (a.x - b.x) / (c.x - b.x);
    let phi = (a.f - b.f) / (c.f - b.f);
    let monotone = phi * phi < xi && (1.0 - phi) * (1.0 - phi) < 1.0 - xi;
    let t = a.f / (b.f - a.f) * (c.f / (b.f - c.f))
        + (c.x - a.x) / (b.x - a.x) * (a.f / (c.f - a.f)) * (b.f / (c.f - b.f));
    (monotone && t.is_finite()).then_some(t)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(a: f64, b: f64, f: impl Fn(f64) -> f64) -> (f64, usize) {
        let mut evaluations = 0;
        let root = bracketed(End { x: a, f: f(a) }, End { x: b, f: f(b) }, 1e-15, 0.0, |x| {
            evaluations += 1;
            f(x)
        });
        (root, evaluations)
    }

    #[test]
    fn finds_roots_fast() {
        for (a, b, root, f) in [
            (0.0, 2.0, 2f64.sqrt(), (|x: f64| x * x - 2.0) as fn(f64) -> f64),
            (2.0, 0.0, 2f64.ln(), |x| x.exp() - 2.0),
            (-1.0, 8.0, 1e-3, |x| (x - 1e-3).powi(3)),
            (1e-9, 50.0, 1.0, |x| if x < 0.5 { f64::NEG_INFINITY } else { x.ln() }),
        ] {
            let (x, evaluations) = count(a, b, f);
            approx::assert_relative_eq!(
                x,
                root,
                max_relative = 1e-12,
                epsilon = 1e-5 * f64::from(root < 0.1)
            );
            assert!(evaluations < 100, "{evaluations} evaluations for the root at {root}");
        }
        assert!(count(0.0, 2.0, |x| x * x - 2.0).1 < 12);
    }

    #[test]
    fn ends_on_nonsense() {
        assert!(count(0.0, 1.0, |_| f64::NAN).1 <= 1);
    }
}
