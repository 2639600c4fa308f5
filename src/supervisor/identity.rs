//! Which process a row means.
//!
//! A pid is used again, so a process is named by its pid, its start time and the boot it belongs
//! to. A signal goes through a pidfd that was opened before the start time was compared: between
//! the two the pid cannot come to mean another process.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::store::RunIdentity;

/// The id of the current boot.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim_end().to_owned())
}

/// When process `pid` started, in clock ticks since boot; `None` when there is none, or only what
/// its parent has not yet collected.
pub fn start_time(pid: u32) -> Option<u64> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// State and start time from `/proc/PID/stat`. The second field is the program's name in brackets
/// and may hold anything, brackets too; what follows the last one is plain.
fn parse_stat(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split_ascii_whitespace();
    match fields.next()? {
        "Z" | "X" | "x" => None,
        // Field 3 is taken; the start time is field 22.
        _ => fields.nth(18)?.parse().ok(),
    }
}

/// This process, as the owner of a run.
pub fn own(run_id: String) -> io::Result<RunIdentity> {
    let pid = std::process::id();
    let start_time = start_time(pid).ok_or_else(|| io::Error::other("/proc is not mounted"))?;
    Ok(RunIdentity { pid, start_time, boot_id: boot_id()?, run_id })
}

/// Whether the process of `run` lives. Costs one read of `/proc`, and none when `run` is of another
/// boot than `boot`.
pub fn is_alive(run: &RunIdentity, boot: &str) -> bool {
    run.boot_id == boot && start_time(run.pid) == Some(run.start_time)
}

/// A pidfd of the process of `run`; `None` when it has ended.
pub fn open(run: &RunIdentity) -> io::Result<Option<OwnedFd>> {
    let Some(pid) = i32::try_from(run.pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
    let fd = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) => fd,
        Err(rustix::io::Errno::SRCH) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    Ok(is_alive(run, &boot_id()?).then_some(fd))
}

/// Kills the process of `run`; its VM dies with it. Says whether it lived.
pub fn kill(run: &RunIdentity) -> io::Result<bool> {
    let Some(fd) = open(run)? else { return Ok(false) };
    match pidfd_send_signal(&fd, Signal::KILL) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::SRCH) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// A new sandbox id: 12 lower-case hex digits.
pub fn new_id() -> io::Result<String> {
    random_hex::<6>()
}

/// A new run id: 16 lower-case hex digits.
pub(super) fn new_run_id() -> io::Result<String> {
    random_hex::<8>()
}

fn random_hex<const N: usize>() -> io::Result<String> {
    let mut bytes = [0_u8; N];
    getrandom::fill(&mut bytes).map_err(|e| io::Error::other(e.to_string()))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_hold_anything() {
        let tail = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21";
        assert_eq!(parse_stat(&format!("7 (sh) {tail}")), Some(4242));
        assert_eq!(parse_stat(&format!("7 (a) b) (c) {tail}")), Some(4242));
        assert_eq!(parse_stat(&format!("7 (sh) {}", tail.replacen('S', "Z", 1))), None);
        assert_eq!(parse_stat("7 (sh"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn this_process_lives_in_this_boot_only() {
        let me = own("r".into()).unwrap();
        assert!(is_alive(&me, &boot_id().unwrap()));
        assert!(!is_alive(&me, "another boot"));
        let earlier = RunIdentity { start_time: me.start_time - 1, ..me.clone() };
        assert!(!is_alive(&earlier, &boot_id().unwrap()));
        assert!(open(&me).unwrap().is_some());
        assert!(!kill(&earlier).unwrap());
    }

    #[test]
    fn a_process_that_ended_is_dead_before_it_is_collected() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let run = RunIdentity {
            pid: child.id(),
            start_time: start_time(child.id()).unwrap_or(1),
            boot_id: boot_id().unwrap(),
            run_id: String::new(),
        };
        let fd = open(&run).unwrap();
        if let Some(fd) = &fd {
            let mut poll = [rustix::event::PollFd::new(fd, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut poll, None).unwrap();
        }
        assert!(!is_alive(&run, &boot_id().unwrap()));
        assert!(!kill(&run).unwrap());
        child.wait().unwrap();
    }

    #[test]
    fn ids_are_hex() {
        let id = new_id().unwrap();
        assert!(id.len() == 12 && id.bytes().all(|b| b.is_ascii_hexdigit()));
        assert_ne!(id, new_id().unwrap());
    }
}
