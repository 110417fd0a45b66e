//! Anderson acceleration of a small vector.

use super::problem::{Secant, Vector, from_fn};

/// The last differences of points and residuals, newest first.
pub(super) struct Anderson<X> {
    memory: usize,
    mixing: f64,
    warmup: usize,
    max_step: f64,
    secants: Vec<Secant<X>>,
    previous: Option<(X, X)>,
    steps: usize,
}

impl<X: Vector> Anderson<X> {
    pub(super) fn new(memory: usize, mixing: f64, warmup: usize, max_step: f64, known: &[Secant<X>]) -> Self {
        let warmup = if known.is_empty() { warmup } else { 0 };
        let secants = known.iter().take(memory).cloned().collect();
        Self { memory, mixing, warmup, max_step, secants, previous: None, steps: 0 }
    }

    /// The next iterate, given the point `x` and its residual.
    pub(super) fn next(&mut self, x: &X, residual: &X) -> X {
        if let Some((old_x, old_residual)) = self.previous.replace((x.clone(), residual.clone())) {
            self.secants.truncate(self.memory - 1);
            let step = difference(x, &old_x);
            let residual_change = difference(residual, &old_residual);
            self.secants.insert(0, Secant { step, residual_change });
        }
        self.steps += 1;
        let step = if self.steps > self.warmup {
            self.accelerated_step(residual)
        } else {
            scaled(residual, self.mixing)
        };
        from_fn(x, |i| x.as_ref()[i] + step.as_ref()[i].clamp(-self.max_step, self.max_step))
    }

    /// The number of differences that are known.
    pub(super) fn differences(&self) -> usize {
        self.secants.len()
    }

    pub(super) fn forget(&mut self) -> bool {
        let had_any = !self.secants.is_empty();
        self.secants.clear();
        self.previous = None;
        had_any
    }

    /// `mixing r - sum_j gamma_j (dx_j + mixing dr_j)` with `gamma` the least-squares solution of `sum_j gamma_j dr_j = r`.
    ///
    /// The vectors `dr_j` are orthogonalised by modified Gram-Schmidt, beginning with the newest. A difference
    /// that is nearly in the span of newer ones carries only rounding errors and is left out, which bounds the
    /// condition number. The same combinations are applied to the steps, so that no triangular system remains
    /// to be solved.
    fn accelerated_step(&self, residual: &X) -> X {
        const NEGLIGIBLE: f64 = 1e-8;
        let dimension = residual.as_ref().len();
        let mut basis: Vec<Secant<X>> = Vec::with_capacity(dimension);
        let mut remaining = residual.clone();
        let mut step = scaled(residual, 0.0);
        for secant in &self.secants {
            let mut column = secant.clone();
            let original = norm(&column.residual_change);
            for direction in &basis {
                let overlap = dot(&direction.residual_change, &column.residual_change);
                subtract(&mut column.residual_change, overlap, &direction.residual_change);
                subtract(&mut column.step, overlap, &direction.step);
            }
            let length = norm(&column.residual_change);
            if basis.len() == dimension {
                break;
            }
            if length.is_nan() || length <= NEGLIGIBLE * original {
                continue;
            }
            let unit = Secant {
                step: from_fn(residual, |i| column.step.as_ref()[i] / length),
                residual_change: from_fn(residual, |i| column.residual_change.as_ref()[i] / length),
            };
            let gamma = dot(&unit.residual_change, &remaining);
            subtract(&mut remaining, gamma, &unit.residual_change);
            subtract(&mut step, gamma, &unit.step);
            basis.push(unit);
        }
        from_fn(residual, |i| step.as_ref()[i] + self.mixing * remaining.as_ref()[i])
    }
}

fn difference<X: Vector>(a: &X, b: &X) -> X {
    from_fn(a, |i| a.as_ref()[i] - b.as_ref()[i])
}

fn scaled<X: Vector>(x: &X, factor: f64) -> X {
    from_fn(x, |i| factor * x.as_ref()[i])
}

fn dot<X: Vector>(a: &X, b: &X) -> f64 {
    a.as_ref().iter().zip(b.as_ref()).map(|(x, y)| x * y).sum()
}

fn norm<X: Vector>(a: &X) -> f64 {
    dot(a, a).sqrt()
}

fn subtract<X: Vector>(from: &mut X, factor: f64, what: &X) {
    for (target, value) in from.as_mut().iter_mut().zip(what.as_ref()) {
        *target -= factor * value;
    }
}
