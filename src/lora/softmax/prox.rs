//! The proximal operator of the softmax fine-tuning loss, and everything that is averaged over it, for a block of samples.
//!
//! In units with `q0 = 1`, and with `k = b q0` the coupling (`b` the inverse temperature), the logits of a sample are
//! `A = z + k (chi chi^T - q I)` and the objective is
//!
//! $$ F(\chi) = \lVert\sigma(A)-\sigma(B)\rVert_F^2 + |\chi-\omega|^2/(2v) . $$
//!
//! It is not convex. Since the loss is even in `chi`, the global minimum has `chi.omega >= 0`, and every start is
//! reflected there. The starts are screened by their objective, and the best of them polished by a damped Newton
//! (Levenberg-Marquardt) method.

use super::fields::Logits;
use crate::channel::{Row, softmax_row};
use crate::lanes::{LANES, Lane};
use crate::lora::moments::{COUNT, Point};

/// A vector of `T` components for every sample.
pub(super) type Vector<const T: usize> = [Lane; T];
type Matrix<const T: usize> = [[Lane; T]; T];

/// Number of starts that are polished.
const POLISHED: usize = 4;

/// A block of samples.
pub(super) struct Block<const T: usize> {
    /// Recalibrated frozen logits `z`.
    pub(super) frozen: Logits<T>,
    /// Logits `B` of the label, the perturbation included.
    pub(super) label: Logits<T>,
    /// `chi*`.
    pub(super) star: Vector<T>,
    /// The part of `omega` that is independent of `chi*`, in units of its standard deviation.
    pub(super) free: Vector<T>,
}

/// What the objective of a block depends on.
struct Objective<'a, const T: usize> {
    frozen: &'a Logits<T>,
    y: Matrix<T>,
    omega: Vector<T>,
    q: f64,
    coupling: f64,
    stiffness: f64,
}

/// The objective and its derivatives at one point.
#[derive(Clone, Copy)]
struct Local<const T: usize> {
    value: Lane,
    gradient: Vector<T>,
    hessian: Matrix<T>,
    loss: Lane,
    /// `dl'/dq`.
    centring: Lane,
}

