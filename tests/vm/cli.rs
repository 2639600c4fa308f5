//! The real `msb` on real guests: one project, booted once, through everything that happens to one.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use msb::runtime::{Krun, setup};
use rustix::process::{Signal, kill_process};
use serde_json::Value;

use crate::environment::{
    Environment, Ran, layer_layout, supervisor_process, vm_process, wait_for_end,
};
use crate::guest::{APPLETS, BUSYBOX, driver_name, home};
use crate::jail::can_be_whole;

const SHOP: &str = r#"
name = "shop"

[defaults]
image = "./image"
memory = "128MiB"
disk = "256MiB"

[sandbox.check]
kind = "job"
cmd = ["/bin/sh", "-c", "echo checked; echo badly >&2"]

[sandbox.db]
cmd = ["/bin/sh", "-c", "trap 'echo stopping; exit 0' TERM; touch /dev/shm/ready; echo ready; while :; do sleep 100000 & wait; done"]
depends_on = { check = "completed" }
healthcheck = { exec = ["cat", "/dev/shm/ready"], interval = "200ms", timeout = "20s", retries = 100 }
stop_grace_period = "60s"

[sandbox.web]
cmd = ["/bin/sh", "-c", "echo $$LEVEL; exec sleep 100000"]
env = { LEVEL = "one" }
user = "nobody"
workdir = "/tmp"
hostname = "page"
depends_on = { db = "healthy" }
"#;

const NAMES: [&str; 3] = ["check", "db", "web"];

const SOLO: &str = r#"
name = "solo"

[sandbox.one]
image = "./image"
memory = "128MiB"
disk = "256MiB"
cmd = ["sleep", "100000"]
"#;

/// A project of busybox sandboxes for the driver `driver`.
pub(crate) fn environment(driver: &str, sandboxfile: &str) -> Environment {
    let library = setup::status(home()).unwrap().library.path;
    environment_with(driver, library, sandboxfile)
}

fn environment_with(driver: &str, library: PathBuf, sandboxfile: &str) -> Environment {
    let driver = ("MSB_DRIVER", driver.into());
    let jail = ("MSB_REQUIRE_JAIL", if can_be_whole() { "1" } else { "0" }.into());
    let env = Environment::with(vec![driver, jail, ("MSB_LIBKRUNFW", library.into())]);
    busybox_layout(&env.project().join("image"));
    env.write("Sandboxfile", sandboxfile);
    env
}

/// That is krun where KVM runs guests. Elsewhere it is qemu, and one line says why.
#[test]
fn auto_takes_the_best_driver() {
    let env = environment("auto", SOLO);
    let messages = env.msb("up -d --wait").expect(0).messages();
    let said: Vec<&str> = messages.lines().filter(|line| line.starts_with("using the")).collect();
    let (driver, word, expected) = match Krun::find(home()) {
        Ok(_) => ("krun", "__krun", Vec::new()),
        Err(why) => ("qemu", "qemu-system-", vec![format!("using the qemu driver: {why}")]),
    };
    assert_eq!(said, expected);
    let row = env.row("one");
    assert_eq!(row.driver.as_deref(), Some(driver));
    let lines = command_lines_with(&[row.run.unwrap().run_id]);
    assert!(lines.len() == 1 && lines[0].contains(word), "{lines:?}");
    env.msb("down").expect(0).ends_with("1 removed");
}

