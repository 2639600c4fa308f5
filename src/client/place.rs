//! The place of a program's sandboxes on this machine.

use std::path::PathBuf;

use super::change::{self, Change};
use super::{Error, MachineError, Sandbox, SandboxConfig, SandboxHandle};
use crate::home::Home;
use crate::plan::Intent;
use crate::reconcile;
use crate::runtime::{DriverChoice, setup};
use crate::spec::{Name, Project};
use crate::store::SandboxRow;

/// A state directory, a project in it, and how sandboxes are run: where [`Sandbox::create`] and its
/// like look and act unless they are told otherwise.
///
/// Sandboxes that a program creates belong to the project [`Project::LIBRARY`], which no Sandboxfile
/// may claim: `msb -p msb-library ps` lists them. [`Client::project`] gives a program the sandboxes
/// of a Sandboxfile.
#[derive(Clone, Debug)]
pub struct Client {
    pub(super) home: Home,
    pub(super) project: Name,
    pub(super) driver: DriverChoice,
    pub(super) executable: Option<PathBuf>,
}

impl Client {
    /// The state directory that the environment names, as for `msb`.
    pub fn new() -> Result<Self, Error> {
        Ok(Self::at(Home::locate(|name| std::env::var_os(name))?))
    }

    /// Another state directory.
    pub fn at(home: Home) -> Self {
        let driver = DriverChoice::Auto;
        Self { home, project: Project::library(), driver, executable: None }
    }

    /// The sandboxes of this project.
    #[must_use]
    pub fn project(mut self, project: Name) -> Self {
        self.project = project;
        self
    }

    /// How microVMs are run.
    #[must_use]
    pub fn driver(mut self, driver: DriverChoice) -> Self {
        self.driver = driver;
        self
    }

    /// The `msb` that runs supervisors; default what `MSB_EXECUTABLE` says, else the first in `PATH`.
    /// It must be of the version of this library.
    #[must_use]
    pub fn executable(mut self, path: impl Into<PathBuf>) -> Self {
        self.executable = Some(path.into());
        self
    }

    /// See [`Sandbox::create`].
    pub async fn create(&self, config: SandboxConfig) -> Result<Sandbox, Error> {
        self.make(config, true).await
    }

    /// See [`Sandbox::create_detached`].
    pub async fn create_detached(&self, config: SandboxConfig) -> Result<Sandbox, Error> {
        self.make(config, false).await
    }

    async fn make(&self, config: SandboxConfig, attached: bool) -> Result<Sandbox, Error> {
        let (replace, login) = (config.replace, config.login.clone());
        let (name, spec) = config.finish()?;
        let spec = Some(spec);
        let intent = Intent::Up;
        let change =
            Change { name: name.clone(), id: None, intent, spec, replace, attached, login };
        let owner = self.change(change).await?;
        Sandbox::new(self.clone(), self.row(name.as_str())?, owner)
    }

    /// See [`Sandbox::start`].
    pub async fn start(&self, name: &str) -> Result<Sandbox, Error> {
        self.run(&self.row(name)?, true).await
    }

    /// See [`Sandbox::start_detached`].
    pub async fn start_detached(&self, name: &str) -> Result<Sandbox, Error> {
        self.run(&self.row(name)?, false).await
    }

    /// Starts the sandbox of `row`, and no other one of its name.
    pub(super) async fn run(&self, row: &SandboxRow, attached: bool) -> Result<Sandbox, Error> {
        let change = Change { attached, ..simple(&row.name, &row.id, Intent::Start)? };
        let owner = self.change(change).await?;
        Sandbox::new(self.clone(), self.row(&row.name)?, owner)
    }

    /// See [`Sandbox::get`].
    pub fn get(&self, name: &str) -> Result<SandboxHandle, Error> {
        Ok(SandboxHandle::new(self.clone(), self.row(name)?))
    }

    /// See [`Sandbox::list`].
    pub fn list(&self) -> Result<Vec<SandboxHandle>, Error> {
        let Some(store) = change::store(self)? else { return Ok(Vec::new()) };
        let rows = reconcile::rows(&store, self.project.as_str())?;
        Ok(rows.into_iter().map(|row| SandboxHandle::new(self.clone(), row)).collect())
    }

    /// See [`Sandbox::remove`].
    pub async fn remove(&self, name: &str) -> Result<(), Error> {
        self.discard(name, &self.row(name)?.id).await
    }

    /// Removes the sandbox of that id, and no other one of its name.
    pub(super) async fn discard(&self, name: &str, id: &str) -> Result<(), Error> {
        self.change(simple(name, id, Intent::Remove { force: false })?).await.map(drop)
    }

    /// The row of a sandbox, with the status of one whose supervisor died corrected.
    pub(super) fn row(&self, name: &str) -> Result<SandboxRow, Error> {
        let rows = match change::store(self)? {
            Some(store) => reconcile::rows(&store, self.project.as_str())?,
            None => Vec::new(),
        };
        let mut rows = rows.into_iter();
        rows.find(|row| row.name == name).ok_or_else(|| Error::NotFound(name.to_owned()))
    }
}

/// A change of what exists, as it was made.
fn simple(name: &str, id: &str, intent: Intent) -> Result<Change, Error> {
    let name = Name::new(name).map_err(|error| Error::Invalid {
        sandbox: name.to_owned(),
        field: "name",
        reason: error.to_string(),
    })?;
    let id = Some(id.to_owned());
    Ok(Change { name, id, intent, spec: None, replace: false, attached: false, login: None })
}

/// Downloads the guest's kernel, about 20 MB, where it is not here yet. Blocks.
pub fn install() -> Result<(), Error> {
    let home = Client::new()?.home;
    home.create()?;
    setup::install(&home, &mut |_| {}).map_err(MachineError::from)?;
    Ok(())
}

/// Whether the guest's kernel and `msb` are here.
pub fn is_installed() -> bool {
    let Ok(client) = Client::new() else { return false };
    super::machine::executable().is_some() && setup::status(&client.home).is_ok()
}
