//! The output channel of fine-tuning in physical units, for input channels from outside of the library.

use super::ridge::{Conjugates, Ridge};
use super::units::Units;
use super::validity::FinetuningValidity;
use crate::check;
use crate::error::Error;
use crate::losses::vector::{FinetuningLosses, Moments, VectorOverlaps, term};
use crate::state_evolution::{Averages, InputChannel, OutputChannel, Overlaps, Pass};

/// The output channel of fine-tuning: averages over the losses of all sequences, for given overlaps of the weights.
/// It is made by [`lora::loss_channel`](super::loss_channel).
///
/// An input channel gets the conjugates from the averages by a [`ConjugateEstimator`], and answers with the overlaps to
/// which they lead. All numbers are in physical units. This input channel is the ridge of the library:
///
/// ```
/// use lora_asymptotics::{Frozen, Model, Options, lora};
/// use lora_asymptotics::state_evolution::{InputChannel, StateEvolution};
///
/// struct Ridge { estimator: lora::ConjugateEstimator, lambda: f64 }
///
/// impl InputChannel for Ridge {
///     type Point = lora::FieldOverlaps;
///     type Averages = lora::LossAverages;
///
///     fn image(&self, at: &lora::FieldOverlaps, averages: &lora::LossAverages) -> lora::FieldOverlaps {
///         let hat = self.estimator.conjugates(at, averages);
///         let r = hat.v_hat + 2.0 * hat.eta + 2.0 * self.lambda;
///         if r <= 0.0 {
///             return at.retreated();
///         }
///         let q0 = at.q0();
///         at.moved_to((hat.m_hat * hat.m_hat * q0 + hat.q_hat) / (r * r), hat.m_hat * q0 / r, 1.0 / r)
///     }
///
///     fn reconsider(&mut self, settled: bool, at: &lora::FieldOverlaps, averages: &lora::LossAverages) -> bool {
///         self.estimator.reconsider(settled, at, averages)
///     }
/// }
///
/// let (model, frozen) = (Model::linear(2, 0.5)?, Frozen::new(1.5, 1.3, 1.25)?);
/// let (training, options) = (lora::Training::fresh(3.0, 0.2)?, Options::default());
/// let mut losses = lora::loss_channel(&model, &frozen, &training, &options)?;
/// let ridge = Ridge { estimator: losses.estimator(), lambda: 0.2 };
/// let start = losses.overlaps(1.0, 0.9, 0.1)?;
/// let solved = StateEvolution::new(&mut losses, ridge, &options).solve(&start)?;
/// let library = lora::solve(&model, &frozen, &training, &options)?;
/// assert!((solved.point.q() - library.order.q).abs() < 1e-8);
/// # Ok::<(), lora_asymptotics::Error>(())
/// ```
pub struct LossChannel {
    losses: Box<dyn FinetuningLosses>,
    estimator: ConjugateEstimator,
}

impl LossChannel {
    /// The losses in the given units, with the parameters of the estimator. The `lambda` of `ridge` is not used.
    pub(super) fn new(losses: Box<dyn FinetuningLosses>, ridge: Ridge, units: Units) -> Self {
        Self { losses, estimator: ConjugateEstimator { ridge, units } }
    }

    /// The rule that turns the averages of this channel into conjugates.
    #[must_use]
    pub fn estimator(&self) -> ConjugateEstimator {
        self.estimator
    }

    /// The overlaps `q = |w-hat|^2/D`, `m = w-hat.w*/D` and the linear response `v`, as a start. With `m = 0` the
    /// overlap stays zero.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] unless `q` and `v` are finite and > 0, `m` is finite and >= 0, and `m^2 < q q0`.
    pub fn overlaps(&self, q: f64, m: f64, v: f64) -> Result<FieldOverlaps, Error> {
        check::positive("q", q)?;
        check::non_negative("m", m)?;
        check::positive("v", v)?;
        let units = self.estimator.units;
        let point = units.scaled(q, m, v);
        if [point.s2, point.v].iter().all(|x| *x > 0.0 && x.is_finite()) {
            Ok(FieldOverlaps { point, units })
        } else {
            Err(Error::invalid("m", m, "m^2 < q q0"))
        }
    }
}

impl OutputChannel for LossChannel {
    type Point = FieldOverlaps;
    type Averages = LossAverages;

    fn levels(&self) -> usize {
        self.losses.levels()
    }

    fn levels_to_climb(&self) -> usize {
        self.losses.levels_to_climb()
    }

    fn averages(&mut self, level: usize, pass: Pass, at: &FieldOverlaps) -> Vec<LossAverages> {
        self.losses.averages(level, pass, &at.point).into_iter().map(LossAverages).collect()
    }

