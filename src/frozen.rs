//! The frozen weights as fine-tuning uses them. Neither stage owns them: pre-training makes them, and
//! fine-tuning takes them.

use serde::{Deserialize, Serialize};

use crate::attention::Attention;
use crate::check;
use crate::error::{Error, Number};
use crate::observables::{self, WeightOverlaps};

/// The overlaps of the frozen weights. They fix the joint law of the true logits `h*` and the frozen logits
/// `h` on new sequences, `N(0, 2 [[Q0, M], [M, Q]])` per orthonormal coordinate, or `N(0, [[Q0, M], [M, Q]])` in each of
/// the `T^2` coordinates of cross-attention (see [`Attention`]). A value of this type always has possible overlaps.
///
/// Frozen weights are made by [`pretrain::Solution::freeze`](crate::pretrain::Solution::freeze), or by hand
/// from measured overlaps with [`Frozen::new`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "FrozenFields", into = "FrozenFields")]
pub struct Frozen(FrozenFields);

/// Overlaps of the frozen weights, measured or assumed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename = "Frozen")]
pub(crate) struct FrozenFields {
    /// `Q0 = |S*|_F^2/D^2` of the true weights; > 0.
    q0: f64,
    /// `Q = |S-hat|_F^2/D^2` of the frozen weights; >= 0.
    q: f64,
    /// `M = Tr(S-hat^T S*)/D^2`; 0 to `sqrt(Q Q0)`.
    m: f64,
    /// `V`, the linear response of the pre-training, which reused sequences need; >= 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    v: Option<f64>,
    /// `tr s-hat`. The coefficients of `D^{-1/2}` (`options.finite_size`) need it and the next two fields.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trace: Option<f64>,
    /// `tr s*`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trace0: Option<f64>,
    /// `tr s-hat^3`, `tr s-hat^2 s*`, `tr s-hat s*^2` and `tr s*^3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cubes: Option<[f64; 4]>,
    /// `tr(Rbar s-hat)` and `tr(Rbar s*)` of the response of the pre-training, which the coefficients need on reused sequences.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    response_traces: Option<[f64; 2]>,
    /// The attention of the model. It is `None` where nothing was said, and for tied attention.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    attention: Option<Attention>,
}

impl FrozenFields {
    /// Takes the attention of the model, unless the fields have their own.
    #[cfg(feature = "scenario")]
    pub(crate) fn of_model(self, attention: Attention) -> Self {
        Self { attention: self.attention.or(Some(attention)), ..self }
    }
}

impl TryFrom<FrozenFields> for Frozen {
    type Error = Error;

    fn try_from(fields: FrozenFields) -> Result<Self, Error> {
        let FrozenFields { q0, q, m, v, trace, trace0, cubes, response_traces, .. } = fields;
        check::positive("frozen.q0", q0)?;
        check::non_negative("frozen.q", q)?;
        check::non_negative("frozen.m", m)?;
        if let Some(v) = v {
            check::non_negative("frozen.v", v)?;
        }
        let traces = [("frozen.trace", trace), ("frozen.trace0", trace0)];
        let listed = [
            ("frozen.cubes", cubes.as_ref().map(<[f64; 4]>::as_slice)),
            (RESPONSE_TRACES, response_traces.as_ref().map(<[f64; 2]>::as_slice)),
        ];
        let listed = listed
            .into_iter()
            .flat_map(|(field, list)| list.unwrap_or_default().iter().map(move |x| (field, *x)));
        for (field, x) in traces.into_iter().filter_map(|(field, x)| Some((field, x?))).chain(listed) {
            check::finite(field, x)?;
        }
        // The Cauchy-Schwarz inequality, with tr s-hat^2 = Q and tr s*^2 = Q0.
        for ((field, trace), norm) in traces.into_iter().zip([q, q0]) {
            let largest = norm.sqrt();
            if let Some(trace) = trace.filter(|trace| !observables::is_possible(*trace, largest)) {
                let allowed = format!("between -{0} and {0}, the root of tr s^2", Number(largest));
                return Err(Error::invalid(field, trace, allowed));
            }
        }
        // The overlaps of a solved pre-training, or overlaps typed in with all their digits, may be at the
        // bound.
        let bound = observables::largest_overlap(q, q0);
        if !observables::is_possible(m, bound) {
            return Err(Error::invalid("frozen.m", m, format!("<= sqrt(q q0) = {}", Number(bound))));
        }
        check_traces(&fields)?;
        check_cubes(&fields)?;
        Ok(Self(FrozenFields {
            attention: fields.attention.filter(|attention| !attention.is_tied()),
            ..fields
        }))
    }
}

