//! Ctrl-C in a command-line program: the current work is finished, and the program ends with exit status 130.

use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The exit status 128 plus the number of SIGINT, as shells report a program that Ctrl-C ended.
pub const STATUS: u8 = 130;

/// Whether Ctrl-C was pressed.
#[derive(Clone, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Listens for Ctrl-C from now on. The first Ctrl-C sets [`Interrupt::is_set`] and then calls `begin`;
    /// the second one ends the program at once.
    pub fn listen(begin: impl Fn() + Send + 'static) -> Result<Self, ctrlc::Error> {
        let interrupt = Self::default();
        let flag = Arc::clone(&interrupt.0);
        ctrlc::set_handler(move || {
            if flag.swap(true, Ordering::SeqCst) {
                process::exit(i32::from(STATUS));
            }
            begin();
        })?;
        Ok(interrupt)
    }

    /// Whether to end after the current work.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
