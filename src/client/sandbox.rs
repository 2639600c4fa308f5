//! A sandbox that runs.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::change::store;
use super::handle::{begun, control, spec, wait};
use super::{
    Client, Error, ExecConfig, ExecHandle, ExecOutput, Metrics, SandboxConfig, SandboxFs,
    SandboxHandle, exec,
};
use crate::spec::{Name, SandboxSpec, Status};
use crate::store::SandboxRow;
use crate::supervisor::Owner;

/// A sandbox that a program has started or connected to.
///
/// What [`Sandbox::create`] and [`Sandbox::start`] give owns the sandbox: when it is dropped, or
/// this program ends, however it ends, the sandbox is stopped in order. A child that this program
/// forks and that executes nothing keeps it alive.
///
/// ```no_run
/// # async fn example() -> Result<(), msb::client::Error> {
/// // Needs a machine that runs microVMs, and gets the image from its registry.
/// use msb::client::{Sandbox, SandboxConfig};
///
/// let config = SandboxConfig::new("worker", "docker.io/library/alpine:3");
/// let sandbox = Sandbox::create(config).await?;
/// let output = sandbox.exec("uname", ["-s"]).await?;
/// assert_eq!(output.stdout(), "Linux\n");
/// sandbox.stop_and_wait().await?;
/// sandbox.remove_persisted().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Sandbox {
    client: Client,
    id: String,
    name: Name,
    spec: SandboxSpec,
    live: bool,
    owner: Mutex<Option<Owner>>,
}

/// How a sandbox ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// `stopped`, or `crashed`.
    pub status: Status,
    /// The exit code of its workload, 128 + n for signal n; none where it had none, or did not say.
    pub code: Option<i32>,
    /// Why it crashed, or its workload did not start.
    pub error: Option<String>,
}

impl Ended {
    /// Whether it ended in order, and its workload (where it had one) with code 0.
    pub fn success(&self) -> bool {
        self.status == Status::Stopped && self.code.is_none_or(|code| code == 0)
    }
}

impl Sandbox {
    /// Creates a sandbox and starts it, for as long as what this gives lives. Pulls its image where
    /// that is not here. Ends once its agent is ready and its workload, if any, runs.
    pub async fn create(config: SandboxConfig) -> Result<Self, Error> {
        Client::new()?.create(config).await
    }

    /// [`Sandbox::create`], of a sandbox that lives until it is stopped.
    pub async fn create_detached(config: SandboxConfig) -> Result<Self, Error> {
        Client::new()?.create_detached(config).await
    }

    /// Starts a sandbox that exists and does not run, on its disk, for as long as what this gives
    /// lives.
    pub async fn start(name: &str) -> Result<Self, Error> {
        Client::new()?.start(name).await
    }

    /// [`Sandbox::start`], until it is stopped.
    pub async fn start_detached(name: &str) -> Result<Self, Error> {
        Client::new()?.start_detached(name).await
    }

    /// What is known of a sandbox.
    pub fn get(name: &str) -> Result<SandboxHandle, Error> {
        Client::new()?.get(name)
    }

    /// What is known of all sandboxes, by name.
    pub fn list() -> Result<Vec<SandboxHandle>, Error> {
        Client::new()?.list()
    }

    /// Removes a sandbox with its disk. It must not run.
    pub async fn remove(name: &str) -> Result<(), Error> {
        Client::new()?.remove(name).await
    }

    pub(super) fn new(
        client: Client,
        row: SandboxRow,
        owner: Option<Owner>,
    ) -> Result<Self, Error> {
        let spec = spec(&row)?;
        let name = Name::new(row.name.as_str()).map_err(|error| Error::Invalid {
            sandbox: row.name.clone(),
            field: "name",
            reason: error.to_string(),
        })?;
        let (live, owner) = (row.status.is_live(), Mutex::new(owner));
        Ok(Self { client, id: row.id, name, spec, live, owner })
    }

    pub(super) const fn is_live(&self) -> bool {
        self.live
    }

    fn owner(&self) -> MutexGuard<'_, Option<Owner>> {
        self.owner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its name.
    pub const fn name(&self) -> &Name {
        &self.name
    }

    /// Whether it stops with this handle.
    pub fn owns_lifecycle(&self) -> bool {
        self.owner().is_some()
    }