/// Relative error that moments may have. Those of a solved pre-training have the residual of the solve, whose root enters where the weights are
/// nearly multiples of each other or of the identity.
const MOMENT_ACCURACY: f64 = 1e-2;

/// Both traces together: `1`, `s-hat` and `s*` have a positive semidefinite matrix of scalar products.
fn check_traces(fields: &FrozenFields) -> Result<(), Error> {
    let FrozenFields { q0, q, m, trace, trace0, .. } = *fields;
    let (Some(trace), Some(trace0), true) = (trace, trace0, q > 0.0) else { return Ok(()) };
    let middle = trace * (m / q);
    let unexplained = [1.0 - trace * (trace / q), q0 - m * (m / q)].map(|x| x.max(0.0).sqrt());
    let reach = unexplained[0] * unexplained[1] + MOMENT_ACCURACY * q0.sqrt();
    if (trace0 - middle).abs() <= reach {
        return Ok(());
    }
    let [low, high] = [middle - reach, middle + reach].map(Number);
    let allowed = format!("between {low} and {high}, given the overlaps and tr s-hat");
    Err(Error::invalid("frozen.trace0", trace0, allowed))
}

/// The cubes are free, unless `1`, `s-hat` and `s*` are linearly dependent: then `tr s_i s_j (x + a s-hat + b s*) = 0` for all `i` and `j`. No other
/// bound is known without moments of fourth order; `|tr s^3|` has no bound in terms of `tr s^2`.
fn check_cubes(fields: &FrozenFields) -> Result<(), Error> {
    let FrozenFields { q0, q, m, trace, trace0, cubes: Some(cubes), .. } = *fields else { return Ok(()) };
    let at_bound = |x: f64, bound: f64| bound - x.abs() <= 4.0 * f64::EPSILON * bound;
    let mut dependences = Vec::new();
    if q <= 0.0 {
        dependences.push(([0.0, 1.0, 0.0], "0 in each cube with s-hat, because q = 0"));
    } else {
        if at_bound(m, observables::largest_overlap(q, q0)) {
            let slope = m / q0;
            dependences.push(([0.0, 1.0, -slope], "those of s-hat = (m/q0) s*, because m = sqrt(q q0)"));
        }
        if let Some(trace) = trace.filter(|trace| at_bound(*trace, q.sqrt())) {
            let what = "those of a multiple of the identity s-hat, because (tr s-hat)^2 = q";
            dependences.push(([-trace, 1.0, 0.0], what));
        }
    }
    if let Some(trace0) = trace0.filter(|trace0| at_bound(*trace0, q0.sqrt())) {
        let what = "those of a multiple of the identity s*, because (tr s*)^2 = q0";
        dependences.push(([-trace0, 0.0, 1.0], what));
    }
    for ([constant, learned, truth], allowed) in dependences {
        for (k, second) in [q, m, q0].into_iter().enumerate() {
            let terms = [constant * second, learned * cubes[k], truth * cubes[k + 1]];
            let size = terms.iter().map(|x| x.abs()).sum::<f64>();
            if terms.iter().sum::<f64>().abs() > MOMENT_ACCURACY * size {
                let cube = if learned > 0.0 { cubes[k] } else { cubes[k + 1] };
                return Err(Error::invalid("frozen.cubes", cube, allowed));
            }
        }
    }
    Ok(())
}

