//! From the command line to a project: find the files, read them, report what is wrong.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use crate::home::Home;
use crate::manifest::{self, Inputs, Loader, Severity, Source};
use crate::spec::{Name, Origins, Project};

use super::args::Global;
use super::discover::{discover, locate};
use super::error::{CliError, Exit, FileError};
use super::fingerprint::FileStamp;
use super::ui::Ui;

/// A project as its files declare it.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// What is declared.
    pub(crate) project: Project,
    /// Where.
    pub(crate) origins: Origins,
    /// The Sandboxfiles, absolute, in merge order; empty when read from standard input.
    pub(crate) files: Vec<String>,
    /// Every file that was consulted, as it was then; those that were missing too.
    pub(crate) stamps: Vec<FileStamp>,
    /// Every variable that was looked up, with what was found.
    pub(crate) variables: Vec<(String, Option<String>)>,
}

struct Files;

impl Loader for Files {
    fn load(&self, path: &str) -> io::Result<Option<String>> {
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The state directory.
pub(crate) fn home() -> Result<Home, CliError> {
    Ok(Home::locate(|name| std::env::var_os(name))?)
}

/// The working directory.
pub(crate) fn working_directory() -> Result<PathBuf, CliError> {
    std::env::current_dir().map_err(|error| FileError::read(Path::new("."), error).into())
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// The Sandboxfiles that the flags name, absolute; empty where standard input is one.
pub(crate) fn files(global: &Global) -> Result<Vec<String>, CliError> {
    let paths = locate(&global.files, &working_directory()?)?;
    let files: Option<Vec<_>> = paths.iter().map(|path| path.as_deref().map(shown)).collect();
    Ok(files.unwrap_or_default())
}

/// Reads the project that the flags name. Warnings and errors are printed here.
pub(crate) fn load(ui: &Ui, global: &Global) -> Result<Loaded, CliError> {
    let cwd = working_directory()?;
    let files: Vec<String> =
        locate(&global.files, &cwd)?.iter().flatten().map(|path| shown(path)).collect();
    // Before they are read: an edit in between shows as a change.
    let mut stamps: Vec<FileStamp> = files.iter().map(|path| FileStamp::of(path)).collect();
    let found = discover(&global.files, &cwd)?;
    let sources: Vec<Source> = found
        .into_iter()
        .map(|file| Source {
            path: file.shown,
            dir: file.dir.display().to_string(),
            text: file.text.into(),
        })
        .collect();
    let env_files: Vec<String> =
        global.env_files.iter().map(|path| cwd.join(path).display().to_string()).collect();
    let parsed = manifest::load(Inputs {
        files: &sources,
        loader: &Files,
        env: &|name| std::env::var(name).ok(),
        project_name: global.project.as_ref(),
        env_files: &env_files,
    });
    stamps.extend(parsed.inputs.iter().map(|path| FileStamp::of(path)));
    report(ui, &parsed.diagnostics);
    let Some(project) = parsed.project else {
        return Err(invalid(&parsed.diagnostics));
    };
    if project.name.as_str() == Project::LIBRARY {
        let message = format!("the project `{}` is that of programs", Project::LIBRARY);
        let hint = "give the Sandboxfile another `name`";
        return Err(CliError::message(Exit::InvalidFile, message).hint(hint));
    }
    Ok(Loaded { project, origins: parsed.origins, files, stamps, variables: parsed.variables })
}

/// The name of the project that the flags mean: `-p` alone is enough.
pub(crate) fn name(ui: &Ui, global: &Global) -> Result<Name, CliError> {
    match &global.project {
        Some(name) => Ok(name.clone()),
        None => match load(ui, global) {
            Ok(loaded) => Ok(loaded.project.name),
            Err(error) if error.exit == Exit::InvalidFile => {
                Err(error.hint("`-p NAME` names a project without its Sandboxfile; see `msb ls`"))
            }
            Err(error) => Err(error),
        },
    }
}

/// The sandboxes that a command is about.
pub(crate) fn select(
    ui: &Ui,
    loaded: &Loaded,
    names: &[Name],
    global: &Global,
) -> Result<BTreeSet<Name>, CliError> {
    let known = |profile: &Name| {
        loaded.project.sandboxes.values().any(|spec| spec.profiles.contains(profile))
    };
    for profile in global.profiles.iter().filter(|profile| !known(profile)) {
        ui.warn(&format!("no sandbox has the profile `{profile}`"));
    }
    Ok(manifest::select(&loaded.project, names, &global.profiles)?)
}

/// Refuses what this version does not carry out, before anything is done.
pub(crate) fn refuse_unsupported(
    ui: &Ui,
    loaded: &Loaded,
    selected: &BTreeSet<Name>,
) -> Result<(), CliError> {
    let found = manifest::unsupported(&loaded.project, selected.iter(), &loaded.origins);
    report(ui, &found);
    if found.is_empty() { Ok(()) } else { Err(invalid(&found)) }
}

pub(crate) fn report(ui: &Ui, diagnostics: &[manifest::Diagnostic]) {
    for diagnostic in diagnostics {
        ui.diagnostic(diagnostic);
    }
}

pub(crate) fn invalid(diagnostics: &[manifest::Diagnostic]) -> CliError {
    let errors = diagnostics.iter().filter(|d| d.severity() == Severity::Error).count();
    let plural = if errors == 1 { "" } else { "s" };
    CliError::message(Exit::InvalidFile, format!("{errors} error{plural} in the Sandboxfile"))
}
