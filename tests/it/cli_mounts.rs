//! Mounts on the command line, with the `local` driver, which mounts nothing: what a guest sees of
//! them is in `tests/vm`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;

use crate::environment::{Environment, Ran};

const WEB: &str = r#"
name = "shop"

[sandbox.web]
image = "./image"
cmd = ["sleep", "100000"]
volumes."/app" = { bind = "./app", readonly = true }
volumes."/app/tmp" = { tmpfs = true, size = "1MiB" }

[sandbox.other]
image = "./image"
cmd = ["sleep", "100000"]
"#;

fn web() -> Environment {
    let env = Environment::new();
    env.write("Sandboxfile", WEB);
    env
}

/// The message, which is wrapped.
fn said(ran: &Ran) -> String {
    let words: Vec<&str> = ran.stderr.split_whitespace().filter(|word| *word != "│").collect();
    words.join(" ")
}

#[test]
fn a_source_that_cannot_be_shared_has_a_place_and_nothing_is_changed() {
    let env = web();
    fs::create_dir(env.project().join("app")).unwrap();
    env.msb("up -d").expect(0);
    let before = env.row("web");
    let _socket = UnixListener::bind(env.project().join("socket")).unwrap();
    for (source, message) in [
        ("./gone", "gone does not exist"),
        ("/dev/null", "/dev/null is neither a directory nor a regular file"),
        ("./socket", "socket is neither a directory nor a regular file"),
        ("./Sandboxfile/x", "Sandboxfile/x cannot be read: Not a directory"),
    ] {
        env.write("Sandboxfile", &WEB.replace("./app", source));
        for command in ["plan", "up -d -y", "up --dry-run"] {
            let ran = env.msb(command).expect(3);
            assert!(said(&ran).contains(message), "{}", ran.stderr);
            assert!(ran.stderr.contains("[Sandboxfile:7:"), "{}", ran.stderr);
        }
        env.msb("plan other").expect(0);
    }
    let now = env.row("web");
    assert_eq!((&now.id, &now.run, now.status), (&before.id, &before.run, before.status));
}

#[test]
fn a_missing_directory_is_made_when_the_sandbox_starts() {
    let env = web();
    env.write("Sandboxfile", &WEB.replace("\"./app\"", "\"./a/b\", create = true"));
    env.msb("plan").expect(0);
    assert!(!env.project().join("a").exists());
    env.msb("up -d").expect(0);
    for made in ["a", "a/b"] {
        let mode = fs::metadata(env.project().join(made)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o755, "{made}");
    }
    assert_eq!(env.msb("up -d").expect(0).stderr, "no changes\n");
}

#[test]
fn a_source_that_has_gone_is_named_when_the_sandbox_starts() {
    let env = web();
    fs::create_dir(env.project().join("app")).unwrap();
    env.msb("up -d").expect(0);
    env.msb("stop").expect(0);
    fs::remove_dir(env.project().join("app")).unwrap();
    let ran = env.msb("start web");
    assert_ne!(ran.code, 0);
    assert!(said(&ran).contains("app does not exist"), "{}", ran.stderr);
    fs::create_dir(env.project().join("app")).unwrap();
    env.msb("start web").expect(0);
}
