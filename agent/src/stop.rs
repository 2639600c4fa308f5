//! The end: every process, then the disks, then the machine.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::log;
use crate::serve::{Agent, Place};

/// How long processes may take to go after SIGKILL; the kernel may hold one back.
const KILL_WAIT: Duration = Duration::from_secs(5);
/// How long until the next SIGKILL.
const KILL_AGAIN: Duration = Duration::from_millis(100);
/// How long sessions may take to send what is left of their output.
const FLUSH_WAIT: Duration = Duration::from_secs(2);
/// How long the host may take to hear the last message before the machine restarts regardless.
const BYE_WAIT: Duration = Duration::from_secs(5);

/// Ends every process (SIGTERM, SIGKILL after the grace), then writes and releases the disks.
pub(crate) async fn stop(agent: &Agent, grace_ms: u64) {
    let all_gone = async |wait| timeout(wait, agent.reaper.alone()).await.is_ok();
    if grace_ms > 0 {
        signal_all(agent.place, libc::SIGTERM);
        // A stopped process sees the signal only when it goes on.
        signal_all(agent.place, libc::SIGCONT);
    }
    if grace_ms == 0 || !all_gone(Duration::from_millis(grace_ms)).await {
        let deadline = Instant::now() + KILL_WAIT;
        loop {
            // Again, since outside a guest processes may have been started meanwhile.
            signal_all(agent.place, libc::SIGKILL);
            if all_gone(KILL_AGAIN).await {
                break;
            }
            if Instant::now() > deadline {
                log::line("some processes did not end");
                break;
            }
        }
    }
    if timeout(FLUSH_WAIT, agent.sessions.all_ended()).await.is_err() {
        log::line("the host did not read all output");
    }
    agent.scripts.borrow_mut().remove();
    if agent.place == Place::Guest {
        rustix::fs::sync();
        if let Some(booted) = agent.booted.take() {
            booted.release();
        }
    }
}

/// Restarts the machine, which ends the VM. Returns only when that is not possible.
pub(crate) fn restart() {
    rustix::fs::sync();
    let _ = rustix::system::reboot(rustix::system::RebootCommand::Restart);
}

/// Restarts the machine in a while, whatever happens here.
pub(crate) fn restart_when_overdue() {
    std::thread::spawn(|| {
        std::thread::sleep(BYE_WAIT);
        restart();
    });
}

fn signal_all(place: Place, signal: i32) {
    match place {
        // SAFETY: kill(2) takes no pointers; -1 spares PID 1 and the kernel.
        Place::Guest => drop(unsafe { libc::kill(-1, signal) }),
        Place::Process => {
            for pid in descendants(std::process::id()) {
                if let Ok(pid) = i32::try_from(pid) {
                    // SAFETY: kill(2) takes no pointers.
                    unsafe { libc::kill(pid, signal) };
                }
            }
        }
    }
}

/// All processes below `root`.
fn descendants(root: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        let stat = pid.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/stat")).ok());
        if let Some((pid, parent)) = pid.zip(stat.as_deref().and_then(parent_of)) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut open = vec![root];
    while let Some(parent) = open.pop() {
        let below = children.remove(&parent).unwrap_or_default();
        found.extend(&below);
        open.extend(below);
    }
    found
}

/// The parent in a line of `/proc/PID/stat`: the second field after the name, which is in
/// parentheses and may hold anything.
fn parent_of(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_parent_after_any_name() {
        assert_eq!(parent_of("7 (a) S 1 7) S 42 7 7 0"), Some(42));
        assert_eq!(parent_of("7 (sh) S 1 7 7 0"), Some(1));
        assert_eq!(parent_of("7"), None);
    }
}
