//! Volumes in real guests: what they hold stays, grows, has one writer, and survives a power cut.

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Signal, kill_process};

use crate::cli::{environment, sh};
use crate::environment::{Environment, supervisor_process, vm_process, wait_for_end};
use crate::guest::driver_name;

const DB: &str = r#"
name = "shop"

[sandbox.db]
image = "./image"
memory = "128MiB"
disk = "256MiB"
cmd = ["sleep", "100000"]
volumes."/data" = { named = "data" }
volumes."/more" = { named = "more" }
volumes."/fast" = { tmpfs = true, size = "8MiB" }

[volume.data]
quota = "64MiB"

[volume.more]
quota = "64MiB"
"#;

/// The file of the volume `name` of the project.
fn disk(env: &Environment, name: &str) -> PathBuf {
    let store = msb::store::Store::open_read_only(&env.home()).unwrap().unwrap();
    let row = store.volume(Some("shop"), name).unwrap().unwrap();
    msb::reconcile::volume_path(&env.home(), &row)
}

#[track_caller]
fn check_disk(path: &Path) {
    let fsck = Command::new("e2fsck").args(["-f", "-n"]).arg(path).output();
    let fsck = fsck.expect("e2fsck is missing: install it with `apt-get install e2fsprogs`");
    assert!(fsck.status.success(), "{}", String::from_utf8_lossy(&fsck.stdout));
}

#[track_caller]
fn output(env: &Environment, script: &str) -> String {
    sh(env, &[], "db", script).expect(0).stdout
}

#[test]
fn what_a_volume_holds_stays() {
    let env = environment(&driver_name(), DB);
    env.msb("up -d").expect(0);
    output(
        &env,
        "echo kept > /data/file; echo other > /more/file; echo gone > /fast/file; touch /own",
    );
    env.msb("up -d --replace -y").expect(0);
    let seen = output(&env, "cat /data/file /more/file; ls /fast; ls /own 2>/dev/null || echo new");
    assert_eq!(seen, "kept\nother\nnew\n");
    env.msb("down").expect(0);
    for name in ["data", "more"] {
        check_disk(&disk(&env, name));
    }

    // Read-only at the device, whatever the guest does.
    let readonly = DB.replace("named = \"data\"", "named = \"data\", readonly = true");
    env.write("Sandboxfile", &readonly);
    env.msb("up -d").expect(0);
    let seen = output(
        &env,
        "cat /data/file; echo x > /data/file || mount -o remount,rw /data || echo refused",
    );
    assert_eq!(seen, "kept\nrefused\n");
    env.msb("down -v -y").expect(0).ends_with("1 removed, 2 volumes removed");
}

#[test]
fn a_power_cut_leaves_a_sound_volume() {
    let env = environment(&driver_name(), DB);
    env.msb("up -d").expect(0);
    output(
        &env,
        "echo kept > /data/file; sync; echo late > /data/late; dd if=/dev/zero of=/data/big bs=1M count=8 2>/dev/null",
    );
    let supervisor = supervisor_process(&env, "db");
    let (vm, _) = vm_process(&env, "db");
    kill_process(vm, Signal::KILL).unwrap();
    wait_for_end(&supervisor);
    env.msb("up -d").expect(0);
    assert_eq!(output(&env, "cat /data/file"), "kept\n");
    env.msb("down").expect(0);
    check_disk(&disk(&env, "data"));
}
