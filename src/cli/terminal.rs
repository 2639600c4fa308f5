//! The user's terminal while a command in a guest has it.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::stdio::{stdin, stdout};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

/// Raw mode, until dropped.
pub(crate) struct Raw {
    before: Termios,
}

impl Raw {
    /// Passes every key on: no echo, no line editing, no signals from keys.
    pub(crate) fn enter() -> io::Result<Self> {
        let before = tcgetattr(terminal())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(terminal(), OptionalActions::Now, &raw)?;
        Ok(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Nothing better can be done on the way out.
        let _ = tcsetattr(terminal(), OptionalActions::Drain, &self.before);
    }
}

fn terminal() -> BorrowedFd<'static> {
    stdin()
}

/// Whether a command can have the terminal: input and output are one.
pub(crate) fn is_interactive() -> bool {
    isatty(stdin()) && isatty(stdout())
}

/// Whether keys can be typed for a command.
pub(crate) fn has_input() -> bool {
    isatty(stdin())
}

/// Rows and columns.
pub(crate) fn size() -> (u16, u16) {
    match tcgetwinsize(stdout()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row, size.ws_col),
        _ => (24, 80),
    }
}
