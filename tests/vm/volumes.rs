//! Volumes in real guests: what they hold stays, grows, has one writer, and survives a power cut.

use std::path::{Path, PathBuf};
use std::process::Command;

use expect_test::expect;
use rustix::process::{Signal, kill_process};

use crate::cli::{busybox_layout_with, environment, sh};
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
pub(crate) fn disk(env: &Environment, name: &str) -> PathBuf {
    let store = msb::store::Store::open_read_only(&env.home()).unwrap().unwrap();
    let row = store.volume(Some("shop"), name).unwrap().unwrap();
    msb::reconcile::volume_path(&env.home(), &row)
}

#[track_caller]
pub(crate) fn check_disk(path: &Path) {
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

/// What an image has at the mount point: owners, modes, a link of each kind, a fifo, a capability.
fn seeded(env: &Environment) {
    busybox_layout_with(&env.project().join("image"), |layer| {
        let mut put = |path: &str, kind: tar::EntryType, mode: u32, owner: u64, link: &str| {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(kind);
            header.set_mode(mode);
            header.set_uid(owner);
            header.set_gid(owner + 1);
            header.set_mtime(1_000_000_000);
            let content: &[u8] = if kind.is_file() { b"seed\n" } else { b"" };
            header.set_size(content.len() as u64);
            if link.is_empty() {
                layer.append_data(&mut header, path, content).unwrap();
            } else {
                layer.append_link(&mut header, path, link).unwrap();
            }
        };
        put("data/", tar::EntryType::Directory, 0o1750, 70, "");
        put("data/conf", tar::EntryType::Regular, 0o640, 71, "");
        put("data/deep/", tar::EntryType::Directory, 0o711, 72, "");
        put("data/deep/same", tar::EntryType::Link, 0o640, 71, "data/conf");
        put("data/link", tar::EntryType::Symlink, 0o777, 73, "/conf");
        put("data/pipe", tar::EntryType::Fifo, 0o600, 74, "");
    });
}

const LOOK: &str = "busybox stat -c '%n %a %u:%g %h %Y' /data /data/conf /data/deep/same \
    | while read n a o h t; do echo $n $a $o $h; done; cat /data/conf; \
    busybox readlink /data/link; busybox test -p /data/pipe && echo pipe; ls -a /data | wc -l";

#[test]
fn a_new_volume_has_what_the_image_has() {
    let env = environment(&driver_name(), DB);
    seeded(&env);
    env.msb("up -d").expect(0);
    let seen = output(&env, LOOK);
    expect![[r#"
        /data 1750 70:71 4
        /data/conf 640 71:72 2
        /data/deep/same 640 71:72 2
        seed
        /conf
        pipe
        7
    "#]]
    .assert_eq(&seen);
    // Once: what is changed or removed does not come back.
    output(&env, "echo mine > /data/conf; busybox rm -r /data/deep");
    env.msb("up -d --replace -y").expect(0);
    assert_eq!(
        output(&env, "cat /data/conf; ls /data/deep 2>/dev/null || echo gone"),
        "mine\ngone\n"
    );
    env.msb("down").expect(0);
    check_disk(&disk(&env, "data"));
}

#[test]
fn a_volume_grows_when_it_is_mounted() {
    let env = environment(&driver_name(), DB);
    env.msb("up -d").expect(0);
    output(&env, "busybox seq 1 100000 > /data/numbers");
    let blocks = |env: &Environment| -> u64 {
        let seen =
            output(env, "busybox df -m /data | busybox tail -n 1 | busybox awk '{print $2}'");
        seen.trim().parse().unwrap()
    };
    assert!((40..64).contains(&blocks(&env)), "{}", blocks(&env));
    env.msb("stop").expect(0);
    let mut least = 64;
    for (size, mib) in [("200MiB", 200), ("20GiB", 20 * 1024)] {
        env.msb(&format!("volume resize shop/data {size}")).expect(0);
        env.msb("start").expect(0);
        let has = blocks(&env);
        assert!(has > least && has > mib * 9 / 10 && has <= mib, "{has} of {mib} MiB");
        least = has;
        assert_eq!(output(&env, "busybox tail -n 1 /data/numbers"), "100000\n");
        env.msb("stop").expect(0);
        check_disk(&disk(&env, "data"));
    }
    // The new room can be used to the end.
    env.msb("start").expect(0);
    output(&env, "dd if=/dev/zero of=/data/big bs=1M count=300 2>/dev/null; sync");
    env.msb("down").expect(0);
    check_disk(&disk(&env, "data"));
}

const SHARED: &str = r#"
name = "shop"

[defaults]
image = "./image"
memory = "128MiB"
disk = "256MiB"
cmd = ["sleep", "100000"]

[sandbox.db]
volumes."/data" = { named = "shared" }

[sandbox.web]
depends_on = ["db"]
volumes."/srv/data" = { named = "shared" }

[volume.shared]
kind = "dir"
"#;

#[test]
fn a_directory_is_shared_by_two_sandboxes() {
    let env = environment(&driver_name(), SHARED);
    seeded(&env);
    env.msb("up -d").expect(0);
    let seen =
        sh(&env, &[], "web", "cat /srv/data/conf; echo web > /srv/data/web").expect(0).stdout;
    assert_eq!(seen, "seed\n");
    assert_eq!(output(&env, "cat /data/web; busybox readlink /data/link"), "web\n/conf\n");
    env.msb("down").expect(0);
    env.msb("up -d").expect(0);
    assert_eq!(output(&env, "cat /data/web"), "web\n");
    env.msb("down -v -y").expect(0);
}

/// So many files that guests which start together are copying at the same time.
const FILES: usize = 400;

#[test]
fn guests_that_start_together_share_a_new_directory() {
    let names = ["one", "two", "three"];
    let mut file = SHARED.split("[sandbox.db]").next().unwrap().to_owned();
    for name in names {
        file += &format!("[sandbox.{name}]\nvolumes.\"/data\" = {{ named = \"shared\" }}\n");
    }
    let env = environment(&driver_name(), &(file + "[volume.shared]\nkind = \"dir\"\n"));
    busybox_layout_with(&env.project().join("image"), |layer| {
        for number in 0..FILES {
            let mut header = tar::Header::new_ustar();
            header.set_mode(0o644);
            header.set_size(5);
            layer.append_data(&mut header, format!("data/{number}"), &b"seed\n"[..]).unwrap();
        }
    });
    env.msb("up -d").expect(0);
    for name in names {
        let seen = sh(&env, &[], name, "ls -a /data | wc -l; cat /data/* | busybox sort -u");
        assert_eq!(seen.expect(0).stdout, format!("{}\nseed\n", FILES + 2), "{name}");
    }
    env.msb("down -v -y").expect(0);
}

/// Six disks are more than there are places for devices, on both drivers.
#[test]
fn twelve_mounts_of_all_kinds() {
    let mut file = String::from(
        "name = \"shop\"\n[sandbox.db]\nimage = \"./image\"\nmemory = \"192MiB\"\ndisk = \"256MiB\"\n\
         cmd = [\"sleep\", \"100000\"]\n",
    );
    let disks = ["one", "two", "three", "four", "five", "six"];
    for name in disks {
        file += &format!("volumes.\"/disk/{name}\" = {{ named = \"{name}\" }}\n");
    }
    for name in ["a", "b"] {
        file += &format!("volumes.\"/dir/{name}\" = {{ named = \"{name}\" }}\n");
        file += &format!("volumes.\"/bind/{name}\" = {{ bind = \"./{name}\", create = true }}\n");
        file += &format!("volumes.\"/tmpfs/{name}\" = {{ tmpfs = true, size = \"1MiB\" }}\n");
    }
    for name in disks {
        file += &format!("[volume.{name}]\nquota = \"32MiB\"\n");
    }
    for name in ["a", "b"] {
        file += &format!("[volume.{name}]\nkind = \"dir\"\n");
    }
    let readonly = file.replace("named = \"six\"", "named = \"six\", readonly = true");
    let env = environment(&driver_name(), &file);
    env.msb("up -d").expect(0);
    let each = "for at in /disk/* /dir/* /bind/* /tmpfs/*; do";
    output(&env, &format!("{each} echo $at > $at/name || exit 1; done; sync"));
    let all = output(&env, &format!("{each} cat $at/name; done"));
    assert_eq!(all.lines().count(), 12, "{all}");
    env.msb("stop").expect(0);
    for name in disks {
        check_disk(&disk(&env, name));
    }
    env.write("Sandboxfile", &readonly);
    env.msb("up -d").expect(0);
    let kept = output(&env, "for at in /disk/* /dir/* /bind/*; do cat $at/name; done");
    assert_eq!(kept.lines().count(), 10, "{kept}");
    let refused = "echo x > /disk/six/name || mount -o remount,rw /disk/six || echo refused";
    assert_eq!(output(&env, refused), "refused\n");
    // Killed, and sound all the same.
    output(&env, "echo late > /disk/five/late; echo late > /disk/one/late");
    let supervisor = supervisor_process(&env, "db");
    let (vm, _) = vm_process(&env, "db");
    kill_process(vm, Signal::KILL).unwrap();
    wait_for_end(&supervisor);
    env.msb("up -d").expect(0);
    assert_eq!(output(&env, "cat /disk/five/name /disk/one/name"), "/disk/five\n/disk/one\n");
    env.msb("down").expect(0);
    for name in disks {
        check_disk(&disk(&env, name));
    }
}
