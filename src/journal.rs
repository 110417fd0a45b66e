//! A file of finished records, one JSON line each, from which an interrupted computation continues.
//!
//! The file `results.jsonl` has a companion `results.description.json`, which describes the computation, so
//! that the records of two computations are never mixed. A process can be killed at any time, and loses at
//! most the line that it was writing. Every record is handed to the operating system at once, but is not
//! forced to the disk.
//!
//! ```
//! use lora_asymptotics::journal::Journal;
//!
//! # let folder = std::env::temp_dir().join(format!("lora-asymptotics-journal-doc-{}", std::process::id()));
//! # let path = folder.join("squares.jsonl");
//! let (mut journal, done) = Journal::open::<u64>(&path, &"squares")?;
//! for k in done.len() as u64..5 {
//!     journal.append(&(k * k))?;
//! }
//! # let (_, done) = Journal::open::<u64>(&path, &"squares")?;
//! # assert_eq!(done, [0, 1, 4, 9, 16]);
//! # let _ = std::fs::remove_dir_all(folder);
//! # Ok::<(), lora_asymptotics::journal::JournalError>(())
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The reason why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// Reading or writing failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error that the operating system reports.
        source: io::Error,
    },
    /// The file is not empty, and its description is missing or differs. The file is left unchanged.
    #[error("{} is of another computation: remove it, or choose another file", path.display())]
    OtherComputation {
        /// The file.
        path: PathBuf,
    },
    /// A line is complete, but is not a record. The file is left unchanged.
    #[error("{}, line {line}: {source}", path.display())]
    NotARecord {
        /// The file.
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
        /// The error in the line.
        source: serde_json::Error,
    },
}

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    /// The lengths of the file after each record.
    ends: Vec<u64>,
}

impl Journal {
    /// Opens a journal, or begins a new one. Returns it with the records that it holds already, in the order
    /// in which they were appended. If the last line has no end of line, the process was killed while writing
    /// it, and the line is removed. `description` is any value that distinguishes this computation from
    /// others. The folder is created if it does not exist.
    ///
    /// # Errors
    /// [`JournalError`] if the file cannot be used.
    pub fn open<R: DeserializeOwned>(
        path: &Path,
        description: &impl Serialize,
    ) -> Result<(Self, Vec<R>), JournalError> {
        let failed = |source| JournalError::Io { path: path.to_owned(), source };
        let wanted = serde_json::to_string(description).map_err(|error| failed(error.into()))?;
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        // What a device or a pipe gives to read may never end.
        if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
            return Err(failed(io::Error::new(ErrorKind::InvalidInput, "not a regular file")));
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(failed)?;
        let beside = path.with_extension("description.json");
        if text.is_empty() {
            fs::write(&beside, wanted).map_err(failed)?;
        } else if fs::read_to_string(&beside).ok().as_ref() != Some(&wanted) {
            return Err(JournalError::OtherComputation { path: path.to_owned() });
        }
        let mut journal = Self { path: path.to_owned(), file, ends: Vec::new() };
        let mut records = Vec::new();
        let mut end = 0;
        for (index, line) in text.split_inclusive(|byte| *byte == b'\n').enumerate() {
            if !line.ends_with(b"\n") {
                break;
            }
            records.push(serde_json::from_slice(line).map_err(|source| JournalError::NotARecord {
                path: path.to_owned(),
                line: index + 1,
                source,
            })?);
            end += line.len() as u64;
            journal.ends.push(end);
        }
        journal.truncate(records.len())?;
        Ok((journal, records))
    }

    /// Removes all records after the first `records` ones.
    ///
    /// # Errors
    /// [`JournalError::Io`] if the file cannot be written.
    pub fn truncate(&mut self, records: usize) -> Result<(), JournalError> {
        self.ends.truncate(records);
        let end = self.ends.last().copied().unwrap_or(0);
        let cut = self.file.set_len(end).and_then(|()| self.file.seek(SeekFrom::Start(end)));
        cut.map(|_| ()).map_err(|source| self.failed(source))
    }

    /// Appends a record, on its own line. If that fails, the file holds the same records as before.
    ///
    /// # Errors
    /// [`JournalError::Io`] if the file cannot be written.
    pub fn append(&mut self, record: &impl Serialize) -> Result<(), JournalError> {
        let mut line = serde_json::to_vec(record).map_err(|error| self.failed(error.into()))?;
        line.push(b'\n');
        if let Err(source) = self.file.write_all(&line) {
            self.truncate(self.ends.len())?;
            return Err(self.failed(source));
        }
        self.ends.push(self.ends.last().copied().unwrap_or(0) + line.len() as u64);
        Ok(())
    }

    fn failed(&self, source: io::Error) -> JournalError {
        JournalError::Io { path: self.path.clone(), source }
    }
}
