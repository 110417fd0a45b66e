//! `lora-asymptotics compare`: trained networks beside the prediction.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::fs;

use common::{answer, folder, said, status, written};
use serde_json::{Value, json};

fn experiment(name: &str, seed: u64) -> String {
    json!({
        "name": name,
        "scenario": {
            "model": {"tokens": 2, "activation": "linear", "delta": 0.5},
            "frozen": {"q0": 2.0, "q": 1.2, "m": 1.1},
            "lora": {"alpha": 3.0, "lambda": 1.0},
            "options": {"log2_nodes": 8},
        },
        "laboratory": {"sizes": [{"dimension": 20, "instances": 4}, {"dimension": 40, "instances": 4}], "seed": seed, "test_sequences": 64},
    })
    .to_string()
}

#[test]
fn a_second_run_finds_everything_done() {
    let folder = folder("compare");
    let [experiments, out] = ["experiments.jsonl", "out"].map(|name| folder.join(name));
    fs::write(&experiments, format!("{}\n{}", experiment("one", 1), experiment("two", 2))).unwrap();
    let [experiments, out] = [&experiments, &out].map(|path| path.to_str().unwrap());
    let first = answer(&["compare", experiments, "--out", out], b"");
    assert_eq!(status(&first), Some(0), "{}", said(&first));
    assert!(written(&first).contains("extrapolated from [20, 40]"), "{}", written(&first));
    assert!(written(&first).contains("all of fine-tuning"), "{}", written(&first));
    let file = |name: &str| fs::read_to_string(format!("{out}/{name}")).unwrap();
    // Each experiment has eight instances. The table has every observable extrapolated, and at two sizes.
    let records = file("1/records.jsonl");
    assert_eq!(records.lines().count(), 8);
    let table: Vec<Vec<String>> = csv::Reader::from_reader(file("1/comparison.csv").as_bytes())
        .records()
        .map(|row| row.unwrap().iter().map(str::to_owned).collect())
        .collect();
    let comparison: Value = serde_json::from_str(&file("1/comparison.json")).unwrap();
    let rows = comparison["rows"].as_array().unwrap();
    assert_eq!(table.len(), 3 * rows.len());
    let alignment = rows.iter().find(|row| row["observable"] == "alignment").unwrap();
    assert!(table.iter().any(|row| row[1] == "alignment"
        && row[2] == "40"
        && serde_json::from_str::<Value>(&row[6]).unwrap() == alignment["sizes"][1]["mean"]));
    assert_eq!(file("comparisons.csv").lines().count(), 1 + 2 * rows.len());

    let second = answer(&["compare", experiments, "--out", out, "--threads", "1"], b"");
    assert_eq!((status(&second), written(&second)), (Some(0), written(&first)));
    assert_eq!(file("1/records.jsonl"), records);
}

#[test]
fn the_experiment_that_is_printed_is_one_that_is_read() {
    let folder = folder("compare_print");
    let printed = answer(&["compare", "--print"], b"");
    assert_eq!(status(&printed), Some(0));
    let path = folder.join("experiment.json");
    fs::write(&path, written(&printed)).unwrap();
    let again = answer(&["compare", path.to_str().unwrap(), "--print"], b"");
    assert_eq!((status(&again), written(&again)), (Some(0), written(&printed)));

    fs::write(&path, experiment("wrong", 1).replace("laboratory", "labratory")).unwrap();
    let refused = answer(&["compare", path.to_str().unwrap()], b"");
    assert_eq!((status(&refused), written(&refused)), (Some(1), ""));
    assert!(said(&refused).contains("labratory"), "{}", said(&refused));
}
