//! The derivatives of the loss by the columns of a perturbation, in closed form, for linear attention and for softmax.
//!
//! Row `a` of the loss has a gradient `S_a` in the logits of that row, and a Hessian `M^a`. With the coupling `k`, the derivatives by
//! the entries `x_ic` of the perturbation `k x x^T` are
//!
//! ```text
//! gradient_(ic)    = k sum_b (S_ib + S_bi) x_bc
//! Hessian_(ic)(jd) = k (S_ij + S_ji) delta_cd
//!                  + k^2 sum_a sum_bb' M^a_bb' (delta_ia x_bc + delta_ib x_ac) (delta_ja x_b'd + delta_jb' x_ad)
//! ```
//!
//! In cross-attention the perturbation is `k chi psi^T`. With `x_ic` the entries of `chi` and `y_jd` those of `psi`,
//!
//! ```text
//! gradient_(ic)    = k sum_b S_ib y_bc,    gradient_(jd) = k sum_a S_aj x_ad
//! Hessian_(ic)(ke) = k^2 delta_ik sum_bb' M^i_bb' y_bc y_b'e
//! Hessian_(ic)(jd) = k S_ij delta_cd + k^2 sum_b M^i_jb y_bc x_id
//! Hessian_(jd)(le) = k^2 sum_a M^a_jl x_ad x_ae
//! ```
//!
//! They are computed for blocks of samples, with sizes known at run time.

use super::expansion::LocalExpansion;
use crate::attention::Attention;
use crate::lanes::{LANES, Lane, exp, wide};

/// The activations whose derivatives are written out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KnownDerivatives {
    /// `sigma(h) = h/T`.
    Linear,
    /// Softmax by rows. The logits are already multiplied by the inverse temperature.
    Softmax,
}

/// The perturbation: `h = z + coupling (x x^T - trace I)`, with `x` a matrix of `tokens` rows and `columns` columns. In
/// cross-attention it is `h = z + coupling chi psi^T`, and the columns of `x` are those of `chi`, then those of `psi`.
#[derive(Debug, Clone, Copy)]
pub(super) struct ColumnShape {
    pub(super) attention: Attention,
    pub(super) tokens: usize,
    pub(super) columns: usize,
    pub(super) coupling: f64,
    pub(super) trace: f64,
}

/// A block of samples, with every number as a lane.
struct Block {
    x: Vec<Lane>,
    frozen: Vec<Lane>,
    label: Vec<Lane>,
    slope: Vec<Lane>,
    hessian: Vec<Lane>,
    /// The attention of a row, and the weights of its Hessian.
    p: Vec<Lane>,
    weight: Vec<Lane>,
    /// The Hessian of a row in its logits, and the same times every column of `x`.
    curvature: Vec<Lane>,
    product: Vec<Lane>,
    loss: Lane,
}

const ZERO: Lane = [0.0; LANES];

impl ColumnShape {
    /// Number of columns of each factor.
    fn width(&self) -> usize {
        match self.attention {
            Attention::Tied => self.columns,
            Attention::Cross => self.columns / 2,
        }
    }
}

