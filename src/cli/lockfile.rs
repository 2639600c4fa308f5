//! `Sandboxfile.lock` on the disk, and what commands do with it.
//!
//! `msb update` makes it. Where it exists, `up`, `plan` and `pull` take the content that it states
//! and ask no registry what a tag means; `up` and `pull` state what is missing. `--locked` refuses
//! when something is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use super::error::{CliError, Exit, FileError};
use super::fingerprint::FileStamp;
use super::interrupt;
use super::project::{self, Loaded};
use super::ui::Ui;
use crate::home::Home;
use crate::image::{
    Digest, ImageCache, ImageRef, MemoryRows, Pins, PinsError, Platform, RegistryAccess, pinnable,
};
use crate::manifest::Diagnostic;
use crate::spec::{Image, Name, PullPolicy};

/// The largest file that is read, in bytes: as a Sandboxfile.
const MAX_FILE: u64 = 16 << 20;
/// The most references that are resolved at a time.
const PARALLEL: usize = 8;

/// Digests by reference and platform.
pub(crate) type Resolved = BTreeMap<ImageRef, BTreeMap<Platform, Digest>>;

/// The lock file of a project.
#[derive(Debug)]
pub(crate) struct LockFile {
    /// Where it is or would be; none for a Sandboxfile from standard input.
    path: Option<PathBuf>,
    /// As it was before it was read.
    stamp: Option<FileStamp>,
    /// What it says; none where there is no file.
    pins: Option<Pins>,
}

/// Why a lock file cannot be used.
#[derive(Debug, thiserror::Error)]
enum LockFileError {
    #[error(transparent)]
    File(FileError),
    #[error("{path}: the lock file makes no sense")]
    Text { path: String, source: PinsError },
}

impl From<LockFileError> for CliError {
    fn from(error: LockFileError) -> Self {
        match error {
            LockFileError::File(error) => error.into(),
            LockFileError::Text { source: PinsError::Newer { .. }, .. } => {
                Self::new(Exit::InvalidFile, error).hint("use that version")
            }
            LockFileError::Text { .. } => {
                Self::new(Exit::InvalidFile, error).hint("`msb update` writes it anew")
            }
        }
    }
}

impl LockFile {
    /// Reads the lock file of a project, if there is one.
    pub(crate) fn read(loaded: &Loaded) -> Result<Self, CliError> {
        let path = path_of(loaded);
        let stamp = path.as_ref().map(|path| FileStamp::of(&path.display().to_string()));
        let pins = match &path {
            Some(path) => read(path)?,
            None => None,
        };
        Ok(Self { path, stamp, pins })
    }

    /// How the file was when it was read, for the fingerprint.
    pub(crate) fn stamp(&self) -> Option<&FileStamp> {
        self.stamp.as_ref()
    }

    /// What the images of the selected sandboxes are, where the file says so.
    pub(crate) fn locked(
        &self,
        loaded: &Loaded,
        selected: &BTreeSet<Name>,
    ) -> Vec<(Image, String)> {
        let Some(pins) = &self.pins else { return Vec::new() };
        images(loaded, selected)
            .into_iter()
            .filter_map(|(_, image)| Some((image.clone(), pins.get(image)?.to_string())))
            .collect()
    }

    /// Refuses when the file does not say what every image of the selected sandboxes is.
    pub(crate) fn require(
        &self,
        ui: &Ui,
        loaded: &Loaded,
        selected: &BTreeSet<Name>,
    ) -> Result<(), CliError> {
        let missing = self.missing(loaded, selected);
        if missing.is_empty() {
            return Ok(());
        }
        let file = self.shown();
        for (name, image) in &missing {
            let what = match &self.pins {
                Some(_) => format!("is not in {file}{}", for_platform(image)),
                None => format!("cannot be locked: there is no {file}"),
            };
            let message = format!("the image `{}` of the sandbox `{name}` {what}", image.source);
            let diagnostic = Diagnostic::error(message)
                .with_help("`msb update` writes it; without `--locked`, the registry is asked");
            ui.diagnostic(&match loaded.origins.locate(&format!("sandbox.{name}.image")) {
                Some((text, offset)) => diagnostic.at_key(&text, offset),
                None => diagnostic,
            });
        }
        let plural = if missing.len() == 1 { "" } else { "s" };
        let message = format!("{} image{plural} not locked", missing.len());
        Err(CliError::message(Exit::InvalidFile, message))
    }

    /// States in the file what it does not say of the selected sandboxes' images, as the registry
    /// tells it. Does nothing where there is no file.
    pub(crate) fn complete(
        self,
        ui: &Ui,
        loaded: &Loaded,
        selected: &BTreeSet<Name>,
    ) -> Result<Self, CliError> {
        let (Some(path), Some(_)) = (&self.path, &self.pins) else { return Ok(self) };
        let missing = self.missing(loaded, selected);
        let asked = missing.iter().filter(|(name, _)| {
            let spec = loaded.project.sandboxes.get(*name);
            spec.is_some_and(|spec| spec.pull_policy != PullPolicy::Never)
        });
        let asked: Vec<&Image> = asked.map(|(_, image)| *image).collect();
        if asked.is_empty() {
            return Ok(self);
        }
        for image in &asked {
            ui.say(&format!("image {}: asking the registry, for {}", image.source, self.shown()));
        }
        let found = resolve(loaded, &asked)?;
        change(path, false, |pins| {
            found.into_iter().for_each(|(reference, digests)| pins.add(reference, digests));
        })?;
        Self::read(loaded)
    }

