//! Turns Sandboxfile text into a [`Project`](crate::spec::Project), or explains why not.
//!
//! Nothing here reads a file or the environment: [`Inputs`] carries the texts, a [`Loader`] for the
//! files that they name, and the variables. All errors of all files are found in one run.

mod check;
mod diagnostic;
mod dotenv;
mod graph;
mod image;
mod interpolate;
mod keys;
pub mod limits;
mod lower;
mod merge;
mod path;
mod project;
mod report;
mod select;
mod source;
mod tree;
mod unit;
mod unsupported;

pub use diagnostic::{Diagnostic, Severity};
pub use source::{Inputs, Loader, Parsed, Source};

pub use select::{UnknownSandbox, select};
pub use unsupported::unsupported;

use crate::spec::Project;

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

/// Reads a project from its Sandboxfiles.
pub fn load(inputs: Inputs<'_>) -> Parsed {
    let mut session = unit::Session::new(inputs);
    session.read_all();
    project::assemble(session)
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

#[cfg(test)]
mod tests;
