//! The search for the global minimum of the softmax loss on a rank-one perturbation of the logits.
//!
//! Since the loss is even in `chi`, the global minimum has `chi.omega >= 0`, and every start is reflected to that
//! side. The first minimum is found downhill from the proximal point of the last evaluation, or from `omega`. Because
//! the loss is not negative, a point at which the objective is below the height `F` of this minimum lies within the
//! distance `sqrt(2 v F)` of `omega`: starts outside that ball are moved to its surface.
//!
//! Where the theory is valid, few samples have a second minimum. A sample is searched only if the objective bends on
//! the line from the first minimum to one of the starts. On a quadratic function, the slope at the start along that
//! line is twice the rise per length, whatever the start. A slope that is much smaller or larger tells of a barrier, or
//! of low ground before a wall. All starts of such a sample are then tried. Those of a group of blocks are packed into
//! blocks of their own, and polished by a damped Newton method.
//!
//! The two lowest minima that a search has found are followed from evaluation to evaluation, until all starts are tried again.

use super::vector_prox::VectorProx;
use crate::descent::{LaneMatrix, LaneVector, Local, descend};
use crate::lanes::{LANES, Lane};

/// Distance from a minimum, relative to its norm, within which a start is taken to lead to it.
const NEAR: f64 = 0.1;
/// Slopes at a start, in units of the rise to it over its distance, between which the objective is taken to be
/// convex on the way to the start. On a quadratic function the slope is 2. In a survey of settings from good to
/// unreliable, a search between these limits missed one sample in some 10^4 whose lower minimum a search of all samples finds (see the test).
const STRAIGHT: [f64; 2] = [1.5, 3.0];
/// Largest number of starts.
const STARTS: usize = 14;

/// What a block of samples remembers from one evaluation to the next.
#[derive(Debug, Clone)]
pub(crate) struct FollowedPoints<const T: usize> {
    /// The last proximal points.
    chi: LaneVector<T>,
    /// The next higher minima of contested samples, if there are any in the block.
    second: Option<Box<LaneVector<T>>>,
    /// The samples whose starts have not been tried, or not since the point moved far.
    doubtful: [bool; LANES],
    /// The samples in which the last evaluation knew different minima.
    contested: [bool; LANES],
}

impl<const T: usize> FollowedPoints<T> {
    /// The state before the first evaluation.
    pub(crate) const NOTHING: Self = Self {
        chi: [[f64::NAN; LANES]; T],
        second: None,
        doubtful: [true; LANES],
        contested: [false; LANES],
    };

    /// Lets the next search everywhere try the starts of all samples.
    pub(crate) fn doubt(&mut self) {
        self.doubtful = [true; LANES];
    }

    /// The number of samples with several minima.
    pub(crate) fn contested(&self) -> usize {
        self.contested.iter().filter(|contested| **contested).count()
    }
}

/// Which starts are tried for samples in doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TriedStarts {
    /// None.
    Known,
    /// Those to which the objective bends on the way. They lead to most second minima, in half the time.
    Bent,
    /// All, if there is one to which the objective bends.
    All,
}

/// Hints at the global minimum.
pub(crate) struct Hints<'a, const T: usize> {
    /// Recalibrated frozen logits.
    pub(crate) frozen: &'a LaneMatrix<T>,
    /// The label's logits, including the perturbation.
    pub(crate) label: &'a LaneMatrix<T>,
    /// `chi*`.
    pub(crate) star: &'a LaneVector<T>,
    /// `q`, which centres the perturbation.
    pub(crate) q: f64,
}

/// The proximal points of a block.
#[derive(Clone, Copy)]
pub(crate) struct VectorMinimum<'a, const T: usize> {
    pub(crate) prox: &'a VectorProx<'a, T>,
    pub(crate) chi: &'a LaneVector<T>,
    /// The objective there, whose extra values are the loss and `dl'/dq`.
    pub(crate) local: &'a Local<T, 2>,
}

/// A block with candidates, and the lowest minima so far.
struct Searched<const T: usize> {
    block: usize,
    chi: LaneVector<T>,
    local: Local<T, 2>,
    /// The next higher minima, and their heights, which are infinite where there are none.
    second: LaneVector<T>,
    second_height: Lane,
}

/// A start that may lead one sample to a lower minimum.
struct Candidate<const T: usize> {
    /// The place of its block among those that are searched.
    searched: usize,
    lane: usize,
    start: [f64; T],
}

