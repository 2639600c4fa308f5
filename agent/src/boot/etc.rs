//! `/etc/hosts`: the image's own, with a block of ours that is replaced at every boot.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use crate::users::read_guest_file;

const BEGIN: &str = "# begin msb";
const END: &str = "# end msb";
/// Where a file is made before it takes its place.
const TEMPORARY: &str = ".msb-hosts";

/// Adds what `/etc/hosts` lacks. A file that says all of it already stays untouched.
pub(super) fn write_hosts(hostname: &str, more: &BTreeMap<String, Vec<String>>) -> io::Result<()> {
    let path = Path::new("/etc/hosts");
    let before = read_guest_file("/etc/hosts");
    let after = merge_hosts(&before, hostname, more);
    if before == after {
        return Ok(());
    }
    fs::create_dir_all("/etc")?;
    // The image may have a link there; what it leads to is replaced, as a whole or not at all.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let temporary = path.with_file_name(TEMPORARY);
    let mut file = fs::File::create(&temporary)?;
    file.write_all(after.as_bytes())?;
    fs::rename(temporary, path)
}

/// The text with one block at its end that names what the rest does not: a name that the rest gives
/// an address, whichever, is left to it.
fn merge_hosts(text: &str, hostname: &str, more: &BTreeMap<String, Vec<String>>) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut in_block = false;
    for line in text.lines() {
        match line {
            BEGIN => in_block = true,
            END => in_block = false,
            line if !in_block => kept.push(line),
            _ => {}
        }
    }
    let named: BTreeSet<(bool, &str)> = kept.iter().flat_map(|line| entries(line)).collect();
    let own = [
        ("127.0.0.1", "localhost"),
        ("::1", "localhost"),
        ("::1", "ip6-localhost"),
        ("::1", "ip6-loopback"),
        ("127.0.1.1", hostname),
    ];
    let more = more.iter().flat_map(|(address, names)| {
        names.iter().map(move |name| (address.as_str(), name.as_str()))
    });
    let missing: Vec<(&str, &str)> = own
        .into_iter()
        .chain(more)
        .filter(|(address, name)| {
            let fits =
                !name.is_empty() && !(address.to_string() + name).contains(char::is_whitespace);
            fits && !named.contains(&(address.contains(':'), *name))
        })
        .collect();
    let mut merged = String::new();
    for line in kept {
        merged.push_str(line);
        merged.push('\n');
    }
    if !missing.is_empty() {
        merged.push_str(BEGIN);
        merged.push('\n');
        for (address, name) in missing {
            merged.push_str(&format!("{address}\t{name}\n"));
        }
        merged.push_str(END);
        merged.push('\n');
    }
    if merged.trim_end() == text.trim_end() { text.to_owned() } else { merged }
}

/// The names of a line, each with whether its address is of IPv6.
fn entries(line: &str) -> Vec<(bool, &str)> {
    let content = line.split('#').next().unwrap_or_default();
    let mut words = content.split_whitespace();
    let is_v6 = words.next().is_some_and(|address| address.contains(':'));
    words.map(|name| (is_v6, name)).collect()
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(text: &str, expected: &Expect) {
        let more = BTreeMap::from([(
            "10.0.0.2".to_owned(),
            vec!["db".to_owned(), "db.internal".to_owned()],
        )]);
        let merged = merge_hosts(text, "web", &more);
        expected.assert_eq(&merged);
        assert_eq!(merge_hosts(&merged, "web", &more), merged, "a second boot changes nothing");
    }

    #[test]
    fn an_empty_file_gets_everything() {
        check(
            "",
            &expect![[r#"
                # begin msb
                127.0.0.1	localhost
                ::1	localhost
                ::1	ip6-localhost
                ::1	ip6-loopback
                127.0.1.1	web
                10.0.0.2	db
                10.0.0.2	db.internal
                # end msb
            "#]],
        );
    }

    #[test]
    fn the_images_lines_are_kept_and_win() {
        check(
            "# of the image\n127.0.0.1 localhost web # and more\n\n9.9.9.9 db",
            &expect![[r#"
                # of the image
                127.0.0.1 localhost web # and more

                9.9.9.9 db
                # begin msb
                ::1	localhost
                ::1	ip6-localhost
                ::1	ip6-loopback
                10.0.0.2	db.internal
                # end msb
            "#]],
        );
    }

    #[test]
    fn an_older_block_is_replaced_and_a_torn_one_removed() {
        let old = "1.1.1.1 a\n# begin msb\n127.0.1.1\told\n# end msb\n2.2.2.2 b\n# begin msb\n3.3";
        check(
            old,
            &expect![[r#"
                1.1.1.1 a
                2.2.2.2 b
                # begin msb
                127.0.0.1	localhost
                ::1	localhost
                ::1	ip6-localhost
                ::1	ip6-loopback
                127.0.1.1	web
                10.0.0.2	db
                10.0.0.2	db.internal
                # end msb
            "#]],
        );
    }

    #[test]
    fn a_complete_file_stays_as_it_is() {
        let text =
            "127.0.0.1 localhost web db db.internal\n::1 localhost ip6-localhost ip6-loopback";
        assert_eq!(merge_hosts(text, "web", &BTreeMap::new()), text);
    }
}
