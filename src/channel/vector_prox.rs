//! The proximal operator of the softmax loss on a rank-one perturbation of the logits, for a block of
//! samples.
//!
//! In units with `q0 = 1`, and with `k = b q0` the coupling (`b` the inverse temperature), the logits of a
//! sample are `A = z + k (chi chi^T - q I)` and the objective is
//!
//! ```text
//! F(chi) = |sigma(A) - sigma(B)|_F^2 + |chi - omega|^2/(2v)
//! ```
//!
//! The objective is not convex. Since the loss is even in `chi`, the global minimum has `chi.omega >= 0`, and
//! every start is reflected to that side.
//!
//! The first minimum is found downhill from the proximal point of the last evaluation, or from `omega`. Because
//! the loss is not negative, a point at which the objective is below the height `F` of this minimum lies
//! within the distance `sqrt(2 v F)` of `omega`. Starts far outside that ball are
//! therefore left out. By experience, starts close to the first minimum can be left out, too, and those to which
//! the objective rises as fast as its curvature at the first minimum predicts. The others are ordered by their objective, and the best are polished by
//! a damped Newton (Levenberg-Marquardt) method. Where the theory is valid, few samples have any.

use super::softmax::{SoftmaxRow, softmax_row};
use crate::descent::{Descent, LaneMatrix, LaneVector, Local, descend};
use crate::lanes::{LANES, Lane};

/// Largest number of starts that are polished after the first one.
const POLISHED: usize = 5;
/// Distance from a minimum, relative to its norm, within which a start is taken to lead to it.
const NEAR: f64 = 0.1;
/// Distance from `omega`, in units of the radius of the ball of possible minima, beyond which a start is
/// useless.
const FAR: f64 = 2.0;
/// Share of the rise that the curvature at the first minimum predicts for a start, above which the
/// objective is taken to have no other minimum on that side.
const CONVEX: f64 = 1.0;

/// What a block of samples remembers from one evaluation to the next.
#[derive(Debug, Clone)]
pub(crate) struct FollowedPoints<const T: usize> {
    /// The last proximal points.
    chi: LaneVector<T>,
    /// Whether starts led to different minima.
    contested: bool,
}

impl<const T: usize> FollowedPoints<T> {
    /// The state before the first evaluation.
    pub(crate) const NOTHING: Self = Self { chi: [[f64::NAN; LANES]; T], contested: true };

    /// Lets the next search try all starts.
    pub(crate) fn doubt(&mut self) {
        self.contested = true;
    }
}

/// One proximal problem per sample.
pub(crate) struct VectorProx<'a, const T: usize> {
    /// Recalibrated frozen logits `z`.
    pub(crate) frozen: &'a LaneMatrix<T>,
    /// `sigma` of the label's logits.
    pub(crate) y: LaneMatrix<T>,
    /// The field `omega`.
    pub(crate) omega: LaneVector<T>,
    /// `|w|^2/D`, which centres the perturbation.
    pub(crate) q: f64,
    /// Factor on `chi chi^T - q I`.
    pub(crate) coupling: f64,
    /// `1/v`.
    pub(crate) stiffness: f64,
}

/// Hints at the global minimum.
pub(crate) struct Hints<'a, const T: usize> {
    /// The label's logits, including the perturbation.
    pub(crate) label: &'a LaneMatrix<T>,
    /// `chi*`.
    pub(crate) star: &'a LaneVector<T>,
}

