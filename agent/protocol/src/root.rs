//! What a [`RootDisk`] means: which part of a disk is the root, and with which file system. The guest mounts
//! it and the host looks into it by the same rules.
//!
//! The disk's file system wins over its partitions, a partition that the host names over both; without,
//! the only partition that holds a file system of Linux is meant.

use crate::messages::RootDisk;

/// File systems that are told by their first bytes: where their magic numbers are, in bytes, these, and
/// their names.
pub const FILE_SYSTEMS: [(u64, &[u8], &str); 4] = [
    (1080, &[0x53, 0xef], "ext4"),
    (1024, &[0xe2, 0xe1, 0xf5, 0xe0], "erofs"),
    (0x1_0040, b"_BHRfS_M", "btrfs"),
    (0, b"XFSB", "xfs"),
];

impl RootDisk {
    /// Which part of the disk is mounted, and as what. `parts` are its partitions by number; `probe` says
    /// which of [`FILE_SYSTEMS`] one, or the disk, holds. The error is a sentence.
    pub fn choose<D: Clone>(
        &self,
        disk: &D,
        parts: &[(u32, D)],
        probe: impl Fn(&D) -> Option<&'static str>,
    ) -> Result<(D, String), String> {
        let named = |device: &D, what: &str| {
            let fstype = self.fstype.clone().or_else(|| probe(device).map(str::to_owned));
            let unknown =
                || format!("{what} holds no file system that is known; name its `fstype`");
            Ok((device.clone(), fstype.ok_or_else(unknown)?))
        };
        let all: Vec<_> = parts.iter().collect();
        if let Some(number) = self.partition {
            let part = parts.iter().find(|(other, _)| *other == number);
            let missing = || format!("there is no partition {number}; there is {}", numbers(&all));
            let (_, device) = part.ok_or_else(missing)?;
            return named(device, &format!("partition {number}"));
        }
        if parts.is_empty() || probe(disk).is_some() {
            return named(disk, "the disk");
        }
        let suits = |part: &&(u32, D)| {
            let found = probe(&part.1);
            found.is_some() && self.fstype.as_deref().is_none_or(|wanted| Some(wanted) == found)
        };
        let suitable: Vec<_> = parts.iter().filter(suits).collect();
        match (&suitable[..], &all[..]) {
            ([(_, device)], _) | ([], [(_, device)]) => named(device, "its only partition"),
            ([], _) => Err(format!(
                "none of the partitions {} holds a file system that is known; choose one with \
                 `partition` and name its `fstype`",
                numbers(&all)
            )),
            (several, _) => Err(format!(
                "the partitions {} hold file systems; choose one with `partition`",
                numbers(several)
            )),
        }
    }
}

fn numbers<D>(parts: &[&(u32, D)]) -> String {
    let numbers: Vec<String> = parts.iter().map(|(number, _)| number.to_string()).collect();
    if numbers.is_empty() { "none".to_owned() } else { numbers.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(
        parts: &[(u32, &'static str)],
        whole: &'static str,
        wanted: (Option<u32>, Option<&str>),
    ) -> String {
        let disk = RootDisk {
            serial: String::new(),
            fstype: wanted.1.map(str::to_owned),
            partition: wanted.0,
            writable: false,
        };
        let names: Vec<_> =
            parts.iter().map(|(number, _)| (*number, format!("vda{number}"))).collect();
        let probe = |device: &String| {
            let known = names.iter().zip(parts).find(|((_, name), _)| name == device);
            Some(known.map_or(whole, |(_, (_, fstype))| fstype)).filter(|name| !name.is_empty())
        };
        match disk.choose(&"vda".to_owned(), &names, probe) {
            Ok((device, fstype)) => format!("{device} {fstype}"),
            Err(error) => error,
        }
    }

    #[test]
    fn the_root_of_a_disk() {
        let any = (None, None);
        assert_eq!(chosen(&[], "ext4", any), "vda ext4");
        assert_eq!(chosen(&[], "", (None, Some("f2fs"))), "vda f2fs");
        assert!(chosen(&[], "", any).starts_with("the disk holds no file system that is known"));
        let cloud = [(1, "ext4"), (14, ""), (15, "")];
        assert_eq!(chosen(&cloud, "", any), "vda1 ext4");
        assert_eq!(chosen(&cloud, "btrfs", any), "vda btrfs");
        assert_eq!(chosen(&[(2, "")], "", (None, Some("f2fs"))), "vda2 f2fs");
        let two = [(1, "ext4"), (2, "btrfs"), (3, "")];
        let several = "the partitions 1, 2 hold file systems; choose one with `partition`";
        assert_eq!(chosen(&two, "", any), several);
        assert_eq!(chosen(&two, "", (None, Some("btrfs"))), "vda2 btrfs");
        assert_eq!(chosen(&two, "", (Some(2), None)), "vda2 btrfs");
        assert_eq!(chosen(&two, "", (Some(3), Some("f2fs"))), "vda3 f2fs");
        assert!(chosen(&two, "", (Some(3), None)).starts_with("partition 3 holds no"));
        assert_eq!(chosen(&two, "", (Some(9), None)), "there is no partition 9; there is 1, 2, 3");
        assert_eq!(chosen(&[], "", (Some(1), None)), "there is no partition 1; there is none");
        let none = chosen(&[(1, ""), (2, "")], "", any);
        assert!(none.starts_with("none of the partitions 1, 2 holds"), "{none}");
    }
}
