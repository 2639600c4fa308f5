//! Mounts, seen from both sides: binds of directories and files, memory file systems, and all of
//! them inside each other.

mod hostile;
mod raw;

use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use expect_test::expect;
use rustix::process::{Pid, Signal, kill_process};
use sha2::{Digest as _, Sha256};

use crate::cli::{environment, sh};
use crate::environment::{Environment, Ran, supervisor_process, wait_for_end};
use crate::guest::driver_name;

const PROJECT: &str = r#"
name = "mounts"

[defaults]
image = "./image"
memory = "192MiB"
disk = "512MiB"
cmd = ["sleep", "100000"]

[sandbox.root]
volumes."/app" = { bind = "./app" }
volumes."/app/lib" = { bind = "./lib", readonly = true }
volumes."/app/lib/deep" = { bind = "./deep" }
volumes."/app/tmp" = { tmpfs = true, size = "1MiB", mode = "1777" }
volumes."/app/made/here/one" = { bind = "./one" }
volumes."/etc/motd" = { bind = "./one", readonly = true }
volumes."/again" = { bind = "./app", readonly = true }
volumes."/link" = { bind = "./link" }
volumes."/new" = { bind = "./not/yet", create = true }
volumes."/mem" = { tmpfs = true }
volumes."/mem/ro" = { tmpfs = true, readonly = true }
volumes."/tmp" = { tmpfs = true, size = "8MiB" }
volumes."/m/1" = { bind = "./app" }
volumes."/m/2" = { bind = "./app" }
volumes."/m/3" = { bind = "./app" }
volumes."/host" = { bind = "/etc", readonly = true }

[sandbox.user]
user = "nobody"
volumes."/app" = { bind = "./app" }
"#;

fn project() -> Environment {
    let env = environment(&driver_name(), PROJECT);
    for dir in ["app", "lib/deep", "deep", "linked"] {
        fs::create_dir_all(env.project().join(dir)).unwrap();
    }
    env.write("app/hello", "hello\n");
    env.write("lib/code", "code\n");
    env.write("deep/end", "end\n");
    env.write("one", "one\n");
    env.write("linked/file", "linked\n");
    symlink("linked", env.project().join("link")).unwrap();
    env
}

/// Runs a script where every program is busybox's.
fn run(env: &Environment, sandbox: &str, script: &str) -> Ran {
    let all = "for a in $(busybox --list); do case $a in sh|[*|test|echo|cd|read|wait|kill|printf) ;; \
               *) alias $a=\"busybox $a\";; esac; done\n";
    sh(env, &[], sandbox, &format!("{all}eval '{}'", script.replace('\'', "'\\''")))
}

#[track_caller]
fn out(env: &Environment, sandbox: &str, script: &str) -> String {
    run(env, sandbox, script).expect(0).stdout
}

#[test]
fn a_guest_with_many_mounts() {
    let env = project();
    env.msb("up -d --wait").expect(0);
    places(&env);
    host_edits(&env);
    single_files(&env);
    readonly(&env);
    memory(&env);
    owners(&env);
    links(&env);
    contents(&env);
    work(&env);
    writers(&env);
    ends(&env);
}