    /// Runs a command to its end and collects what it writes. A command that ends with another code
    /// than 0 is no error.
    pub async fn exec(
        &self,
        program: impl Into<String>,
        args: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<ExecOutput, Error> {
        self.exec_with(ExecConfig::new(program).args(args)).await
    }

    /// [`Sandbox::exec`] of a command with all there is to say of it.
    pub async fn exec_with(&self, config: ExecConfig) -> Result<ExecOutput, Error> {
        Ok(self.exec_stream(config).await?.collect().await?)
    }

    /// Starts a command and gives its events, its standard input and its signals.
    pub async fn exec_stream(&self, config: ExecConfig) -> Result<ExecHandle, Error> {
        Ok(exec(&self.client.home, &self.id, config).await?)
    }

    /// Its files, while it runs.
    pub fn fs(&self) -> SandboxFs {
        SandboxFs::new(&self.client.home, &self.id)
    }

    /// Has the sandbox's shell run a script, as `sh -c` does.
    pub async fn shell(&self, script: &str) -> Result<ExecOutput, Error> {
        self.exec_with(self.shell_config(script)).await
    }

    /// [`Sandbox::shell`], as it happens.
    pub async fn shell_stream(&self, script: &str) -> Result<ExecHandle, Error> {
        self.exec_stream(self.shell_config(script)).await
    }

    fn shell_config(&self, script: &str) -> ExecConfig {
        ExecConfig::new(self.spec.shell_path()).args(["-c", script])
    }

    /// Runs one of its scripts to its end and collects what it writes. Fails with
    /// [`Error::NoScript`] where it has none of that name.
    pub async fn run(
        &self,
        script: &str,
        args: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<ExecOutput, Error> {
        Ok(self.run_stream(script, args).await?.collect().await?)
    }

    /// [`Sandbox::run`], as it happens.
    pub async fn run_stream(
        &self,
        script: &str,
        args: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<ExecHandle, Error> {
        // As they are by now: an edit of scripts needs no new run.
        let scripts = match store(&self.client)? {
            Some(store) => store.sandbox_by_id(&self.id)?,
            None => None,
        };
        let gone = || Error::NotFound(self.name.to_string());
        let scripts = spec(&scripts.ok_or_else(gone)?)?.scripts;
        if !scripts.contains_key(script) {
            return Err(Error::NoScript {
                sandbox: self.name.clone(),
                script: script.to_owned(),
                known: scripts.into_keys().collect(),
            });
        }
        // Their directory is the first in `PATH`.
        self.exec_stream(ExecConfig::new(script).args(args)).await
    }

    /// Begins to stop it in order; see [`Sandbox::wait`] for its end. Fine when it has ended.
    pub async fn stop(&self) -> Result<(), Error> {
        begun(control(&self.client.home, &self.id).stop(None).await)
    }

    /// Stops it in order, and waits for its end.
    pub async fn stop_and_wait(&self) -> Result<Ended, Error> {
        self.stop().await?;
        self.wait().await
    }

    /// Lets the commands that run in it, detached ones too, come to their ends, lets no more begin,
    /// then stops it in order; see [`Sandbox::wait`] for its end. Fine when it has ended.
    pub async fn drain(&self) -> Result<(), Error> {
        begun(control(&self.client.home, &self.id).drain().await)
    }

    /// Kills it, and waits for its end. Its disk keeps what was synced. Fine when it has ended.
    pub async fn kill(&self) -> Result<(), Error> {
        begun(control(&self.client.home, &self.id).kill().await)?;
        self.wait().await.map(drop)
    }

    /// What it uses, measured over a quarter of a second.
    pub async fn metrics(&self) -> Result<Metrics, Error> {
        Ok(super::metrics(&self.client.home, &self.id).await?)
    }

    /// Waits for its end, whoever owns it.
    pub async fn wait(&self) -> Result<Ended, Error> {
        let last = wait(&self.client.home, &self.id).await?;
        Ok(Ended { status: last.status, code: last.exit_code, error: last.error })
    }

    /// Lets it live on when this handle, or this program, goes. Fine where nothing is owned.
    pub fn detach(&self) -> Result<(), Error> {
        match self.owner().take() {
            Some(owner) => Ok(owner.detach()?),
            None => Ok(()),
        }
    }

    /// Removes it with its disk. It must have ended; otherwise nothing changes.
    pub async fn remove_persisted(&self) -> Result<(), Error> {
        self.client.discard(self.name.as_str(), &self.id).await
    }
}
