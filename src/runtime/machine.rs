//! What is found out about this machine once per boot, and kept under the state directory.
#![allow(clippy::disallowed_methods, reason = "this module looks at the machine")]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::home::Home;
use crate::runtime::kvm;

/// Facts that hold until the machine is rebooted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Machine {
    boot_id: String,
    /// Counts changes of the attempt itself.
    attempt: u32,
    /// The device node's identity: permissions, or the node itself, may appear later.
    node: Option<(u64, u32, u32)>,
    /// Why KVM cannot run guests; `None` when it can.
    pub(super) kvm: Option<String>,
    /// Frequency of the time stamp counter, where there is an invariant one.
    pub(super) tsc_khz: Option<u64>,
    /// Where QEMU was found last.
    pub(super) qemu: Option<PathBuf>,
}

const ATTEMPT: u32 = 3;

/// The identity of this boot of the machine, a UUID.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

impl Machine {
    /// What is known, or finds it out (some 25 ms) and keeps it.
    ///
    /// A `qemu` that is given is remembered with it, for a process without `PATH`.
    pub(super) fn look(home: &Home, qemu: Option<&Path>) -> Self {
        let boot_id = boot_id().unwrap_or_default();
        let path = home.runtime().join("machine.json");
        let node = kvm_node();
        let known =
            fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Self>(&text).ok());
        if let Some(known) = known
            && !boot_id.is_empty()
            && known.boot_id == boot_id
            && known.attempt == ATTEMPT
            && known.node == node
        {
            if qemu.is_none_or(|qemu| known.qemu.as_deref() == Some(qemu)) {
                return known;
            }
            return Self { qemu: qemu.map(Path::to_owned), ..known }.kept(home, &path);
        }
        let machine = Self {
            boot_id,
            attempt: ATTEMPT,
            node,
            kvm: kvm::probe().err(),
            tsc_khz: tsc_khz(),
            qemu: qemu.map(Path::to_owned),
        };
        machine.kept(home, &path)
    }

    /// Only a cache: whoever cannot keep it finds it out again.
    fn kept(self, home: &Home, path: &Path) -> Self {
        if let Ok(text) = serde_json::to_vec(&self)
            && let Ok(mut file) = tempfile::NamedTempFile::new_in(home.runtime())
            && io::Write::write_all(&mut file, &text).is_ok()
        {
            let _ = file.persist(path);
        }
        self
    }
}

/// Device number, mode and group of the node, with the user who asks.
fn kvm_node() -> Option<(u64, u32, u32)> {
    use std::os::unix::fs::MetadataExt;
    let meta = fs::metadata("/dev/kvm").ok()?;
    Some((meta.rdev(), meta.mode() ^ meta.gid(), rustix::process::geteuid().as_raw()))
}

/// Counted over this time: the two clocks are read within some 100 ns, so it is right to 10 ppm.
const WINDOW: Duration = Duration::from_millis(20);

/// Counts the time stamp counter against the clock. A guest that is emulated sees the host's
/// counter, has nothing to calibrate it with, and hangs at random when its guess is wrong.
#[cfg(target_arch = "x86_64")]
fn tsc_khz() -> Option<u64> {
    let flags = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = flags.lines().find(|line| line.starts_with("flags"))?;
    if !line.split_ascii_whitespace().any(|flag| flag == "constant_tsc") {
        return None;
    }
    let sample = || {
        // The quickest of some pairs is the least disturbed.
        (0..8)
            .map(|_| {
                let before = now_ns();
                // SAFETY: every x86-64 processor has the instruction.
                let counter = unsafe { core::arch::x86_64::_rdtsc() };
                let after = now_ns();
                (after - before, before + (after - before) / 2, counter)
            })
            .min_by_key(|(took, ..)| *took)
    };
    let (_, t0, c0) = sample()?;
    std::thread::sleep(WINDOW);
    let (_, t1, c1) = sample()?;
    let cycles = u128::from(c1.checked_sub(c0)?);
    u64::try_from(cycles * 1_000_000 / u128::from(t1.checked_sub(t0)?.max(1))).ok()
}

#[cfg(not(target_arch = "x86_64"))]
fn tsc_khz() -> Option<u64> {
    None
}

#[cfg(target_arch = "x86_64")]
fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicRaw);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_kept_until_reboot() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let home = Home::at(dir.path());
        home.create()?;
        let first = Machine::look(&home, None);
        assert_eq!(Machine::look(&home, None), first);
        let path = home.runtime().join("machine.json");
        let other = Machine { boot_id: "another".to_owned(), tsc_khz: Some(1), ..first.clone() };
        fs::write(&path, serde_json::to_vec(&other)?)?;
        assert_ne!(Machine::look(&home, None).tsc_khz, Some(1));
        fs::write(&path, "not JSON")?;
        assert_eq!(Machine::look(&home, None).kvm, first.kvm);
        Ok(())
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_counter_is_measured_well() {
        if let (Some(a), Some(b)) = (tsc_khz(), tsc_khz()) {
            assert!(a > 100_000 && a.abs_diff(b) * 1000 < a, "{a} and {b} differ");
        }
    }
}
