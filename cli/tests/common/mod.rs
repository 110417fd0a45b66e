//! The program, run by tests.

#![allow(dead_code, reason = "every test binary compiles its own copy and uses a part of it")]

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread;

/// Both stages of linear attention, with few nodes.
pub const SCENARIO: &str = r#"{"model": {"tokens": 2, "activation": "linear", "delta": 0.5, "teacher": {"wishart": {"kappa0": 0.5}}}, "pretrain": {"alpha": 0.2, "lambda": 0.1}, "lora": {"alpha": 3.0, "lambda": 0.5}, "options": {"log2_nodes": 8}}"#;

/// The program with the given arguments.
pub fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lora-asymptotics"));
    command.args(arguments);
    command
}

/// The program with pipes for its input, its output and its messages.
pub fn piped(arguments: &[&str]) -> Child {
    let mut command = program(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// What the program answers to an input that ends.
pub fn answer(arguments: &[&str], input: &[u8]) -> Output {
    let mut child = piped(arguments);
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // The program may answer before it has read everything, or end without reading.
    let writer = thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

/// The exit status.
pub fn status(output: &Output) -> Option<i32> {
    output.status.code()
}

/// What the program wrote.
pub fn written(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

/// What the program said to its user.
pub fn said(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// Presses Ctrl-C.
pub fn interrupt(child: &Child) {
    let status = Command::new("sh").args(["-c", "kill -INT \"$0\"", &child.id().to_string()]).status();
    assert!(status.unwrap().success());
}

/// An empty folder for the files of a test.
pub fn folder(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    drop(fs::remove_dir_all(&folder));
    fs::create_dir_all(&folder).unwrap();
    folder
}