/// Passes each block and its proximal points to `use_minimum`. The search begins at the points `known` of the last evaluation, which it
/// replaces, and follows both minima of contested samples. `starts` are tried for the samples that are in doubt.
/// Blocks with a sample to search come after all others.
#[inline(always)]
pub(crate) fn minima<'a, const T: usize, B>(
    blocks: &'a [B],
    known: &mut [FollowedPoints<T>],
    starts: TriedStarts,
    problem: impl Fn(&'a B) -> VectorProx<'a, T>,
    hints: impl Fn(&'a B) -> Hints<'a, T>,
    mut use_minimum: impl FnMut(&'a B, &VectorMinimum<'_, T>),
) {
    let mut searched: Vec<Searched<T>> = Vec::new();
    let mut candidates = Vec::new();
    let (mut number, mut packs, mut used) = (0, 0, 0);
    let nowhere = [[f64::NAN; LANES]; T];
    // All descents are in one place, because their code is long: those of the blocks, and then those of the packed
    // candidates. All minima are used in one place for the same reason.
    loop {
        let (pack, prox, mut chi, local);
        let (block, minimum) = if number < blocks.len() || packs < candidates.len() {
            let first = number < blocks.len();
            let near;
            (prox, chi, near) = if first {
                let prox = problem(&blocks[number]);
                let last = known[number].chi;
                (prox, if last[0][0].is_finite() { last } else { prox.omega }, nowhere)
            } else {
                let lanes = &candidates[packs..candidates.len().min(packs + LANES)];
                pack = Pack::new(lanes, &searched, |block| problem(&blocks[block]));
                (pack.problem(problem(&blocks[0])), pack.start, pack.near)
            };
            local = descend(&prox, &mut chi, &near);
            if !first {
                for (l, candidate) in candidates[packs..].iter().take(LANES).enumerate() {
                    searched[candidate.searched].challenge(candidate.lane, &chi, &local, l);
                }
                packs += LANES;
                continue;
            }
            let minimum = VectorMinimum { prox: &prox, chi: &chi, local: &local };
            let FollowedPoints { second, doubtful, contested, .. } = &mut known[number];
            let before = candidates.len();
            let tried = doubtful.map(|doubtful| doubtful && starts != TriedStarts::Known);
            if tried.contains(&true) {
                let all = starts == TriedStarts::All;
                screen(&minimum, &hints(&blocks[number]), searched.len(), &tried, all, &mut candidates);
                for l in 0..LANES {
                    doubtful[l] &= !tried[l];
                }
            }
            if let Some(second) = second.take() {
                for l in 0..LANES {
                    if contested[l] && !tried[l] {
                        let start = second.map(|x| x[l]);
                        candidates.push(Candidate { searched: searched.len(), lane: l, start });
                    }
                }
                *contested = [false; LANES];
            }
            number += 1;
            if candidates.len() > before {
                let (second, second_height) = (nowhere, [f64::INFINITY; LANES]);
                searched.push(Searched { block: number - 1, chi, local, second, second_height });
                continue;
            }
            (number - 1, minimum)
        } else if let Some(Searched { block, chi, local, second, second_height }) = searched.get(used) {
            used += 1;
            let contested = second_height.map(|height| height < f64::INFINITY);
            known[*block].contested = contested;
            known[*block].second = contested.contains(&true).then(|| Box::new(*second));
            prox = problem(&blocks[*block]);
            (*block, VectorMinimum { prox: &prox, chi, local })
        } else {
            break;
        };
        known[block].chi = *minimum.chi;
        use_minimum(&blocks[block], &minimum);
    }
}

/// The problems of some candidates as one block. Lanes without a candidate repeat the first one.
struct Pack<const T: usize> {
    frozen: LaneMatrix<T>,
    y: LaneMatrix<T>,
    omega: LaneVector<T>,
    start: LaneVector<T>,
    /// The first minima of the same samples.
    near: LaneVector<T>,
}

impl<const T: usize> Pack<T> {
    /// `problem` gives the problem of a block.
    #[inline(always)]
    fn new<'a>(
        candidates: &[Candidate<T>],
        searched: &[Searched<T>],
        problem: impl Fn(usize) -> VectorProx<'a, T>,
    ) -> Self {
        let (vector, matrix) = ([[0.0; LANES]; T], [[[0.0; LANES]; T]; T]);
        let mut pack = Self { frozen: matrix, y: matrix, omega: vector, start: vector, near: vector };
        for l in 0..LANES {
            let Candidate { searched: place, lane, start } = candidates.get(l).unwrap_or(&candidates[0]);
            let Searched { block, chi, .. } = &searched[*place];
            let VectorProx { frozen, y, omega, .. } = problem(*block);
            for a in 0..T {
                pack.start[a][l] = start[a];
                pack.near[a][l] = chi[a][*lane];
                pack.omega[a][l] = omega[a][*lane];
                for b in 0..T {
                    pack.frozen[a][b][l] = frozen[a][b][*lane];
                    pack.y[a][b][l] = y[a][b][*lane];
                }
            }
        }
        pack
    }

    /// The problems, of which all numbers but those of a sample are as in another one.
    #[inline(always)]
    fn problem<'a>(&'a self, other: VectorProx<'a, T>) -> VectorProx<'a, T> {
        VectorProx { frozen: &self.frozen, y: &self.y, omega: self.omega, ..other }
    }
}

