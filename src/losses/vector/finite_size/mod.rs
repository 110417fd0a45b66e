//! The first order in `eps = D^{-1/2}` of the averages of fine-tuning, for one column.
//!
//! The frozen logits, `chi` and the Gram matrix of the tokens `X X^T/D` share the same tokens. To first order in `eps` they are
//! jointly Gaussian but for third cumulants. With `p_1, p_2` standard normal vectors in `R^T`, `chi* = sqrt(q0) p_1`,
//! `omega = (m/sqrt(q0)) p_1 + s p_2`, the Gaussian frozen fields `z_1 = h(S-hat)` and `z_2 = h(S*)`, `P = p_1 p_1^T + p_2 p_2^T - 2 I`,
//! `t_i = tr s_i`, `k_ijl = tr(s_i s_j s_l)` and `C = [[Q, M], [M, Q0]]`, a sample has
//!
//! ```text
//! overlaps   z_i -> z_i + eps t_i P
//! cubes      z_i -> z_i + eps A_i,   A_i = sum_jl a^i_jl [(z_j z_l + z_l z_j)/2 - (T+1) C_jl I],
//!            a^i_jl = (1/3) sum_j'l' k_ij'l' (C^-1)_j'j (C^-1)_l'l
//! Gram       l' = tr[R (I + eps W) R^T],   R = sigma(z + chi chi^T - q I) - sigma(t),   W = sum_i (C^-1 t)_i z_i
//! response   chi_p = argmin l' + (chi - omega)^T Vm^-1 (chi - omega)/2,   Vm = v (I + eps W),   g = Vm^-1 (chi_p - omega)
//! ```
//!
//! `W` is the mean of `sqrt(D) (X X^T/D - I)` given the fields. The conjugates are the derivatives of the free energy at fixed `p_1, p_2`:
//! `E[g.p_1]`, `E[g.p_2]`, `E[g^T (I + eps W) g]` and `E[dl'/dq]`.
//!
//! The derivative of a proximal point follows from its stationarity, `d chi_p = -H^-1 (d grad)`, with the same Hessian `H` in all directions:
//! along `eps`, and along the order parameters. Where the proximal point jumps to another minimum, the surface on which the two minima are equally low
//! moves: the jump of a quantity `X` adds `E[delta(gap) (-d gap) (X_b - X_a)]`, in which `d gap` needs no derivative of a proximal point.
//!
//! At first order, everything is linear in the third cumulants, which are therefore replaced by their means given the logits that the
//! proximal point depends on (`shifts.rs`): nothing more is sampled than in the limit.
//! Source: this project.

mod averages;
mod products;
mod shifts;
mod test_law;
mod trained;

pub(crate) use averages::{FirstOrderAverages, TrainingLaw, direction, moment};
pub(crate) use shifts::FieldShifts;
pub(crate) use test_law::{TestSlopes, test_slopes};
