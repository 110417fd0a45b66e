//! Ctrl-C in a command-line program: the work in hand is finished, and the program ends with exit status 130.

use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// 128 and the number of SIGINT, as shells report a program that Ctrl-C ended.
pub const STATUS: u8 = 130;

/// Whether Ctrl-C was pressed.
#[derive(Clone, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Listens from now on. The first Ctrl-C calls `begin`, after which [`Interrupt::is_set`]; the second one ends the program at once.
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

    /// Whether to end after the work in hand.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
