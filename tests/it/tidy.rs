//! Rules about the repository itself.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What each module may import from its own crate, lowest layer first: the table of
/// `docs/architecture.md`.
const LAYERS: [(&str, &[&str]); 13] = [
    ("spec", &[]),
    ("manifest", &["spec"]),
    ("plan", &["spec"]),
    ("home", &[]),
    ("store", &["spec", "home"]),
    ("image", &["spec", "home", "store"]),
    ("runtime", &["spec", "home"]),
    ("files", &["runtime"]),
    ("rootfs", &["spec", "home", "image", "runtime"]),
    ("supervisor", &["spec", "home", "store", "image", "files", "runtime", "rootfs"]),
    (
        "reconcile",
        &["spec", "home", "plan", "store", "image", "files", "runtime", "rootfs", "supervisor"],
    ),
    (
        "client",
        &[
            "spec",
            "manifest",
            "home",
            "plan",
            "store",
            "image",
            "files",
            "runtime",
            "rootfs",
            "supervisor",
            "reconcile",
        ],
    ),
    (
        "cli",
        &[
            "spec",
            "manifest",
            "home",
            "plan",
            "store",
            "image",
            "files",
            "runtime",
            "rootfs",
            "supervisor",
            "reconcile",
            "client",
        ],
    ),
];

/// Where `unsafe` is allowed, with a `// SAFETY:` at each (clippy checks that).
const UNSAFE: [&str; 2] = ["src/runtime/", "agent/src/"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below `folder`, sorted.
fn sources(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root().join(folder)];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn relative(path: &Path) -> &str {
    path.strip_prefix(root()).unwrap().to_str().unwrap()
}

/// The code of a file without its comments and its test module, with line numbers from 1.
fn code(path: &Path) -> Vec<(usize, String)> {
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .enumerate()
        .take_while(|(_, line)| !line.starts_with("#[cfg(test)]") || line.contains("use"))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .map(|(number, line)| (number + 1, line.to_owned()))
        .collect()
}

/// The modules of this crate that a line names (`crate::store::…`, `use crate::{spec, store}`).
fn imports(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in line.match_indices("crate::") {
        let rest = &line[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let group = group.split('}').next().unwrap_or(group);
            found.extend(group.split(',').map(first_word));
        } else {
            found.push(first_word(rest));
        }
    }
    found
}

fn first_word(text: &str) -> String {
    text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// A module imports only from lower layers.
#[test]
fn imports_follow_the_layer_table() {
    let table: BTreeMap<_, _> = LAYERS.into_iter().collect();
    let mut wrong = Vec::new();
    for path in sources("src") {
        let file = relative(&path);
        let module = file["src/".len()..].split(['/', '.']).next().unwrap();
        if module == "lib" || module == "main" {
            continue;
        }
        let allowed = table.get(module).unwrap_or_else(|| panic!("{module} is in no layer"));
        for (number, line) in code(&path) {
            for import in imports(&line) {
                if table.contains_key(import.as_str())
                    && import != module
                    && !allowed.contains(&import.as_str())
                {
                    wrong.push(format!("{file}:{number}: {module} must not import {import}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn assert_only(what: &str, allowed: &[&str], found: impl Fn(&str) -> bool) {
    let mut wrong = Vec::new();
    for path in sources("src").into_iter().chain(sources("agent")) {
        let file = relative(&path);
        if file.contains("/target/") || allowed.iter().any(|prefix| file.starts_with(prefix)) {
            continue;
        }
        for (number, line) in code(&path) {
            if found(&line) {
                wrong.push(format!("{file}:{number}: {}", line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{what} outside {allowed:?}:\n{}", wrong.join("\n"));
}

#[test]
fn only_the_ui_prints() {
    let prints = ["println!(", "print!(", "io::stdout()", "io::stderr()"];
    // The standard error of a supervisor is its log, that of a VM process its console.
    let allowed =
        ["src/cli/ui.rs", "src/supervisor/process.rs", "src/runtime/krun/child.rs", "agent/"];
    assert_only("printing", &allowed, |line| prints.iter().any(|word| line.contains(word)));
}

#[test]
fn only_the_store_knows_sql() {
    assert_only("SQL", &["src/store/"], |line| line.contains("rusqlite"));
}

#[test]
fn unsafe_is_confined() {
    assert_only("unsafe code", &UNSAFE, |line| {
        line.contains("unsafe {") || line.contains("unsafe fn") || line.contains("unsafe impl")
    });
}

/// Every file below a test folder is a module of its binary: a forgotten one would never run.
#[test]
fn no_forgotten_test_file() {
    for binary in ["it", "vm", "faults"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(binary);
        let Ok(main) = fs::read_to_string(folder.join("main.rs")) else { continue };
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
            if stem == "main" || (path.is_dir() && !path.join("mod.rs").exists()) {
                continue;
            }
            assert!(main.contains(&format!("mod {stem};")), "{} is not a module", path.display());
        }
    }
}
