//! Solves one scenario per line of standard input, and writes one outcome per line to standard output, in order.
//!
//! ```text
//! cargo run --release --example solve < scenarios.jsonl > outcomes.jsonl
//! ```
//!
//! Lines are flushed one by one, so that the program can be used in pipes and by schedulers. A line that is
//! not a valid scenario gives `{"error": {"kind", "message"}}` in its place; the others are solved, and the
//! exit status is 1 at the end. A solve that does not converge is marked by its status, and does not change
//! the exit status. Empty lines are skipped. If the reader of the outcomes closes the pipe, the program ends
//! without a message and with exit status 141, as shells report that case. After Ctrl-C the program finishes
//! the current line and ends with exit status 130; a second Ctrl-C ends it at once.

mod interrupt;

use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use interrupt::Interrupt;
use lora_asymptotics::lines;

/// The exit status 128 plus the number of SIGPIPE.
const CLOSED_PIPE: u8 = 141;

/// The events that the program waits for.
enum Event {
    /// A line of the input with its end, or the error that ended the input.
    Line(io::Result<Vec<u8>>),
    /// The end of the input, or Ctrl-C.
    End,
}

/// The lines of the input, up to its end or to Ctrl-C, whichever comes first. Another thread reads the input,
/// because Ctrl-C could not wake a thread that waits for input.
struct Lines {
    events: Receiver<Event>,
    interrupt: Interrupt,
    /// The part of the current line that has not been read.
    rest: io::Cursor<Vec<u8>>,
    /// Whether the current line is the last one.
    ended: bool,
}

impl Read for Lines {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // One call never reads more than one line. A line that has begun is read to its end, and no other
        // line is begun.
        let read = self.rest.read(buffer)?;
        if read > 0 || self.ended || self.interrupt.is_set() {
            return Ok(read);
        }
        match self.events.recv() {
            Ok(Event::Line(line)) => {
                self.rest = io::Cursor::new(line?);
                self.rest.read(buffer)
            }
            // The caller reads again after the end, when no other event would come.
            Ok(Event::End) | Err(_) => {
                self.ended = true;
                Ok(0)
            }
        }
    }
}

/// Sends every line of standard input, until the input ends or the receiver is dropped.
fn read(events: &SyncSender<Event>) {
    let mut input = io::stdin().lock();
    loop {
        let mut line = Vec::new();
        let (event, last) = match input.read_until(b'\n', &mut line) {
            Ok(0) => (Event::End, true),
            Ok(_) => (Event::Line(Ok(line)), false),
            Err(error) => (Event::Line(Err(error)), true),
        };
        if events.send(event).is_err() || last {
            return;
        }
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::from(CLOSED_PIPE),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<ExitCode> {
    let (sender, events) = sync_channel(1);
    let wake = sender.clone();
    // If the channel is full, the program is not waiting, and sees the flag before it takes another line.
    let begin = move || drop(wake.try_send(Event::End));
    let interrupt = Interrupt::listen(begin).map_err(io::Error::other)?;
    thread::Builder::new().spawn(move || read(&sender))?;
    let input = Lines { events, interrupt: interrupt.clone(), rest: io::Cursor::default(), ended: false };
    let summary = lines::solve(BufReader::new(input), io::stdout().lock())?;
    Ok(match summary.failed {
        _ if interrupt.is_set() => ExitCode::from(interrupt::STATUS),
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}
