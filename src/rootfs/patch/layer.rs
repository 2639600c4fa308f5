//! Layers by what they are made of: made once, held by the sandboxes that use them.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::apply::apply;
use super::error::{LayerError, PatchError, Problem};
use super::lower::Lower;
use super::source::{Root, Scan};
use super::tree::Tree;
use super::write::{Contents, WriteError, check_total, write};
use crate::home::Home;
use crate::image::ImageRecord;
use crate::spec::{self, Patch};

/// Version of the layers: a layer that another version made is made again.
const VERSION: u32 = 1;
/// How often a layer that somebody removes is made again.
const ATTEMPTS: usize = 16;

/// What patches are applied to.
#[derive(Clone, Copy, Debug)]
pub struct Base<'a> {
    /// The image as it is on this machine.
    pub record: &'a ImageRecord,
    /// The image as it is declared: which part of a disk image is meant.
    pub image: &'a spec::Image,
}

/// The layer that `patches`, with digests, make over `base`; made where it is not there. Sources are
/// those of the project at `root`; `now` is the time of what is written, in seconds since 1970.
///
/// Processes that need one layer make it once. Killed, one leaves a file in `tmp/`, which the next
/// takes over.
pub fn ensure(
    home: &Home,
    base: Base<'_>,
    root: &Path,
    patches: &[Patch],
    now: i64,
) -> Result<PathBuf, LayerError> {
    let key = key(&base.record.digest, patches);
    let path = home.patches().join(format!("{key}.v{VERSION}.erofs"));
    if path.exists() {
        return Ok(path);
    }
    let temporary = home.tmp().join(format!("patches-{key}.tmp"));
    let file_error = |source| LayerError::File { path: temporary.clone(), source };
    let file = lock(&temporary).map_err(file_error)?;
    if path.exists() {
        let _ = fs::remove_file(&temporary);
        return Ok(path);
    }
    let out = file.try_clone().map_err(file_error)?;
    let made = make(base, root, patches, now, out, &temporary);
    if made.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    made?;
    let settle = || {
        file.sync_all()?;
        crash_point("patches-before-rename");
        fs::rename(&temporary, &path)?;
        File::open(home.patches())?.sync_all()
    };
    settle().map_err(file_error)?;
    Ok(path)
}

/// Makes `to` a further name of the layer, which keeps it from being removed.
pub fn link(
    home: &Home,
    base: Base<'_>,
    root: &Path,
    patches: &[Patch],
    now: i64,
    to: &Path,
) -> Result<(), LayerError> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let layer = ensure(home, base, root, patches, now)?;
        match fs::hard_link(&layer, to) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            // Nobody held it, so it was removed.
            Err(error) if error.kind() == io::ErrorKind::NotFound && attempt < ATTEMPTS => {}
            Err(source) => return Err(LayerError::File { path: to.to_owned(), source }),
        }
    }
}

/// What a layer is named by.
fn key(image_digest: &str, patches: &[Patch]) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(image_digest.as_bytes()).update(b"\n");
    // A spec that cannot be written is one that was never stored; there is none.
    hasher.update(serde_json::to_string(patches).unwrap_or_default().as_bytes());
    hasher.finalize().to_hex().to_string()
}

/// Opens the file of that name for one process.
fn lock(path: &Path) -> io::Result<File> {
    loop {
        let mut options = OpenOptions::new();
        let file =
            options.create(true).truncate(false).read(true).write(true).mode(0o600).open(path)?;
        file.lock()?;
        // Who had it before has renamed or removed it.
        match fs::metadata(path) {
            Ok(meta) if meta.ino() == file.metadata()?.ino() => return Ok(file),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
}

/// Writes a layer into `out`, which is known as `path`.
pub(super) fn make(
    base: Base<'_>,
    root: &Path,
    patches: &[Patch],
    now: i64,
    out: File,
    path: &Path,
) -> Result<(), LayerError> {
    let fail = |problem| match problem {
        Problem::Image(reason) => LayerError::Image { path: base.record.file.clone(), reason },
        // What disk it is, is said in the file that the patches are in.
        problem => PatchError { index: 0, problem }.into(),
    };
    let lower = Lower::open(base).map_err(fail)?;
    let project =
        Root::open(root).map_err(|source| LayerError::File { path: root.to_owned(), source })?;
    let mut tree = Tree::new(&lower, now).map_err(fail)?;
    let mut scans = Vec::with_capacity(patches.len());
    for (index, patch) in patches.iter().enumerate() {
        let applied = scan(&project, patch).and_then(|scan| {
            apply(&mut tree, index, patch, scan.as_ref(), now)?;
            scans.push(scan);
            Ok(())
        });
        applied.map_err(|problem| PatchError { index, problem })?;
    }
    check_total(&tree.root, patches.len())?;
    let contents = Contents { image: &lower, root: &project, scans: &scans };
    write(&tree.root, &contents, out).map_err(|error| match error {
        WriteError::Layer(error) => error,
        WriteError::Erofs(source) => LayerError::Write { path: path.to_owned(), source },
    })?;
    lower.check_unchanged(base).map_err(fail)
}

/// Looks at the source of a patch, which must hold what it held when the spec was made.
fn scan(root: &Root, patch: &Patch) -> Result<Option<Scan>, Problem> {
    let (source, digest) = match patch {
        Patch::CopyFile { source, digest, .. } | Patch::CopyDir { source, digest, .. } => {
            (source, digest.as_ref().ok_or(Problem::NoDigest)?)
        }
        Patch::Text { .. }
        | Patch::Mkdir { .. }
        | Patch::Append { .. }
        | Patch::Symlink { .. }
        | Patch::Remove { .. } => return Ok(None),
    };
    match root.scan(patch)? {
        Some(scan) if scan.digest == *digest => Ok(Some(scan)),
        _ => Err(Problem::Changed(source.into())),
    }
}

/// Where tests have the process killed.
fn crash_point(name: &'static str) {
    fail::fail_point!(name, |_| {
        let _ =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    });
    let _ = name;
}
