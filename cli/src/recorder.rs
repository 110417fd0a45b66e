//! Records of a long computation: written as they come, counted by a progress bar, ended by Ctrl-C.

use std::error::Error;
use std::ops::ControlFlow;

use indicatif::{ProgressBar, ProgressStyle};
use lora_asymptotics::journal::{Journal, JournalError};
use serde::Serialize;

use crate::interrupt::Interrupt;

pub struct Recorder<'a> {
    journal: Journal,
    bar: ProgressBar,
    interrupt: &'a Interrupt,
    trouble: Option<JournalError>,
}

impl<'a> Recorder<'a> {
    /// A recorder of `total` records, of which the journal has `done`. The bar is drawn on a terminal only.
    pub fn new(
        journal: Journal,
        [done, total]: [usize; 2],
        what: &str,
        interrupt: &'a Interrupt,
    ) -> Result<Self, Box<dyn Error>> {
        let style = format!("{{wide_bar}} {{pos}}/{{len}} {what}, {{eta}} left (Ctrl-C stops)");
        let bar = ProgressBar::new(total as u64).with_style(ProgressStyle::with_template(&style)?);
        bar.set_position(done as u64);
        Ok(Self { journal, bar, interrupt, trouble: None })
    }

    /// Writes a record. The computation ends where it cannot be written, and after Ctrl-C.
    pub fn record(&mut self, record: &impl Serialize) -> ControlFlow<()> {
        self.bar.inc(1);
        self.trouble = self.journal.append(record).err();
        if self.trouble.is_some() || self.interrupt.is_set() {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    /// Removes the bar, and tells whether a record could not be written.
    pub fn finish(self) -> Result<(), JournalError> {
        self.bar.finish_and_clear();
        self.trouble.map_or(Ok(()), Err)
    }
}