impl<const T: usize> VectorProx<'_, T> {
    #[inline(always)]
    fn logits(&self, chi: &LaneVector<T>, a: usize) -> [Lane; T] {
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
    fn distance(&self, chi: &LaneVector<T>) -> Lane {
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
    fn value(&self, chi: &LaneVector<T>) -> Lane {
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
}

impl<const T: usize> Descent<T, 2> for VectorProx<'_, T> {
    fn stiffness(&self) -> f64 {
        self.stiffness
    }

    /// The objective and its derivatives at `chi`. The extra values are the loss and `dl'/dq`.
    #[inline(always)]
    fn local(&self, chi: &LaneVector<T>) -> Local<T, 2> {
        let k = self.coupling;
        let mut loss = [0.0; LANES];
        let mut centring = [0.0; LANES];
        // `slope` is G/2 plus its transpose, and `second` is the second-order part of the Hessian over 2 k^2.
        let mut slope = [[[0.0; LANES]; T]; T];
        let mut second = [[[0.0; LANES]; T]; T];
        for a in 0..T {
            let row = SoftmaxRow::new(&self.logits(chi, a), &self.y[a]);
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
        Local { value, gradient, hessian, extra: [loss, centring] }
    }
}

/// The best starts seen so far, best first.
struct Shortlist<const T: usize> {
    values: [Lane; POLISHED],
    points: [LaneVector<T>; POLISHED],
}

impl<const T: usize> Shortlist<T> {
    #[inline(always)]
    fn new() -> Self {
        Self { values: [[f64::INFINITY; LANES]; POLISHED], points: [[[0.0; LANES]; T]; POLISHED] }
    }

    /// Enters a start, reflected to the side of `omega`, if it may lead below the first minimum, and if it is
    /// among the best.
    #[inline(always)]
    fn enter(&mut self, objective: &VectorProx<'_, T>, start: &LaneVector<T>, first: &FirstMinimum<'_, T>) {
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
        let useless = first.excludes(objective, &point);
        if useless.iter().all(|x| *x > 0.0) {
            return;
        }
        let mut value = objective.value(&point);
        let rise = first.predicted_rise(&point);
        for l in 0..LANES {
            let convex = value[l] - first.local.value[l] > CONVEX * rise[l];
            value[l] = if convex || useless[l] > 0.0 { f64::INFINITY } else { value[l] };
        }
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

/// The first minimum of every sample that was found.
struct FirstMinimum<'a, const T: usize> {
    chi: &'a LaneVector<T>,
    local: &'a Local<T, 2>,
}

impl<const T: usize> FirstMinimum<'_, T> {
    /// 1 for samples in which a start cannot lead to a lower minimum, else 0.
    #[inline(always)]
    fn excludes(&self, objective: &VectorProx<'_, T>, start: &LaneVector<T>) -> Lane {
        let pull = objective.distance(start);
        let (mut apart2, mut size2, mut useless) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        for i in 0..T {
            for l in 0..LANES {
                let d = start[i][l] - self.chi[i][l];
                apart2[l] += d * d;
                size2[l] += self.chi[i][l] * self.chi[i][l];
            }
        }
        for l in 0..LANES {
            let near = apart2[l] <= NEAR * NEAR * (size2[l] + 1e-2);
            let far = pull[l] > FAR * FAR * self.local.value[l];
            useless[l] = if near || far { 1.0 } else { 0.0 };
        }
        useless
    }

    /// The rise of the objective from the minimum to a start, in the quadratic approximation.
    #[inline(always)]
    fn predicted_rise(&self, start: &LaneVector<T>) -> Lane {
        let mut rise = [0.0; LANES];
        for i in 0..T {
            for j in 0..T {
                for l in 0..LANES {
                    let d2 = (start[i][l] - self.chi[i][l]) * (start[j][l] - self.chi[j][l]);
                    rise[l] += 0.5 * self.local.hessian[i][j][l] * d2;
                }
            }
        }
        rise
    }
}

/// A good approximation to the top eigenvector of `matrix`, times the root of its eigenvalue (at least 0.05).
/// It comes from some power iterations from `start`.
#[inline(always)]
fn top_eigenvector<const T: usize>(matrix: &LaneMatrix<T>, start: &LaneVector<T>) -> LaneVector<T> {
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

/// The starts: `omega`, `chi*`, a point close to zero, two points that a linear softmax suggests, and
/// reflections of `omega`. Each kind of start is computed in one place, and all are entered in one place,
/// since everything here is compiled for every number of tokens.
#[inline(always)]
fn screen<const T: usize>(
    objective: &VectorProx<'_, T>,
    hints: &Hints<'_, T>,
    first: &FirstMinimum<'_, T>,
) -> Shortlist<T> {
    // The number covers all starts up to the reflections through single tokens.
    const OTHERS: usize = 6;
    let omega = &objective.omega;
    // If the softmax were linear, chi chi^T would equal this matrix up to its part along u, which is not
    // seen.
    let mut target = [[[0.0; LANES]; T]; T];
    let mut mean = [0.0; LANES];
    for a in 0..T {
        for b in 0..T {
            for l in 0..LANES {
                let own = if a == b { objective.q } else { 0.0 };
                target[a][b][l] =
                    (hints.label[a][b][l] - objective.frozen[a][b][l]) / objective.coupling + own;
                mean[l] += target[a][b][l] / (T * T) as f64;
            }
        }
    }
    let mut list = Shortlist::new();
    for number in 0..OTHERS + T {
        let start = match number {
            0 => *omega,
            1 => *hints.star,
            2 => omega.map(|lane| lane.map(|x| 0.05 * x)),
            3 | 4 => {
                if number == 4 {
                    for entry in target.iter_mut().flatten() {
                        for l in 0..LANES {
                            entry[l] -= mean[l];
                        }
                    }
                }
                top_eigenvector(&target, omega)
            }
            // This is the reflection through the direction of all ones.
            5 => {
                let mut sum = [0.0; LANES];
                for component in omega {
                    for l in 0..LANES {
                        sum[l] += component[l];
                    }
                }
                omega.map(|component| std::array::from_fn(|l| component[l] - 2.0 / T as f64 * sum[l]))
            }
            _ => {
                let mut flipped = *omega;
                let token = number - OTHERS;
                flipped[token] = flipped[token].map(|x| -x);
                flipped
            }
        };
        list.enter(objective, &start, first);
    }
    list
}

impl<const T: usize> VectorProx<'_, T> {
    /// The proximal points, and the objective there, whose extra values are the loss and `dl'/dq`. The search
    /// begins at the points `known` of the last evaluation, which it replaces. Other starts are tried if
    /// starts led to different minima before, or if there are no last points.
    #[inline(always)]
    pub(crate) fn minimum(
        &self,
        hints: &Hints<'_, T>,
        known: &mut FollowedPoints<T>,
    ) -> (LaneVector<T>, Local<T, 2>) {
        // Until the first descent has ended, no minimum is known.
        let (mut chi, mut best) = ([[f64::NAN; LANES]; T], Local::ZERO);
        let mut list = Shortlist::new();
        let mut start = if known.chi[0][0].is_finite() { known.chi } else { self.omega };
        let everywhere = known.contested;
        known.contested = false;
        // All descents are in one place, because their code is long.
        for number in 0..=POLISHED {
            if number == 1 {
                if !everywhere {
                    break;
                }
                list = screen(self, hints, &FirstMinimum { chi: &chi, local: &best });
            }
            if let Some(rank) = number.checked_sub(1) {
                let values = &list.values[rank];
                if !values.iter().any(|value| value.is_finite()) {
                    break;
                }
                for i in 0..T {
                    for l in 0..LANES {
                        let tried = values[l].is_finite();
                        start[i][l] = if tried { list.points[rank][i][l] } else { chi[i][l] };
                    }
                }
            }
            let mut other = start;
            let found = descend(self, &mut other, &chi);
            if number == 0 {
                (chi, best) = (other, found);
            } else {
                known.contested |= differ(&chi, &other);
                best.keep_lower(&mut chi, &found, &other);
            }
        }
        known.chi = chi;
        (chi, best)
    }
}

/// Whether two minima differ in any sample. The bound is wider than the distance from a known minimum at
/// which a descent stops.
#[inline(always)]
fn differ<const T: usize>(x: &LaneVector<T>, y: &LaneVector<T>) -> bool {
    let (mut apart2, mut size2) = ([0.0; LANES], [0.0; LANES]);
    for i in 0..T {
        for l in 0..LANES {
            apart2[l] += (x[i][l] - y[i][l]) * (x[i][l] - y[i][l]);
            size2[l] += x[i][l] * x[i][l];
        }
    }
    (0..LANES).any(|l| apart2[l] > 1e-3 * (size2[l] + 1e-2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::centred_from_coordinates;
    use crate::quadrature::ScrambledSobol;

    struct Block<const T: usize> {
        frozen: LaneMatrix<T>,
        label: LaneMatrix<T>,
        star: LaneVector<T>,
        free: LaneVector<T>,
    }

    struct Point {
        m: f64,
        s2: f64,
        v: f64,
    }

    /// Samples of the law with (Q0, Q, M, Delta) = (2, 1.2, 1.1, .5), and the objective at (m, s2, v).
    fn blocks<const T: usize>(count: usize) -> Vec<Block<T>> {
        let seen = T * (T + 1) / 2 - 1;
        let points = ScrambledSobol::new(2 * T + 2 * seen, 12, 7, 0).unwrap();
        let columns: Vec<_> = (0..points.dimensions()).map(|d| points.normals(d).unwrap()).collect();
        (0..count)
            .map(|block| {
                let zero = [[[0.0; LANES]; T]; T];
                let mut result =
                    Block { frozen: zero, label: zero, star: [[0.0; LANES]; T], free: [[0.0; LANES]; T] };
                for l in 0..LANES {
                    let node = block * LANES + l;
                    let x = |d: usize| columns[d][node];
                    let frozen = centred_from_coordinates::<T>(|k| 2.4_f64.sqrt() * x(2 * T + k));
                    let rest = centred_from_coordinates::<T>(|k| 2.4833_f64.sqrt() * x(2 * T + seen + k));
                    for a in 0..T {
                        result.star[a][l] = x(a);
                        result.free[a][l] = x(T + a);
                        for b in 0..T {
                            let own = if a == b { 1.0 } else { 0.0 };
                            result.frozen[a][b][l] = frozen[a][b];
                            result.label[a][b][l] = 1.1 / 1.2 * frozen[a][b] + rest[a][b] + x(a) * x(b) - own;
                        }
                    }
                }
                result
            })
            .collect()
    }

    fn problem<'a, const T: usize>(block: &'a Block<T>, point: &Point) -> VectorProx<'a, T> {
        let omega = std::array::from_fn(|i| {
            std::array::from_fn(|l| point.m * block.star[i][l] + point.s2.sqrt() * block.free[i][l])
        });
        let y = std::array::from_fn(|a| softmax_row(&block.label[a]));
        VectorProx {
            frozen: &block.frozen,
            y,
            omega,
            q: point.m * point.m + point.s2,
            coupling: 1.0,
            stiffness: 1.0 / point.v,
        }
    }

    const POINTS: [Point; 3] = [
        Point { m: 0.72, s2: 0.13, v: 0.35 },
        Point { m: 0.8, s2: 0.9, v: 1.5 },
        Point { m: 0.0, s2: 0.5, v: 0.8 },
    ];

    /// Number of samples for which some other start leads to a lower minimum.
    fn missed<const T: usize>(starts: impl Fn(usize, usize) -> f64, tries: usize) -> usize {
        let mut missed = 0;
        for point in &POINTS {
            for block in &blocks::<T>(64) {
                let prox = problem(block, point);
                let hints = Hints { label: &block.label, star: &block.star };
                let (_, best) = prox.minimum(&hints, &mut FollowedPoints::NOTHING.clone());
                let mut lowest = best.value;
                for attempt in 0..tries {
                    let mut chi = std::array::from_fn(|i| [starts(attempt, i); LANES]);
                    let found = descend(&prox, &mut chi, &[[f64::NAN; LANES]; T]);
                    for l in 0..LANES {
                        lowest[l] = lowest[l].min(found.value[l]);
                    }
                }
                missed += (0..LANES).filter(|&l| best.value[l] > lowest[l] + 1e-9).count();
                let largest = best.gradient.iter().flatten().fold(0.0, |m: f64, g| m.max(g.abs()));
                assert!(largest < 1e-9 * prox.stiffness.max(1.0), "gradient {largest:e}");
            }
        }
        missed
    }

    #[test]
    fn global_minimum_against_a_grid_of_starts() {
        let missed = missed::<2>(|k, i| -4.0 + 8.0 / 20.0 * if i == 0 { k / 21 } else { k % 21 } as f64, 441);
        assert_eq!(missed, 0, "of {}", 3 * 512);
    }
}
