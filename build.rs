//! Builds the guest agent as a static binary, for `runtime::AGENT` to embed.
//!
//! The agent has its own profile and its own target directory beside the one in use, so that dev,
//! release, test and clippy runs share one build of it, and so that the nested cargo does not wait
//! for the lock that the outer one holds.
#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "a build script does this")]

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Static, and nothing else: flags of the outer build (sanitizers, coverage, lints) are not for it.
const FLAGS: &str = "-Ctarget-feature=+crt-static";
/// What of cargo's own settings the nested cargo keeps: where its home is and how to download.
const KEEP: [&str; 7] = [
    "CARGO_HOME",
    "CARGO_HTTP_",
    "CARGO_MAKEFLAGS",
    "CARGO_NET_",
    "CARGO_REGISTRIES_",
    "CARGO_REGISTRY_",
    "CARGO_SOURCE_",
];

fn main() -> Result<(), Box<dyn Error>> {
    for path in ["agent", "build.rs", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={path}");
    }
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(variable("OUT_DIR")?);
    let triple = variable("TARGET")?;
    let target = target_dir(&out).join("guest");

    let mut cargo = Command::new(variable("CARGO")?);
    cargo
        .current_dir(&root)
        .args(["build", "--locked", "--quiet", "-p", "msb-agent", "--profile", "agent", "--target"])
        .arg(&triple)
        .arg("--target-dir")
        .arg(&target);
    for (name, _) in env::vars_os() {
        if !is_kept(&name) {
            cargo.env_remove(name);
        }
    }
    cargo.env("CARGO_ENCODED_RUSTFLAGS", FLAGS);
    let status = cargo.status()?;
    if !status.success() {
        return Err(format!("building the guest agent failed: {status}").into());
    }
    let built = target.join(triple).join("agent/msb-agent");
    let copy = out.join("msb-agent");
    // A running agent of an earlier build may hold the old file.
    let _ = fs::remove_file(&copy);
    fs::copy(&built, copy).map_err(|error| format!("{}: {error}", built.display()))?;
    Ok(())
}

fn variable(name: &str) -> Result<OsString, String> {
    env::var_os(name).ok_or_else(|| format!("{name} is not set"))
}

/// The target directory that `out` is in; cargo marks it. Else `out` itself.
fn target_dir(out: &Path) -> &Path {
    out.ancestors().find(|dir| dir.join("CACHEDIR.TAG").exists()).unwrap_or(out)
}

/// Whether the nested cargo gets the variable: not what the outer cargo, clippy or a coverage tool
/// set for this package and its compiler.
fn is_kept(name: &OsString) -> bool {
    let Some(name) = name.to_str() else { return true };
    if name.starts_with("CARGO") {
        return KEEP.iter().any(|kept| name.starts_with(kept));
    }
    !(name.starts_with("CLIPPY_")
        || name.starts_with("DEP_")
        || name.starts_with("NEXTEST")
        || name.starts_with("LLVM_PROFILE")
        || (name.starts_with("RUSTC_") && name != "RUSTC_BOOTSTRAP")
        || matches!(name, "RUSTFLAGS" | "RUSTDOCFLAGS" | "LD_LIBRARY_PATH" | "OUT_DIR" | "PROFILE"))
}