impl KnownDerivatives {
    /// The derivatives of the losses of some samples at the points `x`, without the pull. The images are left out.
    /// `frozen` and `label` have the frozen logits and the attention of the label of all samples.
    pub(super) fn expand(
        self,
        shape: &ColumnShape,
        frozen: &[f64],
        samples: &[usize],
        x: Vec<f64>,
        label: &[f64],
    ) -> LocalExpansion {
        let ColumnShape { tokens, columns, .. } = *shape;
        let (n, square, count) = (tokens * columns, tokens * tokens, samples.len());
        let mut local = LocalExpansion {
            x,
            value: vec![0.0; count],
            loss: vec![0.0; count],
            slope: vec![0.0; count * square],
            gradient: vec![0.0; count * n],
            hessian: vec![0.0; count * n * n],
            images: Vec::new(),
        };
        let lanes = |length: usize| vec![ZERO; length];
        let mut block = Block {
            x: lanes(n),
            frozen: lanes(square),
            label: lanes(square),
            slope: lanes(square),
            hessian: lanes(n * n),
            p: lanes(tokens),
            weight: lanes(tokens),
            curvature: lanes(square),
            product: lanes(n),
            loss: ZERO,
        };
        for (number, samples) in samples.chunks(LANES).enumerate() {
            let first = number * LANES;
            for l in 0..LANES {
                // The last block repeats its last sample.
                let position = l.min(samples.len() - 1);
                let sample = samples[position];
                let own = &local.x[(first + position) * n..(first + position + 1) * n];
                block.x.iter_mut().zip(own).for_each(|(lane, x)| lane[l] = *x);
                let own = &frozen[sample * square..(sample + 1) * square];
                block.frozen.iter_mut().zip(own).for_each(|(lane, x)| lane[l] = *x);
                let own = &label[sample * square..(sample + 1) * square];
                block.label.iter_mut().zip(own).for_each(|(lane, x)| lane[l] = *x);
            }
            wide(
                #[inline(always)]
                || block.differentiate(self, shape),
            );
            for l in 0..samples.len() {
                let k = first + l;
                local.loss[k] = block.loss[l];
                let write = |target: &mut [f64], from: &[Lane]| {
                    target.iter_mut().zip(from).for_each(|(x, lane)| *x = lane[l]);
                };
                write(&mut local.slope[k * square..(k + 1) * square], &block.slope);
                write(&mut local.gradient[k * n..(k + 1) * n], &block.product);
                write(&mut local.hessian[k * n * n..(k + 1) * n * n], &block.hessian);
            }
        }
        local
    }
}

impl Block {
    /// Computes loss, slope and Hessian. The gradient is left in `product`.
    #[inline(always)]
    fn differentiate(&mut self, form: KnownDerivatives, shape: &ColumnShape) {
        let ColumnShape { tokens, columns, coupling, .. } = *shape;
        let n = tokens * columns;
        self.loss = ZERO;
        self.hessian.fill(ZERO);
        let tied = shape.attention == Attention::Tied;
        for a in 0..tokens {
            self.row(form, a, shape);
            if !tied {
                self.add_row_of_factors(a, shape);
            } else if form == KnownDerivatives::Softmax {
                self.add_row(a, shape);
            }
        }
        if tied && form == KnownDerivatives::Linear {
            self.add_linear(shape);
        }
        for i in 0..n {
            for j in 0..=i {
                let entry = self.hessian[i * n + j].map(|x| coupling * coupling * x);
                self.hessian[i * n + j] = entry;
                self.hessian[j * n + i] = entry;
            }
        }
        self.product.fill(ZERO);
        if !tied {
            self.add_slopes_of_factors(shape);
            return;
        }
        for a in 0..tokens {
            for b in 0..tokens {
                let (s, t) = (self.slope[a * tokens + b], self.slope[b * tokens + a]);
                for c in 0..columns {
                    let (i, j) = (a * columns + c, b * columns + c);
                    for l in 0..LANES {
                        let both = coupling * (s[l] + t[l]);
                        self.hessian[i * n + j][l] += both;
                        self.product[i][l] += both * self.x[j][l];
                    }
                }
            }
        }
    }

    /// Adds the first part of the Hessian of two factors, and the gradient, which is left in `product`.
    #[inline(always)]
    fn add_slopes_of_factors(&mut self, shape: &ColumnShape) {
        let ColumnShape { tokens, columns, coupling, .. } = *shape;
        let (n, width) = (tokens * columns, shape.width());
        for a in 0..tokens {
            for b in 0..tokens {
                let slope = self.slope[a * tokens + b].map(|s| coupling * s);
                for c in 0..width {
                    let (i, j) = (a * columns + c, b * columns + width + c);
                    for l in 0..LANES {
                        self.hessian[i * n + j][l] += slope[l];
                        self.hessian[j * n + i][l] += slope[l];
                        self.product[i][l] += slope[l] * self.x[j][l];
                        self.product[j][l] += slope[l] * self.x[i][l];
                    }
                }
            }
        }
    }