/// Where root is the only user there is, a VM cannot be another. What runs goes on.
#[test]
fn nothing_starts_without_the_jail_that_is_required() {
    let env = environment(&driver_name(), SOLO);
    let refused = |command: &[&str]| {
        let mut elsewhere = Command::new("unshare");
        env.prepare(&mut elsewhere);
        elsewhere.args(["-U", "-r", env!("CARGO_BIN_EXE_msb")]).args(command);
        let messages = env.run(elsewhere.arg("--require-jail")).expect(125).messages();
        for words in ["the jail is not complete", "identity (the users of sandboxes are not mapped"]
        {
            assert!(messages.contains(words), "{messages}");
        }
    };
    refused(&["up", "-d"]);
    assert!(env.rows().is_empty());
    env.msb("up -d").expect(0);
    let before = env.row("one").run;
    refused(&["restart"]);
    assert_eq!((env.row("one").run, env.statuses()), (before, vec!["one running".to_owned()]));
    env.msb("stop").expect(0);
    refused(&["start"]);
    assert_eq!(env.statuses(), ["one stopped"]);
    env.msb("down").expect(0);
}

#[test]
fn a_guest_that_does_not_boot_is_explained() {
    let driver = driver_name();
    let dir = tempfile::tempdir().unwrap();
    let env = environment_with(&driver, faulty_kernel(dir.path()), SOLO);
    let messages = env.msb("up -d").expect(1).messages();
    assert!(messages.contains("the VM ended unexpectedly"), "{messages}");
    assert_eq!(messages.contains("`--driver qemu` runs guests"), driver == "krun", "{messages}");
    assert_eq!(env.statuses(), ["one crashed"]);
    env.msb("down").expect(0).ends_with("1 removed");
}

/// The kernel's library, with a kernel that faults at its first instruction.
fn faulty_kernel(dir: &Path) -> PathBuf {
    const ENTRIES: usize = 4096;
    const UNDEFINED: [u8; 2] = [0x0f, 0x0b];
    let kernel = setup::kernel(home()).unwrap();
    let image = fs::read(kernel.image).unwrap();
    let mut library = fs::read(kernel.library).unwrap();
    // The image is a header and then the kernel as the library has it.
    let mut pages = image.chunks_exact(ENTRIES).skip(1);
    let page = pages.next().unwrap();
    let start = library.chunks_exact(ENTRIES).position(|found| found == page).unwrap() * ENTRIES;
    for place in library[start..start + ENTRIES].chunks_exact_mut(UNDEFINED.len()) {
        place.copy_from_slice(&UNDEFINED);
    }
    let path = dir.join("libkrunfw.so.5");
    fs::write(&path, library).unwrap();
    path
}

#[test]
fn a_project_on_real_guests() {
    let env = environment(&driver_name(), SHOP);
    env.msb("up -d --wait").expect(0).ends_with("3 started");
    assert_eq!(env.statuses(), ["check stopped", "db running", "web running"]);
    assert_eq!(env.msb("up -d").expect(0).stderr, "no changes\n");
    listed(&env);
    inspected(&env);
    commands(&env);
    logged(&env);
    edited(&env);
    killed(&env);
    stopped_and_started(&env);
    removed(&env);
}

fn listed(env: &Environment) {
    let document: Value =
        serde_json::from_str(&env.msb("ps --format json").expect(0).stdout).unwrap();
    let sandboxes = document["sandboxes"].as_array().unwrap();
    let names: Vec<&Value> = sandboxes.iter().map(|sandbox| &sandbox["name"]).collect();
    assert_eq!(names, NAMES);
    assert_eq!(sandboxes[0]["exit_code"], 0);
    assert_eq!(sandboxes[1]["health"], "healthy");
    assert_eq!(sandboxes[2]["status"], "running");
}

fn inspected(env: &Environment) {
    let text = env.msb("inspect web check").expect(0).stdout;
    let document: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["schema"], "msb.inspect/1");
    let (web, check) = (&document["sandboxes"][0], &document["sandboxes"][1]);
    assert_eq!((&web["name"], &web["status"]), (&"web".into(), &"running".into()));
    assert_eq!(web["spec"]["user"], "nobody");
    let vm = web["vm_pid"].as_u64().unwrap();
    assert!(Path::new(&format!("/proc/{vm}")).exists());
    assert!(web["disk"].as_str().unwrap().ends_with("upper.ext4"));
    let layers = web["jail"].as_array().unwrap();
    assert_eq!(layers.len(), 10);
    for layer in layers {
        let optional = layer["layer"] == "landlock" && !can_be_whole();
        assert!(layer["applied"] == true || optional, "{layer}");
        assert_eq!(layer["applied"] == true, layer["reason"].is_null(), "{layer}");
    }
    assert_eq!((&check["exit_code"], &check["jail"]), (&0.into(), &Value::Null));
    env.msb("inspect nobody").expect(1);
}

