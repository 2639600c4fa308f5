//! The life of a sandbox as declared, with a real guest.

use msb::spec::Status;
use msb::supervisor::{self, StatusEvent};
use rustix::process::{Signal, kill_process};

use crate::cli::environment;
use crate::environment::{Environment, vm_process};
use crate::guest::driver_name;

const LIVES: &str = r#"
name = "lives"

[sandbox.web]
image = "./image"
memory = "128MiB"
disk = "256MiB"
cmd = ["/bin/sh", "-c", "echo run >> /runs; busybox mkdir -p /www; echo fine > /www/index.html; exec busybox httpd -f -p 8080 -h /www"]
restart = "on-failure"
healthcheck = { http = "http://localhost:8080/index.html", interval = "200ms", timeout = "20s", retries = 100 }
hooks = { post_start = [["/bin/sh", "-c", "echo post >> /hooks"]], pre_stop = [["/bin/sh", "-c", "echo pre >> /hooks; sync"]] }
stop_grace_period = "60s"
"#;

fn until(env: &Environment, done: impl FnMut(&StatusEvent) -> bool) -> StatusEvent {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(supervisor::wait_until(&env.home(), &env.row("web").id, done)).unwrap()
}

/// One guest, for what takes a real kernel: a VM that is killed comes back on its disk, its agent
/// reaches what listens on its loopback, hooks run around it, and its kernel counts what it uses.
#[test]
fn a_vm_that_is_killed_comes_back_on_its_disk() {
    let env = environment(&driver_name(), LIVES);
    env.msb("up -d --wait").expect(0);
    let (vm, process) = vm_process(&env, "web");
    let first = env.row("web").run.unwrap();
    env.msb("exec web sync").expect(0);
    kill_process(vm, Signal::KILL).unwrap();
    crate::environment::wait_for_end(&process);
    let event = until(&env, |event| {
        event.restarts == 1 && event.health == Some(msb::spec::Health::Healthy)
    });
    assert_eq!(event.status, Status::Running, "{event:?}");
    let again = env.row("web").run.unwrap();
    assert_eq!((again.pid, again.run_id == first.run_id), (first.pid, false));
    assert_eq!(env.msb("exec web cat /runs").expect(0).stdout, "run\nrun\n");
    let ran = env.msb("stats --no-stream --format json").expect(0);
    let document: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let metrics = &document["sandboxes"][0]["metrics"];
    let number = |name: &str| metrics[name].as_u64().unwrap();
    assert!((1..128 << 20).contains(&number("memory_bytes")), "{metrics}");
    assert_eq!(number("memory_limit_bytes"), 128 << 20);
    assert!(number("disk_read_bytes") > 0 && number("host_memory_bytes") > 0, "{metrics}");
    env.msb("stop").expect(0);
    assert_eq!(env.row("web").status, Status::Stopped);
    env.msb("start").expect(0);
    let hooks = env.msb("exec web cat /hooks").expect(0).stdout;
    assert_eq!(hooks, "post\npost\npre\npost\n");
    env.msb("down").expect(0);
}
