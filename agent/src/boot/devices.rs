//! Devices that are named by the host: the port by its name, disks by their serials.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

/// How long a device may take to appear. Those of a guest are there from the start.
const DEVICE_WAIT: Duration = Duration::from_secs(5);

/// Opens the port `name`, which leads to the host.
pub(super) fn open_port(name: &str) -> io::Result<OwnedFd> {
    let device = when_there(|| find(Path::new("/sys/class/virtio-ports"), "name", name))
        .ok_or_else(|| io::Error::other(format!("there is no virtio port named {name}")))?;
    let path = Path::new("/dev").join(device);
    let open = OpenOptions::new().read(true).write(true).open(&path);
    open.map(OwnedFd::from)
        .map_err(|error| io::Error::other(format!("opening {}: {error}", path.display())))
}

/// The block device whose serial is `serial`.
pub(super) fn disk(serial: &str) -> io::Result<PathBuf> {
    when_there(|| find(Path::new("/sys/block"), "serial", serial))
        .map(|device| Path::new("/dev").join(device))
        .ok_or_else(|| io::Error::other(format!("there is no disk with the serial {serial}")))
}

/// The entry of `class` whose `attribute` reads `value`.
fn find(class: &Path, attribute: &str, value: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(class).ok()?;
    let names = |entry: &fs::DirEntry| {
        let text = fs::read_to_string(entry.path().join(attribute));
        text.is_ok_and(|text| text.trim_end_matches('\n') == value)
    };
    entries.flatten().find(names).map(|entry| entry.file_name().into())
}

/// What `look` finds, at once or after an event of the kernel.
fn when_there<T>(look: impl Fn() -> Option<T>) -> Option<T> {
    if let Some(found) = look() {
        return Some(found);
    }
    let events = socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        Some(KOBJECT_UEVENT),
    )
    .ok()?;
    bind(&events, &SocketAddrNetlink::new(0, 1)).ok()?;
    let deadline = Instant::now() + DEVICE_WAIT;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        let left = deadline.checked_duration_since(Instant::now())?;
        let timeout = Timespec::try_from(left).ok()?;
        poll(&mut [PollFd::new(&events, PollFlags::IN)], Some(&timeout)).ok()?;
        while recv(&events, &mut [0; 8192], RecvFlags::empty()).is_ok() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_an_entry_by_its_attribute() {
        let class = tempfile::tempdir().unwrap();
        for (device, name) in [("vport0p1", "other\n"), ("vport0p2", "agent\n"), ("vdb", "agent2")]
        {
            fs::create_dir(class.path().join(device)).unwrap();
            fs::write(class.path().join(device).join("name"), name).unwrap();
        }
        fs::create_dir(class.path().join("vport0p0")).unwrap();
        assert_eq!(find(class.path(), "name", "agent"), Some("vport0p2".into()));
        assert_eq!(find(class.path(), "name", "agent2"), Some("vdb".into()));
        assert_eq!(find(class.path(), "name", "none"), None);
        assert_eq!(find(Path::new("/nonexistent"), "name", "agent"), None);
    }
}