    fn prepare(&mut self, level: usize, at: &FieldOverlaps) {
        self.losses.prepare(level, &at.point);
    }

    fn resolution(&self) -> f64 {
        self.losses.resolution()
    }

    fn is_rough(&self) -> bool {
        self.losses.is_rough()
    }
}

/// Order parameters of fine-tuning. They fix the law of the fields of a token,
/// `(chi*, omega) ~ N(0, [[q0, m], [m, q]])`, and the response `v` of the weights. The iteration is on
/// `m` (unless it is 0), `q - m^2/q0` and `v`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FieldOverlaps {
    point: VectorOverlaps,
    units: Units,
}

impl FieldOverlaps {
    /// `q = |w-hat|^2/D`.
    #[must_use]
    pub fn q(&self) -> f64 {
        self.units.q0 * self.point.q()
    }

    /// `m = w-hat.w*/D >= 0`.
    #[must_use]
    pub fn m(&self) -> f64 {
        self.units.q0 * self.point.m
    }

    /// The linear response: the mean over the coordinates of `d w-hat/d field`.
    #[must_use]
    pub fn v(&self) -> f64 {
        self.point.v / self.units.stiffness()
    }

    /// The variance `q0` of the entries of the truth.
    #[must_use]
    pub fn q0(&self) -> f64 {
        self.units.q0
    }

    /// The overlaps to which one step leads, as an input channel returns them. Numbers that are impossible are
    /// replaced by the nearest possible ones: `q - m^2/q0` is at least `1e-14 q0`, an overlap that is positive falls
    /// by a factor of ten at most, and one that is zero stays zero.
    #[must_use]
    pub fn moved_to(&self, q: f64, m: f64, v: f64) -> Self {
        let VectorOverlaps { m, s2, v } = self.units.scaled(q, m, v);
        Self { point: self.point.moved_to(m, s2, v), ..*self }
    }

    /// The same overlaps at a much smaller response. An input channel returns them where the curvature
    /// `vhat + 2 eta` and its own together are not positive, which happens far from a fixed point.
    #[must_use]
    pub fn retreated(&self) -> Self {
        Self { point: self.point.retreated(), ..*self }
    }
}

impl Overlaps for FieldOverlaps {
    fn coordinates(&self) -> Vec<f64> {
        self.point.coordinates()
    }

    fn at(&self, coordinates: &[f64]) -> Self {
        Self { point: self.point.at(coordinates), ..*self }
    }
}

/// Averages over the losses of fine-tuning. A [`ConjugateEstimator`] tells what they mean.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossAverages(Moments);

impl Averages for LossAverages {
    fn terms(&self) -> Vec<f64> {
        self.0.terms()
    }

    fn from_terms(terms: &[f64]) -> Self {
        Self(Moments::from_terms(terms))
    }
}

/// What an input channel needs to know of the losses of fine-tuning: the conjugates, and what is measured with them.
#[derive(Debug, Clone, Copy)]
pub struct ConjugateEstimator {
    ridge: Ridge,
    units: Units,
}

impl ConjugateEstimator {
    /// The conjugates at the given overlaps.
    #[must_use]
    pub fn conjugates(&self, at: &FieldOverlaps, averages: &LossAverages) -> Conjugates {
        self.units.physical(&self.ridge.conjugates(&at.point, &averages.0))
    }

    /// The mean loss of a training sequence, `E l'`. The train objective over `D` is `alpha'` times this error, plus
    /// the mean of the penalty of a coordinate. It has a meaning for averages of a complete pass only.
    #[must_use]
    pub fn train_error(&self, averages: &LossAverages) -> f64 {
        self.units.loss * averages.0[term::LOSS]
    }

    /// The verdict on replica symmetry. `response2` is the mean over the coordinates of `(d w-hat/d field)^2`. A
    /// ridge gives all coordinates the same response, and `response2 = v^2`.
    #[must_use]
    pub fn validity(
        &self,
        at: &FieldOverlaps,
        averages: &LossAverages,
        response2: f64,
    ) -> FinetuningValidity {
        let v = at.v();
        self.ridge.validity_of_spread(&at.point, &averages.0, response2 / (v * v))
    }

    /// Whether the divergences should be estimated in another way from now on, because most of the response comes
    /// from jumps of the proximal points. An input channel passes on its own
    /// [`reconsider`](crate::state_evolution::InputChannel::reconsider).
    pub fn reconsider(&mut self, settled: bool, at: &FieldOverlaps, averages: &LossAverages) -> bool {
        self.ridge.reconsider(settled, &at.point, &averages.0)
    }
}