impl<const T: usize> Objective<'_, T> {
    #[inline(always)]
    fn logits(&self, chi: &Vector<T>, a: usize) -> [Lane; T] {
        let mut row = self.frozen[a];
        for b in 0..T {
            for l in 0..LANES {
                let own = if a == b { self.q } else { 0.0 };
                row[b][l] += self.coupling * (chi[a][l] * chi[b][l] - own);
            }
        }
        row
    }

    #[inline(always)]
    fn distance(&self, chi: &Vector<T>) -> Lane {
        let mut sum = [0.0; LANES];
        for i in 0..T {
            for l in 0..LANES {
                let d = chi[i][l] - self.omega[i][l];
                sum[l] += d * d;
            }
        }
        sum.map(|d2| 0.5 * self.stiffness * d2)
    }

    #[inline(always)]
    fn value(&self, chi: &Vector<T>) -> Lane {
        let mut value = self.distance(chi);
        for a in 0..T {
            let p = softmax_row(&self.logits(chi, a));
            for b in 0..T {
                for l in 0..LANES {
                    let e = p[b][l] - self.y[a][b][l];
                    value[l] += e * e;
                }
            }
        }
        value
    }

    #[inline(always)]
    fn local(&self, chi: &Vector<T>) -> Local<T> {
        let k = self.coupling;
        let mut loss = [0.0; LANES];
        let mut centring = [0.0; LANES];
        // G/2 + its transpose, and the second-order part of the Hessian over 2 k^2.
        let mut slope = [[[0.0; LANES]; T]; T];
        let mut second = [[[0.0; LANES]; T]; T];
        for a in 0..T {
            let row = Row::new(&self.logits(chi, a), &self.y[a]);
            let product = row.half_hessian_times(chi);
            for l in 0..LANES {
                loss[l] += row.loss[l];
                centring[l] -= 2.0 * k * row.slope[a][l];
            }
            for b in 0..T {
                for l in 0..LANES {
                    slope[a][b][l] += row.slope[b][l];
                    slope[b][a][l] += row.slope[b][l];
                    second[a][a][l] += chi[b][l] * product[b][l];
                    let cross = chi[a][l] * product[b][l];
                    second[a][b][l] += cross;
                    second[b][a][l] += cross;
                }
            }
            for i in 0..T {
                for j in 0..T {
                    for l in 0..LANES {
                        let own = if i == j { row.weight[i][l] } else { 0.0 };
                        let (pi, pj) = (row.p[i][l], row.p[j][l]);
                        let half =
                            own - row.weight[i][l] * pj - pi * row.weight[j][l] + row.norm2[l] * pi * pj;
                        second[i][j][l] += chi[a][l] * chi[a][l] * half;
                    }
                }
            }
        }
        let mut value = self.distance(chi);
        let mut gradient = [[0.0; LANES]; T];
        let mut hessian = second;
        for i in 0..T {
            for l in 0..LANES {
                gradient[i][l] = (chi[i][l] - self.omega[i][l]) * self.stiffness;
            }
            for j in 0..T {
                for l in 0..LANES {
                    gradient[i][l] += 2.0 * k * slope[i][j][l] * chi[j][l];
                    hessian[i][j][l] = 2.0 * k * (slope[i][j][l] + k * second[i][j][l]);
                }
            }
            for l in 0..LANES {
                hessian[i][i][l] += self.stiffness;
            }
        }
        for l in 0..LANES {
            value[l] += loss[l];
        }
        Local { value, gradient, hessian, loss, centring }
    }

    /// A local minimum downhill from `chi`, which is moved there.
    #[inline(always)]
    fn descend(&self, chi: &mut Vector<T>) -> Local<T> {
        const MAX_STEPS: usize = 60;
        // Relative size of a full Newton step after which the error is below rounding.
        const CLOSE: f64 = 1e-8;
        let mut here = self.local(chi);
        let mut damping = [0.0; LANES];
        // 1 while a sample is on its way, 0 when it has arrived.
        let mut moving = [1.0; LANES];
        for _ in 0..MAX_STEPS {
            let (factor, definite) = cholesky(&here.hessian, &damping);
            let step = solve(&factor, &here.gradient);
            let mut predicted = [0.0; LANES];
            let mut trial = *chi;
            for i in 0..T {
                for l in 0..LANES {
                    let allowed = if moving[l] * definite[l] > 0.0 { step[i][l] } else { 0.0 };
                    trial[i][l] = chi[i][l] - allowed;
                    predicted[l] += 0.5 * here.gradient[i][l] * allowed;
                }
            }
            let there = self.local(&trial);
            let mut accepted = [0.0; LANES];
            let (mut step2, mut size2) = ([0.0; LANES], [0.0; LANES]);
            for i in 0..T {
                for l in 0..LANES {
                    step2[l] += step[i][l] * step[i][l];
                    size2[l] += trial[i][l] * trial[i][l];
                }
            }
            let mut left = 0.0;
            for l in 0..LANES {
                let rounding = 1e-14 * (1.0 + here.value[l]);
                let decrease = here.value[l] - there.value[l];
                // Below rounding, the objective cannot tell an improvement.
                let small = if predicted[l] < rounding { 1.0 } else { 0.0 };
                let enough = if decrease >= 1e-4 * predicted[l] { 1.0 } else { 0.0 };
                let harmless = if decrease >= -rounding { small } else { 0.0 };
                accepted[l] = definite[l] * moving[l] * if enough + harmless > 0.0 { 1.0 } else { 0.0 };
                let undamped = if damping[l] == 0.0 { accepted[l] } else { 0.0 };
                let arrived = if step2[l] <= CLOSE * CLOSE * (size2[l] + 1e-12) { undamped } else { 0.0 };
                // A rejected step below rounding: nothing more to gain.
                let stuck = (1.0 - accepted[l]) * definite[l] * small;
                moving[l] *= (1.0 - arrived) * (1.0 - stuck);
                let raised = (4.0 * damping[l]).max(1e-2 * self.stiffness + 1e-3);
                let lowered = if damping[l] < 4e-6 { 0.0 } else { 0.25 * damping[l] };
                damping[l] = if accepted[l] > 0.0 { lowered } else { raised };
                left += moving[l];
            }
            for l in 0..LANES {
                let accepted = accepted[l] > 0.0;
                here.value[l] = if accepted { there.value[l] } else { here.value[l] };
                here.loss[l] = if accepted { there.loss[l] } else { here.loss[l] };
                here.centring[l] = if accepted { there.centring[l] } else { here.centring[l] };
            }
            for i in 0..T {
                for l in 0..LANES {
                    let accepted = accepted[l] > 0.0;
                    chi[i][l] = if accepted { trial[i][l] } else { chi[i][l] };
                    here.gradient[i][l] = if accepted { there.gradient[i][l] } else { here.gradient[i][l] };
                }
                for j in 0..T {
                    for l in 0..LANES {
                        let accepted = accepted[l] > 0.0;
                        here.hessian[i][j][l] =
                            if accepted { there.hessian[i][j][l] } else { here.hessian[i][j][l] };
                    }
                }
            }
            if left == 0.0 {
                break;
            }
        }
        here
    }
}

