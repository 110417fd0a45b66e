//! Help, version and completions.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

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
