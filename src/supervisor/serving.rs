//! The file server of a run: from its boot on where something is shared, and from the first growth of a
//! disk on where nothing is.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::LaunchConfig;
use super::link::chain;
use super::process::LAST_WORDS;
use super::run::Notice;
use super::state::Input;
use crate::files::{self, FileServer, Share, ShareKind};
use crate::runtime::{Vm, VmExit};

/// How long the file server may take to carry out what the VM asked last.
const LAST_FILES: Duration = Duration::from_secs(10);

/// A file server that has not been started.
#[derive(Debug)]
pub(super) struct Later {
    shares: Vec<Share>,
    stream: OwnedFd,
    sandbox: String,
    require_jail: bool,
}

impl Later {
    pub(super) fn new(shares: Vec<Share>, stream: OwnedFd, config: &LaunchConfig) -> Self {
        let (sandbox, require_jail) = (config.id.clone(), config.require_jail);
        Self { shares, stream, sandbox, require_jail }
    }

    /// Starts it. Blocks for some milliseconds.
    fn start(self) -> Result<FileServer, String> {
        let Self { shares, stream, sandbox, require_jail } = self;
        let served = files::spawn(shares, stream, &sandbox, require_jail);
        let server = served.map_err(|e| format!("files cannot be shared: {}", chain(&e)))?;
        for (layer, why) in server.jail().missing() {
            tracing::warn!(layer, why, "a layer of the file server's jail does not hold");
        }
        Ok(server)
    }
}

/// What serves files to a guest.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// Nothing is mounted of what is shared.
    later: Option<Later>,
    /// Why it could not be started.
    failed: Option<String>,
    /// It runs, and nobody waits for its end yet.
    server: Option<FileServer>,
    /// Ends with the file server, and ends it.
    watching: Option<JoinHandle<()>>,
}

impl Files {
    /// Those of a run whose file server starts at once, or later.
    pub(super) fn new(later: Later, at_once: bool) -> Result<Self, String> {
        if at_once {
            return Ok(Self { server: Some(later.start()?), ..Self::default() });
        }
        Ok(Self { later: Some(later), ..Self::default() })
    }

    /// Has the end of a file server that runs be that of the run of `vm`. To be called in a `LocalSet`.
    pub(super) fn watch(&mut self, vm: &Arc<dyn Vm>, notices: &mpsc::Sender<Notice>) {
        if let Some(server) = self.server.take() {
            let watching = watch(server, Arc::clone(vm), notices.clone());
            self.watching = Some(tokio::task::spawn_local(watching));
        }
    }

    /// Starts what has not been started.
    pub(super) fn need(
        &mut self,
        vm: &Arc<dyn Vm>,
        notices: &mpsc::Sender<Notice>,
    ) -> Result<(), String> {
        match self.later.take().map(Later::start) {
            Some(Ok(server)) => {
                self.server = Some(server);
                self.watch(vm, notices);
            }
            // Its stream has gone with it.
            Some(Err(why)) => self.failed = Some(why),
            None => {}
        }
        self.failed.clone().map_or(Ok(()), Err)
    }

    /// Waits for the end of the file server, whose VM has ended.
    pub(super) async fn finish(self) {
        let Some(mut watching) = self.watching else { return };
        if tokio::time::timeout(LAST_FILES, &mut watching).await.is_err() {
            tracing::warn!("the file server did not end with the VM");
            watching.abort();
            let _ = watching.await;
        }
    }
}

/// Tells the end of the file server, unless it is that of the VM, which ends its stream. A server
/// that is dropped is killed.
async fn watch(server: FileServer, vm: Arc<dyn Vm>, notices: mpsc::Sender<Notice>) {
    let how = match server.wait().await {
        Ok(VmExit::Code(code)) => format!("exit code {code}"),
        Ok(VmExit::Signal(signal)) => format!("signal {signal}"),
        Err(error) => error.to_string(),
    };
    if tokio::time::timeout(LAST_WORDS, vm.wait()).await.is_err() {
        let _ = notices.send(Notice::Input(Input::FilesLost(how))).await;
    }
}

/// A disk that a VM process of another user had becomes this process's own, whose user the file
/// server is.
pub(super) fn own_disks(shares: &[Share]) -> Result<(), String> {
    let own = rustix::process::geteuid();
    for share in shares.iter().filter(|share| share.kind == ShareKind::Disk) {
        let path = &share.path;
        let take = || match fs::metadata(path)?.uid() == own.as_raw() {
            true => Ok(()),
            false => rustix::fs::chown(path, Some(own), None).map_err(io::Error::from),
        };
        take().map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}
