//! Local minima of a smooth function of `N` variables plus a quadratic pull, for a block of samples at once,
//! by a damped Newton (Levenberg-Marquardt) method.
//!
//! All samples of a block go through the same instructions. Their differences are handled by selection and
//! not by branches, so that the loops over a block compile to vector instructions. (K. Levenberg, Q. Appl.
//! Math. 2, 164 (1944).)

use crate::lanes::{LANES, Lane};

/// `N` components for every sample.
pub(crate) type LaneVector<const N: usize> = [Lane; N];
/// `N x N` entries for every sample.
pub(crate) type LaneMatrix<const N: usize> = [[Lane; N]; N];

/// An objective and its derivatives at one point, with `E` additional values that are needed at the minimum.
#[derive(Clone, Copy)]
pub(crate) struct Local<const N: usize, const E: usize> {
    pub(crate) value: Lane,
    pub(crate) gradient: LaneVector<N>,
    /// The lower triangle of the Hessian. What is above the diagonal has no meaning.
    pub(crate) hessian: LaneMatrix<N>,
    pub(crate) extra: [Lane; E],
}

/// The objective of a descent.
pub(crate) trait Descent<const N: usize, const E: usize> {
    /// Curvature of the quadratic pull.
    fn stiffness(&self) -> f64;

    /// Relative size of a full Newton step after which a descent ends. The error that is left is of the order of its
    /// square; the default leaves an error below rounding.
    fn close(&self) -> f64 {
        1e-8
    }

    /// 1 for samples whose descent from `start`, where the objective is `local`, would lead to the minimum `known`, so that it
    /// is left out; else 0.
    #[inline(always)]
    fn leads_to(&self, _known: &LaneVector<N>, _start: &LaneVector<N>, _local: &Local<N, E>) -> Lane {
        [0.0; LANES]
    }

    /// The objective, its derivatives and the additional values at `x`.
    fn local(&self, x: &LaneVector<N>) -> Local<N, E>;
}

impl<const N: usize, const E: usize> Local<N, E> {
    /// The value before any evaluation.
    pub(crate) const ZERO: Self = {
        let zero = [0.0; LANES];
        Self { value: zero, gradient: [zero; N], hessian: [[zero; N]; N], extra: [zero; E] }
    };

    /// Replaces everything by `other` for the samples whose number in `samples` is positive.
    #[inline(always)]
    fn replace(&mut self, other: &Self, samples: &Lane) {
        for l in 0..LANES {
            let replaced = samples[l] > 0.0;
            self.value[l] = if replaced { other.value[l] } else { self.value[l] };
            for e in 0..E {
                self.extra[e][l] = if replaced { other.extra[e][l] } else { self.extra[e][l] };
            }
        }
        for i in 0..N {
            for l in 0..LANES {
                let replaced = samples[l] > 0.0;
                self.gradient[i][l] = if replaced { other.gradient[i][l] } else { self.gradient[i][l] };
            }
            for j in 0..=i {
                for l in 0..LANES {
                    let replaced = samples[l] > 0.0;
                    self.hessian[i][j][l] =
                        if replaced { other.hessian[i][j][l] } else { self.hessian[i][j][l] };
                }
            }
        }
    }

    /// Replaces everything for sample `l` by the values of `other` for its sample `from`.
    #[inline(always)]
    pub(crate) fn copy_sample(&mut self, l: usize, other: &Self, from: usize) {
        self.value[l] = other.value[from];
        for e in 0..E {
            self.extra[e][l] = other.extra[e][from];
        }
        for i in 0..N {
            self.gradient[i][l] = other.gradient[i][from];
            for j in 0..=i {
                self.hessian[i][j][l] = other.hessian[i][j][from];
            }
        }
    }

