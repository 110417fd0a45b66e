//! The third cumulants, as shifts of the logits by functions of the logits that the losses depend on.
//!
//! The losses depend on `o = (z_1, t)`, with the label's logits `t = z_2 + sqrt(Delta) xi`, and not on `z_2` by itself. Given `o`, it is
//! `z_2 = gamma_1 z_1 + gamma_t t` plus an independent rest, so that every quadratic form of the fields has the mean
//!
//! ```text
//! E[sum_jl a_jl ((z_j z_l + z_l z_j)/2 - (T+1) C_jl I) | o] = sum_ab b_ab ((o_a o_b + o_b o_a)/2 - (T+1) C^o_ab I).
//! ```
//!
//! If the activation does not see `u = 11^T/T`, the component along `u` is averaged as well. It adds a multiple of `u u = u`, which is not seen.

use super::products::{add_both, add_identity, add_product};
use crate::frozen::{Frozen, ThirdMoments, TrueLogits};

/// Determinant of the overlaps, relative to `Q Q0`, below which frozen and true weights are taken to be parallel.
const PARALLEL: f64 = 1e-12;

/// The shifts of the logits of a sample, per `eps`. All logits are multiplied by the inverse temperature.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FieldShifts {
    /// `t_i`, times the inverse temperature.
    overlap: [f64; 2],
    /// `b^i_ab`.
    cubes: [[[f64; 2]; 2]; 2],
    /// `C^o`.
    covariance: [[f64; 2]; 2],
    /// The coefficients of `W`.
    gram: [f64; 2],
    /// The coefficients of the response matrix of the pre-training.
    response: [f64; 2],
}

/// The inverse of the overlaps `[[Q, M], [M, Q0]]` on the weights that there are: the pseudo-inverse if they are parallel, or if the
/// frozen weights vanish.
fn inverse_overlaps(frozen: &Frozen) -> [[f64; 2]; 2] {
    let (q0, q, m) = (frozen.q0(), frozen.q(), frozen.m());
    let determinant = q * frozen.true_logits().unknown;
    if determinant > PARALLEL * q * q0 {
        let diagonal = [q0 / determinant, q / determinant];
        return [[diagonal[0], -m / determinant], [-m / determinant, diagonal[1]]];
    }
    // The matrix is n n^T with n = (sqrt(Q), sqrt(Q0)).
    let square = (q + q0) * (q + q0);
    let mixed = q.sqrt() * q0.sqrt() / square;
    [[q / square, mixed], [mixed, q0 / square]]
}

fn times(matrix: &[[f64; 2]; 2], x: [f64; 2]) -> [f64; 2] {
    matrix.map(|row| row[0] * x[0] + row[1] * x[1])
}

impl FieldShifts {
    /// The shifts for labels with noise of variance `delta`, and the given inverse temperature.
    pub(crate) fn new(frozen: &Frozen, third: &ThirdMoments, delta: f64, temperature: f64) -> Self {
        let inverse = inverse_overlaps(frozen);
        let TrueLogits { slope, unknown, .. } = frozen.true_logits();
        let rest = unknown + 0.5 * delta;
        let share = if rest > 0.0 { unknown / rest } else { 1.0 };
        // z_i = sum_a known[i][a] o_a + rest.
        let known = [[1.0, 0.0], [slope * (1.0 - share), share]];
        let in_observed = |x: [f64; 2]| [0, 1].map(|a| x[0] * known[0][a] + x[1] * known[1][a]);
        // sum_j (C^-1)_jl times what is known of z_l.
        let reach = inverse.map(in_observed);
        let cube = |i: usize, j: usize, l: usize| third.cubes[i + j + l];
        let pairs = [(0, 0), (0, 1), (1, 0), (1, 1)];
        let cubes = [0, 1].map(|i| {
            [0, 1].map(|a| {
                [0, 1].map(|b| {
                    let terms = pairs.map(|(j, l)| cube(i, j, l) * reach[j][a] * reach[l][b]);
                    terms.iter().sum::<f64>() / (3.0 * temperature)
                })
            })
        });
        let linear = |traces: [f64; 2]| in_observed(times(&inverse, traces)).map(|x| x / temperature);
        let v = frozen.v().unwrap_or(0.0);
        let response = if v > 0.0 { linear(third.response_traces.map(|x| x / v)) } else { [0.0; 2] };
        let square = temperature * temperature;
        Self {
            overlap: third.traces.map(|t| temperature * t),
            cubes,
            covariance: [
                [square * frozen.q(), square * frozen.m()],
                [square * frozen.m(), square * (frozen.q0() + 0.5 * delta)],
            ],
            gram: linear(third.traces),
            response,
        }
    }

