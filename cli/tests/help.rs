//! Help, version and completions.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{env, fs};

use common::{answer, said, status, written};

const COMMANDS: [&str; 6] = ["solve", "sweep", "compare", "optimize", "schema", "completions"];

#[test]
fn every_command_has_help() {
    let help = answer(&["--help"], b"");
    assert_eq!((status(&help), said(&help)), (Some(0), ""));
    for command in COMMANDS {
        assert!(written(&help).contains(command), "{command}");
        let own = answer(&[command, "--help"], b"");
        assert_eq!(status(&own), Some(0));
        assert!(written(&own).contains("Usage: lora-asymptotics"), "{}", written(&own));
    }
    let version = answer(&["--version"], b"");
    assert_eq!(written(&version), format!("lora-asymptotics {}\n", env!("CARGO_PKG_VERSION")));
}

/// `docs/command_line.md` is written by `HELP=write cargo test --release -p lora-asymptotics-cli --test help`.
#[test]
fn the_documentation_has_the_help_of_every_command() {
    let mut page = "# Commands and options\n\nWhat the program says of itself. A test compares this page with `--help`.\n".to_owned();
    for command in COMMANDS {
        let help = answer(&[command, "--help"], b"");
        let lines: Vec<&str> = written(&help).trim_end().lines().map(str::trim_end).collect();
        page += &format!("\n## {command}\n\n```text\n{}\n```\n", lines.join("\n"));
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/command_line.md");
    if env::var("HELP").is_ok_and(|how| how == "write") {
        fs::write(path, &page).unwrap();
    }
    assert_eq!(fs::read_to_string(path).unwrap().replace("\r\n", "\n"), page);
}

#[test]
fn every_shell_completes_every_command() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = answer(&["completions", shell], b"");
        assert_eq!((status(&script), said(&script)), (Some(0), ""));
        for word in COMMANDS.iter().chain(&["shard", "explain"]) {
            assert!(written(&script).contains(word), "{shell} {word}");
        }
    }
    assert_eq!(status(&answer(&["completions", "tcsh"], b"")), Some(2));
}

/// More threads than a machine can start would take all of its memory.
#[test]
fn the_number_of_threads_is_bounded() {
    for threads in ["0", "1025", "100000000", "many"] {
        let refused = answer(&["solve", "--threads", threads], b"");
        assert_eq!(status(&refused), Some(2), "{threads}");
        assert!(said(&refused).contains("--threads"), "{}", said(&refused));
    }
}
