//! What `load` is given: texts, a way to get more of them, and variables.

use std::io;
use std::sync::Arc;

use crate::spec::{Name, Origins, Project};

use super::Diagnostic;

/// One Sandboxfile.
#[derive(Clone, Debug)]
pub struct Source {
    /// The name that the user knows it by; diagnostics print it.
    pub path: String,
    /// The absolute directory against which its relative paths resolve.
    pub dir: String,
    /// Its content.
    pub text: Arc<str>,
}

/// Reads files that a Sandboxfile names: included Sandboxfiles and env files.
pub trait Loader {
    /// The text of the file at the absolute `path`, or `None` when there is no such file.
    ///
    /// # Errors
    /// Whatever else keeps it from being read, content that is not UTF-8 included.
    fn load(&self, path: &str) -> io::Result<Option<String>>;
}

/// Everything that `load` depends on.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// The Sandboxfile and its overrides, in the order in which they are merged.
    pub files: &'a [Source],
    /// Reads included and env files.
    pub loader: &'a dyn Loader,
    /// Variables of the process, which win over those of env files.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// A project name (`-p`) that wins over the file's.
    pub project_name: Option<&'a Name>,
    /// Further env files for interpolation (`--env-file`), absolute; they replace the file's
    /// top-level `env_file` when there is one.
    pub env_files: &'a [String],
}

/// The outcome of `load`.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// The project; none when any diagnostic is an error.
    pub project: Option<Project>,
    /// Errors and warnings, in the order of the files.
    pub diagnostics: Vec<Diagnostic>,
    /// Where every value was written.
    pub origins: Origins,
    /// Absolute paths of all files that were asked of the loader, present or not, without
    /// repetition. The project can only change when one of them or a given source does, or the
    /// environment.
    pub inputs: Vec<String>,
    /// Names of all variables that were looked up in the process environment, with what was found.
    pub variables: Vec<(String, Option<String>)>,
}
