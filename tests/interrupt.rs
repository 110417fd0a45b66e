//! Ctrl-C in `examples/solve.rs`, which `cargo test` builds.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;

use serde_json::Value;

/// Both stages of linear attention.
const SCENARIO: &str = r#"{"model": {"tokens": 2, "activation": "linear", "delta": 0.5, "teacher": {"wishart": {"kappa0": 0.5}}}, "pretrain": {"alpha": 0.2, "lambda": 0.1}, "lora": {"alpha": 3.0, "lambda": 0.5}}"#;

/// Starts the program, with a pipe for its input and a pipe for its output.
fn solve() -> Child {
    // The program is in a folder next to that of this test.
    let mut program: PathBuf = std::env::current_exe().unwrap();
    program.pop();
    program.pop();
    program.push("examples/solve");
    assert!(program.exists(), "{} is missing: cargo build --example solve", program.display());
    let piped =
        Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    piped.unwrap()
}

fn interrupt(child: &Child) {
    let status = Command::new("sh").args(["-c", "kill -INT \"$0\"", &child.id().to_string()]).status();
    assert!(status.unwrap().success());
}

/// The exit status of a program that ended by itself and wrote no message to the user.
fn status(mut child: Child) -> Option<i32> {
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "");
    child.wait().unwrap().code()
}

fn is_outcome(line: &str) -> bool {
    serde_json::from_str::<Value>(line).is_ok_and(|outcome| outcome["lora"]["status"] == "converged")
}

#[test]
fn a_program_that_waits_for_input_ends() {
    let mut child = solve();
    // The input stays open, so that it has no end.
    let mut input = child.stdin.take().unwrap();
    writeln!(input, "{SCENARIO}").unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut answer = String::new();
    output.read_line(&mut answer).unwrap();
    assert!(is_outcome(&answer), "{answer}");
    interrupt(&child);
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
    assert_eq!(status(child), Some(130));
}

#[test]
fn the_line_in_hand_is_finished() {
    let mut child = solve();
    // The input is lines without end.
    let mut input = child.stdin.take().unwrap();
    let writer = thread::spawn(move || while writeln!(input, "{SCENARIO}").is_ok() {});
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut answer = String::new();
    output.read_line(&mut answer).unwrap();
    interrupt(&child);
    output.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with('\n') && answer.lines().all(is_outcome), "{answer}");
    assert_eq!(status(child), Some(130));
    writer.join().unwrap();
}

#[test]
fn the_end_of_the_input_is_no_interrupt() {
    let mut child = solve();
    let mut input = child.stdin.take().unwrap();
    // The last line has no end of line.
    write!(input, "\n{SCENARIO}\nnonsense\n{SCENARIO}").unwrap();
    drop(input);
    let mut answer = String::new();
    child.stdout.take().unwrap().read_to_string(&mut answer).unwrap();
    let outcomes: Vec<bool> = answer.lines().map(is_outcome).collect();
    assert_eq!(outcomes, [true, false, true], "{answer}");
    assert_eq!(status(child), Some(1));
}
