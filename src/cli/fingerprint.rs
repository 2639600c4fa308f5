//! What the last complete `up` depended on, so that the next one can tell at a glance that nothing
//! has changed: without reading a Sandboxfile or opening an image.
//!
//! A project's row keeps it as JSON; every change of a spec clears it. It holds for one set of
//! arguments. Files count as unchanged while path, size, modification time and inode are the same.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use crate::home::Home;
use crate::image::ImageCache;
use crate::reconcile;
use crate::rootfs::patch::Watched;
use crate::spec::{Image, Name, PullPolicy, SandboxKind, SandboxSpec, Status};
use crate::store::{ProjectRow, SandboxRow, Store};

use super::args::{Global, Selection};
use super::error::CliError;
use super::lockfile::LockFile;
use super::project::Loaded;

/// Above this many files a look at all of them is no shorter than a close look.
const MAX_STAMPS: usize = 4096;

/// Differs between versions of msb.
const VERSION: &str = env!("CARGO_PKG_VERSION");

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Fingerprint {
    arguments: String,
    files: Vec<FileStamp>,
    /// Names of variables, and a hash of all their values.
    variables: Vec<String>,
    values: String,
    images: Vec<(Image, String)>,
    services: BTreeSet<String>,
    jobs: BTreeSet<String>,
}

/// A file as it was; all zero when there was none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileStamp {
    path: String,
    size: u64,
    seconds: i64,
    nanoseconds: i64,
    inode: u64,
    mode: u32,
}

impl FileStamp {
    pub(crate) fn of(path: &str) -> Self {
        let meta = std::fs::metadata(Path::new(path)).ok();
        let meta = meta.as_ref();
        Self {
            path: path.to_owned(),
            size: meta.map_or(0, MetadataExt::size),
            seconds: meta.map_or(0, MetadataExt::mtime),
            nanoseconds: meta.map_or(0, MetadataExt::mtime_nsec),
            inode: meta.map_or(0, MetadataExt::ino),
            mode: meta.map_or(0, MetadataExt::mode),
        }
    }

    /// That of a source of a patch; none where its path is not text.
    pub(crate) fn of_source(watched: &Watched) -> Option<Self> {
        Some(Self {
            path: watched.path.to_str()?.to_owned(),
            size: watched.size,
            seconds: watched.mtime,
            nanoseconds: watched.mtime_nsec.into(),
            inode: watched.inode,
            mode: watched.mode,
        })
    }
}

/// Whether `up` with these arguments on these files (absolute) would find nothing to do. `false`
/// also when that cannot be told this way.
pub(crate) fn holds(
    home: &Home,
    files: &[String],
    global: &Global,
    selection: &Selection,
) -> Result<bool, CliError> {
    let Some(store) = Store::open_read_only(home)? else { return Ok(false) };
    let Some((project, fingerprint)) = find(&store, files)? else { return Ok(false) };
    if fingerprint.arguments != arguments(files, global, selection)
        || fingerprint.files.iter().any(|stamp| *stamp != FileStamp::of(&stamp.path))
        || fingerprint.values != values(&fingerprint.variables)
        || !store.open_journal(&project.name)?.is_empty()
    {
        return Ok(false);
    }
    let rows = reconcile::rows(&store, &project.name)?;
    if rows.len() != fingerprint.services.len() + fingerprint.jobs.len()
        || !rows.iter().all(|row| is_as_wanted(row, &fingerprint))
    {
        return Ok(false);
    }
    let cache = ImageCache::new(home.clone(), Arc::new(Mutex::new(store)) as _);
    for (image, digest) in &fingerprint.images {
        if cache.cached(image)?.is_none_or(|record| record.digest != *digest) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn find(store: &Store, files: &[String]) -> Result<Option<(ProjectRow, Fingerprint)>, CliError> {
    let projects = store.projects()?;
    let Some(project) = projects.into_iter().find(|project| project.files == files) else {
        return Ok(None);
    };
    let text = project.fingerprint.as_deref().unwrap_or_default();
    Ok(serde_json::from_str(text).ok().map(|fingerprint| (project, fingerprint)))
}

fn is_as_wanted(row: &SandboxRow, fingerprint: &Fingerprint) -> bool {
    match row.status {
        Status::Running => {
            fingerprint.services.contains(&row.name) || fingerprint.jobs.contains(&row.name)
        }
        Status::Stopped => fingerprint.jobs.contains(&row.name) && row.exit_code == Some(0),
        Status::Created
        | Status::Starting
        | Status::Draining
        | Status::Restarting
        | Status::Crashed => false,
    }
}

/// The fingerprint of a complete `up`, as text. `None` where the next one has to look closely: not
/// everything is selected, or a registry is asked each time.
pub(crate) fn make(
    home: &Home,
    store: &Arc<Mutex<Store>>,
    loaded: &Loaded,
    lock: &LockFile,
    selected: &BTreeSet<Name>,
    global: &Global,
    selection: &Selection,
) -> Result<Option<String>, CliError> {
    let specs = || {
        let sandboxes = &loaded.project.sandboxes;
        selected.iter().filter_map(move |name| Some((name, sandboxes.get(name)?)))
    };
    // What the lock file states stays as long as that file does.
    let locked = lock.locked(loaded, selected);
    let is_locked = |image: &Image| locked.iter().any(|(other, _)| other == image);
    let asks =
        |spec: &SandboxSpec| spec.pull_policy == PullPolicy::Always && !is_locked(&spec.image);
    let too_many = loaded.stamps.len() > MAX_STAMPS;
    if loaded.files.is_empty() || too_many || specs().any(|(_, spec)| asks(spec)) {
        return Ok(None);
    }
    let cache = ImageCache::new(home.clone(), Arc::clone(store) as _);
    let mut images: Vec<(Image, String)> = Vec::new();
    for (_, spec) in specs() {
        if is_locked(&spec.image) || images.iter().any(|(image, _)| *image == spec.image) {
            continue;
        }
        let Some(record) = cache.cached(&spec.image)? else { return Ok(None) };
        images.push((spec.image.clone(), record.digest));
    }
    let of_kind = |kind: SandboxKind| {
        specs().filter(|(_, spec)| spec.kind == kind).map(|(name, _)| name.to_string()).collect()
    };
    let variables: Vec<String> = loaded.variables.iter().map(|(name, _)| name.clone()).collect();
    let fingerprint = Fingerprint {
        arguments: arguments(&loaded.files, global, selection),
        files: loaded.stamps.iter().chain(lock.stamp()).cloned().collect(),
        values: values(&variables),
        variables,
        images,
        services: of_kind(SandboxKind::Service),
        jobs: of_kind(SandboxKind::Job),
    };
    Ok(serde_json::to_string(&fingerprint).ok())
}

fn arguments(files: &[String], global: &Global, selection: &Selection) -> String {
    let mut hasher = blake3::Hasher::new();
    let text = format!(
        "{VERSION}\n{files:?}\n{:?}\n{:?}\n{:?}\n{selection:?}",
        global.project, global.profiles, global.env_files
    );
    hasher.update(text.as_bytes());
    hasher.finalize().to_hex().to_string()
}

fn values(names: &[String]) -> String {
    let mut hasher = blake3::Hasher::new();
    for name in names {
        let value = std::env::var(name).ok();
        hasher.update(format!("{name}\0{value:?}\0").as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}
