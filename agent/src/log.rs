//! Lines for whoever reads the boot console; the protocol carries everything else.

use std::io::Write;

/// Writes one line to standard error, which is the console in a guest.
pub(crate) fn line(text: &str) {
    let _ = writeln!(std::io::stderr(), "msb-agent: {text}");
}
