//! Ctrl-C, and the async runtime.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::error::{CliError, Exit};

/// A runtime for one command.
pub(crate) fn runtime() -> Result<Runtime, CliError> {
    let built = Builder::new_multi_thread().worker_threads(2).enable_all().build();
    built.map_err(|error| CliError::new(Exit::Failed, error))
}

/// SIGINT and SIGTERM as one.
pub(crate) struct Interrupts {
    int: Signal,
    term: Signal,
}

impl Interrupts {
    /// Listens from here on. Needs a runtime.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self { int: signal(SignalKind::interrupt())?, term: signal(SignalKind::terminate())? })
    }

    /// The next one. Cancellation-safe.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.int.recv() => {}
            _ = self.term.recv() => {}
        }
    }
}

/// Interrupts from here on, kept for a later part of the command.
pub(crate) struct Listening {
    pub(crate) runtime: Runtime,
    pub(crate) interrupts: Interrupts,
}

impl Listening {
    pub(crate) fn begin() -> Result<Self, CliError> {
        let runtime = runtime()?;
        let guard = runtime.enter();
        let interrupts = Interrupts::listen()?;
        drop(guard);
        Ok(Self { runtime, interrupts })
    }
}

type Kill = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// What interrupts do to a run of a plan.
pub(crate) enum OnInterrupt {
    /// The first lets steps that run finish and starts no more; the second ends the process: the
    /// journal lets the next command find out what was left undone. Before the first step, the
    /// first one ends the process.
    Cancel,
    /// The first has the sandboxes killed that the run stops, so that it ends soon.
    Kill(Kill),
}

impl OnInterrupt {
    pub(crate) fn kill<F, K>(kill: F) -> Self
    where
        F: FnOnce() -> K + Send + 'static,
        K: Future<Output = ()> + Send + 'static,
    {
        Self::Kill(Box::new(|| Box::pin(kill())))
    }

    /// Listens from here on.
    pub(crate) fn watch(self, runtime: &Runtime) -> Watch {
        let watch = Watch::default();
        let Watch { cancel, stepping } = watch.clone();
        let _guard = runtime.enter();
        if let Ok(mut interrupts) = Interrupts::listen() {
            runtime.spawn(async move {
                interrupts.next().await;
                match self {
                    Self::Cancel if stepping.load(Ordering::SeqCst) => {
                        cancel.cancel();
                        interrupts.next().await;
                    }
                    Self::Cancel => {}
                    Self::Kill(kill) => {
                        kill().await;
                        interrupts.next().await;
                    }
                }
                std::process::exit(i32::from(Exit::Interrupted.code()));
            });
        }
        watch
    }
}

/// What a run of a plan and the watch over it tell each other.
#[derive(Clone, Default)]
pub(crate) struct Watch {
    cancel: CancellationToken,
    stepping: Arc<AtomicBool>,
}

impl Watch {
    /// Steps are run from here on; the token says when to start no more.
    pub(crate) fn begin_steps(self) -> CancellationToken {
        self.stepping.store(true, Ordering::SeqCst);
        self.cancel
    }
}
