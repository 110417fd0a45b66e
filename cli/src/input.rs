//! The values of a file or of standard input, up to the end or to Ctrl-C, whichever comes first.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use lora_asymptotics::lines::{self, Value};

use crate::interrupt::Interrupt;

/// The events that the program waits for.
enum Event {
    /// A value of the input, or the error that ended the input.
    Value(io::Result<Value>),
    /// The end of the input, or Ctrl-C.
    End,
}

/// The values of an input. Another thread reads them, because Ctrl-C could not wake a thread that waits for input.
pub struct Values {
    events: Receiver<Event>,
    interrupt: Interrupt,
}

impl Values {
    /// Opens the input, which is standard input without a path and for `-`, and listens for Ctrl-C.
    pub fn of(path: Option<&Path>) -> io::Result<Self> {
        let source: Box<dyn Read + Send> = match path.filter(|path| path.as_os_str() != "-") {
            Some(path) if path.is_dir() => return Err(named(path, &io::ErrorKind::IsADirectory.into())),
            Some(path) => Box::new(File::open(path).map_err(|error| named(path, &error))?),
            None => Box::new(io::stdin()),
        };
        let (sender, events) = sync_channel(1);
        let wake = sender.clone();
        // If the channel is full, the program is not waiting, and sees the flag before it takes another value.
        let begin = move || drop(wake.try_send(Event::End));
        let interrupt = Interrupt::listen(begin).map_err(io::Error::other)?;
        thread::Builder::new().spawn(move || read(BufReader::new(source), &sender))?;
        Ok(Self { events, interrupt })
    }

    /// Whether Ctrl-C was pressed.
    pub fn is_interrupted(&self) -> bool {
        self.interrupt.is_set()
    }
}

impl Iterator for Values {
    type Item = io::Result<Value>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.events.recv() {
            Ok(Event::Value(value)) if !self.is_interrupted() => Some(value),
            _ => None,
        }
    }
}

/// Sends every value, until the input ends or the receiver is dropped.
fn read(input: impl BufRead, events: &SyncSender<Event>) {
    for value in lines::values(input) {
        let last = value.is_err();
        if events.send(Event::Value(value)).is_err() || last {
            return;
        }
    }
    // Nobody may wait for the end any more.
    drop(events.send(Event::End));
}

/// An error of a file, with the name of the file.
pub fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