impl<const T: usize> Searched<T> {
    /// Compares the minimum of sample `lane` with another one, that of sample `other` at `chi`. The lower one takes its place, and the
    /// higher one, if they differ, that of the second one, unless that is lower still. The bound is wider than the distance from a known
    /// minimum at which a descent stops.
    #[inline(always)]
    fn challenge(&mut self, lane: usize, chi: &LaneVector<T>, found: &Local<T, 2>, other: usize) {
        let (mut apart2, mut size2) = (0.0, 0.0);
        for i in 0..T {
            let d = self.chi[i][lane] - chi[i][other];
            apart2 += d * d;
            size2 += self.chi[i][lane] * self.chi[i][lane];
        }
        let differ = apart2 > 1e-3 * (size2 + 1e-2);
        let (known, new) = (self.local.value[lane], found.value[other]);
        // A minimum that is found twice counts once, although rounding makes the two values differ.
        let lower = new < known - 1e-12 * (1.0 + known);
        let height = if lower { known } else { new };
        let second = differ && height < self.second_height[lane];
        if second {
            self.second_height[lane] = height;
        }
        for i in 0..T {
            if second {
                self.second[i][lane] = if lower { self.chi[i][lane] } else { chi[i][other] };
            }
            if lower {
                self.chi[i][lane] = chi[i][other];
            }
        }
        if lower {
            self.local.copy_sample(lane, found, other);
        }
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
    let scale = bound.map(|bound| 1.0 / (bound + f64::MIN_POSITIVE));
    let mut vector = *start;
    let (mut norm2, mut along) = ([0.0; LANES], [0.0; LANES]);
    for _ in 0..STEPS {
        let mut image = [[0.0; LANES]; T];
        for a in 0..T {
            for b in 0..T {
                for l in 0..LANES {
                    image[a][l] += matrix[a][b][l] * vector[b][l];
                }
            }
        }
        for a in 0..T {
            for l in 0..LANES {
                // The eigenvalues of I + M/bound are between 0 and 2, so that nothing overflows.
                vector[a][l] += scale[l] * image[a][l];
            }
        }
    }
    for a in 0..T {
        let mut image = [0.0; LANES];
        for b in 0..T {
            for l in 0..LANES {
                image[l] += matrix[a][b][l] * vector[b][l];
            }
        }
        for l in 0..LANES {
            along[l] += image[l] * vector[a][l];
            norm2[l] += vector[a][l] * vector[a][l];
        }
    }
    let mut size = [0.0; LANES];
    for l in 0..LANES {
        let inverse = 1.0 / (norm2[l] + f64::MIN_POSITIVE);
        let eigenvalue = along[l] * inverse;
        size[l] = ((if eigenvalue > 0.05 { eigenvalue } else { 0.05 }) * inverse).sqrt();
    }
    for component in &mut vector {
        for l in 0..LANES {
            component[l] *= size[l];
        }
    }
    vector
}

/// A start of a block, reflected to the side of `omega` and moved into the ball of possible minima.
#[derive(Clone, Copy)]
struct JudgedStart<const T: usize> {
    point: LaneVector<T>,
    /// 1 for samples in which the start leads to the first minimum, else 0.
    near: Lane,
    /// 1 for samples in which the objective bends on the way to the start, else 0.
    bent: Lane,
}

impl<const T: usize> JudgedStart<T> {
    const NOWHERE: Self = Self { point: [[0.0; LANES]; T], near: [1.0; LANES], bent: [0.0; LANES] };
}

/// Enters the starts of each sample that is to be `tried` into the list of candidates, `all` if the objective bends on the way to one of them,
/// or else those only to which it does. The starts are `omega`, `chi*`, a point close to zero, two points that a linear softmax suggests, and reflections of
/// `omega`. Each kind of start is computed in one place, and all are judged in one place, since everything here is
/// compiled for every number of tokens.
#[inline(always)]
fn screen<const T: usize>(
    minimum: &VectorMinimum<'_, T>,
    hints: &Hints<'_, T>,
    searched: usize,
    tried: &[bool; LANES],
    all: bool,
    candidates: &mut Vec<Candidate<T>>,
) {
    // The number covers all starts up to the reflections through single tokens.
    const OTHERS: usize = 6;
    let prox = minimum.prox;
    let omega = &prox.omega;
    // If the softmax were linear, chi chi^T would equal this matrix up to its part along u, which is not
    // seen.
    let mut target = [[[0.0; LANES]; T]; T];
    let mut mean = [0.0; LANES];
    for a in 0..T {
        for b in 0..T {
            for l in 0..LANES {
                let own = if a == b { hints.q } else { 0.0 };
                target[a][b][l] = (hints.label[a][b][l] - hints.frozen[a][b][l]) / prox.coupling + own;
                mean[l] += target[a][b][l] / (T * T) as f64;
            }
        }
    }
    let mut bent = [0.0; LANES];
    let mut starts = [JudgedStart::NOWHERE; STARTS];
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
        starts[number] = minimum.judge(&start);
        for l in 0..LANES {
            bent[l] += starts[number].bent[l];
        }
    }
    for l in 0..LANES {
        // The samples are gone through one by one only where there is one to search.
        if tried[l] && bent[l] > 0.0 {
            let starts = starts.iter().filter(|start| start.near[l] == 0.0 && (all || start.bent[l] > 0.0));
            candidates.extend(starts.map(|start| Candidate {
                searched,
                lane: l,
                start: start.point.map(|x| x[l]),
            }));
        }
    }
}

