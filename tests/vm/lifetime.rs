//! How a VM ends other than in order: with its host process, and by itself.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use msb::runtime::{Kernel, VmExit};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use crate::guest::{Files, LIMIT};

/// The end of the process `pidfd`, within the limit.
fn ends(pidfd: &std::os::fd::OwnedFd) -> bool {
    let limit = rustix::event::Timespec::try_from(LIMIT).unwrap();
    poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&limit)).unwrap() == 1
}

/// Not a test: the process that `a_vm_dies_with_its_host` kills. It starts a VM from a thread that
/// ends, which must not end the VM.
#[test]
#[ignore = "the helper process of another test"]
fn host_process() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let handle = runtime.handle().clone();
    let start = move || {
        let _guard = handle.enter();
        let files = Files::new();
        (files.start(&files.config()), files)
    };
    let ((vm, mut agent, _recorder), _files) = std::thread::spawn(start).join().unwrap();
    // The preamble: the guest runs.
    runtime.block_on(async {
        timeout(LIMIT, agent.read_u8()).await.unwrap().unwrap();
    });
    println!("\npid {}", vm.pid());
    runtime.block_on(std::future::pending::<()>());
}

#[test]
fn a_vm_dies_with_its_host() {
    let dir = tempfile::tempdir().unwrap();
    let mut host = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "lifetime::host_process", "--ignored", "--nocapture"])
        .env("TMPDIR", dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(host.stdout.take().unwrap()).lines();
    let pid = lines
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("pid ").map(|pid| pid.parse::<i32>().unwrap()))
        .expect("the helper did not start a VM");
    let vm = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap();
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    host.kill().unwrap();
    host.wait().unwrap();
    assert!(ends(&vm), "the VM outlives its host");
}

#[tokio::test]
async fn a_kernel_panic_ends_the_vm_without_a_word() {
    let files = Files::new();
    let mut config = files.config();
    // No /init.krun on it.
    config.disks[0].path = config.disks[1].path.clone();
    let (vm, mut agent, recorder) = files.start(&config);
    let exit = timeout(LIMIT, vm.wait()).await.unwrap().unwrap();
    assert_eq!(exit, VmExit::Code(0));
    recorder.await.unwrap();
    let mut said = Vec::new();
    let _ = agent.read_to_end(&mut said).await;
    assert!(said.is_empty(), "a kernel that panicked spoke the agent protocol");
    assert!(files.console().contains("Kernel panic"), "{}", files.console());
}

#[tokio::test]
async fn a_vm_that_cannot_start_says_why() {
    let files = Files::new();
    let mut config = files.config();
    let bad = files.dir.path().join("no-kernel");
    std::fs::write(&bad, "not a kernel").unwrap();
    config.kernel = Kernel { image: bad.clone(), library: bad };
    // libkrun is given its kernel before the VM counts as started, QEMU looks at it afterwards.
    let said = match files.try_start(&config) {
        Err(error) => error.to_string(),
        Ok((vm, _agent, recorder)) => {
            assert_eq!(timeout(LIMIT, vm.wait()).await.unwrap().unwrap(), VmExit::Code(1));
            recorder.await.unwrap();
            files.console()
        }
    };
    assert!(said.contains("kernel"), "{said}");
}
