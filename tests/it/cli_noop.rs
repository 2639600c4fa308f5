//! A second `up` with nothing changed does no work: no fsync, no process, no socket, no write.

use std::process::Command;

use crate::environment::Environment;

#[test]
fn nothing_changed_means_nothing_done() {
    let env = Environment::new();
    env.write("Sandboxfile", "[sandbox.web]\nimage = \"./image\"\ncmd = [\"sleep\", \"100000\"]\n");
    env.msb("up -d").expect(0);
    let trace = env.project().join("trace");
    let mut strace = Command::new("strace");
    env.prepare(&mut strace);
    strace
        .args(["-f", "-qq", "-e", "trace=fsync,fdatasync,fork,vfork,clone,clone3,socket,connect"])
        .arg("-o")
        .arg(&trace)
        .args([env!("CARGO_BIN_EXE_msb"), "up", "-d"]);
    assert!(
        Command::new("strace").arg("-V").output().is_ok(),
        "strace is missing: install it with `apt-get install strace`"
    );
    let ran = env.run(&mut strace).expect(0);
    assert_eq!(ran.stderr, "no changes\n");
    assert_eq!(std::fs::read_to_string(&trace).unwrap(), "");
}
