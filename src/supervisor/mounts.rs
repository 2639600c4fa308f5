//! What a guest's file systems are made of: devices and shares outside, mounts inside.
//!
//! ```text
//! boot   EROFS   the agent                     ─┐
//! image  EROFS or a disk image ─┐               │ one disk each
//! patches EROFS ┼ overlay = /                   │
//! upper  ext4  ─┘                               │
//! disk volumes  ext4, each at its path         ─┘ while there are places for devices; what one gets
//!                                                while it is mounted is a file of the file server
//! more disk volumes                             files of the file server, by loop devices
//! binds and directory volumes                   shares of one file server, over the port `files`
//! tmpfs                                         memory of the guest
//! ```

use std::path::{Path, PathBuf};

use msb_protocol::{BootConfig, DiskMount, RootConfig, RootDisk, ShareMount, TmpfsMount};

use super::LaunchConfig;
use crate::files::{Share, ShareKind};
use crate::runtime::{Disk, max_disks};
use crate::spec::{DiskFormat, GuestPath, ImageSource, Mount, MountSource, VolumeKind};

/// Virtio serials of the disks; those of volumes are [`VOLUME_SERIAL`] and a number from 0.
const BOOT_SERIAL: &str = "boot";
const IMAGE_SERIAL: &str = "image";
const PATCHES_SERIAL: &str = "patches";
const UPPER_SERIAL: &str = "upper";
const VOLUME_SERIAL: &str = "volume";
const VOLUME_FSTYPE: &str = "ext4";
/// Places for devices that stay free of disks.
const NETWORK_DEVICES: usize = 1;
/// Permission bits of a tmpfs whose mount says nothing.
const TMPFS_MODE: u32 = 0o755;
/// Directories for everybody's temporary files: what a tmpfs there has when its mount says nothing.
const TEMPORARY: [&str; 2] = ["/tmp", "/var/tmp"];
const TEMPORARY_MODE: u32 = 0o1777;

/// The file systems of one guest, as each side sees them.
#[derive(Debug, Default)]
pub(super) struct Mounts {
    /// In device order.
    pub(super) disks: Vec<Disk>,
    /// By their numbers.
    pub(super) shares: Vec<Share>,
    /// What the agent mounts; nothing else is set.
    pub(super) guest: BootConfig,
}

impl Mounts {
    /// Those of the sandbox that `config` launches.
    pub(super) fn of(config: &LaunchConfig) -> Self {
        let mut mounts = Self::default();
        mounts.disk(BOOT_SERIAL, config.boot_disk.as_deref(), true);
        let patches = mounts.disk(PATCHES_SERIAL, config.patch_file.as_deref(), true);
        let disk = mounts.root_disk(config);
        let image = match &disk {
            None => mounts.disk(IMAGE_SERIAL, config.image_file.as_deref(), true),
            Some(_) => None,
        };
        mounts.guest.root = RootConfig {
            lowers: [patches, image].into_iter().flatten().collect(),
            upper: mounts.disk(UPPER_SERIAL, config.upper.as_deref(), false),
            disk,
        };
        let max_disks = max_disks(&config.driver);
        for (path, mount) in &config.spec.volumes {
            mounts.add(path, mount, config, max_disks);
        }
        mounts
    }

    fn add(&mut self, path: &GuestPath, mount: &Mount, config: &LaunchConfig, max_disks: usize) {
        let (at, readonly) = (path.to_string(), mount.readonly);
        match &mount.source {
            MountSource::Bind { path: source, .. } => {
                self.share(at, Path::new(source), readonly, false);
            }
            MountSource::Named { volume, .. } => match config.volumes.get(volume) {
                Some(place) if place.kind == VolumeKind::Dir => {
                    self.share(at, &place.path, readonly, true);
                }
                Some(place) => self.volume(at, &place.path, readonly, max_disks),
                None => {}
            },
            MountSource::Tmpfs { size, mode } => {
                let usual =
                    if TEMPORARY.contains(&at.as_str()) { TEMPORARY_MODE } else { TMPFS_MODE };
                self.guest.tmpfs.push(TmpfsMount {
                    path: at,
                    size_bytes: size.map(|size| size.bytes()),
                    mode: mode.unwrap_or(usual),
                    readonly,
                });
            }
        }
    }

    /// The disk image that the sandbox's image is, where it is one.
    fn root_disk(&mut self, config: &LaunchConfig) -> Option<RootDisk> {
        let source = &config.spec.image.source;
        let ImageSource::Disk { fstype, partition, writable, .. } = source else { return None };
        let serial = self.disk(IMAGE_SERIAL, config.image_file.as_deref(), !writable)?;
        if let Some(disk) = self.disks.last_mut() {
            disk.format = config.image_format;
        }
        let (fstype, partition) = (fstype.clone(), *partition);
        Some(RootDisk { serial, fstype, partition, writable: *writable })
    }

    fn disk(&mut self, serial: &str, path: Option<&Path>, readonly: bool) -> Option<String> {
        let path = path?.to_owned();
        let format = DiskFormat::Raw;
        self.disks.push(Disk { serial: serial.to_owned(), path, readonly, format });
        Some(serial.to_owned())
    }

    fn volume(&mut self, at: String, file: &Path, readonly: bool, max_disks: usize) {
        if self.disks.len() + NETWORK_DEVICES >= max_disks {
            self.add_share(at, file, readonly, !readonly, ShareKind::Disk);
            return;
        }
        let serial = format!("{VOLUME_SERIAL}{}", self.guest.disks.len());
        self.disk(&serial, Some(file), readonly);
        let share = if readonly { None } else { self.shared(file, readonly, ShareKind::Disk) };
        self.guest.disks.push(DiskMount {
            serial,
            path: at,
            fstype: VOLUME_FSTYPE.to_owned(),
            readonly,
            populate: !readonly,
            share,
        });
    }

    fn share(&mut self, at: String, source: &Path, readonly: bool, volume: bool) {
        self.add_share(at, source, readonly, volume && !readonly, ShareKind::Files);
    }

    fn add_share(
        &mut self,
        at: String,
        source: &Path,
        readonly: bool,
        populate: bool,
        kind: ShareKind,
    ) {
        let Some(share) = self.shared(source, readonly, kind) else { return };
        let fstype = (kind == ShareKind::Disk).then(|| VOLUME_FSTYPE.to_owned());
        self.guest.shares.push(ShareMount { share, path: at, readonly, populate, fstype });
    }
    /// Has the file server serve something; its number.
    fn shared(&mut self, source: &Path, readonly: bool, kind: ShareKind) -> Option<u32> {
        let share = u32::try_from(self.shares.len()).ok()?;
        self.shares.push(Share { path: PathBuf::from(source), readonly, kind });
        Some(share)
    }

    /// The shares that are the disk `file`, where the guest writes to it.
    pub(super) fn growing(&self, file: &Path) -> Vec<u32> {
        let is_it =
            |share: &Share| share.kind == ShareKind::Disk && !share.readonly && share.path == file;
        let found = (0..).zip(&self.shares).filter(|(_, share)| is_it(share));
        found.map(|(number, _)| number).collect()
    }
}
