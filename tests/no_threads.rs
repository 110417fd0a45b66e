//! Where the operating system starts no threads, every solve that needs them says so by an error, and none panics.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

use lora_asymptotics::state_evolution::{GaussianNodes, Tuning};
use lora_asymptotics::{Error, Model, Options, Teacher, lora, pretrain};

/// Set in the process whose threads are refused.
const REFUSED: &str = "THREADS_ARE_REFUSED";

#[test]
fn a_pool_that_cannot_start_is_an_error() {
    if std::env::var_os(REFUSED).is_some() {
        return every_solve_reports_it();
    }
    // No address space has room for the stack of such a thread.
    let stack = (1_u64 << 62).to_string();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_pool_that_cannot_start_is_an_error", "--test-threads=1"])
        .env(REFUSED, "1")
        .env("RUST_MIN_STACK", stack)
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && output.contains("1 passed"), "{output}");
}

fn every_solve_reports_it() {
    let options = Options::default().with_log2_nodes(8).unwrap();
    let linear = Model::linear(2, 0.5).unwrap();
    let softmax = Model::softmax(2, 0.5).unwrap().with_teacher(Teacher::Wishart { kappa0: 1.0 }).unwrap();
    // The errors of the bound are sampled from five tokens on.
    let many = Model::softmax(5, 0.5).unwrap().with_teacher(Teacher::Wishart { kappa0: 1.0 }).unwrap();
    let pretraining = pretrain::Training::new(1.0, 0.1).unwrap();
    let finetuning = lora::Training::fresh(3.0, 0.2).unwrap();
    let frozen = lora::Frozen::new(1.5, 1.3, 1.25).unwrap();
    let mut failures = vec![
        ("pretrain::solve", pretrain::solve(&softmax, &pretraining, &options).err()),
        ("pretrain::lambda_collapse", pretrain::lambda_collapse(&softmax, &pretraining, &options).err()),
        ("pretrain::bayes_optimal", pretrain::bayes_optimal(&many, 1.0, &options).err()),
    ];
    for model in [&linear, &softmax] {
        failures.extend([
            ("lora::solve", lora::solve(model, &frozen, &finetuning, &options).err()),
            ("lora::weak_recovery", lora::weak_recovery(model, &frozen, &finetuning, &options).err()),
            (
                "lora::alpha_weak_recovery",
                lora::alpha_weak_recovery(model, &frozen, &finetuning, &options).err(),
            ),
            ("lora::loss_channel", lora::loss_channel(model, &frozen, &finetuning, &options).err()),
            ("lora::bayes_optimal", lora::bayes_optimal(model, &frozen, 3.0, 1.0, &options).err()),
        ]);
    }
    failures.push((
        "lora::lambda_collapse",
        lora::lambda_collapse(&softmax, &frozen, &finetuning, &options).err(),
    ));
    failures.push(("GaussianNodes::new", GaussianNodes::<2>::new(&options, &Tuning::default()).err()));
    for (name, error) in failures {
        assert!(matches!(error, Some(Error::Threads(_))), "{name}: {error:?}");
    }
    // What needs no threads still works.
    let taught = linear.with_teacher(Teacher::Wishart { kappa0: 1.0 }).unwrap();
    assert!(pretrain::solve(&taught, &pretraining, &options).unwrap().status.is_success());
}
