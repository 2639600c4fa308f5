//! Power cuts: the VM process gets SIGKILL while its guest writes. What the guest had synced is there
//! after the next boot, and the disks are in order.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Signal, kill_process};

use crate::cli::{environment, sh};
use crate::environment::{Environment, supervisor_process, vm_process, wait_for_end};
use crate::guest::driver_name;
use crate::roots::file_system;

const WRITER: &str = r#"
name = "power"

[sandbox.upper]
image = "./image"
memory = "128MiB"
disk = "128MiB"

[sandbox.written]
image = { disk = "./written.img", writable = true }
memory = "128MiB"
"#;

/// How often each is cut off, and how much it writes before.
const CUTS: usize = 3;
const FILES: usize = 4;

/// Writes files without an end, and names each once it is on the disk; between them are some that are
/// never synced, renamed and removed.
const WRITE: &str = r#"
busybox mkdir -p /written; cd /written; i=FIRST
while :; do
    dd if=/dev/zero of=new.$i bs=4096 count=64 2> /dev/null
    echo "content $i" > new.$i; busybox mv new.$i file.$i
    sync; echo $i; i=$((i + 1))
    dd if=/dev/zero of=open bs=65536 count=8 2> /dev/null; busybox rm -f open
    busybox mkdir -p a/$i/b; echo $i > a/$i/b/c
done
"#;

#[test]
fn what_was_synced_outlives_a_power_cut() {
    let env = environment(&driver_name(), WRITER);
    file_system(&env, &env.project().join("written.img"), "written");
    for name in ["upper", "written"] {
        let mut synced = Vec::new();
        for round in 0..CUTS {
            env.msb(&format!("up -d --wait {name}")).expect(0);
            for file in &synced {
                let said =
                    sh(&env, &[], name, &format!("cat /written/file.{file}")).expect(0).stdout;
                assert_eq!(said, format!("content {file}\n"), "{name}");
            }
            synced.extend(write_until_cut(&env, name, round * 1000));
        }
        env.msb(&format!("up -d --wait {name}")).expect(0);
        let last = synced.last().unwrap();
        let said = sh(&env, &[], name, &format!("cat /written/file.{last}")).expect(0).stdout;
        assert_eq!(said, format!("content {last}\n"), "{name}");
        env.msb(&format!("stop {name}")).expect(0);
        let upper = env.home().sandbox(&env.row(name).id).join("upper.ext4");
        let disk = if name == "upper" { upper } else { env.project().join("written.img") };
        assert_clean(&disk);
    }
    env.msb("down").expect(0);
}

/// Has the guest write, and kills its VM once it has synced some files; those.
fn write_until_cut(env: &Environment, name: &str, first: usize) -> Vec<String> {
    let supervisor = supervisor_process(env, name);
    let (vm, _) = vm_process(env, name);
    let mut writer = env.command();
    let script = WRITE.replace("FIRST", &first.to_string());
    writer.args(["exec", name, "sh", "-c", &script]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut writer = writer.spawn().unwrap();
    let lines = BufReader::new(writer.stdout.take().unwrap()).lines();
    let synced: Vec<String> = lines.take(FILES).map(Result::unwrap).collect();
    assert_eq!(synced.len(), FILES, "the guest stopped writing");
    kill_process(vm, Signal::KILL).unwrap();
    wait_for_end(&supervisor);
    writer.wait().unwrap();
    assert_eq!(env.row(name).status.as_str(), "crashed");
    synced
}

#[track_caller]
fn assert_clean(disk: &Path) {
    let output = Command::new("/sbin/e2fsck").arg("-fn").arg(disk).output();
    let output = output.expect("e2fsck is missing: apt-get install e2fsprogs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
