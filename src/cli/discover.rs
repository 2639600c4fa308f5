//! Finding the Sandboxfile.
//!
//! `Sandboxfile` or `Sandboxfile.toml`, in the working directory and its parents up to the root of
//! the repository (the directory that holds `.git`), with `Sandboxfile.override.toml` beside it.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::error::{CliError, Exit, FileError};

const NAMES: [&str; 2] = ["Sandboxfile", "Sandboxfile.toml"];
const OVERRIDE: &str = "Sandboxfile.override.toml";
/// The largest Sandboxfile that is read, in bytes.
const MAX_FILE: u64 = 16 << 20;

/// A file that was found.
#[derive(Debug)]
pub(crate) struct Found {
    /// As the user would name it.
    pub(crate) shown: String,
    /// The directory that relative paths in it start from.
    pub(crate) dir: PathBuf,
    /// What it says.
    pub(crate) text: String,
}

/// The paths that `-f` names, or those that are found from `cwd` upwards, in merge order; `None`
/// stands for standard input.
pub(crate) fn locate(flags: &[PathBuf], cwd: &Path) -> Result<Vec<Option<PathBuf>>, CliError> {
    if !flags.is_empty() {
        let absolute = |flag: &PathBuf| (flag != Path::new("-")).then(|| cwd.join(flag));
        return Ok(flags.iter().map(absolute).collect());
    }
    for dir in cwd.ancestors() {
        if let Some(main) = NAMES.iter().map(|name| dir.join(name)).find(|path| path.is_file()) {
            let over = dir.join(OVERRIDE);
            let over = over.is_file().then_some(Some(over));
            return Ok(std::iter::once(Some(main)).chain(over).collect());
        }
        if dir.join(".git").exists() {
            break;
        }
    }
    let message = format!("there is no Sandboxfile in {} or above it", cwd.display());
    Err(CliError::message(Exit::InvalidFile, message)
        .hint("`msb init` writes one; `-f FILE` names another"))
}

/// Reads the files that [`locate`] finds.
pub(crate) fn discover(flags: &[PathBuf], cwd: &Path) -> Result<Vec<Found>, CliError> {
    locate(flags, cwd)?
        .into_iter()
        .map(|path| {
            let read = match path {
                Some(path) => {
                    let shown = shown(&path, cwd);
                    read(&path, shown)
                }
                None => read_stdin(cwd),
            };
            read.map_err(|error| CliError::new(Exit::InvalidFile, error))
        })
        .collect()
}

fn read_stdin(cwd: &Path) -> Result<Found, FileError> {
    let mut text = String::new();
    let read = std::io::stdin().take(MAX_FILE).read_to_string(&mut text);
    read.map_err(|error| FileError::read(Path::new("standard input"), error))?;
    Ok(Found { shown: "<stdin>".to_owned(), dir: cwd.to_owned(), text })
}

fn shown(path: &Path, cwd: &Path) -> String {
    path.strip_prefix(cwd).unwrap_or(path).display().to_string()
}

fn read(path: &Path, shown: String) -> Result<Found, FileError> {
    let fail = |error| FileError::read(path, error);
    let file = std::fs::File::open(path).map_err(fail)?;
    let mut text = String::new();
    file.take(MAX_FILE).read_to_string(&mut text).map_err(fail)?;
    let dir = path.parent().unwrap_or(Path::new("/")).to_owned();
    Ok(Found { shown, dir, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_search_ends_at_the_repository() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let outer = dir.path();
        let inner = outer.join("repo/src/deep");
        std::fs::create_dir_all(&inner)?;
        std::fs::create_dir(outer.join("repo/.git"))?;
        std::fs::write(outer.join("Sandboxfile"), "outer")?;
        assert_eq!(discover(&[], &inner).map_err(|e| e.exit).err(), Some(Exit::InvalidFile));
        std::fs::write(outer.join("repo/Sandboxfile.toml"), "main")?;
        std::fs::write(outer.join("repo").join(OVERRIDE), "over")?;
        let found = discover(&[], &inner).map_err(|e| e.chain().join(": "))?;
        let texts: Vec<_> = found.iter().map(|found| found.text.as_str()).collect();
        assert_eq!(texts, ["main", "over"]);
        assert_eq!(found[0].dir, outer.join("repo"));
        Ok(())
    }
}