    /// Images that a registry resolves and that the file does not state, with the first sandbox
    /// that has them.
    fn missing<'a>(
        &self,
        loaded: &'a Loaded,
        selected: &'a BTreeSet<Name>,
    ) -> Vec<(&'a Name, &'a Image)> {
        let stated =
            |image: &Image| self.pins.as_ref().is_some_and(|pins| pins.get(image).is_some());
        images(loaded, selected).into_iter().filter(|(_, image)| !stated(image)).collect()
    }

    /// The name of the file, for messages.
    pub(crate) fn shown(&self) -> String {
        let name = self.path.as_ref().and_then(|path| path.file_name());
        name.map_or_else(|| "lock file".to_owned(), |name| name.to_string_lossy().into_owned())
    }

    /// What the file says.
    pub(crate) fn pins(&self) -> Option<&Pins> {
        self.pins.as_ref()
    }
}

fn for_platform(image: &Image) -> String {
    image
        .platform
        .as_ref()
        .map_or_else(|| format!(" for {}", Platform::host()), |platform| format!(" for {platform}"))
}

/// Beside the first Sandboxfile and named after it, without `.toml`.
pub(crate) fn path_of(loaded: &Loaded) -> Option<PathBuf> {
    let first = loaded.files.first()?;
    Some(PathBuf::from(format!("{}.lock", first.strip_suffix(".toml").unwrap_or(first))))
}

/// The images of sandboxes that a registry resolves, each once, with the first that has it.
pub(crate) fn images<'a>(
    loaded: &'a Loaded,
    selected: &'a BTreeSet<Name>,
) -> Vec<(&'a Name, &'a Image)> {
    let mut images: Vec<(&Name, &Image)> = Vec::new();
    for name in selected {
        let Some(spec) = loaded.project.sandboxes.get(name) else { continue };
        let is_known = images.iter().any(|(_, image)| **image == spec.image);
        if !is_known && pinnable(&spec.image).is_some() {
            images.push((name, &spec.image));
        }
    }
    images
}

fn read(path: &Path) -> Result<Option<Pins>, LockFileError> {
    let mut text = String::new();
    match File::open(path).and_then(|file| file.take(MAX_FILE).read_to_string(&mut text)) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(LockFileError::File(FileError::read(path, error))),
    }
    let path = path.display().to_string();
    Pins::parse(&text).map(Some).map_err(|source| LockFileError::Text { path, source })
}

/// Changes the file, one process at a time. With `anew`, whatever it says now; says what that was.
pub(crate) fn change(
    path: &Path,
    anew: bool,
    body: impl FnOnce(&mut Pins),
) -> Result<Pins, CliError> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        Some(_) | None => Path::new("."),
    };
    let fail = |source| FileError::write(path, source);
    let alone = File::open(dir).map_err(fail)?;
    alone.lock().map_err(fail)?;
    let before = match read(path) {
        Ok(before) => before,
        Err(error @ LockFileError::Text { source: PinsError::Newer { .. }, .. }) => {
            return Err(error.into());
        }
        Err(LockFileError::Text { .. }) if anew => None,
        Err(error) => return Err(error.into()),
    };
    let mut after = if anew { Pins::default() } else { before.clone().unwrap_or_default() };
    body(&mut after);
    if before.as_ref() != Some(&after) {
        replace(path, after.to_string().as_bytes()).map_err(fail)?;
    }
    Ok(before.unwrap_or_default())
}

/// Gives the file new content, all or nothing. Nobody else does that meanwhile.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let made = PathBuf::from(format!("{}.tmp", path.display()));
    // A killed command's; and never through a link that came with the project.
    match fs::remove_file(&made) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = File::options().write(true).create_new(true).open(&made)?;
    let written = file.write_all(content).and_then(|()| file.sync_all());
    let kept = written.and_then(|()| match fs::metadata(path) {
        Ok(meta) => file.set_permissions(meta.permissions()),
        Err(_) => Ok(()),
    });
    let renamed = kept.and_then(|()| fs::rename(&made, path));
    renamed.inspect_err(|_| drop(fs::remove_file(&made)))
}

/// Asks the registries what the images mean, for their own platforms and for those that others who
/// work on the project may have.
pub(crate) fn resolve(loaded: &Loaded, images: &[&Image]) -> Result<Resolved, CliError> {
    let home: Home = project::home()?;
    let cache = ImageCache::new(home, Arc::new(MemoryRows::default()));
    let access = RegistryAccess::new(&loaded.project.registries, |name| std::env::var(name).ok());
    let (cache, access) = (&cache, &access);
    let asked: Vec<_> = images
        .iter()
        .map(|image| async move { cache.resolve_for_all(image, access).await })
        .collect();
    let answers = stream::iter(asked).buffered(PARALLEL).try_collect::<Vec<_>>();
    let answers = interrupt::runtime()?.block_on(answers)?;
    let mut resolved = Resolved::new();
    for (image, digests) in images.iter().zip(answers) {
        if let Some(reference) = pinnable(image) {
            resolved.entry(reference).or_default().extend(digests);
        }
    }
    Ok(resolved)
}