    /// The shifts of the frozen logits (`i = 0`) or of the label's logits (`i = 1`) of a batch, per `eps`. `observed` has the frozen logits and
    /// those of the label without any perturbation. `directions` has the `p_1`, and the `p_2` if there is a learned perturbation.
    pub(super) fn shift(
        &self,
        i: usize,
        tokens: usize,
        observed: [&[f64]; 2],
        directions: &[&[f64]],
    ) -> Vec<f64> {
        let square = tokens * tokens;
        let mut shift = vec![0.0; observed[0].len()];
        let b = &self.cubes[i];
        let pairs = [(0, 0), (0, 1), (1, 0), (1, 1)];
        let centre: f64 = pairs.iter().map(|(j, l)| b[*j][*l] * self.covariance[*j][*l]).sum();
        for (s, target) in shift.chunks_exact_mut(square).enumerate() {
            let own = |x: usize| &observed[x][s * square..(s + 1) * square];
            for (j, l) in pairs {
                add_product(tokens, b[j][l], own(j), own(l), target);
            }
            for p in directions {
                let p = &p[s * tokens..(s + 1) * tokens];
                add_both(0.5 * self.overlap[i], p, p, target);
            }
            let overlaps = directions.len() as f64 * self.overlap[i];
            add_identity(tokens, -overlaps - (tokens as f64 + 1.0) * centre, target);
        }
        shift
    }

    /// `W` of a batch.
    pub(super) fn gram(&self, observed: [&[f64]; 2]) -> Vec<f64> {
        combination(self.gram, observed)
    }

    /// The response matrix of the pre-training, per `V` and `eps`, of a batch.
    pub(super) fn response(&self, observed: [&[f64]; 2]) -> Vec<f64> {
        combination(self.response, observed)
    }
}

fn combination([a, b]: [f64; 2], [x, y]: [&[f64]; 2]) -> Vec<f64> {
    x.iter().zip(y).map(|(x, y)| a * x + b * y).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_relative_eq;

    fn third() -> ThirdMoments {
        ThirdMoments { traces: [0.7, 1.1], cubes: [0.4, 0.9, 1.7, 5.0], response_traces: [0.2, 0.3] }
    }

    /// For noiseless labels the observed fields are the fields themselves.
    #[test]
    fn noiseless_labels_leave_the_cumulants_as_they_are() {
        let frozen = Frozen::new(2.0, 1.2, 1.1).unwrap().with_response(0.4).unwrap();
        let shifts = FieldShifts::new(&frozen, &third(), 0.0, 1.0);
        let inverse = inverse_overlaps(&frozen);
        // sum_ab C_ja b^i_ab C_bl = k_ijl/3, and C times the coefficients of W are the traces.
        let c = [[1.2, 1.1], [1.1, 2.0]];
        for i in 0..2 {
            for j in 0..2 {
                for l in 0..2 {
                    let sum: f64 = (0..2)
                        .flat_map(|a| (0..2).map(move |b| (a, b)))
                        .map(|(a, b)| c[j][a] * shifts.cubes[i][a][b] * c[b][l])
                        .sum();
                    assert_relative_eq!(sum, third().cubes[i + j + l] / 3.0, max_relative = 1e-12);
                }
            }
        }
        for (x, t) in times(&c, shifts.gram).iter().zip(third().traces) {
            assert_relative_eq!(*x, t, max_relative = 1e-12);
        }
        for (x, t) in times(&c, shifts.response).iter().zip(third().response_traces) {
            assert_relative_eq!(0.4 * x, t, max_relative = 1e-12);
        }
        assert_relative_eq!(inverse[0][0] * 1.2 + inverse[0][1] * 1.1, 1.0, max_relative = 1e-12);
    }

    /// Weights that are parallel have the Gram matrix of one of them, however their overlaps are divided.
    #[test]
    fn parallel_weights_count_once() {
        let third = ThirdMoments { traces: [0.5, 1.0], cubes: [0.0; 4], response_traces: [0.0; 2] };
        for delta in [0.0, 0.5] {
            let shifts = FieldShifts::new(&Frozen::new(4.0, 1.0, 2.0).unwrap(), &third, delta, 1.0);
            // The fields are z and 2 z, and W = z/2.
            assert_relative_eq!(shifts.gram[0] + 2.0 * shifts.gram[1], 0.5, max_relative = 1e-12);
        }
        let alone = ThirdMoments { traces: [0.0, 1.0], ..third };
        let shifts = FieldShifts::new(&Frozen::new(4.0, 0.0, 0.0).unwrap(), &alone, 0.0, 1.0);
        assert_relative_eq!(shifts.gram[1], 0.25, max_relative = 1e-12);
    }

    /// Noise in the label leaves the means of the third cumulants where they are.
    #[test]
    fn the_means_given_the_label_are_those_of_the_cumulants() {
        let frozen = Frozen::new(2.0, 1.2, 1.1).unwrap();
        let [noisy, clean] = [0.8, 0.0].map(|delta| FieldShifts::new(&frozen, &third(), delta, 1.3));
        // The covariances of W with the frozen logits and with the true ones.
        let covariances = |shifts: &FieldShifts| {
            let [[q, m], _] = shifts.covariance;
            let with_truth = 1.69 * 2.0;
            [shifts.gram[0] * q + shifts.gram[1] * m, shifts.gram[0] * m + shifts.gram[1] * with_truth]
        };
        assert_relative_eq!(covariances(&noisy)[0], covariances(&clean)[0], max_relative = 1e-12);
        assert_relative_eq!(covariances(&clean)[1], 1.3 * 1.1, max_relative = 1e-12);
    }
}
