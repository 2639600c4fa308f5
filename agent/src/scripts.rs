//! Named scripts: files that are on `PATH` of every command.
//!
//! ```text
//! /.msb          memory file system of the agent's own; the workload sees it read-only
//!   scripts/     one file each; another set takes its place by one rename
//!   new/         the other set while it is made, and the old one while it is removed
//! ```
//!
//! The agent writes through a mount of its own that has no place in the tree. Nothing of this
//! survives a boot. Login shells that read `/etc/profile` forget the `PATH` that they were given: a
//! file beside it puts the directory back, for as long as there are scripts.
//!
//! An agent that is an ordinary process keeps them in a directory of its own, which it removes.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use rustix::fs::{
    AtFlags, Dir, Mode, OFlags, RenameFlags, fchmod, mkdirat, openat, renameat_with, unlinkat,
};
use rustix::io::Errno;

use crate::boot;
use crate::log;
use crate::serve::Place;
use crate::users::read_guest_file;

/// The mount in a guest.
const MOUNT: &str = "/.msb";
/// What the mount may hold: two sets of scripts, each file taking up whole pages. In bytes.
const SIZE: u64 = 16 << 20;
/// Names in the mount.
const SCRIPTS: &str = "scripts";
const NEW: &str = "new";
/// What login shells read after `/etc/profile` has set `PATH`, in the order of names.
const PROFILES: &str = "/etc/profile.d";
/// Ours, late in that order.
const PROFILE: &str = "/etc/profile.d/zz-msb.sh";
const PROFILE_TEXT: &str = "\
# Made by msb, which removes it when the sandbox has no scripts.
case \":$PATH:\" in
*:/.msb/scripts:*) ;;
*) PATH=\"/.msb/scripts:$PATH\" ;;
esac
";

/// The scripts of this guest.
pub(crate) struct Scripts {
    place: Place,
    /// Where they are seen, and the directory above by which they are written, once there were any.
    root: Option<(PathBuf, OwnedFd)>,
    any: bool,
}

impl Scripts {
    /// None yet.
    pub(crate) fn new(place: Place) -> Self {
        Self { place, root: None, any: false }
    }

    /// Where they are, if there are any.
    pub(crate) fn dir(&self) -> Option<&str> {
        let (dir, _) = self.root.as_ref().filter(|_| self.any)?;
        dir.to_str()
    }

    /// Puts `scripts`, files by name, in the place of those that there are.
    pub(crate) fn set(&mut self, scripts: &BTreeMap<String, String>) -> io::Result<()> {
        if !scripts.is_empty() && self.root.is_none() {
            self.root = Some(self.make_root()?);
        }
        if let Some((_, root)) = &self.root {
            remove_new(root)?;
            write_new(root, scripts)?;
            renameat_with(root, NEW, root, SCRIPTS, RenameFlags::EXCHANGE)?;
            remove_new(root)?;
        }
        self.any = !scripts.is_empty();
        if self.place == Place::Guest
            && let Err(error) = write_profile(self.any)
        {
            log::line(&format!("{PROFILE}: {error}"));
        }
        Ok(())
    }

    /// Removes what an ordinary process has made. A guest ends with all that is in it.
    pub(crate) fn remove(&mut self) {
        if let (Place::Process, Some((dir, _))) = (self.place, self.root.take()) {
            let _ = fs::remove_dir_all(dir.parent().unwrap_or(&dir));
        }
    }

    fn make_root(&self) -> io::Result<(PathBuf, OwnedFd)> {
        let (path, root) = match self.place {
            Place::Guest => (PathBuf::from(MOUNT), boot::mount_own(MOUNT, SIZE)?),
            Place::Process => {
                let path = std::env::temp_dir().join(format!("msb-agent-{}", std::process::id()));
                // Left by one with the same number that was killed.
                let _ = fs::remove_dir_all(&path);
                fs::create_dir(&path)?;
                let root = fs::File::open(&path)?.into();
                (path, root)
            }
        };
        mkdirat(&root, SCRIPTS, Mode::from_raw_mode(0o755))?;
        Ok((path.join(SCRIPTS), root))
    }
}

fn write_new(root: &OwnedFd, scripts: &BTreeMap<String, String>) -> io::Result<()> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    mkdirat(root, NEW, Mode::from_raw_mode(0o755))?;
    let dir = openat(root, NEW, flags, Mode::empty())?;
    // Whatever the umask is.
    fchmod(&dir, Mode::from_raw_mode(0o755))?;
    for (name, text) in scripts {
        if name.contains('/') {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a name with a slash"));
        }
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = openat(&dir, name.as_str(), flags, Mode::from_raw_mode(0o755))?;
        fchmod(&file, Mode::from_raw_mode(0o755))?;
        fs::File::from(file).write_all(text.as_bytes())?;
    }
    Ok(())
}

/// Removes the directory beside the scripts, with its files.
fn remove_new(root: &OwnedFd) -> io::Result<()> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let dir = match openat(root, NEW, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    let names: Result<Vec<_>, Errno> =
        Dir::read_from(&dir)?.map(|entry| Ok(entry?.file_name().to_owned())).collect();
    for name in names?.iter().filter(|name| !matches!(name.to_bytes(), b"." | b"..")) {
        unlinkat(&dir, name.as_c_str(), AtFlags::empty())?;
    }
    Ok(unlinkat(root, NEW, AtFlags::REMOVEDIR)?)
}

/// Where there is no `/etc/profile` that reads further files nothing needs to be done; where the
/// directory of those files is not the guest's own, but a volume or a share, nothing may be.
fn write_profile(any: bool) -> io::Result<()> {
    if any && !read_guest_file("/etc/profile").contains(PROFILES) {
        return Ok(());
    }
    if read_guest_file(PROFILE) == if any { PROFILE_TEXT } else { "" } {
        return Ok(());
    }
    fs::create_dir_all(PROFILES)?;
    if fs::metadata(PROFILES)?.dev() != fs::metadata("/")?.dev() {
        return Ok(());
    }
    match fs::remove_file(PROFILE) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ if !any => return Ok(()),
        _ => {}
    }
    // Never through a link that the guest has put there.
    let mut file = fs::OpenOptions::new().write(true).create_new(true).open(PROFILE)?;
    file.write_all(PROFILE_TEXT.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        entries.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn one_set_takes_the_place_of_another() {
        let mut scripts = Scripts::new(Place::Process);
        scripts.set(&set(&[])).unwrap();
        assert_eq!(scripts.dir(), None);
        scripts.set(&set(&[("a", "1"), ("b", "2")])).unwrap();
        let dir = PathBuf::from(scripts.dir().unwrap());
        let mode = fs::metadata(dir.join("a")).unwrap().mode() & 0o7777;
        assert_eq!((fs::read_to_string(dir.join("b")).unwrap().as_str(), mode), ("2", 0o755));
        scripts.set(&set(&[("b", "3")])).unwrap();
        assert!(!dir.join("a").exists());
        assert_eq!(fs::read_to_string(dir.join("b")).unwrap(), "3");
        // One that fails leaves what there is, and is no obstacle to the next.
        for bad in ["a/b", "", "..", &"x".repeat(300)] {
            assert!(scripts.set(&set(&[("a", ""), (bad, "")])).is_err(), "{bad}");
        }
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
        scripts.set(&set(&[])).unwrap();
        assert_eq!((scripts.dir(), fs::read_dir(&dir).unwrap().count()), (None, 0));
        scripts.remove();
        assert!(!dir.parent().unwrap().exists());
    }
}
