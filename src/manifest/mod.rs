//! Turns Sandboxfile text into a [`Project`](crate::spec::Project), or explains why not.
//!
//! Nothing here reads a file or the environment: [`Inputs`] carries the texts, a [`Loader`] for the
//! files that they name, and the variables. All errors of all files are found in one run.

mod diagnostic;
mod source;

pub use diagnostic::{Diagnostic, Severity};
pub use source::{Inputs, Loader, Parsed, Source};

use std::collections::BTreeSet;

use crate::spec::{Name, Origins, Project};

/// Documentation of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The key's dotted path with `*` for names: `sandbox.*.healthcheck.interval`.
    pub path: String,
    /// Its type in words.
    pub kind: String,
    /// Its default in words; none when there is none.
    pub default: Option<String>,
    /// What it means.
    pub meaning: String,
    /// Whether `up` carries it out in this version.
    pub supported: bool,
}

/// A name on the command line that the project does not declare.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no sandbox is called `{name}`")]
pub struct UnknownSandbox {
    /// What was asked for.
    pub name: Name,
    /// A declared name that is close to it.
    pub suggestion: Option<Name>,
}

/// Reads a project from its Sandboxfiles.
pub fn load(inputs: Inputs<'_>) -> Parsed {
    let _ = inputs;
    Parsed {
        project: None,
        diagnostics: vec![Diagnostic::error("this build reads no Sandboxfile")],
        origins: Origins::default(),
        inputs: Vec::new(),
        variables: Vec::new(),
    }
}

/// An error for each key of a selected sandbox (or of what it uses) that this version decodes and
/// plans but does not carry out.
pub fn unsupported<'a>(
    project: &Project,
    selected: impl Iterator<Item = &'a Name>,
    origins: &Origins,
) -> Vec<Diagnostic> {
    let _ = (project, selected.count(), origins);
    Vec::new()
}

/// The documentation of `key`: a dotted path (`sandbox.api.memory`, `volume.*.quota`) or the name
/// of a sandbox's key alone (`memory`).
pub fn explain(key: &str) -> Option<Explanation> {
    let _ = key;
    None
}

/// A Sandboxfile that declares exactly `project`, with everything merged and resolved.
pub fn canonical_toml(project: &Project) -> String {
    let _ = project;
    String::new()
}

/// The sandboxes that a command acts on: `names` where there are any, else those without profiles
/// or with an active one; with everything that they depend on.
///
/// # Errors
/// The first of `names` that is not declared.
pub fn select(
    project: &Project,
    names: &[Name],
    profiles: &[Name],
) -> Result<BTreeSet<Name>, UnknownSandbox> {
    let _ = (names, profiles);
    Ok(project.sandboxes.keys().cloned().collect())
}
