//! `msb cp` with a real guest: contents over the port, and the guest's own file systems.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use crate::cli::environment;
use crate::guest::driver_name;

const FILES: &str = r#"
name = "files"

[sandbox.one]
image = "./image"
memory = "256MiB"
disk = "512MiB"
cmd = ["sleep", "100000"]
"#;

/// Larger than every buffer on the way, in bytes.
const LARGE: usize = 50 << 20;

#[test]
fn files_and_trees_go_both_ways() {
    let env = environment(&driver_name(), FILES);
    env.msb("up -d --wait").expect(0);
    let at = |path: &str| env.project().join(path);
    let noise: Vec<u8> =
        (0..LARGE as u64 / 8).flat_map(|n| n.wrapping_mul(n ^ 0x9e37_79b9).to_le_bytes()).collect();
    fs::write(at("large"), &noise).unwrap();
    env.msb("cp large one:/srv-large").expect(0);
    let sum = env.msb("exec -T one busybox sha256sum /srv-large").expect(0).stdout;
    let ours = std::process::Command::new("sha256sum").arg(at("large")).output().unwrap();
    let ours = String::from_utf8(ours.stdout).unwrap();
    assert_eq!(sum.split_whitespace().next(), ours.split_whitespace().next());
    env.msb("cp one:/srv-large back").expect(0);
    assert!(fs::read(at("back")).unwrap() == noise);

    fs::create_dir_all(at("tree/a/b")).unwrap();
    fs::write(at("tree/a/file"), "hello").unwrap();
    fs::set_permissions(at("tree/a/file"), fs::Permissions::from_mode(0o751)).unwrap();
    fs::hard_link(at("tree/a/file"), at("tree/a/b/again")).unwrap();
    symlink("a/file", at("tree/link")).unwrap();
    env.msb("cp tree one:/root/tree").expect(0);
    // In an overlay, and as the guest itself sees it.
    let seen = env.msb("exec -T one ls -ld /root/tree/a/file").expect(0).stdout;
    assert!(seen.starts_with("-rwxr-x--x") && seen.contains(" 2 "), "{seen}");
    env.msb("cp one:/root/tree out").expect(0);
    assert_eq!(fs::read_link(at("out/link")).unwrap().to_str(), Some("a/file"));
    assert_eq!(fs::read(at("out/a/b/again")).unwrap(), b"hello");
    assert_eq!(fs::metadata(at("out/a/file")).unwrap().permissions().mode() & 0o777, 0o751);

    // The image is an overlay's lower: what is of it can be replaced and read.
    env.msb("cp one:/bin/busybox busybox").expect(0);
    assert!(fs::metadata(at("busybox")).unwrap().len() > 100_000);
    env.msb("cp tree/a/file one:/missing/name").expect(1);
    env.msb("down").expect(0);
}
