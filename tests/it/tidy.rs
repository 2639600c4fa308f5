//! Rules about the repository itself.

use std::fs;
use std::path::Path;

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