impl<const T: usize> VectorMinimum<'_, T> {
    /// A start, as [`screen`] wants it.
    #[inline(always)]
    fn judge(&self, start: &LaneVector<T>) -> JudgedStart<T> {
        let Self { prox, chi, local } = self;
        let mut side = [0.0; LANES];
        for i in 0..T {
            for l in 0..LANES {
                side[l] += start[i][l] * prox.omega[i][l];
            }
        }
        let mut point = *start;
        for i in 0..T {
            for l in 0..LANES {
                point[i][l] = if side[l] < 0.0 { -point[i][l] } else { point[i][l] };
            }
        }
        let pull = prox.distance(&point);
        let (mut apart2, mut size2, mut direction) = ([0.0; LANES], [0.0; LANES], **chi);
        let mut inside = [0.0; LANES];
        for l in 0..LANES {
            let share = (local.value[l] / (pull[l] + f64::MIN_POSITIVE)).sqrt();
            inside[l] = if share < 1.0 { share } else { 1.0 };
        }
        for i in 0..T {
            for l in 0..LANES {
                point[i][l] = prox.omega[i][l] + inside[l] * (point[i][l] - prox.omega[i][l]);
                direction[i][l] = point[i][l] - chi[i][l];
                apart2[l] += direction[i][l] * direction[i][l];
                size2[l] += chi[i][l] * chi[i][l];
            }
        }
        let [value, slope] = prox.along(&point, &direction);
        let (mut near, mut bent) = ([0.0; LANES], [0.0; LANES]);
        for l in 0..LANES {
            let rise = value[l] - local.value[l];
            let too_flat = if slope[l] < STRAIGHT[0] * rise || rise <= 0.0 { 1.0 } else { 0.0 };
            let too_steep = if slope[l] > STRAIGHT[1] * rise { 1.0 } else { 0.0 };
            near[l] = if apart2[l] <= NEAR * NEAR * (size2[l] + 1e-2) { 1.0 } else { 0.0 };
            bent[l] = (1.0 - near[l]) * (too_flat + too_steep);
        }
        JudgedStart { point, near, bent }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::{centred_from_coordinates, softmax_row};
    use crate::quadrature::ScrambledSobol;

    struct Block<const T: usize> {
        frozen: LaneMatrix<T>,
        label: LaneMatrix<T>,
        y: LaneMatrix<T>,
        star: LaneVector<T>,
        free: LaneVector<T>,
    }

    struct Point {
        m: f64,
        s2: f64,
        v: f64,
    }

    impl Point {
        fn q(&self) -> f64 {
            self.m * self.m + self.s2
        }
    }

    /// Samples of the law with (Q0, Q, M, Delta) = (2, 1.2, 1.1, .5).
    fn blocks<const T: usize>(log2_nodes: u32) -> Vec<Block<T>> {
        let seen = T * (T + 1) / 2 - 1;
        let points = ScrambledSobol::new(2 * T + 2 * seen, log2_nodes, 7, 0).unwrap();
        let columns: Vec<_> = (0..points.dimensions()).map(|d| points.normals(d).unwrap()).collect();
        (0..(1 << log2_nodes) / LANES)
            .map(|block| {
                let zero = [[[0.0; LANES]; T]; T];
                let vector = [[0.0; LANES]; T];
                let mut result = Block { frozen: zero, label: zero, y: zero, star: vector, free: vector };
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
                result.y = std::array::from_fn(|a| softmax_row(&result.label[a]));
                result
            })
            .collect()
    }

    fn problem<'a, const T: usize>(block: &'a Block<T>, point: &Point) -> VectorProx<'a, T> {
        let omega = std::array::from_fn(|i| {
            std::array::from_fn(|l| point.m * block.star[i][l] + point.s2.sqrt() * block.free[i][l])
        });
        let Block { frozen, y, .. } = block;
        let stiffness = 1.0 / point.v;
        VectorProx { frozen, centring: point.q(), y, omega, coupling: 1.0, stiffness, close: 1e-8 }
    }

    /// The heights of the global minima by [`minima`], and by polishing every start and many more.
    fn heights<const T: usize>(point: &Point, log2_nodes: u32) -> Vec<[f64; 2]> {
        let blocks = blocks::<T>(log2_nodes);
        let more = ScrambledSobol::new(T, 6, 3, 0).unwrap();
        let more: Vec<_> = (0..T).map(|d| more.normals(d).unwrap()).collect();
        let none = [[f64::NAN; LANES]; T];
        let mut heights = Vec::new();
        for blocks in blocks.chunks(16) {
            let mut known = vec![FollowedPoints::NOTHING; blocks.len()];
            let mut found = Vec::new();
            minima(
                blocks,
                &mut known,
                TriedStarts::All,
                |block| problem(block, point),
                |block| Hints { frozen: &block.frozen, label: &block.label, star: &block.star, q: point.q() },
                |block, minimum| found.push((problem(block, point), *minimum.local)),
            );
            for (prox, local) in &found {
                let largest = local.gradient.iter().flatten().fold(0.0, |m: f64, g| m.max(g.abs()));
                assert!(largest < 1e-9 * prox.stiffness.max(1.0), "gradient {largest:e}");
                let mut lowest = local.value;
                for k in 0..64 {
                    let mut chi: LaneVector<T> = std::array::from_fn(|i| [1.5 * more[i][k]; LANES]);
                    let other = descend(prox, &mut chi, &none);
                    for l in 0..LANES {
                        lowest[l] = lowest[l].min(other.value[l]);
                    }
                }
                heights.extend((0..LANES).map(|l| [local.value[l], lowest[l]]));
            }
        }
        heights
    }

    fn missed<const T: usize>(point: Point, log2_nodes: u32) -> usize {
        let heights = heights::<T>(&point, log2_nodes);
        heights.iter().filter(|[found, lowest]| *found > lowest + 1e-9).count()
    }

    /// The order parameters are those of solutions with a good, a marginal and an unreliable verdict.
    #[test]
    fn global_minima_against_many_random_starts() {
        for [m, s2, v] in [[0.72, 0.127, 0.346], [0.94, 0.274, 0.456]] {
            assert_eq!(missed::<2>(Point { m, s2, v }, 12), 0);
        }
        for [m, s2, v] in [[0.782, 0.0665, 0.232], [0.874, 0.25, 0.649]] {
            assert_eq!(missed::<3>(Point { m, s2, v }, 12), 0);
        }
        // Where the verdict is unreliable, one sample in ten has several minima.
        let missed = missed::<2>(Point { m: 0.0, s2: 1.93, v: 1.695 }, 12);
        assert!(missed <= 12, "{missed} of 4096");
    }
}
