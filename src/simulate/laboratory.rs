//! The settings of a simulation: sizes, instances, seeds, and bounds on time and memory.

use serde::{Deserialize, Serialize};

use super::minimise::{self, Stopping};
use super::sequences::{MAX_CHUNKS, TEST_BATCH};
use crate::attention::Attention;
use crate::check;
use crate::error::{Error, Number};
use crate::lora::Sequences;
use crate::model::Teacher;
use crate::scenario::Scenario;

/// Largest number of sizes of a laboratory.
const MAX_SIZES: usize = 100;
/// Largest number of instances of all sizes together. Lists of instances are kept in memory.
const MAX_INSTANCES: usize = 10_000_000;

/// How many instances are trained at one dimension.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Size {
    /// The dimension `D`, 2 to 100,000. The numbers of sequences and the widths must be integers to 1%.
    pub dimension: usize,
    /// Number of independent teachers and data sets, 2 to 1,000,000.
    pub instances: usize,
}

impl Size {
    /// A size with `instances` instances of dimension `dimension`. [`Laboratory::validate`] checks both.
    #[must_use]
    pub fn new(dimension: usize, instances: usize) -> Self {
        Self { dimension, instances }
    }
}

/// The origin of the logits of the frozen weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FrozenLogits {
    /// The logits are those of weights that were trained on sequences of the same dimension. The whole
    /// pipeline is simulated, and the fine-tuning stage has corrections of order `D^{-1/2}`, whose coefficients the theory knows.
    #[default]
    Trained,
    /// The logits are drawn from their law in the limit, given the overlaps, independently of the sequences.
    /// This is fast, and corrections are small. Only the fine-tuning stage is simulated. A scenario with
    /// `frozen` always has synthetic logits.
    Synthetic,
}

/// A finite-size experiment.
///
/// ```
/// use lora_asymptotics::simulate::{FrozenLogits, Laboratory, Size};
///
/// let laboratory = Laboratory {
///     sizes: vec![Size::new(400, 20)],
///     frozen: FrozenLogits::Synthetic,
///     ..Laboratory::default()
/// };
/// # assert!(laboratory.validate().is_ok());
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Laboratory {
    /// Dimensions and numbers of instances. Results are extrapolated from several sizes. There can be at most
    /// 100 sizes, with 10,000,000 instances together.
    pub sizes: Vec<Size>,
    /// Seed of the random numbers. The same seed gives the same bits, whatever the number of threads.
    pub seed: u64,
    /// The origin of the logits of the frozen weights.
    pub frozen: FrozenLogits,
    /// Number of new sequences per instance for the test errors; 1 to 10,000,000.
    pub test_sequences: usize,
    /// Number of random starts of pre-training, 1 to 100. The minimum of lowest objective is kept.
    pub pretraining_starts: usize,
    /// Number of random starts of fine-tuning, in addition to the informed and the spectral start; 0 to 100.
    pub random_starts: usize,
    /// Root mean square of the entries of the gradient at which training ends; > 0.
    pub gradient_tolerance: f64,
    /// Largest number of iterations of L-BFGS per training; 1 to 10,000,000.
    pub max_iterations: usize,
    /// Highest power of `1/D` in the extrapolation from several sizes. It is 0 to 4, less than the number of
    /// sizes, and 1 if not given. If fine-tuning is on trained weights, the coefficient of `D^{-1/2}` is that of the theory where it is known
    /// ([`FiniteSize`](crate::lora::FiniteSize)), and `D^{-3/2}` is fitted beside `1/D` from five sizes on. Where it is not known, and if
    /// pre-training has an activation that is neither odd nor softmax, all half-integer powers are fitted, as far as the number of sizes
    /// allows. [`Row::extrapolation`](super::Row::extrapolation) tells which powers were fitted.
    pub order: Option<usize>,
    /// Memory in bytes that all instances trained at the same time, one per thread, may take; at most 2^40.
    /// An experiment that would need more is refused.
    pub memory_limit: u64,
}

impl Default for Laboratory {
    fn default() -> Self {
        Self {
            sizes: vec![Size { dimension: 60, instances: 16 }],
            seed: 0,
            frozen: FrozenLogits::Trained,
            test_sequences: 2048,
            pretraining_starts: 1,
            random_starts: 1,
            gradient_tolerance: 1e-6,
            max_iterations: 10_000,
            order: None,
            memory_limit: 4 << 30,
        }
    }
}

impl Laboratory {
    /// Checks every field separately.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] names the first field that is out of range.
    pub fn validate(&self) -> Result<(), Error> {
        if self.sizes.is_empty() {
            return Err(Error::invalid("laboratory.sizes", "[]", "one size at least"));
        }
        if self.sizes.len() > MAX_SIZES {
            let given = format!("[{} sizes]", self.sizes.len());
            return Err(Error::invalid("laboratory.sizes", given, format!("at most {MAX_SIZES} sizes")));
        }
        for (index, size) in self.sizes.iter().enumerate() {
            check::integer("laboratory.sizes.dimension", size.dimension, 2, 100_000)?;
            check::integer("laboratory.sizes.instances", size.instances, 2, 1_000_000)?;
            if self.sizes[..index].iter().any(|other| other.dimension == size.dimension) {
                return Err(Error::invalid("laboratory.sizes.dimension", size.dimension, "given only once"));
            }
        }
        let instances: usize = self.sizes.iter().map(|size| size.instances).sum();
        if instances > MAX_INSTANCES {
            let allowed = format!("at most {MAX_INSTANCES} at all sizes together");
            return Err(Error::invalid("laboratory.sizes.instances", instances, allowed));
        }
        check::integer("laboratory.test_sequences", self.test_sequences, 1, 10_000_000)?;
        check::integer("laboratory.pretraining_starts", self.pretraining_starts, 1, 100)?;
        check::integer("laboratory.random_starts", self.random_starts, 0, 100)?;
        if self.memory_limit > 1 << 40 {
            return Err(Error::invalid(
                "laboratory.memory_limit",
                self.memory_limit.to_string(),
                "at most 2^40",
            ));
        }
        check::positive("laboratory.gradient_tolerance", self.gradient_tolerance)?;
        check::integer("laboratory.max_iterations", self.max_iterations, 1, 10_000_000)?;
        if let Some(order) = self.order {
            check::integer("laboratory.order", order, 0, 4.min(self.sizes.len() - 1))?;
        }
        Ok(())
    }