    /// Keeps the lower of two minima for every sample. `x` and `other` are the positions of the minima.
    #[inline(always)]
    pub(crate) fn keep_lower(&mut self, x: &mut LaneVector<N>, found: &Self, other: &LaneVector<N>) {
        for l in 0..LANES {
            // A minimum that is found twice counts once, although rounding makes the two values differ.
            let better = found.value[l] < self.value[l] - 1e-12 * (1.0 + self.value[l]);
            self.value[l] = if better { found.value[l] } else { self.value[l] };
            for e in 0..E {
                self.extra[e][l] = if better { found.extra[e][l] } else { self.extra[e][l] };
            }
            for i in 0..N {
                x[i][l] = if better { other[i][l] } else { x[i][l] };
                self.gradient[i][l] = if better { found.gradient[i][l] } else { self.gradient[i][l] };
                for j in 0..=i {
                    self.hessian[i][j][l] =
                        if better { found.hessian[i][j][l] } else { self.hessian[i][j][l] };
                }
            }
        }
    }
}

/// Moves `x` downhill to a local minimum. `known` is a minimum that was found before (NaN if there is none).
/// A sample that comes close to it ends there, since its descent would find the same minimum again.
///
/// The objective is evaluated in one place for the start and for all steps, because its code is large and is
/// compiled for every size.
#[inline(always)]
pub(crate) fn descend<const N: usize, const E: usize>(
    objective: &impl Descent<N, E>,
    x: &mut LaneVector<N>,
    known: &LaneVector<N>,
) -> Local<N, E> {
    let (stiffness, close) = (objective.stiffness(), objective.close());
    const MAX_STEPS: usize = 60;
    // Relative distance between points in the same basin.
    const SAME: f64 = 1e-2;
    let zero = [0.0; LANES];
    let mut here = Local::ZERO;
    let mut damping = zero;
    // This is 1 while a sample is moving, and 0 when it has arrived.
    let mut moving = [1.0; LANES];
    // These are the step that led to the trial, the decrease that it promised, and 1 where the damped Hessian
    // was positive definite.
    let (mut step, mut predicted, mut definite) = ([zero; N], zero, zero);
    let mut trial = *x;
    for number in 0..=MAX_STEPS {
        let there = objective.local(&trial);
        let mut accepted = zero;
        let mut left = 0.0;
        if number > 0 {
            let (mut step2, mut size2, mut apart2) = (zero, zero, zero);
            for i in 0..N {
                for l in 0..LANES {
                    step2[l] += step[i][l] * step[i][l];
                    size2[l] += trial[i][l] * trial[i][l];
                    apart2[l] += (trial[i][l] - known[i][l]) * (trial[i][l] - known[i][l]);
                }
            }
            for l in 0..LANES {
                let rounding = 1e-14 * (1.0 + here.value[l]);
                let decrease = here.value[l] - there.value[l];
                // A decrease below rounding does not show in the objective.
                let small = if predicted[l] < rounding { 1.0 } else { 0.0 };
                let enough = if decrease >= 1e-4 * predicted[l] { 1.0 } else { 0.0 };
                let harmless = if decrease >= -rounding { small } else { 0.0 };
                accepted[l] = definite[l] * moving[l] * if enough + harmless > 0.0 { 1.0 } else { 0.0 };
                let undamped = if damping[l] == 0.0 { accepted[l] } else { 0.0 };
                let arrived = if step2[l] <= close * close * (size2[l] + 1e-12) { undamped } else { 0.0 };
                let again = if apart2[l] <= SAME * SAME * (size2[l] + 1e-2) { accepted[l] } else { 0.0 };
                // After a rejected step below rounding there is nothing more to gain.
                let stuck = (1.0 - accepted[l]) * definite[l] * small;
                moving[l] *= (1.0 - arrived) * (1.0 - again) * (1.0 - stuck);
                let raised = (4.0 * damping[l]).max(1e-2 * stiffness + 1e-3);
                let lowered = if damping[l] < 4e-6 { 0.0 } else { 0.25 * damping[l] };
                damping[l] = if accepted[l] > 0.0 { lowered } else { raised };
                left += moving[l];
            }
        }
        if number == 0 {
            here = there;
            let again = objective.leads_to(known, x, &here);
            for l in 0..LANES {
                moving[l] -= again[l];
                left += moving[l];
                for i in 0..N {
                    x[i][l] = if again[l] > 0.0 { known[i][l] } else { x[i][l] };
                }
            }
        } else {
            here.replace(&there, &accepted);
            for i in 0..N {
                for l in 0..LANES {
                    x[i][l] = if accepted[l] > 0.0 { trial[i][l] } else { x[i][l] };
                }
            }
        }
        if left == 0.0 || number == MAX_STEPS {
            break;
        }
        let factor;
        (factor, definite) = cholesky(&here.hessian, &damping);
        step = solve(&factor, &here.gradient);
        predicted = zero;
        trial = *x;
        for i in 0..N {
            for l in 0..LANES {
                let allowed = if moving[l] * definite[l] > 0.0 { step[i][l] } else { 0.0 };
                trial[i][l] = x[i][l] - allowed;
                predicted[l] += 0.5 * here.gradient[i][l] * allowed;
            }
        }
    }
    here
}