/// Lower Cholesky factor of `matrix + damping`, with the inverse of its diagonal in place of the diagonal, and 1 where the
/// matrix is positive definite, else 0.
#[inline(always)]
fn cholesky<const T: usize>(matrix: &Matrix<T>, damping: &Lane) -> (Matrix<T>, Lane) {
    let mut factor = [[[0.0; LANES]; T]; T];
    let mut definite = [1.0; LANES];
    for i in 0..T {
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
fn solve<const T: usize>(factor: &Matrix<T>, b: &Vector<T>) -> Vector<T> {
    let mut x = *b;
    for i in 0..T {
        for k in 0..i {
            for l in 0..LANES {
                x[i][l] -= factor[i][k][l] * x[k][l];
            }
        }
        for l in 0..LANES {
            x[i][l] *= factor[i][i][l];
        }
    }
    for i in (0..T).rev() {
        for k in i + 1..T {
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

/// The best starts seen so far, best first.
struct Shortlist<const T: usize> {
    values: [Lane; POLISHED],
    points: [Vector<T>; POLISHED],
}

impl<const T: usize> Shortlist<T> {
    #[inline(always)]
    fn new() -> Self {
        Self { values: [[f64::INFINITY; LANES]; POLISHED], points: [[[0.0; LANES]; T]; POLISHED] }
    }

    /// Enters a start, reflected to the side of `omega`.
    #[inline(always)]
    fn enter(&mut self, objective: &Objective<'_, T>, start: &Vector<T>) {
        let mut along = [0.0; LANES];
        for i in 0..T {
            for l in 0..LANES {
                along[l] += start[i][l] * objective.omega[i][l];
            }
        }
        let mut point = *start;
        for i in 0..T {
            for l in 0..LANES {
                point[i][l] = if along[l] < 0.0 { -point[i][l] } else { point[i][l] };
            }
        }
        let mut value = objective.value(&point);
        for rank in 0..POLISHED {
            for l in 0..LANES {
                let better = value[l] < self.values[rank][l];
                let (old, new) = (self.values[rank][l], value[l]);
                self.values[rank][l] = if better { new } else { old };
                value[l] = if better { old } else { new };
                for i in 0..T {
                    let (old, new) = (self.points[rank][i][l], point[i][l]);
                    self.points[rank][i][l] = if better { new } else { old };
                    point[i][l] = if better { old } else { new };
                }
            }
        }
    }
}

/// A good approximation to the top eigenvector of `matrix`, times the root of its eigenvalue (at least 0.05): some power
/// iterations from `start`.
#[inline(always)]
fn top_eigenvector<const T: usize>(matrix: &Matrix<T>, start: &Vector<T>) -> Vector<T> {
    const STEPS: usize = 8;
    // The largest sum over a row bounds the spectrum.
    let mut bound = [0.0; LANES];
    for a in 0..T {
        let mut sum = [0.0; LANES];
        for b in 0..T {
            for l in 0..LANES {
                sum[l] += matrix[a][b][l].abs();
            }
        }
        for l in 0..LANES {
            bound[l] = if sum[l] > bound[l] { sum[l] } else { bound[l] };
        }
    }
    let mut vector = *start;
    let mut eigenvalue = [0.0; LANES];
    for _ in 0..STEPS {
        let mut image = [[0.0; LANES]; T];
        let (mut norm2, mut old2, mut along) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        for a in 0..T {
            for b in 0..T {
                for l in 0..LANES {
                    image[a][l] += matrix[a][b][l] * vector[b][l];
                }
            }
            for l in 0..LANES {
                along[l] += image[a][l] * vector[a][l];
                image[a][l] += bound[l] * vector[a][l];
                norm2[l] += image[a][l] * image[a][l];
                old2[l] += vector[a][l] * vector[a][l];
            }
        }
        for l in 0..LANES {
            eigenvalue[l] = along[l] / (old2[l] + f64::MIN_POSITIVE);
            let scale = 1.0 / (norm2[l] + f64::MIN_POSITIVE).sqrt();
            for a in 0..T {
                vector[a][l] = scale * image[a][l];
            }
        }
    }
    for l in 0..LANES {
        let size = (if eigenvalue[l] > 0.05 { eigenvalue[l] } else { 0.05 }).sqrt();
        for a in 0..T {
            vector[a][l] *= size;
        }
    }
    vector
}

/// Enters all starts but the warm one.
#[inline(always)]
fn screen<const T: usize>(list: &mut Shortlist<T>, objective: &Objective<'_, T>, block: &Block<T>) {
    let omega = &objective.omega;
    list.enter(objective, omega);
    list.enter(objective, &block.star);
    list.enter(objective, &omega.map(|lane| lane.map(|x| 0.05 * x)));
    // chi chi^T would be this if the softmax were linear, but for what it adds along u, which is not seen.
    let mut target = [[[0.0; LANES]; T]; T];
    let mut mean = [0.0; LANES];
    for a in 0..T {
        for b in 0..T {
            for l in 0..LANES {
                let own = if a == b { objective.q } else { 0.0 };
                target[a][b][l] = (block.label[a][b][l] - block.frozen[a][b][l]) / objective.coupling + own;
                mean[l] += target[a][b][l] / (T * T) as f64;
            }
        }
    }
    list.enter(objective, &top_eigenvector(&target, omega));
    for row in &mut target {
        for entry in row {
            for l in 0..LANES {
                entry[l] -= mean[l];
            }
        }
    }
    list.enter(objective, &top_eigenvector(&target, omega));
    // Reflections of omega: through the direction of all ones, and of single tokens.
    let mut sum = [0.0; LANES];
    for component in omega {
        for l in 0..LANES {
            sum[l] += component[l];
        }
    }
    let mut reflected = *omega;
    for component in &mut reflected {
        for l in 0..LANES {
            component[l] -= 2.0 / T as f64 * sum[l];
        }
    }
    list.enter(objective, &reflected);
    for token in 0..T {
        let mut flipped = *omega;
        flipped[token] = flipped[token].map(|x| -x);
        list.enter(objective, &flipped);
    }
}

/// Adds the terms of [`Moments`](crate::lora::moments::Moments) for every sample of a block to `sums`, in the order of
/// [`Moments::from_sums`](crate::lora::moments::Moments::from_sums). `warm` is the proximal point of the last evaluation
/// (NaN before the first), then of this one.
#[inline(always)]
pub(super) fn accumulate<const T: usize>(
    coupling: f64,
    point: &Point,
    block: &Block<T>,
    warm: &mut Vector<T>,
    sums: &mut [Lane; COUNT],
) {
    let Point { m, v, .. } = *point;
    let deviation = point.deviation();
    let stiffness = 1.0 / v;
    let mut omega = [[0.0; LANES]; T];
    for i in 0..T {
        for l in 0..LANES {
            omega[i][l] = m * block.star[i][l] + deviation * block.free[i][l];
        }
    }
    let y = std::array::from_fn(|a| softmax_row(&block.label[a]));
    let objective = Objective { frozen: &block.frozen, y, omega, q: point.q(), coupling, stiffness };
    let mut list = Shortlist::new();
    if warm[0][0].is_finite() {
        list.enter(&objective, warm);
    }
    screen(&mut list, &objective, block);

    let mut chi = list.points[0];
    let mut best = objective.descend(&mut chi);
    for start in &list.points[1..] {
        let mut other = *start;
        let found = objective.descend(&mut other);
        replace_if_better(&mut best, &mut chi, &found, &other);
    }
    *warm = chi;

    let (factor, _) = cholesky(&best.hessian, &[0.0; LANES]);
    let (mut trace, mut square) = ([0.0; LANES], [0.0; LANES]);
    for j in 0..T {
        let mut unit = [[0.0; LANES]; T];
        unit[j] = [1.0; LANES];
        let column = solve(&factor, &unit);
        for i in 0..T {
            for l in 0..LANES {
                // (I + v H)^{-1} - I, of which only the trace and the norm are needed.
                let own = if i == j { 1.0 } else { 0.0 };
                let entry = column[i][l] * stiffness - own;
                trace[l] += own * entry;
                square[l] += entry * entry;
            }
        }
    }
    let [mut g_free, mut g_star, mut free_star] = [[0.0; LANES]; 3];
    for i in 0..T {
        for l in 0..LANES {
            let g = (chi[i][l] - objective.omega[i][l]) * stiffness;
            let (star, free) = (block.star[i][l], block.free[i][l]);
            g_free[l] += g * free;
            g_star[l] += g * star;
            free_star[l] += free * star;
            sums[4][l] += g * g;
            sums[8][l] += free * free;
            sums[10][l] += star * star;
        }
    }
    for l in 0..LANES {
        sums[0][l] += trace[l] * stiffness;
        sums[5][l] += best.centring[l];
        sums[6][l] += g_free[l];
        sums[7][l] += g_star[l];
        sums[9][l] += free_star[l];
        sums[11][l] += best.loss[l];
        sums[12][l] += square[l];
        // By parts, so that the jumps are included; at m = 0 only, where omega does not depend on chi*.
        sums[13][l] += g_star[l] * free_star[l] / deviation;
    }
}

/// Keeps, for every sample, the lower of two minima.
#[inline(always)]
fn replace_if_better<const T: usize>(
    best: &mut Local<T>,
    chi: &mut Vector<T>,
    found: &Local<T>,
    other: &Vector<T>,
) {
    for l in 0..LANES {
        // Not for rounding's sake: the same minimum found twice is one.
        let better = found.value[l] < best.value[l] - 1e-12 * (1.0 + best.value[l]);
        best.value[l] = if better { found.value[l] } else { best.value[l] };
        best.loss[l] = if better { found.loss[l] } else { best.loss[l] };
        best.centring[l] = if better { found.centring[l] } else { best.centring[l] };
        for i in 0..T {
            chi[i][l] = if better { other[i][l] } else { chi[i][l] };
            for j in 0..T {
                best.hessian[i][j][l] = if better { found.hessian[i][j][l] } else { best.hessian[i][j][l] };
            }
        }
    }
}
