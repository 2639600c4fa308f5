//! Volumes that become larger while sandboxes write to them.

use std::fs::File;

use rustix::process::{Signal, kill_process};

use crate::cli::{environment, sh};
use crate::environment::{Environment, supervisor_process, vm_process, wait_for_end};
use crate::guest::driver_name;
use crate::mounts::file_server;
use crate::volumes::{check_disk, disk};

/// Disks, more than there are places for devices: the first is one, the last is a loop device. The
/// workload writes to both, and says when it does not read what it has written.
const DISKS: [&str; 6] = ["first", "b", "c", "d", "e", "last"];
const LOAD: &str = "while :; do for at in /first /last; do \
    dd if=/dev/urandom of=$at/new bs=64k count=16 2>/dev/null; sync; \
    busybox mv $at/new $at/load; busybox cp $at/load $at/copy; \
    busybox cmp $at/load $at/copy || echo broken >> $at/broken; done; done";

fn stack() -> String {
    let mut file = format!(
        "name = \"shop\"\n[sandbox.db]\nimage = \"./image\"\nmemory = \"192MiB\"\ndisk = \"256MiB\"\n\
         cmd = [\"sh\", \"-c\", '{}']\n",
        LOAD.replace('$', "$$")
    );
    for name in DISKS {
        file += &format!("volumes.\"/{name}\" = {{ named = \"{name}\" }}\n");
    }
    for name in DISKS {
        file += &format!("[volume.{name}]\nquota = \"48MiB\"\n");
    }
    file
}

#[track_caller]
fn output(env: &Environment, script: &str) -> String {
    sh(env, &[], "db", script).expect(0).stdout
}

/// The size of a file system in the guest, in MiB.
#[track_caller]
fn size(env: &Environment, at: &str) -> u64 {
    let script = format!("busybox df -m {at} | busybox tail -n 1 | busybox awk '{{print $2}}'");
    output(env, &script).trim().parse().unwrap()
}

#[track_caller]
fn assert_size(env: &Environment, at: &str, mib: u64) {
    let has = size(env, at);
    assert!(has > mib * 8 / 10 && has <= mib, "{at}: {has} of {mib} MiB");
}

/// Writes `mib` MiB to a file and reads them again, from the disk.
#[track_caller]
fn fill(env: &Environment, at: &str, mib: u64) -> String {
    let sum = output(
        env,
        &format!(
            "busybox yes {at}0123456789 | busybox head -c {mib}M > {at}/big; sync; \
             echo 3 > /proc/sys/vm/drop_caches; busybox md5sum < {at}/big; \
             busybox yes {at}0123456789 | busybox head -c {mib}M | busybox md5sum"
        ),
    );
    let lines: Vec<&str> = sum.lines().collect();
    assert!(lines.len() == 2 && lines[0] == lines[1], "{sum}");
    lines[0].to_owned()
}

#[test]
fn a_volume_grows_while_it_is_written_to() {
    let file = stack();
    let env = environment(&driver_name(), &file);
    env.msb("up -d").expect(0);
    let run = env.row("db").run;
    for at in ["/first", "/last"] {
        assert_size(&env, at, 48);
        let resized = env.msb(&format!("volume resize shop{at} 120MiB")).expect(0);
        assert_eq!(resized.stderr, format!("volume shop{at}: 120 MiB\n"));
        assert_size(&env, at, 120);
    }
    let sums = ["/first", "/last"].map(|at| fill(&env, at, 70));

    // Again, by the Sandboxfile; one file is longer already, as a command leaves it that is killed.
    let larger = file.replace("[volume.first]\nquota = \"48MiB", "[volume.first]\nquota = \"1GiB");
    let larger =
        larger.replace("[volume.last]\nquota = \"48MiB", "[volume.last]\nquota = \"300MiB");
    env.write("Sandboxfile", &larger);
    let longer = File::options().write(true).open(disk(&env, "first")).unwrap();
    longer.set_len(1 << 30).unwrap();
    let up = env.msb("up -d").expect(0);
    assert!(!up.stderr.contains("next"), "{}", up.stderr);
    assert_eq!(env.msb("up -d").expect(0).stderr, "no changes\n");
    assert_size(&env, "/first", 1024);
    assert_size(&env, "/last", 300);
    let smaller = env.msb("volume resize shop/first 120MiB").expect(1);
    assert!(smaller.stderr.contains("never shrinks"), "{}", smaller.stderr);

    let check = |env: &Environment| {
        for (at, sum) in ["/first", "/last"].iter().zip(&sums) {
            let seen = format!("busybox md5sum < {at}/big; ls {at}/broken 2>/dev/null || echo ok");
            assert_eq!(output(env, &seen), format!("{sum}\nok\n"));
        }
    };
    check(&env);
    assert_eq!(env.row("db").run, run, "it was the same run all the time");
    env.msb("stop").expect(0);
    for name in DISKS {
        check_disk(&disk(&env, name));
    }
    // By the device alone, all of it.
    env.msb("start").expect(0);
    check(&env);
    assert_size(&env, "/first", 1024);
    assert_size(&env, "/last", 300);
    env.msb("down").expect(0);
    for name in ["first", "last"] {
        check_disk(&disk(&env, name));
    }
}

const ALONE: &str = r#"
name = "shop"

[sandbox.db]
image = "./image"
memory = "128MiB"
disk = "256MiB"
cmd = ["sh", "-c", 'while :; do dd if=/dev/zero of=/data/load bs=64k count=64 2>/dev/null; busybox rm /data/load; done']
volumes."/data" = { named = "data" }

[volume.data]
quota = "48MiB"
"#;

#[test]
fn the_power_may_fail_while_a_volume_grows() {
    let env = environment(&driver_name(), ALONE);
    env.msb("up -d").expect(0);
    assert_eq!(file_server(&env, "db"), None, "nothing has to be served yet");
    env.msb("volume resize shop/data 96MiB").expect(0);
    assert!(file_server(&env, "db").is_some());
    let mut sum = fill(&env, "/data", 60);
    for (round, grown) in [256, 512, 1024].into_iter().enumerate() {
        let supervisor = supervisor_process(&env, "db");
        let (vm, _) = vm_process(&env, "db");
        let resizing = env
            .command()
            .args(["volume", "resize", "shop/data"])
            .arg(format!("{grown}MiB"))
            .spawn();
        let mut resizing = resizing.unwrap();
        if round > 0 {
            // Whatever the guest is at when the file is longer: it has 48 MiB and more to set up.
            let file = disk(&env, "data");
            while file.metadata().unwrap().len() < grown << 20
                && resizing.try_wait().unwrap().is_none()
            {
                std::thread::yield_now();
            }
        } else {
            assert!(resizing.wait().unwrap().success());
        }
        kill_process(vm, Signal::KILL).unwrap();
        wait_for_end(&supervisor);
        // What could not be told is no error: the next start is the next mount.
        assert!(resizing.wait().unwrap().success());
        env.msb("start").expect(0);
        assert_size(&env, "/data", grown);
        let seen = output(&env, "busybox md5sum < /data/big");
        assert_eq!(seen.trim_end(), sum);
        output(&env, "busybox rm /data/big");
        sum = fill(&env, "/data", 60);
    }
    env.msb("down").expect(0);
    check_disk(&disk(&env, "data"));
}