fn commands(env: &Environment) {
    let ran = sh(env, &["-e", "MORE=yes"], "web", "echo $LEVEL $FROM_IMAGE $MORE; echo no >&2");
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (0, "one yes yes\n", "no\n"));
    let ran = sh(env, &[], "web", "echo $(id -u) $(pwd) $(hostname)").expect(0);
    assert_eq!(ran.stdout, "1000 /tmp page\n");
    let ran = sh(env, &["-u", "root", "-w", "/etc"], "web", "echo $(id -u) $(pwd)").expect(0);
    assert_eq!(ran.stdout, "0 /etc\n");
    sh(env, &[], "db", "exit 7").expect(7);
    sh(env, &[], "db", "kill -9 $$").expect(137);
    env.msb("exec db no-such-program").expect(127);
    env.msb("exec check true").expect(1);

    let input = env.project().join("input");
    fs::write(&input, "through\n".repeat(200_000)).unwrap();
    let mut command = env.command();
    command.args(["exec", "db", "cat"]).stdin(File::open(&input).unwrap());
    let ran = env.run(&mut command).expect(0);
    assert_eq!(ran.stdout.len(), 1_600_000);
    assert!(ran.stdout.lines().all(|line| line == "through"));
}

fn logged(env: &Environment) {
    let out = env.msb("logs").expect(0).stdout;
    for line in ["check | checked", "check | badly", "db    | ready", "web   | one"] {
        assert!(out.lines().any(|found| found == line), "no `{line}` in\n{out}");
    }
    assert_eq!(env.msb("logs -f check --no-log-prefix").expect(0).stdout.lines().count(), 2);
}

/// One field, one sandbox.
fn edited(env: &Environment) {
    let before = env.rows();
    env.write("Sandboxfile", &SHOP.replace("LEVEL = \"one\"", "LEVEL = \"two\""));
    env.msb("plan --detailed-exitcode").expect(2);
    env.msb("up -d --wait").expect(0).ends_with("1 restarted, 2 unchanged");
    for (before, after) in before.iter().zip(&env.rows()) {
        assert_eq!(before.id, after.id);
        assert_eq!(before.run == after.run, after.name != "web", "{}", after.name);
    }
    assert_eq!(sh(env, &[], "web", "echo $LEVEL").expect(0).stdout, "two\n");
}

/// The VM of one and the supervisor of another get SIGKILL at once.
fn killed(env: &Environment) {
    sh(env, &[], "db", "echo kept > /root/kept; sync").expect(0);
    let before = env.rows();
    let (web_vm, _) = vm_process(env, "web");
    let (_, db_vm) = vm_process(env, "db");
    let (web, db) = (supervisor_process(env, "web"), supervisor_process(env, "db"));
    kill_process(web_vm, Signal::KILL).unwrap();
    rustix::process::pidfd_send_signal(&db, Signal::KILL).unwrap();
    // No VM outlives its supervisor; a supervisor tells what became of its VM, then ends.
    [&web, &db, &db_vm].into_iter().for_each(wait_for_end);
    assert_eq!(env.statuses(), ["check stopped", "db crashed", "web crashed"]);
    env.msb("up -d --wait").expect(0).ends_with("2 started, 1 unchanged");
    assert_eq!(env.msb("up -d").expect(0).stderr, "no changes\n");
    for (before, after) in before.iter().zip(&env.rows()) {
        assert_eq!(before.id, after.id);
    }
    assert_eq!(sh(env, &[], "db", "cat /root/kept").expect(0).stdout, "kept\n");
}

