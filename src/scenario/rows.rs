//! Outcomes as flat lists of numbers, for tables.

use super::outcome::{Bound, Outcome};
use crate::lora::{self, BayesBranch};
use crate::pretrain;

/// A number of an outcome.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Quantity {
    /// The path of the number in the outcome, as in the JSON schema: `pretrain.order.q`.
    pub name: String,
    /// The number; NaN where JSON has `null`.
    pub value: f64,
    /// The standard error of the number; `None` where there is none (see [`StdError`](crate::StdError)).
    pub std_error: Option<f64>,
}

/// The quantities of one stage, before the name of the stage is put in front.
type Rows = Vec<(&'static str, f64, Option<f64>)>;

impl Outcome {
    /// All numbers of the outcome with their standard errors, in the order of the schema. Numbers that are absent have no row.
    ///
    /// ```
    /// let scenario = lora_asymptotics::Scenario::from_json(r#"{
    ///     "model":    {"tokens": 3, "activation": "linear", "delta": 0.5, "teacher": {"wishart": {"kappa0": 1.0}}},
    ///     "pretrain": {"alpha": 0.1, "lambda": 0.1}
    /// }"#)?;
    /// let rows = scenario.solve()?.rows();
    /// assert_eq!(rows[0].name, "pretrain.order.q");
    /// assert!(rows[0].value > 0.0 && rows[0].std_error.is_none());
    /// # Ok::<(), lora_asymptotics::Error>(())
    /// ```
    #[must_use]
    pub fn rows(&self) -> Vec<Quantity> {
        let mut rows = Vec::new();
        rows.extend(self.pretrain.iter().flat_map(|stage| named("pretrain", pretraining(stage))));
        rows.extend(self.lora.iter().flat_map(|stage| named("lora", finetuning(stage))));
        rows.extend(self.lora.iter().flat_map(columns));
        if let Some(Bound { pretrain, lora, .. }) = &self.bayes_optimal {
            // If the Bayes-optimal estimator is alone, its stages take the names of the others.
            let beside = self.pretrain.is_some() || self.lora.is_some();
            let [first, second] =
                if beside { ["bayes_optimal.pretrain", "bayes_optimal.lora"] } else { ["pretrain", "lora"] };
            rows.extend(pretrain.iter().flat_map(|stage| named(first, pretraining_bound(stage))));
            rows.extend(lora.iter().flat_map(|stage| named(second, finetuning_bound(stage))));
        }
        rows
    }
}

fn named(stage: &'static str, rows: Rows) -> impl Iterator<Item = Quantity> {
    rows.into_iter().map(move |(name, value, std_error)| Quantity {
        name: format!("{stage}.{name}"),
        value,
        std_error,
    })
}

fn pretraining(stage: &pretrain::Solution) -> Rows {
    let pretrain::Solution { order, errors, validity, std_error: error, .. } = stage;
    let mut rows = vec![
        ("order.q", order.q, error.q),
        ("order.m", order.m, error.m),
        ("order.v", order.v, error.v),
        ("order.q_hat", order.q_hat, error.q_hat),
        ("order.m_hat", order.m_hat, error.m_hat),
        ("order.v_hat", order.v_hat, error.v_hat),
        ("q0", stage.q0, None),
        ("trace", stage.trace, error.trace),
        ("rank_fraction", stage.rank_fraction, error.rank_fraction),
        ("objective", stage.objective, error.objective),
        ("errors.test", errors.test, error.test),
        ("errors.test_clean", errors.test_clean, error.test_clean),
        ("errors.train", errors.train, error.train),
        ("alignment", stage.alignment, error.alignment),
        ("validity.contested", validity.contested, error.contested),
    ];
    rows.extend(validity.replicon.map(|replicon| ("validity.replicon", replicon, error.replicon)));
    rows.push(("residual", stage.residual, None));
    rows.push(("iterations", stage.iterations as f64, None));
    rows
}

fn finetuning(stage: &lora::Solution) -> Rows {
    let lora::Solution { order, errors, validity, std_error: error, .. } = stage;
    let mut rows = vec![
        ("order.q", order.q, error.q),
        ("order.m", order.m, error.m),
        ("order.v", order.v, error.v),
        ("order.q_hat", order.q_hat, error.q_hat),
        ("order.m_hat", order.m_hat, error.m_hat),
        ("order.v_hat", order.v_hat, error.v_hat),
        ("order.eta", order.eta, error.eta),
        ("objective", stage.objective, error.objective),
        ("errors.test", errors.test, error.test),
        ("errors.test_clean", errors.test_clean, error.test_clean),
        ("errors.train", errors.train, error.train),
        ("errors.frozen", errors.frozen, error.frozen),
        ("errors.forgetting", errors.forgetting, error.forgetting),
        ("alignment", stage.alignment, error.alignment),
    ];
    if let Some(noise) = &stage.effective_noise {
        rows.extend(noise.train.map(|train| ("effective_noise.train", train, None)));
        rows.push(("effective_noise.test", noise.test, None));
    }
    rows.push(("validity.jump", validity.jump, error.jump));
    rows.push(("validity.replicon", validity.replicon, error.replicon));
    rows.push(("residual", stage.residual, None));
    rows.push(("iterations", stage.iterations as f64, None));
    rows
}

/// The numbers of the columns of the weights, and the cosines.
fn columns(stage: &lora::Solution) -> Vec<Quantity> {
    let mut rows = Vec::new();
    let mut push = |name: String, value: f64, std_error: Option<f64>| {
        rows.push(Quantity { name: format!("lora.{name}"), value, std_error });
    };
    for (number, column) in stage.columns.iter().enumerate() {
        for (factor, order) in column.orders() {
            let error = &order.std_error;
            for (name, value, std_error) in [
                ("q", order.q, error.q),
                ("m", order.m, error.m),
                ("v", order.v, error.v),
                ("q_hat", order.q_hat, error.q_hat),
                ("m_hat", order.m_hat, error.m_hat),
                ("v_hat", order.v_hat, error.v_hat),
            ] {
                push(format!("columns.{number}.{factor}{name}"), value, std_error);
            }
            if let Some(alignment) = order.alignment {
                push(format!("columns.{number}.{factor}alignment"), alignment, error.alignment);
            }
        }
    }
    for (number, cosine) in stage.cosines.iter().enumerate() {
        push(format!("cosines.{number}"), *cosine, None);
    }
    rows
}

fn pretraining_bound(stage: &pretrain::BayesSolution) -> Rows {
    let pretrain::BayesSolution { order, errors, std_error: error, .. } = stage;
    let mut rows = vec![
        ("order.q", order.q, error.q),
        ("order.q_hat", order.q_hat, error.q_hat),
        ("q0", stage.q0, None),
        ("errors.test", errors.test, error.test),
        ("errors.test_clean", errors.test_clean, error.test_clean),
        ("alignment", stage.alignment, error.alignment),
    ];
    rows.extend(stage.alpha_c.map(|alpha_c| ("alpha_c", alpha_c, error.alpha_c)));
    rows.push(("residual", stage.residual, None));
    rows.push(("iterations", stage.iterations as f64, None));
    rows
}

fn finetuning_bound(stage: &lora::BayesSolution) -> Rows {
    let lora::BayesSolution { order, errors, branches, std_error: error, .. } = stage;
    let BayesBranch { q, alignment, errors: algorithmic, free_energy } = &branches.algorithmic;
    let other = &branches.information_theoretic;
    vec![
        ("order.q", order.q, error.q),
        ("order.q_hat", order.q_hat, error.q_hat),
        ("errors.test", errors.test, error.test),
        ("errors.test_clean", errors.test_clean, error.test_clean),
        ("errors.frozen", errors.frozen, error.frozen),
        ("alignment", stage.alignment, error.alignment),
        // The standard errors are those of the algorithmic branch.
        ("branches.algorithmic.q", *q, error.q),
        ("branches.algorithmic.alignment", *alignment, error.alignment),
        ("branches.algorithmic.errors.test", algorithmic.test, error.test),
        ("branches.algorithmic.errors.test_clean", algorithmic.test_clean, error.test_clean),
        ("branches.algorithmic.errors.frozen", algorithmic.frozen, error.frozen),
        ("branches.algorithmic.free_energy", *free_energy, None),
        ("branches.information_theoretic.q", other.q, None),
        ("branches.information_theoretic.alignment", other.alignment, None),
        ("branches.information_theoretic.errors.test", other.errors.test, None),
        ("branches.information_theoretic.errors.test_clean", other.errors.test_clean, None),
        ("branches.information_theoretic.errors.frozen", other.errors.frozen, None),
        ("branches.information_theoretic.free_energy", other.free_energy, None),
        ("alpha_c", stage.alpha_c, error.alpha_c),
        ("residual", stage.residual, None),
        ("iterations", stage.iterations as f64, None),
    ]
}
