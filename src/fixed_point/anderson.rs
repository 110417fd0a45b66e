//! Anderson acceleration on a fixed-size vector.

use super::Secant;

/// Memory of the last differences, newest first.
pub(super) struct Anderson<const N: usize> {
    memory: usize,
    mixing: f64,
    warmup: usize,
    max_step: f64,
    secants: Vec<Secant<N>>,
    previous: Option<([f64; N], [f64; N])>,
    steps: usize,
}

impl<const N: usize> Anderson<N> {
    pub(super) fn new(memory: usize, mixing: f64, warmup: usize, max_step: f64, known: &[Secant<N>]) -> Self {
        let warmup = if known.is_empty() { warmup } else { 0 };
        let secants = known.iter().take(memory).copied().collect();
        Self { memory, mixing, warmup, max_step, secants, previous: None, steps: 0 }
    }

    /// The point after `x`, whose residual is `residual`.
    pub(super) fn next(&mut self, x: &[f64; N], residual: &[f64; N]) -> [f64; N] {
        if let Some((old_x, old_residual)) = self.previous.replace((*x, *residual)) {
            self.secants.truncate(self.memory - 1);
            let step = std::array::from_fn(|i| x[i] - old_x[i]);
            let residual_change = std::array::from_fn(|i| residual[i] - old_residual[i]);
            self.secants.insert(0, Secant { step, residual_change });
        }
        self.steps += 1;
        let step = if self.steps > self.warmup {
            self.accelerated_step(residual)
        } else {
            residual.map(|r| self.mixing * r)
        };
        std::array::from_fn(|i| x[i] + step[i].clamp(-self.max_step, self.max_step))
    }

    pub(super) fn forget(&mut self) -> bool {
        let had_any = !self.secants.is_empty();
        self.secants.clear();
        self.previous = None;
        had_any
    }

    /// `mixing r - sum_j gamma_j (dx_j + mixing dr_j)` with `gamma` the least-squares solution of `sum_j gamma_j dr_j = r`.
    ///
    /// Modified Gram-Schmidt from the newest difference on; one that is nearly in the span of newer ones carries
    /// only rounding errors and is left out, which bounds the condition number. The same combinations are applied to
    /// the steps, so that no triangular system remains to be solved.
    fn accelerated_step(&self, residual: &[f64; N]) -> [f64; N] {
        const NEGLIGIBLE: f64 = 1e-8;
        let mut basis: [Option<Secant<N>>; N] = [None; N];
        let mut remaining = *residual;
        let mut step = [0.0; N];
        for secant in &self.secants {
            let mut column = *secant;
            let original = norm(&column.residual_change);
            for direction in basis.iter().flatten() {
                let overlap = dot(&direction.residual_change, &column.residual_change);
                subtract(&mut column.residual_change, overlap, &direction.residual_change);
                subtract(&mut column.step, overlap, &direction.step);
            }
            let length = norm(&column.residual_change);
            let Some(slot) = basis.iter_mut().find(|slot| slot.is_none()) else { break };
            if length.is_nan() || length <= NEGLIGIBLE * original {
                continue;
            }
            let unit = Secant {
                step: column.step.map(|c| c / length),
                residual_change: column.residual_change.map(|c| c / length),
            };
            let gamma = dot(&unit.residual_change, &remaining);
            subtract(&mut remaining, gamma, &unit.residual_change);
            subtract(&mut step, gamma, &unit.step);
            *slot = Some(unit);
        }
        std::array::from_fn(|i| step[i] + self.mixing * remaining[i])
    }
}

fn dot<const N: usize>(a: &[f64; N], b: &[f64; N]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

fn norm<const N: usize>(a: &[f64; N]) -> f64 {
    dot(a, a).sqrt()
}

fn subtract<const N: usize>(from: &mut [f64; N], factor: f64, what: &[f64; N]) {
    for (target, value) in from.iter_mut().zip(what) {
        *target -= factor * value;
    }
}
