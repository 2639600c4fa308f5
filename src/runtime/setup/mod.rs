//! Provides the guest kernel.
//!
//! The kernel comes in a library, libkrunfw, which is looked for in this order: the file that
//! `MSB_LIBKRUNFW` names; the system's library directories; the state directory, into which
//! [`Installer`] puts the pinned one. Nothing of the library is executed: the kernel is cut out of
//! it and kept as an ELF file that QEMU boots, once per library.
#![allow(clippy::disallowed_methods, reason = "this module reads and installs files")]

mod elf;
mod fetch;
mod search;
mod watch;

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::home::Home;
use crate::runtime::Kernel;

pub use elf::KernelError;
pub use fetch::{Installer, Pin, Progress, install};
pub use search::{Library, Origin, find_library};

/// The largest library that is read, in bytes.
const MAX_LIBRARY_BYTES: u64 = 256 << 20;
/// Changes with the form of the kernel file.
const KERNEL_FORM: u32 = 1;

/// Why there is no kernel.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// No library was found.
    #[error("the guest kernel is not installed: run `msb setup`")]
    Missing,
    /// `MSB_LIBKRUNFW` names no file.
    #[error("MSB_LIBKRUNFW names {0}, which is not a file")]
    Override(PathBuf),
    /// A file could not be read, made or renamed.
    #[error("{path}: {action} failed")]
    File {
        /// Which.
        path: PathBuf,
        /// What was being done.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The library holds no kernel that can be used.
    #[error("{path}: no usable kernel in it")]
    Kernel {
        /// The library.
        path: PathBuf,
        /// Why.
        source: KernelError,
    },
    /// There is no pinned library for this kind of processor.
    #[error("there is no pinned kernel for {0}: set MSB_LIBKRUNFW to a libkrunfw library")]
    Architecture(&'static str),
    /// There is no pip to download with.
    #[error(
        "pip is needed to download the guest kernel: install it (`apt-get install python3-pip`), \
         or set MSB_LIBKRUNFW to a libkrunfw library"
    )]
    NoPip,
    /// pip failed.
    #[error("pip could not download {package}: {reason}")]
    Download {
        /// What was asked for.
        package: String,
        /// The end of what it said.
        reason: String,
    },
    /// Something that was downloaded is not what is pinned.
    #[error("{what} is not what this version expects: SHA-256 {actual}, not {expected}")]
    Digest {
        /// What.
        what: String,
        /// The pinned digest.
        expected: String,
        /// The digest found.
        actual: String,
    },
    /// The downloaded archive cannot be read.
    #[error("{path}: not a readable archive: {reason}")]
    Archive {
        /// The archive.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Another process installs.
    #[error("cannot wait for another installation")]
    Lock(#[source] io::Error),
}

/// What is known of the kernel without changing anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The library that is used.
    pub library: Library,
    /// The kernel file made from it, if it was made.
    pub kernel: Option<PathBuf>,
}

/// Which library a kernel file was made from; kept beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    form: u32,
    library: PathBuf,
    size: u64,
    modified_ns: i128,
    inode: u64,
    kernel: PathBuf,
}

/// Looks where the kernel is; changes nothing.
pub fn status(home: &Home) -> Result<Status, SetupError> {
    let library = find_library(home, |name| std::env::var_os(name))?.ok_or(SetupError::Missing)?;
    let kernel = known(home, &library.path)?.map(|stamp| stamp.kernel);
    Ok(Status { library, kernel })
}

/// The kernel file for [`crate::runtime::VmConfig`], made from the library at the first call;
/// later calls look at some files' times only.
pub fn kernel(home: &Home) -> Result<Kernel, SetupError> {
    let library = find_library(home, |name| std::env::var_os(name))?.ok_or(SetupError::Missing)?;
    Ok(Kernel { image: kernel_from(home, &library.path)?, library: library.path })
}

/// The kernel file made from the library at `path`.
pub fn kernel_from(home: &Home, path: &Path) -> Result<PathBuf, SetupError> {
    if let Some(stamp) = known(home, path)? {
        return Ok(stamp.kernel);
    }
    let size = fs::metadata(path).map_err(at(path, "reading"))?.len();
    if size > MAX_LIBRARY_BYTES {
        let source = io::Error::new(io::ErrorKind::FileTooLarge, "too large for a library");
        return Err(SetupError::File { path: path.to_owned(), action: "reading", source });
    }
    let bytes = fs::read(path).map_err(at(path, "reading"))?;
    let header = elf::kernel(&bytes)
        .map_err(|source| SetupError::Kernel { path: path.to_owned(), source })?;
    let hash = hex(&Sha256::digest(&bytes));
    let kernel = home.runtime().join(format!("kernel-{}.elf", &hash[..16]));
    if !kernel.exists() {
        replace(home, &kernel, |file| {
            file.write_all(&header.head)?;
            file.write_all(&bytes[header.body.clone()])
        })?;
    }
    let stamp = stamp(path, kernel.clone())?;
    let text = serde_json::to_vec(&stamp).map_err(|error| SetupError::File {
        path: stamp_path(home),
        action: "writing",
        source: error.into(),
    })?;
    replace(home, &stamp_path(home), |file| file.write_all(&text))?;
    Ok(kernel)
}

fn stamp_path(home: &Home) -> PathBuf {
    home.runtime().join("kernel.json")
}

fn stamp(library: &Path, kernel: PathBuf) -> Result<Stamp, SetupError> {
    let meta = fs::metadata(library).map_err(at(library, "reading"))?;
    Ok(Stamp {
        form: KERNEL_FORM,
        library: library.to_owned(),
        size: meta.len(),
        modified_ns: i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec()),
        inode: meta.ino(),
        kernel,
    })
}

/// The stamp of the kernel made from `library`, if the library is unchanged and the kernel there.
fn known(home: &Home, library: &Path) -> Result<Option<Stamp>, SetupError> {
    let Ok(text) = fs::read(stamp_path(home)) else { return Ok(None) };
    let Ok(kept) = serde_json::from_slice::<Stamp>(&text) else { return Ok(None) };
    let current = stamp(library, kept.kernel.clone())?;
    Ok((kept == current && kept.kernel.is_file()).then_some(kept))
}

/// Makes or replaces `path` as a whole.
fn replace(
    home: &Home,
    path: &Path,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<(), SetupError> {
    let mut file = tempfile::NamedTempFile::new_in(home.runtime()).map_err(at(path, "writing"))?;
    write(file.as_file_mut()).map_err(at(path, "writing"))?;
    file.as_file().sync_all().map_err(at(path, "writing"))?;
    file.persist(path).map_err(|error| at(path, "renaming")(error.error))?;
    Ok(())
}

fn at(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> SetupError {
    let path = path.to_owned();
    move |source| SetupError::File { path, action, source }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