    /// The products of the Hessian of a row in its logits with `count` columns of `x`, of which `first` is the first.
    #[inline(always)]
    fn multiply_curvature(&mut self, shape: &ColumnShape, first: usize, count: usize) {
        let ColumnShape { tokens, columns, .. } = *shape;
        let Self { x, curvature, product, .. } = self;
        for b in 0..tokens {
            for c in 0..count {
                let mut sum = ZERO;
                for e in 0..tokens {
                    let (m, x) = (&curvature[b * tokens + e], &x[e * columns + first + c]);
                    for l in 0..LANES {
                        sum[l] += m[l] * x[l];
                    }
                }
                product[b * columns + c] = sum;
            }
        }
    }

    /// Adds the part of row `a` of the logits to the second part of the Hessian of two factors, in the lower triangle.
    #[inline(always)]
    fn add_row_of_factors(&mut self, a: usize, shape: &ColumnShape) {
        let ColumnShape { tokens, columns, .. } = *shape;
        let (n, width) = (tokens * columns, shape.width());
        // The columns of psi.
        self.multiply_curvature(shape, width, width);
        let Self { x, hessian, curvature, product, .. } = self;
        for c in 0..width {
            let row = a * columns + c;
            for d in 0..=c {
                let entry = &mut hessian[row * n + a * columns + d];
                for b in 0..tokens {
                    let (y, p) = (&x[b * columns + width + c], &product[b * columns + d]);
                    for l in 0..LANES {
                        entry[l] += y[l] * p[l];
                    }
                }
            }
            for j in 0..tokens {
                for d in 0..width {
                    let column = j * columns + width + d;
                    let (p, x) = (&product[j * columns + c], &x[a * columns + d]);
                    let entry = &mut hessian[row.max(column) * n + row.min(column)];
                    for l in 0..LANES {
                        entry[l] += p[l] * x[l];
                    }
                }
            }
        }
        for c in 0..width {
            for d in 0..width {
                let mut both = ZERO;
                for l in 0..LANES {
                    both[l] = x[a * columns + c][l] * x[a * columns + d][l];
                }
                for i in 0..tokens {
                    // The entries below the diagonal.
                    for j in 0..if d <= c { i + 1 } else { i } {
                        let m = &curvature[i * tokens + j];
                        let entry = &mut hessian[(i * columns + width + c) * n + j * columns + width + d];
                        for l in 0..LANES {
                            entry[l] += m[l] * both[l];
                        }
                    }
                }
            }
        }
    }

    /// Adds the second part of the Hessian of linear attention, `(4/T^2) (delta_ij (x^T x)_cd + x_jc x_id)`, to the lower
    /// triangle.
    #[inline(always)]
    fn add_linear(&mut self, shape: &ColumnShape) {
        let ColumnShape { tokens, columns, .. } = *shape;
        let n = tokens * columns;
        let scale = 4.0 / (tokens * tokens) as f64;
        let Self { x, hessian, .. } = self;
        for row in 0..n {
            let (i, c) = (row / columns, row % columns);
            for column in 0..=row {
                let (j, d) = (column / columns, column % columns);
                let mut entry = ZERO;
                for l in 0..LANES {
                    entry[l] = x[j * columns + c][l] * x[i * columns + d][l];
                }
                if i == j {
                    for b in 0..tokens {
                        for l in 0..LANES {
                            entry[l] += x[b * columns + c][l] * x[b * columns + d][l];
                        }
                    }
                }
                hessian[row * n + column] = entry.map(|x| scale * x);
            }
        }
    }

    /// Adds the part of row `a` of the logits to the second part of the Hessian, in the lower triangle.
    #[inline(always)]
    fn add_row(&mut self, a: usize, shape: &ColumnShape) {
        let ColumnShape { tokens, columns, .. } = *shape;
        let n = tokens * columns;
        self.multiply_curvature(shape, 0, columns);
        let Self { x, hessian, curvature, product, .. } = self;
        for c in 0..columns {
            let row = a * columns + c;
            for d in 0..=c {
                let entry = &mut hessian[row * n + a * columns + d];
                for b in 0..tokens {
                    let (x, p) = (&x[b * columns + c], &product[b * columns + d]);
                    for l in 0..LANES {
                        entry[l] += x[l] * p[l];
                    }
                }
            }
            for column in 0..n {
                let (j, d) = (column / columns, column % columns);
                let (p, x) = (&product[j * columns + c], &x[a * columns + d]);
                let twice = if row == column { 2.0 } else { 1.0 };
                let entry = &mut hessian[row.max(column) * n + row.min(column)];
                for l in 0..LANES {
                    entry[l] += twice * p[l] * x[l];
                }
            }
        }
        for c in 0..columns {
            for d in 0..columns {
                let mut both = ZERO;
                for l in 0..LANES {
                    both[l] = x[a * columns + c][l] * x[a * columns + d][l];
                }
                for i in 0..tokens {
                    // The entries below the diagonal.
                    for j in 0..if d <= c { i + 1 } else { i } {
                        let m = &curvature[i * tokens + j];
                        let entry = &mut hessian[(i * columns + c) * n + j * columns + d];
                        for l in 0..LANES {
                            entry[l] += m[l] * both[l];
                        }
                    }
                }
            }
        }
    }

