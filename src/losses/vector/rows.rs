//! The errors of softmax on new sequences, as means over one row of the logits.

use crate::channel::{NormalPair, PerturbedPair, RowColumns, RowTables};
use crate::error::Error;
use crate::fields::JointLaw;
use crate::losses::vector::moments::VectorOverlaps;
use crate::losses::vector::test_law::{ReplicatedErrors, ScrambleErrors, TestErrors};
use crate::options::Options;

/// Relative step of the finite differences that carry the errors to the fixed points of the replicates.
const DIFFERENCE: f64 = 1e-3;

/// The laws of the two attention matrices of new sequences.
struct TestLaws {
    tokens: usize,
    coupling: f64,
    noisy: NormalPair,
    clean: NormalPair,
}

impl TestLaws {
    fn pair(&self, logits: NormalPair, q: f64, m: f64) -> PerturbedPair {
        PerturbedPair {
            logits,
            chi: NormalPair { variances: [q, 1.0], covariance: m },
            coupling: self.coupling,
        }
    }

    /// The learned perturbation beside the label of the pre-training, which has none.
    fn pair_of_pretraining(&self, q: f64) -> PerturbedPair {
        PerturbedPair {
            logits: self.noisy,
            chi: NormalPair { variances: [q, 0.0], covariance: 0.0 },
            coupling: self.coupling,
        }
    }

    /// Noisy error, clean error, and error on the task of pre-training, at `q` and `m`.
    fn errors(
        &self,
        error: &mut impl FnMut(PerturbedPair) -> Result<f64, Error>,
        q: f64,
        m: f64,
    ) -> Result<[f64; 3], Error> {
        Ok([
            error(self.pair(self.noisy, q, m))?,
            error(self.pair(self.clean, q, m))?,
            error(self.pair_of_pretraining(q))?,
        ])
    }

    /// The errors by quadrature, where that is possible. Those of the replicates are to first order in their distance from
    /// the common fixed point, as the fixed points of the replicates themselves.
    fn by_quadrature(&self, common: &VectorOverlaps, own: &[VectorOverlaps]) -> Option<ReplicatedErrors> {
        // Errors share tables, those at one `q` most of them.
        let mut tables = RowTables::new(self.tokens);
        let (q, m) = (common.q(), common.m);
        let pairs = |q: f64, m: f64| [self.noisy, self.clean].map(|logits| self.pair(logits, q, m));
        let places = pairs(q, m);
        let mut errors = |pairs: [PerturbedPair; 2]| -> Option<[f64; 2]> {
            let mut error = |k: usize| pairs[k].by_quadrature_beside(&places[k], &mut tables);
            Some([error(0)?, error(1)?])
        };
        let here = errors(places)?;
        let slope = |moved: f64, here: f64, step: f64| if step == 0.0 { 0.0 } else { (moved - here) / step };
        let slopes = |moved: [f64; 2], step: f64| [0, 1].map(|k| slope(moved[k], here[k], step));
        // The steps stay within m^2 <= q.
        let along_q = slopes(errors(pairs(q * (1.0 + DIFFERENCE), m))?, q * DIFFERENCE);
        let along_m = slopes(errors(pairs(q, m * (1.0 - DIFFERENCE)))?, -m * DIFFERENCE);
        let mut forgetting = |q: f64| self.pair_of_pretraining(q).by_quadrature(&mut tables);
        let forgotten = forgetting(q)?;
        let forgetting_along_q = slope(forgetting(q * (1.0 + DIFFERENCE))?, forgotten, q * DIFFERENCE);
        let frozen = self.pair(self.noisy, 0.0, 0.0).by_quadrature(&mut tables)?;
        let moved = |point: &VectorOverlaps| {
            let [test, test_clean] =
                [0, 1].map(|k| here[k] + along_q[k] * (point.q() - q) + along_m[k] * (point.m - m));
            let forgetting = forgotten + forgetting_along_q * (point.q() - q);
            TestErrors { test, test_clean, frozen, forgetting }
        };
        let [test, test_clean] = here;
        Some(ReplicatedErrors {
            common: TestErrors { test, test_clean, frozen, forgetting: forgotten },
            own: own.iter().map(moved).collect(),
        })
    }
}

/// The errors for 2 to 8 tokens. `coupling` is the inverse temperature times `q0`.
pub(crate) fn test_errors(
    tokens: usize,
    law: &JointLaw,
    coupling: f64,
    options: &Options,
    common: &VectorOverlaps,
    own: &[VectorOverlaps],
) -> Result<ReplicatedErrors, Error> {
    let [noisy, clean] = law.new_sequences();
    let laws = TestLaws { tokens, coupling, noisy, clean };
    if let Some(errors) = laws.by_quadrature(common, own) {
        return Ok(errors);
    }
    ReplicatedErrors::sampled(options, common, own, |scramble, [first, second]| {
        let columns = RowColumns::new(tokens, true, options, scramble)?;
        let mut error = |pair: PerturbedPair| pair.mean(tokens, &columns);
        let [test, test_clean, forgetting] = laws.errors(&mut error, first.q(), first.m)?;
        let frozen = error(laws.pair(laws.noisy, 0.0, 0.0))?;
        let own = laws.errors(&mut error, second.q(), second.m)?;
        Ok(ScrambleErrors { common: TestErrors { test, test_clean, frozen, forgetting }, own })
    })
}
