//! Setting the guest up.

mod devices;
pub(crate) mod early;
mod etc;
mod grow;
mod image;
mod loops;
mod mapper;
mod mounts;
mod populate;
mod relay;
mod shares;
mod volumes;

use std::fmt::Display;
use std::fs;
use std::io;
use std::mem;

use msb_protocol::{BootConfig, BootFailed};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

pub(crate) use mounts::{Booted, mount_own};
use relay::Relay;
pub(crate) use volumes::Growth;

use crate::log;

/// Kernel settings that container images rely on: any user may use low ports and send pings.
const SETTINGS: [(&str, &str); 2] = [
    ("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"),
    ("/proc/sys/net/ipv4/ping_group_range", "0 2147483647"),
];

/// Sets the guest up as the host says. Without a root file system, as far as that goes in the
/// agent's own root, which is read-only.
pub(crate) fn set_up(config: &BootConfig) -> Result<Option<Booted>, BootFailed> {
    stage("set the clock", set_clock(config.clock_ns))?;
    // In the first mount namespace, which the agent goes back to while it is still needed.
    let grows = config.disks.iter().any(|disk| disk.share.is_some());
    let relay = match config.shares.is_empty() && !grows {
        true => None,
        false => Some(stage("open the way to the file server", Relay::start())?),
    };
    let mut booted = mounts::assemble(&config.root)?;
    if booted.is_some() {
        mounts::mount_system()?;
        // A guest whose disk is full can be entered and cleaned.
        if let Err(error) = etc::write_hosts(&config.hostname, &config.hosts) {
            log::line(&format!("writing /etc/hosts: {error}"));
        }
    }
    let shares = match relay {
        Some(relay) => Some(shares::open(relay, config)?),
        None => None,
    };
    mounts::mount_all(config, shares, &mut booted)?;
    stage("set the host name", rustix::system::sethostname(config.hostname.as_bytes()))?;
    stage("bring up the loopback interface", bring_up_loopback())?;
    for (path, value) in SETTINGS {
        if let Err(error) = fs::write(path, value) {
            log::line(&format!("{path}: {error}"));
        }
    }
    Ok(booted)
}

/// Microseconds since the kernel started.
pub(crate) fn uptime_us() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let (secs, nanos) = (now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs());
    secs.saturating_mul(1_000_000).saturating_add(nanos / 1_000)
}

/// Names the stage of an error.
fn stage<T, E: Display>(stage: &str, result: Result<T, E>) -> Result<T, BootFailed> {
    result.map_err(|error| BootFailed { stage: stage.to_owned(), message: error.to_string() })
}

/// No time at all leaves the clock alone.
fn set_clock(clock_ns: u64) -> io::Result<()> {
    if clock_ns == 0 {
        return Ok(());
    }
    let time = Timespec {
        tv_sec: i64::try_from(clock_ns / 1_000_000_000).map_err(io::Error::other)?,
        tv_nsec: i64::try_from(clock_ns % 1_000_000_000).map_err(io::Error::other)?,
    };
    Ok(clock_settime(ClockId::Realtime, time)?)
}

/// The kernel gives the interface its addresses when it comes up.
fn bring_up_loopback() -> io::Result<()> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: all zeroes is a valid `ifreq`; the name ends in a NUL byte; both calls get a valid
    // pointer to it, and the kernel has set the flags when they are read.
    unsafe {
        let mut request: libc::ifreq = mem::zeroed();
        request.ifr_name[0] = b'l'.cast_signed();
        request.ifr_name[1] = b'o'.cast_signed();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
        if libc::ioctl(fd, libc::SIOCGIFFLAGS, &mut request) < 0 {
            return Err(io::Error::last_os_error());
        }
        let up = i16::try_from(libc::IFF_UP).unwrap_or(1);
        request.ifr_ifru.ifru_flags |= up;
        if libc::ioctl(fd, libc::SIOCSIFFLAGS, &request) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
