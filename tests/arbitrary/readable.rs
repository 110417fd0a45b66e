//! Every readable type is read from any JSON, and from valid JSON with changes. A value that was read can be
//! written and read again.

use lora_asymptotics::simulate::{
    self, Comparison, Estimate, Laboratory, Measurement, MessagePassing, Size, Trajectory,
};
use lora_asymptotics::{
    ActivationName, Attention, Bound, Estimator, Model, Options, Outcome, Scenario, Start, StdError, Teacher,
    fixed_point, lora, optimize, pretrain, sweep,
};
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::sync::LazyLock;

use super::values::{apply, change, config, json};

/// Reads a value as one type. If that succeeds, the result is written and read again.
fn reads<T: DeserializeOwned + Serialize>(value: &Value) {
    if let Ok(read) = serde_json::from_value::<T>(value.clone()) {
        let written = serde_json::to_value(&read).expect("what is read can be written");
        // NaN is written as null, which a plain number does not read. The error must not be a panic.
        let _ = serde_json::from_value::<T>(written);
    }
    let _ = serde_json::from_str::<T>(&value.to_string());
}

/// Reads a value as every public type.
fn reads_all(value: &Value) {
    reads::<ActivationName>(value);
    reads::<Attention>(value);
    reads::<Teacher>(value);
    reads::<Model>(value);
    reads::<Options>(value);
    reads::<Start>(value);
    reads::<StdError>(value);
    reads::<Estimator>(value);
    reads::<Scenario>(value);
    reads::<Outcome>(value);
    reads::<Bound>(value);
    reads::<fixed_point::Status>(value);
    reads::<pretrain::Training>(value);
    reads::<pretrain::Order>(value);
    reads::<pretrain::Errors>(value);
    reads::<pretrain::Solution>(value);
    reads::<pretrain::BayesSolution>(value);
    reads::<pretrain::SpectrumTable>(value);
    reads::<lora::Frozen>(value);
    reads::<lora::Sequences>(value);
    reads::<lora::Training>(value);
    reads::<lora::Order>(value);
    reads::<lora::Errors>(value);
    reads::<lora::Solution>(value);
    reads::<lora::Validity>(value);
    reads::<lora::WeakRecoveryThreshold>(value);
    reads::<lora::BayesSolution>(value);
    reads::<optimize::Target>(value);
    reads::<optimize::Parameter>(value);
    reads::<optimize::Variable>(value);
    reads::<optimize::Settings>(value);
    reads::<optimize::Optimum>(value);
    reads::<sweep::Scale>(value);
    reads::<sweep::Axis>(value);
    reads::<sweep::Sweep>(value);
    reads::<sweep::Record>(value);
    reads::<Size>(value);
    reads::<Laboratory>(value);
    reads::<Measurement>(value);
    reads::<Comparison>(value);
    reads::<simulate::Row>(value);
    reads::<Estimate>(value);
    reads::<MessagePassing>(value);
    reads::<Trajectory>(value);
}

/// Valid texts: scenarios, grids and laboratories of the corpus, and the results of one scenario.
static VALID: LazyLock<Vec<Value>> = LazyLock::new(|| {
    let scenario = json!({
        "model": {"tokens": 2, "activation": "linear", "delta": 0.5, "teacher": {"wishart": {"kappa0": 0.5}}},
        "pretrain": {"alpha": 0.2, "lambda": 0.1}, "lora": {"alpha": 3.0, "lambda": 0.5}, "estimator": "both",
        "options": {"log2_nodes": 6, "scrambles": 2},
    });
    let read: Scenario = serde_json::from_value(scenario.clone()).expect("a scenario");
    let outcome = serde_json::to_value(read.solve().expect("an outcome")).expect("JSON");
    let estimate = json!({"mean": 1.0, "std_error": 0.1});
    let variable =
        json!({"parameter": {"finetuning_share": {"total": 1.0, "price": 0.1}}, "low": 0.1, "high": 0.9});
    let row = json!({"stage": "lora", "observable": "q", "theory": estimate, "simulation": estimate, "z": 0.5,
                     "sizes": [{"dimension": 10, "instances": 2, "mean": 1.0, "std_error": 0.1}]});
    vec![
        json!({"scenario": scenario, "axes": [{"field": "lora.alpha", "from": 1.0, "to": 2.0, "count": 3, "scale": "log"},
                                              {"field": "model.delta", "values": [0.1, 0.2]}]}),
        json!({"field": "lora.alpha", "from": 1.0, "to": 2.0, "count": 3, "scale": "log"}),
        json!({"index": 1, "values": [0.5], "outcome": outcome}),
        json!({"found": [{"parameter": "beta", "value": 1.0, "at_bound": "lower", "uncertainty": 0.1}], "value": 1.0,
               "std_error": 0.1, "outcome": outcome, "solves": 3, "excluded": 1, "converged": true}),
        json!({"rows": [row], "unconverged": 0}),
        json!({"dimension": 5, "instances": 2, "iterations": [{"m": estimate, "q": estimate, "state_evolution": 0.5}]}),
        json!({"sizes": [{"dimension": 10, "instances": 2}], "frozen": "synthetic", "order": 0}),
        json!({"atom": 0.5, "rank_fraction": 0.5, "components": [{"low": 0.0, "high": 1.0, "weight": 0.5, "outlier": false}],
               "eigenvalues": [0.1, 0.2], "density": [1.0, 2.0]}),
        outcome["pretrain"].clone(),
        outcome["lora"].clone(),
        outcome["bayes_optimal"].clone(),
        outcome["bayes_optimal"]["lora"].clone(),
        outcome,
        scenario,
        variable,
        estimate,
    ]
});

#[test]
fn valid_texts_are_read() {
    assert!(serde_json::from_value::<sweep::Sweep>(VALID[0].clone()).is_ok());
    assert!(serde_json::from_value::<sweep::Axis>(VALID[1].clone()).is_ok());
    assert!(serde_json::from_value::<sweep::Record>(VALID[2].clone()).is_ok());
    assert!(serde_json::from_value::<optimize::Optimum>(VALID[3].clone()).is_ok());
    assert!(serde_json::from_value::<Comparison>(VALID[4].clone()).is_ok());
    assert!(serde_json::from_value::<Trajectory>(VALID[5].clone()).is_ok());
    assert!(serde_json::from_value::<Laboratory>(VALID[6].clone()).is_ok());
    assert!(serde_json::from_value::<pretrain::SpectrumTable>(VALID[7].clone()).is_ok());
    assert!(serde_json::from_value::<Outcome>(VALID[12].clone()).is_ok());
    assert!(serde_json::from_value::<optimize::Variable>(VALID[14].clone()).is_ok());
    VALID.iter().for_each(reads_all);
}

proptest! {
    #![proptest_config(config(1))]

    #[test]
    fn any_json(value in json()) {
        reads_all(&value);
    }

    #[test]
    fn changed(which in any::<prop::sample::Index>(), changes in prop::collection::vec(change(), 1..4)) {
        let mut value = which.get(&VALID).clone();
        changes.iter().for_each(|change| apply(&mut value, change));
        reads_all(&value);
    }
}
