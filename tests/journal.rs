//! Journals: the records survive any interruption of the process that writes them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use lora_asymptotics::journal::{Journal, JournalError};

/// A folder for one test, which is removed at the end of the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("lora-asymptotics-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        Self(folder)
    }

    fn journal(&self) -> PathBuf {
        self.0.join("below").join("records.jsonl")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn open(path: &Path) -> (Journal, Vec<[f64; 2]>) {
    Journal::open(path, &"numbers").unwrap()
}

const RECORDS: [[f64; 2]; 3] = [[0.1, 1e-300], [2.0 / 3.0, -0.0], [1e22, 5.0]];

/// A journal with three records, as text.
fn written(path: &Path) -> String {
    let (mut journal, known) = open(path);
    assert!(known.is_empty());
    for record in RECORDS {
        journal.append(&record).unwrap();
    }
    fs::read_to_string(path).unwrap()
}

#[test]
fn a_process_killed_at_any_byte_loses_one_line_at_most() {
    let folder = Folder::new("killed");
    let path = folder.journal();
    let text = written(&path);
    for length in 0..=text.len() {
        fs::write(&path, &text[..length]).unwrap();
        let (mut journal, known) = open(&path);
        let complete = text[..length].matches('\n').count();
        assert_eq!(known, RECORDS[..complete], "killed after {length} bytes");
        for record in &RECORDS[complete..] {
            journal.append(record).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), text, "killed after {length} bytes");
    }
}

#[test]
fn records_can_be_taken_back() {
    let folder = Folder::new("taken-back");
    let path = folder.journal();
    let text = written(&path);
    let (mut journal, _) = open(&path);
    journal.truncate(7).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
    journal.truncate(1).unwrap();
    journal.append(&RECORDS[2]).unwrap();
    assert_eq!(open(&path).1, [RECORDS[0], RECORDS[2]]);
}

#[test]
fn nothing_of_another_computation_is_touched() {
    let folder = Folder::new("other");
    let path = folder.journal();
    let text = written(&path);
    let other = Journal::open::<[f64; 2]>(&path, &"other numbers").unwrap_err();
    assert!(matches!(other, JournalError::OtherComputation { .. }), "{other}");
    assert!(other.to_string().contains("records.jsonl"), "{other}");

    // A line that is complete, but not a record, was not torn by an interruption.
    let damaged = text.replace("5.0]", "five]");
    fs::write(&path, &damaged).unwrap();
    let error = Journal::open::<[f64; 2]>(&path, &"numbers").unwrap_err();
    assert!(matches!(error, JournalError::NotARecord { line: 3, .. }), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), damaged);

    // The user has a file of this name, without a description.
    let notes = folder.0.join("notes.txt");
    fs::write(&notes, "not a journal").unwrap();
    let error = Journal::open::<[f64; 2]>(&notes, &"numbers").unwrap_err();
    assert!(matches!(error, JournalError::OtherComputation { .. }), "{error}");
    assert_eq!(fs::read_to_string(&notes).unwrap(), "not a journal");

    // A folder cannot be opened as a file.
    let error = Journal::open::<[f64; 2]>(&folder.0, &"numbers").unwrap_err();
    assert!(matches!(error, JournalError::Io { .. }), "{error}");
}

#[test]
fn an_empty_journal_can_be_of_anything() {
    let folder = Folder::new("empty");
    let path = folder.journal();
    drop(Journal::open::<u8>(&path, &"first").unwrap());
    let (mut journal, known) = Journal::open::<u8>(&path, &"second").unwrap();
    assert!(known.is_empty());
    journal.append(&1).unwrap();
    assert!(Journal::open::<u8>(&path, &"first").is_err());
    assert_eq!(Journal::open::<u8>(&path, &"second").unwrap().1, [1]);
}

/// A folder is no file, and what a device gives to read may have no end.
#[cfg(unix)]
#[test]
fn only_regular_files_are_journals() {
    for path in ["/dev/zero", "/"] {
        let refused = Journal::open::<[f64; 2]>(Path::new(path), &"numbers").unwrap_err();
        assert!(matches!(&refused, JournalError::Io { .. }), "{refused}");
        assert!(refused.to_string().contains("not a regular file"), "{refused}");
    }
}
