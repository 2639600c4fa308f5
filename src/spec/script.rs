//! Named scripts: what they may be called, how much they may hold, and what their files are.

use std::collections::BTreeMap;

/// The most scripts of a sandbox.
const MAX_SCRIPTS: usize = 1000;
/// The most that the names and files of a sandbox's scripts hold together, in bytes: they travel to
/// the guest in one message.
const MAX_BYTES: usize = 512 << 10;
/// The longest name, in bytes.
const MAX_NAME: usize = 63;

/// Why the scripts of a sandbox cannot be what they are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{name}`: {why}")]
pub struct InvalidScript {
    /// The script.
    pub name: String,
    /// What is wrong with it.
    pub why: String,
}

/// Whether a script may be called `name`: it becomes the name of a file.
pub fn check_script_name(name: &str) -> Result<(), &'static str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let valid = name.len() <= MAX_NAME
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(plain);
    if valid {
        return Ok(());
    }
    Err("it has letters, digits, `.`, `_` and `-`, and starts with a letter or a digit")
}

/// Whether a sandbox whose shell is `shell` can have all of `scripts`; the first, by name, that is
/// too much or has a name that it must not have.
pub fn check_scripts(scripts: &BTreeMap<String, String>, shell: &str) -> Result<(), InvalidScript> {
    let mut bytes = 0_usize;
    for (index, (name, text)) in scripts.iter().enumerate() {
        let wrong = |why: String| Err(InvalidScript { name: name.clone(), why });
        if let Err(why) = check_script_name(name) {
            return wrong(why.to_owned());
        }
        if index >= MAX_SCRIPTS {
            return wrong(format!("a sandbox has at most {MAX_SCRIPTS} scripts"));
        }
        let length = first_line(text, shell).len().saturating_add(text.len());
        bytes = bytes.saturating_add(length).saturating_add(name.len());
        if bytes > MAX_BYTES {
            let limit = MAX_BYTES >> 10;
            return wrong(format!("the scripts of a sandbox hold at most {limit} KiB together"));
        }
    }
    Ok(())
}

/// What the file of a script holds: its text, after a line that names `shell` as its interpreter
/// unless it begins with one of its own.
pub fn script_file(text: &str, shell: &str) -> String {
    first_line(text, shell) + text
}

fn first_line(text: &str, shell: &str) -> String {
    if text.starts_with("#!") { String::new() } else { format!("#!{shell}\n") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scripts(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        entries.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn names_are_names_of_files() {
        for name in ["a", "0", "backup.sh", "pg_dump-all", &"x".repeat(MAX_NAME)] {
            assert_eq!(check_script_name(name), Ok(()), "{name}");
        }
        let long = "x".repeat(MAX_NAME + 1);
        for name in ["", ".", "..", ".a", "-a", "a/b", "a b", "a\0", "é", "a\n", &long] {
            assert!(check_script_name(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_text_without_an_interpreter_gets_the_shell() {
        assert_eq!(script_file("echo hi", "/bin/bash"), "#!/bin/bash\necho hi");
        assert_eq!(script_file("#!/usr/bin/env python3\n", "/bin/sh"), "#!/usr/bin/env python3\n");
        assert_eq!(script_file("", "/bin/sh"), "#!/bin/sh\n");
    }

    #[test]
    fn all_of_them_fit_into_one_message() {
        let fits = MAX_BYTES - "a".len() - "#!/bin/sh\n".len();
        let text = "x".repeat(fits);
        assert_eq!(check_scripts(&scripts(&[("a", &text)]), "/bin/sh"), Ok(()));
        let error = check_scripts(&scripts(&[("a", &text), ("b", "")]), "/bin/sh").unwrap_err();
        assert_eq!((error.name.as_str(), error.why.contains("512 KiB")), ("b", true), "{error}");
        assert!(check_scripts(&scripts(&[("a", &text)]), "/bin/bash").is_err());
        let many = |count| (0..count).map(|n| (format!("{n:04}"), String::new())).collect();
        assert_eq!(check_scripts(&many(MAX_SCRIPTS), "/bin/sh"), Ok(()));
        assert_eq!(check_scripts(&many(MAX_SCRIPTS + 1), "/bin/sh").unwrap_err().name, "1000");
        assert!(check_scripts(&scripts(&[("a/b", "")]), "/bin/sh").is_err());
    }
}
