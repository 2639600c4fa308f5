//! Where libkrunfw may be.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::SetupError;
use crate::home::Home;

/// The file that names a library, whatever else is installed.
const OVERRIDE: &str = "MSB_LIBKRUNFW";
/// The start of the file's name; a version may follow.
const STEM: &str = "libkrunfw.so.5";
/// Where the dynamic linker looks without being told.
const USUAL: [&str; 6] =
    ["/usr/local/lib64", "/usr/local/lib", "/usr/lib64", "/lib64", "/usr/lib", "/lib"];
const LINKER_CONFIG: &str = "/etc/ld.so.conf";
const LINKER_CONFIG_DIR: &str = "/etc/ld.so.conf.d";

/// A libkrunfw library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Library {
    /// The file.
    pub path: PathBuf,
    /// Why this one.
    pub origin: Origin,
}

/// Where a library was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `MSB_LIBKRUNFW` names it.
    Override,
    /// In a library directory of the system.
    System,
    /// In the state directory.
    Installed,
}

/// Looks for the library; `var` is the environment. `None` when there is none.
pub fn find_library(
    home: &Home,
    var: impl Fn(&str) -> Option<OsString>,
) -> Result<Option<Library>, SetupError> {
    if let Some(path) = var(OVERRIDE).filter(|path| !path.is_empty()).map(PathBuf::from) {
        return match fs::canonicalize(&path) {
            Ok(path) if path.is_file() => Ok(Some(Library { path, origin: Origin::Override })),
            _ => Err(SetupError::Override(path)),
        };
    }
    let system = linker_dirs().into_iter().find_map(|dir| newest(&dir));
    if let Some(path) = system {
        return Ok(Some(Library { path, origin: Origin::System }));
    }
    Ok(newest(&home.runtime()).map(|path| Library { path, origin: Origin::Installed }))
}

/// The library directories of the system, in the linker's order.
fn linker_dirs() -> Vec<PathBuf> {
    let mut configs: Vec<PathBuf> = fs::read_dir(LINKER_CONFIG_DIR)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    configs.retain(|path| path.extension().is_some_and(|extension| extension == "conf"));
    configs.sort();
    configs.push(PathBuf::from(LINKER_CONFIG));
    let texts = configs.into_iter().filter_map(|path| fs::read_to_string(path).ok());
    let configured = texts.flat_map(|text| directories(&text));
    configured.chain(USUAL.iter().map(PathBuf::from)).collect()
}

fn directories(text: &str) -> Vec<PathBuf> {
    text.lines()
        .map(|line| line.split('#').next().unwrap_or(line).trim())
        .filter(|line| line.starts_with('/'))
        .map(PathBuf::from)
        .collect()
}

/// The library with the highest version in `dir`, links resolved.
fn newest(dir: &Path) -> Option<PathBuf> {
    let version = |path: &Path| -> Option<Vec<u32>> {
        let rest = path.file_name()?.to_str()?.strip_prefix(STEM)?;
        rest.split('.').filter(|part| !part.is_empty()).map(|part| part.parse().ok()).collect()
    };
    fs::read_dir(dir)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| version(path).is_some() && path.is_file())
        .max_by_key(|path| version(path))
        .and_then(|path| fs::canonicalize(path).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_override_wins_and_must_exist() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let home = Home::at(dir.path());
        home.create()?;
        let file = dir.path().join("mine.so");
        fs::write(&file, "x")?;
        let found = find_library(&home, |_| Some(file.clone().into()))?;
        assert_eq!(found.map(|library| library.origin), Some(Origin::Override));
        fs::remove_file(&file)?;
        let error = find_library(&home, |_| Some(file.clone().into())).unwrap_err();
        assert!(error.to_string().contains("MSB_LIBKRUNFW"), "{error}");
        Ok(())
    }

    #[test]
    fn the_newest_version_is_taken() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        for name in ["libkrunfw.so.5.9.1", "libkrunfw.so.5.10.0", "libkrunfw.so.5.x", "other"] {
            fs::write(dir.path().join(name), "x")?;
        }
        let newest = newest(dir.path()).ok_or("none")?;
        assert!(newest.ends_with("libkrunfw.so.5.10.0"), "{newest:?}");
        assert_eq!(directories("# no\n/a # b\ninclude x\n /c"), ["/a", "/c"].map(PathBuf::from));
        Ok(())
    }
}
