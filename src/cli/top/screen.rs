//! The terminal while the dashboard has it, and giving it back, whatever happens.

use std::io::{self, Write};
use std::sync::Once;

use ratatui::Terminal;
use ratatui::backend::Backend as _;
use rustix::stdio::{stdin, stdout};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use super::backend::Ansi;
use super::draw::draw;
use super::state::State;
use crate::cli::terminal::Raw;

/// The alternate screen without a cursor.
const ENTER: &[u8] = b"\x1b[?1049h\x1b[?25l";
/// The screen as it was, with a cursor and no colours.
const LEAVE: &[u8] = b"\x1b[0m\x1b[?25h\x1b[?1049l";

/// The whole terminal, until dropped.
pub(super) struct Screen<W: Write> {
    terminal: Terminal<Ansi<W>>,
    raw: Option<Raw>,
}

impl<W: Write> Screen<W> {
    /// Takes the terminal; `out` is standard output.
    pub(super) fn enter(out: W) -> io::Result<Self> {
        restore_on_panic(tcgetattr(stdin())?);
        let mut screen = Self { terminal: Terminal::new(Ansi::new(out))?, raw: None };
        screen.take()?;
        Ok(screen)
    }

    pub(super) fn draw(&mut self, state: &State) -> io::Result<()> {
        #[cfg(feature = "test-support")]
        fail::fail_point!("top-draw");
        self.terminal.draw(|frame| draw(frame, state)).map(drop)
    }

    /// Gives the terminal to another program.
    pub(super) fn lend(&mut self) -> io::Result<()> {
        self.terminal.backend_mut().flush()?;
        let left = write_all(LEAVE);
        self.raw = None;
        left
    }

    /// Has it again after [`Screen::lend`].
    pub(super) fn take(&mut self) -> io::Result<()> {
        self.raw = Some(Raw::enter()?);
        write_all(ENTER)?;
        self.terminal.clear()
    }
}

impl<W: Write> Drop for Screen<W> {
    fn drop(&mut self) {
        if self.raw.is_some() {
            // A terminal that has gone needs nothing.
            let _ = self.lend();
        }
    }
}

/// Before the message, which would be lost on the alternate screen. A released program ends at a
/// panic without dropping anything.
fn restore_on_panic(before: Termios) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let next = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let _ = write_all(LEAVE);
            let _ = tcsetattr(stdin(), OptionalActions::Now, &before);
            next(panic);
        }));
    });
}

/// Writes to standard output without its buffer, which a panic may have left in use.
fn write_all(mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(stdout(), bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
