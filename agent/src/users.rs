//! Users and groups of the guest, from its own files: a static program has no name service.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;

/// What is read of a file of the guest, in bytes.
const MAX_FILE: u64 = 4 << 20;
/// Supplementary groups of a user, as in `setgroups(2)`.
const MAX_GROUPS: usize = 65_536;

/// Whom a command runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The user.
    pub(crate) uid: u32,
    /// The group.
    pub(crate) gid: u32,
    /// Supplementary groups.
    pub(crate) groups: Vec<u32>,
    /// The home directory; `/` when the user is not listed.
    pub(crate) home: String,
    /// The name, when the user is listed.
    pub(crate) name: Option<String>,
}

/// Resolves `user[:group]`, names or numbers, with the guest's own files.
pub(crate) fn lookup(spec: &str) -> Option<Identity> {
    resolve(spec, &read_guest_file("/etc/passwd"), &read_guest_file("/etc/group"))
}

/// A bounded read of a regular file that the guest may have replaced by anything.
pub(crate) fn read_guest_file(path: &str) -> String {
    let open = || {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).ok()?;
        file.metadata().ok()?.is_file().then_some(file)
    };
    let mut bytes = Vec::new();
    let _ = open().map(|file: File| file.take(MAX_FILE).read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A listed user has its group and its supplementary groups, unless a group is named; a number that
/// is not listed has group 0. `None`: there is no such user or group.
fn resolve(spec: &str, passwd: &str, group: &str) -> Option<Identity> {
    let (user, group_spec) = match spec.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (spec, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let listed = passwd_entry(user, passwd);
    let mut identity = match listed {
        Some(entry) => Identity {
            groups: supplementary(&entry.name, group),
            uid: entry.uid,
            gid: entry.gid,
            home: entry.home,
            name: Some(entry.name),
        },
        None => Identity {
            uid: number(user)?,
            gid: 0,
            groups: Vec::new(),
            home: "/".to_owned(),
            name: None,
        },
    };
    if let Some(wanted) = group_spec.filter(|wanted| !wanted.is_empty()) {
        identity.gid = group_id(wanted, group)?;
        identity.groups.clear();
    }
    Some(identity)
}

struct Entry {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

/// The entry of that name, else of that number.
fn passwd_entry(user: &str, passwd: &str) -> Option<Entry> {
    let entries = || {
        passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next().filter(|name| !name.is_empty())?;
            let (uid, gid) = (number(fields.nth(1)?)?, number(fields.next()?)?);
            let home = fields.nth(1).filter(|home| home.starts_with('/')).unwrap_or("/");
            Some(Entry { name: name.to_owned(), uid, gid, home: home.to_owned() })
        })
    };
    entries().find(|entry| entry.name == user).or_else(|| {
        let uid = number(user)?;
        entries().find(|entry| entry.uid == uid)
    })
}

/// Name, number and members of each group.
fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        Some((name, number(fields.nth(1)?)?, fields.next().unwrap_or("")))
    })
}

fn supplementary(user: &str, group: &str) -> Vec<u32> {
    let of_user = groups(group)
        .filter(|(_, _, members)| members.split(',').any(|member| member.trim() == user));
    let mut ids: Vec<u32> = of_user.map(|(_, gid, _)| gid).take(MAX_GROUPS).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

fn group_id(wanted: &str, group: &str) -> Option<u32> {
    let named = groups(group).find(|(name, _, _)| *name == wanted).map(|(_, gid, _)| gid);
    named.or_else(|| number(wanted))
}

/// A user or group number. The highest one means "no change" to the kernel, and is none.
fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| digits && *number != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
        \n# comment\nbroken:x\nbad:x:-1:+2::/:/bin/sh\n\
        app:x:1000:1001:An App:/home/app:/bin/sh\n\
        1000:x:77:78::/odd:\n\
        nohome:x:5:5::relative:/bin/sh";
    const GROUP: &str =
        "root:x:0:root\nwheel:x:10:root,app\nadm:x:4: app ,other\nstaff:x:50:\nbad:x:x:app";

    fn check(spec: &str) -> Option<(u32, u32, Vec<u32>, String)> {
        resolve(spec, PASSWD, GROUP).map(|id| (id.uid, id.gid, id.groups, id.home))
    }

    #[test]
    fn resolves_listed_users_with_their_groups() {
        assert_eq!(check("app"), Some((1000, 1001, vec![4, 10], "/home/app".into())));
        assert_eq!(check("0"), Some((0, 0, vec![0, 10], "/root".into())));
        assert_eq!(check(""), check("root"));
        assert_eq!(check("5"), Some((5, 5, vec![], "/".into())));
        assert_eq!(check("77"), Some((77, 78, vec![], "/odd".into())));
    }

    #[test]
    fn a_name_wins_over_a_number() {
        assert_eq!(check("1000"), Some((77, 78, vec![], "/odd".into())));
    }

    #[test]
    fn unlisted_numbers_get_group_zero() {
        assert_eq!(check("4242"), Some((4242, 0, vec![], "/".into())));
        assert_eq!(check("4242:50"), Some((4242, 50, vec![], "/".into())));
        assert_eq!(check("4242:51"), Some((4242, 51, vec![], "/".into())));
    }

    #[test]
    fn a_named_group_replaces_the_users() {
        assert_eq!(check("app:staff"), Some((1000, 50, vec![], "/home/app".into())));
        assert_eq!(check("app:"), check("app"));
        assert_eq!(check(":staff"), Some((0, 50, vec![], "/root".into())));
    }

    #[test]
    fn refuses_unknown_names_and_odd_numbers() {
        for spec in
            ["nobody", "app:nobody", "-1", "+5", "4294967295", "4294967296", "app:-1", "broken"]
        {
            assert_eq!(check(spec), None, "{spec}");
        }
    }

    #[test]
    fn survives_files_that_are_not_files() {
        assert_eq!(read_guest_file("/"), "");
        assert_eq!(read_guest_file("/nonexistent"), "");
        assert_eq!(read_guest_file("/dev/zero"), "");
    }
}