/// Every mount is where it should be, and restricted.
fn places(env: &Environment) {
    let script = "cd /; cat app/hello app/lib/code app/lib/deep/end app/made/here/one etc/motd \
                  again/hello link/file; ls new mem mem/ro m; grep -c . host/passwd >&2; \
                  grep -E ' /(app|again|mem)' proc/mounts | cut -d' ' -f2-4 | cut -d, -f1-4";
    expect![[r#"
        hello
        code
        end
        one
        one
        hello
        linked
        m:
        1
        2
        3

        mem:
        ro

        mem/ro:

        new:
        /again fuse ro,nosuid,nodev,relatime
        /app fuse rw,nosuid,nodev,relatime
        /app/lib fuse ro,nosuid,nodev,relatime
        /app/lib/deep fuse rw,nosuid,nodev,relatime
        /app/made/here/one fuse rw,nosuid,nodev,relatime
        /app/tmp tmpfs rw,nosuid,nodev,relatime
        /mem tmpfs rw,nosuid,nodev,relatime
        /mem/ro tmpfs ro,nosuid,nodev,relatime
    "#]]
    .assert_eq(&out(env, "root", script));
    // What they are mounted on is made in what is around them; what is made belongs to who runs it.
    let me = rustix::process::geteuid().as_raw();
    for made in ["app/lib", "app/tmp", "app/made/here/one", "not/yet"] {
        let found = fs::metadata(env.project().join(made)).unwrap();
        assert_eq!(found.uid(), me, "{made}");
    }
    assert_eq!(fs::metadata(env.project().join("app/made/here/one")).unwrap().len(), 0);
    let mode = fs::metadata(env.project().join("not/yet")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o755);
}

/// What one side writes the other one sees, within a second and a bit.
fn host_edits(env: &Environment) {
    let waits = |condition: &str| {
        format!(
            "i=0; until {condition}; do i=$((i+1)); [ $i -lt 40 ] || exit 1; usleep 50000; done"
        )
    };
    env.write("app/edited", "1\n");
    out(env, "root", &waits("grep -q 1 /app/edited 2>/dev/null"));
    env.write("app/edited", "2\n");
    out(env, "root", &waits("grep -q 2 /app/edited"));
    // As editors save.
    env.write("app/.edited.new", "3\n");
    fs::rename(env.project().join("app/.edited.new"), env.project().join("app/edited")).unwrap();
    out(env, "root", &waits("grep -q 3 /app/edited"));
    fs::remove_file(env.project().join("app/edited")).unwrap();
    out(env, "root", &waits("! ls /app/edited 2>/dev/null"));
    // A file that grows is seen to by a program that has it open.
    env.write("app/log", "");
    let tail = waits("grep -q more /tmp/tail");
    let script = format!("tail -f /app/log > /tmp/tail & echo more >> /m/1/log; {tail}; kill $!");
    out(env, "root", &script);

    out(env, "root", "echo guest > /app/from; mkdir -p /app/d/e; mv /app/from /app/d/e/from");
    assert_eq!(fs::read_to_string(env.project().join("app/d/e/from")).unwrap(), "guest\n");
    out(env, "root", "rm -r /app/d");
    assert!(!env.project().join("app/d").exists());
}

/// The file that was there when the sandbox started: what takes its name later is not seen.
fn single_files(env: &Environment) {
    out(env, "root", "echo two >> /app/made/here/one");
    assert_eq!(fs::read_to_string(env.project().join("one")).unwrap(), "one\ntwo\n");
    env.write("one.new", "three\n");
    fs::rename(env.project().join("one.new"), env.project().join("one")).unwrap();
    let seen = out(env, "root", "cat /app/made/here/one");
    assert_eq!(seen, "one\ntwo\n");
    run(env, "root", "mv /app/made/here/one /app/x").expect(1);
}

/// Root in the guest can do with its mounts what it likes: the host does not write.
fn readonly(env: &Environment) {
    for path in ["/again", "/app/lib", "/host"] {
        let script = format!(
            "cd {path} || exit 9; mount -o remount,rw,bind {path}; mount -o remount,rw {path}; \
             mkdir -p /mem/x; mount --bind {path} /mem/x; mount -o remount,rw,bind /mem/x; \
             f=$(ls -p | grep -v / | head -1); t=0; \
             for d in . /mem/x; do \
             echo x > $d/made && t=1; mkdir $d/dir && t=2; echo x >> $d/$f && t=3; \
             rm $d/$f && t=4; mv $d/$f $d/other && t=5; chmod 777 $d/$f && t=6; \
             chown 7:7 $d/$f && t=7; ln $d/$f $d/hard && t=8; ln -s a $d/soft && t=9; \
             truncate -s 0 $d/$f && t=10; touch $d/$f && t=11; mknod $d/node c 1 3 && t=12; \
             done; umount /mem/x; exit $t"
        );
        let ran = run(env, "root", &script).expect(0);
        let refused = ran.stderr.matches("Read-only file system").count();
        assert!(refused >= 20, "{path}: {}", ran.stderr);
        run(env, "root", &format!("mount -o remount,ro,bind {path}")).expect(0);
    }
    assert_eq!(fs::read_to_string(env.project().join("lib/code")).unwrap(), "code\n");
    let ran = run(env, "root", "echo x > /etc/motd").expect(1);
    assert!(ran.stderr.contains("Read-only"), "{}", ran.stderr);
    run(env, "root", "echo x > /mem/ro/x").expect(1);
}

fn memory(env: &Environment) {
    let ran = run(env, "root", "dd if=/dev/zero of=/app/tmp/big bs=65536 count=32").expect(1);
    assert!(ran.stderr.contains("No space left"), "{}", ran.stderr);
    let script = "rm /app/tmp/big; stat -c %a /app/tmp /mem /mem/ro /tmp; df -k /tmp /app/tmp";
    let text = out(env, "root", script);
    assert!(text.starts_with("1777\n755\n755\n1777\n"), "{text}");
    let sizes: Vec<&str> =
        text.lines().filter_map(|l| l.strip_prefix("tmpfs")?.split_whitespace().next()).collect();
    assert_eq!(sizes, ["8192", "1024"], "{text}");
    assert_eq!(fs::read_dir(env.project().join("app/tmp")).unwrap().count(), 0);
}

/// Whatever a guest's users make belongs to this user; the guest sees its own owners.
fn owners(env: &Environment) {
    let script = "cd /app; touch by-root; mkdir dir; chmod 1777 dir; \
                  setpriv --reuid=1000 --regid=1000 --clear-groups sh -c 'echo x > dir/by-nobody' \
                  || su nobody -c 'echo x > dir/by-nobody'; \
                  touch given; chown 12:34 given; chmod 4755 by-root; mknod node c 1 3; \
                  stat -c '%n %u:%g %a' hello by-root dir/by-nobody given";
    let ran = run(env, "root", script);
    expect![[r#"
        hello 0:0 644
        by-root 0:0 755
        dir/by-nobody 1000:1000 644
        given 12:34 644
    "#]]
    .assert_eq(&ran.stdout);
    let me = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let app = env.project().join("app");
    for file in ["by-root", "dir", "dir/by-nobody", "given"] {
        let found = fs::symlink_metadata(app.join(file)).unwrap();
        assert_eq!((found.uid(), found.gid()), me, "{file}");
        assert_eq!(found.mode() & 0o6000, 0, "{file}");
    }
    assert!(!app.join("node").exists());
    // Another sandbox, whose user is `nobody`, sees the same ones, and as its own what has no other.
    let script = "cd /app; stat -c '%n %u:%g' hello dir/by-nobody given; touch mine; \
                  stat -c '%n %u:%g' mine; rm given; echo $?";
    let ran = run(env, "user", script);
    expect![[r#"
        hello 1000:1000
        dir/by-nobody 1000:1000
        given 12:34
        mine 1000:1000
        0
    "#]]
    .assert_eq(&ran.stdout);
    assert_eq!(fs::metadata(app.join("mine")).unwrap().uid(), me.0);
    if me.0 == 0 {
        env.write("app/others", "");
        std::os::unix::fs::chown(app.join("others"), Some(4321), Some(1234)).unwrap();
        assert_eq!(out(env, "root", "stat -c %u:%g /app/others"), "4321:1234\n");
    }
}

/// Links lead to where they would lead in the guest.
fn links(env: &Environment) {
    let app = env.project().join("app");
    symlink("/etc/shadow", app.join("shadow")).unwrap();
    symlink("../../../../../../../etc/hostname", app.join("up")).unwrap();
    let text = out(env, "root", "echo inside > /etc/shadow; cat /app/shadow; readlink /app/up");
    assert_eq!(text, "inside\n../../../../../../../etc/hostname\n");
    let text =
        out(env, "root", "echo of-guest > /etc/hostname; cat /app/up; ln -s /etc/passwd /app/p");
    assert_eq!(text, "of-guest\n");
    assert_eq!(fs::read_link(app.join("p")).unwrap(), Path::new("/etc/passwd"));
}

/// Much data in one file, and in many.
fn contents(env: &Environment) {
    const SIZE: usize = 100 << 20;
    let big: Vec<u8> = (0..SIZE / 8).flat_map(|n| (n as u64 * 0x9E37_79B9).to_le_bytes()).collect();
    let sum = |bytes: &[u8]| -> String {
        Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    };
    fs::write(env.project().join("app/big"), &big).unwrap();
    let script = "set -e; cd /app; dd if=big bs=1M count=8 2>/dev/null | sha256sum; \
                  dd if=big of=copy bs=1M 2>&1; rm big; sync";
    let text = out(env, "root", script);
    assert!(text.starts_with(&sum(&big[..8 << 20])), "{text}");
    let copy = fs::read(env.project().join("app/copy")).unwrap();
    assert!(copy == big, "the copy of {} bytes differs", copy.len());
    fs::remove_file(env.project().join("app/copy")).unwrap();

    let tree = env.project().join("app/tree");
    for dir in 0..10 {
        let dir = tree.join(format!("d{dir}"));
        fs::create_dir_all(&dir).unwrap();
        for file in 0..25 {
            fs::write(dir.join(format!("file {file} ä")), format!("{}/{file}\n", dir.display()))
                .unwrap();
        }
    }
    fs::set_permissions(tree.join("d3/file 3 ä"), Permissions::from_mode(0o755)).unwrap();
    symlink("d3", tree.join("s")).unwrap();
    let script = "set -e; cd /app; tar cf all.tar tree; mkdir out; tar xf all.tar -C out; \
                  diff -r tree out/tree; find out | wc -l; rm -r tree";
    assert_eq!(out(env, "root", script).trim(), "263");
    assert!(!tree.exists());
    let unpacked = env.project().join("app/out/tree");
    let found = fs::read_to_string(unpacked.join("d9/file 24 ä")).unwrap();
    assert!(found.ends_with("/d9/24\n"), "{found}");
    let mode = fs::metadata(unpacked.join("d3/file 3 ä")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
    assert_eq!(fs::read_link(unpacked.join("s")).unwrap(), Path::new("d3"));
    let packed = Command::new("tar").arg("tf").arg(env.project().join("app/all.tar")).output();
    assert_eq!(String::from_utf8(packed.unwrap().stdout).unwrap().lines().count(), 262);
    out(env, "root", "rm -r /app/out /app/all.tar");
}

/// What a version control system does: locks, renames over files, links, and files that are removed
/// while they are open.
fn work(env: &Environment) {
    let script = "set -e; mkdir /app/repo; cd /app/repo; \
        for i in 1 2 3 4 5; do (set -C; echo $i > index.lock) && echo got >> locks && mv index.lock index; done; \
        cat index; wc -l < locks; \
        (set -C; echo x > index.lock); (set -C; echo y > index.lock) 2>/dev/null && exit 3; rm index.lock; \
        mkdir objects; echo data > objects/tmp; ln objects/tmp objects/ab; rm objects/tmp; \
        stat -c '%h %s' objects/ab; ln objects/ab objects/cd; stat -c %h objects/ab; \
        exec 3> gone; echo first >&3; rm gone; echo second >&3; exec 3>&-; ls gone 2>/dev/null || echo none; \
        exec 4<> open; echo 12345 >&4; mv open moved; echo 678 >&4; exec 4>&-; cat moved; \
        echo long long > t; truncate -s 4 t; cat t; echo; \
        mkdir a b; touch a/x; mv a b/a; ls b/a; rmdir b 2>/dev/null || echo full; \
        dd if=/dev/zero of=synced bs=4096 count=8 conv=fsync 2>/dev/null; sync; \
        touch -d @1000000000 old; stat -c %Y old; \
        mkfifo pipe; (echo through > pipe &); cat pipe";
    expect![[r#"
        5
        5
        1 5
        2
        none
        12345
        678
        long
        x
        full
        1000000000
        through
    "#]]
    .assert_eq(&out(env, "root", script));
    let repo = env.project().join("app/repo");
    assert_eq!(fs::metadata(repo.join("objects/ab")).unwrap().nlink(), 2);
    assert_eq!(fs::metadata(repo.join("old")).unwrap().mtime(), 1_000_000_000);
}

/// Many processes of both guests at once, through different mounts.
fn writers(env: &Environment) {
    let many = |name: &str| {
        format!(
            "for p in 1 2 3 4; do (i=0; while [ $i -lt 50 ]; do echo {name}-$p-$i >> /app/shared; \
             echo $i > /app/{name}-$p; i=$((i+1)); done) & done; wait"
        )
    };
    env.write("app/shared", "");
    std::thread::scope(|scope| {
        scope.spawn(|| out(env, "root", &many("root")));
        scope.spawn(|| out(env, "root", &many("second").replace("/app/", "/m/2/")));
    });
    let text = fs::read_to_string(env.project().join("app/shared")).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines.len(), 400, "{text}");
    assert_eq!(out(env, "root", "cat /app/root-3 /m/3/second-4"), "49\n49\n");
}

/// A stop loses nothing; a file server that dies takes its guest along.
fn ends(env: &Environment) {
    let script = "dd if=/dev/zero of=/app/last bs=1M count=20 2>/dev/null; echo end >> /app/last";
    out(env, "root", script);
    env.msb("stop root").expect(0);
    let last = fs::read(env.project().join("app/last")).unwrap();
    assert!(last.len() == (20 << 20) + 4 && last.ends_with(b"\0end\n"), "{}", last.len());
    assert_eq!(env.row("root").exit_code, Some(143));

    let supervisor = supervisor_process(env, "user");
    kill_process(file_server(env, "user").unwrap(), Signal::KILL).unwrap();
    wait_for_end(&supervisor);
    let row = env.row("user");
    assert_eq!(row.error.as_deref(), Some("the file server has ended: signal 9"));
    assert_eq!(env.statuses(), ["root stopped", "user crashed"]);
}

/// The process that serves files to a sandbox: a child of its supervisor.
pub(crate) fn file_server(env: &Environment, name: &str) -> Option<Pid> {
    let supervisor = env.row(name).run.unwrap().pid;
    let is_it = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<u32>().ok()?;
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        (parent == supervisor && line.contains("__files")).then_some(pid)
    };
    let processes = fs::read_dir("/proc").unwrap();
    let mut found =
        processes.filter_map(|process| is_it(process.ok()?.file_name().to_str()?.parse().ok()?));
    Pid::from_raw(i32::try_from(found.next()?).unwrap())
}
