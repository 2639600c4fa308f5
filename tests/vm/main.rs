//! Real guests: QEMU, the real kernel, the real agent. Nothing is skipped: a missing part fails and
//! says what to install.
#![allow(clippy::disallowed_methods, reason = "tests read files and start programs")]

mod guest;
mod lifetime;
mod session;
