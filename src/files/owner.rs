//! Whose files are, for the guest.
//!
//! On the host everything that is made belongs to the user who runs the server. What the guest says
//! about owners is kept in an extended attribute, and shown to nobody but guests.

use std::ffi::{CStr, OsStr};
use std::os::fd::BorrowedFd;

use msb_protocol::FilesPreamble;
use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::host::{Descriptors, Result, Stat};

/// Attributes that begin with this are this server's own.
pub(super) const OWN_XATTRS: &[u8] = b"user.msb.";
const OWNER: &CStr = c"user.msb.owner";
/// Two numbers in decimal, and the colon.
const MAX_OWNER: usize = 21;
/// The permission without which an owner cannot set attributes of a file.
const OWNER_WRITES: u32 = 0o200;

/// A user and a group of the guest.
pub(super) type Owner = (u32, u32);

#[derive(Clone, Copy, Debug)]
pub(super) struct Owners {
    /// The user who runs this server.
    user: u32,
    /// Who that is in the guest.
    usual: Owner,
}

impl Owners {
    pub(super) fn new(preamble: FilesPreamble) -> Self {
        let user = rustix::process::geteuid().as_raw();
        Self { user, usual: (preamble.uid, preamble.gid) }
    }

    /// Whose the file is: as the guest has said, else the usual one's where it is the user's, else
    /// as on the host.
    pub(super) fn of(&self, all: &Descriptors, fd: BorrowedFd<'_>, stat: &Stat) -> Owner {
        let said = if stat.is_file() || stat.is_dir() { said(all, fd) } else { None };
        said.unwrap_or_else(|| self.unsaid(stat))
    }

    fn unsaid(&self, stat: &Stat) -> Owner {
        if stat.uid == self.user { self.usual } else { (stat.uid, stat.gid) }
    }

    /// Notes that the guest has said so.
    pub(super) fn set(
        &self,
        all: &Descriptors,
        fd: BorrowedFd<'_>,
        stat: &Stat,
        owner: Owner,
    ) -> Result<()> {
        if !stat.is_file() && !stat.is_dir() {
            // They cannot have such attributes.
            return if owner == self.unsaid(stat) { Ok(()) } else { Err(Errno::PERM) };
        }
        let name = OsStr::new(OWNER.to_str().unwrap_or_default());
        let write = || {
            if owner == self.unsaid(stat) {
                match all.remove_xattr(fd, name) {
                    Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
                    other => other,
                }
            } else {
                let text = format!("{}:{}", owner.0, owner.1);
                all.set_xattr(fd, name, text.as_bytes(), XattrFlags::empty())
            }
        };
        match write() {
            Err(Errno::ACCESS) if stat.uid == self.user && stat.mode & OWNER_WRITES == 0 => {
                all.chmod(fd, stat.mode & 0o7777 | OWNER_WRITES)?;
                let written = write();
                all.chmod(fd, stat.mode & 0o7777)?;
                written
            }
            other => other,
        }
        .map_err(|error| if error == Errno::OPNOTSUPP { Errno::PERM } else { error })
    }

    /// The same for something that the guest has just made. Where it cannot be noted, it is the
    /// usual one's.
    pub(super) fn made(&self, all: &Descriptors, fd: BorrowedFd<'_>, stat: &Stat, by: Owner) {
        if by != self.usual {
            let _ = self.set(all, fd, stat, by);
        }
    }
}

fn said(all: &Descriptors, fd: BorrowedFd<'_>) -> Option<Owner> {
    let mut text = [0; MAX_OWNER];
    let length = all.short_xattr(fd, OWNER, &mut text).ok()?;
    parse(text.get(..length)?)
}

fn parse(text: &[u8]) -> Option<Owner> {
    let (user, group) = std::str::from_utf8(text).ok()?.split_once(':')?;
    Some((user.parse().ok()?, group.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_two_numbers() {
        assert_eq!(parse(b"0:65534"), Some((0, 65_534)));
        assert_eq!(parse(b"4294967295:4294967295"), Some((u32::MAX, u32::MAX)));
        for wrong in ["", ":", "1", "1:", ":1", "-1:1", "1:4294967296", "1:1:1", "a:b", "1: 1"] {
            assert_eq!(parse(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