impl From<Frozen> for FrozenFields {
    fn from(Frozen(fields): Frozen) -> Self {
        fields
    }
}

impl Frozen {
    /// Frozen weights with the given overlaps, for fine-tuning on fresh or selected sequences. They are those of tied
    /// attention, until [`Frozen::with_attention`] says otherwise.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] unless `q0 > 0`, `q >= 0` and `0 <= m <= sqrt(q q0)`, all of them finite.
    pub fn new(q0: f64, q: f64, m: f64) -> Result<Self, Error> {
        FrozenFields {
            q0,
            q,
            m,
            v: None,
            trace: None,
            trace0: None,
            cubes: None,
            response_traces: None,
            attention: None,
        }
        .try_into()
    }

    /// Sets the linear response `V` of the pre-training, which fine-tuning on reused sequences needs. It is 0
    /// for frozen weights that do not know those sequences.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] unless `v` is finite and >= 0.
    pub fn with_response(self, v: f64) -> Result<Self, Error> {
        FrozenFields { v: Some(v), ..self.0 }.try_into()
    }

    /// Sets the normalised traces `tr s-hat` and `tr s*` of the frozen and of the true weights in units of `sqrt(D)`. The coefficients of
    /// `D^{-1/2}` need them (see [`crate::lora::FiniteSize`]), and nothing else.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] unless both are finite, with `|tr s-hat| <= sqrt(Q)`, `|tr s*| <= sqrt(Q0)`, and
    /// `|tr s* - (M/Q) tr s-hat|^2 <= (1 - (tr s-hat)^2/Q) (Q0 - M^2/Q)`, the last to 1%.
    pub fn with_traces(self, trace: f64, trace0: f64) -> Result<Self, Error> {
        FrozenFields { trace: Some(trace), trace0: Some(trace0), ..self.0 }.try_into()
    }

    /// Sets the normalised traces of the cubes, `[k_111, k_112, k_122, k_222]` with `k_ijl = tr(s_i s_j s_l)`, `s_1 = s-hat` and
    /// `s_2 = s*`. The coefficients of `D^{-1/2}` need them, too.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] unless all of them are finite, and (to 1%) what follows for weights that are 0 (`Q = 0`), multiples of each other
    /// (`M = sqrt(Q Q0)`), or a multiple of the identity (a trace at its bound).
    pub fn with_cubes(self, cubes: [f64; 4]) -> Result<Self, Error> {
        FrozenFields { cubes: Some(cubes), ..self.0 }.try_into()
    }

    /// Sets `[tr(Rbar s-hat), tr(Rbar s*)]`, where the matrix `Rbar` is the response of the frozen weights to a field, averaged
    /// over the second index: for `s-hat = f(Y)` it has the eigenvalues `Rbar(x) = int (f(x) - f(y))/(x - y) rho(y) dy`, whose mean is `V`.
    /// The coefficients of `D^{-1/2}` need them on reused sequences.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] unless both are finite.
    pub fn with_response_traces(self, traces: [f64; 2]) -> Result<Self, Error> {
        FrozenFields { response_traces: Some(traces), ..self.0 }.try_into()
    }

    /// The same overlaps as those of another kind of attention, which tells what the variance of a logit is.
    #[must_use]
    pub fn with_attention(self, attention: Attention) -> Self {
        Self(FrozenFields { attention: Some(attention).filter(|attention| !attention.is_tied()), ..self.0 })
    }

    /// Whose attention the overlaps describe.
    #[must_use]
    pub fn attention(&self) -> Attention {
        self.0.attention.unwrap_or_default()
    }

    /// `Q0 = |S*|_F^2/D^2` of the true weights; > 0.
    #[must_use]
    pub fn q0(&self) -> f64 {
        self.0.q0
    }

    /// `Q = |S-hat|_F^2/D^2` of the frozen weights, before recalibration; >= 0.
    #[must_use]
    pub fn q(&self) -> f64 {
        self.0.q
    }

