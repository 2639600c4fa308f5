//! Directories of files as images, with the `local` driver, which mounts nothing: what a guest sees of
//! one is in `tests/vm`.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::UNIX_EPOCH;

use crate::environment::Environment;

const WEB: &str =
    "name = \"web\"\n[sandbox.web]\nimage = \"./root\"\ncmd = [\"sleep\", \"1000\"]\n";

fn web() -> Environment {
    let env = Environment::new();
    env.write("Sandboxfile", WEB);
    fs::create_dir_all(env.project().join("root/etc")).unwrap();
    env.write("root/etc/motd", "one\n");
    env
}

/// The files of the image that a command opens, by name.
fn opened(env: &Environment, words: &str) -> (String, bool) {
    let trace = env.root().join("trace");
    let mut strace = Command::new("strace");
    env.prepare(&mut strace);
    strace.args(["-f", "-qq", "-e", "trace=open,openat,openat2"]).arg("-o").arg(&trace);
    strace.arg(env!("CARGO_BIN_EXE_msb")).args(words.split(' '));
    let ran = env.run(&mut strace).expect(0);
    (ran.stderr, fs::read_to_string(trace).unwrap().contains("motd"))
}

fn names(env: &Environment) -> Vec<String> {
    let text = env.msb("images ls").expect(0).stdout;
    text.lines().skip(1).map(|line| line.split_whitespace().next().unwrap().to_owned()).collect()
}

#[test]
fn a_changed_directory_replaces_what_was_made_of_it() {
    let env = web();
    env.msb("up -d").expect(0);
    let first = env.row("web");
    env.msb("plan --detailed-exitcode").expect(0);
    assert_eq!(names(&env), ["dir:$TEST/p/root"]);
    assert_eq!(opened(&env, "up -d"), ("no changes\n".to_owned(), false));

    // Another time alone: read once, and then known again.
    File::open(env.project().join("root/etc/motd")).unwrap().set_modified(UNIX_EPOCH).unwrap();
    assert_eq!(opened(&env, "up -d"), ("no changes\n".to_owned(), true));
    assert_eq!(opened(&env, "up -d"), ("no changes\n".to_owned(), false));
    assert_eq!(names(&env), ["dir:$TEST/p/root"]);

    env.write("root/etc/motd", "two\n");
    let plan = env.msb("plan --detailed-exitcode").expect(2).stdout;
    assert!(plan.contains(": image $TEST/p/root changed "), "{plan}");
    assert!(plan.contains("1 to replace"), "{plan}");
    env.msb("up -d -y").expect(0).ends_with("1 replaced");
    let second = env.row("web");
    assert_ne!(second.image_digest, first.image_digest);
    assert_eq!(env.msb("up -d").expect(0).stderr, "no changes\n");
    assert_eq!(names(&env), ["-", "dir:$TEST/p/root"]);
    let used = env.msb("images rm dir:$TEST/p/root").code;
    assert_ne!(used, 0, "an image that is used was removed");

    // The old one has no name any more; the new one goes with its sandbox.
    env.msb("images prune -y").expect(0);
    assert_eq!(names(&env), ["dir:$TEST/p/root"]);
    env.msb("down").expect(0);
    env.msb("images prune -y --all").expect(0);
    assert_eq!(names(&env), [""; 0]);
    assert_eq!(fs::read_dir(env.home().erofs()).unwrap().count(), 0);
    assert!(env.leftovers().is_empty(), "{:?}", env.leftovers());
}

#[test]
fn what_cannot_be_an_image_is_told() {
    let env = web();
    let file = |image: &str| {
        env.write("Sandboxfile", &WEB.replace("\"./root\"", image));
        env.msb("up -d")
    };
    let said = file("\"./root#v1\"").expect(1).stderr;
    assert!(said.contains("root#v1: not an OCI image layout"), "{said}");
    let said = file("\"./missing\"").expect(1).stderr;
    assert!(said.contains("$TEST/p/missing"), "{said}");
    let said = file("\"/dev\"").expect(1).stderr;
    assert!(said.contains("another file system is mounted there; unmount it"), "{said}");
    assert!(env.rows().is_empty());
    file("{ dir = \"./root\" }").expect(0);
    let said = env.msb(&format!("images save -o x {}", &env.row("web").image_digest.unwrap()));
    assert!(said.stderr.contains("was made of a directory or a disk"), "{}", said.stderr);
}

/// Files that the user may not read are named, and nothing is made of the rest.
#[test]
fn a_file_that_may_not_be_read_is_named() {
    let env = web();
    let path = env.project().join("root/etc/motd");
    fs::set_permissions(&path, Permissions::from_mode(0o000)).unwrap();
    fs::set_permissions(env.root(), Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(env.project(), Permissions::from_mode(0o777)).unwrap();
    let mut user = Command::new(env!("CARGO_BIN_EXE_msb"));
    if rustix::process::geteuid().is_root() {
        user = Command::new("setpriv");
        user.args(["--reuid=1234", "--regid=1234", "--clear-groups", "--inh-caps=-all"]);
        user.arg(env!("CARGO_BIN_EXE_msb"));
    }
    env.prepare(&mut user);
    let said = env.run(user.args(["up", "-d"])).expect(1).stderr;
    assert!(said.contains("$TEST/p/root/etc/motd: cannot be read"), "{said}");
    assert!(env.rows().is_empty());
    assert_eq!(fs::read_dir(env.home().erofs()).map_or(0, Iterator::count), 0);
}

/// Killed in between, the next `up` finishes; of what changed meanwhile, nothing is left.
#[test]
fn up_killed_while_a_directory_is_read_converges() {
    // A plan reads the directory first, and what makes the image a second time.
    for point in ["tree-read=return", "tree-read=1*off->return", "image-before-row=return"] {
        let env = web();
        let mut command = env.command();
        command.args(["up", "-d"]).env("FAILPOINTS", point);
        assert_eq!(env.run(&mut command).code, -1, "{point} was not reached");
        env.write("root/etc/motd", "meanwhile\n");
        env.msb("up -d").expect(0);
        assert_eq!(env.msb("up -d").expect(0).stderr, "no changes\n");
        env.msb("down").expect(0);
        env.msb("images prune -y --all").expect(0);
        assert_eq!(fs::read_dir(env.home().erofs()).unwrap().count(), 0, "{point}");
        assert!(env.leftovers().is_empty(), "{:?}", env.leftovers());
    }
}
