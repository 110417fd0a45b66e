//! `lora-asymptotics sweep`: grids, shards, and what is left after an interruption.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{SCENARIO, answer, folder, said, status};
use serde_json::{Value, json};

/// A grid of `rows` rows with `columns` points.
fn grid(path: &Path, rows: usize, columns: usize) -> String {
    let scenario: Value = serde_json::from_str(SCENARIO).unwrap();
    let grid = json!({"scenario": scenario, "axes": [
        {"field": "lora.alpha", "from": 2.0, "to": 4.0, "count": rows},
        {"field": "pretrain.lambda", "from": 1.0, "to": 0.01, "count": columns, "scale": "log"},
    ]});
    fs::write(path, grid.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

fn sweep(grid: &str, out: &Path, more: &[&str]) -> std::process::Output {
    let all = [&["sweep", grid, "--out", out.to_str().unwrap()], more].concat();
    answer(&all, b"")
}

#[test]
fn shards_make_up_the_whole_and_nothing_is_solved_twice() {
    let folder = folder("sweep_shards");
    let grid = grid(&folder.join("grid.json"), 3, 4);
    let out = |name: &str| -> PathBuf { folder.join(name) };
    let whole = sweep(&grid, &out("whole.jsonl"), &[]);
    assert_eq!(status(&whole), Some(0), "{}", said(&whole));
    assert!(said(&whole).starts_with("12 of 12 points"), "{}", said(&whole));
    let mut joined = Vec::new();
    for shard in ["1/2", "2/2"] {
        let path = out(&format!("part{}.jsonl", &shard[..1]));
        assert_eq!(status(&sweep(&grid, &path, &["--shard", shard, "--threads", "1"])), Some(0));
        joined.extend(fs::read(path).unwrap());
    }
    let whole = fs::read(out("whole.jsonl")).unwrap();
    assert!(joined == whole, "the shards, one after the other, differ from the whole");
    let records: Vec<Value> = whole
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();
    assert_eq!(records.len(), 12);
    assert_eq!(records[5]["values"].as_array().unwrap().len(), 2);
    assert_eq!(records[5]["outcome"]["lora"]["status"], "converged");

    // The results of another shard are not overwritten.
    let other = sweep(&grid, &out("part1.jsonl"), &["--shard", "2/2"]);
    assert_eq!(status(&other), Some(1));
    assert!(said(&other).contains("another computation"), "{}", said(&other));
    assert_eq!(status(&sweep(&grid, &out("x.jsonl"), &["--shard", "3/2"])), Some(2));
}

#[test]
fn a_grid_may_be_toml_and_a_point_that_cannot_be_solved_is_told() {
    let folder = folder("sweep_toml");
    let text = r#"
        [scenario]
        model = { tokens = 2, activation = "linear", delta = 0.5, teacher = { wishart = { kappa0 = 0.5 } } }
        pretrain = { alpha = 0.2, lambda = 0.1 }
        [[axes]]
        field = "pretrain.kappa"
        values = [1.0, 0.01]
    "#;
    let grid = folder.join("grid.toml");
    fs::write(&grid, text).unwrap();
    let out = folder.join("out.jsonl");
    // The student of the second point is narrower than what it learns. A second run finds the error in the file.
    for _ in 0..2 {
        let output = sweep(grid.to_str().unwrap(), &out, &[]);
        assert_eq!(status(&output), Some(1), "{}", said(&output));
        assert!(said(&output).contains("1 of them could not be solved"), "{}", said(&output));
    }
    assert!(fs::read_to_string(&out).unwrap().contains("rank_does_not_fit"));
    for (text, reason) in [("[scenario]", "model"), ("axes = [", "TOML"), (text.trim_end(), "")] {
        let text = text.replace("pretrain.kappa", "pretrain.kapa");
        fs::write(&grid, text).unwrap();
        let output = sweep(grid.to_str().unwrap(), &folder.join("bad.jsonl"), &[]);
        assert_eq!(status(&output), Some(1));
        assert!(said(&output).contains(reason) && !said(&output).is_empty(), "{}", said(&output));
    }
    assert!(!folder.join("bad.jsonl").exists(), "a grid that is refused leaves no file");
}

#[cfg(unix)]
mod interruptions {
    use std::fs;
    use std::process::Child;
    use std::thread;
    use std::time::Duration;

    use super::common::{folder, interrupt, program, said, status};
    use super::{grid, sweep};

    #[test]
    fn an_interrupted_sweep_goes_on_where_it_was() {
        let folder = folder("sweep_interrupted");
        let grid = grid(&folder.join("grid.json"), 20, 20);
        let [whole, out] = ["whole.jsonl", "out.jsonl"].map(|name| folder.join(name));
        assert_eq!(status(&sweep(&grid, &whole, &[])), Some(0));
        let records = || fs::read_to_string(&out).unwrap_or_default().lines().count();
        let begun = || -> (Child, usize) {
            let before = records();
            let arguments = ["sweep", &grid, "--out", out.to_str().unwrap(), "--threads", "1"];
            let child = program(&arguments).stderr(std::process::Stdio::null()).spawn().unwrap();
            // The points of an unfinished row are solved again, so that there may be fewer records at first.
            while records() <= before {
                thread::sleep(Duration::from_millis(1));
            }
            (child, before)
        };
        // At first Ctrl-C, and then the process is killed.
        let (mut child, _) = begun();
        interrupt(&child);
        assert_eq!(child.wait().unwrap().code(), Some(130));
        let (mut child, before) = begun();
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().code(), None);
        let left = records();
        assert!(before < left && left < 400, "{before} {left}");
        let last = sweep(&grid, &out, &[]);
        assert_eq!(status(&last), Some(0), "{}", said(&last));
        assert!(
            fs::read(&out).unwrap() == fs::read(&whole).unwrap(),
            "the results differ from those of one run"
        );
    }
}