/// In order, so what was written is there again without a sync.
fn stopped_and_started(env: &Environment) {
    sh(env, &[], "db", "echo more >> /root/kept").expect(0);
    env.msb("stop db").expect(0);
    assert_eq!(env.row("db").status.as_str(), "stopped");
    assert_eq!(env.row("db").exit_code, Some(0));
    let out = env.msb("logs db --no-log-prefix --tail 1").expect(0).stdout;
    assert_eq!(out, "stopping\n");
    env.msb("start db").expect(0);
    assert_eq!(sh(env, &[], "db", "cat /root/kept").expect(0).stdout, "kept\nmore\n");
}

fn removed(env: &Environment) {
    let mut processes = Vec::new();
    let mut runs = Vec::new();
    for name in ["db", "web"] {
        processes.extend([supervisor_process(env, name), vm_process(env, name).1]);
        runs.push(env.row(name).run.unwrap().run_id);
    }
    assert_eq!(command_lines_with(&runs).len(), 2, "this does not find the VMs");
    env.msb("down").expect(0).ends_with("3 removed");
    processes.iter().for_each(wait_for_end);
    assert_eq!(command_lines_with(&runs), [""; 0]);
    assert!(env.rows().is_empty());
    assert!(env.leftovers().is_empty(), "{:?}", env.leftovers());
    assert_eq!(env.msb("down").expect(0).stderr, "nothing to remove\n");
}

pub(crate) fn sh(env: &Environment, flags: &[&str], name: &str, script: &str) -> Ran {
    let mut command = env.command();
    env.run(command.arg("exec").args(flags).args([name, "sh", "-c", script]))
}

/// The command lines that name one of the runs, as a VM's does.
fn command_lines_with(runs: &[String]) -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap();
    let lines = processes.filter_map(|process| {
        // A process may end while it is looked at.
        let mut line = Vec::new();
        File::open(process.ok()?.path().join("cmdline")).ok()?.read_to_end(&mut line).ok()?;
        Some(String::from_utf8_lossy(&line).replace('\0', " "))
    });
    lines.filter(|line| runs.iter().any(|run| line.contains(run.as_str()))).collect()
}

/// An OCI image layout with busybox, root and `nobody`.
fn busybox_layout(dir: &Path) {
    busybox_layout_with(dir, |_| {});
}

/// An image with busybox and what `add` puts into it.
pub(crate) fn busybox_layout_with(dir: &Path, add: impl FnOnce(&mut tar::Builder<Vec<u8>>)) {
    let mut layer = tar::Builder::new(Vec::new());
    let busybox = fs::read(BUSYBOX).unwrap_or_else(|error| {
        panic!("{BUSYBOX}: {error}; install it: apt-get install busybox-static")
    });
    let passwd = "root:x:0:0::/root:/bin/sh\nnobody:x:1000:1000::/home/nobody:/bin/sh\n";
    let mut put = |path: &str, mode: u32, bytes: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_mode(mode);
        header.set_size(u64::try_from(bytes.len()).unwrap());
        if path.ends_with('/') {
            header.set_entry_type(tar::EntryType::Directory);
        }
        layer.append_data(&mut header, path, bytes).unwrap();
    };
    put("bin/busybox", 0o755, &busybox);
    put("etc/passwd", 0o644, passwd.as_bytes());
    put("etc/group", 0o644, b"root:x:0:\nnobody:x:1000:\n");
    put("root/", 0o700, &[]);
    put("tmp/", 0o1777, &[]);
    for applet in APPLETS {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        layer.append_link(&mut header, format!("bin/{applet}"), "busybox").unwrap();
    }
    add(&mut layer);
    layer_layout(dir, &layer.into_inner().unwrap());
}
