//! `lora-asymptotics optimize`: the options reach the search, and its answers are lines.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use common::{SCENARIO, answer, said, status, written};
use lora_asymptotics::Scenario;
use lora_asymptotics::optimize::{Optimum, Parameter, Settings, Target, Variable, minimize};

#[test]
fn the_answer_is_that_of_the_library() {
    let input = format!("{SCENARIO}\nnonsense\n");
    let output = answer(
        &[
            "optimize",
            "--target",
            "pretrain_test",
            "--over",
            "pretrain_lambda=0.001..1",
            "--tolerance",
            "1e-3",
            "--scan",
            "5",
        ],
        input.as_bytes(),
    );
    assert_eq!((status(&output), said(&output)), (Some(1), ""));
    let [optimum, refusal] = written(&output).lines().collect::<Vec<_>>().try_into().unwrap();
    let scenario = Scenario::from_json(SCENARIO).unwrap();
    let ridge = Variable::new(Parameter::PretrainLambda, 1e-3, 1.0).unwrap();
    let settings = Settings { tolerance: 1e-3, scan: 5, ..Settings::default() };
    let expected = minimize(&scenario, Target::PretrainTest, &[ridge], &settings).unwrap();
    assert_eq!(serde_json::from_str::<Optimum>(optimum).unwrap(), expected);
    assert!(refusal.contains("\"syntax\""), "{refusal}");
}

#[test]
fn a_budget_is_split_and_explained() {
    let output = answer(
        &[
            "optimize",
            "--target",
            "lora_test",
            "--over",
            "finetuning_share=0.1..0.9",
            "--total",
            "1",
            "--price",
            "0.2",
            "--max-solves",
            "20",
            "--tolerance",
            "0.01",
            "--explain",
        ],
        SCENARIO.as_bytes(),
    );
    assert_eq!((status(&output), said(&output)), (Some(0), ""));
    let text = written(&output);
    assert!(text.starts_with("finetuning_share = 0."), "{text}");
    assert!(text.contains("target = ") && text.contains("Fine-tuning: converged"), "{text}");
}

#[test]
fn wrong_options_are_wrong_calls() {
    for (options, reason) in [
        (&["--target", "lora_test"][..], "--over"),
        (&["--over", "beta=0.5..2"], "--target"),
        (&["--target", "test", "--over", "beta=0.5..2"], "pretrain_test"),
        (&["--target", "lora_test", "--over", "beta=0.5"], "NAME=LOW..HIGH"),
        (&["--target", "lora_test", "--over", "beta=2..1"], "variable.low"),
        (&["--target", "lora_test", "--over", "gamma=1..2"], "gamma"),
        (&["--target", "lora_test", "--over", "finetuning_share=0.1..0.9"], "--price"),
        (&["--target", "lora_test", "--over", "beta=0.5..2", "--total", "1"], "--price"),
    ] {
        let output = answer(&[&["optimize"], options].concat(), SCENARIO.as_bytes());
        assert_eq!((status(&output), written(&output)), (Some(2), ""), "{options:?}");
        assert!(said(&output).contains(reason), "{options:?}: {}", said(&output));
    }
    // A search that the scenario does not allow is an error of the line.
    let output = answer(
        &["optimize", "--target", "lora_test", "--over", "beta=0.5..2"],
        SCENARIO.replace(r#", "lora": {"alpha": 3.0, "lambda": 0.5}"#, "").as_bytes(),
    );
    assert_eq!(status(&output), Some(1));
    assert!(written(&output).contains("\"missing_field\""), "{}", written(&output));
}