    /// The highest power of `1/D` in an extrapolation.
    pub(super) fn order(&self) -> usize {
        self.order.unwrap_or(1)
    }

    pub(super) fn stopping(&self) -> Stopping {
        Stopping { gradient_tolerance: self.gradient_tolerance, max_iterations: self.max_iterations }
    }
}

/// Numbers of sequences and widths at one dimension. They are floats, because they are checked before
/// anything is allocated.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counts {
    dimension: f64,
    /// Number of sequences of pre-training, and the widths of student and teacher.
    pretraining: Option<[f64; 3]>,
    /// Number of sequences that are trained on, and number of those from which they are selected.
    finetuning: Option<[f64; 2]>,
}

/// Largest relative difference between a number and the integer it is rounded to.
const ROUNDING: f64 = 0.01;

impl Counts {
    pub(super) fn new(scenario: &Scenario, dimension: usize, synthetic: bool) -> Result<Self, Error> {
        let d = dimension as f64;
        let integer = |name: &'static str, value: f64| {
            let rounded = value.round();
            if rounded >= 1.0 && (value - rounded).abs() <= ROUNDING * value {
                return Ok(rounded);
            }
            let allowed = format!("a dimension at which {name} = {} is an integer to 1%", Number(value));
            Err(Error::invalid("laboratory.sizes.dimension", dimension, allowed))
        };
        let pretraining = match &scenario.pretrain {
            Some(pretraining) if !synthetic => {
                let teacher = match scenario.model.teacher() {
                    Some(Teacher::Wishart { kappa0 }) => integer("kappa0 D", kappa0 * d)?,
                    _ => d,
                };
                let sequences = integer("pretrain.alpha D^2", pretraining.alpha() * d * d)?;
                Some([sequences, integer("pretrain.kappa D", pretraining.kappa() * d)?, teacher])
            }
            _ => None,
        };
        let finetuning = match &scenario.lora {
            Some(finetuning) => {
                let kept = integer("lora.alpha D", finetuning.alpha() * d)?;
                let pool = match finetuning.sequences() {
                    Sequences::Active(selection) => (kept / selection.fraction()).round().max(kept),
                    Sequences::Fresh | Sequences::Reused => kept,
                };
                if let (Sequences::Reused, Some([available, ..])) = (finetuning.sequences(), pretraining)
                    && kept > available
                {
                    let allowed = format!("so large that there are {kept} sequences to reuse");
                    return Err(Error::invalid("laboratory.sizes.dimension", dimension, allowed));
                }
                Some([kept, pool])
            }
            None => None,
        };
        Ok(Self { dimension: d, pretraining, finetuning })
    }

    /// The approximate number of bytes that one instance takes.
    pub(super) fn bytes(&self, attention: Attention, tokens: usize) -> f64 {
        let (d, t) = (self.dimension, tokens as f64);
        // Cross-attention has two factors, and two sequences for each loss.
        let factors = attention.factors();
        // Every sequence has its tokens, their projections, and about twelve matrices of size T x T.
        let sequences = |count: f64, width: f64| count * t * (d + 3.0 * width + 12.0 * t);
        let vectors = (2 * minimise::MEMORY + 12 + MAX_CHUNKS) as f64;
        let pretraining = self.pretraining.map_or(0.0, |[count, width, teacher]| {
            factors * (sequences(count, width.max(teacher)) + vectors * d * width + 2.0 * d * teacher)
                + 6.0 * d * d
        });
        let finetuning = self.finetuning.map_or(0.0, |[kept, pool]| {
            factors * (sequences(kept, 1.0) + sequences(pool, 1.0) + vectors * d)
        });
        let numbers = pretraining + finetuning + sequences(TEST_BATCH as f64, d);
        numbers * std::mem::size_of::<f64>() as f64
    }

    /// The number of sequences of pre-training and the width of the student.
    pub(super) fn pretraining(&self) -> Option<[usize; 2]> {
        self.pretraining.map(|[count, width, _]| [count as usize, width as usize])
    }

    /// The number of sequences of fine-tuning, and the size of the pool from which they are selected.
    pub(super) fn finetuning(&self) -> Option<[usize; 2]> {
        self.finetuning.map(|counts| counts.map(|x| x as usize))
    }
}

/// Refuses an experiment that would take too much memory on the given number of threads.
pub(super) fn check_memory(
    scenario: &Scenario,
    laboratory: &Laboratory,
    synthetic: bool,
    threads: usize,
) -> Result<(), Error> {
    for size in &laboratory.sizes {
        let one = Counts::new(scenario, size.dimension, synthetic)?
            .bytes(scenario.model.attention(), scenario.model.tokens());
        let bytes = one * threads.min(size.instances) as f64;
        if bytes > laboratory.memory_limit as f64 {
            let limit = laboratory.memory_limit;
            let allowed = format!(
                "smaller, or laboratory.memory_limit = {limit} larger, or a pool of fewer threads than {threads}: {bytes:.3e} bytes are needed"
            );
            return Err(Error::invalid("laboratory.sizes.dimension", size.dimension, allowed));
        }
    }
    Ok(())
}
