//! The control socket: how others talk to a supervisor.
//!
//! A Unix socket, `run/ID.sock`, mode 0600 in a 0700 directory; the peer's user id is checked too.
//! Frames are those of the agent protocol. A connection carries one request:
//!
//! ```text
//! Status   → StatusEvent
//! Watch    → StatusEvent, then one more for every change, until the run ends
//! Stop     → Accepted, or Denied
//! Drain    → Accepted, or Denied
//! Signal   → Accepted, or Denied
//! Kill     → Accepted, or Denied
//! Update   → Accepted, or Denied
//! Jail     → the layers of the jail
//! Metrics  → what it uses
//! Grow     → Accepted once the guest has done it, or Denied
//! Exec     → Accepted, then what the agent protocol says of an exec stream; or Denied
//! Fs       → Accepted, then what the agent protocol says of an fs stream; or Denied
//! ```
//!
//! A client that goes away ends its session with the agent. A client that reads slowly holds up nobody else.

mod client;
mod protocol;
mod server;
mod socket;

pub use client::{ControlClient, ControlError, ExecSession, Watch, wait_until};
pub use protocol::{
    ControlReply, ControlRequest, DeniedReason, JailLayer, MetricsSample, StatusEvent,
};
pub(super) use server::{Asked, Clients, Granted, Socket, serve};
