//! Named scripts in a real guest: where they are, what may be done to them, and who finds them.

use crate::cli::{environment, sh};
use crate::guest::driver_name;

const SCRIPTS: &str = r##"
name = "scripts"

[sandbox.one]
image = "./image"
memory = "128MiB"
disk = "256MiB"
user = "nobody"
cmd = ["/bin/sh", "-c", "greet workload > /tmp/said; exec sleep 100000"]
healthcheck = { shell = "test -s /tmp/said", interval = "200ms", timeout = "20s", retries = 100 }
scripts.greet = "echo \"hello $$1 from $$(id -un)\""
scripts.own = "#!/bin/cat\nits own interpreter\n"
patches = [
  { text = "/etc/profile", content = "PATH=/bin\nfor f in /etc/profile.d/*.sh; do . $$f; done\n" },
  { text = "/etc/profile.d/a.sh", content = "PATH=/usr/bin:$$PATH\n" },
]
"##;

#[test]
fn scripts_are_found_and_cannot_be_changed() {
    let env = environment(&driver_name(), SCRIPTS);
    env.msb("up -d --wait").expect(0);
    let said = env.msb("exec one cat /tmp/said").expect(0).stdout;
    assert_eq!(said, "hello workload from nobody\n");
    assert_eq!(env.msb("run one greet you").expect(0).stdout, "hello you from nobody\n");
    assert_eq!(env.msb("exec one own").expect(0).stdout, "#!/bin/cat\nits own interpreter\n");
    // A login shell whose /etc/profile sets PATH.
    let login = ["exec", "one", "sh", "-l", "-c", "greet login; echo $PATH"];
    let ran = env.run(env.command().args(login)).expect(0);
    assert_eq!(ran.stdout, "hello login from nobody\n/.msb/scripts:/usr/bin:/bin\n");
    let look = "cd /.msb; ls -ld . scripts scripts/greet | while read mode rest; do echo $mode; done; \
                while read d p t o r; do case $p in /.msb) echo $t ${o%%,rel*};; esac; done < /proc/mounts";
    let seen = sh(&env, &[], "one", look).expect(0).stdout;
    assert_eq!(seen, "drwxr-xr-x\ndrwxr-xr-x\n-rwxr-xr-x\ntmpfs ro,nosuid,nodev\n");
    // Not even by root.
    let change = "echo x > /.msb/scripts/greet; touch /.msb/new; true";
    let ran = sh(&env, &["-u", "root"], "one", change).expect(0);
    assert_eq!(ran.stderr.matches("Read-only file system").count(), 2, "{}", ran.stderr);

    // An edit of a sandbox that runs.
    let run = env.row("one").run;
    let text = SCRIPTS.replace("hello", "good day");
    env.write("Sandboxfile", &text);
    env.msb("up -d").expect(0);
    assert_eq!(env.msb("run one greet you").expect(0).stdout, "good day you from nobody\n");
    // Without them nothing is left: neither in the guest that runs, nor after its next start.
    let text: Vec<&str> = text.lines().filter(|line| !line.starts_with("scripts.")).collect();
    env.write("Sandboxfile", &text.join("\n"));
    env.msb("up -d").expect(0);
    env.msb("exec one greet").expect(127);
    let left = "ls /.msb/scripts; ls /etc/profile.d; echo $PATH";
    let nothing = "a.sh\n/usr/local/bin:/usr/bin:/bin\n";
    assert_eq!(sh(&env, &[], "one", left).expect(0).stdout, nothing);
    assert_eq!(env.row("one").run, run, "nothing of this needs a new run");
    env.msb("down").expect(0);
}
