//! Real guests: the real kernel, the real agent, by the driver that `MSB_DRIVER` names: qemu where it
//! is not set. Nothing is skipped: a missing part fails and says what to install.
#![allow(clippy::disallowed_methods, reason = "tests read files and start programs")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a failed test is what a panic is for; a helper process tells by printing"
)]

mod cli;
#[path = "../it/environment.rs"]
mod environment;
mod files;
mod growth;
mod guest;
mod jail;
mod lifetime;
mod lives;
mod mounts;
mod network;
mod patches;
mod power;
mod roots;
mod scripts;
mod session;
mod volumes;
