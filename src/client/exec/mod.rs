//! Running a command in a running sandbox.
//!
//! ```text
//! ExecHandle ◀─ one event at a time ─ reader task ◀─┐
//! ExecSink ───── one chunk at a time ─▶ writer task ─┴─ control socket ─ supervisor ─ agent
//! ExecControl ── signals, sizes ───────▶     ″
//! ```
//!
//! Nothing is queued without bound: output that is not received stays in the guest and stops the
//! command that writes it, and a chunk of input is accepted once the one before it is on its way.

mod config;
mod error;
mod handle;
mod output;
mod tasks;

pub use config::{ExecConfig, Stdin};
pub use error::ExecError;
pub use handle::{ExecControl, ExecHandle, ExecSink};
pub use output::{ExecEvent, ExecOutput};

use std::sync::atomic::{AtomicU64, Ordering};

use crate::home::Home;
use crate::supervisor::ControlClient;

/// Numbers the sessions of this process.
static SESSIONS: AtomicU64 = AtomicU64::new(1);

/// Runs a command in the sandbox with this id. What `config` leaves open (environment, working
/// directory, user) is the sandbox's. Needs a tokio runtime with I/O and time.
pub async fn exec(home: &Home, id: &str, config: ExecConfig) -> Result<ExecHandle, ExecError> {
    let (request, settings) = config.into_request();
    let session = ControlClient::new(home, id).exec(request).await?;
    let number = SESSIONS.fetch_add(1, Ordering::Relaxed);
    Ok(ExecHandle::new(number, session.stream, settings))
}