/// Lower Cholesky factor of `matrix + damping`, of which the lower triangle is used, with the inverse of its diagonal in place of the
/// diagonal. The second result is 1 where the matrix is positive definite, else 0.
#[inline(always)]
pub(crate) fn cholesky<const N: usize>(matrix: &LaneMatrix<N>, damping: &Lane) -> (LaneMatrix<N>, Lane) {
    let mut factor = [[[0.0; LANES]; N]; N];
    let mut definite = [1.0; LANES];
    for i in 0..N {
        for j in 0..=i {
            let mut sum = matrix[i][j];
            for k in 0..j {
                for l in 0..LANES {
                    sum[l] -= factor[i][k][l] * factor[j][k][l];
                }
            }
            for l in 0..LANES {
                if i == j {
                    let pivot = sum[l] + damping[l];
                    let good = pivot > 1e-14;
                    definite[l] = if good { definite[l] } else { 0.0 };
                    factor[i][i][l] = 1.0 / (if good { pivot } else { 1.0 }).sqrt();
                } else {
                    factor[i][j][l] = sum[l] * factor[j][j][l];
                }
            }
        }
    }
    (factor, definite)
}

/// The solution `x` of `L L^T x = b` for a factor made by [`cholesky`].
#[inline(always)]
pub(crate) fn solve<const N: usize>(factor: &LaneMatrix<N>, b: &LaneVector<N>) -> LaneVector<N> {
    let mut x = *b;
    for i in 0..N {
        for k in 0..i {
            for l in 0..LANES {
                x[i][l] -= factor[i][k][l] * x[k][l];
            }
        }
        for l in 0..LANES {
            x[i][l] *= factor[i][i][l];
        }
    }
    for i in (0..N).rev() {
        for k in i + 1..N {
            for l in 0..LANES {
                x[i][l] -= factor[k][i][l] * x[k][l];
            }
        }
        for l in 0..LANES {
            x[i][l] *= factor[i][i][l];
        }
    }
    x
}

/// The lower triangle of the inverse of `L L^T` for a factor made by [`cholesky`]. What is above the diagonal has no meaning.
#[inline(always)]
pub(crate) fn inverse<const N: usize>(factor: &LaneMatrix<N>) -> LaneMatrix<N> {
    // The inverse of L, which is triangular, too.
    let mut triangle = *factor;
    for j in 0..N {
        for i in j + 1..N {
            let mut sum = [0.0; LANES];
            for k in j..i {
                for l in 0..LANES {
                    sum[l] += factor[i][k][l] * triangle[k][j][l];
                }
            }
            for l in 0..LANES {
                triangle[i][j][l] = -factor[i][i][l] * sum[l];
            }
        }
    }
    for i in 0..N {
        for j in 0..=i {
            let mut sum = [0.0; LANES];
            for k in i..N {
                for l in 0..LANES {
                    sum[l] += triangle[k][i][l] * triangle[k][j][l];
                }
            }
            // Rows below i are needed as they are, and this entry is not needed any more.
            triangle[i][j] = sum;
        }
    }
    triangle
}