    /// Computes the attention of row `a`, its part of the loss and of the slope, and its Hessian.
    #[inline(always)]
    fn row(&mut self, form: KnownDerivatives, a: usize, shape: &ColumnShape) {
        let ColumnShape { attention, tokens, columns, coupling, trace } = *shape;
        let width = shape.width();
        let Self { x, frozen, label, slope, p, weight, curvature, loss, .. } = self;
        for b in 0..tokens {
            let mut h = ZERO;
            for c in 0..width {
                let (x, y) = (&x[a * columns + c], &x[(b + 1) * columns - width + c]);
                for l in 0..LANES {
                    h[l] += x[l] * y[l];
                }
            }
            let centring = if a == b { trace } else { 0.0 };
            let z = &frozen[a * tokens + b];
            for l in 0..LANES {
                p[b][l] = z[l] + coupling * (h[l] - centring);
            }
        }
        let scale = 1.0 / tokens as f64;
        if form == KnownDerivatives::Softmax {
            normalise(p);
        } else {
            p.iter_mut().for_each(|p| *p = p.map(|h| scale * h));
        }
        let (mut mean, mut norm2) = (ZERO, ZERO);
        for b in 0..tokens {
            let y = &label[a * tokens + b];
            for l in 0..LANES {
                let e = p[b][l] - y[l];
                weight[b][l] = e;
                loss[l] += e * e;
                mean[l] += p[b][l] * e;
                norm2[l] += p[b][l] * p[b][l];
            }
        }
        for b in 0..tokens {
            let slope = &mut slope[a * tokens + b];
            for l in 0..LANES {
                if form == KnownDerivatives::Softmax {
                    let s = p[b][l] * (weight[b][l] - mean[l]);
                    slope[l] = 2.0 * s;
                    weight[b][l] = s + p[b][l] * p[b][l];
                } else {
                    slope[l] = 2.0 * scale * weight[b][l];
                }
            }
        }
        if form == KnownDerivatives::Softmax {
            for b in 0..tokens {
                for e in 0..tokens {
                    let entry = &mut curvature[b * tokens + e];
                    let own = if b == e { 1.0 } else { 0.0 };
                    for l in 0..LANES {
                        let (p, q, u, w) = (p[b][l], p[e][l], weight[b][l], weight[e][l]);
                        entry[l] = 2.0 * (own * u - u * q - p * w + norm2[l] * p * q);
                    }
                }
            }
        } else if attention == Attention::Cross {
            for b in 0..tokens {
                for e in 0..tokens {
                    curvature[b * tokens + e] = [if b == e { 2.0 * scale * scale } else { 0.0 }; LANES];
                }
            }
        }
    }
}

/// Replaces the logits of a row by their softmax.
#[inline(always)]
fn normalise(row: &mut [Lane]) {
    let mut top = [f64::NEG_INFINITY; LANES];
    for logit in row.iter() {
        for l in 0..LANES {
            top[l] = if logit[l] > top[l] { logit[l] } else { top[l] };
        }
    }
    let mut total = ZERO;
    for logit in row.iter_mut() {
        let mut below = ZERO;
        for l in 0..LANES {
            below[l] = logit[l] - top[l];
        }
        *logit = exp(&below);
        for l in 0..LANES {
            total[l] += logit[l];
        }
    }
    for p in row.iter_mut() {
        for l in 0..LANES {
            p[l] /= total[l];
        }
    }
}