    /// `M = Tr(S-hat^T S*)/D^2`; `0 <= M <= sqrt(Q Q0)`.
    #[must_use]
    pub fn m(&self) -> f64 {
        self.0.m
    }

    /// `V >= 0`, the linear response of the pre-training, if it is known. It matters on reused sequences only.
    #[must_use]
    pub fn v(&self) -> Option<f64> {
        self.0.v
    }

    /// `tr s-hat` and `tr s*`, if they are known. They matter for the coefficients of `D^{-1/2}` only, as what follows.
    #[must_use]
    pub fn traces(&self) -> Option<[f64; 2]> {
        Some([self.0.trace?, self.0.trace0?])
    }

    /// The cubes of [`Frozen::with_cubes`], if they are known.
    #[must_use]
    pub fn cubes(&self) -> Option<[f64; 4]> {
        self.0.cubes
    }

    /// The traces of [`Frozen::with_response_traces`], if they are known.
    #[must_use]
    pub fn response_traces(&self) -> Option<[f64; 2]> {
        self.0.response_traces
    }

    /// The moments that the coefficients of `D^{-1/2}` need; those of the response are 0 unless they are `with_response`.
    ///
    /// # Errors
    /// [`Error::MissingField`] for the first one that is not known.
    pub(crate) fn third_moments(&self, with_response: bool) -> Result<ThirdMoments, Error> {
        fn known<T>(field: &'static str, value: Option<T>) -> Result<T, Error> {
            let reason = "options.finite_size needs the third moments of the frozen weights";
            value.ok_or(Error::MissingField { field, reason })
        }
        let FrozenFields { trace, trace0, cubes, response_traces, .. } = self.0;
        Ok(ThirdMoments {
            traces: [known("frozen.trace", trace)?, known("frozen.trace0", trace0)?],
            cubes: known("frozen.cubes", cubes)?,
            response_traces: if with_response { known(RESPONSE_TRACES, response_traces)? } else { [0.0; 2] },
        })
    }

    /// The overlaps `[Q0, Q, M]`.
    #[must_use]
    pub fn overlaps(&self) -> WeightOverlaps {
        let FrozenFields { q0, q, m, .. } = self.0;
        WeightOverlaps { q0, q, m }
    }

    /// The law of the true logits, given the frozen ones.
    pub(crate) fn true_logits(&self) -> TrueLogits {
        let FrozenFields { q0, q, m, .. } = self.0;
        let slope = if q > 0.0 { m / q } else { 0.0 };
        // The overlaps may be typed in with all their digits, and rounding may then make the known part
        // larger than Q0.
        let known = (m * slope).min(q0);
        TrueLogits { slope, known, unknown: q0 - known }
    }
}

/// Path of the traces with the response.
const RESPONSE_TRACES: &str = "frozen.response_traces";

/// Moments of the frozen weights `s_1 = s-hat` and of the true ones `s_2 = s*` beyond the overlaps. They enter at the order `D^{-1/2}`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ThirdMoments {
    /// `tr s_i`.
    pub(crate) traces: [f64; 2],
    /// `tr(s_i s_j s_l)` for `111`, `112`, `122` and `222`.
    pub(crate) cubes: [f64; 4],
    /// `tr(Rbar s_i)`.
    pub(crate) response_traces: [f64; 2],
}

/// The law of the true logits `h*` on new sequences, given the frozen logits `h`: `N(slope h, c unknown)` per orthonormal coordinate, with
/// `c` the variance of a logit in units of `Q` ([`Attention::logit_variance`]).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct TrueLogits {
    /// The slope `M/Q`; 0 without frozen weights.
    pub(crate) slope: f64,
    /// The part `M^2/Q` of `Q0` that the frozen weights explain.
    pub(crate) known: f64,
    /// The part `Q0 - M^2/Q` of `Q0` that the frozen weights do not explain.
    pub(crate) unknown: f64,
}
