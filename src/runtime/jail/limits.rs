//! What a process may use up, and the capabilities that it can never have.

use std::fs;
use std::path::PathBuf;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::last_errno;
use crate::runtime::{Passed, Role, VmCommand};

/// Descriptors of a VM process.
const DESCRIPTORS: u64 = 1024;
/// Descriptors of a file server.
const SERVER_DESCRIPTORS: u64 = 1 << 16;
/// What a file server of root keeps of root's: passing over the permissions and the ownership of
/// files, `CAP_DAC_OVERRIDE` and `CAP_FOWNER`.
const SERVER_CAPABILITIES: [u32; 2] = [1, 3];
/// Threads: a processor each of up to 255, and the workers of block devices.
const THREADS: u64 = 512;
/// Capabilities are numbered from 0; the kernel refuses the first that it does not know.
const LAST_CAPABILITY: u32 = 63;

/// The limits, prepared in the parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// The size beyond which no file can be written, in bytes: a VM cannot make a disk larger than
    /// the largest that was handed out, but for one whose format lets it grow. Devices are as large as
    /// they are.
    file: u64,
    /// Open descriptors.
    descriptors: u64,
    /// Capabilities that root keeps.
    kept: &'static [u32],
    /// Whether the process has a user of its own.
    other: bool,
    /// Whether the kernel counts threads per user namespace.
    by_namespace: bool,
}

impl Limits {
    /// For `command`, whose process is a user of its own when `other`.
    pub(super) fn of(command: &VmCommand, other: bool) -> Self {
        let passed = command.fds.iter().filter_map(|fd| match &fd.what {
            Passed::Disk(disk) if !disk.readonly => Some(&disk.path),
            _ => None,
        });
        let size = |path: &PathBuf| fs::metadata(path).map_or(0, |meta| meta.len());
        let file = passed.chain(&command.writes).map(size).max().unwrap_or(0);
        let file = file.saturating_add(command.growth);
        let (file, descriptors, kept): (_, _, &[u32]) = match command.role {
            Role::Vm => (file, DESCRIPTORS, &[]),
            Role::FileServer(_) => (u64::MAX, SERVER_DESCRIPTORS, &SERVER_CAPABILITIES),
        };
        Self { file, descriptors, kept, other, by_namespace: counts_by_namespace() }
    }

    /// Whether threads can be bounded, in a process with a `namespace` of users of its own or
    /// without. They are counted per user, since Linux 5.14 per user and user namespace. Where the
    /// user's other processes count, a limit would depend on them.
    pub(super) fn bounds_threads(self, namespace: bool) -> bool {
        self.other || namespace && self.by_namespace
    }

    /// Applies them to such a process. Runs between fork and exec.
    pub(super) fn apply(self, namespace: bool) -> Result<(), Errno> {
        // No image of the guest's memory on disk.
        limit(Resource::Core, 0)?;
        limit(Resource::Nofile, self.descriptors)?;
        limit(Resource::Fsize, self.file)?;
        // Nothing has to stay in memory.
        limit(Resource::Memlock, 0)?;
        if self.bounds_threads(namespace) { limit(Resource::Nproc, THREADS) } else { Ok(()) }
    }

    /// Takes from the bounding set, from which a root process would regain everything at exec, all
    /// but what is kept. Without privileges there is nothing to drop: exec as an ordinary user
    /// leaves none. Runs between fork and exec.
    pub(super) fn drop_capabilities(self) -> Result<(), Errno> {
        let dropped = (0..=LAST_CAPABILITY).filter(|number| !self.kept.contains(number));
        drop_all(dropped)
    }
}

fn limit(resource: Resource, most: u64) -> Result<(), Errno> {
    let most = getrlimit(resource).maximum.map_or(most, |hard| hard.min(most));
    setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })
}

fn counts_by_namespace() -> bool {
    let version = rustix::system::uname();
    let mut numbers =
        version.release().to_str().unwrap_or_default().split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next().and_then(|number| number.parse::<u32>().ok()).unwrap_or(0);
    (next(), next()) >= (5, 14)
}

fn drop_all(capabilities: impl Iterator<Item = u32>) -> Result<(), Errno> {
    for capability in capabilities {
        // SAFETY: the call takes plain numbers.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } != 0 {
            match last_errno() {
                Errno::INVAL => break,
                Errno::PERM if !rustix::process::geteuid().is_root() => break,
                error => return Err(error),
            }
        }
    }
    Ok(())
}
