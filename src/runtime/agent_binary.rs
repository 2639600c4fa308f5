//! The guest agent that this build carries; `build.rs` compiles it.

/// A static executable: PID 1 of a guest, or with `--local FD` an ordinary process that serves the
/// same protocol over an inherited socket.
pub static AGENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/msb-agent"));
